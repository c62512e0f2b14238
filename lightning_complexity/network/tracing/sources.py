"""Which weights make the preactivations of a nonlinearity, found by following the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from lightning_complexity.network.tracing.activations import Activation, ActivationCapture
from lightning_complexity.network.tracing.calls import WEIGHTED
from lightning_complexity.network.tracing.interpreter import ModulePath, tensor_arguments
from lightning_complexity.network.tracing.operations import Effect, Operation, argument

_FOLLOWED = {Effect.MOVE, Effect.SUM, Effect.MEAN_POOLING, Effect.MAX_POOLING, Effect.MIXING}
_AFFINE = ((3, "weight"), (4, "bias"))


@dataclass(frozen=True, eq=False)
class Feed:
    """A layer whose output units are, one by one, units of a nonlinearity.

    Attributes:
        weight: The layer's weight, output units first.
        bias: Its bias.
        affine: Weights and biases of the BatchNorms in between.
        alone: Whether the preactivation is zero where weight, bias and affine are: nothing is added on the way, no
            normalization mixes units, and no other operation uses the weight.
        name: That of the weight, such as ``"encoder.0.weight"``: of the parameter that it is, or of the module that is
            called, where the weight is computed; ``""`` where it is neither.
    """

    weight: Tensor
    bias: Tensor | None
    affine: tuple[Tensor, ...] = ()
    alone: bool = True
    name: str = ""


@dataclass(frozen=True, eq=False)
class FedActivation:
    """A nonlinearity with the layers that feed it.

    Attributes:
        activation: As it was captured.
        feeds: Layers that it is the first nonlinearity behind; empty where its units are not those of a layer.
        function: The nonlinearity with its options, of a preactivation.
    """

    activation: Activation
    feeds: tuple[Feed, ...]
    function: Callable[[Tensor], Tensor]


class _Following(ActivationCapture):
    """Follows the outputs of linear and convolution layers to the next nonlinearity."""

    def __init__(self, path: ModulePath, inputs: Any, model: nn.Module) -> None:
        super().__init__(path, inputs)
        self.fed: list[tuple[list[Feed], Callable[[Tensor], Tensor]]] = []
        self.uses: dict[int, int] = {}
        self._weight_names = _WeightNames(model, path)
        self._feeds: dict[int, list[Feed]] = {}
        self._reached: set[int] = set()
        self._carriers: list[Tensor] = []  # keeps identities unique

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        tensors = tensor_arguments(args, kwargs)
        result = super().on_operation(function, args, kwargs)
        if isinstance(result, Tensor):
            self._carriers += tensors
            self.uses.update({id(t): self.uses.get(id(t), 0) + 1 for t in tensors})
        return result

    def on_data(
        self, function: Callable[..., Any], operation: Operation | None, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        known, tensors = len(self.found), tensor_arguments(args, kwargs)
        feeds = [feed for t in tensors for feed in self._feeds.get(id(t), [])]
        result = super().on_data(function, operation, args, kwargs)
        if len(self.found) > known:
            # The larger of two tensors is a nonlinearity of their difference, which no layer gives.
            reached = self._first_reached(feeds) if len(tensors) == 1 else []
            self.fed.append((reached, _as_function_of_input(function, args, kwargs)))
        elif isinstance(result, Tensor) and operation is not None:
            self._carriers.append(result)
            self._feeds[id(result)] = self._after(operation, feeds, args, kwargs)
        return result

    def _after(
        self, operation: Operation, feeds: list[Feed], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> list[Feed]:
        """The layers whose units are those of an operation's result."""
        if operation.output_dim == 0:
            weight = argument(args, kwargs, (1, "weight"))
            return [Feed(weight, argument(args, kwargs, (2, "bias")), name=self._weight_names.of(weight))]
        if operation.effect is Effect.BATCH_NORM:
            affine = tuple(t for place in _AFFINE if isinstance(t := argument(args, kwargs, place), Tensor))
            return [
                replace(feed, affine=(*feed.affine, *affine), alone=feed.alone and len(affine) == 2) for feed in feeds
            ]
        if not operation.keeps_units or operation.effect not in _FOLLOWED:
            return []
        return feeds if operation.keeps_zero else [replace(feed, alone=False) for feed in feeds]

    def _first_reached(self, feeds: list[Feed]) -> list[Feed]:
        first = [feed for feed in feeds if id(feed.weight) not in self._reached]
        self._reached.update(id(feed.weight) for feed in first)
        return first


class _WeightNames:
    """Names of the weights that operations use, within one run of the model."""

    def __init__(self, model: nn.Module, path: ModulePath) -> None:
        self._path, self._modules = path, dict(model.named_modules())
        self._parameters = {id(p): name for name, p in model.named_parameters()}

    def of(self, weight: Tensor) -> str:
        """The name of the parameter, or that of the module being called if its weight is computed."""
        called = self._path.current
        computed = f"{called}.weight".removeprefix(".") if isinstance(self._modules[called], WEIGHTED) else ""
        return self._parameters.get(id(weight), computed)


def _as_function_of_input(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    return lambda z: function(z.clone(), *args[1:], **kwargs)


def trace_sources(model: nn.Module, inputs: Any) -> list[FedActivation]:
    """Run ``model`` once and find which layers feed each nonlinearity.

    Followed are the outputs of linear layers and convolutions, as modules or functions, through normalization, dropout,
    pooling and addition. A layer belongs to the first nonlinearity that it reaches. What comes behind a
    reshaping, a product or attention is not followed: there a unit of the layer is no unit of the nonlinearity.

    Args:
        model: In evaluation mode.
        inputs: A batch.

    Returns:
        One for each nonlinearity, in the order of the calls.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Tanh(), nn.Linear(3, 1)).eval()
        >>> [fed] = trace_sources(net, torch.zeros(4, 2))
        >>> fed.activation.name, [feed.weight is net[0].weight for feed in fed.feeds]
        ('2', [True])
    """
    path = ModulePath(model)
    following = _Following(path, inputs, model)
    with path.followed(), following:
        model(inputs)
    return [
        FedActivation(activation, _confirmed(feeds, activation, following.uses), function)
        for activation, (feeds, function) in zip(following.found, following.fed, strict=True)
    ]


def _confirmed(feeds: list[Feed], activation: Activation, uses: dict[int, int]) -> tuple[Feed, ...]:
    """The feeds if their units fit those of the activation, and whether each is alone."""
    if activation.inputs.ndim < 2:  # no dimension for units
        return ()
    units = activation.inputs.shape[activation.unit_dim]
    if any(len(feed.weight) != units for feed in feeds):
        return ()
    return tuple(replace(feed, alone=feed.alone and len(feeds) == 1 and uses[id(feed.weight)] == 1) for feed in feeds)
