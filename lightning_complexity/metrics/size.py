"""How large a network is, and what running it takes."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.size import (
    convolutional_vc_dimension,
    num_entries,
    num_nonzero,
    piecewise_linear_vc_dimension,
)
from lightning_complexity.metrics.base import ComplexityMetric, LayerMetric
from lightning_complexity.network import Context, Snapshot, UnsupportedOperationError, costs, trainable, weight_matrices
from lightning_complexity.network.tracing.costs import Costs
from lightning_complexity.network.weights.matrices import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS
from lightning_complexity.network.weights.norms import chosen_parameters

__all__ = ["ActivationCount", "FlopCount", "ParameterCount", "PeakActivationMemory", "VCDimensionBound"]

Parameters = Literal["all", "trainable", "nonzero"]
Operations = Literal["flops", "macs"]
Activations = Literal["convolutions", "all"]
VCBound = Literal["piecewise_linear", "convolutional"]


def _check_choice(of: str, choices: Any) -> None:
    if of not in get_args(choices):
        raise ValueError(f"of must be {' or '.join(map(repr, get_args(choices)))}, got {of!r}.")


def _number(value: float, snapshot: Snapshot) -> Tensor:
    return torch.tensor(value, dtype=torch.float64, device=snapshot.device)


def _counted(counts: dict[str, int], snapshot: Snapshot) -> dict[str, Tensor]:
    return {name: torch.tensor(count, device=snapshot.device) for name, count in counts.items()}


class ParameterCount(LayerMetric):
    r"""Number of parameters, tied ones counted once.

    .. math:: \omega = \sum_i |\theta_i|

    Equation 20 of Jiang et al. (ICLR 2020) up to the biases, which count here. A network without
    parameters has 0. Buffers, such as running statistics and pruning masks, are no parameters.

    Args:
        of: ``"all"`` parameters, those that are ``"trainable"``, or the entries that are not zero, ``"nonzero"``.
            Sets the log name: ``parameter_count``, ``trainable_parameter_count``, ``nonzero_parameter_count``.
        per_layer: Whether ``compute`` returns the count of each parameter by name.

    Raises:
        ValueError: If ``of`` is something else.

    Example:
        >>> metric = ParameterCount()
        >>> metric.update(torch.nn.Linear(3, 2))
        >>> metric.compute()
        tensor(8)
    """

    name = "parameter_count"
    chooses_layers = True
    reads_samples = False
    no_penalty_reason = "an integer has no gradient"
    formula = r"\sum_i \lvert \theta_i \rvert"
    reference = "Jiang et al., ICLR 2020, eq. 20"
    increases_with_complexity = True
    units = "parameters"
    misleads_when = "used for capacity: it rises with width while test error falls, and does not see weights or data"

    def __init__(self, *, of: Parameters = "all", per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        _check_choice(of, Parameters)
        self.of = of
        if of != "all":
            self.name = f"{of}_parameter_count"

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Number of entries of each parameter."""
        if self.of == "trainable":
            parameters = trainable(snapshot, context.layers)
        else:
            parameters = chosen_parameters(snapshot, context.layers, integers=True)
        count = num_nonzero if self.of == "nonzero" else num_entries
        return {name: torch.tensor(count([p.detach()]), device=p.device) for name, p in parameters.items()}

    def combine(self, values: Tensor) -> Tensor:
        """Sum of the counts."""
        return values.sum()


