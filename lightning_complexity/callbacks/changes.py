"""Tell whether a network has changed since it was measured."""

from __future__ import annotations

import torch
from torch import Tensor, nn

Fingerprint = dict[str, int]


@torch.no_grad()
def fingerprint(module: nn.Module) -> Fingerprint:
    """A hash of the bits of every parameter and buffer, of this process's part where they are sharded."""
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    hashes = {name: _hashed(t) for name, t in tensors.items()}
    by_device: dict[torch.device, list[str]] = {}
    for name, value in hashes.items():
        by_device.setdefault(value.device, []).append(name)
    numbers: dict[str, int] = {}
    for names in by_device.values():  # with one transfer from each device
        numbers.update(zip(names, torch.stack([hashes[name] for name in names]).tolist(), strict=True))
    return numbers


def _hashed(tensor: Tensor) -> Tensor:
    """A 0-d integer."""
    local = getattr(tensor, "to_local", lambda: tensor)()
    try:
        if local.layout is not torch.strided:
            local = local.coalesce().values() if local.layout is torch.sparse_coo else local.to_dense()
        if local.is_complex():
            local = torch.view_as_real(local.resolve_conj())
        if local.numel() == 0:
            return torch.zeros((), dtype=torch.int64, device=local.device)
        return torch.hash_tensor(local).view(torch.int64)
    except Exception:  # kinds that have no hash, such as quantized tensors and parameters without a shape yet
        return torch.zeros((), dtype=torch.int64)
