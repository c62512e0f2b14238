"""Networks of a space, read or drawn."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from lightning_complexity.selection.design_spaces.sampling import draw_structures, read_space, sample_space
from lightning_complexity.selection.spaces.base import Structure, TableSpace
from lightning_complexity.selection.spaces.dense import DenseSpace


class Coins(TableSpace):
    """Three coins."""

    def suggest(self, trial: Any) -> Structure:
        return tuple(trial.suggest_int(f"coin_{i}", 0, 1) for i in range(3))

    def parameters(self, structure: Structure) -> dict[str, Any]:
        return {f"coin_{i}": value for i, value in enumerate(structure)}

    def outcome(self, structure: Structure, seed: int | None = None) -> dict[str, float]:
        if structure == (1, 1, 1):
            raise RuntimeError("three heads\nmore")
        return {"error": float(sum(structure)), "parameters": 8.0}  # type: ignore[arg-type]


def test_all_structures_of_a_space_are_drawn_once() -> None:
    drawn = draw_structures(Coins(), 8)
    assert len(set(drawn)) == 8
    with pytest.raises(ValueError, match=r"9 different structures were asked for, and no more than 8 were found"):
        draw_structures(Coins(), 9)


def test_draws_are_independent_and_uniform() -> None:
    counts = Counter(draw_structures(Coins(), 1600, distinct=False))
    chi_squared = sum((count - 200) ** 2 / 200 for count in counts.values())
    assert len(counts) == 8
    assert chi_squared < 24.3  # 0.1 % of seven degrees of freedom


def test_the_seed_decides() -> None:
    space = DenseSpace(3)
    assert (
        draw_structures(space, 20, seed=1) == draw_structures(space, 20, seed=1) != draw_structures(space, 20, seed=2)
    )
    assert draw_structures(space, 5) == draw_structures(space, 20)[:5]


def test_rows_of_a_table_and_what_failed_keep_their_place() -> None:
    frame = sample_space(Coins(), 8)
    assert list(frame.columns[:4]) == ["structure", "coin_0", "coin_1", "coin_2"]
    (failed,) = frame[frame["failed"].notna()].to_dict("records")
    assert (failed["structure"], failed["failed"]) == ("coin_0=1, coin_1=1, coin_2=1", "three heads")
    kept = frame[frame["failed"].isna()]
    assert (kept["error"] == kept[["coin_0", "coin_1", "coin_2"]].sum(axis=1)).all()
    sample = read_space(frame, complexity="parameters")
    assert (len(sample), sample.left_out) == (7, {"'error' missing or not finite": 1})


def test_a_network_is_evaluated_by_the_callers_function() -> None:
    frame = sample_space(DenseSpace(2, units=(8, 16)), 6, lambda layers: {"error": 1 / len(layers)})
    assert len(frame) == frame["structure"].nunique() == 6
    assert frame.loc[frame["layers"] == 2, "error"].eq(0.5).all()


def test_a_csv_is_read_with_words_and_gaps(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text("error,size\n0.1,5\nNaN,6\n0.3,Infinity\n0.2,7\n,8\n")
    sample = read_space(path, complexity="size")
    assert sample.name == "wide"
    assert sample.errors.tolist() == [0.1, 0.2]
    assert sample.complexity is not None
    assert sample.complexity.tolist() == [5, 7]
    assert sample.left_out == {"'error' missing or not finite": 2, "'size' missing or not finite": 1}


def test_bad_tables_are_refused(tmp_path: Path) -> None:
    frame = pd.DataFrame({"test_error": [0.1], "size": ["big"], "none": [np.nan]})
    with pytest.raises(ValueError, match="space: there is no column 'error'; similar are test_error"):
        read_space(frame)
    with pytest.raises(ValueError, match="'size' must hold numbers, got 'big'"):
        read_space(frame, error="test_error", complexity="size")
    with pytest.raises(ValueError, match="space: no network is left of 1; left out are 1"):
        read_space(frame, error="none")
    with pytest.raises(FileNotFoundError, match="there is no file or folder"):
        read_space(tmp_path / "missing.csv")
    with pytest.raises(ValueError, match="count must be at least 1, got 0"):
        draw_structures(Coins(), 0)
