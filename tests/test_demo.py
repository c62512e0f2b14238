"""The demonstration and the command line, in the short form, with their claims checked on the record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_complexity import cli
from lightning_complexity.demo import HIGHER_FOR_RANDOM_LABELS, comparison, ratio
from lightning_complexity.metrics import catalogue, resolve
from lightning_complexity.recording import Measurement, read_record


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    output = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "lightning_complexity", "demo", "--quick", "--output", str(output)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    return output, result.stdout


@pytest.fixture
def runs(demo: tuple[Path, str]) -> tuple[list[Measurement], list[Measurement]]:
    return read_record(demo[0] / "true_labels"), read_record(demo[0] / "random_labels")


def test_both_networks_fit_their_labels_and_one_generalizes(runs: tuple[list[Measurement], list[Measurement]]) -> None:
    true, random = (history[-1].values for history in runs)
    assert min(true["probe/train_accuracy"], random["probe/train_accuracy"]) > 0.98
    assert true["probe/val_accuracy"] > 0.85
    assert random["probe/val_accuracy"] < 0.25


def test_measures_are_higher_for_random_labels(runs: tuple[list[Measurement], list[Measurement]]) -> None:
    ratios = {row[0]: row[-1] for row in comparison(*runs)}
    expected = resolve(["ParameterCount", "standard", "HessianTrace"])
    assert ratios.keys() == {metric.name for metric in expected}
    assert all(ratios[name] > 1.2 for name in HIGHER_FOR_RANDOM_LABELS), ratios


def test_both_runs_start_from_the_same_network(runs: tuple[list[Measurement], list[Measurement]]) -> None:
    first, second = (history[0].values["complexity/log_path_norm"] for history in runs)
    assert first == second


def test_everything_is_written_and_said(demo: tuple[Path, str]) -> None:
    output, printed = demo
    for run in ("true_labels", "random_labels"):
        assert len(list((output / run).glob("events.out.tfevents.*"))) == 1
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    for text in ("random / true", "jacobian_norm", "Measuring took", "should be much higher for random labels"):
        assert text in printed
    assert f"-m tensorboard.main --logdir {output}" in printed


def test_ratio_of_a_logarithm_is_that_of_the_number() -> None:
    assert ratio("stable_rank", 2.0, 6.0) == 3
    assert ratio("log_path_norm", 1.0, 1.0) == 1
    assert ratio("log_path_norm", 0.0, 1e6) > 1e300


def test_list_shows_every_metric(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["list"])
    printed = capsys.readouterr().out
    for entry in catalogue():
        assert entry.metric.__name__ in printed
        assert entry.name in printed


@pytest.mark.parametrize("arguments", [["--help"], ["demo", "--help"], ["list", "--help"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main(arguments)
    assert stopped.value.code == 0
    assert "lightning-complexity" in capsys.readouterr().out


def test_wrong_commands_say_what_there_is(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["dmo"])
    assert "choose from 'demo', 'list'" in capsys.readouterr().err
