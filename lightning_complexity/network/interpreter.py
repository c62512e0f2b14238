"""Run a network's ``forward`` and see, or replace, each operation in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.overrides import TorchFunctionMode

from lightning_complexity.network.batches import tensors_in


class ModulePath:
    """Which module is being called right now.

    Global hooks keep the network's own hooks as they are.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self._stack: list[str] = []

    @property
    def current(self) -> str:
        """Path of the innermost module, ``""`` for the network itself."""
        return self._stack[-1] if self._stack else ""

    def _enter(self, module: nn.Module, _: Any) -> None:
        self._stack.append(self._names.get(id(module), self.current))

    def _leave(self, *_: Any) -> None:
        self._stack.pop()

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Follow the calls made inside the block."""
        entering = register_module_forward_pre_hook(self._enter)
        leaving = register_module_forward_hook(self._leave, always_call=True)
        try:
            yield
        finally:
            entering.remove()
            leaving.remove()
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
    """The plain name of a torch function or tensor method, ``"conv2d"``, ``"add_"``, ``"max_pool2d"``."""
    return getattr(function, "__name__", str(function))


class TensorFlow(TorchFunctionMode):
    """See every torch operation of a forward pass, functional calls and tensor methods alike.

    Subclasses say in :meth:`on_operation` what to do with an operation. While they work on it, the
    interception is off.
    """

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
        return self.on_operation(func, args, kwargs or {})


def tensor_arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> list[Tensor]:
    """The tensors among an operation's arguments, those inside lists too."""
    return tensors_in((args, kwargs))
