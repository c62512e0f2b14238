"""Steps of trainings in which layers come, freeze or are lazy, and optimizers share weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import BaseFinetuning
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor, metrics
from lightning_complexity.callbacks import UpdateRatioLimit
from lightning_complexity.callbacks.monitoring.live import LiveTraining
from lightning_complexity.functional import minimum_spanning_tree_sum
from lightning_complexity.metrics import LayerRotation
from lightning_complexity.network import LiveSteps, WeightTrajectory, initial_state
from tests.networks import mlp
from tests.training import Classifier, trainer

X, Y = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)), torch.arange(24) % 3


class Freezing(Classifier):
    """Its first layer is frozen in every other epoch."""

    def __init__(self) -> None:
        super().__init__(mlp(4, 5, 3))

    def on_train_epoch_start(self) -> None:
        self.net[0].requires_grad_(self.current_epoch % 2 == 1)


class Thawing(BaseFinetuning):
    """The first layer comes to the optimizer later."""

    def freeze_before_training(self, pl_module: Any) -> None:
        self.freeze(pl_module.net[0])

    def finetune_function(self, pl_module: Any, epoch: int, optimizer: Any) -> None:
        if epoch == 1:
            self.unfreeze_and_add_param_group(pl_module.net[0], optimizer, lr=0.2)


class Thawed(Classifier):
    def __init__(self) -> None:
        super().__init__(mlp(4, 5, 3))

    def configure_callbacks(self) -> Any:
        return [Thawing()]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD([p for p in self.parameters() if p.requires_grad], lr=0.1)


class Growing(Classifier):
    """Gets a layer in its second epoch."""

    def __init__(self) -> None:
        super().__init__(mlp(4, 5, 3))

    def on_train_epoch_start(self) -> None:
        if self.current_epoch == 1:
            self.net.append(nn.Linear(3, 3))
            self.trainer.optimizers[0].add_param_group({"params": list(self.net[-1].parameters())})


class Complex(Classifier):
    def __init__(self) -> None:
        super().__init__(nn.Identity())
        self.weight = nn.Parameter(torch.randn(4, 3, dtype=torch.complex128))

    def forward(self, x: Tensor) -> Tensor:
        return (x.to(torch.complex128) @ self.weight).abs()


class Odd(Classifier):
    """Has a parameter without entries, and one of whole numbers."""

    def __init__(self) -> None:
        super().__init__(mlp(4, 5, 3))
        self.empty = nn.Parameter(torch.empty(0, 3))
        self.numbers = nn.Parameter(torch.arange(6).view(2, 3), requires_grad=False)


class Alternating(Classifier):
    """Two optimizers in turn, which share an encoder; with ``toggles`` only the parameters of one are free."""

    def __init__(self, *, toggles: bool = False) -> None:
        super().__init__(mlp(4, 5))
        self.automatic_optimization, self.toggles = False, toggles
        self.heads = nn.ModuleList([nn.Linear(5, 3), nn.Linear(5, 3)])

    def forward(self, x: Tensor) -> Tensor:
        return self.heads[0](self.net(x).relu())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        head, optimizer = self.heads[batch_idx % 2], self.optimizers()[batch_idx % 2]
        if self.toggles:
            self.toggle_optimizer(optimizer)
        loss = F.cross_entropy(head(self.net(batch[0]).relu()), batch[1])
        optimizer.zero_grad()
        self.manual_backward(loss)
        optimizer.step()
        if self.toggles:
            self.untoggle_optimizer(optimizer)
        return loss

    def configure_optimizers(self) -> Any:
        encoder = list(self.net.parameters())
        return [torch.optim.SGD([*encoder, *head.parameters()], lr=0.2) for head in self.heads]


class Lazy(Classifier):
    def __init__(self) -> None:
        super().__init__(nn.Sequential(nn.LazyLinear(5), nn.LazyBatchNorm1d(), nn.ReLU(), nn.Linear(5, 3)).double())


class Places(pl.Callback):
    """Where the weights are before and after each batch; those of layers that come stand still until then."""

    def __init__(self) -> None:
        self.places: list[dict[str, Tensor]] = []

    def _look(self, module: Any) -> None:
        there = {n: p for n, p in module.named_parameters() if not isinstance(p, UninitializedParameter)}
        self.places.append(
            {
                n: torch.view_as_real(p).detach().clone() if p.is_complex() else p.detach().double().clone()
                for n, p in there.items()
            }
        )

    def on_train_batch_start(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._look(pl_module)

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
        self._look(pl_module)

    def pairs(self) -> list[tuple[Tensor, Tensor]]:
        """Before and after each batch, as vectors."""
        known: dict[str, Tensor] = {}
        for place in reversed(self.places):
            known |= place  # ends with the first value of each
        whole = [torch.cat([(place.get(n, first)).flatten() for n, first in known.items()]) for place in self.places]
        return list(zip(whole[::2], whole[1::2], strict=True))


def watched(module: pl.LightningModule, every: int = 1, **options: Any) -> tuple[ComplexityMonitor, Places]:
    chosen = [
        *(cls(every=every) for cls in (metrics.PathLength, metrics.UpdateRatio, metrics.UpdateCosine)),
        metrics.TrajectoryTreeLength(every=1),
        metrics.TrainingLossSum(),
    ]
    monitor, places = ComplexityMonitor(chosen, every_n_steps=1, on_error="raise"), Places()
    fit = trainer(callbacks=[monitor, places], **options)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*provided params to be frozen.*")
        fit.fit(module, DataLoader(TensorDataset(X, Y), batch_size=4))
    return monitor, places


TRAININGS: dict[str, Callable[[], pl.LightningModule]] = {
    "freezing": Freezing,
    "thawed": Thawed,
    "growing": Growing,
    "complex": Complex,
    "odd parameters": Odd,
    "alternating": Alternating,
    "toggled": lambda: Alternating(toggles=True),
}


@pytest.mark.parametrize("name", TRAININGS)
def test_steps_and_places_are_what_the_weights_say(name: str) -> None:
    torch.manual_seed(1)
    monitor, places = watched(TRAININGS[name](), max_epochs=3)
    pairs, last = places.pairs(), monitor.history[-1].values
    updates = [after - before for before, after in pairs]
    assert last["complexity/path_length"] == pytest.approx(float(sum(u.norm() for u in updates)), rel=1e-6)
    tree = minimum_spanning_tree_sum(torch.stack([after for _, after in pairs]))
    assert last["complexity/trajectory_tree_length"] == pytest.approx(float(tree), rel=1e-5)
    if name not in ("alternating", "toggled"):
        cosine = float(F.cosine_similarity(*updates[-2:], 0))
        assert last["complexity/update_cosine"] == pytest.approx(cosine, rel=1e-6)


def test_of_a_weight_of_two_optimizers_the_last_step_counts() -> None:
    model = nn.Linear(2, 1, bias=False)
    optimizers = [torch.optim.SGD(model.parameters(), lr=rate) for rate in (1.0, 0.5)]
    live = LiveSteps(model, every=1).follow(optimizers)
    for which, gradient in ((1, 3.0), (0, 4.0)):
        model.weight.grad = torch.tensor([[gradient, 0.0]])
        optimizers[which].step()
    assert (live.gradient_norms["weight"], live.update_norms["weight"]) == (4.0, 4.0)


def test_lazy_layers_are_followed_from_their_first_weights_on(tmp_path: Path) -> None:
    """Of their first step the start is not known; it counts as long as the second one."""
    module = Lazy()
    monitor, places = watched(module, max_epochs=2, default_root_dir=tmp_path)
    lengths = [float((after - before).norm()) for before, after in places.pairs()]
    last = monitor.history[-1].values
    assert last["complexity/path_length"] == pytest.approx(lengths[1] + sum(lengths[1:]), rel=1e-6)
    assert [m.step for m in monitor.history] == list(range(1, 13))


def test_steps_of_lazy_layers_are_limited_from_the_first_on() -> None:
    class Noting(Lazy):
        def on_before_optimizer_step(self, optimizer: Any) -> None:
            self.before = self.net[0].weight.detach().clone()

        def on_train_batch_end(self, *_: Any) -> None:
            change = (self.net[0].weight.detach() - self.before).norm() / self.before.norm()
            ratios.append(float(change))

    ratios: list[float] = []
    limit = UpdateRatioLimit(1e-3)
    trainer(callbacks=[limit], max_epochs=1).fit(Noting(), DataLoader(TensorDataset(X, Y), batch_size=4))
    assert ratios == pytest.approx([1e-3] * 6)
    assert not limit._lazy


def test_turns_of_complex_weights_count_both_parts_and_empty_ones_nothing() -> None:
    module = Odd()
    module.turned = nn.Parameter(torch.tensor([[3.0 + 4.0j]]))
    start = initial_state(module)
    module.turned.data *= 1j  # by a right angle
    metric = LayerRotation(per_layer=True)
    metric.update(module, initial=start)
    found = metric.compute()
    assert found.keys() == {"net.0.weight", "net.2.weight", "turned"}
    assert float(found["turned"]) == pytest.approx(1.0)


@pytest.mark.parametrize("every", [1, 3, 4])
def test_a_continued_run_counts_as_one_that_was_not_interrupted(every: int, tmp_path: Path) -> None:
    """But for the angle, for which the last update is missing."""

    def run(epochs: int, path: Path | None = None) -> tuple[ComplexityMonitor, pl.Trainer]:
        torch.manual_seed(1)
        live = [cls(every=every) for cls in (metrics.PathLength, metrics.UpdateRatio, metrics.StepGradientNorm)]
        monitor = ComplexityMonitor([*live, metrics.TrajectoryTreeLength(every=4)], every_n_steps=1, probe=4)
        fit = trainer(callbacks=[monitor], max_epochs=epochs)
        fit.fit(Freezing(), DataLoader(TensorDataset(X, Y), batch_size=4), ckpt_path=path)
        return monitor, fit

    whole, _ = run(3)
    run(1)[1].save_checkpoint(tmp_path / "first.ckpt")
    continued, _ = run(3, tmp_path / "first.ckpt")
    for expected, found in zip(whole.history, continued.history, strict=True):
        for values in (expected.values, found.values):
            values.pop("complexity/overhead", None)
        assert found.values == pytest.approx(expected.values, rel=1e-12, nan_ok=True)


def test_places_of_a_checkpoint_go_on_in_their_order() -> None:
    """A layer that came late has its place in the projection behind the others, also after a restart."""
    model = mlp(4, 5, 3)
    model[0].requires_grad_(False)
    whole, first, second = (WeightTrajectory(every=2) for _ in range(3))
    kept = []

    def steps(count: int, *trajectories: WeightTrajectory) -> None:
        for _ in range(count):
            for trajectory in trajectories:
                trajectory.before_step(model)
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(torch.randn_like(p) if p.requires_grad else 0)
            for trajectory in trajectories:
                trajectory.after_step(model)
            kept.append(torch.cat([p.detach().flatten() for p in model.parameters()]))

    steps(3, whole, first)
    model[0].requires_grad_(True)
    steps(2, whole, first)
    second.load_state_dict(first.state_dict())
    steps(3, whole, second)
    torch.testing.assert_close(whole.points(), second.points())
    torch.testing.assert_close(torch.pdist(whole.points()), torch.pdist(torch.stack(kept[1::2])), rtol=1e-5, atol=0)


def test_steps_without_a_loss_are_steps() -> None:
    """As where ``training_step`` skips a batch; on several processes the others' losses of that step count."""

    class Skipping(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor | None:
            return 6 - batch_idx + 0 * self.net[0].bias.sum() if batch_idx % 2 == 0 else None

    monitor = ComplexityMonitor([metrics.StepsToLoss((4.5, 2.5)), metrics.TrainingLossSum()], on_error="raise")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`training_step` returned `None`")
        trainer(callbacks=[monitor], max_epochs=1).fit(
            Skipping(mlp(4, 3)), DataLoader(TensorDataset(X, Y), batch_size=4)
        )
    last = monitor.history[-1].values
    assert (last["complexity/steps_to_loss/4.5"], last["complexity/steps_to_loss/2.5"]) == (3, 5)
    assert last["complexity/training_loss_sum"] == 6 + 4 + 2


def test_losses_of_processes_of_which_one_has_skipped_a_batch() -> None:
    class TwoRanks:
        def gathered(self, own: Any) -> Any:
            return [own, [4.0, 2.0, None, 0.5]]

    live = LiveTraining([metrics.TrainingLossSum()])
    live.steps = LiveSteps(mlp(4, 3))
    for loss in (2.0, None, None, 1.5):
        live.steps.losses.add(None if loss is None else torch.tensor(loss))
    again = LiveSteps(mlp(4, 3))
    again.load_state_dict(live.steps.state_dict())
    live.share(TwoRanks())
    assert (live.steps.losses.total, live.steps.losses.steps) == (3.0 + 2.0 + 1.0, 4)
    again.losses.settle()
    assert (again.losses.total, again.losses.steps, again.losses.first_below(2.0)) == (3.5, 4, 4)
