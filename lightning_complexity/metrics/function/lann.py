"""How many linear pieces it takes to imitate a network with curved activations."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_complexity.functional.function.lann import (
    CURVES,
    Curve,
    TangentApproximation,
    approximate_by_tangents,
    customized_l1,
    lann_complexity,
    mean_absolute_jacobians,
    propagated_error,
)
from lightning_complexity.metrics.base import LayerMetric
from lightning_complexity.network import (
    Activation,
    Context,
    FedActivation,
    Feed,
    MeasureError,
    Snapshot,
    UnsupportedOperationError,
    num_samples,
    predictions,
    shared,
    trace_sources,
)
from lightning_complexity.network.outputs import check_not_quantized, check_real, checked_predictions
from lightning_complexity.network.regions.patterns import check_same_units, with_rows
from lightning_complexity.network.running.task import main_tensor
from lightning_complexity.network.tracing.activations import run_capturing
from lightning_complexity.network.weights.choice import owners

__all__ = ["CustomizedL1", "LANNComplexity"]

Coefficient = Literal["slope", "curvature", "pieces", "uniform"]

_VARIANTS = {"gelu": ("gelu", "gelu_tanh")}


def _curve(activation: Activation, measure: str) -> Curve:
    """The curve that an activation follows, options such as ``beta`` included; told from what it did."""
    for name in _VARIANTS.get(activation.function, (activation.function,)):
        curve = CURVES.get(name)
        if curve is None:
            continue
        expected = curve.function(activation.inputs.detach())
        if torch.allclose(expected, activation.outputs.detach(), rtol=1e-4, atol=1e-5, equal_nan=True):
            return curve
    raise UnsupportedOperationError(f"{activation.function} with these options", activation.name, measure)


def _flat(tensor: Tensor) -> Tensor:
    return tensor.detach().reshape(len(tensor), -1)


@dataclass
class _Curved:
    """The curved activations of a network: their curves, preactivations, and what an error of each costs."""

    curves: dict[str, Curve] = field(default_factory=dict)
    preactivations: dict[str, list[Tensor]] = field(default_factory=dict)
    weights: dict[str, Tensor] = field(default_factory=dict)

    def add(self, activation: Activation, weights: Tensor, measure: str) -> None:
        name = activation.name
        if name not in self.curves:
            self.curves[name] = _curve(activation, measure)
        self.preactivations.setdefault(name, []).append(_flat(activation.inputs))
        self.weights[name] = self.weights[name] + weights if name in self.weights else weights


@dataclass
class LinearPieces:
    """A network whose curved activations were replaced by tangents.

    Attributes:
        pieces: Number of linear pieces of every entry of each activation, by name; for a piecewise linear one 1 more
            than its kinks.
        unit_dims: Of each activation, along which dimension of a batch units differ.
        approximations: Of the curved activations, by name.
        estimate: Propagated error.
    """

    pieces: dict[str, Tensor]
    unit_dims: dict[str, int]
    approximations: dict[str, TangentApproximation]
    estimate: Tensor

    def __call__(self, activation: Activation) -> Tensor | None:
        """What takes the place of an activation's result."""
        if activation.name not in self.approximations:
            return None
        values = self.approximations[activation.name](_flat(activation.inputs))
        return values.reshape(activation.outputs.shape).to(activation.outputs.dtype)


def _captured(model: nn.Module, inputs: Any) -> tuple[list[Activation], dict[str, Tensor]]:
    """The activations, and the mean absolute Jacobian of the outputs with respect to each curved one."""
    # A zero is added to each: the network may overwrite the activation itself.
    leaves: dict[str, Tensor] = {}

    def with_leaf(activation: Activation) -> Tensor | None:
        if activation.piecewise_linear:
            return None
        leaves[activation.name] = torch.zeros_like(activation.outputs, requires_grad=True)
        return activation.outputs + leaves[activation.name]

    with torch.enable_grad():
        outputs, found = run_capturing(model, inputs, replace=with_leaf)
        rows = checked_predictions(main_tensor(outputs), num_samples(inputs)).flatten(1)
    return with_rows(found, num_samples(inputs)), dict(
        zip(leaves, mean_absolute_jacobians(rows, list(leaves.values())), strict=True)
    )


