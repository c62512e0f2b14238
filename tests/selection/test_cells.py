"""Cells: the published counts, equal cells are one structure, and their networks compute what a cell says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from lightning_complexity.selection.spaces.cell_networks import CellModule
from lightning_complexity.selection.spaces.cells import (
    OPERATIONS,
    PUBLISHED_OPERATIONS,
    Block,
    CellSpace,
    canonical,
    small_cells,
)

TWO = ("identity", "conv_3x3")


def raw_cells(blocks: int, operations: tuple[str, ...]) -> list[tuple[Block, ...]]:
    """All that can be written down."""
    choices = [
        [
            Block(i, j, o, p)
            for i, j in itertools.product(range(-2, b), repeat=2)
            for o, p in itertools.product(operations, repeat=2)
        ]
        for b in range(blocks)
    ]
    return list(itertools.product(*choices))


def are_equal(first: tuple[Block, ...], second: tuple[Block, ...]) -> bool:
    """Whether some order of one's blocks has the edges of the other, by trying all."""
    edges = [_edges(block) for block in second]
    for order in itertools.permutations(range(len(first))):
        renamed = [
            _edges(first[order[place]], {old: new for new, old in enumerate(order)}) for place in range(len(first))
        ]
        if renamed == edges:
            return True
    return False


def _edges(block: Block, names: dict[int, int] | None = None) -> list[tuple[int, str]]:
    renamed = [(names or {}).get(i, i) for i in (block.input_1, block.input_2)]
    return sorted(zip(renamed, (block.operation_1, block.operation_2), strict=True))


def test_published_number_of_cells_of_one_block() -> None:
    raw = raw_cells(1, PUBLISHED_OPERATIONS)
    assert len(raw) == 256
    assert len({canonical(cell) for cell in raw}) == len(CellSpace().first()) == 16 * 17 // 2 == 136


