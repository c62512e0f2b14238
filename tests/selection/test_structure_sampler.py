"""What all samplers of structures share: each structure once, also with several workers and after a failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import optuna
import pytest
from optuna import Study, Trial
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState

from lightning_complexity.selection.samplers.base import StructureSampler, Tried
from lightning_complexity.selection.spaces.base import Structure
from lightning_complexity.selection.spaces.dense import DenseSpace, Layer
from lightning_complexity.studies.sweeping.storage import quiet_optuna, requeue

optuna.logging.set_verbosity(optuna.logging.ERROR)
SPACE = DenseSpace(max_layers=2, units=(2, 4), activations=("relu", "tanh"))
ALL = [s for first in SPACE.first() for s in (first, *SPACE.expand(first))]


class InOrder(StructureSampler):
    def propose(self, study: Study, trial: FrozenTrial, tried: Sequence[Tried]) -> Structure | None:
        self.seen = list(tried)
        there = {t.structure for t in tried}
        return next((s for s in ALL if s not in there), None)


def units(trial: Trial) -> float:
    structure = SPACE.suggest(trial)
    trial.suggest_float("rate", 0.0, 1.0)
    return float(sum(layer.units for layer in structure))


@pytest.mark.parametrize("structure", ALL, ids=SPACE.describe)
def test_parameters_and_structures_are_the_same_thing(structure: Structure) -> None:
    parameters = SPACE.parameters(structure)
    assert SPACE.read({**parameters, "rate": 0.1}) == structure
    assert list(SPACE.distributions(structure)) == list(parameters)


@pytest.mark.parametrize(
    "parameters",
    [{}, {"layers": 1}, {"layers": 3, "units_0": 2, "activation_0": "relu"}],
    ids=["nothing", "units are missing", "too many layers"],
)
def test_what_is_no_structure_is_said(parameters: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="param"):
        SPACE.read(parameters)


def test_each_structure_is_tried_once_and_then_the_study_stops() -> None:
    sampler = InOrder(SPACE)
    study = optuna.create_study(sampler=sampler)
    study.optimize(units, n_trials=100)
    assert [SPACE.read(t.params) for t in study.trials[:-1]] == ALL
    assert [t.state for t in study.trials[len(ALL) :]] == [TrialState.PRUNED]
    assert sampler.is_exhausted(study)
    assert {"rate"} == study.trials[0].params.keys() - SPACE.parameters(ALL[0]).keys()


def test_two_workers_do_not_try_the_same(tmp_path: Path) -> None:
    studies = [
        optuna.create_study(
            storage=JournalStorage(JournalFileBackend(str(tmp_path / "journal"))),
            study_name="s",
            sampler=InOrder(SPACE),
            load_if_exists=True,
        )
        for _ in range(2)
    ]
    trials = [studies[i % 2].ask() for i in range(6)]
    assert [SPACE.suggest(trial) for trial in trials] == ALL[:6]


def test_one_who_was_second_to_claim_a_structure_takes_another(monkeypatch: pytest.MonkeyPatch) -> None:
    study = optuna.create_study(sampler=InOrder(SPACE))
    late = InOrder(SPACE)
    proposed = [ALL[0], ALL[1]]  # at first as if the other were not there yet
    monkeypatch.setattr(late, "propose", lambda *_: proposed.pop(0))
    SPACE.suggest(study.ask())
    study.sampler = late
    assert SPACE.suggest(study.ask()) == ALL[1]
    assert not proposed


def test_losses_are_to_be_small_and_infinite_where_there_is_none() -> None:
    sampler = InOrder(SPACE, objective=1)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)

    def objective(trial: Trial) -> tuple[float, float]:
        structure = SPACE.suggest(trial)
        if structure == ALL[1]:
            raise RuntimeError
        return 0.0, math.inf if structure == ALL[2] else 3.0

    study.optimize(objective, n_trials=3, catch=(RuntimeError,))
    SPACE.suggest(study.ask())
    tried = sampler.tried(study)
    assert [t.loss for t in tried] == [-3.0, math.inf, math.inf, None]
    assert [t.number for t in tried] == [0, 1, 2, 3]


def test_what_a_dead_worker_had_is_tried_again_and_counts_once() -> None:
    sampler = InOrder(SPACE)
    study = optuna.create_study(sampler=sampler)
    study.ask().suggest_int("layers", 1, 2)  # and died before the others
    study.tell(0, state=TrialState.FAIL)
    with quiet_optuna():
        requeue(study, study.trials[0])
    assert [(t.number, t.structure, t.loss) for t in sampler.tried(study)] == [(1, ALL[0], None)]
    assert SPACE.suggest(study.ask()) == ALL[0]
    assert SPACE.suggest(study.ask()) == ALL[1]


def test_what_a_user_queued_counts_as_tried() -> None:
    sampler = InOrder(SPACE)
    study = optuna.create_study(sampler=sampler)
    study.enqueue_trial(SPACE.parameters(ALL[0]))
    assert [SPACE.suggest(study.ask()) for _ in range(2)] == ALL[:2]
    with pytest.raises(ValueError, match="objective must be"):
        InOrder(SPACE, objective=-1)


def test_a_structure_of_another_space_is_passed_over() -> None:
    study = optuna.create_study(sampler=InOrder(SPACE))
    study.add_trial(optuna.trial.create_trial(value=1.0, user_attrs={"from": "elsewhere"}))
    assert SPACE.suggest(study.ask()) == ALL[0]
    assert isinstance(ALL[0][0], Layer)
