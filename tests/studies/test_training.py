"""One network of a study: its criterion, its moments, its folder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_complexity.recording import read_record
from lightning_complexity.studies.training import runs as training
from lightning_complexity.studies.training.data import Data
from lightning_complexity.studies.training.networks import Perceptron, TensorBatches
from lightning_complexity.studies.training.runs import Result, read_result, train
from lightning_complexity.studies.training.settings import Moments, Setting, Stop
from lightning_complexity.studies.training.watching import Fit, fit_of, judge_of_tensors

FEW = Moments(steps=(2,), losses=(0.5, 0.2), share=0.1)
SETTING = Setting(width=8, depth=1, optimizer="adam", learning_rate=0.05, batch_size=8)
STOP = Stop(loss=0.1, max_steps=400)


@pytest.fixture(scope="module")
def data() -> Data:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 4, generator=generator, dtype=torch.float64)
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    return Data("three classes", x[:40], y[:40], x[40:], y[40:])


def trained(data: Data, folder: Path, setting: Setting = SETTING, stop: Stop = STOP) -> Result:
    return train(setting, data, folder, metrics=["ParameterNorm", "PathNorm"], stop=stop, moments=FEW)


@pytest.fixture(scope="module")
def result(data: Data, tmp_path_factory: pytest.TempPathFactory) -> tuple[Result, Path]:
    folder = tmp_path_factory.mktemp("networks") / "one"
    return trained(data, folder), folder


def test_it_stops_at_its_criterion_and_not_before(result: tuple[Result, Path]) -> None:
    found, _ = result
    assert found.reached
    assert found.ended == "criterion"
    assert found.end.train.loss is not None
    assert found.end.train.loss <= 0.1
    assert found.end.train.accuracy == 1
    assert all(m.train.loss > 0.1 or m.train.accuracy < 1 for m in found.moments[:-1])


def test_moments_come_when_they_should(result: tuple[Result, Path]) -> None:
    found, _ = result
    assert found.moments[0].names == ("initialization",)
    assert "end" in found.end.names
    assert found.moment("step 2").step == 2
    for loss in FEW.losses:
        moment = found.moment(f"loss {loss:g}")
        assert moment is not None
        assert moment.train.loss is not None
        assert moment.train.loss <= loss
    assert [m.step for m in found.moments] == sorted({m.step for m in found.moments})
    assert all({"parameter_norm", "log_path_norm"} <= m.measures.keys() for m in found.moments)
    seconds = [m.seconds for m in found.moments]
    assert seconds == sorted(seconds)


def test_the_result_is_what_was_measured(result: tuple[Result, Path]) -> None:
    found, folder = result
    history = read_record(folder)
    assert [m.step for m in history] == [m.step for m in found.moments]
    assert history[-1].values["complexity/parameter_norm"] == found.end.measures["parameter_norm"]
    assert read_result(folder) == found
    row = json.loads((folder / "result.json").read_text())
    assert row["step"] == found.end.step
    assert row["setting"]["width"] == 8
    assert row["generalization_gap"] == pytest.approx(row["test_loss"] - row["train_loss"])
    assert row["reached"] is True


def test_a_network_that_does_not_reach_it_says_so(data: Data, tmp_path: Path) -> None:
    found = trained(data, tmp_path, stop=Stop(loss=1e-9, max_steps=7))
    assert (found.reached, found.ended, found.end.step) == (False, "max_steps", 7)


def test_a_network_that_diverges_says_so(data: Data, tmp_path: Path) -> None:
    found = trained(data, tmp_path, replace(SETTING, optimizer="sgd", learning_rate=1e12))
    assert (found.reached, found.ended) == (False, "diverged")
    assert read_result(tmp_path).ended == "diverged"


def test_a_finished_network_is_not_trained_again(
    result: tuple[Result, Path], data: Data, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, folder = result
    monkeypatch.setattr(training, "fit", None)
    assert trained(data, folder) == found


def test_an_unfinished_network_starts_anew(result: tuple[Result, Path], data: Data, tmp_path: Path) -> None:
    (tmp_path / "complexity.jsonl").write_text('{"step": 3, "epoch": 0')
    (tmp_path / "result.json.unfinished").write_text("{")
    again = trained(data, tmp_path)
    assert [m.measures for m in again.moments] == [m.measures for m in result[0].moments]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["complexity.jsonl", "result.json"]


def test_a_folder_of_another_network_is_refused(result: tuple[Result, Path], data: Data) -> None:
    with pytest.raises(ValueError, match=r"other setting, stop; choose another folder"):
        trained(data, result[1], replace(SETTING, width=9), Stop(loss=0.2))


def test_a_broken_result_is_an_error(data: Data, tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("[]")
    with pytest.raises(ValueError, match="does not hold the result of a training"):
        trained(data, tmp_path)


def test_training_leaves_random_numbers_as_they_were(data: Data, tmp_path: Path) -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    trained(data, tmp_path, stop=Stop(max_steps=2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("width", 0, "width must be a whole number of at least 1, got 0"),
        ("optimizer", "adma", "optimizer must be one of sgd, momentum, adam"),
        ("learning_rate", float("nan"), "learning_rate must be a positive number"),
        ("label_noise", 1.5, "label_noise must be between 0 and 1"),
        ("dropout", 1, "dropout must be at least 0 and below 1"),
        ("num_samples", True, "num_samples must be a whole number"),
    ],
)
def test_settings_are_checked(field: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Setting(**{field: value})


def test_settings_that_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="set dropout=0"):
        Setting(optimizer="lbfgs", dropout=0.1)
    with pytest.raises(ValueError, match="set batch_norm=False"):
        Setting(optimizer="path_sgd", batch_norm=True)


def test_batches_are_passes_in_another_order_each() -> None:
    x = torch.arange(5.0)
    batches = iter(TensorBatches(x, x, 2, seed=0))
    first, second = ([next(batches)[0] for _ in range(3)] for _ in range(2))
    assert [len(batch) for batch in first] == [2, 2, 1]
    assert torch.equal(torch.cat(first).sort().values, x)
    assert not torch.equal(torch.cat(first), torch.cat(second))
    everything = iter(TensorBatches(x, x, None, seed=0))
    assert all(torch.equal(next(everything)[0], x) for _ in range(2))


def test_judging_does_not_depend_on_chunks(monkeypatch: pytest.MonkeyPatch, data: Data) -> None:
    network = Perceptron(SETTING, 4, 3, torch.float64)
    whole = fit_of(network, data.x_train, data.y_train)
    monkeypatch.setattr("lightning_complexity.studies.training.watching._CHUNK", 7)
    assert fit_of(network, data.x_train, data.y_train) == pytest.approx(whole, rel=1e-6)
    expected = torch.nn.functional.cross_entropy(network(data.x_train), data.y_train).detach()
    assert whole.loss == pytest.approx(float(expected), rel=1e-6)


@pytest.mark.parametrize("optimizer", ["sgd", "momentum", "adam", "rmsprop", "lbfgs", "path_sgd"])
def test_each_optimizer_lowers_the_loss(optimizer: str, data: Data, tmp_path: Path) -> None:
    setting = replace(SETTING, optimizer=optimizer, learning_rate=0.02)
    found = trained(data, tmp_path, setting, Stop(loss=1e-6, max_steps=20))
    assert found.end.train.loss < 0.95 * found.moments[0].train.loss


def test_dropout_and_batch_norm_are_judged_in_evaluation_mode(data: Data, tmp_path: Path) -> None:
    found = trained(data, tmp_path, replace(SETTING, dropout=0.5, batch_norm=True), Stop(max_steps=3))
    assert found.end.train != found.moments[0].train
    assert [len(m.measures) for m in found.moments] == [2] * len(found.moments)


def test_many_samples_are_judged_when_a_few_say_that_it_is_worth_it(
    data: Data, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training, "GLANCE", 20)
    seen: list[int] = []

    def counting(x: torch.Tensor, y: torch.Tensor) -> object:
        judge = judge_of_tensors(x, y)

        def judged(module: object) -> Fit:
            seen.append(len(y))
            return judge(module)

        return judged

    monkeypatch.setattr(training, "judge_of_tensors", counting)
    found = train(SETTING, data, tmp_path, metrics=["ParameterNorm"], stop=STOP, moments=Moments((), (), None))
    assert found.reached
    assert found.end.train.loss is not None
    assert found.end.train.loss <= STOP.loss
    # All 40 training samples at the start, at the end and when it was reached; the few more often.
    assert seen.count(40) <= 5 < seen.count(20)
