"""The gradient is that of the sum in every way to train on one process, bit for bit the same as written by hand."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from pytorch_lightning.callbacks import LearningRateFinder
from pytorch_lightning.plugins import MixedPrecision
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityPenalty, regularizers
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
    net[0] = torch.compile(net[0], backend="eager")
    return net


def sgd(net: nn.Module) -> Any:
    return torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr=0.05, momentum=0.9)


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


def fitted(module: Module, *callbacks: Any, **options: Any) -> dict[str, Tensor]:
    loader = DataLoader(TensorDataset(X, Y), batch_size=7)
    trainer(callbacks=list(callbacks), **options).fit(module, loader)
    return module.net.state_dict()


@pytest.mark.parametrize("mode", MODES)
def test_training_is_that_with_the_sum_by_hand(mode: str) -> None:
    build, optimizer, options = MODES[mode]
    torch.manual_seed(3)
    net = build()
    copies = [copy.deepcopy(net) for _ in range(3)]
    by_hand = fitted(Module(copies[0], optimizer, *penalties()), **options())
    with_callback = fitted(Module(copies[1], optimizer), ComplexityPenalty(*penalties()), **options())
    without = fitted(Module(copies[2], optimizer), **options())
    assert_same(with_callback, by_hand)
    with pytest.raises(AssertionError):
        assert_same(with_callback, without)


def test_the_learning_rate_finder_sees_the_penalty(tmp_path: Path) -> None:
    def losses(*callbacks: Any) -> list[float]:
        torch.manual_seed(3)
        module = Module(plain(), lambda net: torch.optim.SGD(net.parameters(), lr=module.lr))
        module.lr = 0.1
        finder = LearningRateFinder(num_training_steps=8, update_attr=False)
        fitted(module, *callbacks, finder, default_root_dir=tmp_path)
        return finder.optimal_lr.results["loss"]

    assert losses(ComplexityPenalty(regularizers.ParameterNorm(1.0)))[0] > losses()[0] + 0.1


def test_a_copy_of_the_module_is_independent() -> None:
    class Copying(pl.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            self.copy = copy.deepcopy(pl_module)

    torch.manual_seed(3)
    copying = Copying()
    module = Module(plain(), sgd)
    fitted(module, ComplexityPenalty(*penalties()), copying)
    assert_same(copying.copy.net.state_dict(), module.net.state_dict())
