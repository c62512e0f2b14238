"""Verdicts in cases that are certain: errors fall by the same share at each epoch, so that their ends are known."""

from __future__ import annotations

import math
import re
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import optuna
import pytest
from optuna.study import Study
from optuna.trial import Trial, TrialState

from lightning_complexity.selection.stopping.pruner import EarlyVerdictPruner

EPOCHS = 10
UNIT = optuna.distributions.FloatDistribution(0, 1)
ENDS = (0.30, 0.25, 0.20, 0.40, 0.35, 0.10)  # of the trials that come first; the sixth is the best
SIZES = (10.0, 20.0, 40.0, 80.0, 160.0, 320.0)


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


def pruner_of(**options: object) -> EarlyVerdictPruner:
    return EarlyVerdictPruner(**{"share": 0.1, "keep": 0.0, **options})  # type: ignore[arg-type]


def run(study: Study, pruner: EarlyVerdictPruner, end: float, *rest: float, exact: bool = True) -> Trial:
    """A trial whose error falls from 1 to its end, on a straight line of logarithms."""
    trial = study.ask({"setting": UNIT})
    if rest and exact:
        pruner.set_exact(trial, dict(enumerate(rest, 1)))
    for epoch in range(1, EPOCHS + 1):
        pruner.report(trial, epoch / EPOCHS, {"error": end ** (epoch / EPOCHS)})
        if pruner.should_prune(trial):
            study.tell(trial, state=TrialState.PRUNED)
            return trial
    study.tell(trial, [end, *rest])
    return trial


def state(study: Study, trial: Trial) -> TrialState:
    return study.trials[trial.number].state


def study_of(objectives: int, pruner: EarlyVerdictPruner, **options: object) -> Study:
    study = optuna.create_study(
        directions=["minimize"] * objectives,
        sampler=optuna.samplers.RandomSampler(seed=0),
        pruner=pruner,
        **options,  # type: ignore[arg-type]
    )
    for end, size in zip(ENDS, SIZES, strict=True):
        study.add_trial(finished(end, size)[0] if objectives == 1 else finished(end, size)[1])
    return study


def finished(end: float, size: float) -> tuple[optuna.trial.FrozenTrial, optuna.trial.FrozenTrial]:
    attributes = {
        f"early:report:{epoch / EPOCHS:.9g}": {
            "losses": {"error": repr(end ** (epoch / EPOCHS))},
            "measures": {},
        }
        for epoch in range(1, EPOCHS + 1)
    }
    options = {
        "params": {"setting": end},
        "distributions": {"setting": UNIT},
        "user_attrs": attributes,
    }
    return (
        optuna.trial.create_trial(value=end, **options),
        optuna.trial.create_trial(values=[end, size], **options),
    )


@pytest.mark.parametrize(("end", "pruned"), [(0.30, True), (0.12, True), (0.08, False)])
def test_one_objective_is_pruned_where_its_end_is_worse_than_the_best(end: float, pruned: bool) -> None:
    pruner = pruner_of(features=["losses"])
    study = study_of(1, pruner)
    trial = run(study, pruner, end)
    assert state(study, trial) == (TrialState.PRUNED if pruned else TrialState.COMPLETE)


def test_to_maximize_is_the_mirror_image() -> None:
    pruner = pruner_of(features=["losses"])
    study = optuna.create_study(direction="maximize", pruner=pruner)
    for end in ENDS:
        trial = finished(end, 1)[0]
        trial.values = [1 - end]
        study.add_trial(trial)
    for end, pruned in ((0.3, True), (0.05, False)):
        asked = study.ask({"setting": UNIT})
        pruner.report(asked, 0.1, {"error": end**0.1})
        assert pruner.should_prune(asked) is pruned
        study.tell(asked, 1 - end)


@pytest.mark.parametrize("end", [0.05, 0.15, 0.22, 0.28, 0.33, 0.45])
@pytest.mark.parametrize("size", [5.0, 15.0, 25.0, 100.0, 500.0])
def test_two_objectives_are_pruned_where_the_front_dominates(end: float, size: float) -> None:
    pruner = pruner_of(features=["losses"])
    study = study_of(2, pruner)
    trial = run(study, pruner, end, size)
    dominated = any(e < end and s <= size for e, s in zip(ENDS, SIZES, strict=True))
    assert (state(study, trial) == TrialState.PRUNED) is dominated


