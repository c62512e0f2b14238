"""What objects show is how they are written, with the arguments that are not their defaults."""

from __future__ import annotations

import math
import re
from base64 import b64decode
from typing import Any

import pytest
import torch
from torch import nn

from lightning_complexity import ComplexityConstraint, ComplexityMonitor, callbacks, metrics, regularizers
from lightning_complexity.metrics import CatalogueEntry, catalogue
from lightning_complexity.recording import Measurement


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.name)
def test_a_metric_without_arguments_shows_none(entry: CatalogueEntry) -> None:
    name = entry.metric.__name__
    of_margin = ("CapacityOverMargin", "NormalizedMargin")
    assert repr(entry.metric()) == (f"{name}(capacity=LogSpectralProduct())" if name in of_margin else f"{name}()")


WRITTEN = [
    "PathNorm(q=1.0, log=False)",
    "HessianTrace(num_probes=7)",
    "SpectralBound(log=False, num_samples=100)",
    "SpectralFrobeniusBound(delta=0.1)",
    "LinearRegions(along='plane')",
    "DeadUnits(count='always_on')",
    "ParameterNorm(per_layer=True)",
    "GeneralizationMeasure(of='path_norm', adjusted=True, num_samples=50)",
    "NormalizedMargin(capacity=PathNorm(q=1.0), percentile=20)",
    "ParameterNorm().on('encoder.*', Conv2d)",
    "NoiseSensitivity(of='softmax', sigma=0.5)",
]


@pytest.mark.parametrize("text", WRITTEN)
def test_what_is_shown_makes_the_same_again(text: str) -> None:
    names = {entry.metric.__name__: entry.metric for entry in catalogue()} | {"Conv2d": nn.Conv2d}
    assert repr(eval(text, names)) == text


def test_penalties_show_their_strength_and_what_they_measure() -> None:
    assert repr(regularizers.PathNorm(0.1)) == "PathNorm(0.1)"
    assert repr(regularizers.JacobianNorm(0.01, num_projections=1)) == "JacobianNorm(0.01, num_projections=1)"
    assert repr(regularizers.Regularizer(1.0, metrics.PathNorm(q=1.0))) == "Regularizer(1.0, PathNorm(q=1.0))"
    assert repr(regularizers.StableRank(0.5).on("head")) == "StableRank(0.5).on('head')"


PENALTIES = [
    "ComplexityPenalty(PathNorm(0.1))",
    "ComplexityPenalty(PathNorm(0.1, q=1.0), StableRank(0.2).on('head'), class_dim=2, once_per_step=True, name='a')",
    "ComplexityPenalty(PathNorm(0.1), schedule=Warmup(num_steps=10, after=0), manual_backward_index=[0, 1])",
]
OTHERS = [
    "ComplexityConstraint(PathNorm(), at_most=3.0)",
    "ComplexityConstraint(PathNorm(), StableRank().on('0'), at_most_relative_to_init=[1.0, 0.5], every_n_steps=3, "
    "probe=8, max_multiplier=10.0)",
    "NeuronPruning(at_epochs=[5, 10])",
    "NeuronPruning(at_epochs=[5], share=0.2, degree=1)",
    "ComplexityMonitor(metrics=[StableRank()], every_n_steps=3, wrt='encoder', budget=None)",
]


@pytest.mark.parametrize("text", [*PENALTIES, *OTHERS])
def test_callbacks_show_the_call_that_makes_them(text: str) -> None:
    measures: Any = regularizers if text in PENALTIES else metrics
    names = {name: getattr(measures, name) for name in ("PathNorm", "StableRank")}
    names |= {name: getattr(callbacks, name) for name in callbacks.__all__}
    assert repr(eval(text, names)) == text


def test_a_constraint_shows_what_it_limits_and_not_a_strength() -> None:
    constraint = ComplexityConstraint(regularizers.PathNorm(0.3), at_most=2.0)
    assert repr(constraint) == "ComplexityConstraint(PathNorm(), at_most=2.0)"


def test_what_has_no_short_form_is_named() -> None:
    monitor = ComplexityMonitor(
        ["StableRank"], probe=(torch.zeros(300, 4), torch.zeros(300)), forward=len, targets=lambda batch: batch["y"]
    )
    shown = "probe=(<tensor of shape (300, 4)>, <tensor of shape (300,)>), forward=len, targets="
    assert f"ComplexityMonitor(metrics=[StableRank()], {shown}" in repr(monitor)
    assert "0x" not in repr(monitor)
    assert "\n" not in repr(monitor)


# Notebooks -------------------------------------------------------------------------------------------


PRE = '<pre style="white-space: pre-wrap">'


def monitored(values: dict[str, float], name: str | None = None) -> ComplexityMonitor:
    monitor = ComplexityMonitor(["StableRank"], name=name)
    monitor.history.extend(Measurement(step, 0, 0.0, values) for step in (0, 7))
    return monitor


def test_a_notebook_shows_a_monitor_as_it_is_written_before_anything_is_measured() -> None:
    html = ComplexityMonitor(["StableRank"], wrt="a<b")._repr_html_()
    assert html == f"{PRE}ComplexityMonitor(metrics=[StableRank()], wrt=&#x27;a&lt;b&#x27;)</pre>"


def test_a_notebook_shows_the_last_values_with_their_errors_and_the_curves() -> None:
    values = {
        "complexity/jacobian_norm": 1.23456,
        "complexity/jacobian_norm/standard_error": 0.5,
        "probe/val_loss": 2.0,
    }
    html = monitored(values)._repr_html_()
    assert re.findall(r"<td>(.*?)</td><td>(.*?)</td>", html) == [
        ("completed optimizer steps", "7"),
        ("complexity/jacobian_norm", "1.235 ± 0.5"),
        ("probe/val_loss", "2"),
    ]
    picture = b64decode(html.partition("base64,")[2].partition('"')[0])
    assert picture.startswith(b"\x89PNG")


def test_a_notebook_shows_keys_without_the_monitors_name_and_text_as_text() -> None:
    html = monitored(
        {"complexity/shifted/stable_rank": 1.0, "complexity/shifted/<b>$": math.nan}, "shifted"
    )._repr_html_()
    assert "<td>complexity/stable_rank</td>" in html
    assert "<td>complexity/&lt;b&gt;$</td><td>nan</td>" in html


def test_a_notebook_stays_light_with_many_values() -> None:
    html = monitored({f"complexity/a{i}": float(i) for i in range(500)})._repr_html_()
    assert html.count("<tr>") == 42
    assert "<td>460 more</td>" in html
    assert len(html) < 200_000
