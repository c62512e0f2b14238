"""All statistics of a public table of 4,967 networks, against verified numbers."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest

from lightning_complexity import studies
from lightning_complexity.studies import Ranking, Table
from tests.studies.robust_measures import HYPERPARAMETERS, column, oracle, path, theirs

TOLERANCE = 1e-9
MEASURES = (
    "dist_spec_init",
    "fro_dist",
    "fro_over_spec",
    "l2",
    "l2_dist",
    "log_prod_of_fro",
    "log_spec_orig_main",
    "log_sum_of_spec_over_margin",
    "pacbayes_mag_init",
    "pacbayes_orig",
    "params",
    "path_norm",
)


@pytest.fixture(scope="module")
def table() -> Table:
    return studies.read_table(
        path("nin_adjusted.csv"),
        hyperparameters=HYPERPARAMETERS,
        measures=[column(measure) for measure in MEASURES],
        gap="gen.gap",
        seed="seed",
        filters=["is.converged", "is.high_train_accuracy"],
    )


@pytest.fixture(scope="module")
def ranking(table: Table) -> Ranking:
    return studies.rank(table, test_samples=10_000, draws=0)


def near(expected: float) -> Any:
    return pytest.approx(expected, abs=TOLERANCE, rel=0)


def test_the_measures_are_those_of_the_oracle() -> None:
    assert set(MEASURES) == set(oracle()["june2020"]["measures"])


def test_rows_that_count(table: Table, ranking: Ranking) -> None:
    assert len(table.frame) == oracle()["june2020"]["n_runs"]
    assert set(ranking.frame["configurations"]) == {oracle()["june2020"]["n_configs"]}
    assert (ranking.rows, sum(ranking.left_out.values())) == (4967, 4967 - 4836)


@pytest.mark.parametrize("measure", MEASURES)
def test_kendall(ranking: Ranking, measure: str) -> None:
    expected, found = oracle()["june2020"]["measures"][measure], ranking.frame.loc[column(measure)]
    assert found["tau_a_runs"] == near(expected["kendall_tau_a_runs"])
    assert found["tau_b_runs"] == near(expected["kendall_tau_b_runs"])
    assert found["tau_a"] == near(expected["kendall_tau_a_configmeans"])
    assert found["tau_b"] == near(expected["kendall_tau_b_configmeans"])


@pytest.mark.parametrize("measure", MEASURES)
def test_granulated_kendall(ranking: Ranking, measure: str) -> None:
    expected, found = oracle()["june2020"]["measures"][measure], ranking.frame.loc[column(measure)]
    assert found["Psi"] == near(expected["granulated_Psi_configmeans"])
    for name, value in ranking.psi.loc[column(measure)].items():
        assert value == near(expected["granulated_psi_configmeans"][theirs(str(name))])
    assert list(ranking.psi_by_seed.loc[column(measure)]) == near(expected["granulated_Psi_per_seed"])
    assert found["Psi_seed_mean"] == near(expected["granulated_Psi_seed_mean"])
    assert found["Psi_seed_std"] == near(expected["granulated_Psi_seed_std"])


@pytest.mark.parametrize("measure", MEASURES)
def test_conditional_information(ranking: Ranking, measure: str) -> None:
    expected, found = oracle()["june2020"]["measures"][measure], ranking.frame.loc[column(measure)]
    by_set = ranking.information.loc[column(measure)]
    names = {"|".join(map(theirs, str(name).split("|"))): value for name, value in by_set.items()}
    assert names == near(expected["cmi_jiang_by_S"])
    assert found["K"] == near(expected["cmi_jiang_K"])
    for size in range(3):
        assert found[f"K{size}"] == near(expected[f"cmi_jiang_min_size{size}"])
    assert found["K_competition"] == near(expected["cmi_pgdl"])


@pytest.mark.parametrize("weights", ["noise filter", "all pairs"])
@pytest.mark.parametrize("measure", MEASURES)
def test_sign_error(ranking: Ranking, measure: str, weights: str) -> None:
    which = "filtered" if weights == "noise filter" else "unfiltered"
    expected = oracle()["june2020"]["measures"][measure][f"sign_error_{which}"]
    counts = oracle()["june2020"]["n_environments_directed"][which]
    found = ranking.sign_error.loc[(column(measure), weights)]
    assert len(found) == len(expected) == 7
    for name, row in found.iterrows():
        assert row.to_dict() == near(expected[theirs(str(name))])
        assert row["n"] == counts[theirs(str(name))]


def test_the_competition_s_score_of_its_own_program() -> None:
    values = oracle()["pgdl_cmi_subgrid"]["values"]
    frame = pd.read_csv(path("pgdl_cmi_subgrid.csv"))
    names = [*HYPERPARAMETERS[:-1], "hp.train_size"]
    ranking = studies.rank(frame, hyperparameters=names, measures=list(values), gap="gen.gap")
    assert ranking.frame["K_competition"].to_dict() == near(values)


def test_monotone_transforms_of_configurations_change_nothing(table: Table) -> None:
    # Of means, as a transform of runs changes their means.
    means = table.frame.groupby(list(HYPERPARAMETERS), as_index=False)[["gen.gap", column("path_norm")]].mean()
    means["log"] = means[column("path_norm")].rank() ** 3
    names = [column("path_norm"), "log"]
    ranking = studies.rank(means, hyperparameters=HYPERPARAMETERS, measures=names, gap="gen.gap")
    for frame in (ranking.frame.drop(columns="direction"), ranking.information, ranking.competition):
        pd.testing.assert_series_equal(frame.loc[names[0]], frame.loc["log"], check_names=False, rtol=0, atol=1e-12)
