"""Trade-offs that papers and their tables report."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lightning_complexity.selection import pareto_front, read_points, simplest_within_one_standard_error
from tests.selection.nas_bench_macro import read_networks


@pytest.fixture(scope="module")
def networks() -> pd.DataFrame:
    return read_networks()


def test_the_published_choices_of_automatic_model_selection_are_a_front() -> None:
    # Laredo et al. 2020: test accuracy on MNIST and trainable parameters at alpha = 0.3, 0.5, 0.7.
    accuracy, parameters = [97.4, 97.0, 95.4], [63370, 40522, 13218]
    assert parameters == [
        784 * 64 + 64 + 3 * (64 * 64 + 64) + 650,
        784 * 48 + 48 + 48 * 49 + 490,
        16 * 785 + 24 * 17 + 250,
    ]
    front = pareto_front(np.column_stack([accuracy, parameters]), ["maximize", "minimize"])
    assert front.rows == (0, 1, 2)


def test_the_best_networks_by_number_of_layers(networks: pd.DataFrame) -> None:
    assert networks.groupby("level").size().tolist() == [1, 12, 68, 240, 576, 960, 1088, 768, 256]
    best = networks.groupby("level")["accuracy"].max()
    assert best.round(1).tolist() == [45.4, 75.9, 86.4, 90.1, 91.8, 92.7, 93.1, 93.1, 93.1]
    front = read_points(networks, {"accuracy": "maximize", "level": "minimize"}).front()
    expected = [level for level, most in enumerate(best) if all(most > fewer for fewer in best.tolist()[:level])]
    assert front.points[::-1, 1].tolist() == expected
    np.testing.assert_array_equal(front.points[::-1, 0], best[expected])


# Accuracy and parameters, in millions, of the network of least fitness of Laredo et al., by alpha.
SCALAR = {
    0.0: (93.13, 1.986),
    0.1: (93.08, 1.27),
    0.3: (92.94, 1.09),
    0.5: (91.86, 0.737),
    0.7: (88.61, 0.501),
    0.9: (88.61, 0.501),
}


def test_optima_of_weighted_sums_are_on_the_front_and_most_of_the_front_is_none(networks: pd.DataFrame) -> None:
    points = read_points(networks, {"accuracy": "maximize", "parameters": "minimize"})
    front = points.front()
    rounded = networks["parameters"].round(-3)
    for alpha, published in SCALAR.items():
        fitness = 10 * (1 - alpha) * (1 - networks["accuracy"] / 100) + alpha * np.log10(rounded)
        row = int(fitness.idxmin())
        found = networks["accuracy"][row], networks["parameters"][row] / 1e6
        assert found == pytest.approx(published, abs=0.006)
        assert row in front.rows
    assert len(front) == 39


def test_the_simplest_network_by_loops_over_the_table(networks: pd.DataFrame) -> None:
    choice = simplest_within_one_standard_error(
        networks["runs"].tolist(),
        networks["parameters"].tolist(),
        direction="maximize",
        names=networks["network"].tolist(),
    )
    best = networks.loc[networks["accuracy"].idxmax()]
    bound = best["accuracy"] - np.std(best["runs"], ddof=1) / np.sqrt(3)
    cheapest = min(p for a, p in zip(networks["accuracy"], networks["parameters"], strict=True) if a >= bound)
    assert choice.best.name == best["network"]
    assert choice.bound == pytest.approx(bound)
    assert choice.chosen.cost == cheapest < best["parameters"]
    assert choice.chosen.score >= bound
