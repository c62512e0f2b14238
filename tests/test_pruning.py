"""Pruning by linear pieces: the right units, exactly zero, for good."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity.callbacks import NeuronPruning
from lightning_complexity.callbacks.pruning import _fewest
from lightning_complexity.metrics import LANNComplexity
from lightning_complexity.network import Snapshot
from tests.networks import conv_net, mlp
from tests.test_contract import assert_same
from tests.training import Classifier, trainer

X = torch.randn(24, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def data(x: Tensor = X) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, Y), batch_size=8)


def network() -> nn.Sequential:
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(2, 10), nn.Tanh(), nn.Linear(10, 6), nn.Tanh(), nn.Linear(6, 3))
    with torch.no_grad():
        net[0].weight.mul_(3)
        net[2].weight.mul_(2)
    return net


def fitted(module: pl.LightningModule, *callbacks: Any, x: Tensor = X, ckpt: Path | None = None, **options: Any) -> Any:
    used = trainer(callbacks=list(callbacks), **options)
    used.fit(module, data(x), ckpt_path=ckpt)
    return used


def zero_units(net: nn.Module) -> dict[str, Tensor]:
    return {name: p.flatten(1).eq(0).all(1) for name, p in net.named_parameters() if p.ndim > 1}


class Watch(pl.Callback):
    """Notes what is zero at every forward pass."""

    def __init__(self) -> None:
        self.pruned: list[int] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.pruned.append(sum(int(units.sum()) for units in zero_units(pl_module.net).values()))


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_prunes_its_share_and_holds_it(optimizer: str) -> None:
    class Trained(Classifier):
        def configure_optimizers(self) -> Any:
            adam = torch.optim.AdamW(self.parameters(), lr=0.1)
            return adam if optimizer == "adam" else torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)

    module, watch, pruning = Trained(network()), Watch(), NeuronPruning(0.25, at_epochs=[1, 3])
    used = fitted(module, pruning, watch, max_epochs=4)
    # 16 units: 4 after the first epoch, 3 of the 12 that are left after the third.
    assert watch.pruned == [0] * 3 + [4] * 6 + [7] * 3
    assert used.callback_metrics["pruning/pruned_share"].item() == pytest.approx(7 / 16)
    for name, mask in pruning.masks.items():
        assert (module.get_parameter(name)[mask] == 0).all()
        assert (module.get_parameter(name)[~mask] != 0).any()
    assert set(pruning.masks) == {"net.0.weight", "net.0.bias", "net.2.weight", "net.2.bias"}


def test_prunes_the_units_with_the_fewest_pieces() -> None:
    class Frozen(Classifier):
        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.0)

    module, pruning = Frozen(network()), NeuronPruning(0.25, at_epochs=[1], degree=0.05)
    before = copy.deepcopy(module.net)
    pieces = LANNComplexity(0.05).histograms(Snapshot(before, X))
    fitted(module, pruning, max_epochs=1)
    k = torch.cat(list(pieces.values()))
    mask = torch.cat([pruning.masks["net.0.weight"], pruning.masks["net.2.weight"]])
    assert mask.sum() == 4
    assert k[mask].max() <= k[~mask].min()
    sizes = torch.cat([before[i].weight.abs().sum(1) for i in (0, 2)])
    tied = k == k[mask].max()
    assert sizes[tied & mask].max() <= sizes[tied & ~mask].min()


def test_one_unit_of_each_layer_stays() -> None:
    pieces, layer = torch.tensor([2.0, 2.0, 9.0, 3.0]), torch.tensor([0, 0, 1, 1])
    sizes, kept = torch.tensor([1.0, 0.5, 1.0, 1.0]), torch.ones(4, dtype=torch.bool)
    assert _fewest(pieces, sizes, layer, kept, 3).tolist() == [1, 3]


def test_a_pruned_unit_is_exactly_zero_behind_batch_norm() -> None:
    x = torch.randn(24, 2, 8, 8)
    module, pruning = Classifier(conv_net()), NeuronPruning(0.5, at_epochs=[1])
    fitted(module, pruning, x=x, max_epochs=2)
    # The second activation follows an addition, so that its units stay.
    assert set(pruning.masks) == {"net.first.weight", "net.first.bias", "net.norm.weight", "net.norm.bias"}
    mask = pruning.masks["net.first.weight"]
    assert mask.sum() == 2
    net = module.net.eval()
    hidden = net.norm(net.first(x))
    assert (hidden[:, mask] == 0).all()
    assert (hidden[:, ~mask] != 0).any()


def test_continues_from_a_checkpoint(tmp_path: Path) -> None:
    whole = Classifier(network())
    fitted(whole, NeuronPruning(0.25, at_epochs=[1, 3]), max_epochs=4)
    first = Classifier(network())
    used = fitted(first, NeuronPruning(0.25, at_epochs=[1, 3]), max_epochs=2)
    used.save_checkpoint(tmp_path / "c.ckpt")
    second, pruning = Classifier(network()), NeuronPruning(0.25, at_epochs=[1, 3])
    fitted(second, pruning, ckpt=tmp_path / "c.ckpt", max_epochs=4)
    assert_same(whole.net.state_dict(), second.net.state_dict())
    assert pruning.masks["net.0.weight"].sum() + pruning.masks["net.2.weight"].sum() == 7


def test_a_second_fit_starts_afresh() -> None:
    pruning = NeuronPruning(0.25, at_epochs=[1])
    fitted(Classifier(network()), pruning, max_epochs=1)
    watch = Watch()
    fitted(Classifier(network()), pruning, watch, max_epochs=1)
    assert watch.pruned == [0, 0, 0]


def test_pruning_after_the_end_changes_nothing() -> None:
    plain, pruned = Classifier(network()), Classifier(network())
    fitted(plain)
    fitted(pruned, NeuronPruning(0.5, at_epochs=[10]))
    assert_same(plain.net.state_dict(), pruned.net.state_dict())


def test_refuses_networks_without_units_to_prune() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(2, 2), nn.Linear(2, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.a(x).tanh()).tanh())

    parametrized = mlp(2, 4, 3)
    nn.utils.parametrizations.weight_norm(parametrized[0])
    for net in (Shared(), parametrized):
        with pytest.raises(ValueError, match="NeuronPruning needs a network with activations whose inputs come from"):
            fitted(Classifier(net), NeuronPruning(0.5, at_epochs=[1]))


def test_refuses_a_checkpoint_of_another_network() -> None:
    pruning = NeuronPruning(0.5, at_epochs=[1])
    pruning.load_state_dict({"masks": {"net.0.weight": torch.ones(7, dtype=torch.bool)}})
    pruning.setup = lambda *_, **__: None
    with pytest.raises(ValueError, match=r"pruned 'net\.0\.weight', which this network does not have"):
        fitted(Classifier(network()), pruning)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"share": 1.0, "at_epochs": [1]}, "share must be above 0 and below 1, got 1.0"),
        ({"at_epochs": []}, "at_epochs must be numbers of completed epochs"),
        ({"at_epochs": [0, 5]}, "at_epochs must be numbers of completed epochs"),
        ({"at_epochs": [1], "degree": 0.0}, "degree must be above 0"),
        ({"at_epochs": [1], "probe": 0}, "probe must be at least 1 sample"),
    ],
)
def test_options_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NeuronPruning(**options)


def test_says_first_that_it_changes_training() -> None:
    assert "changes training" in NeuronPruning.__doc__.splitlines()[0]


class Remembering(Classifier):
    """Counts its calls, keeps a mean of its inputs in evaluation mode too, and scales them where they are."""

    def __init__(self) -> None:
        super().__init__(network())
        self.calls = 0
        self.register_buffer("mean", torch.zeros(2, dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.mean.lerp_(x.mul_(0.5).mean(0), 0.1)
        return self.net(x - self.mean)


def test_until_units_are_pruned_training_is_the_same_to_the_last_bit() -> None:
    def trained(*callbacks: Any) -> Any:
        module = Remembering()
        fitted(module, *callbacks, x=X.clone())
        return module.calls, module.state_dict()

    plain = trained()
    pruning = NeuronPruning(at_epochs=[99], probe=(X, Y))
    assert_same(plain, trained(pruning))
    assert torch.equal(pruning._drawn.inputs, X)
