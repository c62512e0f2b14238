"""Cells of blocks, and convolutional networks that are stacks of one cell."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from lightning_complexity.selection.spaces.base import EvolvableSpace, NetworkSpace, ProgressiveSpace, Structure

if TYPE_CHECKING:
    from optuna.trial import BaseTrial
    from torch import nn

PUBLISHED_OPERATIONS = (
    *("separable_3x3", "separable_5x5", "separable_7x7", "conv_1x7_7x1"),
    *("identity", "average_pool_3x3", "max_pool_3x3", "dilated_3x3"),
)
SMALL_OPERATIONS = ("identity", "max_pool_3x3", "conv_3x3", "separable_3x3")
OPERATIONS = (*PUBLISHED_OPERATIONS, "conv_1x1", "conv_3x3")


class Block(NamedTuple):
    """Two inputs, an operation on each, and their sum.

    Attributes:
        input_1: -1 for what the last cell gives, -2 for the cell before it, from 0 on for a block of this cell.
        input_2: As well.
        operation_1: On the first input.
        operation_2: On the second.
    """

    input_1: int
    input_2: int
    operation_1: str
    operation_2: str


Cell: TypeAlias = tuple[Block, ...]


class CellSpace(NetworkSpace, ProgressiveSpace, EvolvableSpace):
    """Convolutional networks whose cells are all alike; a structure is a tuple of :class:`Block`, a level their number.

    What a cell gives are the outputs of all blocks that no other block takes, put together. Cells that differ in the
    order of the two halves of a block, or in the order of blocks, are one structure. With the eight published
    operations there are 136 cells of one block, of the 256 that can be written down, and 31,620 of two.

    By default this is the published space. Its networks have three stages of ``repeats`` cells, with one that halves
    the image and doubles the filters between them. Inputs of a cell are brought to its size by mean pooling and a 1 x 1
    convolution, where the published cells have operations of stride 2. Images may be flat, if they are square and have
    one channel.

    Args:
        max_blocks: Most blocks of a cell.
        operations: To choose from, of :data:`OPERATIONS`.
        filters: Of the first stage.
        repeats: Cells in a stage.
        stages: How many.

    Raises:
        ValueError: If there is nothing to choose from, or a value is out of range.

    References:
        Liu et al., "Progressive Neural Architecture Search", ECCV 2018, arXiv 1712.00559, section 3.

    Example:
        >>> space = CellSpace()
        >>> len(space.first()), space.describe(space.first()[0])
        (136, '-2 separable_3x3 + -2 separable_3x3')
        >>> network = small_cells().build(small_cells().first()[0], (1, 8, 8), 10)
    """

    def __init__(
        self,
        max_blocks: int = 5,
        operations: Sequence[str] = PUBLISHED_OPERATIONS,
        *,
        filters: int = 24,
        repeats: int = 2,
        stages: int = 3,
    ) -> None:
        sizes = {"max_blocks": max_blocks, "filters": filters, "repeats": repeats, "stages": stages}
        for name, value in sizes.items():
            if value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}.")
        unknown = [name for name in operations if name not in OPERATIONS]
        if unknown or not operations or len(set(operations)) < len(operations):
            raise ValueError(f"operations must be different ones of {', '.join(OPERATIONS)}, got {list(operations)}.")
        self.max_blocks, self.operations = max_blocks, tuple(operations)
        self.filters, self.repeats, self.stages = filters, repeats, stages

    def suggest(self, trial: BaseTrial) -> Structure:
        """The blocks of a trial, in the order that equal cells share."""
        count = trial.suggest_int("blocks", 1, self.max_blocks)
        blocks = []
        for index in range(count):
            inputs = [trial.suggest_categorical(f"input_{index}_{k}", list(range(-2, index))) for k in (1, 2)]
            operations = [trial.suggest_categorical(f"operation_{index}_{k}", list(self.operations)) for k in (1, 2)]
            blocks.append(Block(inputs[0], inputs[1], operations[0], operations[1]))
        return canonical(blocks)

    def parameters(self, structure: Structure) -> dict[str, Any]:
        """Number of blocks, and inputs and operations of each."""
        found: dict[str, Any] = {"blocks": len(structure)}
        for index, block in enumerate(_cell(structure)):
            found |= {f"input_{index}_1": block.input_1, f"input_{index}_2": block.input_2}
            found |= {f"operation_{index}_1": block.operation_1, f"operation_{index}_2": block.operation_2}
        return found

    def describe(self, structure: Structure) -> str:
        """Inputs and operations of the blocks."""
        return "; ".join(f"{i} {o} + {j} {p}" for i, j, o, p in _cell(structure))

    def build(self, structure: Structure, input_shape: Sequence[int], num_outputs: int) -> nn.Module:
        """Stem, stages of cells, mean over the image and a linear layer."""
        from torch import nn

        from lightning_complexity.selection.spaces.cell_networks import CellNetwork

        shape = tuple(input_shape)
        side = math.isqrt(shape[0])
        is_flat = len(shape) == 1 and side**2 == shape[0]
        if not is_flat and (len(shape) != 3 or min(shape) < 1):
            raise ValueError(
                f"cells need images of shape (channels, height, width), or flat square ones, got shape {shape}."
            )
        channels = 1 if is_flat else shape[0]
        sizes = {"filters": self.filters, "repeats": self.repeats, "stages": self.stages}
        network = CellNetwork(_cell(structure), channels, num_outputs, **sizes)
        return nn.Sequential(nn.Unflatten(1, (1, side, side)), network) if is_flat else network

    def first(self) -> list[Structure]:
        """All cells of one block."""
        return list(self._with_another(()))

    def expand(self, structure: Structure) -> list[Structure]:
        """One more block, which may take the others' outputs."""
        if len(structure) >= self.max_blocks:
            return []
        return list(dict.fromkeys(self._with_another(_cell(structure))))

    def _with_another(self, cell: Cell) -> Iterator[Structure]:
        halves = list(itertools.product(range(-2, len(cell)), self.operations))
        for (i, o), (j, p) in itertools.combinations_with_replacement(halves, 2):
            yield canonical([*cell, Block(i, j, o, p)])

    def level(self, structure: Structure) -> int:
        """Number of blocks."""
        return len(structure)

    def features(self, structure: Structure) -> NDArray[np.float64]:
        """How often there is each operation on each of the two cells and on blocks; outputs and depth of the cell."""
        cell = _cell(structure)
        counts = np.zeros((3, len(self.operations)))
        for inputs, operation in _halves(cell):
            counts[min(inputs, 0), self.operations.index(operation)] += 1
        used = {inputs for inputs, _ in _halves(cell)}
        outputs = sum(index not in used for index in range(len(cell)))
        return np.array([*counts.ravel(), outputs, max(_depths(cell))])

    @property
    def num_tokens(self) -> int:
        """One for each input and each operation."""
        return self.max_blocks + 1 + len(self.operations)

    @property
    def tokens_of_a_block(self) -> int:
        """Two inputs and two operations."""
        return 4

    def tokens(self, structure: Structure) -> list[int]:
        """For each block its inputs and its operations."""
        found = []
        for block in _cell(structure):
            found += [block.input_1 + 2, block.input_2 + 2]
            places = (self.operations.index(name) for name in (block.operation_1, block.operation_2))
            found += [self.max_blocks + 1 + place for place in places]
        return found

    def draw(self, generator: np.random.Generator) -> Structure:
        """Any number of blocks, all equally likely, each with any inputs and operations."""
        count = int(generator.integers(1, self.max_blocks + 1))
        return canonical([self._draw_block(index, generator) for index in range(count)])

    def _draw_block(self, index: int, generator: np.random.Generator) -> Block:
        inputs = [int(number) for number in generator.integers(-2, index, size=2)]
        places = generator.integers(len(self.operations), size=2)
        return Block(inputs[0], inputs[1], self.operations[places[0]], self.operations[places[1]])

    def mutate(self, structure: Structure, generator: np.random.Generator) -> Structure:
        """Another input or operation in one place; or one block more, or one less of those that no other takes."""
        cell, changed = _cell(structure), structure
        while changed == structure:
            kind = generator.choice(["input", "operation", "more", "less"])
            if kind == "more" and len(cell) < self.max_blocks:
                changed = canonical([*cell, self._draw_block(len(cell), generator)])
            elif kind == "less" and len(cell) > 1:
                used = {inputs for inputs, _ in _halves(cell)}
                free = [index for index in range(len(cell)) if index not in used]
                changed = _without(cell, int(generator.choice(free)))
            elif kind in ("input", "operation"):
                place = int(generator.integers(len(cell)))
                drawn = self._draw_block(place, generator)._asdict()
                name = f"{kind}_{generator.integers(1, 3)}"
                block = cell[place]._replace(**{name: drawn[name]})
                changed = canonical([*cell[:place], block, *cell[place + 1 :]])
        return changed


