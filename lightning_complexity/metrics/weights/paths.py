"""Norms over the paths of a network."""

from __future__ import annotations

import itertools
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.functional.weights.paths import log_path_norm, log_path_norms
from lightning_complexity.metrics.base import ComplexityMetric, latest
from lightning_complexity.network import Context, Snapshot, path_sums

__all__ = ["PathNorm"]


class PathNorm(ComplexityMetric):
    r"""Norm of the products of weights along all paths from an input or bias to an output.

    .. math:: \Big( \sum_{\text{paths}} \prod_{e \in \text{path}} |\theta_e|^q \Big)^{1/q}

    One forward pass of one sample of ones, with each operation replaced by its sum over paths, scaled
    after every layer so that no depth overflows. Linear and convolution layers, rectifiers (ReLU, LeakyReLU,
    ReLU6), max pooling (a sum over the window), average pooling (weights ``1/n``), BatchNorm (running
    statistics, fused with the layer before it), additions, concatenations, and anything that only moves
    numbers are known, as modules and as functions. Batch size and data do not matter, only their shape.

    ``log=True``, the default, gives the logarithm: ``-inf``, with gradient ``nan``, if all paths are zero.
    ``log=False`` gives the norm itself, which may overflow for deep networks.

    Args:
        q: Exponent, at least 1.
        log: Whether the value is the logarithm; it is then named ``log_path_norm``, otherwise ``path_norm``.
        per_output: Whether ``compute`` returns a dictionary of the norms of the paths to each output, by its index:
            ``"0"``, ``"1"``, or ``"c_h_w"`` where an output has more dimensions. The q-th powers of these
            norms add up to that of the whole, which ``report`` gives beside them.
        per_layer: Must be ``False``, a path norm has no layers.

    Raises:
        UnsupportedOperationError: In ``update``, at an operation that has no sum over paths (attention,
            sigmoid, LayerNorm, ...), naming it and its module.

    Note:
        On a chain of layers without biases SynFlow's score of the network, the sum of its scores of all weights, is the
        number of layers times the norm for ``q=1``.
        A path through a layer's bias and the BatchNorm after it counts once; agonon/pathnorm-pytorch counts the bias
        and the BatchNorm's shift as two paths, which is as legitimate (the graph differs, the function does not).
        That package accepts ReLU6 without replacing it, so that sums over paths are clipped at 6.
        Its predecessor agonon/pathnorm_toolkit, of the paper, raised BatchNorm's parameters and statistics to the
        power one by one, so that the mean was subtracted instead of combined with the shift.
        It also applied average pooling's factor ``(1/n)^(q-1)`` after the root, where its root belongs.
        bneyshabur/generalization-bounds and nitarshan/robust-generalization-measures leave max pooling a
        maximum, which loses paths, and average pooling's weights without their power, which counts too much.

    Example:
        >>> import torch
        >>> first, second = torch.nn.Linear(1, 2, bias=False), torch.nn.Linear(2, 1, bias=False)
        >>> for layer in (first, second):
        ...     _ = torch.nn.init.constant_(layer.weight, 2.0)
        >>> net = torch.nn.Sequential(first, torch.nn.ReLU(), second)
        >>> metric = PathNorm(q=1)
        >>> metric.update(net, torch.zeros(1, 1))
        >>> metric.compute().exp().round()  # two paths of 2 * 2
        tensor(8., dtype=torch.float64)
    """

    name = "log_path_norm"
    suite = "fast"
    reads_samples = False
    is_logarithm = True
    needs = frozenset({"inputs"})
    cost = "forward"
    formula = r"\ln \big( \sum_{\text{paths}} \prod_e \lvert \theta_e \rvert^q \big)^{1/q}"
    reference = "Neyshabur et al., COLT 2015; Gonon et al., ICLR 2024"
    increases_with_complexity = True
    units = "output / input"
    misleads_when = (
        "compared across depths, over which it sums exponentially many paths; paths through units that are never "
        "active count"
    )

    outputs: Tensor

    def __init__(
        self, q: float = 2, *, log: bool = True, per_output: bool = False, per_layer: bool = False, **kwargs: Any
    ) -> None:
        if not 1 <= q < float("inf"):
            raise ValueError(f"q must be at least 1 and finite, got {q!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.q, self.log, self.per_output, self.is_logarithm = q, log, per_output, log
        if not log:
            self.name = "path_norm"

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The path norm or its logarithm."""
        return self._value(log_path_norm(path_sums(snapshot, self.q), self.q))

    def _value(self, logarithm: Tensor) -> Tensor:
        return logarithm if self.log else logarithm.exp()

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("outputs", torch.zeros(0, dtype=torch.float64), dist_reduce_fx=latest)

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the value, and that of each output."""
        super().accumulate(snapshot, context)
        if self.per_output:
            norms = self._value(log_path_norms(path_sums(snapshot, self.q), self.q)).detach()
            self.outputs = norms.squeeze(0)  # the one sample

    @property
    def splits(self) -> bool:
        """Whether ``compute`` returns the parts."""
        return self.per_output

    def parts(self) -> dict[str, Tensor]:
        """The value of each output."""
        indices = itertools.product(*map(range, self.outputs.shape))
        names = ("_".join(map(str, index)) or "0" for index in indices)
        return dict(zip(names, self.outputs.flatten(), strict=True))
