"""Every measure of the catalogue fits into event files and into the strictest logger, under tags of its own."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.tensorboard import SummaryWriter

from lightning_complexity.metrics import catalogue
from lightning_complexity.network import Snapshot, initial_state
from lightning_complexity.recording.measuring import FailureReport, Measured, measure_metrics
from lightning_complexity.recording.tags import key_of, tagged
from tests.networks import mlp
from tests.tensorboard.runs import written

MLFLOW = re.compile(r"[A-Za-z0-9_/. -]+")


class Oddly(nn.Module):
    """Names of modules may hold anything but dots."""

    def __init__(self) -> None:
        super().__init__()
        self.odd = nn.ModuleDict({"ein: ä%": nn.Linear(4, 6), "z": nn.Linear(6, 3)})

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first, last = self.odd.values()
        return last(first(x).relu())


def everything(net: nn.Module, scale: float = 1.0) -> Measured:
    """All that the catalogue has a value for."""
    initial = initial_state(net)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.mul_(scale)
    x, y = torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), torch.arange(12) % 3
    metrics = [entry.metric(per_layer=entry.metric.has_layers) for entry in catalogue()]
    return measure_metrics(metrics, Snapshot(net, x, y, initial=initial), FailureReport(), figures=True)


@pytest.mark.parametrize("scale", [1e15, 1e-15])
@pytest.mark.filterwarnings("ignore")
def test_what_is_finite_in_the_record_is_finite_in_event_files(scale: float, tmp_path: Path) -> None:
    torch.manual_seed(0)
    measured = everything(mlp(4, 6, 5, 3), scale)
    values = measured.floats()
    with SummaryWriter(tmp_path) as writer:
        for tag, value in tagged(values, measured.parts).items():
            writer.add_scalar(tag, value, 0)
    read = {key_of(tag): points[0][1] for tag, points in written(tmp_path).scalars.items()}
    logarithms = 0
    for key, value in values.items():
        if key in read:
            assert read[key] == pytest.approx(value, rel=1e-6, nan_ok=True)
        else:
            logarithms += 1
            ends = {key: sign for sign, key in ((1, f"{key}/log10"), (-1, f"{key}/log10_of_negative"))}
            (name,) = ends.keys() & read.keys()
            assert ends[name] * 10 ** (read[name] % 1) == pytest.approx(
                value / 10.0 ** math.floor(read[name]), rel=1e-4
            )
    assert logarithms > 3
    assert all(math.isfinite(v) for tag, v in read.items() if tag.startswith("spread/"))


@pytest.mark.filterwarnings("ignore")
def test_tags_are_legal_in_every_logger() -> None:
    torch.manual_seed(0)
    measured = everything(Oddly())
    tags = {*measured.values, *measured.histograms, *measured.figures, *tagged(measured.floats(), measured.parts)}
    assert [tag for tag in tags if not MLFLOW.fullmatch(tag)] == []
    assert "complexity/stable_rank/odd.ein_ __.weight" in tags


@pytest.mark.filterwarnings("ignore")
def test_each_tag_is_of_one_kind_since_tensorboard_shows_the_first() -> None:
    torch.manual_seed(0)
    measured = everything(mlp(4, 6, 5, 3))
    kinds = [set(tagged(measured.floats(), measured.parts)), set(measured.histograms), set(measured.figures)]
    assert len(set.union(*kinds)) == sum(map(len, kinds))


@pytest.mark.filterwarnings("ignore")
def test_values_of_layers_are_apart_from_measures() -> None:
    torch.manual_seed(0)
    measured = everything(mlp(4, 6, 5, 3))
    tags = tagged(measured.floats(), measured.parts)
    names = {entry.name for entry in catalogue()}
    below = {tag for tag in tags if tag.startswith("complexity/") and tag.partition("/")[2] not in names}
    # The network's layers are numbers; what else a measure reports of itself is a word.
    assert below
    assert all(tag.rpartition("/")[2].replace("_", "").isalpha() for tag in below)
    assert tags["parts/stable_rank/0.weight"] == measured.values["complexity/stable_rank/0.weight"].item()
