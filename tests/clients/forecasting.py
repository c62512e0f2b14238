"""Networks of pytorch-forecasting on three short series."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from pytorch_forecasting import DeepAR, NBeats, TemporalFusionTransformer, TimeSeriesDataSet
from pytorch_forecasting.metrics import NormalDistributionLoss, QuantileLoss

from tests.clients.client import Client, fitted

LENGTH, CONTEXT, HORIZON = 24, 8, 4


def series() -> pd.DataFrame:
    time = np.arange(LENGTH)
    values = [np.sin(0.5 * time + k) + 2 for k in range(3)]
    frames = [pd.DataFrame({"time": time, "series": str(k), "value": v}) for k, v in enumerate(values)]
    return pd.concat(frames, ignore_index=True)


def build(make: Callable[[TimeSeriesDataSet], Any]) -> tuple[Any, ...]:
    table = series()
    training = TimeSeriesDataSet(
        table[table.time < LENGTH - HORIZON],
        time_idx="time",
        target="value",
        group_ids=["series"],
        max_encoder_length=CONTEXT,
        min_encoder_length=CONTEXT,
        max_prediction_length=HORIZON,
        min_prediction_length=HORIZON,
        time_varying_unknown_reals=["value"],
    )
    validation = TimeSeriesDataSet.from_dataset(training, table, min_prediction_idx=LENGTH - HORIZON)
    return (
        make(training),
        training.to_dataloader(train=True, batch_size=8, num_workers=0),
        validation.to_dataloader(train=False, batch_size=8, num_workers=0),
    )


def fusion_transformer(data: TimeSeriesDataSet) -> Any:
    return TemporalFusionTransformer.from_dataset(
        data, hidden_size=8, attention_head_size=2, hidden_continuous_size=4, dropout=0.1, loss=QuantileLoss()
    )


def n_beats(data: TimeSeriesDataSet) -> Any:
    return NBeats.from_dataset(data, widths=[8, 8], backcast_loss_ratio=0.1, expansion_coefficient_lengths=[3, 3])


def deep_ar(data: TimeSeriesDataSet) -> Any:
    return DeepAR.from_dataset(data, hidden_size=8, rnn_layers=2, dropout=0.1, loss=NormalDistributionLoss())


LINE = 'forward=lambda module, batch: module(batch[0])["prediction"]'
CLIENTS = {
    "TFT": Client(
        "pytorch-forecasting",
        fitted(lambda: build(fusion_transformer), limit_train_batches=4),
        LINE + ', wrt="lstm_encoder"',
    ),
    "NBeats": Client(
        "pytorch-forecasting", fitted(lambda: build(n_beats), limit_train_batches=4), LINE + ', wrt="net_blocks.0"'
    ),
    "DeepAR": Client(
        "pytorch-forecasting", fitted(lambda: build(deep_ar), limit_train_batches=4), LINE + ', wrt="rnn"'
    ),
}
