"""Several processes measure as one does, and none waits for one that has failed."""

from __future__ import annotations

import csv
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.processes import NETWORKS, WATCHDOG

ROOT = Path(__file__).parents[1]


def run(folder: Path, strategy: str, devices: int) -> list[dict[str, Any]]:
    """What each rank has found; a process that waits for ever ends with the place where it does."""
    command = [sys.executable, "-m", "tests.processes", str(folder), strategy, str(devices)]
    # Without the seed that another test may have left for Lightning's processes.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    environment = {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=WATCHDOG + 40, check=False
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(devices)]


RUNS = [
    pytest.param(("ddp", 2), id="ddp 2", marks=pytest.mark.slow),
    pytest.param(("ddp", 4), id="ddp 4", marks=pytest.mark.slow),
    pytest.param(("fsdp2", 2), id="fsdp2 2", marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=RUNS)
def ranks(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    folder = tmp_path_factory.mktemp("processes")
    found = run(folder, *request.param)
    for results in found:
        results["folder"] = folder
    return found


def close(value: float, expected: float) -> bool:
    return (math.isnan(value) and math.isnan(expected)) or value == pytest.approx(expected, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("monitor", ["own", "given"])
def test_values_are_those_of_one_process(ranks: list[dict[str, Any]], network: str, monitor: str) -> None:
    for results in (results[network] for results in ranks if network in results):
        measured, expected = results[monitor], ranks[0][network][f"{monitor} alone"]
        assert len(expected) > 40
        assert measured.keys() - {"complexity/overhead"} == expected.keys()
        unlike = {k: (measured[k], v) for k, v in expected.items() if not close(measured[k], v)}
        assert unlike == {}


def test_each_process_measures_a_part(ranks: list[dict[str, Any]]) -> None:
    counts = ranks[0]["norm"]["counts"]
    assert counts["complexity/counts/samples_at_once"] == 32 / len(ranks)
    assert counts["complexity/counts/pieces_at_once"] == 32 / len(ranks)


def test_what_fails_on_one_process_is_left_out_on_all(ranks: list[dict[str, Any]]) -> None:
    for failing in (results["failing"] for results in ranks):
        assert failing["left out"].keys() == {"failing_on_0", "failing_on_1", "failing_at_the_end"}
        assert (
            f"MemoryError: too little. Leave it out, or measure a part of the network. (on rank 1 of {len(ranks)})"
            in (failing["left out"]["failing_on_1"])
        )
        assert "complexity/mean_margin" in failing["values"]


def test_what_a_part_is_too_small_for_is_measured_on_the_whole(ranks: list[dict[str, Any]]) -> None:
    for failing in (results["failing"] for results in ranks):
        assert failing["whole only"] == ["needing_many"]
        values = failing["values"]
        assert values["complexity/needing_many"] == pytest.approx(values["complexity/mean_margin"], rel=1e-6)


@pytest.mark.parametrize("who", ["raised", "raised by the constraint"])
def test_an_error_that_is_raised_is_raised_on_all(ranks: list[dict[str, Any]], who: str) -> None:
    for results in ranks:
        assert "MemoryError: too little" in results["failing"][who]


def of_streams(ranks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if "streams" not in ranks[0]:
        pytest.skip("networks that are sharded cannot be trained on epochs of different lengths")
    return [results["streams"] for results in ranks]


def test_epochs_of_other_lengths_are_those_of_rank_zero(ranks: list[dict[str, Any]]) -> None:
    for streams in of_streams(ranks):
        assert streams["epochs"] == [0, 4, 8]
        assert streams["steps"] == [0, 3, 6, 8]
        assert streams["probe"] == 4  # rank zero's
        assert streams["left out"] == {}
        for values in streams["values"]:
            assert {"complexity/mean_margin", "complexity/linear_regions"} <= values.keys()
        assert streams["values"][-1] == ranks[0]["streams"]["values"][-1]


def test_every_logger_has_every_value_once(ranks: list[dict[str, Any]]) -> None:
    of_streams(ranks)
    for name in ("first", "second"):
        (path,) = ranks[0]["folder"].glob(f"{name}/version_*/metrics.csv")
        with open(path) as file:
            steps = [row["step"] for row in csv.DictReader(file) if row.get("complexity/mean_margin")]
        assert steps == ["0", "3", "6", "8"]


def of_metrics(ranks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    if "stand-alone" not in ranks[0]:
        pytest.skip("metrics by themselves gather states, not parameters")
    return [results["stand-alone"] for results in ranks]


def test_metrics_by_themselves_have_the_value_of_all_samples(ranks: list[dict[str, Any]]) -> None:
    for results in of_metrics(ranks):
        reports = {name: found for name, found in results.items() if isinstance(found, tuple)}
        assert len(reports) > 60
        for name, (parted, whole) in reports.items():
            assert parted.keys() == whole.keys(), name
            for key, value in whole.items():
                torch.testing.assert_close(
                    parted[key].double(), value.double(), rtol=1e-6, atol=1e-9, equal_nan=True, msg=f"{name}: {key}"
                )


def test_an_update_that_fails_on_one_process_fails_compute_on_all(ranks: list[dict[str, Any]]) -> None:
    for results in of_metrics(ranks):
        assert "FailingOn could not be measured on every process." in results["failing"]
        assert (
            f"too little. Leave it out, or measure a part of the network. (on rank 1 of {len(ranks)})"
            in (results["failing"])
        )
        assert isinstance(results["after"], Tensor)
        assert "nothing measured yet" in results["after reset"]


def test_a_process_without_samples_has_the_value_of_the_others(ranks: list[dict[str, Any]]) -> None:
    first = ranks[0]
    for results, expected in zip(of_metrics(ranks), [first["stand-alone"]["one has none"]] * len(ranks), strict=True):
        assert results["one has none"].keys() == expected.keys()
        assert len(expected) > 3
        for key, value in expected.items():
            assert torch.equal(results["one has none"][key], value)


def test_metrics_that_take_one_snapshot_take_the_same_on_all(ranks: list[dict[str, Any]]) -> None:
    for results in of_metrics(ranks):
        assert "processes have measured different ones" in results["other samples"]
        assert results["same samples"] == ranks[0]["stand-alone"]["same samples"]
