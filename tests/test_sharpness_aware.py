"""Sharpness-aware minimization as a callback, against the two passes written by hand."""

from __future__ import annotations

import copy
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torchmetrics import Accuracy

from lightning_complexity import ComplexityMonitor, ComplexityPenalty, regularizers
from lightning_complexity.callbacks import SharpnessAwareMinimization
from tests.sharpness_aware import (
    CASES,
    EPOCHS,
    RHO,
    SHARDED_CASES,
    WATCHDOG,
    Trained,
    batches_of,
    by_hand,
    data,
    fitted,
    network,
    of_rank,
    optimizer_of,
)

ROOT = Path(__file__).parents[1]
single = pytest.mark.parametrize("accumulated", [1, 2, 4])  # 6 batches: the last window of four has two


def assert_same_training(
    module: pl.LightningModule, dtype: torch.dtype = torch.float64, tolerance: float = 1e-12, **by: Any
) -> None:
    net = network(dtype)
    by_hand([net], [batches_of(data(dtype))], **by)
    for name, expected in net.state_dict().items():
        torch.testing.assert_close(module.net.state_dict()[name], expected, rtol=tolerance, atol=tolerance, msg=name)


def test_the_passes_by_hand_are_not_plain_training() -> None:
    """What everything here is compared with is something."""
    plain, module = Trained(), Trained()
    fitted(plain)
    fitted(module, SharpnessAwareMinimization(RHO))
    assert not torch.allclose(plain.net[0].weight, module.net[0].weight, rtol=1e-2)


@pytest.mark.parametrize("adaptive", [False, True])
@single
def test_training_is_that_by_hand(adaptive: bool, accumulated: int) -> None:
    module = Trained()
    fitted(module, SharpnessAwareMinimization(RHO, adaptive=adaptive), accumulate_grad_batches=accumulated)
    assert_same_training(module, adaptive=adaptive, accumulated=accumulated)


def test_clipping_is_of_the_second_gradient() -> None:
    module = Trained()
    fitted(module, SharpnessAwareMinimization(RHO), gradient_clip_val=0.1)
    assert_same_training(module, clip=0.1)


@single
def test_half_precision_without_a_scaler(accumulated: int) -> None:
    module = Trained(torch.float32)
    options = {"precision": "bf16-mixed", "accumulate_grad_batches": accumulated, "dtype": torch.float32}
    fitted(module, SharpnessAwareMinimization(RHO), **options)
    autocast = lambda: torch.autocast("cpu", torch.bfloat16, cache_enabled=False)  # noqa: E731 (made anew each time)
    assert_same_training(module, torch.float32, 1e-6, accumulated=accumulated, autocast=autocast)


@single
def test_half_precision_with_a_scaler(accumulated: int) -> None:
    def scaler() -> torch.amp.GradScaler:
        return torch.amp.GradScaler("cpu", init_scale=1024.0, growth_interval=3)

    module = Trained(torch.float32)
    plugin = MixedPrecision("16-mixed", "cpu", mine := scaler())
    options = {"plugins": [plugin], "accumulate_grad_batches": accumulated, "dtype": torch.float32}
    fitted(module, SharpnessAwareMinimization(RHO), gradient_clip_val=0.5, **options)
    autocast = lambda: torch.autocast("cpu", torch.float16, cache_enabled=False)  # noqa: E731 (made anew each time)
    other = scaler()
    assert_same_training(
        module, torch.float32, 1e-6, accumulated=accumulated, autocast=autocast, scaler=other, clip=0.5
    )
    assert mine.get_scale() == other.get_scale() > 1024


