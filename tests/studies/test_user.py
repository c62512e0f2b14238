"""Users' own modules and data in a study."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from lightning_complexity.metrics import resolve
from lightning_complexity.studies import criteria
from lightning_complexity.studies.criteria.experiments import LEARNING_RATES
from lightning_complexity.studies.importing import load_object
from lightning_complexity.studies.training import user
from lightning_complexity.studies.training.runs import Result
from lightning_complexity.studies.training.settings import Moments, Stop
from lightning_complexity.studies.training.user import Change, Problem, train_user
from tests.studies import own

PAIRS = Problem("tests.studies.own:Network", "tests.studies.own:Data")
MAPPINGS = Problem("tests.studies.own:NamedNetwork", "tests.studies.own:NamedData")
STOP = Stop(loss=0.1, max_steps=600)
MOMENTS = Moments(steps=(5,), losses=(0.5,), share=None)


def trained(problem: Problem, folder: Path, stop: Stop = STOP, **change: object) -> Result:
    return train_user(
        problem,
        Change(**change),
        folder,
        metrics=["ParameterNorm", "JacobianNorm"],
        stop=stop,
        moments=MOMENTS,
        probe=16,
    )


@pytest.mark.parametrize("problem", [PAIRS, MAPPINGS], ids=["pytorch_lightning", "lightning.pytorch"])
def test_true_and_permuted_labels(problem: Problem, tmp_path: Path) -> None:
    true, permuted = (trained(problem, tmp_path / str(p), permute_labels=p) for p in (False, True))
    assert true.reached
    assert permuted.reached
    assert true.end.test.accuracy is not None
    assert permuted.end.test.accuracy is not None
    assert true.end.test.accuracy > 0.8 > permuted.end.test.accuracy
    assert permuted.end.measures["parameter_norm"] > true.end.measures["parameter_norm"]
    assert "jacobian_norm" in true.end.measures
    assert permuted.end.step > true.end.step
    assert true.moment("loss 0.5") is not None
    assert not true.left_out
    # What is judged is the whole training set, as the module's own loss sees it.
    assert true.end.train.accuracy == 1


def test_a_glance_at_many_samples_comes_to_the_same_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = trained(PAIRS, tmp_path / "whole")
    monkeypatch.setattr(user, "GLANCE", 10)
    glanced = trained(PAIRS, tmp_path / "glanced")
    assert glanced.reached
    assert whole.end.step <= glanced.end.step <= whole.end.step + 5
    at = whole.moment("loss 0.5")
    assert at is not None
    assert at.train == next(m for m in glanced.moments if m.step == at.step).train


def test_targets_are_permuted_and_inputs_are_not() -> None:
    data = own.Data()
    loader = user.with_permuted_targets(data.train_dataloader(), seed=1)
    x, y = (torch.stack(parts) for parts in zip(*loader.dataset, strict=True))
    before_x, before_y = data.train_dataloader().dataset.tensors
    assert torch.equal(x, before_x)
    assert not torch.equal(y, before_y)
    assert y.sum() == before_y.sum()
    assert (loader.batch_size, loader.drop_last, len(loader)) == (8, True, 5)
    assert [len(batch[1]) for batch in loader] == [8] * 5


@pytest.mark.parametrize("optimizer", ["sgd", "lbfgs", "path_sgd"])
def test_optimizers_are_replaced(optimizer: str, tmp_path: Path) -> None:
    found = trained(PAIRS, tmp_path, optimizer=optimizer, learning_rate=LEARNING_RATES[optimizer])
    assert found.reached
    own_steps = trained(PAIRS, tmp_path / "own").end.step
    assert found.end.step != own_steps


def test_the_same_seed_gives_the_same_network_and_leaves_random_numbers_alone(tmp_path: Path) -> None:
    torch.manual_seed(1)
    before, environment = torch.get_rng_state(), dict(os.environ)
    first, again = (trained(PAIRS, tmp_path / name, Stop(max_steps=8), seed=3) for name in "ab")
    assert torch.equal(before, torch.get_rng_state())
    assert environment == dict(os.environ)
    assert first.end.measures == again.end.measures
    assert first.end.measures != trained(PAIRS, tmp_path / "c", Stop(max_steps=8), seed=4).end.measures
    monkey = trained(PAIRS, tmp_path / "a", Stop(max_steps=8), seed=3)
    assert monkey == first


def test_what_cannot_be_done_is_said(tmp_path: Path) -> None:
    streamed = Problem(PAIRS.module, "tests.studies.own:StreamedData")
    with pytest.raises(
        ValueError, match=r"labels can be permuted where train_dataloader\(\) is a DataLoader of a dataset"
    ):
        trained(streamed, tmp_path, permute_labels=True)
    with pytest.raises(ValueError, match="lbfgs takes all samples in each step, where"):
        trained(streamed, tmp_path, optimizer="lbfgs")
    dropping = Problem("tests.studies.own:DroppingNetwork", PAIRS.datamodule)
    with pytest.raises(ValueError, match="this network has dropout"):
        trained(dropping, tmp_path, optimizer="lbfgs")
    with pytest.raises(ValueError, match=r"path_sgd needs batches that are a pair \(inputs, targets\), got dict"):
        trained(MAPPINGS, tmp_path, optimizer="path_sgd")
    with pytest.raises(ValueError, match="labels can be permuted where a sample is a pair"):
        user.with_target((1, 2, 3), (1, 2, 3))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("tests.studies.own", "--module must be an import path such as package.module:Class, got 'tests.studies.own'"),
        ("tests.nowhere:Network", "there is no module 'tests.nowhere', also not in "),
        ("nowhere.at.all:Network", "there is no module 'nowhere'"),
        ("tests.studies.own:Netwrk", r"tests.studies.own has no 'Netwrk'. Did you mean Network"),
        ("tests.studies.own:NUMBER", "must be a class or a function, got int"),
        ("tests.studies.own:NeedsArguments", "could not be called without arguments: .*width"),
        ("tests.studies.own:Data", "must make a LightningModule, got Data"),
    ],
)
def test_import_paths_are_checked(path: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Problem(path, PAIRS.datamodule).make_module()


def test_an_error_inside_a_users_file_stays_theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken_user_file.py").write_text("import a_package_that_is_not_there")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_package_that_is_not_there"):
        load_object("broken_user_file:Network", "--module")


def test_experiments_of_a_users_own(tmp_path: Path) -> None:
    experiment = criteria.user_experiment("labels", LEARNING_RATES)
    assert [c.name for c in experiment.conditions] == ["true labels", "permuted labels"]
    optimizers = criteria.user_experiment("optimizers", LEARNING_RATES)
    assert optimizers.conditions[0].name == "its own"
    assert len(optimizers.conditions) == 7
    with pytest.raises(
        ValueError, match="study width builds networks of its own; with --module there are study labels"
    ):
        criteria.user_experiment("width", LEARNING_RATES)
    assert criteria.metrics_of(experiment, ["ParameterNorm"])[0].name == resolve(["ParameterNorm"])[0].name
