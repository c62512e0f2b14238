"""Published modules train the same with a monitor, which logs what it should; ``docs/clients.md`` says so."""

from __future__ import annotations

import inspect
import math
from typing import Any

import pytest
import torch

from lightning_complexity import ComplexityMonitor, metrics
from tests.clients.judging import judge, monitored, row, shortcomings
from tests.clients.observing import RAW_ERROR, differences, train
from tests.clients.registry import CLIENTS, load
from tests.clients.table import cells, committed

pytestmark = pytest.mark.filterwarnings("ignore")  # what packages say while they are imported
BY_PACKAGE = [pytest.param(name, marks=pytest.mark.xdist_group(name.partition(".")[0])) for name in CLIENTS]
SHARE_OUT_OF_THE_BOX = 0.75
OF_THE_LANDSCAPE = [
    *("chemprop_mpnn.MPNN-regression", "gluonts_models.SimpleFeedForward", "geometric.GCN"),
    *("lightly_simclr.SimCLR", "huggingface.ViT", "demos.BoringModel"),
]
FAMILIES = {
    *("curvature", "hessian_spectrum", "stability", "fisher", "relative_flatness", "gradient_noise", "gradients"),
    *("learning_coefficient", "collapse", "attention", "steps", "weight_trajectory", "information"),
}
SLOW = {"FunctionalVariance", "PerformanceCorrelation"}  # the slowest on some clients
EVERYWHERE = (
    *("hessian_trace", "largest_hessian_eigenvalue", "effective_dimension", "critical_sharpness"),
    *("preconditioned_sharpness", "learning_coefficient", "step_gradient_norm", "update_ratio", "path_length"),
)


@pytest.mark.parametrize("name", BY_PACKAGE)
def test_client(name: str) -> None:
    judged = judge(name)
    found = shortcomings(judged)
    assert not found, "\n".join(found)
    assert row(name, judged) == committed()[CLIENTS.index(name)], "`make clients-table` writes the table anew"


@pytest.mark.parametrize("name", OF_THE_LANDSCAPE)
def test_measures_of_landscape_and_steps(name: str) -> None:
    client = load(name)
    plain, options = train(client), eval(f"dict({client.line})", {"torch": torch})
    monitor = ComplexityMonitor(landscape_and_steps(), probe=8, budget=None, **options)
    seen = train(client, monitor)
    assert differences(plain.state, seen.state) == []
    assert [line for line in seen.warnings if RAW_ERROR.search(line) and line not in plain.warnings] == []
    last = seen.history[-1]
    assert [key for key in EVERYWHERE if not math.isfinite(last.get(f"complexity/{key}", math.nan))] == []
    assert all(reason.partition(": ")[0].endswith("Error") for reason in monitor.left_out.values())
    assert not monitor.left_out.keys() & set(EVERYWHERE)


def landscape_and_steps() -> list[metrics.ComplexityMetric]:
    """Those of curvature, stability, gradients, steps, attention and collapse, with as few passes as they take."""
    few = {"num_probes": 2, "num_steps": 4, "max_products": 6, "num_chains": 2, "num_draws": 4, "burn_in": 2}
    found = []
    for entry in metrics.catalogue():
        cls = entry.metric
        if cls.__module__.rpartition(".")[2] in FAMILIES and cls.__name__ not in SLOW:
            taken = {name for base in cls.__mro__ for name in inspect.signature(base.__init__).parameters}
            found.append(cls(**{name: value for name, value in few.items() if name in taken}))
    return found


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
