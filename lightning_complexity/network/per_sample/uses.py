"""Where parameters are used, read off the graph that autograd has recorded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Node = Any  # of autograd's graph
_COPIES = frozenset({"LazyCloneBackward0", "CloneBackward0", "ToCopyBackward0", "AliasBackward0"})
_TURNS = frozenset({"TBackward0", "TransposeBackward0", "PermuteBackward0"})  # of matrices
_VIEWS = frozenset({"ViewBackward0", "UnsafeViewBackward0", "ReshapeAliasBackward0", "UnsqueezeBackward0"})
_SPLITS = frozenset({"SplitBackward0", "SplitWithSizesBackward0"})


@dataclass(frozen=True)
class Step:
    """What is done to a parameter before it is used.

    Attributes:
        name: Of the operation in autograd.
        shape: Which it gives.
        which: Of several parts, which one.
        split: How it is split, for a split.
    """

    name: str
    shape: tuple[int, ...]
    which: int = 0
    split: tuple[Any, ...] = ()

    def on(self, tensor: Tensor) -> Tensor:
        """The same done to another tensor of the parameter's shape."""
        if self.name in _TURNS:
            return tensor.mT
        if self.name in _SPLITS:
            dim, sizes = self.split
            return tensor.split(sizes, dim)[self.which]
        return tensor.reshape(self.shape)


@dataclass(frozen=True)
class Use:
    """An operation that takes a parameter.

    Attributes:
        node: The operation in autograd's graph.
        operand: Which of its arguments the parameter is.
        steps: What is done to the parameter before, but for a last transposition.
        is_turned: Whether it is transposed last.
        shape: In which it is taken.
        result: Shape of the result.
    """

    node: Node
    operand: int
    steps: tuple[Step, ...]
    is_turned: bool
    shape: tuple[int, ...]
    result: tuple[int, ...]

    @property
    def kind(self) -> str:
        """Name of the operation in autograd."""
        return str(self.node.name())


class Uses:
    """All operations that take parameters, on the way to some tensors.

    Args:
        roots: Such as the loss.
        leaves: The parameters by name.

    Attributes:
        by_name: The uses of each parameter, in a fixed order.

    Example:
        >>> import torch
        >>> weight = torch.ones(3, 2, requires_grad=True)
        >>> uses = Uses([(torch.ones(5, 2) @ weight.T).sum()], {"weight": weight})
        >>> [(use.kind, use.operand, use.is_turned) for use in uses.by_name["weight"]]
        [('MmBackward0', 1, True)]
    """

    def __init__(self, roots: Iterable[Tensor], leaves: Mapping[str, Tensor]) -> None:
        names = {id(leaf): name for name, leaf in leaves.items()}
        self._leaves, self._takers = leaves, defaultdict[Node, list[tuple[Node, int, int]]](list)
        self._starts: dict[str, Node] = {}
        for node in operations(roots):
            name = names.get(id(getattr(node, "variable", None)))
            if name is not None:
                self._starts[name] = node
            for operand, (earlier, which) in enumerate(node.next_functions):
                if earlier is not None:
                    self._takers[earlier].append((node, operand, which))
        self.by_name = {name: list(self._of(name)) for name in leaves}

    def _of(self, name: str) -> Iterator[Use]:
        if name in self._starts:
            yield from _followed(self._starts[name], self._takers, ())

    def anchors(self) -> list[str]:
        """Parameters for which to differentiate, so that the gradient for the result of each use comes by.

        The small ones, and those with a use that none of these precedes: gradients of large ones, which are not
        needed then, take a third of the time of a backward pass.
        """
        chosen = [name for name, leaf in self._leaves.items() if leaf.ndim < 2]
        passed = self._after(chosen)
        for name, uses in self.by_name.items():
            if any(use.node not in passed for use in uses):
                chosen.append(name)
        return chosen

    def _after(self, names: Iterable[str]) -> set[Node]:
        """All operations on the way from some parameters."""
        waiting = [self._starts[name] for name in names if name in self._starts]
        seen: set[Node] = set()
        while waiting:
            node = waiting.pop()
            if node not in seen:
                seen.add(node)
                waiting += [taker for taker, _, _ in self._takers.get(node, ())]
        return seen


def operations(tensors: Iterable[Tensor]) -> Iterator[Node]:
    """The nodes of the tensors' graph, in a fixed order."""
    waiting: list[Node] = [tensor.grad_fn for tensor in tensors]
    seen: set[Node] = {None}
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            waiting += [earlier for earlier, _ in node.next_functions]
            yield node


@contextmanager
def watched(uses: Mapping[str, list[Use]], take: Callable[[str, int, Use, Tensor | None], None]) -> Iterator[None]:
    """Call ``take(name, number, use, gradient)`` when the gradient for the result of a use is known."""
    with ExitStack() as stack:
        for name, of_one in uses.items():
            for number, use in enumerate(of_one):

                def taken(
                    gradients: tuple[Tensor | None, ...], name: str = name, number: int = number, use: Use = use
                ) -> None:
                    take(name, number, use, gradients[0])

                stack.callback(use.node.register_prehook(taken).remove)
        yield


def _followed(node: Node, takers: Mapping[Node, list[tuple[Node, int, int]]], steps: tuple[Step, ...]) -> Iterator[Use]:
    for taker, operand, which in takers.get(node, ()):
        here = (*steps, *_step(node, which))
        if taker.name() in _COPIES | _VIEWS | _SPLITS or (taker.name() in _TURNS and len(_shape(node, which)) == 2):
            yield from _followed(taker, takers, here)
            continue
        is_turned = bool(here) and here[-1].name in _TURNS
        yield Use(taker, operand, here[:-1] if is_turned else here, is_turned, _shape(node, which), _shape(taker, 0))


def _step(node: Node, which: int) -> Iterator[Step]:
    name = node.name()
    if name in _SPLITS:
        sizes = node._saved_split_size if name == "SplitBackward0" else tuple(node._saved_split_sizes)
        yield Step(name, _shape(node, which), which, (_signed(node._saved_dim), sizes))
    elif name in _TURNS | _VIEWS:
        yield Step(name, _shape(node, which))


def _signed(dim: int) -> int:
    """A dimension that autograd keeps as an unsigned number."""
    return dim - 2**64 if dim >= 2**63 else dim


def _shape(node: Node, which: int) -> tuple[int, ...]:
    if hasattr(node, "variable"):
        return tuple(node.variable.shape)
    return tuple(node._input_metadata[which].shape)
