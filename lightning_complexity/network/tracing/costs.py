"""What one forward pass of one sample costs: multiplications, results, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode, flop_registry
from torch.utils.module_tracker import ModuleTracker

from lightning_complexity.network.errors import UnsupportedOperationError
from lightning_complexity.network.running.batches import map_tensors, tensors_in
from lightning_complexity.network.tracing.interpreter import ModulePath
from lightning_complexity.network.tracing.linearity import PiecewiseLinearity

__all__ = ["OWN_FORWARD", "Costs", "Product", "count_costs"]

aten = torch.ops.aten

OWN_FORWARD = "forward"
"""Name of what the network's own ``forward`` computes, outside any submodule; no submodule can be called so."""

_OPAQUE = {
    "_cudnn_rnn",
    "_lstm_mps",
    "_native_multi_head_attention",
    "_transformer_encoder_layer_fwd",
    "miopen_rnn",
    "mkldnn_rnn_layer",
}


@dataclass(frozen=True)
class Product:
    """One convolution or matrix product of a forward pass.

    Attributes:
        layer: Path of the module that computed it, or ``"forward"``.
        flops: Its floating-point operations, twice its multiply-accumulates.
        outputs: Number of entries of its result.
        convolution: Whether it is a convolution, transposed ones included.
        parameters: Number of parameters read until the next product begins, this one's and all before it.
    """

    layer: str
    flops: int
    outputs: int
    convolution: bool
    parameters: int


@dataclass(frozen=True)
class Costs:
    """What one forward pass of one sample takes.

    Attributes:
        products: Its convolutions and matrix products in the order of the pass.
        peak_memory: The most bytes that the sample and what was computed from it took at once.
        side: Longest side of the input of the first convolution; 1 if there is none.
        pieces: The most linear pieces that an activation has.
        refused: The first operation that is not piecewise linear, and the path of the module that called it.
    """

    products: tuple[Product, ...]
    peak_memory: int
    side: int
    pieces: int
    refused: tuple[str, str] | None

    def by_layer(self, value: Callable[[Product], int]) -> dict[str, int]:
        """Sum of a value over the products of each layer, in the order of the pass."""
        sums: dict[str, int] = {}
        for product in self.products:
            sums[product.layer] = sums.get(product.layer, 0) + value(product)
        return sums


# torch's counter knows no products with vectors, no bilinear form and no CPU flash attention.
def _vector_product(matrix: Tensor, *_: Any, **__: Any) -> int:
    return 2 * matrix.numel()


def _added_vector_product(_: Tensor, matrix: Tensor, *__: Any, **___: Any) -> int:
    return 2 * matrix.numel()


def _added_batch_product(_: Tensor, a: Tensor, b: Tensor, *__: Any, **___: Any) -> int:
    return 2 * a.numel() * b.shape[-1]


def _bilinear(x: Tensor, weight: Tensor, y: Tensor, *_: Any, **__: Any) -> int:
    """Each of the outputs is ``x`` times (a matrix times ``y``)."""
    samples = x.numel() // x.shape[-1]
    return 2 * samples * prod(weight.shape[:-1]) * (y.shape[-1] + 1)


def _time_batch_channel(_: Tensor, weight: Tensor, *__: Any, out_val: Tensor, **___: Any) -> int:
    return 2 * out_val.numel() * prod(weight.shape[:2])


_MISSING: dict[Any, Callable[..., int]] = {
    aten.mv: _vector_product,
    aten.dot: _vector_product,
    aten.vdot: _vector_product,
    aten.addmv: _added_vector_product,
    aten.addbmm: _added_batch_product,
    aten._trilinear: _bilinear,
    aten.conv_tbc: _time_batch_channel,
    aten._scaled_dot_product_flash_attention_for_cpu: flop_registry[aten._scaled_dot_product_flash_attention],
}
_CONVOLUTIONS = {aten.convolution, aten._convolution, aten.cudnn_convolution, aten._slow_conv2d_forward, aten.conv_tbc}


@contextmanager
def written_out() -> Iterator[None]:
    """Have recurrent layers and attention computed by operations that can be seen."""
    mkldnn, cudnn = torch.backends.mkldnn, torch.backends.cudnn
    before = mkldnn.enabled, cudnn.enabled, torch.backends.mha.get_fastpath_enabled()
    try:
        mkldnn.enabled, cudnn.enabled = False, False  # type: ignore[assignment]
        torch.backends.mha.set_fastpath_enabled(False)
        yield
    finally:
        mkldnn.enabled, cudnn.enabled = before[:2]
        torch.backends.mha.set_fastpath_enabled(before[2])


def _stored(data: Any) -> list[Tensor]:
    """The tensors among arguments or results whose memory can be told."""
    return [t for t in tensors_in(data) if t.layout == torch.strided]


def _is_view(operation: Any) -> bool:
    """Whether an operation only looks at memory, as the transpose of a weight before its product does."""
    aliases = [result.alias_info for result in operation._schema.returns]
    return any(alias is not None and not alias.is_write for alias in aliases)


