"""The command: what it finds, how it goes on, and mistakes of its users in one line."""

from __future__ import annotations

import itertools
import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import pytest
import scipy.stats
from optuna.trial import FrozenTrial, TrialState

from lightning_complexity import cli
from lightning_complexity.selection.samplers.base import StructureSampler, Tried
from lightning_complexity.selection.searching import running, tables
from lightning_complexity.selection.searching.running import search_of
from lightning_complexity.selection.spaces.base import Structure
from lightning_complexity.studies.sweeping import local
from lightning_complexity.studies.sweeping.storage import open_storage, quiet_optuna
from tests.selection.searching.conftest import Search
from tests.selection.searching.spaces import SmallTable


def study_of(name: str) -> optuna.Study:
    with quiet_optuna():
        url = str(Path("complexity_search") / name / "journal.log")
        return optuna.load_study(study_name=name, storage=open_storage(url))


# What it finds ----------------------------------------------------------------------------------------


def test_a_table_is_searched_and_the_simplest_model_named(search: Search) -> None:
    printed = search("--space", "table", "--strategy", "random", "--trials", 40)
    folder = Path("complexity_search/table-random")
    frame = pd.read_csv(folder / "trials.csv")
    assert len(frame) == 40
    found = {(a, b) for a, b in zip(frame.a, frame.b, strict=True)}
    known = {s: SmallTable().outcome(s) for s in itertools.product(range(4), range(4)) if s in found}
    # By brute force: the best has error 0.2, and nothing else is within its standard error, 0.01 / sqrt(3).
    best = min(known, key=lambda s: known[s]["error"])
    chosen = json.loads((folder / "chosen.json").read_text())
    assert chosen["parameters"] == {"a": best[0], "b": best[1]} == {"a": 3, "b": 0}
    assert chosen["objectives"]["error"] == pytest.approx(0.2)
    assert frame["error/standard_error"].iloc[0] == pytest.approx(scipy.stats.sem([-0.01, 0, 0.01]))
    front = sum(
        not any(o["error"] <= k["error"] and o["parameters"] <= k["parameters"] and o != k for o in known.values())
        for k in known.values()
    )
    assert f"its error of 0.2 is the best of {len(found)}, " in printed
    assert f"{40 - len(found)} of 40 trials had a model that was there before" in printed
    assert f"On the front: {front} of {len(found)} models" in printed
    again = frame[frame.same_as.notna()].merge(frame, left_on="same_as", right_on="trial")
    assert (again[["a_x", "b_x", "error_x"]].to_numpy() == again[["a_y", "b_y", "error_y"]].to_numpy()).all()
    assert (folder / "trade-off.png").stat().st_size > 10_000


def test_networks_are_trained_and_the_chosen_one_is_tested(search: Search) -> None:
    import torch

    from lightning_complexity.selection.spaces.dense import DenseSpace

    printed = search("--quick", "--trials", 3, "--objectives", "error", "parameters", "log_path_norm")
    folder = Path("complexity_search/mlp-tpe-quick")
    chosen = json.loads((folder / "chosen.json").read_text())
    assert len(chosen["test_errors"]) == 2
    assert "test samples (mean of 2" in printed
    space = DenseSpace()
    network = space.build(space.read(chosen["parameters"]), (1, 8, 8), 10)
    network.load_state_dict(torch.load(folder / "chosen.pt"))
    frame = pd.read_csv(folder / "trials.csv").set_index("trial")
    count = sum(p.numel() for p in network.parameters())
    assert frame.loc[chosen["trial"], "parameters"] == count == chosen["objectives"]["parameters"]
    assert "parameters/standard_error" in frame


def test_one_objective_needs_no_picture(search: Search) -> None:
    for goal, best in (("error", min), ("error:maximize", max)):
        printed = search("--space", "table", "--objectives", goal, "--trials", 4, "--output", "out", "--study", goal)
        assert "is the best of 4." in printed
        assert "front" not in printed
        assert not Path("out/trade-off.png").exists()
        chosen = json.loads(Path("out/chosen.json").read_text())
        assert chosen["objectives"]["error"] == best(pd.read_csv("out/trials.csv").error)


