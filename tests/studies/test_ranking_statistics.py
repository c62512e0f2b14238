"""Statistics of rankings, against their definitions written out in loops, values on paper, and laws."""

from __future__ import annotations

import math
from collections import defaultdict
from itertools import combinations, permutations, product

import numpy as np
import pandas as pd
import pytest
from scipy.stats import kendalltau

from lightning_complexity import studies
from lightning_complexity.studies import Ranking
from lightning_complexity.studies.ranking.information import Cells, competition_information, conditional_information
from lightning_complexity.studies.ranking.kendall import kendall
from tests.studies.trained_tables import HYPERPARAMETERS, table

MEASURES = ("norm", "margin")
TEST_SAMPLES = 5_000


@pytest.fixture(scope="module")
def frame() -> pd.DataFrame:
    return table()


def ranked(frame: pd.DataFrame, measures: tuple[str, ...] = MEASURES, *, minimum: float = 12.0) -> Ranking:
    return studies.rank(
        frame,
        hyperparameters=HYPERPARAMETERS,
        measures=measures,
        gap="gap",
        seed="seed",
        test_samples=TEST_SAMPLES,
        min_effective_samples=minimum,
        draws=0,
    )


@pytest.fixture(scope="module")
def ranking(frame: pd.DataFrame) -> Ranking:
    return ranked(frame)


