"""The penalty callback: the gradient is that of the sum, and the module is its own again afterwards."""

from __future__ import annotations

import functools
import importlib
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor, ComplexityPenalty, regularizers
from lightning_complexity.callbacks import Anneal, Warmup
from lightning_complexity.regularizers import Regularizer
from tests.networks import mlp
from tests.test_contract import REGULARIZERS, assert_same
from tests.training import Classifier, trainer

X = torch.randn(20, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(20) % 3


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=8)


class ByHand(Classifier):
    """The same penalty, written into the loss."""

    def __init__(self, net: nn.Module, penalty: Regularizer) -> None:
        super().__init__(net)
        self.penalty = penalty

    def training_step(self, batch: Any) -> Tensor:
        return super().training_step(batch) + self.penalty(self.net, *batch)


def network() -> nn.Module:
    torch.manual_seed(2)
    return mlp(4, 6, 3)


def fitted(module: pl.LightningModule, *callbacks: Any, **options: Any) -> dict[str, Tensor]:
    trainer(callbacks=list(callbacks), **options).fit(module, data())
    return module.net.state_dict()


@pytest.mark.parametrize("cls", REGULARIZERS)
@pytest.mark.parametrize("options", [{}, {"accumulate_grad_batches": 2}, {"gradient_clip_val": 0.1}], ids=str)
def test_training_is_that_with_the_sum_by_hand(cls: type[Regularizer], options: dict[str, Any]) -> None:
    by_hand = fitted(ByHand(network(), cls(0.1)), **options)
    assert_same(by_hand, fitted(Classifier(network()), ComplexityPenalty(cls(0.1)), **options))
    plain = fitted(Classifier(network()), **options)
    with pytest.raises(AssertionError):
        assert_same(by_hand, plain)


def test_several_penalties_add_up() -> None:
    class Both(ByHand):
        def training_step(self, batch: Any) -> Tensor:
            return super().training_step(batch) + self.second(self.net)

    module = Both(network(), regularizers.PathNorm(0.1))
    module.second = regularizers.StableRank(0.2)
    callback = ComplexityPenalty(regularizers.PathNorm(0.1), regularizers.StableRank(0.2))
    assert_same(fitted(module), fitted(Classifier(network()), callback))