def test_constraints(search: Search) -> None:
    printed = search(
        *("--space", "table", "--strategy", "random", "--trials", 30),
        *("--constraint", "parameters <= 250", "error>=0.3"),
    )
    frame = pd.read_csv("complexity_search/table-random/trials.csv")
    met = (frame.parameters <= 250) & (frame.error >= 0.3)
    assert (frame.state == "complete").tolist() == met.tolist()
    assert (frame.state == "constraint not met").sum() == (~met).sum() > 0
    assert f"{(~met).sum()} of 30 trials do not meet a constraint: parameters<=250 by" in printed
    trial = study_of("table-random").trials[0]
    assert trial.constraints["parameters<=250"] == frame.parameters[0] - 250
    assert trial.constraints["error>=0.3"] == pytest.approx(0.3 - frame.error[0])


def test_constraints_that_nobody_meets(search: Search, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        search(
            "--space",
            "table",
            "--trials",
            5,
            "--space_options",
            "size=9",
            "--constraint",
            "parameters<=50",
            "error<=0.9",
        )
    assert stopped.value.code == 1
    printed = capsys.readouterr().out
    frame = pd.read_csv("complexity_search/table-tpe/trials.csv")
    nearest = frame.loc[frame.parameters.idxmin()]
    assert "No model: none of 5 meets the constraints." in printed
    assert f"parameters<=50: 0 meet it; the nearest is trial {nearest.trial} " in printed
    assert f"with {nearest.parameters:,.0f}\n" in printed
    assert "error<=0.9: 5 meet it" in printed


# How it goes on ---------------------------------------------------------------------------------------


def test_the_same_command_goes_on_and_more_trials_extend(search: Search) -> None:
    words = ("--space", "table", "--strategy", "random")
    search(*words, "--trials", 3)
    before = [t.params for t in study_of("table-random").trials]
    assert "goes on: 3 of its trials are finished" in search(*words, "--trials", 7)
    after = [t.params for t in study_of("table-random").trials]
    assert (after[:3], len(after)) == (before, 7)
    assert "--trials 2 is less and changes nothing" in search("--study", "table-random", "--trials", 2)
    assert len(study_of("table-random").trials) == 7


def test_an_interrupt_says_how_to_go_on(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    finish = local.finish

    def interrupted(study: optuna.Study, *rest: Any, **options: Any) -> None:
        study.set_user_attr("num_trials", 2)
        finish(study, *rest, **options)
        study.set_user_attr("num_trials", 5)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, "finish", interrupted)
        with pytest.raises(SystemExit) as stopped:
            search("--space", "table", "--trials", 5, "--output", "out")
    said = str(stopped.value)
    assert "Interrupted with 2 of 5 trials finished. Go on with: lightning-complexity search --study table-tpe" in said
    assert "goes on: 2 of its trials are finished" in search(*shlex.split(said.partition(": ")[2])[2:])
    assert len(pd.read_csv("out/trials.csv")) == 5


def test_waiting_for_the_workers_of_others(search: Search) -> None:
    printed = search("--space", "table", "--trials", 1, "--workers", 0, "--storage", "sqlite:///s.db")
    (line,) = [line for line in printed.splitlines() if line.startswith("Start workers with: ")]
    words = shlex.split(line.partition(": ")[2])
    assert words[:2] == ["lightning-complexity", "worker"]
    cli.main(words[1:])  # it is a command that runs


def test_a_model_that_two_workers_had_at_once_is_one_model(search: Search, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(running, "_same", lambda trial, structure: None)
    printed = search("--space", "table", "--space_options", "size=2", "--strategy", "random", "--trials", 12)
    assert "On the front: 2 of 4 models" in printed


class InOrder(StructureSampler):
    """All structures of a table of four, in an order."""

    def propose(self, study: optuna.Study, trial: FrozenTrial, tried: Sequence[Tried]) -> Structure | None:
        left = [s for s in itertools.product(range(2), range(2)) if s not in [t.structure for t in tried]]
        return left[0] if left else None


@pytest.mark.parametrize("draws_by_trial", [False, True])
def test_a_space_that_is_searched_through(
    draws_by_trial: bool, search: Search, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = tables.StrategyEntry(f"{__name__}:InOrder", "for tests", draws_by_trial=draws_by_trial)
    monkeypatch.setitem(tables.STRATEGIES, "in_order", entry)
    printed = search("--space", "table", "--space_options", "size=2", "--strategy", "in_order", "--trials", 20)
    frame = pd.read_csv("complexity_search/table-in_order/trials.csv")
    assert list(zip(frame.a, frame.b, strict=True)) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert set(frame.state) == {"complete"}
    assert "pruned" not in printed


def test_another_search_of_the_same_name(search: Search) -> None:
    search("--space", "table", "--trials", 2)
    with pytest.raises(SystemExit) as stopped:
        search("--space", "table", "--trials", 2, "--study", "table-tpe", "--seed", 3, "--repeats", 1)
    assert str(stopped.value) == (
        "search: study 'table-tpe' is of another search: repeats is 3 there and 1 here; seed is 0 there and 3 here. "
        "Choose another --study."
    )
    assert len(study_of("table-tpe").trials) == 2


def test_a_study_of_something_else(search: Search) -> None:
    with quiet_optuna():
        optuna.create_study(storage=open_storage("j.log", create=True), study_name="s").enqueue_trial({"x": 1})
    with pytest.raises(SystemExit, match="study 's' is there, but not of a search: choose another --study"):
        search("--study", "s", "--storage", "j.log")


def test_another_version_of_the_description(search: Search) -> None:
    search("--space", "table", "--trials", 1)
    study = study_of("table-tpe")
    study.set_user_attr("search", {**study.user_attrs["search"], "version": 99})
    with pytest.raises(SystemExit, match=r"begun by another version of this library \(format 99, here 1\)"):
        search("--study", "table-tpe")


def test_the_description_survives_the_storage(search: Search) -> None:
    search("--space", "table", "--space_options", "size=3", "--trials", 1, "--objectives", "error:maximize")
    found = search_of(study_of("table-tpe"))
    assert (found.space_options, found.goals, found.repeats) == ({"size": 3}, {"error": "maximize"}, 3)
    assert study_of("table-tpe").directions == [optuna.study.StudyDirection.MAXIMIZE]


# Trials that fail -------------------------------------------------------------------------------------


def test_networks_that_break_are_named_and_the_others_compared(search: Search) -> None:
    printed = search(
        *("--space", "broken", "--strategy", "random", "--trials", 30, "--max_epochs", 1),
        *("--num_samples", 100, "--repeats", 2),
    )
    frame = pd.read_csv("complexity_search/broken-random/trials.csv").set_index("trial")
    assert (frame.state == "complete").tolist() == (frame.kind == "fine").tolist()
    assert set(frame.kind) == {"fine", "build", "forward", "outputs", "words", "diverges"}
    reasons = frame.groupby("kind").reason.first()
    assert reasons["build"] == "its network cannot be built: RuntimeError: no such layer"
    assert reasons["forward"].startswith("its network cannot be run: RuntimeError: mat1 and mat2")
    assert reasons["outputs"].startswith("its network must give 10 outputs for each sample, got (2, ")
    assert reasons["words"] == "its network must give 10 outputs for each sample, got str for two"
    assert reasons["diverges"] == "training diverged: the loss is nan in epoch 1 of repeat 0"
    assert f"{(frame.kind != 'fine').sum()} of 30 trials failed:" in printed
    assert "training diverged: the loss is nan in epoch 1 of repeat 0" in printed


def test_a_search_whose_trials_all_fail_is_given_up(search: Search, capsys: pytest.CaptureFixture[str]) -> None:
    words = ("--space", "broken", "--space_options", "kinds=[build]", "--trials", 30)
    for total, said in ((10, ""), (20, "All of them failed; it tries as many others.")):
        with pytest.raises(SystemExit) as stopped:
            search(*words)
        assert stopped.value.code == 1
        printed = capsys.readouterr().out
        assert f"No model: the first {total} trials all failed, and the search was given up." in printed
        assert "its network cannot be built: RuntimeError: no such layer" in printed
        assert said in printed
        assert [t.state for t in study_of("broken-tpe").trials] == [TrialState.FAIL] * total


def test_a_network_without_parameters(search: Search, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        search("--space", "broken", "--space_options", "kinds=[nothing]", "--trials", 2)
    assert "its network has no parameter to train" in capsys.readouterr().out


def test_a_pruned_trial_is_counted(search: Search) -> None:
    printed = search(
        *("--objectives", "error", "--pruner", "median", "--pruner_options", "n_startup_trials=1"),
        *("--trials", 8, "--max_epochs", 3, "--num_samples", 200, "--repeats", 2),
    )
    states = [t.state for t in study_of("mlp-tpe").trials]
    pruned = states.count(TrialState.PRUNED)
    assert 0 < pruned < 8
    assert f"{pruned} of 8 trials were pruned." in printed
    assert all(1 <= max(t.intermediate_values) <= 3 for t in study_of("mlp-tpe").trials)


# Mistakes ---------------------------------------------------------------------------------------------

MISTAKES = [
    (("--space", "mpl"), "there is no space 'mpl'; there are mlp, .* Did you mean mlp"),
    (("--space", "nowhere.yaml"), "space nowhere.yaml cannot be read: No such file or directory"),
    (("--space", "table", "--strategy", "tpee"), "there is no strategy 'tpee'; there are .* Did you mean tpe"),
    (("--space", "table", "--strategy_options", "sed=1"), "strategy tpe does not take these options: .*'sed'"),
    (("--space_options", "units=8"), "space mlp: an option has a wrong type"),
    (("--space_options", "unit=[8]"), "space mlp has no option 'unit'; it has .* Did you mean units"),
    (("--space_options", "max_layers"), "--space_options must be such as max_layers=2"),
    (("--space_options", "max_layers=0"), "max_layers must be at least 1, got 0"),
    (("--objectives", "eror", "parameters"), "--objectives: there is no 'eror'; there are .* Did you mean error"),
    (("--objectives", "error", "PathNrm"), "there is no 'PathNrm'.*Did you mean PathNorm"),
    (("--objectives", "error", "error"), "--objectives has a name twice"),
    (("--objectives", "error:down"), "--objectives must be names such as error or val_f1:maximize, got 'error:down'"),
    (("--constraint", "parameters<5"), "--constraint must be such as 'parameters<=5000'"),
    (("--constraint", "parameters<=many"), "--constraint must be such as 'parameters<=5000'"),
    (("--constraint", "paramters<=5"), "--constraint: there is no 'paramters'.*Did you mean parameters"),
    (("--space", "table", "--objectives", "error", "flops"), "the table of table has no 'flops'; it has error, param"),
    (("--space", "table", "--repeats", 4), "--repeats must be at most 3: table has no more seeds"),
    (("--pruner", "median"), "pruner 'median' is for one objective, and there are error, parameters"),
    (("--pruner", "medan", "--objectives", "error"), "there is no pruner 'medan'.*Did you mean median"),
    (("--pruner", "median", "--objectives", "flops"), "pruner 'median' needs an objective of error, accuracy"),
    (("--data", "nowhere"), "there is no data .*nowhere"),
    (("--num_samples", 3), "digits has 1437 samples to train on; 3 cannot be had in 5 folds"),
    (("--optimizer", "lion"), "--optimizer must be one of sgd, momentum, adam, rmsprop, got 'lion'"),
    (("--trials", 0), "--trials must be at least 1, got 0"),
    (("--repeats", 0), "--repeats must be at least 1, got 0"),
    (("--learning_rate", -1), "--learning_rate must be a positive number"),
    (("--workers", -1), "--workers must be at least 0"),
    (("--monitor", "val_loss"), "--monitor is for --model"),
    (("--model", "a:B"), "--model needs --datamodule beside it"),
    (("--storage", "postgresql://user:secret@localhost:1/none"), r"storage postgresql.*\*\*\*.* cannot be reached"),
    (("--storage", "sqlite:////nowhere/at/all.db"), "cannot be reached"),
]


@pytest.mark.parametrize(("words", "message"), MISTAKES, ids=[" ".join(map(str, words)) for words, _ in MISTAKES])
def test_mistakes_are_one_line(words: tuple[object, ...], message: str, search: Search) -> None:
    with pytest.raises(SystemExit, match=message) as stopped:
        search(*words)
    assert "\n" not in str(stopped.value)
    assert "secret" not in str(stopped.value)


def test_a_mistake_begins_no_study(search: Search) -> None:
    with pytest.raises(SystemExit):
        search("--objectives", "eror", "--storage", "j.log", "--study", "s")
    with quiet_optuna():
        assert optuna.get_all_study_names(open_storage("j.log")) == []
