"""The table of NAS-Bench-Macro (Su et al., CVPR 2021): networks of eight layers, trained three times each."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest

TABLE = Path(__file__).parents[3] / "shared" / "data" / "nas" / "nas-bench-macro_cifar10.json"


def read_networks() -> pd.DataFrame:
    """A row a network; strings that differ in where the identities stand are one network, with one result."""
    if not TABLE.exists():
        pytest.skip(f"the NAS-Bench-Macro table is not beside this checkout: {'/'.join(TABLE.parts[-4:])} is missing")
    rows = [
        {
            "network": name,
            "level": 8 - name.count("0"),
            "accuracy": entry["mean_acc"],
            "runs": tuple(entry["test_acc"]),
            "parameters": entry["params"],
            "flops": entry["flops"],
        }
        for name, entry in json.loads(TABLE.read_text()).items()
    ]
    return pd.DataFrame(rows).drop_duplicates(["runs", "parameters", "flops"], ignore_index=True)