def canonical(blocks: Sequence[Block]) -> Cell:
    """The same cell, in the order that all equal ones have.

    Blocks come by their depth, then by what they compute, written out. Those that compute the same in either cell are
    tried in every order, as blocks that take them may take one of them twice, or two.

    Args:
        blocks: Each takes only those before it.
    """
    words: list[str] = []
    for block in blocks:
        halves = ((block.input_1, block.operation_1), (block.input_2, block.operation_2))
        written = sorted(f"{operation} {words[i] if i >= 0 else i}" for i, operation in halves)
        words.append(f"({written[0]}, {written[1]})")
    depths = _depths(blocks)
    ordered = sorted(range(len(blocks)), key=lambda index: (depths[index], words[index]))
    alike = [list(group) for _, group in itertools.groupby(ordered, key=words.__getitem__)]
    orders = itertools.product(*(itertools.permutations(group) for group in alike))
    return min(_reordered(blocks, list(itertools.chain.from_iterable(order))) for order in orders)


def _reordered(blocks: Sequence[Block], order: Sequence[int]) -> Cell:
    places = {index: place for place, index in enumerate(order)}
    found = []
    for index in order:
        block = blocks[index]
        halves = ((block.input_1, block.operation_1), (block.input_2, block.operation_2))
        (i, o), (j, p) = sorted((places.get(inputs, inputs), operation) for inputs, operation in halves)
        found.append(Block(i, j, o, p))
    return tuple(found)


def _without(cell: Cell, index: int) -> Cell:
    order = [place for place in range(len(cell)) if place != index]
    return canonical(_reordered(cell, order))


def _halves(cell: Sequence[Block]) -> list[tuple[int, str]]:
    return [half for i, j, o, p in cell for half in ((i, o), (j, p))]


def _depths(cell: Sequence[Block]) -> list[int]:
    depths: list[int] = []
    for block in cell:
        depths.append(1 + max(depths[i] if i >= 0 else 0 for i in (block.input_1, block.input_2)))
    return depths


def _cell(structure: Structure) -> Cell:
    blocks = tuple(block for block in structure if isinstance(block, Block))
    assert len(blocks) == len(structure)
    return blocks


def small_cells(max_blocks: int = 3) -> CellSpace:
    """Cells for images of 8 x 8 pixels: four operations, eight filters, two stages of one cell.

    Args:
        max_blocks: Most blocks of a cell.
    """
    return CellSpace(max_blocks, SMALL_OPERATIONS, filters=8, repeats=1, stages=2)