def test_cells_of_two_blocks() -> None:
    """Two independent blocks in any order, or one and another that takes its output."""
    space = CellSpace()
    expansions = [space.expand(cell) for cell in space.first()]
    assert {len(found) for found in expansions} == {24 * 25 // 2}
    unique = set(itertools.chain.from_iterable(expansions))
    assert len(unique) == 136 * 137 // 2 + 136 * (24 * 25 // 2 - 136) == 31_620


@pytest.mark.parametrize(("blocks", "operations"), [(1, TWO), (2, TWO), (3, ("identity",))])
def test_equal_cells_are_one_structure_and_others_are_not(blocks: int, operations: tuple[str, ...]) -> None:
    """Brute force: classes of cells by trying all orders of blocks and of halves."""
    raw = raw_cells(blocks, operations)
    classes: list[tuple[Block, ...]] = []
    for cell in raw:
        if not any(are_equal(cell, other) for other in classes):
            classes.append(cell)
    forms = {canonical(cell) for cell in raw}
    assert len(forms) == len(classes) == len({canonical(cell) for cell in classes})
    assert all(are_equal(cell, canonical(cell)) for cell in raw)
    space, level = CellSpace(blocks, operations), set(CellSpace(blocks, operations).first())
    for _ in range(blocks - 1):
        level = {child for cell in level for child in space.expand(cell)}
    assert level == forms


def test_taking_a_block_twice_is_not_taking_two_that_are_alike() -> None:
    alike = [Block(-1, -1, "identity", "identity")] * 2
    once = canonical([*alike, Block(0, 0, "identity", "identity")])
    both = canonical([*alike, Block(0, 1, "identity", "identity")])
    other = canonical([*alike, Block(1, 1, "identity", "identity")])
    assert once == other != both


def test_a_cell_computes_what_its_blocks_say() -> None:
    blocks = (
        Block(-2, -1, "identity", "max_pool_3x3"),
        Block(-1, 0, "average_pool_3x3", "identity"),
        Block(-1, -1, "identity", "identity"),
    )
    cell = CellModule(blocks, (3, 5), (1, 0), 4).eval()
    before, last = torch.randn(2, 3, 8, 8), torch.randn(2, 5, 4, 4)
    states = [adapt(x) for adapt, x in zip(cell.adapted.values(), (before, last), strict=True)]
    assert [tuple(state.shape) for state in states] == [(2, 4, 4, 4)] * 2
    first = states[0] + nn.functional.max_pool2d(states[1], 3, 1, 1)
    inside = nn.functional.avg_pool2d(states[1], 3, 1, 1) * 9 / overlap(4) + first
    torch.testing.assert_close(cell(before, last), torch.cat([inside, 2 * states[1]], 1))


def overlap(side: int) -> torch.Tensor:
    """How many pixels of the image a window of 3 x 3 has, at each place."""
    along = torch.tensor([2.0, *[3.0] * (side - 2), 2.0])
    return along[:, None] * along


# Weights without biases, and two parameters of BatchNorm for each of f filters.
SIZES = {
    "separable_3x3": lambda f: 9 * f + f * f + 2 * f,
    "separable_5x5": lambda f: 25 * f + f * f + 2 * f,
    "separable_7x7": lambda f: 49 * f + f * f + 2 * f,
    "conv_1x7_7x1": lambda f: 14 * f * f + 2 * f,
    "identity": lambda f: 0,
    "average_pool_3x3": lambda f: 0,
    "max_pool_3x3": lambda f: 0,
    "dilated_3x3": lambda f: 9 * f * f + 2 * f,
    "conv_1x1": lambda f: f * f + 2 * f,
    "conv_3x3": lambda f: 9 * f * f + 2 * f,
}


@pytest.mark.parametrize("operation", OPERATIONS)
def test_numbers_of_parameters(operation: str) -> None:
    """Two stages of one cell: stem, cell, halving cell, cell; the cell takes the last one's output twice."""
    space = CellSpace(1, (operation,), filters=4, repeats=1, stages=2)
    network = space.build((Block(-1, -1, operation, operation),), (2, 8, 8), 3)
    adapted = sum(c * f + 2 * f for c, f in ((4, 4), (4, 8), (8, 8)))
    cells = sum(2 * SIZES[operation](f) for f in (4, 8, 8))
    expected = 2 * 9 * 4 + 8 + adapted + cells + 8 * 3 + 3
    assert sum(p.numel() for p in network.parameters()) == expected


@pytest.mark.parametrize("shape", [(1, 8, 8), (64,), (3, 5, 7), (2, 1, 1)])
def test_networks_take_images_of_any_size(shape: tuple[int, ...]) -> None:
    space, generator = CellSpace(4, filters=2, repeats=1, stages=3), np.random.default_rng(0)
    for _ in range(5):
        network = space.build(space.draw(generator), shape, 3).eval()
        assert network(torch.randn(2, *shape)).shape == (2, 3)


@pytest.mark.parametrize("shape", [(60,), (8, 8), (0, 8, 8), (1, 1, 8, 8)])
def test_other_inputs_are_refused(shape: tuple[int, ...]) -> None:
    space = small_cells()
    with pytest.raises(ValueError, match=r"images of shape \(channels, height, width\)"):
        space.build(space.first()[0], shape, 10)


def test_every_parameter_has_a_gradient() -> None:
    """Nothing in a network is built in vain."""
    space, generator = small_cells(), np.random.default_rng(1)
    for _ in range(10):
        network = space.build(space.draw(generator), (1, 8, 8), 10)
        network(torch.rand(8, 1, 8, 8)).square().sum().backward()
        assert all(p.grad is not None for p in network.parameters())


def test_a_change_is_one_place() -> None:
    space, generator = CellSpace(3, TWO), np.random.default_rng(0)
    cell = canonical([Block(-1, -1, "identity", "identity"), Block(0, -2, "identity", "identity")])
    seen = {space.mutate(cell, generator) for _ in range(300)}
    assert {len(other) for other in seen} == {1, 2, 3}
    assert (Block(-1, -1, "identity", "identity"),) in seen  # only the block that no other takes can go
    assert {len(other) for other in seen if len(other) == 1} == {1}
    assert sum(len(other) == 1 for other in seen) == 1
    same_size = [other for other in seen if len(other) == 2]
    assert all(sum(o == "conv_3x3" for b in other for o in b[2:]) <= 1 for other in same_size)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_blocks": 0}, "max_blocks must be at least 1"),
        ({"filters": 0}, "filters must be at least 1"),
        ({"operations": ("conv_9x9",)}, "operations must be different ones of"),
        ({"operations": ()}, "operations must be different ones of"),
        ({"operations": ("identity", "identity")}, "operations must be different ones of"),
    ],
)
def test_what_is_no_space_is_said(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CellSpace(**options)
