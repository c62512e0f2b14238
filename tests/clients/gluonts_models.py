"""Networks of gluonts, built and fed as its estimators do it, on four short series."""

from __future__ import annotations

from typing import Any

import numpy as np
from gluonts.dataset.common import ListDataset
from gluonts.torch import DeepAREstimator, PatchTSTEstimator, SimpleFeedForwardEstimator

from tests.clients.client import Client, fitted

SIZES: dict[str, Any] = {"prediction_length": 4, "context_length": 8, "batch_size": 8, "num_batches_per_epoch": 3}


def series(length: int) -> ListDataset:
    return ListDataset(
        [{"start": "2020-01-01", "target": np.sin(0.5 * np.arange(length) + k) + 2} for k in range(4)], freq="D"
    )


def build(estimator: Any) -> tuple[Any, ...]:
    transformation = estimator.create_transformation()
    module = estimator.create_lightning_module()
    training, validation = (transformation.apply(series(length), is_train=True) for length in (40, 44))
    return (
        module,
        estimator.create_training_data_loader(training, module),
        estimator.create_validation_data_loader(validation, module),
    )


CLIENTS = {
    "DeepAR": Client(
        "gluonts",
        fitted(lambda: build(DeepAREstimator(freq="D", hidden_size=8, lags_seq=[1, 2], **SIZES))),
        "forward=lambda module, batch: module.model.unroll_lagged_rnn("
        "**{name: batch[name] for name in [*module.inputs, 'future_target']})[0][1], wrt='model.rnn'",
    ),
    "SimpleFeedForward": Client(
        "gluonts",
        fitted(lambda: build(SimpleFeedForwardEstimator(hidden_dimensions=[8, 8], **SIZES))),
        'forward=lambda module, batch: module(batch["past_target"])[0][1], wrt="model.nn"',
    ),
    "PatchTST": Client(
        "gluonts",
        fitted(
            lambda: build(PatchTSTEstimator(patch_len=4, stride=2, d_model=8, nhead=2, dim_feedforward=16, **SIZES))
        ),
        'forward=lambda module, batch: module(batch["past_target"], batch["past_observed_values"])[0][1], '
        'wrt="model.patch_proj"',
    ),
}
