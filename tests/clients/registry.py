"""All clients by name, each in a file for its package."""

from __future__ import annotations

from importlib import import_module

from tests.clients.client import Client

# Said here once more, so that the names are known without importing a dozen large packages.
NAMES = {
    "chemprop_mpnn": ("MPNN-regression", "MPNN-classification"),
    "forecasting": ("TFT", "NBeats", "DeepAR"),
    "gluonts_models": ("DeepAR", "SimpleFeedForward", "PatchTST"),
    "darts_models": ("NBEATS", "BlockRNN"),
    "neuralforecast_models": ("MLP", "NHITS"),
    "geometric": ("GCN",),
    "lightly_simclr": ("SimCLR",),
    "scvi_models": ("SCVI",),
    "huggingface": ("BERT", "GPT-2", "Llama", "ViT"),
    "timm_models": ("ResNet", "ViT"),
    "demos": ("BoringModel", "ManualOptimBoringModel", "DemoModel", "LightningTransformer", "LightningLSTM"),
    "gan": ("GAN",),
}
CLIENTS = [f"{file}.{name}" for file, names in NAMES.items() for name in names]


def load(client: str) -> Client:
    """The client of a name such as ``"geometric.GCN"``."""
    file, _, name = client.partition(".")
    clients: dict[str, Client] = import_module(f"tests.clients.{file}").CLIENTS
    if tuple(clients) != NAMES[file]:
        raise ValueError(f"{file} has the clients {tuple(clients)}, registry.py names {NAMES[file]}.")
    return clients[name]
