"""Norms over the paths of a network."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from lightning_complexity.functional.paths import log_path_norm
from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.network import Snapshot

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
        per_layer: Must be ``False``, a path norm has no layers.

    Raises:
        UnsupportedOperationError: In ``update``, at an operation that has no sum over paths (attention,
            sigmoid, LayerNorm, ...), naming it and its module.

    Note:
        A path through a layer's bias and the BatchNorm after it counts once. Other code counts
        the bias and the BatchNorm's shift as two paths, clips at ReLU6, or leaves max pooling a maximum.

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
    needs = frozenset({"inputs"})
    cost = "forward"
    formula = r"\ln \big( \sum_{\text{paths}} \prod_e \lvert \theta_e \rvert^q \big)^{1/q}"
    reference = "Neyshabur et al., COLT 2015; Gonon et al., ICLR 2024"

    def __init__(self, q: float = 2, *, log: bool = True, per_layer: bool = False, **kwargs: Any) -> None:
        if not 1 <= q < float("inf"):
            raise ValueError(f"q must be at least 1 and finite, got {q!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.q, self.log = q, log
        if not log:
            self.name = "path_norm"

    def measure(self, snapshot: Snapshot) -> Tensor:
        """The path norm or its logarithm."""
        value = log_path_norm(snapshot.path_sums(self.q), self.q)
        return value if self.log else value.exp()
