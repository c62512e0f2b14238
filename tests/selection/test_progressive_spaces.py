"""Laws of every space that can be searched level by level; a new space is found and asks for an example here."""

from __future__ import annotations

import importlib
import inspect
import itertools
import pkgutil
from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch

from lightning_complexity.selection import spaces
from lightning_complexity.selection.spaces.base import (
    EvolvableSpace,
    NetworkSpace,
    ProgressiveSpace,
    Structure,
    TableSpace,
)
from tests.selection.nas_bench_macro import TABLE, read_networks


def found() -> dict[str, type]:
    modules = [importlib.import_module(f"{spaces.__name__}.{m.name}") for m in pkgutil.iter_modules(spaces.__path__)]
    classes = {c for m in modules for c in vars(m).values() if inspect.isclass(c) and not inspect.isabstract(c)}
    ordered = sorted(classes, key=lambda c: c.__name__)
    return {c.__name__: c for c in ordered if issubclass(c, (ProgressiveSpace, EvolvableSpace))}


CLASSES = found()
EXAMPLES: dict[str, Callable[[], object]] = {
    "DenseSpace": lambda: CLASSES["DenseSpace"](3, (4, 8), ("relu", "tanh"), (0.0, 0.5)),
    "CellSpace": lambda: CLASSES["CellSpace"](3, ("identity", "conv_3x3", "max_pool_3x3"), filters=2, repeats=1),
    "MacroSpace": lambda: CLASSES["MacroSpace"](TABLE),
}
PROGRESSIVE = [name for name, c in CLASSES.items() if issubclass(c, ProgressiveSpace)]
EVOLVABLE = [name for name, c in CLASSES.items() if issubclass(c, EvolvableSpace)]


def example(name: str) -> object:
    assert name in EXAMPLES, f"give an example of {name} in EXAMPLES"
    if issubclass(CLASSES[name], TableSpace):
        read_networks()  # skips where there is none
    return EXAMPLES[name]()


def climbed(space: ProgressiveSpace, width: int = 5) -> list[list[Structure]]:
    """Some structures of each level, and the first level whole."""
    generator, levels = np.random.default_rng(0), [space.first()]
    while True:
        above = [child for structure in levels[-1][-width:] for child in space.expand(structure)]
        if not above:
            return levels
        levels.append([above[i] for i in generator.permutation(len(above))[: 4 * width]])


@pytest.mark.parametrize("name", PROGRESSIVE)
def test_levels(name: str) -> None:
    space = example(name)
    assert isinstance(space, ProgressiveSpace)
    levels = climbed(space)
    assert len(levels) > 2
    lowest = space.level(levels[0][0])
    assert len(set(levels[0])) == len(levels[0])
    for place, structures in enumerate(levels):
        assert {space.level(structure) for structure in structures} == {lowest + place}
        for structure in structures[:5]:
            children = space.expand(structure)
            assert len(set(children)) == len(children)
            assert bool(children) == (place + 1 < len(levels))


@pytest.mark.parametrize("name", PROGRESSIVE)
def test_what_surrogates_read(name: str) -> None:
    space = example(name)
    assert isinstance(space, ProgressiveSpace)
    levels = climbed(space)
    structures = list(dict.fromkeys(s for level in levels for s in level))
    features = np.stack([space.features(structure) for structure in structures])
    assert features.dtype == np.float64
    assert np.isfinite(features).all()
    tokens = [space.tokens(structure) for structure in structures]
    assert len({tuple(row) for row in tokens}) == len(structures), "tokens tell structures apart"
    used = {token for row in tokens for token in row}
    assert min(used) >= 0
    assert max(used) < space.num_tokens
    assert all(len(row) % space.tokens_of_a_block == 0 for row in tokens)
    lengths = [np.mean([len(space.tokens(s)) for s in level]) for level in levels]
    assert all(below < above for below, above in itertools.pairwise(lengths))


def members(space: object) -> Sequence[Structure]:
    generator = np.random.default_rng(0)
    drawn = [space.draw(generator) for _ in range(30)] if isinstance(space, EvolvableSpace) else []
    return drawn + ([s for level in climbed(space) for s in level] if isinstance(space, ProgressiveSpace) else [])


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_and_structures_are_the_same_thing(name: str) -> None:
    space = example(name)
    for structure in members(space):
        parameters = space.parameters(structure)
        assert space.read(parameters) == structure
        assert list(space.distributions(structure)) == list(parameters)
        assert space.describe(structure)


@pytest.mark.parametrize("name", [name for name, c in CLASSES.items() if issubclass(c, NetworkSpace)])
def test_networks_run_and_can_be_trained(name: str) -> None:
    space = example(name)
    assert isinstance(space, NetworkSpace)
    for structure in members(space)[::9]:
        network = space.build(structure, (1, 6, 6), 3)
        outputs = network(torch.rand(4, 1, 6, 6))
        assert outputs.shape == (4, 3)
        outputs.square().sum().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in network.parameters())


@pytest.mark.parametrize("name", [name for name, c in CLASSES.items() if issubclass(c, TableSpace)])
def test_tables_have_an_error_for_each_structure(name: str) -> None:
    space = example(name)
    assert isinstance(space, TableSpace)
    for structure in members(space):
        found = space.outcome(structure)
        assert found.keys() >= {"error", "parameters"}
        assert all(np.isfinite(value) and value >= 0 for value in found.values())


@pytest.mark.parametrize("name", EVOLVABLE)
def test_changes(name: str) -> None:
    space = example(name)
    assert isinstance(space, EvolvableSpace)
    structure = space.draw(np.random.default_rng(0))
    seen = {structure}
    generator, again = np.random.default_rng(1), np.random.default_rng(1)
    for _ in range(50):
        changed = space.mutate(structure, generator)
        assert changed != structure
        assert changed == space.mutate(structure, again), "the generator alone decides"
        assert space.read(space.parameters(changed)) == changed
        structure = changed
        seen.add(structure)
    assert len(seen) > 10
    assert len({space.draw(generator) for _ in range(30)}) > 10
