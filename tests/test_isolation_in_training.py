"""Training is the same, to the last bit, with a monitor, a penalty of strength 0 and a constraint that is far away."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, ComplexityPenalty, metrics, regularizers
from tests.quick import quick_suite
from tests.test_contract import assert_same
from tests.training import trainer
from tests.zoo import ZOO, Specimen

pytestmark = [
    pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm:FutureWarning"),
    pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad:UserWarning"),
    pytest.mark.filterwarnings("ignore:ComplexityMonitor leaves out:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*points are too few:UserWarning"),
]

KINDS = [
    "SharedUnderThreeNames",
    "embedding_with_max_norm",
    "WritesToInputs",
    "Nested_not_reentrant",
]
MORE = [
    "HiddenStateReplaced",
    "Nested_reentrant",
    "TiedAcrossModules",
    "HiddenModule",
    "RenormalisedUnderNoGrad",
    "BuffersWrittenAndReplaced",
    "PythonContainers",
    "TorchMetricsInside",
    "OwnGenerators",
    "DrawsInEvaluation",
    "parametrized",
    "WholeNetwork_not_reentrant",
    "WholeNetwork_reentrant",
]


class Training(pl.LightningModule):
    """The plainest training of a specimen."""

    def __init__(self, specimen: Specimen) -> None:
        super().__init__()
        self.net = specimen.model
        self.losses: list[float] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any) -> Tensor:
        x, y = batch
        loss = F.cross_entropy(self(x), y)
        self.losses.append(loss.item())
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def trained(name: str, *callbacks: pl.Callback) -> dict[str, Any]:
    pl.seed_everything(3, verbose=False)
    specimen = ZOO[name]()
    module = Training(specimen)
    data = TensorDataset(specimen.inputs.clone(), specimen.targets.clone())
    fit = trainer(callbacks=list(callbacks), max_epochs=1)
    fit.fit(module, DataLoader(data, batch_size=2, shuffle=True, drop_last=True))
    return {
        "losses": module.losses,
        "state": module.state_dict(),
        "buffers": dict(module.named_buffers()),
        "gradients": [p.grad for p in module.parameters()],
        "optimizer": fit.optimizers[0].state_dict(),
        "data": list(data.tensors),
        "random": [torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()],
        "python": {k: v for m in module.modules() for k, v in m.__dict__.items() if isinstance(v, (int, str, Tensor))},
    }


@pytest.mark.parametrize("name", [*KINDS, *(pytest.param(name, marks=pytest.mark.slow) for name in MORE)])
def test_training_is_the_same_to_the_last_bit(name: str) -> None:
    plain = trained(name)
    monitor = ComplexityMonitor(quick_suite("full"), every_n_steps=1)
    assert_same(plain, trained(name, monitor))
    assert len(monitor.history) == 4
    without_strength = ComplexityPenalty(regularizers.GradientNorm(0.0), regularizers.PathNorm(0.0))
    assert_same(plain, trained(name, without_strength))
    limit = ComplexityConstraint(metrics.GradientNorm(), at_most=1e6, every_n_steps=1)
    assert_same(plain, trained(name, limit))
