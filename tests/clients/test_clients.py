"""Published modules train the same with a monitor, which logs what it should; ``docs/clients.md`` says so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from lightning_complexity import ComplexityMonitor
from tests.clients.judging import judge, monitored, row, shortcomings
from tests.clients.observing import train
from tests.clients.registry import CLIENTS, load
from tests.clients.table import cells, committed

pytestmark = pytest.mark.filterwarnings("ignore")  # what packages say while they are imported
BY_PACKAGE = [pytest.param(name, marks=pytest.mark.xdist_group(name.partition(".")[0])) for name in CLIENTS]
SHARE_OUT_OF_THE_BOX = 0.75


@pytest.mark.parametrize("name", BY_PACKAGE)
def test_client(name: str) -> None:
    judged = judge(name)
    found = shortcomings(judged)
    assert not found, "\n".join(found)
    assert row(name, judged) == committed()[CLIENTS.index(name)], "`make clients-table` writes the table anew"


def test_function_is_measured_out_of_the_box_on_most() -> None:
    rows = [cells(row) for row in committed()]
    assert len(rows) == len(CLIENTS)
    measured = [row["client"] for row in rows if row["of the function"] != "no"]
    assert len(measured) >= SHARE_OUT_OF_THE_BOX * len(rows)


class Clumsy(ComplexityMonitor):
    """Does to a training what a monitor must not do."""

    def __init__(self, harm: str) -> None:
        super().__init__(["ParameterNorm"])
        self.harm = harm

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
        if self.harm == "draws":
            torch.rand(())
        if self.harm == "logs":
            pl_module.log("mine", 1.0)
        if self.harm == "writes":
            next(pl_module.parameters()).data.view(-1)[0] += 1e-6


@pytest.mark.parametrize(
    ("harm", "where"), [("draws", "steps.1.0.0"), ("logs", "steps.1.2"), ("writes", "weights.layer.weight")]
)
def test_a_trace_is_seen(harm: str, where: str) -> None:
    client = load("demos.BoringModel")
    found = monitored(client, train(client), Clumsy(harm)).differences
    assert any(difference.startswith(f".{where}") for difference in found), found


def test_a_training_is_the_same_twice() -> None:
    client = load("demos.BoringModel")
    assert monitored(client, train(client), ComplexityMonitor(["ParameterNorm"])).differences == []
