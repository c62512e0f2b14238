"""Parts of two public tables, where another conclusion holds at equal complexity; and published orders of draws."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from lightning_complexity.selection.design_spaces.comparing import SpaceComparison, compare_spaces
from lightning_complexity.selection.design_spaces.efficiency import (
    best_against_best,
    chance_of_the_larger_search,
    expected_evaluations,
    search_efficiency,
)
from tests.selection.design_spaces.subspaces import (
    Pair,
    at_least,
    canonical,
    cell_pairs,
    cells,
    macro_networks,
    macro_pairs,
    with_edges,
)


def compared(pair: Pair, complexity: str = "flops", **options: object) -> SpaceComparison:
    return compare_spaces(*pair.spaces, names=pair.names, complexity=complexity, draws=99, **options)  # type: ignore[arg-type]


def by_definition(pair: Pair, edges: np.ndarray, complexity: str) -> tuple[float, float]:
    """Chance that the first wins, and distance, at equal complexity: loops over bins, pairs and errors."""
    parts = []
    for frame in pair.spaces:
        inside = frame[frame[complexity].between(edges[0], edges[-1])]
        bins = pd.cut(inside[complexity], edges, right=False, labels=False).fillna(len(edges) - 2)
        parts.append([inside["error"][bins == b].to_numpy() for b in range(len(edges) - 1)])
    wins = 0.0
    for first in parts[0]:
        for second in parts[1]:
            wins += 1 - stats.mannwhitneyu(first, second).statistic / (len(first) * len(second))
    errors = np.unique(np.concatenate([e for part in parts for e in part]))
    means = [np.mean([(errors[:, None] >= e[None]).mean(1) for e in part], axis=0) for part in parts]
    return wins / (len(edges) - 1) ** 2, float(np.abs(means[0] - means[1]).max())


def test_networks_of_macro_are_all_different() -> None:
    networks = macro_networks()
    assert len(networks) == 9 * 21 * 21
    assert canonical("22212220") == canonical("22212202") == "22212220"


@pytest.mark.parametrize("logarithmic", [False, True])
def test_large_kernels_of_macro_are_better_until_operations_are_equal(logarithmic: bool) -> None:
    pair = at_least(macro_networks(), "MB6_K5", 2)
    found = compared(pair, logarithmic=logarithmic)
    assert found.normalized is not None
    assert found.bins is not None
    assert [len(space) for space in pair.spaces] == [3249, 720]
    assert (found.plain.better, found.normalized.better) == (0, 1)
    assert found.plain.first_wins.value == pytest.approx(0.797, abs=5e-4)
    wins, distance = by_definition(pair, found.bins.edges, "flops")
    assert found.normalized.first_wins.value == pytest.approx(wins, abs=1e-9)
    assert found.normalized.distance.value == pytest.approx(distance, abs=1e-9)
    assert wins < 0.42


@pytest.mark.parametrize("connected_only", [False, True])
def test_convolutions_of_nas_bench_201_are_better_until_parameters_are_equal(connected_only: bool) -> None:
    frame = cells()
    if connected_only:
        frame = frame[frame["error"] < 89.99]
    pair = with_edges(frame, 2, "skip_connect", "nor_conv_3x3")
    for logarithmic in (False, True):
        found = compared(pair, "parameters", logarithmic=logarithmic)
        assert found.normalized is not None
        assert found.bins is not None
        assert (found.plain.better, found.normalized.better, found.changes) == (1, 0, True)
        wins, distance = by_definition(pair, found.bins.edges, "parameters")
        assert found.normalized.first_wins.value == pytest.approx(wins, abs=1e-9)
        assert found.normalized.distance.value == pytest.approx(distance, abs=1e-9)
        assert wins > 0.59


@pytest.mark.slow
def test_how_many_pairs_change() -> None:
    """The numbers on the page: of pairs with any change, and with the other space better, whatever the bins."""
    for pairs, expected in ((macro_pairs(macro_networks()), (42, 23, 13, 3)), (cell_pairs(cells()), (65, 28, 17, 9))):
        changed = [_changes(pair) for pair in pairs]
        counts = (any(c for c, _ in one) for one in changed), (any(t for _, t in one) for one in changed)
        always = sum(len(one) == 4 and all(t for _, t in one) for one in changed)
        assert (len(changed), *map(sum, counts), always) == expected


def _changes(pair: Pair) -> list[tuple[bool, bool]]:
    """For each complexity and kind of bins that is possible: whether the conclusion changes, and turns."""
    found = []
    for complexity in ("parameters", "flops"):
        for logarithmic in (False, True):
            try:
                one = compared(pair, complexity, logarithmic=logarithmic)
            except ValueError:  # no range in common
                continue
            assert one.normalized is not None
            both = (one.plain.better, one.normalized.better)
            found.append((one.changes, None not in both and both[0] != both[1]))
    return found


def test_random_search_on_macro_takes_what_the_identity_says() -> None:
    errors = macro_networks()["error"].to_numpy(float)
    assert expected_evaluations(len(errors), 10) == pytest.approx(3970 / 11)
    generator = np.random.default_rng(0)
    best = np.argsort(errors, kind="stable")[:10]
    firsts = [np.isin(generator.permutation(len(errors)), best).argmax() + 1 for _ in range(2000)]
    assert np.mean(firsts) == pytest.approx(3970 / 11, rel=0.07)


def test_of_one_space_the_larger_search_wins() -> None:
    errors = macro_networks()["error"].to_numpy(float)
    contest = best_against_best(errors, errors, 1000, 100, replace=False)
    assert contest.wins + contest.ties / 2 == pytest.approx(chance_of_the_larger_search(1000, 100), abs=0.01)
    generator = np.random.default_rng(1)
    minima = [[errors[generator.permutation(len(errors))[:k]].min() for k in (1000, 100)] for _ in range(1000)]
    large, small = np.array(minima).T
    assert contest.wins == pytest.approx((large < small).mean(), abs=0.035)
    assert contest.ties == pytest.approx((large == small).mean(), abs=0.02)


def test_the_least_error_of_draws_is_as_drawn() -> None:
    errors = macro_networks()["error"].to_numpy(float)
    generator = np.random.default_rng(2)
    for row in search_efficiency(errors, [10, 250], replace=False).to_dict("records"):
        k = int(row["draws"])
        minima = [errors[generator.permutation(len(errors))[:k]].min() for _ in range(1000)]
        assert row["mean"] == pytest.approx(np.mean(minima), abs=4 * row["sd"] / 1000**0.5)
        assert row["sd"] == pytest.approx(np.std(minima), rel=0.15)
