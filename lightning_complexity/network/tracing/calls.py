"""What goes into the layers of a network."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.network.tracing.interpreter import (
    ModuleCall,
    TorchFunctionInterpreter,
    hooks_on_all_modules,
    hooks_on_modules,
    tensor_arguments,
)
from lightning_complexity.network.weights.matrices import CONVOLUTIONS, TRANSPOSED_CONVOLUTIONS

Layer = str | int
WEIGHTED = (nn.Linear, nn.Bilinear, *CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)


def running_order(model: nn.Module, inputs: Any) -> list[str]:
    """Names of the linear and convolution modules, in the order in which they are first called.

    Args:
        model: In evaluation mode.
        inputs: One sample is enough, with a batch dimension.

    Example:
        >>> import torch
        >>> running_order(nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)), torch.zeros(1, 2))
        ['0', '2']
    """
    names = {id(module): name for name, module in model.named_modules() if isinstance(module, WEIGHTED)}
    called: list[str] = []

    def note(module: nn.Module, _: Any) -> None:
        name = names.get(id(module))
        if name is not None and name not in called:
            called.append(name)

    with hooks_on_all_modules(note):
        model(inputs)
    return called


def find_layer(layer: Layer, order: Sequence[str], model: nn.Module) -> str:
    """The name of a module that is given by its name, or by its place among those in ``order``.

    Raises:
        ValueError: If there is none.
    """
    if isinstance(layer, str):
        if layer and layer in dict(model.named_modules()):
            return layer
        raise ValueError(f"the network has no module {layer!r}; among its layers are {', '.join(order)}.")
    if not -len(order) <= layer < len(order):
        raise ValueError(f"the network has {len(order)} linear and convolution layers; there is none at {layer}.")
    return order[layer]


def entering(model: nn.Module, inputs: Any, names: Sequence[str]) -> dict[str, Tensor]:
    """Run ``model`` and note what goes into modules, at their first call.

    Args:
        model: In evaluation mode.
        inputs: A batch.
        names: Paths of modules.

    Returns:
        For each name, shape ``(n, ...)``.

    Raises:
        ValueError: If a module is not called, or not with one tensor of samples.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
        >>> entering(net, torch.zeros(5, 2), ["2"])["2"].shape
        torch.Size([5, 3])
    """
    modules = dict(model.named_modules())
    found: dict[str, Tensor] = {}

    def noting(name: str) -> ModuleCall:
        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if name not in found:
                found[name] = tensor_entering(name, args, kwargs).clone()  # an in-place nonlinearity may be next

        return note

    with ExitStack() as stack:
        for name in dict.fromkeys(names):
            stack.enter_context(hooks_on_modules([modules[name]], noting(name)))
        model(inputs)
    missing = [name for name in names if name not in found]
    if missing:
        raise ValueError(f"module {missing[0]!r} is not called, so that it has no features; choose another layer.")
    return {name: found[name] for name in names}


def tensor_entering(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The one tensor that a module is called with, by position or by keyword.

    Args:
        name: Path of the module, for the error.
        args: Its positional arguments.
        kwargs: Its keyword arguments.

    Raises:
        ValueError: If there is none, or several different ones.
    """
    tensors = {id(t): t for t in tensor_arguments(args, kwargs)}
    if len(tensors) != 1:
        raise ValueError(
            f"what goes into module {name!r} is needed as one tensor, but it is called with {len(tensors)}; "
            "choose another layer."
        )
    return next(iter(tensors.values()))


def with_output_of(model: nn.Module, inputs: Any, name: str) -> tuple[Tensor, Tensor, Tensor]:
    """Run ``model`` and differentiate it at a module's output.

    Args:
        model: In evaluation mode.
        inputs: A batch.
        name: Path of a module.

    Returns:
        The network's outputs; the module's output at its first call; and zeros that were added to it, which require
        grad and of which the outputs are a function.

    Raises:
        ValueError: If the module is not called, or does not return one tensor.
    """
    module = dict(model.named_modules())[name]
    noted: list[tuple[Tensor, Tensor]] = []

    def add_zeros(called: nn.Module, _: Any, result: Any) -> Any:
        if called is not module or noted or not isinstance(result, Tensor):
            return None
        noted.append((result.detach().clone(), torch.zeros_like(result, requires_grad=True)))
        return result + noted[0][1]

    # Inside the interpreter no checkpointed part is computed again, which would be without the zeros.
    with torch.enable_grad(), TorchFunctionInterpreter(), hooks_on_all_modules(lambda *_: None, add_zeros):
        outputs = model(inputs)
    if not noted:
        raise ValueError(f"module {name!r} does not give a tensor, so that it has no features.")
    return outputs, *noted[0]