class FlopCount(LayerMetric):
    r"""Number of floating-point operations of the forward pass of one sample.

    .. math:: 2 \sum_{\text{products}} \text{multiply-accumulates}

    Counted as the network runs on the first sample, by ``torch.utils.flop_counter``: convolutions (transposed,
    grouped, of any dimension), linear layers, recurrent layers step by step, attention (scores and weighted sum), and
    every other matrix product, whether a module or a function computes it, as often as it is computed. Bias, activation
    functions, normalization, pooling and embedding do not count, as usual; zeros from padding and masks do.
    A convolution has :math:`k^2 c_{\text{in}} c_{\text{out}} / g` multiply-accumulates for each position of its output
    (transposed: of its input). Products of weights with each other, as in ``spectral_norm``, count once.
    The size of the batch does not matter. A network without products has 0. For sequences of
    different lengths the value is that of the last batch's first sample.

    Args:
        of: ``"flops"``, or half of them, ``"macs"``, which is what tables of architectures often call FLOPs. Sets the
            log name: ``flop_count`` or ``mac_count``.
        per_layer: Whether ``compute`` returns the count of each module by its path, without its submodules'.
            Products outside any submodule come under ``forward``.

    Raises:
        ValueError: If ``of`` is something else.
        UnsupportedOperationError: In ``update``, at a fused kernel that hides its products.

    Note:
        Counters that run the network's fast kernels find no operations in ``LSTM`` or ``TransformerEncoderLayer``;
        here these are computed by single operations. Counters that add hooks to modules miss functions.
        Some tables add one multiply-accumulate for each bias of a linear layer.

    Example:
        >>> metric = FlopCount()
        >>> metric.update(torch.nn.LSTM(3, 5), torch.zeros(1, 3))
        >>> metric.compute()  # four gates, each five rows of eight multiply-accumulates
        tensor(320)
    """

    name = "flop_count"
    reads_samples = False
    no_penalty_reason = "an integer has no gradient"
    needs = frozenset({"inputs"})
    cost = "forward"
    formula = r"2 \sum_{\text{products}} \text{MACs}"
    reference = "PyTorch, torch.utils.flop_counter; Radosavovic et al., CVPR 2020"
    increases_with_complexity = True
    units = "operations / sample"
    misleads_when = (
        "used for anything but cost: it rises with size while test error falls, and does not see weights or data"
    )

    def __init__(self, *, of: Operations = "flops", per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        _check_choice(of, Operations)
        self.of = of
        if of == "macs":
            self.name, self.units = "mac_count", "multiply-adds / sample"

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Operations of each module that computes products."""
        each = 1 if self.of == "flops" else 2
        return _counted(costs(snapshot).by_layer(lambda product: product.flops // each), snapshot)

    def combine(self, values: Tensor) -> Tensor:
        """Sum of the counts."""
        return values.sum()


class ActivationCount(LayerMetric):
    r"""Number of activations, the entries of the outputs of all convolutions, for one sample.

    .. math:: \sum_i c_i \, h_i w_i

    Radosavovic's *acts*, which tell the running time on accelerators better than FLOPs do. Counted as the network runs
    on the first sample: convolutions of any dimension, transposed ones included, as modules or functions, as often as
    they are called. A network without convolutions has 0.

    Args:
        of: ``"convolutions"``, or ``"all"`` convolutions and matrix products: those of linear layers, of recurrent
            layers (for each step the gates' sums from input and from hidden state), and of attention (scores and
            weighted sums). ``"all"`` of a network of convolutions and linear layers is what later code of the same
            authors counts. Sets the log name: ``activation_count`` or ``all_activation_count``.
        per_layer: Whether ``compute`` returns the count of each module that computes products, by its path; those that
            do not count have 0. What is outside any submodule comes under ``forward``.

    Raises:
        ValueError: If ``of`` is something else.
        UnsupportedOperationError: In ``update``, at a fused kernel that hides its products.

    Example:
        >>> metric = ActivationCount()
        >>> metric.update(torch.nn.Conv2d(3, 16, 3, stride=2), torch.zeros(1, 3, 9, 9))
        >>> metric.compute()  # 16 channels of 4 by 4
        tensor(256)
    """

    name = "activation_count"
    reads_samples = False
    no_penalty_reason = "an integer has no gradient"
    needs = frozenset({"inputs"})
    cost = "forward"
    formula = r"\sum_i c_i h_i w_i"
    reference = "Radosavovic et al., CVPR 2020"
    increases_with_complexity = True
    units = "activations / sample"
    misleads_when = "any two networks of one architecture are compared: it counts, and does not see weights or data"

    def __init__(self, *, of: Activations = "convolutions", per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        _check_choice(of, Activations)
        self.of = of
        if of == "all":
            self.name = "all_activation_count"

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """Activations of each module that computes products."""
        everything = self.of == "all"
        counts = costs(snapshot).by_layer(lambda product: product.outputs * (everything or product.convolution))
        return _counted(counts, snapshot)

    def combine(self, values: Tensor) -> Tensor:
        """Sum of the counts."""
        return values.sum()


class PeakActivationMemory(ComplexityMetric):
    r"""Most memory, in bytes, that activations take at once while one sample is computed.

    .. math:: \max_t \sum_{a \text{ alive at } t} \text{bytes}(a)

    The network runs on the first sample without gradients, as for inference. After each torch operation the memory of
    the sample and of all results that something still refers to is added up, each piece of memory once, however many
    views look at it; the value is the largest sum. So the order of operations, references that a ``forward``
    keeps, in-place operations and skip connections count as they are. Repeating it gives the same number: it depends
    on the operations, not on the allocator.

    Parameters and buffers do not count, nor what a kernel allocates and frees within one operation, nor what the
    allocator keeps in reserve. Recurrent layers and attention are computed by single operations, attention with
    all its scores, and half precision in single, so that fused or half-precision kernels need less.
    Weights that a parametrization computes count. The size of the batch does not matter.

    Args:
        per_layer: Must be ``False``, a peak has no layers.

    Raises:
        UnsupportedOperationError: In ``update``, at a fused kernel that hides its parts.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 8), torch.nn.ReLU(), torch.nn.Linear(8, 1))
        >>> metric = PeakActivationMemory()
        >>> metric.update(net, torch.zeros(1, 2))
        >>> metric.compute()  # four bytes each for 2 inputs, 8 sums, 8 rectified
        tensor(72., dtype=torch.float64)
    """

    name = "peak_activation_memory"
    reads_samples = False
    no_penalty_reason = "an integer has no gradient"
    needs = frozenset({"inputs"})
    cost = "forward"
    formula = r"\max_t \sum_{a \text{ alive at } t} \text{bytes}(a)"
    reference = "Sandler et al., CVPR 2018, section 5.1"
    increases_with_complexity = True
    units = "bytes / sample"
    misleads_when = "used for anything but cost: it does not see weights or data"

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The peak, in bytes."""
        return _number(costs(snapshot).peak_memory, snapshot)