@pytest.mark.parametrize("cls", [regularizers.PathNorm, regularizers.StableRank])
def test_a_penalty_holds_its_measure_down(cls: type[Regularizer]) -> None:
    ends = []
    for strength in (0.0, 0.1):
        monitor = ComplexityMonitor([cls.__name__])
        fitted(Classifier(network()), ComplexityPenalty(cls(strength)), monitor, max_epochs=10)
        ends.append(monitor.curve(monitor.metrics[0].name)[1][-1])
    assert ends[1] < ends[0] - 0.03 * abs(ends[0])


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")
def test_a_step_that_returns_a_mapping_or_nothing() -> None:
    class Mapping(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            if batch_idx == 0:
                return None
            return {"loss": super().training_step(batch), "extra": 1}

    class MappingByHand(Mapping):
        def training_step(self, batch: Any, batch_idx: int) -> Any:
            result = super().training_step(batch, batch_idx)
            return result and {**result, "loss": result["loss"] + self.penalty(self.net, batch[0])}

    by_hand = MappingByHand(network())
    by_hand.penalty = regularizers.JacobianNorm(0.1)
    assert_same(fitted(by_hand), fitted(Mapping(network()), ComplexityPenalty(regularizers.JacobianNorm(0.1))))


class OneEntry(ByHand):
    """Its loss is a vector of one entry, which Lightning takes as well."""

    def training_step(self, batch: Any) -> Tensor:
        return super().training_step(batch).reshape(1)


def test_a_loss_of_one_entry_is_added_to() -> None:
    by_hand = fitted(OneEntry(network(), regularizers.ParameterNorm(0.1)))
    module = OneEntry(network(), regularizers.ParameterNorm(0.0))
    assert_same(by_hand, fitted(module, ComplexityPenalty(regularizers.ParameterNorm(0.1)), log_every_n_steps=1))


def step_with_batch(self: Classifier, batch: Any) -> Tensor:
    return Classifier.training_step(self, batch)


def step_with_index(self: Classifier, batch: Any, batch_idx: int) -> Tensor:
    return Classifier.training_step(self, batch)


def decorated(step: Callable[..., Tensor]) -> Callable[..., Tensor]:
    @functools.wraps(step)
    def wrapper(*args: Any, **kwargs: Any) -> Tensor:
        return step(*args, **kwargs)

    return wrapper


@pytest.mark.parametrize("step", [step_with_batch, step_with_index, decorated(step_with_batch)])
def test_lightning_still_knows_the_arguments_of_the_step(step: Callable[..., Tensor]) -> None:
    module = type("Module", (Classifier,), {"training_step": step})(network())
    fitted(module, ComplexityPenalty(regularizers.ParameterNorm(0.1)))
    two = [ComplexityPenalty(regularizers.ParameterNorm(0.1)), ComplexityPenalty(regularizers.PathNorm(0.1))]
    fitted(type("Module", (Classifier,), {"training_step": step})(network()), *two)


def test_the_module_has_its_own_step_again() -> None:
    module = Classifier(network())
    fitted(module, ComplexityPenalty(regularizers.PathNorm(0.1)))
    assert "training_step" not in module.__dict__
    pickle.dumps(module.net)


def test_the_module_has_its_own_step_again_after_an_error_and_in_any_order() -> None:
    class Failing(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            if batch_idx == 1:
                raise RuntimeError("stop")
            return super().training_step(batch)

    module = Failing(network())
    callbacks = [ComplexityPenalty(regularizers.PathNorm(0.1)), ComplexityPenalty(regularizers.StableRank(0.1))]
    with pytest.raises(RuntimeError, match="stop"):
        fitted(module, *callbacks)
    assert "training_step" not in module.__dict__


def test_a_step_that_was_replaced_before_is_put_back() -> None:
    module = Classifier(network())
    own = module.training_step
    module.training_step = own
    fitted(module, ComplexityPenalty(regularizers.PathNorm(0.1)))
    assert module.__dict__["training_step"] is own


def test_manual_optimization_without_an_index_is_refused_before_training() -> None:
    module = Classifier(network())
    module.automatic_optimization = False
    with pytest.raises(ValueError, match=r"which loss it belongs to.*say manual_backward_index=0"):
        fitted(module, ComplexityPenalty(regularizers.PathNorm(0.1)))


def test_batches_that_are_no_pairs() -> None:
    class Named(Classifier):
        def training_step(self, batch: Any) -> Tensor:
            return super().training_step([batch["x"], batch["y"]])

    samples = [{"x": x, "y": y} for x, y in zip(X, Y, strict=True)]
    ends = []
    for module, data in ((Classifier, TensorDataset(X, Y)), (Named, samples)):
        pl.seed_everything(0, verbose=False)
        end = module(network())
        trainer(callbacks=[ComplexityPenalty(regularizers.JacobianNorm(0.1), regularizers.GradientNorm(0.1))]).fit(
            end, DataLoader(data, batch_size=4)
        )
        ends.append(end.state_dict())
    assert_same(*ends)


def test_parts_of_the_loss_are_logged(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    penalty = ComplexityPenalty(regularizers.ParameterNorm(0.1))
    second = ComplexityPenalty(regularizers.JacobianNorm(0.1))
    fit = trainer(callbacks=[penalty, second], logger=logger, log_every_n_steps=2)
    fit.fit(Classifier(network()), data())
    values = fit.callback_metrics
    parts = values["loss/task"] + values["penalty/parameter_norm"] + values["penalty/jacobian_norm"]
    torch.testing.assert_close(values["loss/total"], parts)
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    step, total = (rows[0].split(",").index(name) for name in ("step", "loss/total"))
    assert [row.split(",")[step] for row in rows[1:] if row.split(",")[total]] == ["2", "4", "6"]  # once


def test_parts_of_the_loss_are_logged_once_for_all_accumulated_batches(tmp_path: Path) -> None:
    logger = CSVLogger(tmp_path)
    penalty = ComplexityPenalty(regularizers.ParameterNorm(0.1))
    fit = trainer(callbacks=[penalty], logger=logger, log_every_n_steps=1, accumulate_grad_batches=2)
    fit.fit(Classifier(network()), data())
    rows = (Path(logger.log_dir) / "metrics.csv").read_text().splitlines()
    step, total = (rows[0].split(",").index(name) for name in ("step", "loss/total"))
    assert [row.split(",")[step] for row in rows[1:] if row.split(",")[total]] == ["1", "2", "3", "4"]


def test_the_start_of_distances_survives_in_the_checkpoint(tmp_path: Path) -> None:
    class Last(pl.Callback):
        def on_train_end(self, trainer: Any, pl_module: Any) -> None:
            trainer.save_checkpoint(tmp_path / "a.ckpt")

    def penalty() -> ComplexityPenalty:
        return ComplexityPenalty(regularizers.DistanceFromInitialization(0.1))

    whole = fitted(Classifier(network()), penalty(), max_epochs=3)
    fitted(Classifier(network()), penalty(), Last(), max_epochs=1)
    second = Classifier(network())
    fit = trainer(callbacks=[penalty()], max_epochs=3)
    fit.fit(second, data(), ckpt_path=str(tmp_path / "a.ckpt"))
    assert_same(whole, second.net.state_dict())


def test_a_checkpoint_with_a_regularizer_loads_without_it() -> None:
    module = ByHand(network(), regularizers.JacobianNorm(0.1))
    Classifier(network()).load_state_dict(module.state_dict())


def test_either_lightning() -> None:
    package = importlib.import_module("lightning.pytorch")

    class Module(package.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.net = network()

        forward = Classifier.forward
        training_step = Classifier.training_step
        configure_optimizers = Classifier.configure_optimizers

    module = Module()
    options = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    callback = ComplexityPenalty(regularizers.PathNorm(0.1))
    package.Trainer(callbacks=callback, max_epochs=2, accelerator="cpu", **options).fit(module, data())
    assert_same(module.net.state_dict(), fitted(Classifier(network()), ComplexityPenalty(regularizers.PathNorm(0.1))))


def test_in_a_plain_loop() -> None:
    model, penalty = network(), regularizers.PathNorm(0.2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    before = penalty(model, X).item()
    for _ in range(30):
        optimizer.zero_grad()
        (F.cross_entropy(model(X), Y) + penalty(model, X)).backward()
        optimizer.step()
    assert penalty(model, X).item() < before - 0.1


# Schedules -----------------------------------------------------------------------------------------


class Scheduled(ByHand):
    def training_step(self, batch: Any) -> Tensor:
        factor = [0.0, 0.0, 0.5, 1.0, 1.0, 1.0][self.trainer.global_step]
        loss = Classifier.training_step(self, batch)
        return loss + factor * self.penalty(self.net, batch[0]) if factor else loss


def test_a_schedule_multiplies_the_strength() -> None:
    callback = ComplexityPenalty(regularizers.PathNorm(0.1), schedule=Warmup(2, after=1))
    assert_same(fitted(Classifier(network()), callback), fitted(Scheduled(network(), regularizers.PathNorm(0.1))))


def test_a_schedule_of_zeros_is_bit_identical_to_none() -> None:
    callback = ComplexityPenalty(regularizers.JacobianNorm(0.1), schedule=lambda step: 0)
    assert_same(fitted(Classifier(network()), callback), fitted(Classifier(network())))


def test_a_schedule_must_be_one() -> None:
    with pytest.raises(TypeError, match=r"schedule must be a function of the step, .* got 0.5"):
        ComplexityPenalty(regularizers.PathNorm(0.1), schedule=0.5)
    with pytest.raises(ValueError, match="finite factors, got nan"):
        fitted(Classifier(network()), ComplexityPenalty(regularizers.PathNorm(0.1), schedule=lambda step: float("nan")))
    with pytest.raises(ValueError, match="num_steps must be at least 1"):
        Anneal(0)(1)
