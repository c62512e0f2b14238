"""The three systems through the command, by discovery: every strategy on every space that it is for."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lightning_complexity import cli
from lightning_complexity.selection.commands import spaces
from lightning_complexity.selection.samplers.fitness import scalar_fitness
from lightning_complexity.selection.searching.tables import SPACES, STRATEGIES, make_space
from lightning_complexity.selection.spaces import base
from lightning_complexity.selection.spaces.macro import MacroSpace
from tests.selection.nas_bench_macro import TABLE
from tests.selection.searching.conftest import Search

NETWORKS = ("mlp", "small-cells")
PAIRS = [
    (space, strategy)
    for space in NETWORKS
    for strategy, entry in STRATEGIES.items()
    if isinstance(make_space(space, {}), getattr(base, entry.needs))
]


@pytest.mark.parametrize(("space", "strategy"), PAIRS)
def test_every_strategy_ends_with_a_model(space: str, strategy: str, search: Search) -> None:
    options = ["--space", space, "--strategy", strategy, "--trials", 4, "--max_epochs", 1, "--repeats", 2]
    printed = search(*options, "--num_samples", 40, "--study", "s")
    frame = pd.read_csv("complexity_search/s/trials.csv")
    assert (frame.state == "complete").all()
    assert len(frame) == 4
    assert "is chosen" in printed
    assert {"mlp", "cells", "small-cells", "nas-bench-macro"} <= set(SPACES)


def test_a_search_in_the_order_of_complexity_says_how_well_it_predicted(search: Search) -> None:
    options = ["--strategy", "progressive", "--strategy_options", "beam=4", "--space_options", "units=[2, 4, 8]"]
    printed = search(*options, "--max_epochs", 2, "--repeats", 1, "--num_samples", 60, "--study", "s")
    frame = pd.read_csv("complexity_search/s/trials.csv")
    assert frame.layers.is_monotonic_increasing
    assert frame.layers.value_counts().to_dict() == {1: 3, 2: 4, 3: 4}  # and ends by itself
    assert re.search(r"Spearman's correlation of what was predicted with what came: -?[\d.]+ at level [23]", printed)


def test_automatic_model_selection_names_the_least_fitness(search: Search) -> None:
    options = ["--strategy", "genetic", "--strategy_options", "alpha=0.3", "population=4", "--trials", 8]
    printed = search(*options, "--max_epochs", 2, "--repeats", 1, "--num_samples", 60, "--study", "s")
    frame = pd.read_csv("complexity_search/s/trials.csv")
    fitness = [scalar_fitness(e, p, alpha=0.3) for e, p in zip(frame.error, frame.parameters, strict=True)]
    assert f"with alpha 0.3: {min(fitness):.4g}, trial {np.argmin(fitness)} (" in printed


@pytest.mark.skipif(not TABLE.exists(), reason="the table of NAS-Bench-Macro is not beside this checkout")
def test_progressive_search_on_the_published_table(search: Search) -> None:
    """69 networks for K = 8, among them one of the ten best after about 47, where random search needs 361."""
    options = ["--space", "nas-bench-macro", "--space_options", f"path={TABLE}", "--strategy", "progressive"]
    search(*options, "--strategy_options", "beam=8", "--trials", 200, "--study", "s")
    frame = pd.read_csv("complexity_search/s/trials.csv", dtype={"model": str})
    space = MacroSpace(TABLE)
    best = {space.describe(s) for s in sorted(space.structures, key=lambda s: space.outcome(s)["error"])[:10]}
    assert len(frame) == 69
    assert frame.index[frame.model.isin(best)][0] + 1 <= 60


def test_an_early_verdict_prunes_with_two_objectives(search: Search) -> None:
    options = ["--strategy", "random", "--trials", 24, "--max_epochs", 30, "--repeats", 1, "--num_samples", 120]
    space = ["--space_options", "units=[1, 2, 64, 128]", "max_layers=2"]
    printed = search(*options, *space, "--pruner", "early", "--pruner_options", "keep=0", "--study", "s")
    frame = pd.read_csv("complexity_search/s/trials.csv")
    pruned = frame[frame.state == "pruned"]
    assert 0 < len(pruned) < 19  # the first five are not
    assert pruned.error.isna().all()
    assert f"{len(pruned)} of 24 trials were pruned" in printed
    assert Path("complexity_search/s/trade-off.png").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--space", "nas-bench-macro"], "space nas-bench-macro needs its path: give --space_options path=..."),
        (["--strategy", "genetic", "--space", "small-cells"], "is for spaces whose structures can be crossed, and"),
        (
            ["--pruner", "early", "--pruner_options", "shar=0.1"],
            "pruner early has no option 'shar'",
        ),
        (["--pruner", "early", "--pruner_options", "share=2"], "share must be above 0 and below 1"),
        (["--strategy", "genetic", "--strategy_options", "alpha=2"], "alpha must be between 0 and 1"),
        (["--strategy", "progressive", "--strategy_options", "beam=0"], "beam must be at least 1"),
        (["--space", "nas-bench-macro", "--space_options", "path=none.json"], "none.json"),
    ],
)
def test_mistakes_are_one_line(options: list[str], message: str, search: Search) -> None:
    with pytest.raises(SystemExit, match=message):
        search(*options)


def test_two_spaces_are_trained_and_compared(
    search: Search, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    small = {"max_layers": 1, "units": [64, 96, 128]}
    for name, activation in (("relu", "relu"), ("sigmoid", "sigmoid")):
        monkeypatch.setitem(spaces.TRAINED, name, {**small, "activations": [activation]})
    cli.main(["spaces", "--networks", "12", "--draws", "50"])
    assert "As they are: relu is better" in capsys.readouterr().out
    frames = [pd.read_csv(f"complexity_spaces/{name}/networks.csv") for name in ("relu", "sigmoid")]
    assert [len(frame) for frame in frames] == [12, 12]
    assert frames[0].error.mean() < frames[1].error.mean()
    with pytest.raises(SystemExit, match="a table of the second space is needed"):
        cli.main(["spaces", "networks.csv"])
