"""The loss of a module's own step: the right one, and no trace of measuring it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
import torchmetrics
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

from lightning_complexity import ComplexityMonitor, ComplexityPenalty, metrics, regularizers
from lightning_complexity.callbacks.finding import explained, find_task
from lightning_complexity.callbacks.step import StepLoss, logged_loss, run_step
from lightning_complexity.network import Batches, MeasureError, Snapshot, Task, mean_loss, predictions
from tests.networks import mlp
from tests.quick import quick_suite
from tests.test_contract import assert_same
from tests.training import Classifier, trainer

X = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3
OF_LOSSES = ["GradientNorm", "HessianTrace"]


def loader(*tensors: Tensor, **options: Any) -> DataLoader[Any]:
    return DataLoader(TensorDataset(*(tensors or (X, Y))), **{"batch_size": 8, **options})


def last(module: pl.LightningModule, *loaders: Any, **options: Any) -> dict[str, float]:
    """What a monitor of the losses measures at the end."""
    monitor = ComplexityMonitor(OF_LOSSES, **options)
    trainer(callbacks=[monitor], max_epochs=1).fit(module, *(loaders or (loader(),)))
    return monitor.history[-1].values


class Busy(Classifier):
    """A step that does everything that could leave a trace."""

    def __init__(self) -> None:
        super().__init__(mlp(4, 6, 3))
        self.accuracy = torchmetrics.Accuracy("multiclass", num_classes=3)
        self.losses: list[float] = []
        self.stages: set[str] = set()

    def training_step(self, batch: Any, batch_idx: int) -> dict[str, Any]:
        x, y = batch
        logits = self(x.mul_(0.5))
        loss = F.cross_entropy(logits, y, label_smoothing=0.1)
        self.accuracy(logits, y)
        self.log_dict({"train_loss": loss, "accuracy": self.accuracy})
        if self.logger is not None:
            self.logger.experiment.add_scalar("by hand", loss, self.global_step)
        self.losses.append(loss.item())
        self.stages.add(str(self.trainer.state.stage))
        self.trainer.should_stop = self.trainer.should_stop or len(self.losses) > 100
        torch.rand(2)
        return {"loss": loss, "logits": logits}


def test_the_loss_is_that_of_the_step() -> None:
    module = Busy()
    monitor = ComplexityMonitor(OF_LOSSES, probe=(X, Y))
    trainer(callbacks=[monitor], max_epochs=1).fit(module, loader())
    loss = F.cross_entropy(module.net(X / 2), Y, label_smoothing=0.1)
    gradient = torch.autograd.grad(loss, list(module.parameters()))
    values = monitor.history[-1].values
    assert values["probe/train_loss"] == pytest.approx(loss.item())
    assert values["complexity/gradient_norm"] == pytest.approx(float(torch.cat([g.flatten() for g in gradient]).norm()))


# Its loss is none of the outputs alone, which a few of all measures need.
@pytest.mark.filterwarnings("ignore:ComplexityMonitor leaves out relative_flatness, gauss_newton_trace")
def test_a_step_that_does_everything_leaves_no_trace(tmp_path: Any) -> None:
    ends = []
    for callbacks in ([], [ComplexityMonitor(quick_suite("full"), every_n_steps=1)]):
        pl.seed_everything(0, verbose=False)
        module = Busy()
        logger = TensorBoardLogger(tmp_path, name=str(len(callbacks)))
        fit = trainer(callbacks=callbacks, logger=logger, log_every_n_steps=1)
        fit.fit(module, loader())
        logged = {k: v for k, v in fit.callback_metrics.items() if not k.startswith(("complexity", "probe"))}
        optimizer = fit.optimizers[0].state_dict()
        ends.append((module.state_dict(), module.losses, module.stages, logged, optimizer, torch.rand(1)))
        assert not fit.should_stop
    assert_same(*ends)
    assert ends[0][2] == {"RunningStage.TRAINING"}


def test_batches_in_a_mapping_are_spread_over_the_parameters_of_forward() -> None:
    class Spread(Classifier):
        def forward(self, x: Tensor, scale: Tensor | None = None) -> Tensor:
            return self.net(x) * scale[:, None]

        def training_step(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["x"], batch["scale"]), batch["label"])

    samples = [
        {"x": x, "scale": torch.tensor(2.0), "label": y, "index": i} for i, (x, y) in enumerate(zip(X, Y, strict=True))
    ]
    module = Spread(mlp(4, 6, 3))
    monitor = ComplexityMonitor(["MarginPercentile", "GradientNorm"])
    trainer(callbacks=[monitor], max_epochs=1).fit(module, DataLoader(samples, batch_size=8))
    values = monitor.history[-1].values
    assert values["probe/train_loss"] == pytest.approx(F.cross_entropy(2 * module.net(X), Y).item())
    assert values["probe/train_accuracy"] == pytest.approx((module.net(X).argmax(1) == Y).double().mean().item())
    assert "complexity/margin_percentile" in values


class Inner(Classifier):
    """Its step calls a part of it; forward is for something else."""

    def forward(self) -> Tensor:
        raise RuntimeError

    def training_step(self, batch: Any) -> Tensor:
        (x, noise), y = batch
        return F.cross_entropy(self.net(x + 0 * noise), y)


def test_outputs_of_a_part_that_the_step_calls() -> None:
    module = Inner(mlp(4, 6, 3))
    data = [((x, x), y) for x, y in zip(X, Y, strict=True)]
    monitor = ComplexityMonitor(["JacobianNorm", "MarginPercentile"])
    trainer(callbacks=[monitor], max_epochs=1).fit(module, DataLoader(data, batch_size=8))
    values = monitor.history[-1].values
    assert {"complexity/jacobian_norm", "complexity/margin_percentile", "probe/train_accuracy"} <= values.keys()
    task = monitor._probes.train.task
    assert (task.forward.name, task.wrt) == ("net", "net")


class Regression(Classifier):
    """Another loss in validation than in training."""

    returns = True

    def training_step(self, batch: Any) -> Tensor:
        return F.mse_loss(self(batch[0]), batch[1]) + 1

    def validation_step(self, batch: Any) -> Tensor | None:
        loss = F.l1_loss(self(batch[0]), batch[1])
        self.log_dict({"val_loss": loss, "other": loss + 1})
        return loss if self.returns else None


@pytest.mark.parametrize("returns", [True, False])
def test_the_gap_is_of_one_loss(returns: bool) -> None:
    module = Regression(mlp(4, 6, 2))
    module.returns = returns
    train, val = loader(X, X[:, :2]), loader(2 * X, X[:, :2])
    values = last(module, train, val)
    on = {"train": F.l1_loss(module(X), X[:, :2]).item(), "val": F.l1_loss(module(2 * X), X[:, :2]).item()}
    assert values["probe/train_loss"] == pytest.approx(F.mse_loss(module(X), X[:, :2]).item() + 1)
    assert values["probe/val_loss"] == pytest.approx(on["val"])
    assert values["probe/generalization_gap"] == pytest.approx(on["val"] - on["train"])


def test_validation_without_a_loss_is_judged_by_the_training_step() -> None:
    class Silent(Regression):
        def validation_step(self, batch: Any) -> None:
            self.log("error", 1.0)

    module = Silent(mlp(4, 6, 2))
    values = last(module, loader(X, X[:, :2]), loader(2 * X, X[:, :2]))
    assert values["probe/val_loss"] == pytest.approx(F.mse_loss(module(2 * X), X[:, :2]).item() + 1)
    gap = values["probe/val_loss"] - values["probe/train_loss"]
    assert values["probe/generalization_gap"] == pytest.approx(gap, abs=1e-12)


@pytest.mark.parametrize(
    ("logged", "name"),
    [
        ({"val_loss": 1.0, "aux_loss": 2.0}, "val_loss"),
        ({"some_loss": 1.0, "accuracy": 2.0}, "some_loss"),
        ({"a_loss": 1.0, "b_loss": 2.0}, None),
        ({"accuracy": 1.0}, None),
    ],
)
def test_which_number_that_is_logged_is_the_loss(logged: dict[str, float], name: str | None) -> None:
    assert logged_loss(logged) == name


def test_a_loss_that_is_there_in_training_mode_alone() -> None:
    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3))

        def forward(self, x: Tensor, y: Tensor | None = None) -> Any:
            return {"a": F.cross_entropy(self.net(x), y), "b": self.net(x).square().mean()} if self.training else []

    class Detecting(Classifier):
        def training_step(self, batch: Any) -> Tensor:
            return sum(self.net(*batch).values())

    module = Detecting(Detector())
    values = last(module)
    logits = module.eval().net.net(X)
    expected = F.cross_entropy(logits, Y) + logits.square().mean()
    assert values["probe/train_loss"] == pytest.approx(expected.item())
    assert "complexity/hessian_trace" in values


# Manual optimization ----------------------------------------------------------------------------


class Manual(Classifier):
    """Steps its optimizers itself, and looks at them as it does so."""

    automatic_optimization = False
    num_losses = 1

    def training_step(self, batch: Any) -> None:
        for i in range(self.num_losses):
            optimizer = self.optimizers()
            assert isinstance(optimizer, (torch.optim.Optimizer, pl.core.optimizer.LightningOptimizer))
            optimizer.param_groups[0]["lr"] *= 0.9
            self.toggle_optimizer(optimizer)
            optimizer.zero_grad()
            self.manual_backward((i + 1) * F.cross_entropy(self(batch[0]), batch[1]))
            self.clip_gradients(optimizer, gradient_clip_val=0.5)
            optimizer.step()
            self.untoggle_optimizer(optimizer)


def test_manual_optimization_is_measured_at_the_loss_of_its_backward_pass() -> None:
    ends = []
    for callbacks in ([], [ComplexityMonitor(OF_LOSSES, every_n_steps=1)]):
        pl.seed_everything(0, verbose=False)
        module = Manual(mlp(4, 6, 3))
        fit = trainer(callbacks=callbacks)
        fit.fit(module, loader())
        ends.append((module.state_dict(), fit.optimizers[0].state_dict(), fit.global_step))
    assert_same(*ends)
    loss = callbacks[0].history[-1].values["probe/train_loss"]
    assert loss == pytest.approx(F.cross_entropy(module(X), Y).item())


def test_a_closure_of_manual_optimization_gives_its_loss() -> None:
    class Closing(Classifier):
        automatic_optimization = False

        def training_step(self, batch: Any) -> None:
            optimizer = self.optimizers()

            def closure() -> Tensor:
                optimizer.zero_grad()
                loss = F.cross_entropy(self(batch[0]), batch[1])
                self.manual_backward(loss)
                return loss

            optimizer.step(closure=closure)

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.LBFGS(self.parameters(), lr=0.1, max_iter=2)

    ends = []
    for callbacks in ([], [ComplexityMonitor(OF_LOSSES, every_n_steps=1)]):
        pl.seed_everything(0, verbose=False)
        module = Closing(mlp(4, 6, 3))
        fit = trainer(callbacks=callbacks, max_epochs=1)
        fit.fit(module, loader())
        ends.append((module.state_dict(), fit.optimizers[0].state_dict(), fit.global_step))
    assert_same(*ends)
    loss = callbacks[0].history[-1].values["probe/train_loss"]
    assert loss == pytest.approx(F.cross_entropy(module(X), Y).item())


def test_several_losses_of_manual_optimization_are_refused_by_name() -> None:
    module = Manual(mlp(4, 6, 3))
    module.num_losses = 2
    with pytest.warns(UserWarning, match="leaves out .*loss.* manual_backward with 2 losses") as caught:
        values = last(module)
    assert len([w for w in caught if "ComplexityMonitor" in str(w.message)]) == 1
    assert "probe/train_loss" not in values


def test_an_optimizer_that_the_trainer_does_not_know_is_not_stepped() -> None:
    class Own(Manual):
        def __init__(self) -> None:
            super().__init__(mlp(4, 6, 3))
            self.own = torch.optim.SGD(self.parameters(), lr=0.1)

        def training_step(self, batch: Any) -> None:
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            self.own.step()
            self.own.zero_grad()

    ends = []
    for count in (0, 1):
        pl.seed_everything(0, verbose=False)
        module = Own()
        if count:
            with pytest.warns(UserWarning, match="training_step steps SGD itself"):
                last(module)
        else:
            trainer(max_epochs=1).fit(module, loader())
        ends.append(module.state_dict())
    assert_same(*ends)


@pytest.mark.parametrize(
    ("returned", "message"),
    [(lambda module, batch: None, "returned NoneType and no loss"), (lambda module, batch: batch[0], "no loss")],
)
def test_steps_without_a_loss_are_named(returned: Any, message: str) -> None:
    class Without(Classifier):
        def training_step(self, batch: Any) -> Any:
            return returned(self, batch)

    with pytest.raises(MeasureError, match=message):
        mean_loss(Snapshot(Without(mlp(4, 3)), Batches.of((X, Y)), loss=StepLoss()))


def test_a_step_that_fetches_its_batches_is_named() -> None:
    class Fetching(Classifier):
        def training_step(self, dataloader_iter: Any) -> Any:
            return None

    with pytest.raises(MeasureError, match="takes dataloader_iter"):
        run_step(Fetching(mlp(4, 3)), "training_step", (X, Y))


# What is found ----------------------------------------------------------------------------------


def test_classes_that_the_loss_does_not_depend_on_are_no_classes() -> None:
    class Contrastive(Classifier):
        def training_step(self, batch: Any) -> Tensor:
            z = F.normalize(self(batch[0]))
            return F.cross_entropy(z @ z.roll(1, 0).T, torch.arange(len(z)))

    monitor = ComplexityMonitor(["MarginPercentile"])
    fit = trainer(callbacks=[monitor], max_epochs=1)
    with pytest.warns(UserWarning, match="leaves out margin_percentile"):
        fit.fit(Contrastive(mlp(4, 6, 3)), loader())
    assert "probe/train_accuracy" not in monitor.history[-1].values


def test_classes_of_a_network_whose_outputs_are_constant_at_first_are_classes() -> None:
    module = Classifier(mlp(4, 6, 3))
    nn.init.zeros_(module.net[-1].weight)
    monitor = ComplexityMonitor(["MarginPercentile"])
    trainer(callbacks=[monitor], max_epochs=1).fit(module, loader())
    assert "probe/train_accuracy" in monitor.history[-1].values


class Language(pl.LightningModule):
    """The loss of a language model, whose labels are the tokens themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 6), nn.Linear(6, 5)

    def forward(self, input_ids: Tensor) -> dict[str, Tensor]:
        return {"logits": self.head(self.embedding(input_ids).cumsum(1))}

    def training_step(self, batch: Any) -> Tensor:
        logits = self(batch["input_ids"])["logits"][:, :-1]
        return F.cross_entropy(logits.flatten(0, 1), batch["labels"][:, 1:].flatten())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_language_models_are_judged_at_the_next_token() -> None:
    tokens = torch.randint(0, 5, (24, 6), generator=torch.Generator().manual_seed(0))
    module = Language()
    monitor = ComplexityMonitor(["MarginPercentile", "JacobianNorm"])
    data = DataLoader([{"input_ids": t, "labels": t} for t in tokens], batch_size=8)
    trainer(callbacks=[monitor], max_epochs=1).fit(module, data)
    right = module(tokens)["logits"][:, :-1].argmax(-1) == tokens[:, 1:]
    assert monitor.history[-1].values["probe/train_accuracy"] == pytest.approx(right.double().mean().item())
    assert monitor._probes.train.task.wrt == "head"


