"""chemprop's message passing network, on fifteen small molecules."""

from __future__ import annotations

from typing import Any

from chemprop import data, models, nn

from tests.clients.client import Client, fitted

MOLECULES = [
    "C",
    "CC",
    "CCO",
    "CCN",
    "CCC",
    "C1CC1",
    "CO",
    "CN",
    "C=O",
    "CC=O",
    "c1ccccc1",
    "CCOC",
    "CCCl",
    "CCF",
    "C#N",
]
WIDTH = 16


def loader(molecules: list[str], *, classes: bool, shuffle: bool) -> Any:
    targets = [float(len(smiles) % 2) if classes else 0.1 * len(smiles) for smiles in molecules]
    points = [data.MoleculeDatapoint.from_smi(s, [y]) for s, y in zip(molecules, targets, strict=True)]
    return data.build_dataloader(data.MoleculeDataset(points), batch_size=5, shuffle=shuffle)


def build(predictor: type, *, classes: bool) -> tuple[Any, ...]:
    module = models.MPNN(
        nn.BondMessagePassing(d_h=WIDTH, depth=2, dropout=0.1),
        nn.MeanAggregation(),
        predictor(input_dim=WIDTH, hidden_dim=WIDTH),
        batch_norm=True,
        warmup_epochs=1,
    )
    training = loader(MOLECULES[:10], classes=classes, shuffle=True)
    return module, training, loader(MOLECULES[10:], classes=classes, shuffle=False)


LINE = 'forward=lambda module, batch: module(*batch[:3]), wrt="predictor"'
CLIENTS = {
    "MPNN-regression": Client("chemprop", fitted(lambda: build(nn.RegressionFFN, classes=False)), LINE),
    "MPNN-classification": Client("chemprop", fitted(lambda: build(nn.BinaryClassificationFFN, classes=True)), LINE),
}
