"""Two networks of neuralforecast, trained by its own ``fit``, which copies the callbacks it is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from neuralforecast import NeuralForecast
from neuralforecast.models import MLP, NHITS

from tests.clients.client import TRAINER, Client

LENGTH = 40


def series() -> pd.DataFrame:
    time = np.arange(LENGTH)
    values = [np.sin(0.5 * time + k) for k in range(3)]
    return pd.concat([pd.DataFrame({"unique_id": str(k), "ds": time, "y": v}) for k, v in enumerate(values)])


def trained(model: type, **options: Any) -> Callable[[list[Any], Any], None]:
    def train(callbacks: list[Any], logger: Any) -> None:
        sizes: dict[str, Any] = {"h": 4, "input_size": 8, "max_steps": 6, "val_check_steps": 3, "batch_size": 2}
        network = model(**sizes, **options, windows_batch_size=16, callbacks=callbacks, logger=logger, **TRAINER)
        NeuralForecast(models=[network], freq=1).fit(series(), val_size=4)

    return train


# `forward` takes windows, which the training step cuts from a batch of whole series.
LINE = (
    "forward=lambda module, batch: module({**dict.fromkeys(['futr_exog', 'hist_exog', 'stat_exog']), "
    "'insample_y': batch['temporal'][:, :1, :8].mT, 'insample_mask': batch['temporal'][:, 1:, :8].mT})"
)
CLIENTS = {
    "MLP": Client("neuralforecast", trained(MLP, hidden_size=8, num_layers=2), LINE + ", wrt='mlp.0'"),
    "NHITS": Client(
        "neuralforecast",
        trained(NHITS, mlp_units=[[8, 8]] * 3, dropout_prob_theta=0.1),
        LINE + ", wrt='blocks.0.layers'",
    ),
}