class _Memory(TorchDispatchMode):
    """Follows which memory is alive, and which parameters have been read.

    Memory that an operation returns, and the sample's, is counted as long as anything refers to it. Memory that is
    first seen as an argument belongs to the network.
    """

    def __init__(self, model: nn.Module, sample: Any, path: ModulePath) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self.parameters_read = self.read_before = self._total = 0
        self.operations: dict[str, str] = {}
        self._path = path
        self._alive: dict[StorageWeakRef, int] = {}
        self._unread: dict[StorageWeakRef, int] = {}
        for parameter in _stored(list(model.parameters())):
            ref = StorageWeakRef(parameter.untyped_storage())
            self._unread[ref] = self._unread.get(ref, 0) + parameter.numel()
        self._foreign = {*self._unread, *(StorageWeakRef(b.untyped_storage()) for b in _stored(list(model.buffers())))}
        self._note(_stored(sample))

    def _note(self, tensors: Iterable[Tensor]) -> None:
        """Count the memory of new tensors; where that could be a new peak, forget what is gone."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            ref = StorageWeakRef(storage)
            if ref not in self._foreign:
                self._total += storage.nbytes() - self._alive.get(ref, 0)
                self._alive[ref] = storage.nbytes()
        if self._total > self.peak:
            self._alive = {ref: size for ref, size in self._alive.items() if not ref.expired()}
            self._total = sum(self._alive.values())
            self.peak = max(self.peak, self._total)

    def _read(self, tensors: Iterable[Tensor], *, only_view: bool) -> None:
        self.read_before = self.parameters_read
        for tensor in tensors:
            ref = StorageWeakRef(tensor.untyped_storage())
            if not only_view:
                self.parameters_read += self._unread.pop(ref, 0)
            if ref not in self._alive:
                self._foreign.add(ref)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and look at its arguments and results."""
        name = func._overloadpacket.__name__
        if name in _OPAQUE:
            raise UnsupportedOperationError(name, self._path.current, "counting operations")
        self._read(_stored((args, kwargs or {})), only_view=_is_view(func))
        result = func(*args, **(kwargs or {}))
        if name == "_lazy_clone":  # takes no memory
            self._foreign.add(StorageWeakRef(result.untyped_storage()))
        self._note(_stored(result))
        return result


class _Counter:
    """Notes every product that torch's counter meets."""

    def __init__(self, path: ModulePath, memory: _Memory) -> None:
        self.products: list[tuple[str, int, int, bool]] = []
        self.read_before: list[int] = []
        self.side = 1
        self._path, self._memory = path, memory

    def formulas(self) -> dict[Any, Callable[..., int]]:
        """A formula for each operation with products, which also notes what it counts."""
        noting: dict[Any, Callable[..., int]] = {}
        for operation, formula in {**flop_registry, **_MISSING}.items():
            noting[operation] = partial(self._note, operation, formula)
            noting[operation]._get_raw = True  # type: ignore[attr-defined]
        return noting

    def _note(self, operation: Any, formula: Callable[..., int], *args: Any, out_val: Any, **kwargs: Any) -> int:
        flops = formula(*args, out_val=out_val, **kwargs)
        convolution = operation in _CONVOLUTIONS
        if convolution and not any(noted[-1] for noted in self.products):
            self.side = max(args[0].shape[:-2] if operation is aten.conv_tbc else args[0].shape[2:])
        outputs = tensors_in(out_val)[0].numel()
        self.products.append((self._path.current or OWN_FORWARD, flops, outputs, convolution))
        self.read_before.append(self._memory.read_before)
        return flops


class _NoModules(ModuleTracker):
    """Takes the place of the counter's own tracker of modules, whose hooks fail where a network differentiates."""

    def __enter__(self) -> _NoModules:
        """Track nothing."""
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing was tracked."""


def count_costs(model: nn.Module, sample: Any) -> Costs:
    """Run a network on one sample and count.

    Counted is what ``torch.utils.flop_counter`` counts: convolutions, matrix products and attention, as modules or
    functions, two operations a multiply-accumulate; and, which it does not know, products with vectors, bilinear forms
    and ``conv_tbc``. The fused kernels of recurrent layers and attention hide their products from it, so these are
    computed by their single operations. Zeros from padding, masks and causal attention count as any number.

    Args:
        model: In evaluation mode.
        sample: One sample, with a batch dimension.

    Returns:
        The costs.

    Raises:
        UnsupportedOperationError: If the network calls a fused kernel all the same.

    Example:
        >>> costs = count_costs(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(1, 3))
        >>> costs.products
        (Product(layer='0', flops=12, outputs=2, convolution=False, parameters=8),)
        >>> costs.peak_memory  # four bytes each for three inputs, two sums, two rectified
        28
    """
    # A sample cut out of a batch would keep the memory of the whole batch.
    sample = map_tensors(torch.clone, sample)
    path = ModulePath(model)
    memory = _Memory(model, sample, path)
    counter = _Counter(path, memory)
    flop_counter = FlopCounterMode(display=False, custom_mapping=counter.formulas())
    flop_counter.mod_tracker = _NoModules()
    linearity = PiecewiseLinearity(model, path, sample)
    with torch.no_grad(), written_out(), path.followed(), memory, flop_counter, linearity:
        model(sample)
    parameters = [*counter.read_before[1:], memory.parameters_read]
    products = tuple(Product(*noted, read) for noted, read in zip(counter.products, parameters, strict=False))
    return Costs(products, memory.peak, counter.side, linearity.pieces, linearity.refused)
