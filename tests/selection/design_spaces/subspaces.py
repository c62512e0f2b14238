"""Parts of the spaces of NAS-Bench-Macro (Su et al., CVPR 2021) and NAS-Bench-201 (Dong and Yang, ICLR 2020)."""

from __future__ import annotations

import csv
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from tests.nas_bench_201 import OPERATIONS, edges
from tests.nas_bench_201 import TABLE as NAS_BENCH_201
from tests.selection.nas_bench_macro import TABLE as NAS_BENCH_MACRO

STAGES = (slice(0, 2), slice(2, 5), slice(5, 8))
LAYERS = ("identity", "MB3_K3", "MB6_K5")


class Pair(NamedTuple):
    """Two parts of a space, with the errors and sizes of all of their networks."""

    names: tuple[str, str]
    spaces: tuple[pd.DataFrame, pd.DataFrame]


def canonical(network: str) -> str:
    """The string in which identities stand at the end of each stage; the first layer of a stage is never one.

    >>> canonical("22212202")
    '22212220'
    """
    stages = [network[stage] for stage in STAGES]
    return "".join(s[0] + s[1:].replace("0", "") + "0" * s[1:].count("0") for s in stages)


def macro_networks() -> pd.DataFrame:
    """The 3,969 different networks of NAS-Bench-Macro."""
    _needed(NAS_BENCH_MACRO)
    rows = [
        {"network": name, "error": 100 - entry["mean_acc"], "parameters": entry["params"], "flops": entry["flops"]}
        for name, entry in json.loads(NAS_BENCH_MACRO.read_text()).items()
        if canonical(name) == name
    ]
    return pd.DataFrame(rows)


def cells() -> pd.DataFrame:
    """The 15,625 cells of NAS-Bench-201 after 12 epochs; a column for each of the six edges."""
    _needed(NAS_BENCH_201)
    with NAS_BENCH_201.open(newline="") as file:
        rows = list(csv.DictReader(file))
    frame = pd.DataFrame({"network": [row["cellstr"] for row in rows]})
    frame["error"] = [100 - float(row["c10_test"]) for row in rows]
    frame["parameters"] = [int(row["params_c10"]) for row in rows]
    frame["flops"] = [int(row["conv_flops_c10"]) for row in rows]
    operations = [[name for node in edges(cell) for name, _ in node] for cell in frame["network"]]
    for edge in range(6):
        frame[f"edge {edge + 1}"] = [row[edge] for row in operations]
    return frame


def _needed(path: Path) -> None:
    if not path.exists():
        pytest.skip(f"a table is not beside this checkout: {'/'.join(path.parts[-4:])} is missing")


def at_least(networks: pd.DataFrame, layer: str, count: int) -> Pair:
    """Networks of NAS-Bench-Macro with so many layers of a kind, and those with fewer."""
    has = networks["network"].str.count(str(LAYERS.index(layer))) >= count
    return Pair((f"{count} or more {layer}", f"fewer than {count} {layer}"), (networks[has], networks[~has]))


def with_edges(frame: pd.DataFrame, edge: int, first: str, second: str) -> Pair:
    """Cells of NAS-Bench-201 with one operation at an edge, and those with another there."""
    column = frame[f"edge {edge}"]
    return Pair(
        (f"{first} at edge {edge}", f"{second} at edge {edge}"), (frame[column == first], frame[column == second])
    )


def macro_pairs(networks: pd.DataFrame) -> Iterator[Pair]:
    """Each two kinds at each place, and each kind at least so often or not; those with 50 networks each."""
    for place, (first, second) in itertools.product(range(8), itertools.combinations(range(3), 2)):
        kinds = networks["network"].str[place]
        names = (f"{LAYERS[first]} at layer {place + 1}", f"{LAYERS[second]} at layer {place + 1}")
        yield Pair(names, (networks[kinds == str(first)], networks[kinds == str(second)]))
    for layer, count in itertools.product(LAYERS, range(1, 7)):
        pair = at_least(networks, layer, count)
        if min(map(len, pair.spaces)) > 50:
            yield pair


def cell_pairs(frame: pd.DataFrame) -> Iterator[Pair]:
    """Each two operations at each edge, and each operation anywhere or nowhere."""
    for edge, (first, second) in itertools.product(range(1, 7), itertools.combinations(OPERATIONS, 2)):
        yield with_edges(frame, edge, first, second)
    for operation in OPERATIONS:
        has = np.any([frame[f"edge {edge}"] == operation for edge in range(1, 7)], axis=0)
        yield Pair((f"with {operation}", f"without {operation}"), (frame[has], frame[~has]))
