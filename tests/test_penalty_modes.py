"""The gradient is that of the sum in every way to train on one process, bit for bit the same as written by hand."""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import BatchSizeFinder, EMAWeightAveraging, LearningRateFinder
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityPenalty, regularizers
from lightning_complexity.regularizers import Regularizer
from tests.networks import mlp
from tests.test_contract import assert_same
from tests.training import trainer

X = torch.randn(20, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
Y = torch.arange(20) % 3


def penalties() -> tuple[Regularizer, ...]:
    return regularizers.PathNorm(0.02), regularizers.JacobianNorm(0.1, num_projections=1), regularizers.StableRank(0.01)


class Module(pl.LightningModule):
    """A network that is trained as ``optimizer`` says, with penalties by hand where there are any."""

    def __init__(self, net: nn.Module, optimizer: Callable[[nn.Module], Any], *by_hand: Regularizer) -> None:
        super().__init__()
        self.net, self.optimizer, self.by_hand = net, optimizer, by_hand

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(batch[0]), batch[1])
        return sum((penalty(self, *batch) for penalty in self.by_hand), start=loss)

    def configure_optimizers(self) -> Any:
        return self.optimizer(self.net)


def plain() -> nn.Module:
    return mlp(4, 8, 3).float()


def wide() -> nn.Module:
    return mlp(4, 64, 64, 3).float()  # whose singular vectors are followed, not computed densely


def frozen() -> nn.Module:
    net = mlp(4, 8, 3).float()
    net[0].requires_grad_(False)
    return net


def tied() -> nn.Module:
    net = mlp(4, 4, 4, 3).float()
    net[2].weight = net[0].weight
    return net


def compiled() -> nn.Module:
    net = mlp(4, 8, 3).float()
    net[0] = torch.compile(net[0], backend="aot_eager")
    return net


def sgd(net: nn.Module) -> Any:
    return torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


def adam(net: nn.Module) -> Any:
    return torch.optim.Adam(net.parameters())


def lbfgs(net: nn.Module) -> Any:
    return torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3)


def groups(net: nn.Module) -> Any:
    return torch.optim.Adam([{"params": net[0].parameters(), "lr": 1e-3}, {"params": net[2].parameters()}], lr=1e-2)


def half_precision_scaled() -> MixedPrecision:
    return MixedPrecision("16-mixed", "cpu", torch.amp.GradScaler("cpu", init_scale=1024.0))


MODES: dict[str, tuple[Callable[[], nn.Module], Callable[[nn.Module], Any], Callable[[], dict[str, Any]]]] = {
    "plain": (plain, sgd, dict),
    "lbfgs": (plain, lbfgs, dict),
    "several parameter groups": (plain, groups, dict),
    "frozen parameters": (frozen, sgd, dict),
    "tied weights": (tied, sgd, dict),
    "compiled submodule": (compiled, sgd, dict),
    "bf16-mixed": (plain, sgd, lambda: {"precision": "bf16-mixed"}),
    "fp16 with a scaler": (plain, sgd, lambda: {"plugins": [half_precision_scaled()]}),
    "a partial last window": (plain, sgd, lambda: {"accumulate_grad_batches": 2}),
    "clipping": (plain, sgd, lambda: {"gradient_clip_val": 0.1}),
}


def data(batch_size: int = 7) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=batch_size)


def fitted(module: pl.LightningModule, *callbacks: Any, **options: Any) -> dict[str, Tensor]:
    trainer(callbacks=list(callbacks), **options).fit(module, data())
    return module.net.state_dict()


def built(build: Callable[[], nn.Module] = plain) -> nn.Module:
    torch.manual_seed(3)
    return build()


@pytest.mark.parametrize("mode", MODES)
def test_training_is_that_with_the_sum_by_hand(mode: str) -> None:
    build, optimizer, options = MODES[mode]
    by_hand = fitted(Module(built(build), optimizer, *penalties()), **options())
    with_callback = fitted(Module(built(build), optimizer), ComplexityPenalty(*penalties()), **options())
    without = fitted(Module(built(build), optimizer), **options())
    assert_same(with_callback, by_hand)
    with pytest.raises(AssertionError):
        assert_same(with_callback, without)


# Manual optimization -------------------------------------------------------------------------------