@shared
def linear_pieces(snapshot: Snapshot, degree: float) -> LinearPieces:
    """Replace the curved activations of a network by tangents up to a propagated error of ``degree``."""
    snapshot.check_samples_apart("LANNComplexity")
    check_not_quantized(snapshot)
    curved = _Curved()
    pieces: dict[str, Tensor] = {}
    unit_dims: dict[str, int] = {}
    first: list[Activation] = []
    for found, jacobians in snapshot.run_chunks(_captured):
        first = first or found
        check_same_units(first, found)
        for activation in found:
            sample = activation.inputs[0].detach()
            pieces[activation.name] = torch.full_like(sample, len(activation.kinks) + 1, dtype=torch.long)
            unit_dims[activation.name] = activation.unit_dim
            if not activation.piecewise_linear:
                share = len(activation.inputs) / snapshot.num_samples
                curved.add(activation, jacobians[activation.name] * share, "LANNComplexity")
    if not pieces:
        raise MeasureError("needs a network with activation functions; this one has none that are known.")
    preactivations = [torch.cat(z) for z in curved.preactivations.values()]
    weights = list(curved.weights.values())
    built = approximate_by_tangents(list(curved.curves.values()), preactivations, weights, degree)
    approximations = dict(zip(curved.curves, built, strict=True))
    pieces |= {name: built.pieces.reshape(pieces[name].shape) for name, built in approximations.items()}
    estimate = propagated_error(built, preactivations, weights)
    return LinearPieces(pieces, unit_dims, approximations, torch.as_tensor(estimate, dtype=torch.float64))


def _over_units(values: Tensor, unit_dim: int) -> Tensor:
    """Mean over all dimensions but that of the units."""
    return values.movedim(unit_dim, 0).flatten(1).mean(1)


def pieces_by_unit(snapshot: Snapshot, degree: float) -> dict[str, Tensor]:
    """Number of linear pieces of each unit of each activation, the mean over its positions."""
    built = linear_pieces(snapshot, degree)
    return {name: _over_units(k[None].double(), built.unit_dims[name]) for name, k in built.pieces.items()}