def means(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.groupby(list(HYPERPARAMETERS), as_index=False)[[*MEASURES, "gap"]].mean()


def tau_a(measure: np.ndarray, gap: np.ndarray) -> float:
    n = len(gap)
    return sum(np.sign(measure[i] - measure[j]) * np.sign(gap[i] - gap[j]) for i, j in permutations(range(n), 2)) / (
        n * (n - 1)
    )


@pytest.mark.parametrize("measure", MEASURES)
def test_kendall_of_runs_and_of_means(frame: pd.DataFrame, ranking: Ranking, measure: str) -> None:
    for data, which in ((frame, "_runs"), (means(frame), "")):
        x, g = data[measure].to_numpy(), data["gap"].to_numpy()
        assert ranking.frame.loc[measure, f"tau_a{which}"] == pytest.approx(tau_a(x, g), abs=1e-14)
        assert ranking.frame.loc[measure, f"tau_b{which}"] == pytest.approx(kendalltau(x, g).statistic, abs=1e-14)


def test_kendall_of_two_networks() -> None:
    assert kendall(np.array([1.0, 2.0]), np.array([0.3, 0.1])) == (-1.0, -1.0)
    assert kendall(np.array([1.0, 2.0]), np.array([0.1, 0.3])) == (1.0, 1.0)


def test_kendall_without_two_values() -> None:
    nothing = kendall(np.array([1.0]), np.array([1.0]))
    assert all(map(math.isnan, nothing))
    a, b = kendall(np.ones(3), np.arange(3.0))
    assert a == 0
    assert math.isnan(b)


def granulated(data: pd.DataFrame, measure: str, hyperparameter: str) -> float:
    others = [name for name in HYPERPARAMETERS if name != hyperparameter]
    groups = [g for _, g in data.groupby(others) if len(g) > 1]
    return float(np.mean([tau_a(g[measure].to_numpy(), g["gap"].to_numpy()) for g in groups]))


@pytest.mark.parametrize("measure", MEASURES)
def test_granulated_kendall(frame: pd.DataFrame, ranking: Ranking, measure: str) -> None:
    expected = [granulated(means(frame), measure, name) for name in HYPERPARAMETERS]
    np.testing.assert_allclose(ranking.psi.loc[measure], expected, atol=1e-14)
    assert ranking.frame.loc[measure, "Psi"] == pytest.approx(np.mean(expected), abs=1e-14)
    for seed, found in ranking.psi_by_seed.loc[measure].items():
        own = means(frame[frame["seed"] == seed])
        assert found == pytest.approx(np.mean([granulated(own, measure, h) for h in HYPERPARAMETERS]), abs=1e-14)


def entropy(counts: list[float]) -> float:
    total = sum(counts)
    return -sum(c / total * math.log2(c / total) for c in counts if c)


def information(counts: dict[tuple[int, int], float]) -> tuple[float, float]:
    """Mutual information of two bits, and entropy of the second, from counts."""
    rows = [counts[a, 0] + counts[a, 1] for a in (0, 1)]
    columns = [counts[0, b] + counts[1, b] for b in (0, 1)]
    return entropy(rows) + entropy(columns) - entropy([*counts.values()]), entropy(columns)


@pytest.mark.parametrize("measure", MEASURES)
def test_information_given_up_to_two_hyperparameters(frame: pd.DataFrame, ranking: Ranking, measure: str) -> None:
    data, values = means(frame), []
    for chosen in [s for n in range(3) for s in combinations(HYPERPARAMETERS, n)]:
        cells: dict[object, dict[tuple[int, int], float]] = defaultdict(
            lambda: dict.fromkeys(product((0, 1), (0, 1)), 0)
        )
        for (_, a), (_, b) in permutations(data.iterrows(), 2):
            if a[measure] != b[measure] and a["gap"] != b["gap"]:
                known = tuple((a[h], b[h]) for h in chosen)
                cells[known][int(a[measure] > b[measure]), int(a["gap"] > b["gap"])] += 1
        bits = [(sum(c.values()), *information(c)) for c in cells.values()]
        values.append(sum(n * i for n, i, _ in bits) / sum(n * h for n, _, h in bits))
        assert ranking.information.loc[measure, "|".join(chosen) or "empty"] == pytest.approx(values[-1], abs=1e-12)
    assert ranking.frame.loc[measure, "K"] == pytest.approx(min(values), abs=1e-12)
    assert ranking.frame.loc[measure, "K1"] == pytest.approx(min(values[1:4]), abs=1e-12)


@pytest.mark.parametrize("measure", MEASURES)
def test_the_competition_s_variant(frame: pd.DataFrame, ranking: Ranking, measure: str) -> None:
    data = means(frame)
    for chosen in combinations(HYPERPARAMETERS, 2):
        cells: dict[object, dict[tuple[int, int], float]] = defaultdict(
            lambda: dict.fromkeys(product((0, 1), (0, 1)), 0)
        )
        for (_, a), (_, b) in product(data.iterrows(), repeat=2):
            known = tuple((a[h], b[h]) for h in chosen)
            cells[known][int(a[measure] > b[measure]), int(a["gap"] > b["gap"])] += 1
        bits = np.array([information(c) for c in cells.values()])
        ratio = bits[:, 0].mean() / bits[:, 1].mean()
        assert ranking.competition.loc[measure, "|".join(chosen)] == pytest.approx(ratio, abs=1e-9)


def test_information_on_paper() -> None:
    # Of 8 ordered pairs 6 are ordered alike: 1 - H(1/4), over an entropy of one bit.
    one = np.ones((1, 1))
    counts = Cells(both=3 * one, measure=4 * one, gap=4 * one, against=one, pairs=9 * one)
    assert conditional_information(counts) == pytest.approx(1 - entropy([1, 3]), abs=1e-15)
    assert conditional_information(counts) == pytest.approx(0.1887218755408671, abs=1e-15)
    # The competition counts the self pair, of 9, as "not greater" in both.
    expected = information({(1, 1): 3, (1, 0): 1, (0, 1): 1, (0, 0): 4})
    assert competition_information(counts) == pytest.approx(expected[0] / expected[1], abs=1e-10)


def weight(difference: float) -> float:
    return max(max(0.0, 1 - 2 * math.exp(-2 * TEST_SAMPLES * (difference / 2) ** 2)) ** 2 - 0.5, 0.0)


def environments(frame: pd.DataFrame, measure: str, noise_filter: bool) -> list[tuple[tuple[object, ...], np.ndarray]]:
    """The hyper-parameter that differs with its two values, and the sums over run pairs, for both directions."""
    found = []
    for (one, a), (other, b) in permutations(frame.groupby(list(HYPERPARAMETERS)), 2):
        differing = [i for i in range(3) if one[i] != other[i]]
        if len(differing) != 1:
            continue
        sums = np.zeros(3)
        for m, g in a[[measure, "gap"]].to_numpy():
            for n, h in b[[measure, "gap"]].to_numpy():
                w = weight(abs(g - h)) if noise_filter else 1.0
                sums += w * (1 - np.sign(m - n) * np.sign(g - h)) / 2, w, w * w
        i = differing[0]
        found.append(((HYPERPARAMETERS[i], one[i], other[i]), sums))
    return found


def losses(sums: list[np.ndarray], minimum: float) -> list[float]:
    return [float(e / w) for e, w, w2 in sums if w > 0 and w * w / w2 >= minimum - 1e-9]


@pytest.mark.parametrize(("weights", "minimum"), [("noise filter", 4.0), ("all pairs", 12.0), ("noise filter", 9.0)])
@pytest.mark.parametrize("measure", MEASURES)
def test_sign_error(frame: pd.DataFrame, measure: str, weights: str, minimum: float) -> None:
    ranking = ranked(frame, minimum=minimum)
    found = environments(frame, measure, weights == "noise filter")
    groups = {name: losses([s for key, s in found if key[0] == name], minimum) for name in HYPERPARAMETERS}
    groups["all"] = losses([s for _, s in found], minimum)
    pooled: dict[object, np.ndarray] = defaultdict(lambda: np.zeros(3))
    for key, sums in found:
        pooled[key] += sums
    groups["weak_family"] = losses([*pooled.values()], minimum)
    assert len(groups["all"]) < len(found)  # some are filtered
    for name, values in groups.items():
        row = ranking.sign_error.loc[(measure, weights, name)]
        assert row["n"] == len(values)
        expected = [np.mean(values), np.percentile(values, 90), max(values)] if values else [np.nan] * 3
        np.testing.assert_allclose(row[["mean", "p90", "max"]], expected, atol=1e-13)


STATISTICS = [
    "tau_a_runs",
    "tau_b_runs",
    "tau_a",
    "tau_b",
    "Psi",
    "K",
    "K_competition",
    "sign_error",
    "robust_sign_error",
]


def test_the_order_of_rows_changes_nothing(frame: pd.DataFrame, ranking: Ranking) -> None:
    again = ranked(frame.sample(frac=1, random_state=3))
    np.testing.assert_allclose(
        again.frame.loc[list(MEASURES), STATISTICS], ranking.frame.loc[list(MEASURES), STATISTICS], atol=1e-13
    )


def test_a_change_of_sign_turns_all_but_the_information(frame: pd.DataFrame) -> None:
    one = ranked(frame.assign(other=-frame["norm"]), ("norm", "other"), minimum=4).frame
    for name in ("tau_a_runs", "tau_b_runs", "tau_a", "tau_b", "Psi"):
        assert one.loc["other", name] == pytest.approx(-one.loc["norm", name], abs=1e-14)
    assert one.loc["other", "K"] == pytest.approx(one.loc["norm", "K"], abs=1e-14)
    for name in ("sign_error", "robust_sign_error"):
        assert one.loc["other", name] == pytest.approx(1 - one.loc["norm", name], abs=1e-13)


def test_the_gap_itself_explains_all_and_a_constant_nothing(frame: pd.DataFrame) -> None:
    ranking = ranked(frame.assign(copy=3 * frame["gap"]), ("copy", "constant"), minimum=1)
    copy, constant = ranking.frame.loc["copy"], ranking.frame.loc["constant"]
    assert copy["tau_b"] == copy["K"] == copy["K2"] == pytest.approx(1)
    assert copy["robust_sign_error_max"] == pytest.approx(0)
    assert copy["direction"] == "rises"
    assert (ranking.psi.loc["constant"] == 0).all()
    assert constant["K"] == constant["tau_a"] == 0
    assert math.isnan(constant["tau_b"])
    assert [constant["sign_error"], constant["robust_sign_error_max"]] == pytest.approx([0.5, 0.5])
    assert constant["direction"] == "none"
    assert any("constant, and so of no use: constant" in note for note in ranking.notes)


def test_values_near_the_end_of_the_range_do_not_overflow(frame: pd.DataFrame) -> None:
    names = ("rank", "huge")
    rank = frame["norm"].rank()
    ranking = studies.rank(
        frame.assign(rank=rank, huge=rank * 2.0**1018),
        hyperparameters=HYPERPARAMETERS,
        measures=names,
        gap="gap",
        seed="seed",
        draws=10,
    )
    for one in (ranking.frame.drop(columns="direction"), ranking.intervals.unstack()):
        np.testing.assert_array_equal(one.loc["huge"].to_numpy(float), one.loc["rank"].to_numpy(float))


def test_one_hyperparameter() -> None:
    frame = pd.DataFrame({"width": [1, 2, 3, 4], "norm": [1.0, 3.0, 2.0, 4.0], "gap": [0.1, 0.2, 0.3, 0.4]})
    ranking = studies.rank(frame, hyperparameters=["width"], measures=["norm"], gap="gap", min_effective_samples=1)
    assert ranking.psi.loc["norm", "width"] == pytest.approx(4 / 6)
    assert ranking.frame.loc["norm", "sign_error"] == pytest.approx(1 / 6)
    assert ranking.frame.loc["norm", "K0"] == pytest.approx(1 - entropy([1, 5]))
    assert math.isnan(ranking.frame.loc["norm", "K_competition"])
    # The width of both decides which gap is greater, so that nothing is left to explain.
    assert math.isnan(ranking.information.loc["norm", "width"])
