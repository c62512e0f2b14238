"""The fitness of automatic model selection gives the published values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.spatial import ConvexHull

from lightning_complexity.metrics import ParameterCount
from lightning_complexity.selection import pareto_front
from lightning_complexity.selection.samplers.fitness import norm_of_errors, rounded_size, scalar_fitness
from lightning_complexity.selection.spaces.dense import DenseSpace, Layer
from tests.selection.nas_bench_macro import read_networks

# Laredo et al., arXiv 1905.06010, all tables of networks for MNIST: units of the hidden layers, alpha, accuracy in
# percent, trainable parameters, fitness. The accuracy is printed with three digits, hence the tolerance.
PUBLISHED = [
    ((64,), 0.5, 91.7, 50890, 2.7688),
    ((760, 608), 0.5, 98.7, 1065378, 3.0812),
    ((864, 536, 928), 0.5, 94.6, 1649506, 3.3791),
    ((40, 912), 0.5, 92.1, 77922, 2.8427),
    ((968, 976, 32, 808), 0.5, 96.6, 1771642, 3.2867),
    ((56,), 0.5, 93.9, 44530, 2.6287),
    ((168,), 0.5, 95.8, 133570, 2.7736),
    ((40,), 0.5, 93.4, 31810, 2.5826),
    ((48, 48), 0.5, 94.7, 40522, 2.5693),
    ((312,), 0.5, 95.0, 248050, 2.9431),
    ((32,), 0.3, 91.5, 25450, 1.9126),
    ((32, 32), 0.3, 95.2, 26506, 1.6677),
    ((64, 64, 64, 64), 0.3, 97.2, 63370, 1.6358),
    ((56,), 0.3, 94.7, 44530, 1.7640),
    ((40,), 0.3, 94.4, 31810, 1.7412),
    ((24,), 0.7, 92.2, 19090, 3.2284),
    ((104,), 0.7, 95.2, 82690, 3.5856),
    ((16, 24), 0.7, 92.1, 13218, 3.1158),
    ((56,), 0.7, 94.5, 44530, 3.4200),
    ((208,), 0.7, 95.8, 165370, 3.7762),
]


@pytest.mark.parametrize(("units", "alpha", "accuracy", "parameters", "fitness"), PUBLISHED, ids=str)
def test_published(units: tuple[int, ...], alpha: float, accuracy: float, parameters: int, fitness: float) -> None:
    space = DenseSpace(max_layers=4, units=range(8, 1025, 8))
    network = space.build(tuple(map(Layer, units)), (1, 28, 28), 10)
    assert ParameterCount()(network) == parameters
    assert scalar_fitness(1 - accuracy / 100, parameters, alpha=alpha) == pytest.approx(fitness, abs=0.01)


def test_sizes_are_rounded_and_not_cut_off() -> None:
    # What the text of the paper says, to drop the last three digits, gives 2.7645 for the first published value.
    assert scalar_fitness(0.083, 50_890) == pytest.approx(2.7688, abs=5e-5)
    assert scalar_fitness(0.083, 50_000) == pytest.approx(2.7645, abs=5e-5)
    sizes = [1, 999, 1000, 1499, 1501, 50_499, 50_501]
    assert [rounded_size(size) for size in sizes] == [1, 999, 1000, 1000, 2000, 50_000, 51_000]


def test_ends_of_alpha() -> None:
    assert scalar_fitness(0.25, 10**6, alpha=0) == 2.5
    assert scalar_fitness(0.25, 10**6, alpha=1) == 6.0
    assert scalar_fitness(math.inf, 10, alpha=1) == scalar_fitness(math.nan, 10, alpha=0) == math.inf


@pytest.mark.parametrize(
    ("error", "parameters", "alpha", "message"),
    [
        (0.1, 10, 1.1, "alpha must be"),
        (0.1, 10, math.nan, "alpha must be"),
        (-0.1, 10, 0.5, "error must not"),
        (0.1, 0, 0.5, "parameters must be"),
        (0.1, math.nan, 0.5, "parameters must be"),
    ],
)
def test_what_has_no_fitness_is_said(error: float, parameters: float, alpha: float, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        scalar_fitness(error, parameters, alpha=alpha)


def test_the_norm_of_one_population_says_nothing_about_another() -> None:
    errors = np.array([15.0, 16.0, 20.0])
    assert norm_of_errors([*errors, math.inf, math.nan]) == pytest.approx(np.linalg.norm(errors))
    assert norm_of_errors([0.0, 0.0]) == norm_of_errors([]) == 1.0
    better, worse = [10.0, 10.0], [14.0, 100.0]  # by what the paper says, 10 in the one is worse than 14 in the other
    assert 10 / norm_of_errors(better) > 14 / norm_of_errors(worse)


# Accuracy and parameters, in millions, of the network of least fitness on NAS-Bench-Macro, by alpha.
OPTIMA = {0.0: (93.13, 1.986), 0.1: (93.08, 1.27), 0.3: (92.94, 1.09), 0.5: (91.86, 0.737), 0.7: (88.61, 0.501)}
OPTIMA[0.9] = OPTIMA[0.7]


def test_the_optimum_moves_with_alpha_along_the_convex_hull_of_the_front() -> None:
    networks = read_networks()
    errors, sizes = 1 - networks["accuracy"].to_numpy() / 100, networks["parameters"].to_numpy()
    for alpha, published in OPTIMA.items():
        rows = [scalar_fitness(error, size, alpha=alpha) for error, size in zip(errors, sizes, strict=True)]
        row = int(np.argmin(rows))
        assert (100 * (1 - errors[row]), sizes[row] / 1e6) == pytest.approx(published, abs=0.006)
    points = np.column_stack([errors, np.log10([rounded_size(size) for size in sizes])])
    hull = ConvexHull(points).vertices
    weights = np.linspace(0, 1, 2001)
    reached = {int(np.argmin(points @ [10 * (1 - alpha), alpha])) for alpha in weights}
    assert {tuple(points[row]) for row in reached} <= {tuple(points[row]) for row in hull}
    front = pareto_front(np.column_stack([errors, sizes]), ["minimize", "minimize"]).rows
    assert reached <= set(front)
    assert (len(reached), len(front)) == (16, 39)
