"""Two networks of darts, trained by its own ``fit``."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from darts import TimeSeries
from darts.models import BlockRNNModel, NBEATSModel

from tests.clients.client import EPOCHS, TRAINER, Client


def trained(network: type, **options: Any) -> Callable[[list[Any], Any], None]:
    def train(callbacks: list[Any], logger: Any) -> None:
        model = network(
            input_chunk_length=8,
            output_chunk_length=4,
            n_epochs=EPOCHS,
            batch_size=8,
            random_state=0,
            pl_trainer_kwargs={**TRAINER, "callbacks": callbacks, "logger": logger},
            **options,
        )
        values = np.sin(0.5 * np.arange(50)).astype(np.float32)
        model.fit(TimeSeries.from_values(values[:34]), val_series=TimeSeries.from_values(values[30:]))

    return train


LINE = "forward=lambda module, batch: module(batch.to_module_input()).prediction"
CLIENTS = {
    "NBEATS": Client(
        "darts",
        trained(NBEATSModel, num_stacks=2, num_blocks=1, num_layers=2, layer_widths=8),
        LINE + ', wrt="stacks.0"',
    ),
    "BlockRNN": Client(
        "darts", trained(BlockRNNModel, model="LSTM", hidden_dim=8, dropout=0.1, n_rnn_layers=2), LINE + ', wrt="rnn"'
    ),
}
