"""The attention of a forward pass, whichever way it is computed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from lightning_complexity.functional.representation.attention import attention_entropy
from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.running.batches import num_samples, tensors_in
from lightning_complexity.network.tracing.costs import written_out
from lightning_complexity.network.tracing.interpreter import ModulePath

aten = torch.ops.aten
_SOFTMAX = {aten._softmax, aten._safe_softmax}
_SAME_NUMBERS = {
    aten._to_copy,
    aten._unsafe_view,
    aten.alias,
    aten.clone,
    aten.detach,
    aten.expand,
    aten.permute,
    aten.squeeze,
    aten.transpose,
    aten.unsqueeze,
    aten.view,
}


@dataclass(frozen=True)
class Attention:
    """One call of attention in a forward pass.

    Attributes:
        name: Path of the module that called it, ``"attention"`` if that was the network's own forward; with ``.1``,
            ``.2`` for further calls from there.
        entropy: Mean entropy over heads and queries of each sample, shape ``(n,)``.
        largest_logit: Largest number that goes into the softmax, of each sample, shape ``(n,)``.
    """

    name: str
    entropy: Tensor
    largest_logit: Tensor


def _memory_of(data: Any) -> set[StorageWeakRef]:
    return {StorageWeakRef(t.untyped_storage()) for t in tensors_in(data) if t.layout == torch.strided}


class _AttentionReader(TorchDispatchMode):
    """Notes each softmax over the last dimension whose result is the first factor of a product of batches of matrices.

    A product with what does not depend on the inputs is that of a layer.
    """

    def __init__(self, path: ModulePath, inputs: Any) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[Attention] = []
        self._path, self._count = path, num_samples(inputs)
        self._data = _memory_of(inputs)
        # Kept alive, so that no other tensor has the same id meanwhile.
        self._weights: dict[int, tuple[Tensor, Tensor, Tensor]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Do the operation; note attention."""
        result = func(*args, **(kwargs or {}))
        if self._data & _memory_of((args, kwargs)):
            self._data |= _memory_of(result)
        operation = func._overloadpacket
        if operation in _SOFTMAX and args[1] % args[0].ndim == args[0].ndim - 1 and args[0].ndim > 1:
            self._weights[id(result)] = (result, result, args[0])
        elif operation in _SAME_NUMBERS and id(args[0]) in self._weights:
            _, weights, logits = self._weights[id(args[0])]
            self._weights[id(result)] = (result, weights, logits)
        elif operation is aten.bmm and id(args[0]) in self._weights and self._data & _memory_of(args[1]):
            self._note(*self._weights[id(args[0])][1:])
        return result

    def _note(self, weights: Tensor, logits: Tensor) -> None:
        queries = weights.numel() // weights.shape[-1]
        if queries % self._count:
            raise MeasureError(
                f"module {self._path.current!r} attends from {queries} queries, which are no multiple of the "
                f"{self._count} samples. Measure a part of the network, or turn samples into the first dimension."
            )
        self._weights = {key: value for key, value in self._weights.items() if value[1] is not weights}
        self.found.append(
            Attention(
                self._free_name(),
                attention_entropy(weights).reshape(self._count, -1).mean(1),
                logits.reshape(self._count, -1).amax(1),
            )
        )

    def _free_name(self) -> str:
        name = self._path.current or "attention"
        calls = sum(a.name == name or a.name.startswith(f"{name}.") for a in self.found)
        return f"{name}.{calls}" if calls else name


def capture_attention(model: nn.Module, inputs: Any) -> list[Attention]:
    """Run a network and read its attention.

    Attention is a softmax over the last dimension whose result a matrix product takes as its first factor: as in
    ``scaled_dot_product_attention``, ``MultiheadAttention``, and where a network writes it out.

    Args:
        model: In evaluation mode.
        inputs: A batch, samples first.

    Returns:
        One :class:`Attention` for each call, in running order; empty if there is none.

    Raises:
        MeasureError: If attention is not computed for each sample apart.

    Example:
        >>> layer = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
        >>> (found,) = capture_attention(layer, torch.zeros(3, 5, 4))
        >>> found.name, found.entropy.exp()  # equal positions attend to all five alike
        ('self_attn', tensor([5., 5., 5.]))
    """
    path = ModulePath(model)
    reader = _AttentionReader(path, inputs)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), written_out(), path.followed(), reader:
        model(inputs)
    return reader.found
