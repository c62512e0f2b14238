"""No logger ends a run by what it is, or refuses; the record of each run has a place of its own."""

from __future__ import annotations

import io
import logging
import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.loggers.logger import Logger
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import ComplexityMonitor, ComplexityPenalty, regularizers
from lightning_complexity.recording import append, read_record
from tests.networks import mlp
from tests.training import Classifier, trainer

X = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3


def data() -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y), batch_size=8)


def fitted(monitor: ComplexityMonitor, logger: Any, **options: Any) -> pl.Trainer:
    torch.manual_seed(0)
    fit = trainer(callbacks=[monitor], logger=logger, log_every_n_steps=1, **options)
    fit.fit(Classifier(mlp(4, 6, 3)), data())
    return fit


class Documented(Logger):
    """The logger of Lightning's own documentation, which has no ``experiment``."""

    def __init__(self, version: str | None = "0.1") -> None:
        super().__init__()
        self.rows: list[tuple[int | None, dict[str, float]]] = []
        self._version = version

    @property
    def name(self) -> str:
        return "Documented"

    @property
    def version(self) -> Any:
        return self._version

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        pass

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        self.rows.append((step, metrics))

    def taken(self) -> set[str]:
        return {key for _, row in self.rows for key in row}


class WithoutSlashes(Documented):
    """Is not hashable either."""

    def __eq__(self, other: object) -> bool:
        return self is other

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any("/" in key for key in metrics):
            raise ValueError("invalid key")
        super().log_metrics(metrics, step)


class Files(Documented):
    """As MLflow's store of files: a key cannot be a folder and a file."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any(other.startswith(f"{key}/") for key in metrics for other in metrics):
            raise NotADirectoryError(20, "Not a directory")
        super().log_metrics(metrics, step)


class Strict(Documented):
    """Takes finite numbers of Python's own only."""

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if not all(type(value) is float and math.isfinite(value) for value in metrics.values()):
            raise TypeError("not a JSON number")
        super().log_metrics(metrics, step)


class Refusing(Documented):
    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        if any("stable" in key for key in metrics):
            raise ConnectionError("no\nnetwork")


class PerRun(Documented):
    """As W&B's and MLflow's: no ``log_dir``, one ``save_dir`` for all runs, a version that the open run knows."""

    def __init__(self, save_dir: Path | None, version: str) -> None:
        super().__init__(None)
        self._opened, self._save_dir = version, save_dir

    @property
    def save_dir(self) -> Any:
        return None if self._save_dir is None else str(self._save_dir)

    @property
    def experiment(self) -> Any:
        self._version = self._opened
        return object()


MONITORED = ["StableRank", "JacobianNorm"]


def ours(caught: pytest.WarningsRecorder) -> list[str]:
    return [str(w.message) for w in caught if "omplexity" in str(w.message)]


def test_a_logger_without_an_experiment_gets_everything(tmp_path: Path) -> None:
    monitor, logger = ComplexityMonitor(MONITORED), Documented()
    fitted(monitor, logger, default_root_dir=tmp_path)
    assert monitor.history[-1].values.keys() <= logger.taken()
    assert [step for step, row in logger.rows if "complexity/stable_rank" in row] == [0, 3, 6]


@pytest.mark.parametrize("kind", [WithoutSlashes, Files])
def test_a_logger_that_refuses_keys_gets_others(kind: type[Documented], tmp_path: Path) -> None:
    monitor, logger = ComplexityMonitor(MONITORED), kind()
    with pytest.warns(UserWarning, match=rf"{kind.__name__} takes complexity with dots for slashes") as caught:
        fitted(monitor, logger, default_root_dir=tmp_path)
    assert len(ours(caught)) == 1
    assert {key.replace("/", ".") for key in monitor.history[-1].values} <= logger.taken()


def test_a_logger_that_takes_finite_numbers_only_gets_those(tmp_path: Path) -> None:
    class Diverged(Classifier):
        def forward(self, x: Any) -> torch.Tensor:
            return super().forward(x) + (0 if self.training else math.nan)

    torch.manual_seed(0)
    logger, monitor = Strict(), ComplexityMonitor(["ParameterNorm", "MarginPercentile"])
    with pytest.warns(UserWarning, match="Strict takes complexity without values that are not finite only"):
        trainer(callbacks=[monitor], logger=logger, default_root_dir=tmp_path, log_every_n_steps=100).fit(
            Diverged(mlp(4, 6, 3)), data()
        )
    assert "complexity/parameter_norm" in logger.taken()
    assert math.isnan(monitor.history[-1].values["probe/train_loss"])


def test_a_logger_that_always_fails_is_named_once(tmp_path: Path) -> None:
    monitor = ComplexityMonitor(MONITORED)
    with pytest.warns(UserWarning, match="Refusing does not take complexity") as caught:
        fit = fitted(monitor, Refusing(), default_root_dir=tmp_path)
    assert len(ours(caught)) == 1
    assert len(monitor.history) == 3 == len(read_record(monitor.record_path))
    assert fit.callback_metrics["complexity/stable_rank"] > 1