def test_what_was_found_is_logged_once_and_can_be_asked_for(caplog: pytest.LogCaptureFixture) -> None:
    module = Classifier(mlp(4, 6, 3))
    with caplog.at_level(logging.INFO, logger="lightning_complexity"):
        last(module)
    found = [r.message for r in caplog.records if r.message.startswith("ComplexityMonitor measures")]
    assert found == [
        "ComplexityMonitor measures outputs: model(batch[0]); loss: that of training_step; derivatives: for the "
        "inputs, where these are one tensor."
    ]
    lines = ComplexityMonitor().explain(module, (X, Y)).splitlines()
    assert lines[1] == "outputs:     model(batch[0]): a tensor of torch.float64"
    assert lines[4] == "loss:        that of training_step"
    nothing = explained(module, {"z": X}, find_task(module, {"z": X}, Task()))
    assert "does not run; say forward=lambda module, batch: ..." in nothing


class Formless(Classifier):
    """A module whose ``forward`` is not written, as its step calls a part."""

    forward = nn.Module.forward

    def __init__(self, prepared: Callable[[Tensor], Tensor] = torch.clone) -> None:
        super().__init__(nn.Sequential(nn.Flatten(), mlp(4, 6, 3)))
        self.prepared = prepared

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(self.net(self.prepared(batch[0])), batch[1])


