"""scvi-tools' variational autoencoder of single-cell counts, trained by its own ``train``."""

from __future__ import annotations

from typing import Any

import numpy as np
import scvi
from anndata import AnnData

from tests.clients.client import EPOCHS, Client


def train(callbacks: list[Any], logger: Any) -> None:
    scvi.settings.seed = 1  # splits of the data are drawn from it
    counts = np.random.default_rng(0).poisson(2.0, (40, 12)).astype(np.float32)
    data = AnnData(counts)
    data.obs["batch"] = ["a", "b"] * 20
    scvi.model.SCVI.setup_anndata(data, batch_key="batch")
    model = scvi.model.SCVI(data, n_hidden=8, n_latent=3)
    model.train(
        max_epochs=EPOCHS,
        accelerator="cpu",
        train_size=0.75,
        batch_size=10,
        check_val_every_n_epoch=1,
        callbacks=callbacks,
        logger=logger,
        log_every_n_steps=1,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


CLIENTS = {
    "SCVI": Client(
        "scvi-tools", train, 'forward=lambda module, batch: module(batch)[1]["px"].mean, wrt="module.z_encoder"'
    )
}
