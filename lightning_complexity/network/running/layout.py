"""How samples lie in the inputs: in dense tensors, and in which dimension."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.running.batches import tensors_in


def check_dense(inputs: Any) -> None:
    """Raise an error where inputs are sparse, so that no samples can be cut out of them.

    Raises:
        MeasureError: Naming the layout.
    """
    sparse = next((t for t in tensors_in(inputs) if t.layout != torch.strided), None)
    if sparse is not None:
        dense = (
            "inputs.to_padded_tensor(0.0), with a forward=lambda model, inputs: ... that takes them"
            if sparse.is_nested
            else "inputs.to_dense(), and where the network needs them sparse, "
            "forward=lambda model, inputs: model(inputs.to_sparse())"
        )
        raise MeasureError(f"needs dense inputs, got a tensor of layout {sparse.layout}. Give {dense}.")


def time_first_modules(model: nn.Module) -> dict[str, nn.Module]:
    """Modules that take the first dimension for time, by name."""
    return {name: module for name, module in model.named_modules() if _takes_time_first(module)}


@contextmanager
def time_first_refused(modules: Mapping[str, nn.Module], inputs: Any) -> Iterator[None]:
    """Raise an error where one of some modules takes the first dimension of the inputs for time.

    Recurrent layers and attention do so unless they were built with ``batch_first=True``, and a module that is given
    the inputs as they are then mixes samples, or takes each of them for a time step.

    Raises:
        MeasureError: Naming the module.
    """
    with ExitStack() as stack:
        for name, module in modules.items():
            check = _Check(name, tensors_in(inputs))
            stack.callback(module.register_forward_pre_hook(check, with_kwargs=True).remove)
        yield


def _takes_time_first(module: nn.Module) -> bool:
    if isinstance(module, (nn.RNNBase, nn.Transformer)):
        return not module.batch_first
    if isinstance(module, (nn.TransformerEncoderLayer, nn.TransformerDecoderLayer)):
        return not module.self_attn.batch_first
    return isinstance(module, nn.MultiheadAttention) and not module.batch_first


class _Check:
    """Compares what a module is given with the inputs of the network."""

    def __init__(self, name: str, inputs: list[Tensor]) -> None:
        self._name, self._inputs = name, inputs

    def __call__(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        given = [*args, *kwargs.values()]
        if any(isinstance(t, Tensor) and t.ndim == 3 and _is_among(t, self._inputs) for t in given):
            raise MeasureError(
                f"{type(module).__name__} {self._name!r} takes time in the first dimension, where the inputs have "
                "samples. Build it with batch_first=True, or give inputs with samples first and turn them in "
                "forward=lambda model, inputs: model(inputs.transpose(0, 1)).transpose(0, 1)."
            )


def _is_among(tensor: Tensor, others: list[Tensor]) -> bool:
    return any(tensor is other for other in others)
