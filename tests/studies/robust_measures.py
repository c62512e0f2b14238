"""The public table of 4,967 trained networks, and verified numbers about it."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

FOLDER = Path(__file__).parents[3] / "shared" / "data" / "robust_measures"
HYPERPARAMETERS = ("hp.dataset", "hp.lr", "hp.model_depth", "hp.model_width", "hp.train_dataset_size")
"""In the order of the oracle, which calls the last one ``hp.train_size``."""


def path(name: str) -> Path:
    found = FOLDER / name
    if not found.exists():
        pytest.skip(
            f"the table of trained networks is not beside this checkout: {'/'.join(found.parts[-4:])} is missing"
        )
    return found


@cache
def oracle() -> dict[str, Any]:
    return json.loads(path("oracle.json").read_text())


def column(measure: str) -> str:
    return f"complexity.{measure}" if measure == "params" else f"complexity.{measure}_adjusted1"


def theirs(hyperparameter: str) -> str:
    return {"hp.train_dataset_size": "hp.train_size"}.get(hyperparameter, hyperparameter)
