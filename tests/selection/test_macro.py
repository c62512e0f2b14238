"""NAS-Bench-Macro as a space: what is published of it, and errors for what is another file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from lightning_complexity.selection.spaces.macro import MacroSpace
from tests.selection.nas_bench_macro import TABLE, read_networks

LEVELS = [1, 12, 68, 240, 576, 960, 1088, 768, 256]


@pytest.fixture(scope="module")
def space() -> MacroSpace:
    read_networks()  # skips where there is none
    return MacroSpace(TABLE)


def test_strings_that_are_one_network_are_one_structure(space: MacroSpace) -> None:
    """In the table they share all three results, which is how the count of unique networks is known."""
    table = json.loads(TABLE.read_text())
    results: dict[object, set[object]] = {}
    for name, row in table.items():
        structure = space.read({f"layer_{i}": int(digit) for i, digit in enumerate(name)})
        results.setdefault(structure, set()).add((*row["test_acc"], row["params"], row["flops"]))
    assert len(table) == 6561
    assert len(results) == len(space.structures) == len(read_networks()) == 3969
    assert all(len(found) == 1 for found in results.values())
    assert set(results) == set(space.structures)


def test_levels_are_made_out_of_each_other(space: MacroSpace) -> None:
    level, sizes = set(space.first()), []
    while level:
        sizes.append(len(level))
        level = {child for structure in level for child in space.expand(structure)}
    assert sizes == LEVELS


def test_outcomes_are_those_of_the_table(space: MacroSpace) -> None:
    frame = read_networks()
    for row in frame.iloc[::97].itertuples():
        structure = space.read({f"layer_{i}": int(digit) for i, digit in enumerate(row.network)})
        found = space.outcome(structure)
        assert found == pytest.approx(
            {
                "error": 100 - row.accuracy,
                "accuracy": row.accuracy,
                "parameters": row.parameters,
                "flops": row.flops,
            }
        )
        assert [space.outcome(structure, seed)["accuracy"] for seed in range(3)] == list(row.runs)
    assert max(space.outcome(s)["accuracy"] for s in space.structures) == pytest.approx(93.13, abs=0.005)


def test_random_networks_are_equally_likely(space: MacroSpace) -> None:
    """Random strings are not: a network with identities in the middle has up to nine of them."""
    generator = np.random.default_rng(0)
    drawn = [space.level(space.draw(generator)) for _ in range(4000)]
    shares = np.bincount(drawn, minlength=9) / 4000
    expected = np.array(LEVELS) / 3969
    assert np.all(np.abs(shares - expected) < 4 * np.sqrt(expected / 4000) + 1e-3)


def test_what_there_is_not_is_said(space: MacroSpace) -> None:
    with pytest.raises(ValueError, match="seed must be from 0 to 2"):
        space.outcome(space.structures[0], 3)
    with pytest.raises(ValueError, match="has no network"):
        space.outcome((3,) * 8)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"00000000": {"test_acc": [1]}}', "\x00"])
def test_another_file_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "table.json"
    path.write_text(text)
    with pytest.raises(ValueError, match="is not the table of NAS-Bench-Macro"):
        MacroSpace(path)
    with pytest.raises(ValueError, match=r"cannot be read.*no\.json"):
        MacroSpace(tmp_path / "no.json")
    with pytest.raises(ValueError, match="cannot be read"):
        MacroSpace(tmp_path)


def test_a_table_with_a_hole_is_refused(tmp_path: Path) -> None:
    if not TABLE.exists():
        pytest.skip("the NAS-Bench-Macro table is not beside this checkout")
    table = json.loads(TABLE.read_text())
    table["22222222"]["test_acc"] = [90.0, float("nan"), 91.0]
    path = tmp_path / "table.json"
    path.write_text(json.dumps(table))
    with pytest.raises(ValueError, match="is not the table"):
        MacroSpace(path)
