"""Parameters and operations of whole networks, against the tables of NAS-Bench-201."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from lightning_complexity.metrics import FlopCount, ParameterCount
from tests.nas_bench_201 import OPERATIONS, NASBench201, edges, read_table


def parameters(model: nn.Module) -> int:
    metric = ParameterCount()
    metric.update(model)
    return metric.compute().item()


def macs(model: nn.Module, inputs: Tensor) -> int:
    metric = FlopCount(of="macs")
    metric.update(model, inputs)
    return metric.compute().item()


def cell_of(operation: str, rest: str = "none") -> str:
    return f"|{operation}~0|+|{rest}~0|{rest}~1|+|{rest}~0|{rest}~1|{rest}~2|"


def test_parameters_of_all_networks_of_nas_bench_201() -> None:
    table = read_table()
    assert len(table) == len({row.cell for row in table}) == 5**6
    empty = parameters(NASBench201(cell_of("none")))
    brought = np.array([parameters(NASBench201(cell_of(op))) - empty for op in OPERATIONS])
    used = np.array([[sum(op == o for node in edges(row.cell) for o, _ in node) for op in OPERATIONS] for row in table])
    assert (used.sum(1) == 6).all()
    np.testing.assert_array_equal(empty + used @ brought, [row.parameters for row in table])


@pytest.mark.slow
def test_operations_and_parameters_of_a_sample_of_nas_bench_201() -> None:
    table = read_table()
    for i in np.random.default_rng(0).choice(len(table), 50, replace=False):
        row = table[i]
        model = NASBench201(row.cell).float()
        assert parameters(model) == row.parameters
        assert macs(model, torch.zeros(1, 3, 32, 32).float()) + 10 == row.macs, row.cell
