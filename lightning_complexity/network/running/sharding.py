"""Networks whose parameters ``torch.distributed.fsdp.fully_shard`` has spread over processes (FSDP2)."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


def whole_parameters(model: nn.Module) -> dict[str, Tensor]:
    """The parameters by name, tied ones once, sharded ones gathered from all processes.

    The gradient of a gathered parameter is the mean over processes, as for losses in data-parallel training. All
    processes must call this, and differentiate, together.
    """
    reshard(model)  # what a forward pass has left gathered may be in half precision
    return {name: whole(parameter) for name, parameter in model.named_parameters()}


def whole(tensor: Any) -> Tensor:
    """A tensor, gathered from all processes if it is sharded."""
    if not hasattr(tensor, "full_tensor"):
        return tensor
    from torch.distributed.tensor import Partial

    gathered: Tensor = tensor.full_tensor(grad_placements=[Partial("avg")] * tensor.device_mesh.ndim)
    return gathered


def is_sharded(model: nn.Module) -> bool:
    """Whether the model gathers its parameters when it runs."""
    return bool(_sharded_modules(model))


@contextmanager
def sharding_suspended(model: nn.Module) -> Iterator[None]:
    """Let the model run with the parameters that are put into it, instead of gathering its own."""
    reshard(model)  # so that modules keep the parameters that they have now
    hooks = [
        (registered, handle.id)
        for module in _sharded_modules(model)
        for handle in _handles(module)
        for registered in (module._forward_pre_hooks, module._forward_hooks)
        if handle.id in registered
    ]
    before = [(registered, OrderedDict(registered)) for registered, _ in hooks]
    try:
        for registered, key in hooks:
            registered.pop(key, None)
        yield
    finally:
        for registered, hooks_before in reversed(before):
            registered.clear()
            registered.update(hooks_before)


def local_part(tensor: Any) -> Tensor:
    """This process's part of a tensor that is sharded, in the same memory; another one itself."""
    part: Tensor = tensor.detach().to_local() if hasattr(tensor, "to_local") else tensor
    return part


def sums_over_parts(values: Tensor, of: Sequence[Tensor]) -> Tensor:
    """A number for each tensor, summed over the parts of those that are sharded; all processes must call this together.

    Args:
        values: One for this process's part of each tensor, shape ``(tensors,)``.
        of: The tensors, spread as they may be.
    """
    alike: dict[Any, list[int]] = {}
    for i, tensor in enumerate(of):
        mesh, placements = getattr(tensor, "device_mesh", None), getattr(tensor, "placements", None)
        alike.setdefault((mesh, placements), []).append(i)
    found = values.clone()
    for spread, places in alike.items():
        found[places] = _whole_sum(values[places], *spread)
    return found


def _whole_sum(parts: Tensor, mesh: Any, placements: Any) -> Tensor:
    if mesh is None:
        return parts
    from torch.distributed.tensor import DTensor, Partial

    return whole(DTensor.from_local(parts, mesh, [Partial() if p.is_shard() else p for p in placements]))


def norms_over_parts(norms: Tensor, of: Sequence[Tensor]) -> Tensor:
    """Norms of whole tensors from those of this process's parts; all processes must call this together.

    Args:
        norms: One for this process's part of each tensor, shape ``(tensors,)``.
        of: The tensors, spread as they may be.
    """
    if not any(hasattr(tensor, "full_tensor") for tensor in of):
        return norms
    return sums_over_parts(norms.double().square(), of).sqrt().to(norms.dtype)


def reshard(model: nn.Module) -> None:
    """Let a sharded model free what it has gathered, so that its parameters are the parts."""
    for module in _sharded_modules(model):
        module.reshard()


def _sharded_modules(model: nn.Module) -> list[Any]:
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return []
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def _handles(module: Any) -> list[Any]:
    state = module._get_fsdp_state()
    pair = state._pre_forward_hook_handle, state._post_forward_hook_handle
    # Modules that are sharded together share one handle of many hooks.
    return [handle for one in pair for handle in getattr(one, "handles", (one,))]