@pytest.mark.parametrize(("values", "pruned"), [((0.1, 320.0), False), ((0.1, 321.0), True), ((0.09, 320.0), False)])
def test_an_equal_trial_dominates_nothing(values: tuple[float, float], pruned: bool) -> None:
    pruner = pruner_of()
    study = study_of(2, pruner)
    trial = study.ask({"setting": UNIT})
    pruner.set_exact(trial, dict(enumerate(values)))
    pruner.report(trial, 0.1, {"error": 0.9})
    assert pruner.should_prune(trial) is pruned


def test_an_objective_that_is_not_known_is_predicted_too() -> None:
    pruner = pruner_of(features=["losses", "settings"])
    study = optuna.create_study(directions=["minimize"] * 2, pruner=pruner)
    for end in ENDS:  # both follow from the error
        study.add_trial(finished(end, 100 * end)[1])
    trial = study.ask({"setting": optuna.distributions.FloatDistribution(0.3, 0.3)})
    pruner.report(trial, 0.1, {"error": 0.3**0.1})
    assert pruner.should_prune(trial)
    assert re.search(r"value_1 (30|29\.9\d|30\.0\d) \[", trial.user_attrs["early:reason"])


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")  # of names of objectives
def test_the_reason_names_prediction_interval_and_winner() -> None:
    pruner = pruner_of(features=["losses"], confidence=0.8)
    study = study_of(2, pruner)
    study.set_metric_names(["error", "parameters"])
    reason = run(study, pruner, 0.3, 400.0).user_attrs["early:reason"]
    assert reason.startswith("predicted error 0.2999 [0.29")
    assert reason.endswith("parameters 400; dominated by trial 5: error 0.1, parameters 320")


def test_a_verdict_is_given_once_at_the_first_report_that_reaches_the_share() -> None:
    pruner = pruner_of(share=0.35, features=["losses"])
    study = study_of(1, pruner)
    trial = study.ask({"setting": UNIT})
    verdicts = []
    for epoch in range(1, EPOCHS + 1):
        pruner.report(trial, epoch / EPOCHS, {"error": 0.5 ** (epoch / EPOCHS)})
        verdicts.append(pruner.should_prune(trial))
    assert [epoch for epoch, pruned in enumerate(verdicts, 1) if pruned] == [4]


def test_several_shares_give_several_verdicts() -> None:
    pruner = pruner_of(share=[0.1, 0.5], features=["losses"])
    study = study_of(1, pruner)
    trial = study.ask({"setting": UNIT})
    for epoch, error, pruned in ((1, 0.7, False), (4, 0.7, False), (5, 0.7, True)):  # good at first, then no more
        pruner.report(trial, epoch / EPOCHS, {"error": error})
        assert pruner.should_prune(trial) is pruned


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize(("confidence", "pruned"), [(0.0, True), (0.9, False)])
def test_the_better_end_of_the_interval_decides(direction: str, confidence: float, pruned: bool) -> None:
    pruner = pruner_of(features=["losses"], confidence=confidence)
    study = optuna.create_study(direction=direction, pruner=pruner)
    random = np.random.default_rng(0)
    for end in np.linspace(0.1, 0.4, 20):
        trial = finished(end, 1)[0]
        early = end**0.1 * np.exp(random.normal(scale=0.02))  # says of the end as much as a fifth of it
        trial.user_attrs = {"early:report:0.1": {"losses": {"error": repr(float(early))}, "measures": {}}}
        trial.values = [end if direction == "minimize" else 1 / end]
        study.add_trial(trial)
    trial = study.ask({"setting": UNIT})
    pruner.report(trial, 0.1, {"error": 0.12**0.1})
    assert pruner.should_prune(trial) is pruned


def test_the_first_trials_are_not_pruned() -> None:
    for startup, pruned in ((6, True), (7, False)):
        pruner = pruner_of(startup_trials=startup, features=["losses"])
        study = study_of(1, pruner)
        assert (state(study, run(study, pruner, 0.5)) == TrialState.PRUNED) is pruned


def test_a_share_is_kept_at_random_and_the_same_by_every_worker() -> None:
    kept = []
    for _ in range(2):
        pruner = pruner_of(keep=0.25, features=["losses"])
        study = study_of(1, pruner)
        kept.append([state(study, run(study, pruner, 0.5)) == TrialState.COMPLETE for _ in range(80)])
    assert kept[0] == kept[1]
    assert 10 <= sum(kept[0]) <= 30


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_divergence_prunes_at_once(value: float) -> None:
    pruner = pruner_of()
    study = optuna.create_study(directions=["minimize"] * 2, pruner=pruner)
    trial = study.ask()
    pruner.report(trial, 0.05, {"error": 0.3, "loss": value}, measures={"norm": math.nan})
    assert pruner.should_prune(trial)
    assert trial.user_attrs["early:reason"] == f"diverged: loss is {value}"