class Manual(Module):
    """Two losses, each with a backward pass and an optimizer of its own; penalties by hand go to one of them."""

    def __init__(self, *by_hand: Regularizer, index: int = 0, toggle: bool = False) -> None:
        super().__init__(built(), sgd, *by_hand)
        self.automatic_optimization = False
        self.index, self.toggle = index, toggle

    def training_step(self, batch: list[Tensor], batch_idx: int) -> None:
        for index, optimizer in enumerate(self.optimizers()):
            if self.toggle:
                self.toggle_optimizer(optimizer)
            loss = F.cross_entropy(self(batch[0]) * (1 + index), batch[1])
            if index == self.index:
                loss = sum((penalty(self, *batch) for penalty in self.by_hand), start=loss)
            optimizer.zero_grad()
            self.manual_backward(loss)
            optimizer.step()
            if self.toggle:
                self.untoggle_optimizer(optimizer)

    def configure_optimizers(self) -> Any:
        return torch.optim.SGD(self.net[0].parameters(), lr=0.05), torch.optim.Adam(self.net[2].parameters(), lr=0.01)


@pytest.mark.parametrize("options", [{}, {"precision": "bf16-mixed"}, "fp16"], ids=str)
@pytest.mark.parametrize("toggle", [False, True])
@pytest.mark.parametrize("index", [0, 1])
def test_manual_training_is_that_with_the_sum_by_hand(index: int, toggle: bool, options: Any) -> None:
    def configuration() -> dict[str, Any]:
        return {"plugins": [half_precision_scaled()]} if options == "fp16" else options

    by_hand = fitted(Manual(*penalties(), index=index, toggle=toggle), **configuration())
    callback = ComplexityPenalty(*penalties(), manual_backward_index=index)
    module = Manual(toggle=toggle)
    assert_same(fitted(module, callback, **configuration()), by_hand)
    assert "manual_backward" not in module.__dict__
    with pytest.raises(AssertionError):
        assert_same(by_hand, fitted(Manual(toggle=toggle), **configuration()))


def test_only_the_loss_of_the_first_callback_is_logged() -> None:
    callbacks = [
        ComplexityPenalty(regularizers.ParameterNorm(0.1), manual_backward_index=1),
        ComplexityPenalty(regularizers.JacobianNorm(0.1), manual_backward_index=0),
    ]
    fit = trainer(callbacks=callbacks, log_every_n_steps=1)
    fit.fit(Manual(), data())
    values = fit.callback_metrics
    torch.testing.assert_close(values["loss/total"], values["loss/task"] + values["penalty/parameter_norm"])
    assert values["penalty/jacobian_norm"] > 0


def test_a_constraint_on_manual_optimization() -> None:
    constraint = ComplexityConstraint(regularizers.PathNorm(), at_most=-3.0, every_n_steps=2, manual_backward_index=1)
    fitted(Manual(), constraint)
    assert constraint.lagrangians["log_path_norm"].multiplier > 0


def test_a_loss_that_is_never_reached_is_an_error() -> None:
    callback, module = ComplexityPenalty(*penalties(), manual_backward_index=1), Manual()
    fitted(module, callback)
    callback.manual_backward_index = 2  # an earlier run in which it was reached does not count
    with pytest.raises(ValueError, match="no training_step called manual_backward 3 times"):
        fitted(module, callback)
    assert not {"training_step", "manual_backward"} & module.__dict__.keys()
    with pytest.raises(ValueError, match="counts calls from 0, got -1"):
        ComplexityPenalty(*penalties(), manual_backward_index=-1)


# Steps that fetch their batches --------------------------------------------------------------------


class Fetching(Module):
    """A module whose step takes the iterator."""

    def training_step(self, dataloader_iter: Any) -> Tensor:
        batch, index, _ = next(dataloader_iter)
        return super().training_step(batch, index)


