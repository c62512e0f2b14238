"""Which weights make the preactivations of a nonlinearity, found by following the data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from lightning_complexity.network.running.batches import num_samples
from lightning_complexity.network.tracing.activations import Activation, ActivationCapture
from lightning_complexity.network.tracing.interpreter import ModulePath, operation_name, tensor_arguments

_LAYERS = {"linear", "conv1d", "conv2d", "conv3d"}
# Operations that keep units apart and in their place, by what they do to what a zero becomes.
_KEEP_ZERO = {
    *("dropout", "feature_dropout", "alpha_dropout", "contiguous", "clone", "to", "float", "double"),
    *(f"{kind}_pool{d}d" for kind in ("max", "avg") for d in (1, 2, 3)),
    *(f"adaptive_{kind}_pool{d}d" for kind in ("max", "avg") for d in (1, 2, 3)),
}
_MIX = {"add", "radd", "iadd", "sub", "isub", "layer_norm", "group_norm", "instance_norm", "rms_norm"}


@dataclass(frozen=True, eq=False)
class Feed:
    """A layer whose output units are, one by one, units of a nonlinearity.

    Attributes:
        weight: The layer's weight, output units first.
        bias: Its bias.
        affine: Weights and biases of the BatchNorms in between.
        alone: Whether the preactivation is zero where weight, bias and affine are: nothing is added on the way, no
            normalization mixes units, and no other operation uses the weight.
    """

    weight: Tensor
    bias: Tensor | None
    affine: tuple[Tensor, ...] = ()
    alone: bool = True


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


def _plain(name: str) -> str:
    return name.strip("_")


class _Following(ActivationCapture):
    """Follows the outputs of linear and convolution layers to the next nonlinearity."""

    def __init__(self, path: ModulePath, samples: int) -> None:
        super().__init__(path, samples)
        self.fed: list[tuple[list[Feed], Callable[[Tensor], Tensor]]] = []
        self._feeds: dict[int, list[Feed]] = {}
        self._reached: set[int] = set()
        self._carriers: list[Tensor] = []  # keeps identities unique
        self.uses: dict[int, int] = {}

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        name, known = _plain(operation_name(function)), len(self.found)
        tensors = tensor_arguments(args, kwargs)
        feeds = [feed for t in tensors for feed in self._feeds.get(id(t), [])]
        result = super().on_operation(function, args, kwargs)
        if not isinstance(result, Tensor):
            return result
        self._carriers += [*tensors, result]
        self.uses.update({id(t): self.uses.get(id(t), 0) + 1 for t in tensors})
        if len(self.found) > known:
            # The larger of two tensors is a nonlinearity of their difference, which no layer gives.
            reached = self._first_reached(feeds) if len(tensors) == 1 else []
            self.fed.append((reached, _as_function_of_input(function, args, kwargs)))
        else:
            self._feeds[id(result)] = self._after(name, feeds, args, kwargs)
        return result

    @staticmethod
    def _after(name: str, feeds: list[Feed], args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Feed]:
        """The layers whose units are those of an operation's result."""
        if name in _LAYERS:
            weight = kwargs["weight"] if "weight" in kwargs else args[1]
            bias = kwargs["bias"] if "bias" in kwargs else (args[2] if len(args) > 2 else None)
            return [Feed(weight, bias)]
        if name == "batch_norm":
            affine = tuple(t for t in (*args[3:5], kwargs.get("weight"), kwargs.get("bias")) if isinstance(t, Tensor))
            return [
                replace(feed, affine=(*feed.affine, *affine), alone=feed.alone and len(affine) == 2) for feed in feeds
            ]
        if name in _KEEP_ZERO:
            return feeds
        if name in _MIX:
            return [replace(feed, alone=False) for feed in feeds]
        return []

    def _first_reached(self, feeds: list[Feed]) -> list[Feed]:
        first = [feed for feed in feeds if id(feed.weight) not in self._reached]
        self._reached.update(id(feed.weight) for feed in first)
        return first


def _as_function_of_input(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Callable[[Tensor], Tensor]:
    rest, options = args[1:], {key: value for key, value in kwargs.items() if key != "input"}
    if "input" in kwargs:
        rest = args
    return lambda z: function(z.clone(), *rest, **options)


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
    following = _Following(path, num_samples(inputs))
    with path.followed(), following:
        model(inputs)
    return [
        FedActivation(activation, _confirmed(feeds, activation, following.uses), function)
        for activation, (feeds, function) in zip(following.found, following.fed, strict=True)
    ]


def _confirmed(feeds: list[Feed], activation: Activation, uses: dict[int, int]) -> tuple[Feed, ...]:
    """The feeds if their units fit those of the activation, and whether each is alone."""
    units = activation.inputs.shape[activation.unit_dim]
    if any(len(feed.weight) != units for feed in feeds):
        return ()
    return tuple(replace(feed, alone=feed.alone and len(feeds) == 1 and uses[id(feed.weight)] == 1) for feed in feeds)