def test_a_measure_that_is_not_finite_is_no_divergence() -> None:
    pruner = pruner_of(features=["losses", "measures"])
    study = study_of(1, pruner)
    trial = study.ask({"setting": UNIT})
    pruner.report(trial, 0.1, {"error": 0.7}, measures={"norm": math.nan})
    assert not pruner.should_prune(trial)


def test_who_does_not_meet_a_constraint_dominates_nothing() -> None:
    pruner = pruner_of(features=["losses"])
    study = optuna.create_study(direction="minimize", pruner=pruner)
    for end in ENDS:
        trial = finished(end, 1)[0]
        if end < 0.3:
            trial.set_constraint("size", 1.0)
        study.add_trial(trial)
    assert state(study, run(study, pruner, 0.28)) == TrialState.COMPLETE
    assert state(study, run(study, pruner, 0.33)) == TrialState.PRUNED


def test_constraints_known_and_predicted() -> None:
    for option in (True, False):
        pruner = pruner_of(features=["losses"], prune_infeasible=option)
        study = optuna.create_study(direction="minimize", pruner=pruner)
        for end in ENDS:
            trial = finished(end, 1)[0]
            trial.set_constraint("gap", math.log(0.2 / end))  # errors below 0.2 are not allowed
            study.add_trial(trial)
        trial = study.ask({"setting": UNIT})
        pruner.report(trial, 0.1, {"error": 0.05**0.1})
        assert pruner.should_prune(trial) is option
        if option:
            assert "not to meet constraint 'gap': 1.38" in trial.user_attrs["early:reason"]
        trial = study.ask({"setting": UNIT})
        trial.set_constraint("size", 3.0)
        pruner.report(trial, 0.01, {"error": 1.0})
        assert pruner.should_prune(trial) is option


def test_workers_on_one_storage_and_a_resumed_study_know_the_same(tmp_path: Path) -> None:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal")))
    study_of(2, pruner_of(), study_name="search", storage=storage)
    reasons = []
    for _ in range(2):  # each with a pruner of its own, in a study that it loads
        pruner = pruner_of(features=["losses"])
        again = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal")))
        study = optuna.load_study(study_name="search", storage=again, pruner=pruner)
        trial = run(study, pruner, 0.35, 1000.0)
        assert state(study, trial) == TrialState.PRUNED
        reasons.append(trial.user_attrs["early:reason"])
    assert reasons[0] == reasons[1]


def test_a_database_keeps_losses_that_are_not_finite(tmp_path: Path) -> None:
    pruner = pruner_of()
    study = optuna.create_study(storage=f"sqlite:///{tmp_path / 'study.db'}", pruner=pruner)
    trial = study.ask()
    pruner.report(trial, 0.1, {"error": math.inf})
    assert pruner.should_prune(trial)


def test_with_one_objective_optuna_s_own_methods_work() -> None:
    pruner = pruner_of(features=["losses"])
    study = optuna.create_study(direction="minimize", pruner=pruner)

    def objective(trial: Trial) -> float:
        trial.suggest_float("setting", 0, 1)
        end = [*ENDS, 0.3, 0.05][trial.number]
        for epoch in range(EPOCHS):
            trial.report(end ** ((epoch + 1) / EPOCHS), epoch)
            if trial.should_prune():
                raise optuna.TrialPruned
        return end

    study.optimize(objective, n_trials=8)
    states = [trial.state for trial in study.trials]
    assert states == [TrialState.COMPLETE] * 6 + [TrialState.PRUNED, TrialState.COMPLETE]
    assert list(study.trials[6].intermediate_values) == [0]  # a tenth of ten
    assert "dominated by trial 5: value 0.1" in study.trials[6].user_attrs["early:reason"]


def test_a_nan_in_optuna_s_own_report_prunes_the_first_trial() -> None:
    pruner = pruner_of()
    study = optuna.create_study(pruner=pruner)
    trial = study.ask()
    trial.report(math.nan, 0)
    assert trial.should_prune()


