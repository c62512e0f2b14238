"""Every metric draws what it has measured, found by discovery; and what notebooks show."""

from __future__ import annotations

import math
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import matplotlib as mpl
import pytest
import torch
from torch import Tensor, nn
from torchmetrics import MetricCollection

mpl.use("Agg")

from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from lightning_complexity import metrics
from lightning_complexity.metrics import ComplexityMetric, catalogue
from lightning_complexity.metrics.base.words import in_units
from lightning_complexity.network import NothingMeasuredError, Snapshot
from tests.networks import mlp
from tests.quick import quick
from tests.test_capabilities import inputs, moved, network, snapshot_of

METRICS = [entry.metric for entry in catalogue()]


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    plt.close("all")


def measured(metric: ComplexityMetric) -> tuple[ComplexityMetric, Snapshot]:
    model, x = network(type(metric)), inputs(type(metric))
    snapshot = snapshot_of(model, x, moved(model))
    metric.update(snapshot)
    return metric, snapshot


def drawn(axes: Axes) -> list[Tensor]:
    """The points of each line, shape ``(n, 2)``."""
    return [torch.tensor(line.get_xydata()) for line in axes.lines]


def render(figure: Figure) -> None:
    """Draw it in earnest, with all its text."""
    figure.canvas.draw()


@pytest.mark.parametrize("cls", METRICS)
class TestEvery:
    def test_number_is_drawn_with_its_title_direction_and_units(self, cls: type[ComplexityMetric]) -> None:
        metric, _ = measured(quick(cls))
        figure, axes = metric.plot()
        render(figure)
        value, error = metric.compute(), metric.report().get(f"{metric.name}/standard_error")
        if value.isfinite():
            assert drawn(axes)[0][0, 1] == pytest.approx(float(value))
        assert f"{float(value):.4g}" in next(iter(axes.texts)).get_text()
        bars = [path for bar in axes.collections for path in bar.get_segments()]
        if error is not None and error.isfinite() and error > 0:
            assert [y for _, y in bars[0]] == pytest.approx([float(value - error), float(value + error)])
        else:
            assert not bars
        words = {True: "higher: more complex", False: "lower: more complex", None: ""}[cls.increases_with_complexity]
        title = axes.get_title()
        assert title.partition("\n")[0].replace(" ", "") == cls.__name__
        assert words in title
        assert words or "more complex" not in title
        assert axes.get_ylabel() == f"{metric.name}\n[{in_units(metric)}]"

    def test_layers_are_drawn_from_top_to_bottom(self, cls: type[ComplexityMetric]) -> None:
        if not cls.has_layers:
            return
        metric, _ = measured(cls(per_layer=True))
        layers = metric.compute()
        for value in (None, layers, metric.report()):
            figure, axes = metric.plot(value)
            render(figure)
            shown = dict(zip([t.get_text() for t in axes.get_yticklabels()], drawn(axes)[0], strict=True))
            assert axes.yaxis_inverted()
            if value is not None and value is not layers:
                assert set(layers) <= {name.partition(" (")[0] for name in shown}
                continue
            assert [name.partition(" (")[0] for name in shown] == list(layers)
            for name, (x, _) in shown.items():
                assert x == pytest.approx(float(layers[name])) if name in layers else math.isnan(x)

    def test_course_is_drawn_over_measurements(self, cls: type[ComplexityMetric]) -> None:
        metric, _ = measured(quick(cls))
        value = metric.compute()
        figure, axes = metric.plot([value, 2 * value, value])
        render(figure)
        if value.isfinite():
            torch.testing.assert_close(drawn(axes)[0][:, 1], torch.stack([value, 2 * value, value]).double())
        assert axes.get_xlabel() == "measurement"

    def test_what_is_behind_the_value_is_drawn_by_size(self, cls: type[ComplexityMetric]) -> None:
        metric, snapshot = measured(quick(cls))
        behind = metric.histograms(snapshot)
        if not behind:
            return
        figure, axes = metric.plot(behind)
        render(figure)
        for line, numbers in zip(drawn(axes), behind.values(), strict=True):
            torch.testing.assert_close(line[:, 1], numbers.double().flatten().sort(descending=True).values)

    def test_nothing_measured_is_an_error_as_that_of_compute(self, cls: type[ComplexityMetric]) -> None:
        with pytest.raises(NothingMeasuredError, match=f"{cls.__name__}: nothing measured yet"):
            cls().plot()
        assert not plt.get_fignums()

    def test_drawing_changes_nothing(self, cls: type[ComplexityMetric]) -> None:
        metric, _ = measured(quick(cls))
        before = [torch.get_rng_state(), {k: repr(v) for k, v in metric.metric_state.items()}]
        metric.plot(ax=Figure().add_subplot())
        metric._repr_html_()
        after = [torch.get_rng_state(), {k: repr(v) for k, v in metric.metric_state.items()}]
        assert torch.equal(before[0], after[0])
        assert before[1] == after[1]
        assert not plt.get_fignums()

    def test_notebooks_show_how_it_is_written_and_the_value(self, cls: type[ComplexityMetric]) -> None:
        assert cls()._repr_html_().count("<td>") == 0
        metric, _ = measured(quick(cls))
        html = metric._repr_html_()
        assert html.partition(">")[2].startswith(f"{cls.__name__}(")
        assert f"<td>{metric.name}</td><td>{float(metric.compute()):.4g}" in html
        assert 'src="data:image/png;base64,' in html
        assert len(html) < 60_000