class LANNComplexity(LayerMetric):
    r"""Logarithm of a bound on the linear regions of the piecewise linear network that imitates this one.

    .. math:: d \sum_i \ln \Big( \sum_j k_{ij} - m_i + 1 \Big)

    Each unit ``j`` of layer ``i`` gets a piecewise linear function of :math:`k_{ij}` tangents of its activation. It
    starts with the asymptotes and the tangents at inflections; tangents are added where they help most, over all
    units, until the outputs' error is at most ``degree`` to first order: the sum over units of
    :math:`\mathbb{E}_x \tfrac1c \sum_o |\partial f_o / \partial h_{ij}|` times the mean error of the unit over its
    preactivations. The paper multiplies the layers' mean absolute Jacobians instead, which agrees for one hidden
    layer; taking the derivative through the whole network extends it to convolutions, skip connections and attention.
    Written after the paper, whose own code is not public.

    ``report()`` adds ``propagated_error``, the estimate that was built to, and ``actual_error``,
    :math:`\mathbb{E}_x \tfrac1c \sum_o |g_o - f_o|` of the network ``g`` with its activations replaced. To first order
    the estimate is the larger one, as errors of units may cancel. Piecewise linear activations are exact: two pieces
    for a rectifier. Each entry of an activation's output is a unit, so that a channel at two places is two. Softmax,
    normalization, products and max pooling stay what they are.

    The smallest value is not 0 but that of 3 pieces a unit (tanh, sigmoid; 2 for softplus, 4 for GELU and SiLU),
    ``d`` is the dimension of the inputs, and wider layers have larger values: compare one network over training, or
    equal architectures on the same inputs.

    Args:
        degree: Largest propagated error, in units of the outputs.
        per_layer: Whether ``compute`` returns the term of each activation layer by name.

    Raises:
        ValueError: If ``degree`` is not above 0; in ``update``, for a network without activations, and for a second
            batch, as tangents are chosen for all samples together.
        UnsupportedOperationError: In ``update``, for a curved activation that is not among
            :data:`lightning_complexity.functional.CURVES`, such as hardswish, or one with unusual options.

    Example:
        >>> net = nn.Sequential(nn.Linear(2, 5), nn.ReLU(), nn.Linear(5, 1))
        >>> metric = LANNComplexity()
        >>> metric.update(net, torch.ones(4, 2))
        >>> metric.compute()  # 2 ln(5 + 1)
        tensor(3.5835, dtype=torch.float64)
    """

    name = "lann_complexity"
    order = 1
    no_penalty_reason = "a number of pieces has no gradient; CustomizedL1 is what one trains with"
    needs = frozenset({"inputs"})
    cost = "backward"
    single_update_reason = "its tangents are chosen for all samples together"
    formula = r"d \sum_i \ln \big( \sum_j k_{ij} - m_i + 1 \big)"
    reference = "After Hu et al., KDD 2020"
    increases_with_complexity = True
    units = "ln(regions)"
    misleads_when = "compared across widths or depths: it is a bound by sizes, far above the regions that there are"

    def __init__(self, degree: float = 0.1, *, per_layer: bool = False, **kwargs: Any) -> None:
        if not degree > 0:
            raise ValueError(f"degree must be above 0, got {degree!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.degree = degree

    propagated_error: Tensor
    actual_error: Tensor

    def _prepare_state(self) -> None:
        super()._prepare_state()
        for state in ("propagated_error", "actual_error"):
            self.add_state(state, torch.tensor(torch.nan, dtype=torch.float64), dist_reduce_fx="mean")

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """The term of each activation layer."""
        return self._terms(linear_pieces(snapshot, self.degree), snapshot)

    def _terms(self, built: LinearPieces, snapshot: Snapshot) -> dict[str, Tensor]:
        dim = snapshot.float_inputs[0].numel()
        known = torch.where(built.estimate.isfinite() & predictions(snapshot).isfinite().all(), 0.0, torch.nan)
        return {name: lann_complexity([pieces], dim) + known for name, pieces in built.pieces.items()}

    def combine(self, values: Tensor) -> Tensor:
        """Sum over layers."""
        return values.sum()

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the layers' terms and both errors."""
        built = linear_pieces(snapshot, self.degree)
        terms = self._terms(built, snapshot)
        self.layer_names, self.values = list(terms), torch.stack(list(terms.values()))
        self.propagated_error = built.estimate
        self.actual_error = self._actual(built, snapshot)

    @staticmethod
    def _actual(built: LinearPieces, snapshot: Snapshot) -> Tensor:
        parts = snapshot.run_chunks(lambda model, x: main_tensor(run_capturing(model, x, replace=built)[0]))
        imitated = checked_predictions(torch.cat(list(parts)), snapshot.num_samples)
        return (imitated - predictions(snapshot)).abs().double().mean()

    def details(self) -> dict[str, Tensor]:
        """The propagated error and the actual one."""
        return {"propagated_error": self.propagated_error, "actual_error": self.actual_error}

    def histograms(self, snapshot: Snapshot) -> dict[str, Tensor]:
        """Number of pieces of the units of each layer."""
        pieces = linear_pieces(snapshot, self.degree).pieces
        return {f"pieces/{name}": values.double().flatten() for name, values in pieces.items()}


def _absolute_derivative(fed: FedActivation, order: int) -> Tensor:
    """Absolute first or second derivative of the nonlinearity at its preactivations."""
    with torch.enable_grad():
        leaf = fed.activation.inputs.detach().requires_grad_()
        derivative = fed.function(leaf)
        for _ in range(order):
            if not derivative.requires_grad:
                return torch.zeros_like(leaf)
            (derivative,) = torch.autograd.grad(derivative.sum(), leaf, create_graph=True, materialize_grads=True)
    return torch.where(leaf.isnan(), torch.nan, derivative.detach().abs())


class CustomizedL1(LayerMetric):
    r"""Sum of the absolute weights of each unit times a coefficient that says how nonlinear the unit is on the data.

    .. math:: \sum_{ij} a_{ij} \|V_{ij}\|_1

    :math:`V_{ij}` are the weights that lead to unit ``j`` of the nonlinearity ``i``, found by following the data from
    linear layers and convolutions through normalization, pooling and addition. A layer counts once, by the first
    nonlinearity that it reaches; layers that reach none, such as the last one, do not count. Written after the
    paper; as we could not verify which coefficient it takes, it is a choice here.

    The coefficient is a constant when this is differentiated, as in reweighted L1 penalties: its own gradient would
    push units into saturation, where slopes are small. The gradient of an absolute weight at 0 is 0.

    Args:
        coefficient: ``"slope"``, the mean of :math:`|\phi'(z)|`; ``"curvature"``, the mean of :math:`|\phi''(z)|`, 0
            for rectifiers; ``"pieces"``, the number of linear pieces that :class:`LANNComplexity` gives the unit;
            ``"uniform"``, 1. Means are over samples and positions.
        degree: Of the linear pieces, where they are the coefficient.
        per_layer: Whether ``compute`` returns the sum of each nonlinearity by name.

    Raises:
        ValueError: If ``coefficient`` is something else; in ``update``, for a network in which no layer reaches a
            nonlinearity, and for a second batch.

    Example:
        >>> net = nn.Sequential(nn.Linear(1, 2, bias=False), nn.ReLU(), nn.Linear(2, 1))
        >>> _ = net[0].weight.data.copy_(torch.tensor([[3.0], [-5.0]]))
        >>> metric = CustomizedL1()
        >>> metric.update(net, torch.tensor([[1.0], [2.0], [-1.0], [4.0]]))
        >>> metric.compute()  # slope 1 in three samples of four, and in one
        tensor(3.5000)
    """

    name = "customized_l1"
    chooses_layers = True
    needs = frozenset({"inputs"})
    cost = "forward"
    single_update_reason = "its coefficients are means over all samples together"
    formula = r"\sum_{ij} a_{ij} \lVert V_{ij} \rVert_1"
    reference = "After Hu et al., KDD 2020"
    increases_with_complexity = True
    units = "weight"
    misleads_when = (
        "layers were rescaled: it counts weights, not the function; its coefficients need samples that reach the "
        "nonlinear parts"
    )

    def __init__(
        self, coefficient: Coefficient = "slope", *, degree: float = 0.1, per_layer: bool = False, **kwargs: Any
    ) -> None:
        if coefficient not in get_args(Coefficient):
            raise ValueError(
                f"coefficient must be one of {', '.join(map(repr, get_args(Coefficient)))}, got {coefficient!r}."
            )
        if not degree > 0:
            raise ValueError(f"degree must be above 0, got {degree!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.coefficient, self.degree = coefficient, degree

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        """The sum of each nonlinearity that a layer leads to."""
        check_not_quantized(snapshot)
        check_real(snapshot)
        coefficients: dict[str, Tensor] = {}
        by_pieces = self.coefficient == "pieces"
        pieces = pieces_by_unit(snapshot, self.degree) if by_pieces else {}
        fed: dict[str, FedActivation] = {}
        for count, network in snapshot.run_chunks(lambda model, x: (num_samples(x), trace_sources(model, x))):
            of_chunk = {f.activation.name: f for f in network if f.feeds and f.activation.outputs.is_floating_point()}
            fed |= of_chunk
            for name, f in of_chunk.items():
                part = count / snapshot.num_samples * self._coefficients(f, pieces)
                coefficients[name] = coefficients[name] + part if name in coefficients else part
        if not coefficients:
            raise MeasureError("needs a network in which a linear layer or convolution reaches an activation function.")
        modules = owners(snapshot.model)
        feeds = {name: [f for f in of.feeds if self._counts(f, context, modules)] for name, of in fed.items()}
        if not any(feeds.values()):
            raise MeasureError(f"no layer that reaches an activation function is chosen by {context.layers}.")
        return {
            name: torch.stack([customized_l1(feed.weight, coefficients[name]) for feed in found]).sum()
            for name, found in feeds.items()
            if found
        }

    @staticmethod
    def _counts(feed: Feed, context: Context, modules: dict[str, nn.Module]) -> bool:
        return context.layers is None or (feed.name in modules and context.layers(feed.name, modules[feed.name]))

    def _coefficients(self, fed: FedActivation, pieces: dict[str, Tensor]) -> Tensor:
        activation = fed.activation
        if self.coefficient == "uniform":
            # Not 1 where there is nothing to measure.
            return _over_units(activation.inputs.detach() * 0 + 1, activation.unit_dim)
        if self.coefficient == "pieces":
            return pieces[activation.name]
        order = 1 if self.coefficient == "slope" else 2
        return _over_units(_absolute_derivative(fed, order), activation.unit_dim)

    def combine(self, values: Tensor) -> Tensor:
        """Sum over layers."""
        return values.sum()
