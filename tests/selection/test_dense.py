"""Random, changed and crossed networks of the dense space are networks of it."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
import torch

from lightning_complexity.selection.spaces.base import Structure
from lightning_complexity.selection.spaces.dense import DenseSpace, Layer

SPACES = {
    "plain": DenseSpace(max_layers=3, units=range(8, 65, 8)),
    "all": DenseSpace(max_layers=4, units=(4, 6, 9), activations=("relu", "tanh", "gelu"), dropouts=(0.0, 0.5)),
    "one activation": DenseSpace(max_layers=5, units=(4, 8), activations=("relu", "tanh"), same_activation=True),
    "one layer": DenseSpace(max_layers=1, units=(4, 6)),
    "deep": DenseSpace(max_layers=6, units=(4,), more_layers=0.9),
}
NUM_TRIES = 300


@pytest.fixture(params=list(SPACES))
def space(request: pytest.FixtureRequest) -> DenseSpace:
    return SPACES[request.param]


@pytest.fixture
def generator() -> np.random.Generator:
    return np.random.default_rng(0)


def check(space: DenseSpace, structure: Structure) -> None:
    assert space.read(space.parameters(structure)) == structure
    assert 1 <= len(structure) <= space.max_layers
    if space.same_activation:
        assert len({layer.activation for layer in structure}) == 1


def test_random_structures_are_of_the_space_and_all_come(space: DenseSpace, generator: np.random.Generator) -> None:
    drawn = Counter(space.draw(generator) for _ in range(3000))
    for structure in drawn:
        check(space, structure)
    assert set(space.first()) <= set(drawn)
    assert max(map(len, drawn)) == space.max_layers


def test_the_number_of_layers_is_geometric(generator: np.random.Generator) -> None:
    space, count = DenseSpace(max_layers=4, units=(2, 3), more_layers=0.4), 20_000
    lengths = Counter(len(space.draw(generator)) for _ in range(count))
    for layers, share in {1: 0.6, 2: 0.24, 3: 0.096, 4: 0.064}.items():
        assert lengths[layers] / count == pytest.approx(share, abs=4 * math.sqrt(share * (1 - share) / count))


def test_a_mutant_differs_in_one_layer(space: DenseSpace, generator: np.random.Generator) -> None:
    for _ in range(NUM_TRIES):
        old = space.draw(generator)
        new = space.mutate(old, generator)
        check(space, new)
        if new == old:
            assert space.max_layers == len(space.units) == 1
            continue
        shorter, longer = sorted((old, new), key=len)
        if len(old) != len(new):
            assert len(longer) - len(shorter) == 1
            assert shorter in {longer[:i] + longer[i + 1 :] for i in range(len(longer))}
            continue
        changed = [(a, b) for a, b in zip(old, new, strict=True) if a != b]
        fields = {name for a, b in changed for name in Layer._fields if getattr(a, name) != getattr(b, name)}
        assert len(fields) == 1
        if space.same_activation and fields == {"activation"}:
            assert len(changed) == len(old)
        else:
            assert len(changed) == 1


def test_all_neighbours_are_mutants(generator: np.random.Generator) -> None:
    space = DenseSpace(max_layers=2, units=(4, 6), activations=("relu", "tanh"))
    old = (Layer(4), Layer(6))
    shorter = {(Layer(4),), (Layer(6),)}
    other_units = {(Layer(6), Layer(6)), (Layer(4), Layer(4))}
    other_activation = {(Layer(4, "tanh"), Layer(6)), (Layer(4), Layer(6, "tanh"))}
    assert {space.mutate(old, generator) for _ in range(200)} == shorter | other_units | other_activation
    longer = {space.mutate((Layer(4),), generator) for _ in range(500)}
    kinds = [Layer(*choice) for choice in itertools.product((4, 6), ("relu", "tanh"))]
    inserted = {pair for kind in kinds for pair in ((kind, Layer(4)), (Layer(4), kind))}
    assert longer == inserted | {(Layer(6),), (Layer(4, "tanh"),)}


def test_the_only_structure_stays() -> None:
    space = DenseSpace(max_layers=1, units=(4,))
    assert space.mutate((Layer(4),), np.random.default_rng(0)) == (Layer(4),)


def test_children_exchange_one_run_of_layers(space: DenseSpace, generator: np.random.Generator) -> None:
    for _ in range(NUM_TRIES):
        parents = space.draw(generator), space.draw(generator)
        children = space.cross(*parents, generator)
        for child in children:
            check(space, child)
        units = [tuple(layer.units for layer in structure) for structure in (*parents, *children)]
        assert tuple(units[2:]) in exchanges(units[0], units[1])
        if space.same_activation:
            assert [child[0].activation for child in children] == [parent[0].activation for parent in parents]


def exchanges(first: tuple[int, ...], second: tuple[int, ...]) -> set[tuple[tuple[int, ...], tuple[int, ...]]]:
    runs = [
        [(i, j) for i in range(len(structure)) for j in range(i + 1, len(structure) + 1)]
        for structure in (first, second)
    ]
    return {
        (first[:i] + second[k:m] + first[j:], second[:k] + first[i:j] + second[m:])
        for (i, j), (k, m) in itertools.product(*runs)
    }


def test_all_exchanges_that_fit_come() -> None:
    space = DenseSpace(max_layers=4, units=range(1, 8))
    first, second = (Layer(1), Layer(2), Layer(3)), (Layer(4), Layer(5))
    generator = np.random.default_rng(0)
    found = {space.cross(first, second, generator) for _ in range(1000)}
    # Two equal points reach to the end, so that no single layer but the last is exchanged alone.
    expected = {
        pair
        for pair in exchanges((1, 2, 3), (4, 5))
        if max(map(len, pair)) <= 4 and not ({1, 2} - set(pair[0]) in ({1}, {2}) and 3 in pair[0])
    }
    assert {tuple(tuple(layer.units for layer in child) for child in pair) for pair in found} == expected


def test_a_child_of_equal_parents_can_be_longer_and_shorter_than_they(generator: np.random.Generator) -> None:
    space = DenseSpace(max_layers=6, units=(4,))
    parent = (Layer(4),) * 3
    lengths = {len(space.cross(parent, parent, generator)[0]) for _ in range(200)}
    assert lengths == {1, 2, 3, 4, 5}


def test_the_published_distance_by_hand() -> None:
    space = DenseSpace(
        max_layers=3, units=range(8, 65, 8), activations=("sigmoid", "tanh", "relu"), dropouts=(0.0, 0.5)
    )
    first = (Layer(16, "relu"),)
    second = (Layer(8, "tanh"), Layer(32, "relu", 0.5))
    expected = math.sqrt(8**2 + 1) + math.sqrt(1 + 32**2 + 2**2 + 0.5**2)
    assert space.distance(first, second) == space.distance(second, first) == pytest.approx(expected)
    assert space.distance(second, second) == 0


def test_similar_structures() -> None:
    near, far = (Layer(8), Layer(16)), (Layer(8), Layer(24))
    units = range(8, 65, 8)
    assert DenseSpace(max_layers=2, units=units).are_similar(near, near)
    assert not DenseSpace(max_layers=2, units=units).are_similar(near, far)
    assert DenseSpace(max_layers=2, units=units, similar_distance=8).are_similar(near, far)


def test_what_comes_out_can_be_trained(space: DenseSpace, generator: np.random.Generator) -> None:
    for _ in range(20):
        structure = space.mutate(space.cross(space.draw(generator), space.draw(generator), generator)[0], generator)
        network = space.build(structure, (2, 3), 4).double()
        outputs = network(torch.ones(5, 2, 3, dtype=torch.float64))
        assert outputs.shape == (5, 4)
        outputs.sum().backward()


def test_one_activation_for_all_layers_at_every_level() -> None:
    space = SPACES["one activation"]
    (structure, *_) = space.first()
    assert {layer.activation for child in space.expand(structure) for layer in child} == {structure[0].activation}
    parameters = space.parameters((Layer(4, "tanh"), Layer(8, "tanh")))
    assert parameters == {"layers": 2, "units_0": 4, "activation": "tanh", "units_1": 8}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"more_layers": 1.5}, "more_layers must be between 0 and 1, got 1.5"),
        ({"similar_distance": -1.0}, "similar_distance must not be negative"),
        ({"units": ()}, "units must be different positive numbers"),
        ({"activations": ("softmax",)}, "activations must be of relu"),
    ],
)
def test_what_is_no_space_is_said(options: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        DenseSpace(**options)


def test_short_names() -> None:
    first, second = Layer(4), Layer(8, "tanh", 0.5)
    options = {"units": (4, 8), "dropouts": (0.0, 0.5)}
    assert DenseSpace(**options).describe((first, second)) == "4-8/0.5"
    both = DenseSpace(**options, activations=("relu", "tanh"))
    assert both.describe((first, second)) == "4 relu-8/0.5 tanh"
    one = DenseSpace(**options, activations=("relu", "tanh"), same_activation=True)
    assert one.describe((first._replace(activation="tanh"), second)) == "4-8/0.5 tanh"
    assert DenseSpace(**options, same_activation=True).describe((first, first)) == "4-4"