class VCDimensionBound(ComplexityMetric):
    r"""Upper bound on the VC dimension of the network's architecture.

    .. math:: L + \sum_{i=1}^L (L - i + 1)\, q_i \;
              \log_2\!\Big(8 e \sum_i i\, a_i \, \log_2\big(4 e \sum_i i\, a_i\big)\Big)

    The layers are the convolutions and matrix products in the order in which the network computes them on the first
    sample: layer :math:`i` has :math:`a_i` outputs and is the first to use :math:`q_i` parameters, BatchNorm's after
    it included, as both fold into one. So skip connections and shared weights are covered. Weights do not matter,
    only shapes. Activations must be piecewise linear. If one of three pieces is met, such as ReLU6 or
    ``clamp`` between two bounds, 12 and 6 take the place of 8 and 4, see
    :func:`lightning_complexity.functional.piecewise_linear_vc_dimension`. The maximum of ``k`` entries along a
    dimension, as in maxout, counts as an activation of ``k`` pieces: its ``k (k - 1) / 2`` comparisons are fewer
    than the ``k`` times ``k`` that are charged. The maxima of max pooling are not charged, as in the literature.

    ``of="convolutional"`` gives the form for convolutional networks, up to a constant factor:

    .. math:: d \log_2(6 d n)^3 \sum_{i=1}^d k_i^2 c_i c_{i-1}

    over the weights of all linear and convolution modules, with :math:`n` the longest side of the input of the
    first convolution (1 without convolutions, where :math:`k_i = 1`).

    Args:
        of: ``"piecewise_linear"`` or ``"convolutional"``. Sets the log name: ``vc_dimension_bound`` or
            ``convolutional_vc_dimension``.
        per_layer: Must be ``False``, the bound has no layers.

    Raises:
        ValueError: If ``of`` is something else; in ``update``, if the network has no weights.
        UnsupportedOperationError: In ``update``, at an operation that is not known to be piecewise linear (attention,
            sigmoid, LayerNorm, a product of two activations, a softmax at the end, ...), naming it and its module;
            only for ``"piecewise_linear"``.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 1))
        >>> metric = VCDimensionBound()
        >>> metric.update(net, torch.zeros(1, 2))
        >>> metric.compute().round()
        tensor(281., dtype=torch.float64)
    """

    name = "vc_dimension_bound"
    reads_samples = False
    no_penalty_reason = "depends on the architecture alone, so that its gradient is zero"
    needs = frozenset({"inputs"})
    cost = "forward"
    formula = r"L + \sum_i (L-i+1) q_i \log_2\big(8e R \log_2(4e R)\big), \; R = \sum_i i\, a_i"
    reference = "Harvey et al., COLT 2017; Bartlett et al., JMLR 2019; Jiang et al., ICLR 2020, eq. 19"
    increases_with_complexity = True
    units = "samples"
    misleads_when = (
        "any two networks of one architecture are compared: it does not see weights or data, and rises with size "
        "while test error falls"
    )

    def __init__(self, *, of: VCBound = "piecewise_linear", per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        _check_choice(of, VCBound)
        self.of = of
        if of == "convolutional":
            self.name = "convolutional_vc_dimension"

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The bound."""
        bound = _convolutional(snapshot) if self.of == "convolutional" else _piecewise_linear(costs(snapshot))
        return _number(bound, snapshot)


def _piecewise_linear(costs: Costs) -> float:
    if costs.refused is not None:
        raise UnsupportedOperationError(*costs.refused, "VCDimensionBound")
    read = [0, *(product.parameters for product in costs.products)]
    if not read[-1]:
        raise ValueError("needs a network with weight matrices; this one multiplies with no parameters.")
    brought = [after - before for before, after in pairwise(read)]
    units = [product.outputs for product in costs.products]
    return piecewise_linear_vc_dimension(brought, units, pieces=costs.pieces)


def _convolutional(snapshot: Snapshot) -> float:
    layers = (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, torch.nn.Linear)
    weights = [w.tensor.numel() for w in weight_matrices(snapshot) if isinstance(w.module, layers)]
    return convolutional_vc_dimension(weights, costs(snapshot).side)
