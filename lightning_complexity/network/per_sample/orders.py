"""Which rows of a batch belong to which sample, where a layer is given several positions of each."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Iterator, Mapping
from math import prod
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from lightning_complexity.network.derivatives import differentiated
from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.per_sample.graphs import Graph, single_graphs
from lightning_complexity.network.per_sample.kinds import KINDS, Order, UnknownUseError
from lightning_complexity.network.per_sample.uses import Node, Use, Uses, operations, watched
from lightning_complexity.network.snapshot import Snapshot

_Key = tuple[str, int]  # name of a parameter, number of its use


class _Known(NamedTuple):
    structure: Hashable
    orders: dict[_Key, Order]


_KNOWN: WeakKeyDictionary[nn.Module, _Known] = WeakKeyDictionary()


class Orders:
    """In which order samples and positions follow each other at each use of a parameter.

    Found by running the first sample alone: among the rows of the batch are its rows, at the start or some apart. What
    was found is used again for the next graph of the same network that has the same structure, where every operation
    moves rows as its name and its options say.

    Args:
        snapshot: Of the network.
        graph: Of its first samples.
        recorded: The uses of parameters in that graph.
        parameters: By name.

    Attributes:
        unknown: Names of parameters with a use that cannot be read.
    """

    def __init__(self, snapshot: Snapshot, graph: Graph, recorded: Uses, parameters: Mapping[str, Tensor]) -> None:
        uses = recorded.by_name
        self.unknown = {name for name, of_one in uses.items() if any(use.kind not in KINDS for use in of_one)}
        self._found: dict[_Key, Order] = {}
        self._alone: dict[_Key, Tensor] = {}
        self._doubtful: set[_Key] = set()  # where either order fits
        self._structure: Hashable = None
        _check_statistics(graph)
        self._model, self._are_judged = snapshot.model, snapshot.task.judges_batches
        known = {name: parameters[name] for name in uses if name not in self.unknown}
        self._asked = {(name, i) for name in known for i, use in enumerate(uses[name]) if _rows(use) != graph.samples}
        if graph.samples > 1 and (self._are_judged or self._asked):
            if not self._are_judged:  # a loss of batches may couple samples by numbers that are in no graph
                self._structure = structure(graph, parameters)
            before = _KNOWN.get(self._model)
            if self._structure is not None and before is not None and before.structure == self._structure:
                self._found = dict(before.orders)
            else:
                self._alone = _rows_at_uses(next(single_graphs(snapshot)), known)

    def of(self, name: str, number: int, use: Use, gradient: Tensor, samples: int) -> Order:
        """That of a use of a parameter.

        Raises:
            UnknownUseError: If there is none.
            MeasureError: If the sample depends on those beside it.
        """
        key = name, number
        if key not in self._found:
            rows = _rows_of(use, gradient)
            is_clear = len(rows) == samples and not self._are_judged
            self._found[key] = "first" if is_clear or not self._alone else self._compared(key, rows, samples)
        return self._found[key]

    def _compared(self, key: _Key, rows: Tensor, samples: int) -> Order:
        if key not in self._alone or len(rows) != samples * len(self._alone[key]):
            raise UnknownUseError
        alone = self._alone[key]
        is_first, is_last = _same(rows[: len(alone)], alone), _same(rows[::samples], alone)
        if is_first and is_last:
            self._doubtful.add(key)
        if is_first:
            return "first"
        if is_last:
            return "last"
        raise MeasureError(_COUPLED)

    def keep(self) -> None:
        """Use what was found for the next graph of this structure, unless some of it could be otherwise there."""
        if self._structure is not None and self._alone and not self._doubtful and self._asked <= self._found.keys():
            _KNOWN[self._model] = _Known(self._structure, dict(self._found))


_COUPLED = (
    "needs a loss that is a mean over samples, each of which depends on its own data alone, but a sample has another "
    "gradient alone than beside others. Give such a loss with loss=lambda outputs, targets: ..., or leave this out."
)


def _rows(use: Use) -> int:
    return prod(use.result[: KINDS[use.kind].leading(use, len(use.result))])


def _rows_of(use: Use, gradient: Tensor) -> Tensor:
    """Samples and positions in one dimension."""
    leading = KINDS[use.kind].leading(use, gradient.ndim)
    return gradient.flatten(0, leading - 1) if leading else gradient.unsqueeze(0)


def _rows_at_uses(graph: Graph, parameters: Mapping[str, Tensor]) -> dict[_Key, Tensor]:
    """The gradients for the results of all uses that are known, samples and positions in one dimension."""
    found: dict[_Key, Tensor] = {}

    def take(name: str, number: int, use: Use, gradient: Tensor | None) -> None:
        if gradient is not None and use.kind in KINDS:
            found[name, number] = _rows_of(use, gradient).clone()

    recorded = Uses(graph.roots, parameters)
    with torch.no_grad(), watched(recorded.by_name, take):
        differentiated(graph.roots, [parameters[name] for name in recorded.anchors()], graph.vectors)
    return found


def _same(a: Tensor, b: Tensor) -> bool:
    return not bool((a - b).norm() > 1e-3 * b.norm())  # what is not a number is not told apart


def _check_statistics(graph: Graph) -> None:
    for node in operations(graph.roots):
        takes_statistics = "Norm" in node.name() and getattr(node, "_saved_training", False)
        if takes_statistics and len(node._saved_input) > 1 < graph.samples:
            raise MeasureError(_COUPLED)


# Structure -------------------------------------------------------------------------------------------

_LEAF = "torch::autograd::AccumulateGrad"
_BY_SHAPES = (
    *("Clone", "LazyClone", "ToCopy", "Alias", "View", "UnsafeView", "ReshapeAlias", "Expand", "T"),
    *("Add", "Sub", "Mul", "Div", "Neg", "Addmm", "Mm", "Bmm", "Convolution", "Embedding"),
    *("Relu", "LeakyRelu", "Elu", "Gelu", "Silu", "Tanh", "Sigmoid", "Softplus", "Exp", "Sqrt"),
    *("NativeLayerNorm", "NativeGroupNorm", "NativeBatchNorm"),
    *(f"ScaledDotProduct{kernel}" for kernel in ("FlashAttentionForCpu", "FlashAttention", "EfficientAttention")),
)
_OPTIONS: dict[str, tuple[str, ...]] = {
    _LEAF: (),
    **{f"{name}Backward0": () for name in _BY_SHAPES},
    "SoftmaxBackward0": ("_saved_dim",),
    "TransposeBackward0": ("_saved_dim0", "_saved_dim1"),
    "PermuteBackward0": ("_saved_dims",),
    "UnsqueezeBackward0": ("_saved_dim",),
    "SqueezeBackward1": ("_saved_dim",),
    "SelectBackward0": ("_saved_dim", "_saved_index"),
    "SliceBackward0": ("_saved_dim", "_saved_start", "_saved_end", "_saved_step"),
    "SplitBackward0": ("_saved_dim", "_saved_split_size"),
    "SplitWithSizesBackward0": ("_saved_dim", "_saved_split_sizes"),
    "CatBackward0": ("_saved_dim",),
    "MeanBackward1": ("_saved_dim", "_saved_keepdim"),
    "SumBackward1": ("_saved_dim", "_saved_keepdim"),
}
"""Operations that move rows as their shapes and these options say, whatever the numbers are."""


def structure(graph: Graph, parameters: Mapping[str, Tensor]) -> Hashable:
    """All that decides where in a graph the samples are, to be compared; ``None`` where numbers decide as well."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    nodes = list(operations(graph.roots))
    if any(node.name() not in _OPTIONS for node in nodes):
        return None
    places = {node: place for place, node in enumerate(nodes)}
    try:
        roots = tuple(places[root.grad_fn] for root in graph.roots)
        return graph.samples, roots, tuple(_described(nodes, places, names))
    except AttributeError:  # a torch that keeps other things
        return None


def _described(nodes: Iterable[Node], places: Mapping[Node, int], names: Mapping[int, str]) -> Iterator[Any]:
    for node in nodes:
        name = node.name()
        options = tuple(getattr(node, option) for option in _OPTIONS[name])
        leaf = names.get(id(node.variable)) if name == _LEAF else None
        earlier = tuple((places.get(before), which) for before, which in node.next_functions)
        yield name, options, leaf, earlier, tuple(tuple(result.shape) for result in node._input_metadata)