# Single properties -----------------------------------------------------------------------------------


def test_given_axes_are_drawn_into() -> None:
    metric, _ = measured(metrics.StableRank())
    figure = Figure()
    axes = figure.add_subplot()
    assert metric.plot(ax=axes) == (figure, axes)
    assert not plt.get_fignums()


def test_reports_over_time_have_their_error_bars() -> None:
    metric, _ = measured(metrics.JacobianNorm())
    report = metric.report()
    _, axes = metric.plot([report, report])
    value, error = report["jacobian_norm"], report["jacobian_norm/standard_error"]
    [bars] = axes.collections
    assert bars.get_segments()[1][:, 1].tolist() == pytest.approx([float(value - error), float(value + error)])


def test_details_of_a_report_are_no_parts() -> None:
    metric, _ = measured(metrics.Transitions())
    assert len(metric.report()) == 3
    _, axes = metric.plot(metric.report())
    assert not axes.yaxis_inverted()


def test_layers_over_time_are_one_line_each() -> None:
    metric, _ = measured(metrics.ParameterNorm(per_layer=True))
    layers = metric.compute()
    _, axes = metric.plot([layers, {name: 2 * value for name, value in layers.items()}, {}])
    assert len(axes.lines) == len(layers)
    for line, value in zip(drawn(axes), layers.values(), strict=True):
        assert line[:2, 1].tolist() == pytest.approx([float(value), 2 * float(value)])
        assert line[2, 1].isnan()
    assert [t.get_text() for t in axes.get_legend().get_texts()] == list(layers)


def test_many_layers_name_some_of_them() -> None:
    model = nn.Sequential(*(nn.Linear(2, 2) for _ in range(90)))
    metric = metrics.StableRank(per_layer=True)
    metric.update(model)
    figure, axes = metric.plot()
    render(figure)
    assert 10 < len(axes.get_yticks()) <= 20
    figure, axes = metric.plot([metric.compute()] * 2)
    render(figure)
    names = [t.get_text() for t in axes.get_legend().get_texts()]
    assert len(names) <= 13
    assert (names[0], names[-1]) == ("0.weight", "89.weight")


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_written(value: float) -> None:
    metric = metrics.PathNorm()
    figure, axes = metric.plot(torch.tensor(value))
    render(figure)
    assert axes.texts[0].get_text() == str(value)
    figure, axes = metrics.StableRank().plot({"a": torch.tensor(1.0), "b": torch.tensor(value)})
    render(figure)
    assert [t.get_text() for t in axes.get_yticklabels()] == ["a", f"b ({value})"]
    figure, axes = metric.plot([torch.tensor(value)] * 2)
    render(figure)
    assert axes.texts[0].get_text() == "no finite value"


@pytest.mark.parametrize("name", ["a$b$c", r"$\frac$", "<b>&", "x" * 300])
def test_names_of_users_stay_text(name: str) -> None:
    metric, _ = measured(metrics.StableRank(per_layer=True))
    metric.name = f"own {name}"
    value = torch.tensor(1.0)
    for shown in ({name: value, "b": value}, [{name: value, "b": value}], {name: torch.ones(3), "b": torch.ones(2)}):
        figure, _ = metric.plot(shown)
        render(figure)
    html = metric._repr_html_()
    assert "<b>" not in html


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        ("1", TypeError, "plot takes what compute, forward, report or histograms returns, or a list of that; got str"),
        ([], ValueError, "at least one value, got an empty one"),
        ([torch.ones(3)], ValueError, "a vector alone, not a list of them"),
        ([object()], TypeError, "got object"),
    ],
)
def test_what_no_metric_returns_is_refused(value: Any, error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        metrics.StableRank().plot(value, ax=Figure().add_subplot())


def test_a_collection_draws_all_of_its_metrics() -> None:
    collection = MetricCollection([metrics.StableRank(), metrics.ParameterNorm()], compute_groups=False)
    collection.update(mlp(4, 5, 3))
    plots = collection.plot()
    assert [axes.get_title().partition("\n")[0] for _, axes in plots] == ["Stable Rank", "Parameter Norm"]


def test_without_matplotlib_the_error_says_what_to_install_and_notebooks_show_text() -> None:
    code = """
import sys
from torch import nn
from lightning_complexity import metrics
sys.modules["matplotlib"] = sys.modules["matplotlib.pyplot"] = sys.modules["matplotlib.figure"] = None
metric = metrics.StableRank()
metric.update(nn.Linear(2, 2))
assert "<td>stable_rank</td>" in metric._repr_html_() and "<img" not in metric._repr_html_()
try:
    metric.plot()
except ImportError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "plots need matplotlib: pip install lightning-complexity[plot]\n", done.stderr
