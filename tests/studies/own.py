"""A user's module and data, of both Lightnings, for tests of import paths."""

from __future__ import annotations

import lightning.pytorch
import pytorch_lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset


def _samples(count: int, seed: int) -> TensorDataset:
    x = torch.randn(count, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return TensorDataset(x, (x[:, 0] > 0).long())


class Data(pytorch_lightning.LightningDataModule):
    """Two classes."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_samples(40, 0), batch_size=8, shuffle=True, drop_last=True)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(_samples(30, 1), batch_size=16)


class _Named(Dataset):
    def __init__(self, data: TensorDataset) -> None:
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        x, y = self.data[index]
        return {"x": x, "label": y}


class NamedData(lightning.pytorch.LightningDataModule):
    """Samples that are mappings; a test loader and none for validation."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Named(_samples(40, 0)), batch_size=8, shuffle=True)

    def test_dataloader(self) -> DataLoader:
        return DataLoader(_Named(_samples(30, 1)), batch_size=16)


class _Stream(IterableDataset):
    def __iter__(self):
        return iter(_samples(40, 0))


class StreamedData(Data):
    """A stream, which has no indices."""

    def train_dataloader(self) -> DataLoader:
        return DataLoader(_Stream(), batch_size=8)


class Network(pytorch_lightning.LightningModule):
    """A network with Adam."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch) -> Tensor:
        x, y = batch
        return nn.functional.cross_entropy(self(x), y)

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


class NamedNetwork(lightning.pytorch.LightningModule):
    """The same for mappings, of the other Lightning."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, 2)).double()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch) -> Tensor:
        return nn.functional.cross_entropy(self(batch["x"]), batch["label"])

    def configure_optimizers(self):
        return torch.optim.Adam(self.parameters(), lr=0.02)


class DroppingNetwork(Network):
    """With dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.net.insert(2, nn.Dropout(0.5))


class NeedsArguments(Network):
    """One that cannot be made without arguments."""

    def __init__(self, width: int) -> None:
        super().__init__()


NUMBER = 3
