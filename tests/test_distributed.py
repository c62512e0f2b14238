"""Penalties, constraints and the monitor on two processes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from lightning_complexity.network import Snapshot
from tests.distributed import DATA, STRATEGIES, Module, of_samples
from tests.test_contract import assert_same

ROOT = Path(__file__).parents[1]
Results = dict[str, dict[str, Tensor]]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[Results]:
    output = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.distributed", str(output)]
    # Without the seed that another test may have left for Lightning's processes.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    environment = {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment, timeout=480)
    return [torch.load(output / f"{rank}.pt") for rank in range(2)]


def test_replicas_stay_equal(ranks: list[Results]) -> None:
    first, second = ranks
    statistics = ("running_mean", "running_var")  # each rank's own, without synchronized BatchNorm
    for run in first:
        assert first[run].keys() == second[run].keys(), run
        for name, tensor in first[run].items():
            same = torch.equal(tensor.nan_to_num(), second[run][name].nan_to_num())
            assert name.endswith(statistics) or same, (run, name)


@pytest.mark.parametrize("strategy", [*STRATEGIES, "manual"])
def test_training_is_that_with_the_sum_by_hand(ranks: list[Results], strategy: str) -> None:
    for results in ranks:
        assert_same(results[f"callback {strategy}"], results[f"by hand {strategy}"])
        assert not torch.equal(results[f"callback {strategy}"]["spare"], torch.ones(3).double())


def test_strength_0_is_bit_identical_to_no_callback(ranks: list[Results]) -> None:
    for results in ranks:
        assert_same(results["strength 0"], results["without"])


def test_the_controller_decides_alike_on_all_ranks(ranks: list[Results]) -> None:
    multipliers = [results["controller"]["multiplier"] for results in ranks]
    assert multipliers[0] == multipliers[1] > 0


@pytest.mark.parametrize("options", ["", " accumulating", " clipped"])
def test_sharded_training_is_that_of_replicas(ranks: list[Results], options: str) -> None:
    for results in ranks:
        for name, tensor in results[f"replicated{options}"].items():
            torch.testing.assert_close(results[f"sharded{options}"][name], tensor)


def test_strength_0_is_bit_identical_to_no_callback_when_sharded(ranks: list[Results]) -> None:
    for results in ranks:
        assert_same(results["sharded strength 0"], results["sharded without"])


def test_a_sharded_network_measures_as_a_replicated_one(ranks: list[Results]) -> None:
    first = ranks[0]
    assert first["sharded monitor"].keys() == first["monitor"].keys()
    for key, value in first["monitor"].items():
        if key != "complexity/overhead":
            torch.testing.assert_close(first["sharded monitor"][key], value)


def test_steps_of_a_sharded_network_are_read_and_limited_as_of_a_replicated_one(ranks: list[Results]) -> None:
    for results in ranks:
        for name, tensor in results["replicated limited"].items():
            torch.testing.assert_close(results["sharded limited"][name], tensor)
        found, expected = results["sharded live"], results["replicated live"]
        assert 0 < expected["shortened"] < 1
        assert found.keys() == expected.keys() > {"complexity/path_length", "complexity/trajectory_tree_length"}
        for key in found.keys() - {"complexity/overhead"}:
            torch.testing.assert_close(found[key], expected[key], equal_nan=True)


def test_samples_count_once_on_two_processes(ranks: list[Results]) -> None:
    first = ranks[0]
    module = Module(False)
    module.load_state_dict(first["samples"])
    snapshot = Snapshot(module, *DATA.tensors)
    found = first["monitor of samples"]
    for metric in of_samples():
        metric.update(snapshot)
        for key, value in metric.report().items():
            assert found[f"complexity/{key}"].item() == pytest.approx(value.item(), rel=1e-5)


def test_a_measure_that_fails_on_one_process_stops_none(ranks: list[Results]) -> None:
    for results in ranks:
        assert "complexity/failing_there" not in results["alone monitor"]
        assert {"complexity/linear_regions", "complexity/gradient_norm"} <= results["alone monitor"].keys()
        assert results["alone left out"].keys() == {"failing_there"}
        assert len(results["alone probe"]["inputs"]) == 4  # the first rank's


def test_a_sharded_network_is_penalised_in_its_own_precision(ranks: list[Results]) -> None:
    for results in ranks:
        assert torch.equal(results["halved"]["after"], results["halved"]["before"])


def test_outputs_of_a_sharded_network_are_refused(ranks: list[Results]) -> None:
    for results in ranks:
        (message,) = results["refused"]
        assert "outputs= cannot be used" in message


def test_reentrant_checkpoints_are_refused_unless_the_graph_is_static(ranks: list[Results]) -> None:
    for results in ranks:
        (message,) = results["refused reentry"]
        assert "use_reentrant=False" in message
        assert "static_graph=True" in message
        assert all(torch.isfinite(tensor).all() for tensor in results["reentry"].values())
