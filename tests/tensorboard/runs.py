"""Small trainings with TensorBoard's logger, and what their event files hold."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.plugins.custom_scalar.layout_pb2 import Layout
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.api_pb2 import Experiment
from torch.utils.data import DataLoader, TensorDataset

from tests.networks import mlp
from tests.training import Classifier, trainer

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float32)
Y = torch.arange(24) % 3


class Plain(Logger):
    """Takes numbers only, under the names that MLflow allows, and in the order of steps."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: list[tuple[int, dict[str, float]]] = []

    name, version = "plain", "0"

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:
        assert all(re.fullmatch(r"[A-Za-z0-9_/. -]{1,250}", key) for key in metrics)
        assert not self.rows or step >= self.rows[-1][0]
        self.rows.append((step, metrics))


class Tuned(Classifier):
    """Saves its hyper-parameters, as Lightning's users do."""

    def __init__(self, width: int = 6, rate: float = 0.1) -> None:
        super().__init__(mlp(4, width, 3).float())
        self.save_hyperparameters()


def plain() -> Classifier:
    return Classifier(mlp(4, 6, 3).float())


def loader(x: torch.Tensor = X) -> DataLoader[Any]:
    return DataLoader(TensorDataset(x, Y), batch_size=8)


def fitted(
    folder: Path,
    callbacks: list[Any],
    module: pl.LightningModule | None = None,
    *,
    logger: Any = None,
    validation: bool = True,
    ckpt_path: Any = None,
    **options: Any,
) -> pl.Trainer:
    torch.manual_seed(0)
    logger = TensorBoardLogger(folder.parent, name="", version=folder.name) if logger is None else logger
    fit = trainer(callbacks=callbacks, logger=logger, log_every_n_steps=1, **options)
    fit.fit(module or plain(), loader(), loader(X + 0.3) if validation else None, ckpt_path=ckpt_path)
    return fit


@dataclass
class Written:
    """What the event files of a folder hold, in the order in which it was written.

    Attributes:
        scalars: Steps and values by tag.
        texts: Steps and texts by tag.
        kinds: Plugins, or kinds of values, that a tag was written as.
        layouts: For Custom Scalars.
        experiments: Descriptions for the table of hyper-parameters.
        sessions: Hyper-parameters of sessions.
    """

    scalars: dict[str, list[tuple[int, float]]] = field(default_factory=dict)
    texts: dict[str, list[tuple[int, str]]] = field(default_factory=dict)
    kinds: dict[str, set[str]] = field(default_factory=dict)
    layouts: list[Layout] = field(default_factory=list)
    experiments: list[Experiment] = field(default_factory=list)
    sessions: list[dict[str, Any]] = field(default_factory=list)

    def columns(self) -> list[str]:
        """Of the table of hyper-parameters: TensorBoard takes the first description."""
        return [info.name.tag for info in self.experiments[0].metric_infos]

    def charts(self) -> dict[str, dict[str, list[str]]]:
        """Tags by title and category: TensorBoard takes the last layout."""
        return {
            category.title: {
                chart.title: list(chart.multiline.tag)
                or [tag for s in chart.margin.series for tag in (s.value, s.lower, s.upper)]
                for chart in category.chart
            }
            for category in self.layouts[-1].category
        }


def written(folder: Path) -> Written:
    found = Written()
    for path in sorted(folder.glob("*tfevents*")):
        for data in RawEventFileLoader(str(path)).Load():
            event = Event.FromString(data)
            for value in event.summary.value:
                _take(found, event.step, value)
    return found


def _take(found: Written, step: int, value: Any) -> None:
    plugin = value.metadata.plugin_data.plugin_name
    kind = plugin or value.WhichOneof("value")
    found.kinds.setdefault(value.tag, set()).add(kind)
    if kind == "simple_value":
        found.scalars.setdefault(value.tag, []).append((step, value.simple_value))
    elif kind == "text":
        found.texts.setdefault(value.tag, []).append((step, value.tensor.string_val[0].decode()))
    elif kind == "custom_scalars":
        found.layouts.append(Layout.FromString(value.tensor.string_val[0]))
    elif value.tag == metadata.EXPERIMENT_TAG:
        found.experiments.append(metadata.parse_experiment_plugin_data(value.metadata.plugin_data.content))
    elif value.tag == metadata.SESSION_START_INFO_TAG:
        start = metadata.parse_session_start_info_plugin_data(value.metadata.plugin_data.content)
        found.sessions.append({k: v.number_value or v.string_value or v.bool_value for k, v in start.hparams.items()})
