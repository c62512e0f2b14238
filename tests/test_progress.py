"""A measurement that takes long says so, by the progress bar that is there, and changes nothing."""

from __future__ import annotations

import logging
import re
import threading
from collections.abc import Iterator
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ProgressBar, RichProgressBar, TQDMProgressBar
from torch import Tensor, nn

from lightning_complexity import ComplexityMonitor
from lightning_complexity.callbacks.monitoring import progress
from lightning_complexity.metrics import StableRank
from lightning_complexity.network import Context, Snapshot
from tests.training import Classifier, loader, trainer

NOTE = r"ComplexityMonitor has been measuring for \d+ s: stable_rank, number \d of at most 3 quantities"


class Slow(StableRank):
    """Takes until it was said once that it takes long."""

    def __init__(self, said: threading.Event) -> None:
        super().__init__()
        self.said = said

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        assert self.said.wait(20), "nothing was said"
        super().accumulate(snapshot, context)


class Heard(logging.Handler):
    def __init__(self, said: threading.Event) -> None:
        super().__init__()
        self.said, self.records = said, list[logging.LogRecord]()

    def emit(self, record: logging.LogRecord) -> None:
        self.records.append(record)
        if "stable_rank" in record.getMessage():
            self.said.set()


@pytest.fixture
def heard(monkeypatch: pytest.MonkeyPatch) -> Iterator[Heard]:
    """What the log says, of notes that come at once."""
    monkeypatch.setattr(progress, "_AFTER", 0.001)
    handler, logger = Heard(threading.Event()), logging.getLogger(progress.__name__)
    logger.addHandler(handler)
    level = logger.level
    logger.setLevel(logging.INFO)
    yield handler
    logger.removeHandler(handler)
    logger.setLevel(level)


def fit(metric: Any, **options: Any) -> dict[str, Tensor]:
    pl.seed_everything(0, verbose=False)
    module = Classifier(nn.Sequential(nn.Flatten(), nn.Linear(32, 3)).float())
    monitor = [ComplexityMonitor([metric], budget=None)] if metric is not None else []
    callbacks = [*options.pop("callbacks", []), *monitor]
    run = trainer(max_epochs=1, callbacks=callbacks, **options)
    run.fit(module, loader(), loader())
    return {**module.state_dict(), "random": torch.get_rng_state()}


def said_by(bar: ProgressBar, event: threading.Event, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What a bar is asked to print, and prints."""
    said, own = [], bar.print

    def print_and_tell(*words: Any, **options: Any) -> None:
        own(*words, **options)
        said.append(" ".join(map(str, words)))
        if "stable_rank" in said[-1]:
            event.set()

    monkeypatch.setattr(bar, "print", print_and_tell)
    return said


@pytest.mark.parametrize("make", [TQDMProgressBar, RichProgressBar])
def test_the_trainers_own_bar_says_it(
    make: type[ProgressBar], heard: Heard, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    if make is RichProgressBar:
        pytest.importorskip("rich", reason="Rich, which is not among our dependencies, draws this bar")
    bar = make()
    said = said_by(bar, heard.said, monkeypatch)
    fit(Slow(heard.said), callbacks=[bar], enable_progress_bar=True)
    assert any(re.match(NOTE, text) for text in said), said
    assert not heard.records
    printed = "".join(capsys.readouterr().out.split())
    assert all("".join(text.split()) in printed for text in said)


def test_without_a_bar_the_log_says_it_at_info_level_and_no_warning(heard: Heard) -> None:
    fit(Slow(heard.said))
    texts = [record.getMessage() for record in heard.records]
    assert any(re.match(NOTE, text) for text in texts), texts
    assert {record.levelno for record in heard.records} == {logging.INFO}


class Broken(TQDMProgressBar):
    def print(self, *args: Any, **kwargs: Any) -> None:
        raise OSError("no terminal")


def test_a_bar_that_fails_leaves_it_to_the_log(heard: Heard) -> None:
    fit(Slow(heard.said), callbacks=[Broken()], enable_progress_bar=True)
    assert heard.records


def test_training_is_the_same_with_notes_and_without(heard: Heard) -> None:
    with_notes, without = fit(Slow(heard.said)), fit(None)
    assert heard.records
    for name, value in without.items():
        assert torch.equal(value, with_notes[name]), name


class Elsewhere:
    is_global_zero = False
    progress_bar_callback: ProgressBar | None = None


def test_rank_zero_alone_says_it(heard: Heard) -> None:
    before = threading.active_count()
    with progress.noted(Elsewhere(), lambda: "nothing"):
        assert threading.active_count() == before
        assert not heard.said.wait(0.05)


def test_errors_pass_and_the_thread_ends(heard: Heard) -> None:
    here = Elsewhere()
    here.is_global_zero = True
    before = threading.active_count()

    def fail_late() -> None:
        with progress.noted(here, lambda: "stable_rank"):
            assert heard.said.wait(20)
            raise KeyError

    with pytest.raises(KeyError):
        fail_late()
    assert threading.active_count() == before


def test_what_is_over_before_is_not_mentioned(heard: Heard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_AFTER", 1000.0)
    fit(StableRank())
    assert not heard.records


def test_a_bar_that_is_not_open_leaves_it_to_the_log(heard: Heard) -> None:
    here = Elsewhere()
    here.progress_bar_callback = TQDMProgressBar()  # before training; it would print nothing
    progress._say(here, "a note")
    assert [record.getMessage() for record in heard.records] == ["a note"]