@pytest.mark.filterwarnings("ignore:Found `dataloader_iter`")
@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter`")
def test_a_step_that_fetches_its_batches() -> None:
    norm = regularizers.ParameterNorm(0.1)
    by_hand = fitted(Fetching(built(), sgd, norm))
    assert_same(fitted(Fetching(built(), sgd), ComplexityPenalty(norm)), by_hand)
    assert_same(by_hand, fitted(Module(built(), sgd, norm)))
    with pytest.raises(ValueError, match="jacobian_norm needs the batch, but training_step takes dataloader_iter"):
        fitted(Fetching(built(), sgd), ComplexityPenalty(norm, regularizers.JacobianNorm(0.1)))


# Once a step ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("accumulate", [1, 2, 5])  # of the three batches of an epoch
def test_once_a_step_gives_the_same_gradient(accumulate: int) -> None:
    class Counting(regularizers.ParameterNorm):
        calls = 0

        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            self.calls += 1
            return super().forward(*args, **kwargs)

    def trained(once: bool) -> tuple[dict[str, Tensor], int, int, dict[str, Tensor]]:
        norm, jacobian = Counting(0.3), regularizers.JacobianNorm(0.1)
        callback = ComplexityPenalty(norm, jacobian, once_per_step=once)
        fit = trainer(callbacks=[callback], max_epochs=2, accumulate_grad_batches=accumulate, log_every_n_steps=1)
        module = Module(built(), sgd)
        fit.fit(module, data())
        return module.net.state_dict(), norm.calls, fit.global_step, fit.callback_metrics

    every, calls, steps, logged_every = trained(False)
    once, fewer_calls, _, logged_once = trained(True)
    assert (calls, fewer_calls) == (6, steps)
    for name, tensor in every.items():
        torch.testing.assert_close(once[name], tensor)
    for key in ("penalty/parameter_norm", "loss/total"):
        torch.testing.assert_close(logged_once[key], logged_every[key])


# Lightning's own callbacks -------------------------------------------------------------------------


def test_the_learning_rate_finder_sees_the_sum(tmp_path: Path) -> None:
    def found(by_hand: tuple[Regularizer, ...], *callbacks: Any) -> tuple[list[float], dict[str, Tensor]]:
        module = Module(built(), lambda net: torch.optim.SGD(net.parameters(), lr=module.lr), *by_hand)
        module.lr = 0.1
        finder = LearningRateFinder(num_training_steps=8, update_attr=False)
        state = fitted(module, *callbacks, finder, default_root_dir=tmp_path)
        return finder.optimal_lr.results["loss"], state

    norm = regularizers.ParameterNorm(1.0)
    losses, state = found((), ComplexityPenalty(norm))
    losses_by_hand, state_by_hand = found((norm,))
    assert losses == losses_by_hand
    assert_same(state, state_by_hand)
    assert losses[0] > found(())[0][0] + 0.1


def test_after_the_batch_size_finder_training_is_that_with_the_sum_by_hand(tmp_path: Path) -> None:
    calls = []

    class Counting(regularizers.ParameterNorm):
        def forward(self, *args: Any, **kwargs: Any) -> Tensor:
            calls.append(args)
            return super().forward(*args, **kwargs)

    def trained(module: Module, *callbacks: Any) -> dict[str, Tensor]:
        module.train_dataloader = lambda: data(module.batch_size)
        trainer(callbacks=list(callbacks), default_root_dir=tmp_path).fit(module)
        return module.net.state_dict()

    searching, by_hand = Module(built(), sgd), Module(built(), sgd, *penalties(), regularizers.ParameterNorm(0.1))
    searching.batch_size, by_hand.batch_size = 2, 4
    finder = BatchSizeFinder(max_trials=2, steps_per_trial=1, batch_arg_name="batch_size")
    callback = ComplexityPenalty(*penalties(), Counting(0.1))
    assert_same(trained(searching, callback, finder), trained(by_hand))
    assert searching.batch_size == 4
    assert len(calls) > 2 * 5  # batches: the trials saw the penalty, too


@pytest.mark.parametrize("averaging_first", [False, True])
def test_averaging_of_weights(averaging_first: bool) -> None:
    def averaging() -> EMAWeightAveraging:
        return EMAWeightAveraging(decay=0.8)

    callbacks = [ComplexityPenalty(*penalties()), averaging()]
    with_callback = fitted(Module(built(), sgd), *(callbacks[::-1] if averaging_first else callbacks))
    assert_same(with_callback, fitted(Module(built(), sgd, *penalties()), averaging()))


def test_a_resumed_run_is_the_uninterrupted_one(tmp_path: Path) -> None:
    def penalty() -> ComplexityPenalty:
        return ComplexityPenalty(*penalties(), regularizers.DistanceFromInitialization(0.1))

    whole = fitted(Module(built(wide), sgd), penalty(), max_epochs=4)
    half = trainer(callbacks=[penalty()], max_epochs=2)
    half.fit(Module(built(wide), sgd), data())
    half.save_checkpoint(tmp_path / "half.ckpt")
    second = Module(built(wide), sgd)
    trainer(callbacks=[penalty()], max_epochs=4).fit(second, data(), ckpt_path=tmp_path / "half.ckpt")
    assert_same(second.net.state_dict(), whole)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_a_copy_of_the_module_is_independent_and_without_penalty(duplicate: Callable[[Any], Any]) -> None:
    class Copying(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            self.copy = duplicate(pl_module)

    copying = Copying()
    module = Module(built(), adam)
    fitted(module, ComplexityPenalty(*penalties()), copying)
    assert_same(copying.copy.net.state_dict(), module.net.state_dict())
    nn.init.zeros_(copying.copy.net[2].weight)
    nn.init.zeros_(copying.copy.net[2].bias)
    assert copying.copy.training_step([X, Y], 0).item() == pytest.approx(math.log(3))
    assert module.net[2].weight.any()
