"""What every test starts from, docstrings' examples included."""

from __future__ import annotations

import gc
import random
from collections.abc import Iterator

import numpy as np
import pytest
import torch


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest test first, so that no process waits for it at the end."""
    items.sort(key=lambda item: item.get_closest_marker("longest") is None)


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of each later search for garbage."""
    gc.freeze()


@pytest.fixture(autouse=True)
def seeded_double_precision(request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test starts from the same random state, in double precision; docstrings' examples in single."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)
    if request.node.__class__.__name__ == "DoctestItem":
        yield
        return
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture(autouse=True)
def unhurried(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default budget leaves nothing out, however busy the machine is; tests of budgets say ``budgeted``."""
    if "budgeted" not in request.fixturenames:
        monkeypatch.setattr("lightning_complexity.recording.budget._SECONDS_OF_AUTO", 1e6)
        monkeypatch.setattr("lightning_complexity.recording.budget._AS_PLANNED", 1e6)  # prices rise when it halts


@pytest.fixture
def budgeted() -> None:
    """Have the default budget as users have it."""