def test_a_part_that_the_step_calls_with_the_inputs_is_measured_by_itself() -> None:
    module = Formless()
    assert str(find_task(module, (X, Y), Task()).forward) == "what 'net' gives for the inputs, as within training_step"
    names = ["PathNorm", "LinearRegions", "JacobianNorm", "MarginPercentile", "GradientNorm"]
    monitor = ComplexityMonitor(names, probe=(X, Y), budget=None)
    trainer(callbacks=[monitor], max_epochs=1).fit(module, loader())
    for name in names:
        metric = getattr(metrics, name)()
        metric.update(module.net, X, Y)
        assert monitor.history[-1].values[f"complexity/{metric.name}"] == pytest.approx(metric.compute().item())


@pytest.mark.parametrize(
    "prepared", [lambda x: x / 2, lambda x: x.float().double(), lambda x: x[:, [1, 0, 2, 3]], lambda x: x.mul_(0.5)]
)
def test_a_part_that_the_step_calls_with_something_else_is_measured_within_it(prepared: Any) -> None:
    module = Formless(prepared)
    task = find_task(module, (X.clone(), Y), Task())
    assert str(task.forward) == "what 'net' gives within training_step"
    snapshot = Snapshot(module, Batches.of((X, Y)), task=task)
    torch.testing.assert_close(predictions(snapshot), module.net(prepared(X.clone())).detach())


