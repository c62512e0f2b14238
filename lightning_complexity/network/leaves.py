"""Where derivatives for the inputs start: the inputs themselves, or what enters a submodule."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from lightning_complexity.network.errors import MeasureError, MissingInputError
from lightning_complexity.network.running.batches import Batches, map_tensors, tensors_in
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.interpreter import hooks_on_modules, tensor_arguments

Result = TypeVar("Result")


def with_leaf(snapshot: Snapshot, inputs: Any, call: Callable[[Any], Result]) -> tuple[Tensor, Result]:
    """Call a function of inputs so that its result can be differentiated for a leaf.

    Args:
        snapshot: Whose task says for what, see ``wrt`` of :class:`Task`; inside a run.
        inputs: Samples, or anything that holds them.
        call: Runs the network on them.

    Returns:
        The leaf, which is the only floating-point tensor among the inputs or what first enters the submodule, and what
        the function gives.

    Raises:
        MissingInputError: If there is no such tensor.
    """
    if snapshot.task.wrt is not None:
        return _with_entering(snapshot, snapshot.task.wrt, lambda: call(inputs))
    leaf = _only_float(snapshot, inputs).detach().clone().requires_grad_()
    return leaf, call(replaced(inputs, _only_float(snapshot, inputs), leaf))


def replaced(data: Any, old: Tensor, new: Tensor) -> Any:
    """Data with one tensor in place of another."""
    return map_tensors(lambda t: new if t is old else t, data)


def _with_entering(snapshot: Snapshot, name: str, call: Callable[[], Result]) -> tuple[Tensor, Result]:
    with _leaf_entering(_submodule(snapshot.model, name)) as leaves:
        result = call()
    if not leaves:
        raise MeasureError(
            f"needs a floating-point tensor that enters module {name!r}, but none does. Choose another module with "
            "wrt=...."
        )
    return leaves[0], result


def _submodule(model: nn.Module, name: str) -> nn.Module:
    modules = dict(model.named_modules())
    if isinstance(modules.get(name), torch.jit.ScriptModule):
        raise MeasureError(f"cannot take derivatives at module {name!r} (wrt), as it is scripted; choose another.")
    if name in modules:
        return modules[name]
    known = ", ".join(list(modules)[1:9])
    raise MeasureError(
        f"the network has no module {name!r} to take derivatives at (wrt); among its modules are {known}."
    )


@contextmanager
def _leaf_entering(module: nn.Module) -> Iterator[list[Tensor]]:
    """Make a leaf of the first floating-point tensor that a module is called with, at its first call."""
    leaves: list[Tensor] = []

    def replace(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        entering = [t for t in tensor_arguments(args, kwargs) if t.is_floating_point()]
        if leaves or not entering:
            return None
        with torch.enable_grad():
            leaves.append(_leaf_of(entering[0]))
            passed = leaves[0].clone()  # the module may write to it
        return replaced(tuple(args), entering[0], passed), replaced(kwargs, entering[0], passed)

    handle = module.register_forward_pre_hook(replace, with_kwargs=True)
    try:
        yield leaves
    finally:
        handle.remove()


def _leaf_of(entering: Tensor) -> Tensor:
    # Where training differentiates the result, what leads to the tensor counts too.
    return entering.clone() if entering.requires_grad else entering.detach().clone().requires_grad_()


def _only_float(snapshot: Snapshot, inputs: Any) -> Tensor:
    found = [t for t in tensors_in(inputs) if t.is_floating_point()]
    if len(found) == 1:
        return found[0]
    if isinstance(inputs, Tensor):
        got = str(inputs.dtype)
    else:
        where = "whole batches" if isinstance(inputs, Batches) else f"a {type(inputs).__name__}"
        got = f"{where} with {len(found) or 'none'}"
    modules = entered_by_floats(snapshot)
    say = f"wrt={modules[0]!r}" if modules else "wrt='the name of a module'"
    raise MissingInputError(
        f"needs inputs that are one floating-point tensor, got {got}. Differentiate for what enters a submodule: {say}."
    )


def check_leaf(snapshot: Snapshot) -> None:
    """Raise an error where there is nothing to differentiate for, before the network is run for it.

    Raises:
        MissingInputError: Naming a submodule that can be differentiated at.
    """
    if snapshot.task.wrt is None:
        _only_float(snapshot, snapshot.inputs)
    else:
        _submodule(snapshot.model, snapshot.task.wrt)


@shared
def entered_by_floats(snapshot: Snapshot) -> tuple[str, ...]:
    """Names of submodules that are called with a floating-point tensor of several dimensions, in the order of calls.

    Those that are entered first have the others in them, where several begin with the same tensor.
    """
    names = {id(module): name for name, module in snapshot.model.named_modules() if name}
    modules = [m for name, m in snapshot.model.named_modules() if name and not isinstance(m, torch.jit.ScriptModule)]
    found: list[str] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if any(t.is_floating_point() and t.ndim > 1 for t in tensor_arguments(args, kwargs)):
            found.append(names[id(module)])

    def noted(model: nn.Module, x: Any) -> None:
        with hooks_on_modules(modules, note):  # inside the run, which puts back the hooks that it began with
            model(x)

    try:
        snapshot.run_one(noted)
    except MeasureError:
        return ()
    return tuple(dict.fromkeys(found))


@shared
def entries_of_leaf(snapshot: Snapshot) -> int:
    """Number of entries that a sample has in what is differentiated for."""
    if snapshot.task.wrt is None:
        leaf = _only_float(snapshot, snapshot.inputs)
    else:
        leaf = snapshot.run_one(lambda model, x: with_leaf(snapshot, x, model)[0])
    return leaf[0].numel()
