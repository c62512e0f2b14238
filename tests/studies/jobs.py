"""Trials for tests of workers."""

from __future__ import annotations

import time
from pathlib import Path

import optuna


def product(trial: optuna.Trial, output: Path) -> float:
    x, y = trial.suggest_int("x", 1, 3), trial.suggest_categorical("y", ["a", "b"])
    (output / f"{x}{y}-{trial.number}").touch()
    return float(x)


def fails_at_two(trial: optuna.Trial, output: Path) -> float:
    x = trial.suggest_int("x", 1, 3)
    if x == 2:
        raise RuntimeError("two is too much\nand more")
    return float(x)


def interrupted_once(trial: optuna.Trial, output: Path) -> float:
    x = trial.suggest_int("x", 1, 3)
    mark = output / "interrupted"
    if x == 2 and not mark.exists():
        mark.touch()
        raise KeyboardInterrupt
    return float(x)


def slow_until_killed(trial: optuna.Trial, output: Path) -> float:
    x = trial.suggest_int("x", 1, 3)
    first = not (output / f"begun-{x}").exists()
    (output / f"begun-{x}").touch()
    if first and x == 2:
        time.sleep(120)
    return float(x)


def brute_force(study: optuna.Study) -> optuna.samplers.BaseSampler:
    return optuna.samplers.BruteForceSampler(seed=0)