def test_streams_are_measured_on_their_first_batch_and_validated_on_their_first_ones() -> None:
    class Stream(IterableDataset[Any]):
        def __iter__(self) -> Any:
            return iter(zip(X, Y, strict=True))

    stream = DataLoader(Stream(), batch_size=8)
    values = last(Classifier(mlp(4, 6, 3)), stream, stream)
    assert {"probe/train_loss", "probe/val_loss", "probe/generalization_gap"} <= values.keys()


def test_penalties_take_batches_as_the_monitor_does() -> None:
    tokens = torch.randint(0, 5, (24, 6), generator=torch.Generator().manual_seed(0))
    data = DataLoader([{"input_ids": t, "labels": t} for t in tokens], batch_size=8)
    norms = []
    for strength in (0.0, 1.0):
        pl.seed_everything(0, verbose=False)
        module = Language()
        penalty = ComplexityPenalty(regularizers.GradientNorm(strength), regularizers.JacobianNorm(strength))
        trainer(callbacks=[penalty], max_epochs=4).fit(module, data)
        norms.append(float(module.head.weight.detach().norm()))
    assert norms[1] < norms[0]


def test_a_batch_on_which_a_penalty_cannot_be_computed_is_left_out_later_in_the_run() -> None:
    class Short(IterableDataset[Any]):
        def __iter__(self) -> Any:
            yield from ((X[:8], Y[:8]), (X[:4], Y[:4] * 0 - 100), (X[:8], Y[:8]))

    class Ignoring(Classifier):
        def training_step(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch[0]), batch[1], reduction="sum")

    penalty = ComplexityPenalty(regularizers.SmoothMarginLoss(0.1))
    fit = trainer(callbacks=[penalty], max_epochs=1)
    with pytest.warns(UserWarning, match="smooth_margin_loss leaves batches out on which it cannot be computed"):
        fit.fit(Ignoring(mlp(4, 6, 3)), DataLoader(Short(), batch_size=None))
    assert fit.global_step == 3
    first = ComplexityPenalty(regularizers.SmoothMarginLoss(0.1))
    with pytest.raises(ValueError, match="needs at least one target"):
        trainer(callbacks=[first]).fit(Ignoring(mlp(4, 6, 3)), DataLoader([(X[:4], Y[:4] * 0 - 100)], batch_size=None))


