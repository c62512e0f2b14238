"""The demonstration and the command line, in the short form, with their claims checked on the record."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from lightning_complexity import cli
from lightning_complexity.demo import (
    HIGHER_FOR_RANDOM_LABELS,
    HIGHER_FOR_TRUE_LABELS_AT_EQUAL_STEPS,
    _drawn,
    at_equal_loss,
    at_loss,
    comparison,
    ratio,
    shared_moments,
)
from lightning_complexity.metrics import catalogue, resolve
from lightning_complexity.plots.curves import default_panels
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
    ratios = {row.name: row.at_end for row in comparison(*runs)}
    expected = resolve(["ParameterCount", "standard", "HessianTrace"])
    assert ratios.keys() == {metric.name for metric in expected}
    assert all(ratios[name] > 1.2 for name in HIGHER_FOR_RANDOM_LABELS), ratios


def test_norms_are_higher_for_true_labels_over_most_of_the_shared_steps(
    runs: tuple[list[Measurement], list[Measurement]],
) -> None:
    true, random = runs
    shared = shared_moments(true, random)
    assert random[-1].step > 2 * true[-1].step
    assert shared[-1][0].step >= 0.8 * true[-1].step
    counts = {row.name: row.higher_for_true for row in comparison(true, random)}
    assert all(counts[name] > len(shared) / 2 for name in HIGHER_FOR_TRUE_LABELS_AT_EQUAL_STEPS), counts


def test_measures_are_higher_for_random_labels_at_equal_training_loss(
    runs: tuple[list[Measurement], list[Measurement]],
) -> None:
    ratios = {row.name: row.at_equal_loss for row in comparison(*runs)}
    assert all(ratios[name] > 1.2 for name in HIGHER_FOR_RANDOM_LABELS), ratios


def test_a_run_at_a_loss_lies_between_two_measurements() -> None:
    losses = (1.0, 0.1, 0.2, 0.001)
    history = [Measurement(10 * i, 0, 0.0, {"probe/train_loss": v, "a": float(i)}) for i, v in enumerate(losses)]
    half = at_loss(history, 10**-0.5)
    assert (half.step, half.values["a"]) == (5, pytest.approx(0.5))
    assert at_loss(history, 0.1).values["a"] == pytest.approx(1.0)  # where it is first so low
    assert at_loss(history, 1e-9).values["a"] == 3.0
    assert at_loss(history, 5.0).values["a"] == 0.0


def test_both_runs_start_from_the_same_network(runs: tuple[list[Measurement], list[Measurement]]) -> None:
    first, second = (history[0].values["complexity/log_path_norm"] for history in runs)
    assert first == second


def test_everything_is_written_and_said(demo: tuple[Path, str]) -> None:
    output, printed = demo
    for run in ("true_labels", "random_labels"):
        assert len(list((output / run).glob("events.out.tfevents.*"))) == 1
    assert (output / "curves.png").read_bytes().startswith(b"\x89PNG")
    for text in (
        "random / true",
        "jacobian_norm",
        "Measuring took",
        "should be much higher for random labels",
        "optimizer steps",
        "probe/accuracy_gap",
    ):
        assert text in printed
    assert f"-m tensorboard.main --logdir {output}" in printed


def test_the_table_says_when_the_losses_are_equal(
    demo: tuple[Path, str], runs: tuple[list[Measurement], list[Measurement]]
) -> None:
    equal = at_equal_loss(*runs)
    [line] = [line for line in demo[1].splitlines() if line.startswith("optimizer steps")]
    assert " / ".join(f"{m.step:,}" for m in equal) in line
    [line] = [line for line in demo[1].splitlines() if line.startswith("probe/accuracy_gap")]
    assert " / ".join(f"{100 * m.values['probe/accuracy_gap']:.1f} %" for m in equal) in line
    assert not any(line != line.rstrip() for line in demo[1].splitlines())


def test_the_picture_has_the_gap_and_nothing_that_never_changes(
    runs: tuple[list[Measurement], list[Measurement]],
) -> None:
    measured = _drawn(runs[0])[-1].values
    titles = [panel.title.partition("\n")[0] for panel in default_panels(measured)]
    assert titles[:3] == ["loss", "accuracy", "accuracy gap"]
    assert "parameter_count" not in titles
    assert "generalization gap" not in titles
    assert {"hessian_trace", "jacobian_norm"} <= set(titles)


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
    assert "Did you mean demo?" in capsys.readouterr().err