def test_that_nothing_can_be_predicted_is_said_once() -> None:
    pruner = pruner_of()
    study = optuna.create_study(direction="minimize", pruner=pruner)
    for end in ENDS:
        study.add_trial(optuna.trial.create_trial(value=end))
    trials = [study.ask() for _ in range(2)]
    for trial in trials:
        pruner.report(trial, 0.1, {"error": 0.5})
    with pytest.warns(UserWarning, match=r"no finished trial has a report: call pruner.report in the objective"):
        assert not pruner.should_prune(trials[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert not pruner.should_prune(trials[1])


def test_an_objective_that_is_always_the_same_is_said() -> None:
    pruner = pruner_of()
    study = optuna.create_study(direction="minimize", pruner=pruner)
    for end in ENDS:
        trial = finished(end, 1)[0]
        trial.values = [0.5]
        study.add_trial(trial)
    trial = study.ask({"setting": UNIT})
    pruner.report(trial, 0.1, {"error": 0.5})
    with pytest.warns(UserWarning, match="value has no different finite values"):
        assert not pruner.should_prune(trial)


def test_settings_that_came_twice_are_told_only_if_no_others_come() -> None:
    pruner = pruner_of()
    study = optuna.create_study(direction="minimize", pruner=pruner)
    for number in range(10):
        if number in (5, 9):
            trial = study.ask({"setting": UNIT})
            pruner.report(trial, 0.1, {"error": 0.5})
            assert not pruner.should_prune(trial)  # a warning would be an error
        study.add_trial(finished(ENDS[number % 4], 1)[0])
    trial = study.ask({"setting": UNIT})
    pruner.report(trial, 0.1, {"error": 0.5})
    with pytest.warns(UserWarning, match="value has no different finite values in five settings"):
        assert not pruner.should_prune(trial)


def test_without_trials_that_are_kept_a_wrong_prediction_stays() -> None:
    """Late bloomers look bad early, and end best; the first trials have none of them."""
    found = {}
    for keep in (0.0, 0.1):
        pruner = EarlyVerdictPruner(0.1, keep=keep)
        study = optuna.create_study(direction="minimize", pruner=pruner)
        random = np.random.default_rng(0)
        bloomed = 0
        for number in range(150):
            late = number >= 5 and number % 2 == 0
            study.enqueue_trial({"kind": "late" if late else "early"})
            trial = study.ask({"kind": optuna.distributions.CategoricalDistribution(["early", "late"]), "x": UNIT})
            end = random.uniform(0.01, 0.02) if late else random.uniform(0.1, 0.3)
            pruner.report(trial, 0.1, {"error": 0.9 + end if late else 2 * end})
            if pruner.should_prune(trial):
                study.tell(trial, state=TrialState.PRUNED)
            else:
                study.tell(trial, end)
                bloomed += late
        found[keep] = bloomed, study.best_value
    assert found[0.0][0] == 0
    assert found[0.0][1] > 0.09
    assert found[0.1][0] >= 2
    assert found[0.1][1] < 0.02


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 0}, "share must be above 0 and below 1"),
        ({"share": [0.1, 1.0]}, "share must be above 0 and below 1"),
        ({"confidence": 1}, "confidence must be at least 0 and below 1"),
        ({"features": ["weights"]}, "features must be some of settings, losses, measures"),
        ({"features": "losses"}, "features must be some of"),
        ({"startup_trials": 4}, "startup_trials must be at least 5"),
        ({"keep": 1}, "keep must be at least 0 and below 1"),
        ({"num_reports": 0}, "num_reports must be at least 1"),
    ],
)
def test_options_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        EarlyVerdictPruner(**options)  # type: ignore[arg-type]


def test_reports_that_make_no_sense() -> None:
    pruner = EarlyVerdictPruner()
    study = optuna.create_study(directions=["minimize"] * 2, pruner=pruner)
    trial = study.ask()
    with pytest.raises(ValueError, match="progress must be a share of the training"):
        pruner.report(trial, 3, {"error": 1})
    with pytest.raises(TypeError, match="'error' must be a number, got 'high'"):
        pruner.report(trial, 0.1, {"error": "high"})
    with pytest.raises(ValueError, match="objectives of this study are 0 to 1, got 2"):
        pruner.set_exact(trial, {2: 1.0})
    with pytest.raises(ValueError, match="must be finite, got inf"):
        pruner.set_exact(trial, {1: math.inf})
    assert not pruner.should_prune(trial)


def test_the_pruner_needs_no_lightning() -> None:
    names = "lightning", "pytorch_lightning"
    imported = "import sys; from lightning_complexity.selection.stopping import EarlyVerdictPruner"
    code = f"{imported}; print(*(n for n in {names} if n in sys.modules))"
    assert not subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