def test_there_is_no_gap_where_the_two_losses_are_of_different_kinds() -> None:
    class Combined(Classifier):
        def training_step(self, batch: Any) -> Tensor:
            (x, y), (unlabelled,) = batch["labelled"], batch["unlabelled"]
            return F.cross_entropy(self(x), y) + self(unlabelled).square().mean()

    monitor = ComplexityMonitor(["ParameterNorm"])
    fit = trainer(callbacks=[monitor], max_epochs=1)
    with pytest.warns(UserWarning, match="leaves out probe/generalization_gap"):
        fit.fit(Combined(mlp(4, 6, 3)), {"labelled": loader(), "unlabelled": loader(X)}, loader())
    values = monitor.history[-1].values
    assert {"probe/train_loss", "probe/val_loss", "probe/val_accuracy"} <= values.keys()
    assert "probe/generalization_gap" not in values


def test_a_single_output_tells_two_classes_apart() -> None:
    class Binary(Classifier):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).squeeze(1)

        def training_step(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy_with_logits(self(batch[0]), batch[1])

    class Probability(Classifier):
        def training_step(self, batch: Any) -> Tensor:
            return F.binary_cross_entropy(self(batch[0]).sigmoid(), batch[1].unsqueeze(1))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    targets = (Y % 2).double()
    module = Binary(mlp(4, 6, 1))
    assert last(module, loader(X, targets))["probe/train_accuracy"] == pytest.approx(
        ((module(X) > 0) == targets.bool()).double().mean().item()
    )
    probable = Probability(mlp(4, 6, 1))
    assert last(probable, loader(X, targets))["probe/train_accuracy"] == pytest.approx(
        ((probable(X)[:, 0] > 0) == targets.bool()).double().mean().item()
    )


def test_a_step_that_looks_for_gradients_after_its_backward_pass() -> None:
    class Clipping(Manual):
        def training_step(self, batch: Any) -> None:
            optimizer = self.optimizers()
            optimizer.zero_grad()
            self.manual_backward(F.cross_entropy(self(batch[0]), batch[1]))
            for parameter in self.parameters():
                parameter.grad.clamp_(-1, 1)
            optimizer.step()

    module = Clipping(mlp(4, 6, 3))
    assert last(module)["probe/train_loss"] == pytest.approx(F.cross_entropy(module(X), Y).item())


def test_single_numbers_in_a_batch() -> None:
    class Tempered(Classifier):
        def training_step(self, batch: Any) -> Tensor:
            return F.cross_entropy(self(batch["x"]) / batch["temperature"], batch["y"])

    batch = {"x": X, "y": Y, "temperature": torch.tensor(2.0)}
    task = find_task(Tempered(mlp(4, 6, 3)), batch, Task())
    assert (str(task.reading), task.targets) == ("model(x=batch['x'])", None)


class Encoding(Classifier):
    """Batches come out of a part of the network."""

    def __init__(self) -> None:
        super().__init__(mlp(4, 6, 3))
        self.encoder = nn.Linear(4, 4).double()

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        return [self.encoder(batch[0]), batch[1]]


def test_batches_that_are_computed_with_gradients_are_penalised_and_measured() -> None:
    monitor = ComplexityMonitor(on_error="raise")
    penalty = ComplexityPenalty(regularizers.JacobianNorm(0.1, num_projections=1))
    loader = DataLoader(TensorDataset(X, Y), batch_size=4)
    trainer(callbacks=[monitor, penalty], max_epochs=1).fit(Encoding(), loader)
    assert "complexity/jacobian_norm" in monitor.history[-1].values


class Counting(Classifier):
    """Keeps a number at the Trainer."""

    def training_step(self, batch: Any) -> Tensor:
        self.trainer.seen = getattr(self.trainer, "seen", 0) + 1
        return super().training_step(batch)


def test_what_a_step_adds_to_the_trainer_is_taken_away_again() -> None:
    fit = trainer(callbacks=[ComplexityMonitor()], max_epochs=2)
    fit.fit(Counting(mlp(4, 6, 3)), DataLoader(TensorDataset(X, Y), batch_size=8))
    assert fit.seen == fit.global_step == 6


class LookingAhead(Classifier):
    """Its loss is that after a step of its own, as in meta-learning."""

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        weights = dict(self.net.named_parameters())
        before = F.cross_entropy(torch.func.functional_call(self.net, weights, (x,)), y)
        gradients = torch.autograd.grad(before, list(weights.values()), create_graph=True)
        moved = {name: w - 0.1 * g for (name, w), g in zip(weights.items(), gradients, strict=True)}
        return F.cross_entropy(torch.func.functional_call(self.net, moved, (x,)), y)


def test_the_loss_of_a_step_that_differentiates_for_the_parameters() -> None:
    module = LookingAhead(mlp(4, 6, 3))
    module.log = lambda *_: None
    found = mean_loss(Snapshot(module, Batches.of((X, Y)), loss=StepLoss()))
    assert found.item() == pytest.approx(module.training_step((X, Y)).item(), rel=1e-12)
    assert not found.requires_grad


class Anchored(Classifier):
    """A penalty on all its weights is part of the loss, and no layer is all that uses them."""

    def training_step(self, batch: Any) -> Tensor:
        return F.cross_entropy(self(batch[0]), batch[1]) + sum(p.square().sum() for p in self.parameters())


def test_gradients_of_samples_where_every_weight_has_another_use_than_its_layer() -> None:
    module = Anchored(mlp(4, 6, 3))
    metric = metrics.SampleGradientNorm()
    metric.update(Snapshot(module, Batches.of((X, Y)), loss=StepLoss()))
    losses = (module.training_step((X[i : i + 1], Y[i : i + 1])) for i in range(len(X)))
    gradients = (torch.autograd.grad(loss, list(module.parameters())) for loss in losses)
    norms = [torch.cat([g.flatten() for g in gradient]).norm().item() for gradient in gradients]
    assert metric.compute().item() == pytest.approx(sum(norms) / len(norms), rel=1e-9)
