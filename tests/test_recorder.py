"""A record of a training that is no Lightning's: the numbers of the monitor, and a network that is left as it was."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity import metrics
from lightning_complexity.network import Task
from lightning_complexity.recording import Measurement, Recorder, read_record, to_frame
from tests.networks import mlp


@pytest.fixture
def samples() -> tuple[Tensor, Tensor]:
    torch.manual_seed(0)
    return torch.randn(24, 4), torch.arange(24) % 3


def trained(net: nn.Module, samples: tuple[Tensor, Tensor], recorder: Recorder | None = None) -> list[Tensor]:
    torch.manual_seed(1)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(4):
        if recorder is not None:
            recorder.measure(net, samples, (samples[0][:5], samples[1][:5]), step=step)
        noise = torch.randn(24, 4)
        optimizer.zero_grad()
        F.cross_entropy(net(samples[0] + 0.1 * noise), samples[1]).backward()
        optimizer.step()
    return [p.detach().clone() for p in net.parameters()]


def test_training_is_the_same_with_it_and_without(samples: tuple[Tensor, Tensor]) -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(0)
        nets.append(mlp(4, 6, 3))
    plain, watched = trained(nets[0], samples), trained(nets[1], samples, Recorder("full"))
    assert all(torch.equal(a, b) for a, b in zip(plain, watched, strict=True))


def test_values_are_those_of_the_metrics_and_go_to_the_record(samples: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    net, recorder = mlp(4, 6, 3), Recorder(["PathNorm", "DistanceFromInitialization"], tmp_path)
    before = [p.detach().clone() for p in net.parameters()]
    trained(net, samples, recorder)
    last = recorder.measure(net, samples, (samples[0][:5], samples[1][:5]), step=4, epoch=2)
    squares = [(p - q).square().sum() for p, q in zip(net.parameters(), before, strict=True)]
    assert last.values["complexity/distance_from_initialization"] == pytest.approx(sum(squares).sqrt().item())
    assert last.values["complexity/log_path_norm"] == pytest.approx(metrics.PathNorm()(net, samples[0]).item())
    losses = [F.cross_entropy(net(samples[0][:k]), samples[1][:k]).item() for k in (24, 5)]
    assert last.values["probe/train_loss"] == pytest.approx(losses[0])
    assert last.values["probe/generalization_gap"] == pytest.approx(losses[1] - losses[0])
    assert read_record(tmp_path) == recorder.history
    assert recorder.to_frame().loc[4, "epoch"] == 2


def test_a_record_of_another_run_is_set_aside(samples: tuple[Tensor, Tensor], tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    for step in (3, 5):
        Recorder("fast", path).measure(mlp(4, 3), samples, step=step)
    assert [m.step for m in read_record(path)] == [5]
    assert [m.step for m in read_record(tmp_path / "run.before-1.jsonl")] == [3]


def test_a_batch_of_any_form(samples: tuple[Tensor, Tensor]) -> None:
    task = Task(forward=lambda module, batch: module(batch["x"]), targets=lambda batch: batch["y"])
    recorder = Recorder(["MeanMargin"], task=task)
    measured = recorder.measure(mlp(4, 3), {"x": samples[0], "y": samples[1]}, step=0)
    assert {"complexity/mean_margin", "probe/train_accuracy"} <= measured.values.keys()


def test_long_histories_hold_each_key_once(samples: tuple[Tensor, Tensor]) -> None:
    recorder = Recorder("fast")
    for step in range(2):
        recorder.measure(mlp(4, 3), samples, step=step)
    first, second = (row.values for row in recorder.history)
    assert len(first) > 5
    assert all(one is other for one, other in zip(first, second, strict=True))


def test_what_cannot_be_measured_is_named_once(samples: tuple[Tensor, Tensor]) -> None:
    recorder = Recorder(["PathNorm", "ParameterNorm"])
    with pytest.warns(UserWarning, match=r"The recorder leaves out log_path_norm .* needs inputs"):
        recorder.measure(mlp(4, 3), step=0)
    assert list(recorder.measure(mlp(4, 3), step=1).values) == ["complexity/parameter_norm"]
    assert list(recorder.left_out) == ["log_path_norm"]
    with pytest.raises(ValueError, match="needs inputs"):
        Recorder(["PathNorm"], on_error="raise").measure(mlp(4, 3), step=0)


def test_mistakes() -> None:
    recorder = Recorder("fast")
    recorder.history.append(Measurement(5, 0, 0.0, {}))
    with pytest.raises(ValueError, match="step must be more than the last one, 5, got 5"):
        recorder.measure(mlp(4, 3), step=5)
    with pytest.raises(ValueError, match="on_error must be"):
        Recorder(on_error="ignore")


def test_a_table_has_missing_values_and_may_be_empty() -> None:
    frame = to_frame([Measurement(0, 0, 0.0, {"a": 1.0}), Measurement(3, 1, 2.0, {"b": 2.0})])
    assert frame.index.tolist() == [0, 3]
    assert frame["a"].isna().tolist() == [False, True]
    assert to_frame([]).empty
