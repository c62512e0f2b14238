"""A graph convolution network of torch_geometric, which classifies small random graphs."""

from __future__ import annotations

from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor
from torch_geometric.data import Data
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GCNConv, global_mean_pool

from tests.clients.client import Client, fitted


class GCN(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = GCNConv(4, 8), GCNConv(8, 8)
        self.head = torch.nn.Linear(8, 2)

    def forward(self, x: Tensor, edge_index: Tensor, batch: Tensor) -> Tensor:
        x = self.first(x, edge_index).relu()
        x = self.second(x, edge_index)
        x = F.dropout(global_mean_pool(x, batch), p=0.5, training=self.training)
        return self.head(x)

    def training_step(self, data: Any, batch_idx: int) -> Tensor:
        loss = F.cross_entropy(self(data.x, data.edge_index, data.batch), data.y)
        self.log("train_loss", loss, batch_size=data.num_graphs)
        return loss

    def validation_step(self, data: Any, batch_idx: int) -> None:
        loss = F.cross_entropy(self(data.x, data.edge_index, data.batch), data.y)
        self.log("val_loss", loss, batch_size=data.num_graphs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def graph(nodes: int, label: int) -> Data:
    ring = torch.arange(nodes)
    edges = torch.stack([ring, ring.roll(1)])
    return Data(
        x=torch.randn(nodes, 4) + label, edge_index=torch.cat([edges, edges.flip(0)], dim=1), y=torch.tensor([label])
    )


def build() -> tuple[Any, ...]:
    graphs = [graph(3 + k % 4, k % 2) for k in range(24)]
    return GCN(), DataLoader(graphs[:16], batch_size=4, shuffle=True), DataLoader(graphs[16:], batch_size=4)


CLIENTS = {
    "GCN": Client(
        "torch-geometric",
        fitted(build),
        'forward=lambda module, batch: module(batch.x, batch.edge_index, batch.batch), wrt="head"',
    )
}
