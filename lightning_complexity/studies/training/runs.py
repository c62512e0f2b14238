"""Train one network to a stated criterion, measured on its way, in a folder of its own."""

from __future__ import annotations

import copy
import json
import logging
import os
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity.callbacks import ComplexityMonitor
from lightning_complexity.callbacks.base import pytorch_lightning as pl
from lightning_complexity.callbacks.probe import evenly_spaced
from lightning_complexity.metrics import ComplexityMetric, resolve
from lightning_complexity.recording.record import from_json, to_json
from lightning_complexity.studies.training.data import Data, training_samples
from lightning_complexity.studies.training.networks import Perceptron, TensorBatches
from lightning_complexity.studies.training.settings import Moments, Setting, Stop, as_dict
from lightning_complexity.studies.training.watching import GLANCE, Fit, MonitorAtMoments, Watch, judge_of_tensors

RESULT_NAME = "result.json"
Metrics = str | ComplexityMetric | Iterable[str | ComplexityMetric]


@dataclass(frozen=True)
class Moment:
    """A network at one moment of its training.

    Attributes:
        names: Such as ``"initialization"``, ``"step 100"``, ``"loss 0.1"``, ``"share 0.1"``, ``"end"``.
        step: Completed optimizer steps.
        seconds: Of training until then, without those of measuring.
        train: Loss and accuracy on all training samples.
        test: Those on samples that are not trained on.
        measures: Values by a metric's name, and of estimates ``name/standard_error``.
    """

    names: tuple[str, ...]
    step: int
    seconds: float
    train: Fit
    test: Fit
    measures: dict[str, float]

    @property
    def generalization_gap(self) -> float | None:
        """Test loss minus training loss."""
        return _difference(self.test.loss, self.train.loss)

    @property
    def accuracy_gap(self) -> float | None:
        """Training accuracy minus test accuracy."""
        return _difference(self.train.accuracy, self.test.accuracy)


@dataclass(frozen=True)
class Result:
    """What came out of a training.

    Attributes:
        asked: What was trained, on what, until when, and what was measured.
        ended: ``"criterion"``, ``"max_steps"``, ``"diverged"``, or ``"training itself"``: by what the module has.
        moments: In the order of steps, from the initialization to the end.
        seconds_measuring: What measures took.
        left_out: Reasons by name of metrics that could not be computed.
    """

    asked: dict[str, Any]
    ended: str
    moments: tuple[Moment, ...]
    seconds_measuring: float
    left_out: dict[str, str] = field(default_factory=dict)

    @property
    def reached(self) -> bool:
        """Whether the criterion was reached."""
        return self.ended == "criterion"

    @property
    def end(self) -> Moment:
        """The last moment."""
        return self.moments[-1]

    @property
    def setting(self) -> Setting:
        """The hyper-parameters, of a network of a study's own."""
        return Setting(**self.asked["setting"])

    def moment(self, name: str) -> Moment | None:
        """The moment of a name; ``None`` if training ended before."""
        return next((moment for moment in self.moments if name in moment.names), None)


