"""Run a network's ``forward`` and see, or replace, each operation in it."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from lightning_complexity.network.running.batches import tensors_in


@contextmanager
def hooks_on_all_modules(
    entering: Callable[[nn.Module, Any], None], leaving: Callable[..., Any] | None = None
) -> Iterator[None]:
    """Call a function before, and one after, every module's ``forward`` inside the block.

    The hooks are torch's global ones, so that the network's own hooks stay as they are.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        # A compiled module fires them twice, which does no harm here.
        warnings.filterwarnings("ignore", message="Using `torch.compile.* when there are global hooks")
        stack.enter_context(register_module_forward_pre_hook(entering))
        if leaving is not None:
            stack.enter_context(register_module_forward_hook(leaving, always_call=True))
        yield


ModuleCall = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], None]


@contextmanager
def hooks_on_modules(modules: Iterable[nn.Module], entering: ModuleCall) -> Iterator[None]:
    """Call a function with the arguments of some modules, those given by keyword too, before their ``forward``."""
    with ExitStack() as stack:
        for module in modules:
            handle = module.register_forward_pre_hook(entering, with_kwargs=True)
            stack.callback(handle.remove)
        yield


class ModulePath:
    """Which module is being called right now."""

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self._stack: list[str] = []

    @property
    def current(self) -> str:
        """Path of the innermost module, ``""`` for the network itself."""
        return self._stack[-1] if self._stack else ""

    def has(self, name: str) -> bool:
        """Whether the network has a module of this path."""
        return name in self._names.values()

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._stack.append(self._names.get(id(module), self.current))

    def _leave(self, *_: Any) -> None:
        self._stack.pop()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow the calls made inside the block."""
        with hooks_on_all_modules(self._enter, self._leave):
            try:
                yield
            finally:
                self._stack.clear()


Handler = Callable[..., Any]


class HandlerTable:
    """Which method of an interpreter handles which operation.

    Example:
        >>> table = HandlerTable()
        >>> @table.handles("relu", "relu_")
        ... def rectify(self, x): ...
        >>> sorted(table.by_name)
        ['relu', 'relu_']
    """

    def __init__(self) -> None:
        self.by_name: dict[str, Handler] = {}

    def handles(self, *names: str) -> Callable[[Handler], Handler]:
        """Register the decorated method for operations of these names."""

        def register(handler: Handler) -> Handler:
            self.by_name.update(dict.fromkeys(names, handler))
            return handler

        return register


def operation_name(function: Callable[..., Any]) -> str:
    """The name of a torch function, tensor method or attribute, ``"conv2d"``, ``"add_"``, ``"__iadd__"``, ``"T"``."""
    name: str = getattr(function, "__name__", str(function))
    if name == "__get__":
        return operation_name(function.__self__)  # type: ignore[attr-defined]
    return "clone" if name == "_lazy_clone" else name


_TENSORS_OF_A_TENSOR = {"T", "mT", "H", "mH", "data", "grad", "real", "imag", "_base"}
_INPUT_COMES_LATER = {"where", "searchsorted"}


def _input_first(
    function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The same arguments, with ``input=`` as the first positional one."""
    if args or "input" not in kwargs or operation_name(function) in _INPUT_COMES_LATER:
        return args, kwargs
    return (kwargs["input"],), {name: value for name, value in kwargs.items() if name != "input"}


class TorchFunctionInterpreter(TorchFunctionMode):
    """See every torch operation of a forward pass, functional calls and tensor methods alike.

    Subclasses say in :meth:`on_operation` what to do with an operation. While they work on it, the
    interception is off. What was given as ``input=`` is their first positional argument.

    Attributes:
        can_be_repeated: Whether a part of the network may run again inside without harm.
        sees_repeats: Whether it takes part in that. The graph then holds it until it is gone.
    """

    can_be_repeated = False
    sees_repeats = True

    def on_operation(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Do the operation and return its result."""
        return function(*args, **kwargs)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Pass the operation to :meth:`on_operation`."""
        if getattr(func, "__name__", "") == "__get__" and operation_name(func) not in _TENSORS_OF_A_TENSOR:
            return func(*args)  # a shape, say
        return self.on_operation(func, *_input_first(func, args, kwargs or {}))


def tensor_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among an operation's arguments, those inside lists too."""
    return tensors_in((args, kwargs))