def test_other_loggers_and_penalties_are_not_affected(tmp_path: Path) -> None:
    loggers = [Refusing(), Documented()]
    penalty = ComplexityPenalty(regularizers.StableRank(0.1))
    fit = trainer(callbacks=[penalty], logger=loggers, log_every_n_steps=1, default_root_dir=tmp_path)
    with pytest.warns(UserWarning, match="does not take complexity, which.*ConnectionError: no network"):
        fit.fit(Classifier(mlp(4, 6, 3)), data())
    assert "penalty/stable_rank" in loggers[1].taken()


# The place of the record ---------------------------------------------------------------------------


@pytest.mark.parametrize("has_folder", [True, False])
def test_runs_of_one_folder_have_records_apart(has_folder: bool, tmp_path: Path) -> None:
    monitors = [ComplexityMonitor(MONITORED) for _ in range(2)]
    for index, monitor in enumerate(monitors):
        logger = PerRun(tmp_path if has_folder else None, f"run{index}")
        fitted(monitor, logger, max_epochs=3 - index, default_root_dir=tmp_path)
        assert monitor.record_path == tmp_path / "Documented" / f"run{index}" / "complexity.jsonl"
    for monitor in monitors:
        assert read_record(monitor.record_path) == monitor.history


def test_a_record_of_another_run_in_the_same_place_is_set_aside(tmp_path: Path) -> None:
    first, second, third = (ComplexityMonitor(MONITORED) for _ in range(3))
    for monitor, epochs in ((first, 3), (second, 1), (third, 2)):
        fitted(monitor, Documented(), max_epochs=epochs, default_root_dir=tmp_path)
    assert first.record_path == second.record_path == third.record_path
    folder = Path(str(third.record_path)).parent
    assert read_record(folder) == third.history
    assert read_record(folder / "complexity.before-1.jsonl") == first.history
    assert read_record(folder / "complexity.before-2.jsonl") == second.history


def test_the_first_logger_with_a_folder_of_the_run_has_the_record(tmp_path: Path) -> None:
    tensorboard, monitor = TensorBoardLogger(tmp_path), ComplexityMonitor("fast")
    fitted(monitor, [Documented(), tensorboard, CSVLogger(tmp_path / "csv")])
    assert monitor.record_path == Path(tensorboard.log_dir) / "complexity.jsonl"


def test_folders_at_an_address_are_not_taken_for_local_ones(tmp_path: Path) -> None:
    class Remote(Documented):
        @property
        def save_dir(self) -> str:
            return "s3://bucket/logs"

        log_dir = save_dir

    monitor = ComplexityMonitor("fast")
    fitted(monitor, Remote(), default_root_dir=tmp_path)
    assert monitor.record_path == tmp_path / "Documented" / "0.1" / "complexity.jsonl"


def test_it_says_where_the_record_is(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    monitor = ComplexityMonitor("fast")
    with caplog.at_level(logging.INFO, logger="lightning_complexity"):
        fitted(monitor, CSVLogger(tmp_path))
    assert f"writes its record to {monitor.record_path}" in caplog.text
    alone = ComplexityMonitor("fast")
    fitted(alone, False)
    assert alone.record_path is None


# Disks ------------------------------------------------------------------------------------------


def test_a_full_disk_is_told_once_and_the_record_is_whole_once_there_is_space(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lightning_complexity.callbacks.monitoring import places

    calls = []

    def full(path: Path, measurement: Any) -> None:
        calls.append(measurement.step)
        if len(calls) < 3:
            raise OSError(28, "No space left on device", str(path))
        append(path, measurement)

    monkeypatch.setattr(places, "append", full)
    monitor = ComplexityMonitor("fast", every_n_steps=1)
    with pytest.warns(UserWarning, match="could not write its record.*No space left") as caught:
        fitted(monitor, CSVLogger(tmp_path))
    assert len(ours(caught)) == 1
    assert read_record(monitor.record_path) == monitor.history
    assert len(monitor.history) == 7


def test_half_a_line_that_did_not_fit_is_taken_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monitor = ComplexityMonitor("fast")
    fitted(monitor, False)
    path = tmp_path / "complexity.jsonl"
    append(path, monitor.history[0])
    before = path.read_bytes()

    class Full:
        """A file on a disk with room for nine bytes."""

        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.file = io.FileIO(path, "ab")

        def __enter__(self) -> Full:
            return self

        def __exit__(self, *args: Any) -> None:
            self.file.close()

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

        def write(self, data: bytes) -> int:
            return self.file.write(data[:9])

    opened = Path.open
    monkeypatch.setattr(Path, "open", lambda self, mode="r", **k: Full() if "a" in mode else opened(self, mode, **k))
    with pytest.raises(OSError, match="no space left"):
        append(path, monitor.history[1])
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_written_is_told_once(tmp_path: Path) -> None:
    (tmp_path / "Documented").write_text("a file where a folder should be")
    monitor = ComplexityMonitor("fast")
    with pytest.warns(UserWarning, match="could not write its record") as caught:
        fitted(monitor, Documented(), default_root_dir=tmp_path)
    assert len(ours(caught)) == 1
    assert len(monitor.history) == 3