def _difference(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second


def train(
    setting: Setting,
    data: Data,
    folder: str | Path,
    *,
    metrics: Metrics = "standard",
    stop: Stop | None = None,
    moments: Moments | None = None,
    probe: int = 256,
) -> Result:
    """Train one multilayer perceptron to a stated criterion, and measure it on its way.

    The folder gets ``complexity.jsonl``, the monitor's record, and at last ``result.json``, in one step. A folder that
    has a result is not trained again; one that has none starts anew. The same setting gives the same network.

    Args:
        setting: The hyper-parameters.
        data: What to train on, and to test on.
        folder: Of this network alone.
        metrics: What to measure, as for :class:`~lightning_complexity.callbacks.ComplexityMonitor`.
        stop: When training is over.
        moments: When to measure, beside the initialization and the end.
        probe: How many training samples to measure on, evenly spaced over them, and as many for testing.

    Raises:
        ValueError: If the folder has the result of something else; at settings that the data are too few for; at an
            unknown metric.

    Example:
        >>> from lightning_complexity.studies.training.data import load_data
        >>> result = train(Setting(width=16), load_data("digits"), "networks/width-16")  # doctest: +SKIP
        >>> result.reached, result.end.measures["log_path_norm"]  # doctest: +SKIP
    """
    stop, moments, resolved = stop or Stop(), moments or Moments(), resolve(metrics)
    asked = {
        "setting": as_dict(setting),
        "data": data.name,
        "stop": as_dict(stop),
        "moments": as_dict(moments),
        "metrics": [metric.name for metric in resolved],
        "probe": probe,
    }
    folder = Path(folder)
    finished = finished_result(folder, asked)
    if finished is not None:
        return finished
    x, y = training_samples(
        data,
        num_samples=setting.num_samples,
        label_noise=setting.label_noise,
        num_confused=setting.num_confused,
        seed=setting.seed,
    )
    batches = TensorBatches(x, y, None if setting.optimizer == "lbfgs" else setting.batch_size, setting.seed)
    few = evenly_spaced(range(len(y)), GLANCE)
    watch = Watch(
        stop,
        moments,
        judge_of_tensors(x, y),
        judge_of_tensors(data.x_test, data.y_test),
        batches.steps_per_epoch,
        glance=judge_of_tensors(x[few], y[few]) if len(few) < len(y) else None,
    )
    chosen = evenly_spaced(range(len(y)), probe)
    monitor = MonitorAtMoments(copy.deepcopy(resolved), watch, probe=(x[chosen], y[chosen]))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(setting.seed)
        module = Perceptron(setting, x.shape[1], data.num_classes, x.dtype)
        test = DataLoader(TensorDataset(data.x_test, data.y_test), batch_size=probe)
        fit(pl.Trainer, module, batches, test, folder, watch, monitor, stop.max_steps, accelerator="cpu")
    return finish(folder, asked, watch, monitor)


def fit(
    trainer_class: type[Any],
    module: Any,
    loader: Any,
    test: Any,
    folder: Path,
    watch: Watch,
    monitor: ComplexityMonitor,
    max_steps: int,
    **options: Any,
) -> None:
    """Train a module in a folder, watched and measured, without a word.

    Args:
        trainer_class: The ``Trainer`` of the module's Lightning.
        module: What is trained.
        loader: Of training samples.
        test: Loader of the samples that the validation probe comes from.
        folder: For the record; what an unfinished training left there is taken away.
        watch: Ends the training.
        monitor: Measures.
        max_steps: Most optimizer steps.
        options: Further ones of the ``Trainer``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("complexity*.jsonl*"):
        left.unlink()
    with quiet():
        trainer = trainer_class(
            max_epochs=-1,
            max_steps=max_steps,
            devices=1,
            logger=FolderLogger(folder),
            callbacks=[watch, monitor],
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
            check_val_every_n_epoch=None,
            val_check_interval=max_steps + 1,
            **options,
        )
        trainer.fit(module, loader, test)


class FolderLogger(pl.loggers.Logger):
    """A logger that keeps nothing and has a folder, for the monitor's record.

    Args:
        folder: Where the record goes.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder

    @property
    def name(self) -> str:
        """Of the folder."""
        return self._folder.name

    @property
    def version(self) -> str:
        """There is one."""
        return ""

    @property
    def log_dir(self) -> str:
        """The folder."""
        return str(self._folder)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Keep nothing."""

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""


@contextmanager
def quiet() -> Iterator[None]:
    """Hold back what Lightning says at each start, and the monitor's word on what it leaves out, which results have."""
    loggers = [logging.getLogger(name) for name in ("pytorch_lightning", "lightning.pytorch")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings():
        for words in (
            "does not have many workers",
            "LeafSpec",
            "logging interval",
            "leaves out",
            "no `validation_step`",
        ):
            warnings.filterwarnings("ignore", message=f".*{words}.*")
        try:
            for logger in loggers:
                logger.setLevel(logging.ERROR)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)


# Results ---------------------------------------------------------------------------------------------


def finish(folder: Path, asked: dict[str, Any], watch: Watch, monitor: ComplexityMonitor) -> Result:
    """Put together what a training gave, and write it in one step."""
    measured = {measurement.step: measurement.values for measurement in monitor.history}
    moments = tuple(
        Moment(j.names, j.step, j.seconds, j.train, j.test, _measures(measured.get(j.step, {}))) for j in watch.judged
    )
    result = Result(asked, watch.ended, moments, monitor.spending.stopwatch.spent, monitor.left_out)
    unfinished = folder / f"{RESULT_NAME}.unfinished"
    unfinished.write_text(json.dumps(_row(result), indent=1, allow_nan=False))
    os.replace(unfinished, folder / RESULT_NAME)
    return result


def _measures(values: dict[str, float]) -> dict[str, float]:
    found = {key.removeprefix("complexity/"): value for key, value in values.items() if key.startswith("complexity/")}
    found.pop("overhead", None)
    return found


def _row(result: Result) -> dict[str, Any]:
    return {
        **result.asked,
        "reached": result.reached,
        "ended": result.ended,
        "seconds_measuring": result.seconds_measuring,
        **{name: value for name, value in _moment_row(result.end).items() if name != "names"},
        "left_out": result.left_out,
        "history": [_moment_row(moment) for moment in result.moments],
    }


def _moment_row(moment: Moment) -> dict[str, Any]:
    numbers = {
        "seconds": moment.seconds,
        "train_loss": moment.train.loss,
        "train_accuracy": moment.train.accuracy,
        "test_loss": moment.test.loss,
        "test_accuracy": moment.test.accuracy,
        "generalization_gap": moment.generalization_gap,
        "accuracy_gap": moment.accuracy_gap,
    }
    return {
        "names": list(moment.names),
        "step": moment.step,
        **{name: None if value is None else to_json(value) for name, value in numbers.items()},
        "measures": {name: to_json(value) for name, value in moment.measures.items()},
    }


def _moment(row: dict[str, Any]) -> Moment:
    number = {name: None if row[name] is None else from_json(row[name]) for name in ("train_loss", "train_accuracy")}
    number |= {name: None if row[name] is None else from_json(row[name]) for name in ("test_loss", "test_accuracy")}
    return Moment(
        tuple(row["names"]),
        int(row["step"]),
        from_json(row["seconds"]),
        Fit(number["train_loss"], number["train_accuracy"]),
        Fit(number["test_loss"], number["test_accuracy"]),
        {name: from_json(value) for name, value in row["measures"].items()},
    )


_FOUND = ("reached", "ended", "seconds_measuring", "left_out", "history", "measures", "step", "seconds")
_JUDGED = ("train_loss", "train_accuracy", "test_loss", "test_accuracy", "generalization_gap", "accuracy_gap")


def read_result(folder: str | Path) -> Result:
    """Read the result of a finished training.

    Args:
        folder: Of the network.

    Raises:
        FileNotFoundError: If it is not finished.
        ValueError: If the file is none of a result.
    """
    path = Path(folder) / RESULT_NAME
    try:
        row = json.loads(path.read_text())
        asked = {name: value for name, value in row.items() if name not in (*_FOUND, *_JUDGED)}
        moments = tuple(_moment(moment) for moment in row["history"])
        return Result(asked, row["ended"], moments, float(row["seconds_measuring"]), dict(row["left_out"]))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} does not hold the result of a training: {type(error).__name__}: {error}.") from error


def finished_result(folder: Path, asked: dict[str, Any]) -> Result | None:
    """The result that a folder has; ``None`` if it has none yet.

    Raises:
        ValueError: If it is one of something else, with what differs.
    """
    if not (folder / RESULT_NAME).exists():
        return None
    result = read_result(folder)
    differing = [name for name in asked if asked[name] != result.asked.get(name)]
    if differing:
        raise ValueError(
            f"{folder} has the result of a training with other {', '.join(differing)}; choose another folder, or "
            "delete this one."
        )
    return result
