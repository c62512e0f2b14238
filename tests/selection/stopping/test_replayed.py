"""Searches replayed on learning curves of real trainings."""

from __future__ import annotations

import importlib.util
import itertools
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import optuna
import pytest

BENCHMARKS = Path(__file__).parents[3] / "benchmarks"


@pytest.fixture(scope="module")
def replay() -> Iterator[ModuleType]:
    if not (BENCHMARKS / "curves" / "digits.npz").exists():
        pytest.skip("benchmarks/curves/digits.npz is not beside these tests")
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    spec = importlib.util.spec_from_file_location("early_pruning", BENCHMARKS / "early_pruning.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["early_pruning"] = module
    spec.loader.exec_module(module)
    yield module
    optuna.logging.set_verbosity(before)


def test_a_search_spends_its_epochs_and_counts_those_of_pruned_trainings(replay: ModuleType) -> None:
    pool = replay.Pool(BENCHMARKS / "curves" / "digits.npz", 0)
    found = replay.search(pool, replay.PRUNERS["none"](), tpe=False, both=False, seed=0, budget=120)
    assert [epochs for epochs, _ in found] == [30, 60, 90, 120]
    regrets = [regret for _, regret in found]
    assert all(0 <= regret < 1 for regret in regrets)
    found = replay.search(pool, replay.PRUNERS["verdict"](), tpe=False, both=False, seed=0, budget=400)
    assert [epochs for epochs, _ in found[:5]] == [30, 60, 90, 120, 150]
    assert any((b[0] - a[0]) % 30 for a, b in itertools.pairwise(found))  # some were pruned in between


def test_epochs_to_a_regret_by_hand(replay: ModuleType) -> None:
    grid = replay.GRID  # from 30 in tens
    none = np.stack([np.where(grid < 600, 0.4, 0.2), np.where(grid < 600, 0.2, 0.0)])
    other = np.where(grid < 150, 0.4, 0.1)[None].repeat(2, axis=0)
    table = replay.compared({"none": none, "other": other}, 600).set_index("pruner")
    assert table.loc["none", "epochs"] == 600
    assert table.loc["other", "epochs"] == 150
    assert table.loc["other", "of none"].startswith("0.25 [")


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:nothing is pruned by an early verdict as yet"
)  # five networks at the level of chance
@pytest.mark.parametrize(("data", "most"), [("digits", 0.55), ("mnist", 0.55), ("teacher", 0.8)])
def test_with_two_objectives_fewer_epochs_find_as_much(replay: ModuleType, data: str, most: float) -> None:
    pools = [replay.Pool(BENCHMARKS / "curves" / f"{data}.npz", seed) for seed in range(2)]
    runs = {name: replay.searches(pools, name, tpe=False, both=True, seeds=20) for name in ("none", "verdict")}
    table = replay.compared(runs, replay.BUDGET).set_index("pruner")
    share, _, high = map(float, re.findall(r"[\d.]+|inf", table.loc["verdict", "of none"]))
    assert share < most
    assert high < 1
