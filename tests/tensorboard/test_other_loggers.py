"""Loggers that are not torch's TensorBoard: what they have a place for, and nothing that ends a run."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pytorch_lightning.loggers import CSVLogger

from lightning_complexity import ComplexityMonitor
from tests.tensorboard.runs import Plain, Tuned, fitted, plain, written
from tests.tensorboard.test_views import Detailed


class Images(Plain):
    """Has W&B's methods for pictures and text."""

    def __init__(self) -> None:
        super().__init__()
        self.images: dict[str, list[int]] = {}
        self.texts: dict[str, list[str]] = {}

    def log_image(self, key: str, images: list[Any], step: int | None = None, **kwargs: Any) -> None:
        assert isinstance(images, list)
        assert all(isinstance(image, np.ndarray) and image.shape[-1] == 3 for image in images)
        assert step is not None
        self.images.setdefault(key, []).append(step)

    def log_text(
        self, key: str, columns: Any = None, data: Any = None, dataframe: Any = None, step: Any = None
    ) -> None:
        self.texts.setdefault(key, []).append(data[0][columns.index("text")])


class Client:
    """MLflow's, as far as it is used."""

    def __init__(self) -> None:
        self.files: dict[str, str] = {}

    def log_figure(self, run_id: str, figure: Any, artifact_file: str) -> None:
        self.files[artifact_file] = f"{run_id} {type(figure).__name__}"

    def log_text(self, run_id: str, text: str, artifact_file: str) -> None:
        self.files[artifact_file] = text


class Artifacts(Plain):
    """As MLflow's."""

    run_id = "abc"

    def __init__(self) -> None:
        super().__init__()
        self.experiment = Client()


class Refusing(Images):
    def log_image(self, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no network")

    def log_text(self, *args: Any, **kwargs: Any) -> None:
        raise ConnectionError("no network")


def monitor() -> ComplexityMonitor:
    return ComplexityMonitor([Detailed(), "StableRank"], per_layer=True, budget=None)


def test_loggers_like_wandb_get_pictures_and_the_summary(tmp_path: Path) -> None:
    logger = Images()
    fitted(tmp_path / "run", [monitor()], logger=logger, default_root_dir=tmp_path)
    assert logger.images == {f"complexity/detailed/{kind}": [0, 3, 6] for kind in ("density", "loss")}
    (texts,) = logger.texts.values()
    assert len(texts) == 2
    assert "**Classifier**: 51 parameters" in texts[-1]


def test_loggers_like_mlflow_get_files(tmp_path: Path) -> None:
    logger = Artifacts()
    fitted(tmp_path / "run", [monitor()], logger=logger, default_root_dir=tmp_path)
    assert logger.experiment.files["complexity/detailed/density/3.png"] == "abc Figure"
    assert "**Classifier**: 51 parameters" in logger.experiment.files["complexity/summary.md"]


@pytest.mark.parametrize("make", [Plain, lambda: CSVLogger("logs")])
def test_other_loggers_get_numbers_by_log_key_and_nothing_else(
    make: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    logger, watching = make(), monitor()
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fitted(tmp_path / "run", [watching], Tuned(), logger=logger)
    assert "complexity/stable_rank/net.0.weight" in watching.history[-1].values
    if isinstance(logger, Plain):
        keys = {key for _, row in logger.rows for key in row}
        assert watching.history[-1].values.keys() <= keys
        assert not [key for key in keys if key.startswith(("parts/", "spread/"))]


def test_a_logger_that_refuses_is_named_once_for_pictures_and_once_for_text(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Refusing does not take") as caught:
        fitted(tmp_path / "run", [monitor()], logger=Refusing(), default_root_dir=tmp_path)
    said = sorted(str(w.message) for w in caught if "Refusing" in str(w.message))
    assert [text.partition(" of complexity")[0] for text in said] == [
        "Refusing does not take pictures",
        "Refusing does not take text",
    ]


def test_a_fast_run_draws_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def drawn(*args: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(Detailed, "figures", drawn)
    fitted(tmp_path / "run", [ComplexityMonitor([Detailed()], on_error="raise")], fast_dev_run=True)


def test_tensorboardx_shows_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboardX", reason="needs tensorboardX: pip install lightning-complexity[dev]")
    from lightning_fabric.loggers import tensorboard as fabric

    fitted(tmp_path / "torch", [monitor()])
    monkeypatch.setattr(fabric, "_TENSORBOARD_AVAILABLE", False)
    trained = fitted(tmp_path / "x", [monitor()])
    assert type(trained.logger.experiment).__module__.startswith("tensorboardX")
    one, other = written(tmp_path / "torch"), written(tmp_path / "x")
    ours = "complexity/", "probe/", "parts/", "spread/"
    assert {t: k for t, k in one.kinds.items() if t.startswith(ours)} == {
        t: k for t, k in other.kinds.items() if t.startswith(ours)
    }
    assert one.charts() == other.charts()
    assert (one.columns(), one.sessions) == (other.columns(), other.sessions)


def test_one_of_two_processes_writes(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    subprocess.run([*command, "-m", "tests.tensorboard.two_processes", str(tmp_path)], check=True, timeout=500)
    assert [path.name for path in tmp_path.glob("text_of_*")] == ["text_of_0"]
    for run in ("saved", "plain"):
        assert len([*(tmp_path / run).glob("*tfevents*")]) == 1
        found = written(tmp_path / run)
        assert (len(found.layouts), len(found.sessions)) == (1, 1)
        assert "probe/generalization_gap" in found.columns()
        (texts,) = found.texts.values()
        assert [step for step, _ in texts] == [0, 4]
        assert "that of training_step" in texts[-1][1]
        assert "margin" in found.charts()["Margins, spectra, distributions"]
    assert plain().hparams == {}
