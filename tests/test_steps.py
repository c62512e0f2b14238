"""What is read off a training's own steps, against steps by hand, in loops and under a Trainer."""

from __future__ import annotations

import copy
import itertools
import math
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor, metrics
from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.network import LiveSteps, MeasureError
from tests.networks import mlp

LIVE = ("StepGradientNorm", "UpdateRatio", "UpdateCosine", "PathLength", "TrainingLossSum", "StepsToLoss")
OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "gradient descent": lambda p: torch.optim.SGD(p, lr=0.1),
    "momentum and decay": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9, weight_decay=0.1),
    "Adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "quasi-Newton": lambda p: torch.optim.LBFGS(p, lr=0.5, max_iter=3),
}
X, Y = torch.randn(24, 4, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


def flat(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).clone()


def value(name: str, model: nn.Module, live: LiveSteps) -> Tensor:
    metric: ComplexityMetric = getattr(metrics, name)()
    metric.update(model, live=live)
    return metric.compute()


def trained(optimizer: Callable[[Any], torch.optim.Optimizer], every: int, steps: int = 11) -> Any:
    """A network, what was read off its training, and its weights and gradients as they were at each step."""
    model, x = mlp(4, 5, 3), X.double()
    step_of = optimizer(model.parameters())
    live = LiveSteps(model, every=every).follow([step_of])
    weights, gradients = [flat(model)], []

    def closure() -> Tensor:
        step_of.zero_grad()
        loss = F.cross_entropy(model(x), Y)
        loss.backward()
        return loss

    for _ in range(steps):
        step_of.step(closure)
        weights.append(flat(model))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return model, live, weights, gradients


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_step_is_what_the_weights_say(name: str) -> None:
    model, live, weights, gradients = trained(OPTIMIZERS[name], every=1)
    updates = [after - before for before, after in itertools.pairwise(weights)]
    torch.testing.assert_close(value("StepGradientNorm", model, live), gradients[-1].norm())
    torch.testing.assert_close(value("UpdateRatio", model, live), updates[-1].norm() / weights[-2].norm())
    cosine = F.cosine_similarity(updates[-1], updates[-2], 0)
    torch.testing.assert_close(value("UpdateCosine", model, live), cosine)
    torch.testing.assert_close(value("PathLength", model, live), torch.stack(updates).norm(dim=1).sum())


def test_steps_that_are_not_looked_at_count_as_the_next_one_that_is() -> None:
    model, live, weights, _ = trained(OPTIMIZERS["gradient descent"], every=4)
    lengths = [(after - before).norm() for before, after in itertools.pairwise(weights)]
    expected = 4 * lengths[3] + 4 * lengths[7] + 3 * lengths[10]  # the eleventh precedes the twelfth
    torch.testing.assert_close(value("PathLength", model, live), expected)
    torch.testing.assert_close(value("UpdateRatio", model, live), lengths[10] / weights[10].norm())
    earlier = [weights[i + 1] - weights[i] for i in (6, 7)]
    torch.testing.assert_close(value("UpdateCosine", model, live), F.cosine_similarity(*earlier, 0))


def test_layers_are_the_parameters() -> None:
    model, live, _, _ = trained(OPTIMIZERS["gradient descent"], every=1)
    metric = metrics.StepGradientNorm(per_layer=True)
    metric.update(model, live=live)
    torch.testing.assert_close(metric.compute(), {n: p.grad.norm() for n, p in model.named_parameters()})
    chosen = metrics.UpdateCosine().on("2")
    chosen.update(model, live=live)
    assert chosen.compute() != value("UpdateCosine", model, live)


def test_several_optimizers_move_one_network() -> None:
    model = mlp(4, 5, 3)
    optimizers = [torch.optim.SGD(model[i].parameters(), lr=0.1) for i in (0, 2)]
    live = LiveSteps(model, every=1).follow(optimizers)
    start, length = flat(model), 0.0
    for optimizer in optimizers:
        for p in model.parameters():
            p.grad = torch.ones_like(p)
        optimizer.step()
        length += float((flat(model) - start).norm())
        start = flat(model)
    assert float(live.path_length) == pytest.approx(length)
    assert live.gradient_norms.keys() == dict(model.named_parameters()).keys()


def test_before_the_first_step_there_is_no_value() -> None:
    model = mlp(4, 3)
    live = LiveSteps(model).follow([torch.optim.SGD(model.parameters())])
    assert value("PathLength", model, live) == value("TrainingLossSum", model, live) == 0
    for name in ("StepGradientNorm", "UpdateRatio", "UpdateCosine", "StepsToLoss"):
        assert value(name, model, live).isnan()


def test_losses_are_summed_and_first_below_a_level() -> None:
    model, live = mlp(4, 3), LiveSteps(mlp(4, 3))
    for loss in (2.0, float("nan"), 0.9, 1.5, 0.4, 0.3):
        live.losses.add(torch.tensor(loss))
    metric = metrics.StepsToLoss((0.5, 1.0, 0.1))
    metric.update(model, live=live)
    report = {key: float(found) for key, found in metric.report().items()}
    assert report["steps_to_loss/1"] == 3
    assert report["steps_to_loss/0.5"] == 5
    assert torch.tensor(report["steps_to_loss"]).isnan()
    with pytest.raises(ValueError, match="levels must be one or more finite numbers"):
        metrics.StepsToLoss(())


def test_many_losses_are_kept_in_blocks() -> None:
    live = LiveSteps(mlp(4, 3))
    for _ in range(600):
        live.losses.add(torch.tensor(0.5))
    again = LiveSteps(mlp(4, 3))
    again.load_state_dict(live.state_dict())
    again.losses.settle()
    assert (again.losses.total, again.losses.steps) == (300.0, 600)


@pytest.mark.parametrize("every", [0, -1, 1.5, True])
def test_every_is_a_number_of_steps(every: Any) -> None:
    for make in (lambda: LiveSteps(mlp(4, 3), every), lambda: metrics.PathLength(every=every)):
        with pytest.raises(ValueError, match="every must be a whole number of at least 1"):
            make()


def test_what_is_no_optimizer_is_refused_when_it_is_measured() -> None:
    model = mlp(4, 3)
    with pytest.raises(MeasureError, match=r"object is no torch\.optim\.Optimizer"):
        value("PathLength", model, LiveSteps(model).follow([object()]))


# Under a Trainer --------------------------------------------------------------------------------------


class Module(pl.LightningModule):
    """Notes the weights and the loss of each step; ``manual`` steps two optimizers itself."""

    def __init__(self, *, manual: bool = False) -> None:
        super().__init__()
        self.net, self.automatic_optimization = mlp(4, 5, 3), not manual
        self.weights: list[Tensor] = []
        self.losses: list[float] = []

    def training_step(self, batch: Any, _: int) -> Tensor:
        loss = F.cross_entropy(self.net(batch[0]), batch[1])
        if self.automatic_optimization:
            return loss
        for optimizer in self.optimizers():
            optimizer.zero_grad()
        self.manual_backward(loss)
        for optimizer in self.optimizers():
            optimizer.step()
        return loss

    def configure_optimizers(self) -> Any:
        if self.automatic_optimization:
            return torch.optim.SGD(self.parameters(), lr=0.5, momentum=0.5)
        return [torch.optim.SGD(self.net[i].parameters(), lr=0.5) for i in (0, 2)]

    def on_train_batch_start(self, *_: Any) -> None:
        self.weights.append(flat(self))

    def on_train_batch_end(self, outputs: Any, *_: Any) -> None:
        self.losses.append(float(outputs["loss"]))


def fit(module: Module, folder: Path, monitor: ComplexityMonitor | None, **options: Any) -> pl.Trainer:
    loader = DataLoader(TensorDataset(X.double(), Y), batch_size=4)
    path = options.pop("ckpt_path", None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = pl.Trainer(
            accelerator="cpu",
            default_root_dir=folder,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[] if monitor is None else [monitor],
            **{"max_epochs": 2, "enable_checkpointing": False, **options},
        )
        trainer.fit(module, loader, ckpt_path=path)
    return trainer


def monitor_of(**options: Any) -> ComplexityMonitor:
    live = [metrics.PathLength(every=1), *(getattr(metrics, name)() for name in LIVE if name != "PathLength")]
    return ComplexityMonitor([*live, "LayerRotation", "DistanceFromInitialization"], on_error="raise", **options)


@pytest.mark.parametrize(
    "options", [{}, {"accumulate_grad_batches": 4}, {"gradient_clip_val": 0.01}, {"precision": "bf16-mixed"}]
)
def test_a_monitor_reads_the_steps_and_changes_nothing(options: dict[str, Any], tmp_path: Path) -> None:
    plain, watched = Module(), Module()
    watched.load_state_dict(plain.state_dict())
    monitor = monitor_of(every_n_steps=1)
    fit(plain, tmp_path, None, **options)
    fit(watched, tmp_path, monitor, **options)
    assert torch.equal(flat(plain), flat(watched))
    assert not any(o._optimizer_step_pre_hooks or o._optimizer_step_post_hooks for o in watched.trainer.optimizers)
    last = monitor.history[-1].values
    weights = [*watched.weights, flat(watched)]
    updates = [after - before for before, after in itertools.pairwise(weights)]
    updates = [update for update in updates if update.any()]
    assert last["complexity/path_length"] == pytest.approx(float(sum(u.norm() for u in updates)), rel=1e-6)
    assert last["complexity/update_cosine"] == pytest.approx(float(F.cosine_similarity(*updates[-2:], 0)), rel=1e-6)
    assert last["complexity/training_loss_sum"] == pytest.approx(sum(watched.losses), rel=1e-6)
    assert last["complexity/distance_from_initialization"] <= last["complexity/path_length"]
    if "gradient_clip_val" in options:
        assert last["complexity/step_gradient_norm"] == pytest.approx(0.01, rel=1e-3)


def test_a_monitor_reads_the_steps_of_several_optimizers(tmp_path: Path) -> None:
    module, monitor = Module(manual=True), monitor_of()
    fit(module, tmp_path, monitor)
    last = monitor.history[-1].values
    assert last["complexity/update_ratio"] > 0
    assert last["complexity/training_loss_sum"] == pytest.approx(sum(module.losses), rel=1e-6)


def test_a_run_that_is_continued_goes_on(tmp_path: Path) -> None:
    first = Module()
    second, state = Module(), copy.deepcopy(first.state_dict())
    whole = monitor_of()
    fit(first, tmp_path, whole)
    second.load_state_dict(state)
    trainer = fit(second, tmp_path, monitor_of(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    resumed = monitor_of()
    fit(Module(), tmp_path, resumed, ckpt_path=tmp_path / "half.ckpt")
    for name in ("path_length", "training_loss_sum", "step_gradient_norm", "layer_rotation"):
        key = f"complexity/{name}"
        assert resumed.history[-1].values[key] == pytest.approx(whole.history[-1].values[key], rel=1e-6), name


def test_a_run_of_an_earlier_version_is_followed_anew(tmp_path: Path) -> None:
    trainer = fit(Module(), tmp_path, monitor_of(), max_epochs=1)
    trainer.save_checkpoint(tmp_path / "half.ckpt")
    checkpoint = torch.load(tmp_path / "half.ckpt", weights_only=False)
    (state,) = (state for state in checkpoint["callbacks"].values() if "live" in state)
    state["live"] = {"path_length": 1.0, "losses": {"steps": 3}, "trajectory": None}
    torch.save(checkpoint, tmp_path / "earlier.ckpt")
    resumed = monitor_of()
    fit(Module(), tmp_path, resumed, ckpt_path=tmp_path / "earlier.ckpt")
    assert 0 < resumed.history[-1].values["complexity/path_length"] < math.inf


def test_another_fit_of_the_same_trainer_goes_on(tmp_path: Path) -> None:
    module, monitor = Module(), monitor_of()
    trainer = fit(module, tmp_path, monitor)
    before = monitor.history[-1].values["complexity/path_length"]
    trainer.fit_loop.max_epochs = 3
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(module, DataLoader(TensorDataset(X.double(), Y), batch_size=4))
    last = monitor.history[-1].values
    assert last["complexity/path_length"] > before
    assert last["complexity/training_loss_sum"] == pytest.approx(sum(module.losses), rel=1e-6)