def test_a_gradient_beyond_half_precision_skips_the_step() -> None:
    module = Trained(torch.float32)
    plugin = MixedPrecision("16-mixed", "cpu", scaler := torch.amp.GradScaler("cpu", init_scale=2.0**40))
    before = copy.deepcopy(module.net)
    fitted(module, SharpnessAwareMinimization(RHO), plugins=[plugin], dtype=torch.float32, max_steps=2)
    assert scaler.get_scale() < 2.0**40
    torch.testing.assert_close(module.net[0].weight, before[0].weight, rtol=0, atol=0)
    assert len(module.losses) == 2


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, dict[str, Tensor]]]:
    output = tmp_path_factory.mktemp("ranks")
    command = [sys.executable, "-m", "tests.sharpness_aware", str(output)]
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    environment = {**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    subprocess.run(command, check=True, capture_output=True, cwd=ROOT, env=environment, timeout=WATCHDOG + 40)
    return [torch.load(output / f"{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize(("strategy", "accumulated"), CASES)
def test_two_processes_step_along_their_mean_gradient(
    ranks: list[dict[str, dict[str, Tensor]]], strategy: str, accumulated: int
) -> None:
    nets = [network(), network()]
    by_hand(nets, [batches_of(of_rank(rank)) for rank in range(2)], accumulated=accumulated)
    for net, results in zip(nets, ranks, strict=True):
        found = results[f"{strategy} {accumulated}"]
        for name, expected in net.state_dict().items():
            torch.testing.assert_close(found[name], expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("case", SHARDED_CASES)
def test_a_sharded_network_moves_by_the_norm_of_all_its_parts(ranks: list[dict[str, Any]], case: str) -> None:
    nets = [network(), network()]
    by_hand(nets, [batches_of(of_rank(rank)) for rank in range(2)], **SHARDED_CASES[case])
    for net, results in zip(nets, ranks, strict=True):
        for name, expected in net.state_dict().items():
            torch.testing.assert_close(results[case][name], expected, rtol=1e-12, atol=1e-12)


def test_sharpness_of_a_sharded_network_is_that_of_a_replicated_one(ranks: list[dict[str, Any]]) -> None:
    for results in ranks:
        assert len(results["replicated Adam"]) == len(results["sharded Adam"]) == EPOCHS + 1
        for expected, found in zip(results["replicated Adam"], results["sharded Adam"], strict=True):
            assert "complexity/critical_sharpness/share_of_limit" in expected
            assert "complexity/preconditioned_sharpness/share_of_limit" in expected
            without_times = {key: value for key, value in expected.items() if "overhead" not in key}
            assert {key: found[key] for key in without_times} == pytest.approx(without_times, rel=1e-6)


# What the second pass leaves behind -------------------------------------------------------------------


class Telling(Trained):
    """Counts, keeps a metric, draws numbers and writes to its batch."""

    def __init__(self) -> None:
        super().__init__()
        self.steps, self.accuracy = 0, Accuracy("multiclass", num_classes=3)
        self.drawn: list[float] = []

    def training_step(self, batch: list[Tensor], batch_idx: int) -> dict[str, Any]:
        self.steps += 1
        x, y = batch
        x.mul_(2)
        outputs = self(x)
        self.accuracy(outputs, y)
        self.drawn.append(torch.rand(()).item())
        self.log("accuracy", self.accuracy, on_step=False, on_epoch=True)
        self.log("train_loss", F.cross_entropy(outputs, y), on_epoch=True)
        return {"loss": F.cross_entropy(outputs, y), "steps": self.steps}

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        assert outputs["steps"] == self.steps
        self.drawn.append(torch.rand(()).item())


def test_the_second_pass_leaves_nothing_but_its_gradient() -> None:
    """With a learning rate of 0 the parameters stay, so that all else must be as without the callback."""
    trainers, modules = [], []
    for callbacks in ((), (SharpnessAwareMinimization(RHO),)):
        module = Telling()
        module.configure_optimizers = lambda module=module: torch.optim.SGD(module.parameters(), lr=0.0)  # type: ignore[misc]
        torch.manual_seed(3)
        trainers.append(fitted(module, *callbacks, accumulate_grad_batches=2))
        modules.append(module)
    without, with_sam = modules
    assert with_sam.drawn == without.drawn
    assert with_sam.steps == without.steps == 12
    assert with_sam.accuracy._update_count == without.accuracy._update_count
    for name, expected in without.state_dict().items():
        assert torch.equal(with_sam.state_dict()[name], expected), name
    for key, value in trainers[0].callback_metrics.items():
        assert torch.equal(trainers[1].callback_metrics[key], value), key


def test_a_batch_that_is_written_to_is_the_same_in_both_passes() -> None:
    module, other = Telling(), Trained()

    def doubled(batch: Any, batch_idx: int) -> Tensor:
        return F.cross_entropy(other(2 * batch[0]), batch[1])

    other.training_step = doubled  # type: ignore[method-assign]
    torch.manual_seed(0)
    fitted(module, SharpnessAwareMinimization(RHO))
    fitted(other, SharpnessAwareMinimization(RHO))
    torch.testing.assert_close(module.net[0].weight, other.net[0].weight, rtol=1e-12, atol=1e-12)


def test_parameters_that_no_optimizer_has_keep_their_gradients() -> None:
    class Apart(Trained):
        def __init__(self) -> None:
            super().__init__()
            self.apart = nn.Parameter(torch.ones(3))

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            return super().training_step(batch, batch_idx) + self.apart.square().sum()

    module = Apart()
    fitted(module, SharpnessAwareMinimization(RHO), max_epochs=1)
    torch.testing.assert_close(module.apart.grad, torch.full((3,), 12.0))  # 2, six times


@pytest.mark.parametrize("zeroes", [True, False])
def test_batches_whose_gradients_were_thrown_away_are_left_out(zeroes: bool) -> None:
    """As by an ``optimizer_step`` that runs the closure of every batch, and steps after every other one."""

    class Skipping(Trained):
        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, optimizer_closure: Any = None) -> None:
            if batch_idx % 2:
                optimizer.step(closure=optimizer_closure)
            else:
                optimizer_closure()

        def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Any) -> None:
            if zeroes or batch_idx % 2 == 0:  # else gradients of two batches are summed up
                optimizer.zero_grad()

    module = Skipping()
    module.net[3].p = 0.0
    fitted(module, SharpnessAwareMinimization(RHO))
    net, batches = network(), batches_of(data())
    net[3].p = 0.0
    reference = optimizer_of(net)

    def gradients(counted: range) -> None:
        reference.zero_grad()
        for i in counted:
            F.cross_entropy(net(batches[i][0]), batches[i][1]).backward()

    for _ in range(EPOCHS):
        for last in range(1, len(batches), 2):
            counted = range(last, last + 1) if zeroes else range(last - 1, last + 1)
            gradients(counted)
            before = copy.deepcopy(net.state_dict())
            length = torch.cat([p.grad.flatten() for p in net.parameters()]).norm()
            with torch.no_grad():
                for p in net.parameters():
                    p.add_(RHO * p.grad / length)
            gradients(counted)
            net.load_state_dict(before)
            reference.step()
    for p, expected in zip(module.net.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(p, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("assigns", [True, False])
@single
def test_a_teacher_follows_its_student_once_a_step(accumulated: int, assigns: bool) -> None:
    """Frozen parameters that ``training_step`` writes to are the same at the start of both passes, and afterwards."""

    class Taught(Trained):
        def __init__(self) -> None:
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 3))
            self.teacher = copy.deepcopy(self.net).requires_grad_(False)

        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            for p, q in zip(self.teacher.parameters(), self.net.parameters(), strict=True):
                if assigns:
                    p.data = 0.5 * p.data + 0.5 * q.data
                else:
                    p.mul_(0.5).add_(0.5 * q.detach())
            return F.mse_loss(self.net(batch[0]), self.teacher(batch[0].flip(0)))

    module = Taught()
    by_loop = copy.deepcopy(module)
    fitted(module, SharpnessAwareMinimization(RHO), accumulate_grad_batches=accumulated)
    optimizer, batches = optimizer_of(by_loop.net), batches_of(data())
    for _ in range(EPOCHS):
        for start in range(0, len(batches), accumulated):
            window = batches[start : start + accumulated]
            optimizer.zero_grad()
            teachers = []
            for batch in window:
                teachers.append(copy.deepcopy(by_loop.teacher.state_dict()))
                (by_loop.training_step(list(batch), 0) / accumulated).backward()
            student, followed = copy.deepcopy(by_loop.net.state_dict()), copy.deepcopy(by_loop.teacher.state_dict())
            length = torch.cat([p.grad.flatten() for p in by_loop.net.parameters()]).norm()
            with torch.no_grad():
                for p in by_loop.net.parameters():
                    p.add_(RHO * p.grad / length)
            optimizer.zero_grad()
            for batch, teacher in zip(window, teachers, strict=True):
                by_loop.teacher.load_state_dict(teacher)
                (by_loop.training_step(list(batch), 0) / accumulated).backward()
            by_loop.net.load_state_dict(student)
            by_loop.teacher.load_state_dict(followed)
            optimizer.step()
    for name, expected in by_loop.state_dict().items():
        torch.testing.assert_close(module.state_dict()[name], expected, rtol=1e-12, atol=1e-12, msg=name)


def test_lazy_layers_get_their_weights_in_the_first_pass() -> None:
    class LazyTrained(Trained):
        def __init__(self) -> None:
            super().__init__()
            self.net[0], self.net[1] = nn.LazyLinear(8).double(), nn.LazyBatchNorm1d().double()

    lazy, ready = LazyTrained(), LazyTrained()
    torch.manual_seed(0)  # as before the first batch
    ready.net(torch.zeros(2, 4))
    ready.net[1].reset_running_stats()
    for module in (lazy, ready):
        module.net[3].p = 0.0
        fitted(module, SharpnessAwareMinimization(RHO))
    for name, expected in ready.net.state_dict().items():
        torch.testing.assert_close(lazy.net.state_dict()[name], expected, rtol=1e-12, atol=1e-12, msg=name)


@pytest.mark.filterwarnings("ignore:`training_step` returned `None`")  # once in each process
def test_a_skipped_batch_is_left_out() -> None:
    class Skipping(Trained):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor | None:
            return None if batch_idx % 2 else super().training_step(batch, batch_idx)

    module = Skipping()
    fitted(module, SharpnessAwareMinimization(RHO), accumulate_grad_batches=2, max_epochs=1)
    assert len(module.losses) == 3


# With others ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("once", [False, True])
@single
def test_penalties_are_part_of_both_passes(once: bool, accumulated: int) -> None:
    def penalty() -> Any:
        return regularizers.ParameterNorm(0.05)

    module = Trained()
    callback = ComplexityPenalty(penalty(), once_per_step=once)
    trainer = fitted(module, SharpnessAwareMinimization(RHO), callback, accumulate_grad_batches=accumulated)
    by_hand_penalty = penalty()
    assert_same_training(module, accumulated=accumulated, penalty=by_hand_penalty)
    logged = trainer.callback_metrics
    torch.testing.assert_close(
        logged["loss/task"], torch.tensor(module.losses[-1], dtype=logged["loss/task"].dtype), rtol=1e-6, atol=0
    )


def test_random_penalties_draw_the_same_in_both_passes() -> None:
    """With a step of hardly any length training is nearly plain, unless the draws differ."""
    modules = []
    for callbacks in ((), (SharpnessAwareMinimization(1e-9),)):
        module = Trained()
        penalty = ComplexityPenalty(regularizers.JacobianNorm(1.0, num_projections=1))
        fitted(module, penalty, *callbacks)
        modules.append(module)
    torch.testing.assert_close(modules[0].net[0].weight, modules[1].net[0].weight, rtol=1e-6, atol=1e-6)


def test_monitors_see_the_parameters_that_are_not_moved() -> None:
    seen: list[Tensor] = []

    class Noting(pl.Callback):
        def on_before_optimizer_step(self, trainer: Any, module: Any, optimizer: Any) -> None:
            seen.append(module.net[0].weight.detach().clone())

        def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
            seen.append(module.net[0].weight.detach().clone())

    def one(monitored: bool) -> tuple[Trained, Any]:
        module, monitor = Trained(), ComplexityMonitor(["ParameterNorm"], every_n_steps=1, budget=None)
        fitted(module, SharpnessAwareMinimization(RHO), Noting(), *([monitor] if monitored else []))
        return module, monitor

    watched, monitor = one(True)
    middle = len(seen)
    unwatched, _ = one(False)
    assert torch.equal(watched.net[0].weight, unwatched.net[0].weight)
    for a, b in zip(seen[:middle], seen[middle:], strict=True):
        assert torch.equal(a, b)
    norms = torch.cat([p.detach().flatten() for p in watched.parameters()]).norm().item()
    assert monitor.history[-1].values["complexity/parameter_norm"] == pytest.approx(norms)
    before, after = seen[0:middle:2], seen[1:middle:2]
    assert torch.equal(before[0], network()[0].weight)
    for a, b in zip(after, before[1:], strict=False):
        assert torch.equal(a, b)


def test_an_error_in_the_second_pass_leaves_the_parameters_where_they_were() -> None:
    class Failing(Trained):
        def training_step(self, batch: list[Tensor], batch_idx: int) -> Tensor:
            loss = super().training_step(batch, batch_idx)
            if not torch.equal(self.net[0].weight, network()[0].weight):
                raise RuntimeError("moved")
            return loss

    module, sam = Failing(), SharpnessAwareMinimization(RHO)
    with pytest.raises(RuntimeError, match="moved"):
        fitted(module, sam)
    assert torch.equal(module.net[0].weight, network()[0].weight)
    assert "log" not in module.__dict__
    fitted(plain := Trained())  # the strategy has its own steps
    assert "training_step" not in plain.trainer.strategy.__dict__


def test_the_strategy_gets_its_steps_back() -> None:
    trainer = fitted(Trained(), SharpnessAwareMinimization(RHO))
    assert not {"training_step", "optimizer_step"} & trainer.strategy.__dict__.keys()


@pytest.mark.parametrize("optimizer", ["lbfgs", "own step", "compiled"])
def test_other_ways_to_step(optimizer: str) -> None:
    class Own(Trained):
        def configure_optimizers(self) -> Any:
            if optimizer == "lbfgs":
                return torch.optim.LBFGS(self.net.parameters(), lr=0.1, max_iter=3)
            return super().configure_optimizers()

        def optimizer_step(self, epoch: int, batch_idx: int, optimizer: Any, closure: Any = None) -> None:
            optimizer.step(closure=closure)

    module, sam = Own(), SharpnessAwareMinimization(RHO)
    if optimizer == "compiled":
        module.net[0] = torch.compile(module.net[0], backend="aot_eager")
    fitted(module, sam)
    if optimizer == "lbfgs":
        assert len(module.losses) >= 24
        return
    net = network()
    by_hand([net], [batches_of(data())])
    torch.testing.assert_close(list(module.net.parameters()), list(net.parameters()), rtol=1e-12, atol=1e-12)


# Refusals ---------------------------------------------------------------------------------------------


class Manual(Trained):
    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False


class Fetching(Trained):
    def training_step(self, dataloader_iter: Any) -> Tensor:  # type: ignore[override]
        return super().training_step(next(dataloader_iter)[0], 0)


@pytest.mark.filterwarnings("ignore:You are using the `dataloader_iter` step flavor")
@pytest.mark.parametrize(
    ("make", "callbacks", "message"),
    [
        (Manual, 1, "needs automatic optimization.*sam_perturbation"),
        (Fetching, 1, "takes dataloader_iter"),
        (Trained, 2, "takes one SharpnessAwareMinimization"),
    ],
)
def test_trainings_without_two_passes_are_refused(make: Any, callbacks: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted(make(), *(SharpnessAwareMinimization() for _ in range(callbacks)))


def test_sharded_strategies_are_refused() -> None:
    class FSDPStrategy(pl.strategies.Strategy):
        pass

    class Pretending:
        callbacks: tuple[Any, ...] = ()
        strategy = object.__new__(type("FSDPStrategy", (), {}))

    with pytest.raises(ValueError, match="FSDPStrategy does not keep"):
        SharpnessAwareMinimization().setup(Pretending(), Trained(), "fit")


@pytest.mark.parametrize("rho", [0.0, -1.0, float("inf"), float("nan")])
def test_moves_of_no_length_are_refused(rho: float) -> None:
    with pytest.raises(ValueError, match="rho must be positive and finite"):
        SharpnessAwareMinimization(rho)
