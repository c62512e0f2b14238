"""Charts, distributions, pictures and the summary of a run, read back from its event files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from lightning_complexity import ComplexityMonitor
from lightning_complexity.callbacks.views.layout import MOST_BANDS, Source, layout
from lightning_complexity.dashboard.events import read_events
from lightning_complexity.metrics import LinearRegions, MarginPercentile, ParameterNorm, StableRank, catalogue
from lightning_complexity.metrics.base import Curve
from lightning_complexity.network import Context, MeasureError, Snapshot
from tests.tensorboard.runs import Written, X, Y, fitted, plain, written


class Detailed(ParameterNorm):
    """Has a vector beside its value, and two curves."""

    name = "detailed"

    def details(self) -> dict[str, Tensor]:
        return {"weights": torch.tensor([3.0, 1.0, 2.0]), "one": torch.tensor([4.0])}

    def curves(self, snapshot: Snapshot) -> dict[str, Curve]:
        grid = torch.linspace(-1, 1, 9)
        return {"density": Curve(grid, 1 - grid**2, "eigenvalue", "density", log_y=True), "loss": Curve(grid, grid)}


class Failing(ParameterNorm):
    """Has no value."""

    name = "failing"

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        raise MeasureError("no value\non this network")


def shown(found: Written) -> dict[str, dict[str, set[str]]]:
    """The scalars that each chart shows; a pattern is one that begins a tag."""
    return {
        category: {
            title: {s for s in found.scalars for tag in tags if re.match(tag, s)} for title, tags in charts.items()
        }
        for category, charts in found.charts().items()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("logs") / "run"
    monitors = [
        ComplexityMonitor("standard", per_layer=True, budget=None),
        ComplexityMonitor(["StableRank", "MarginPercentile"], name="shifted", probe=(X + 1, Y), budget=None),
    ]
    fitted(folder, monitors)
    return written(folder)


# Charts --------------------------------------------------------------------------------------------


def test_every_measure_is_in_the_chart_of_its_family_and_nothing_else_is(run: Written) -> None:
    families = shown(run)["Complexity by family"]
    of = {entry.name: entry.family.replace("_", " ") for entry in catalogue()}
    measures = {tag for tag in run.scalars if tag.startswith("complexity/") and tag.rpartition("/")[2] in of}
    assert measures == set.union(*families.values())
    for family, tags in families.items():
        assert {of[tag.rpartition("/")[2]] for tag in tags} == {family}
    assert {"complexity/stable_rank", "complexity/shifted/stable_rank"} <= families["spectra"]


def test_a_family_without_a_value_has_no_chart() -> None:
    source = Source(None, [StableRank(), MarginPercentile()], {"complexity/stable_rank"}, set(), [])
    assert layout([source])["Complexity by family"].keys() == {"spectra"}


def test_losses_and_gaps_of_all_monitors_share_charts(run: Written) -> None:
    fits = shown(run)["Loss and generalization"]
    monitors = "", "shifted/"
    assert fits == {
        "loss": {f"probe/{m}{part}_loss" for m in monitors for part in ("train", "val")},
        "accuracy": {f"probe/{m}{part}_accuracy" for m in monitors for part in ("train", "val")},
        "generalization gap": {f"probe/{m}generalization_gap" for m in monitors},
        "accuracy gap": {f"probe/{m}accuracy_gap" for m in monitors},
    }


def test_estimates_have_a_band_of_one_standard_error(run: Written) -> None:
    charts = run.charts()["Estimates with their standard errors"]
    assert {"jacobian_norm", "geometric_complexity"} == charts.keys()
    middle, low, high = (run.scalars[tag] for tag in charts["jacobian_norm"])
    errors = run.scalars["complexity/jacobian_norm/standard_error"]
    assert len(middle) == len(errors) == 3
    for (step, value), (s, error), (_, a), (_, b) in zip(middle, errors, low, high, strict=True):
        assert (step, a, b) == (s, pytest.approx(value - error), pytest.approx(value + error))


def test_distributions_have_histograms_and_a_band_of_percentiles(run: Written) -> None:
    charts = run.charts()["Margins, spectra, distributions"]
    assert {"margin", "margin (shifted)", "spectrum/net.0.weight", "spectrum/net.2.weight"} <= charts.keys()
    assert run.kinds["complexity/margin"] == {"histo"}
    tags = charts["margin"]
    assert tags == ["spread/margin/middle", "spread/margin/low", "spread/margin/high"]
    middle, low, high = ([value for _, value in run.scalars[tag]] for tag in tags)
    assert all(a < m < b for a, m, b in zip(low, middle, high, strict=True))
    assert [step for step, _ in run.scalars[tags[0]]] == [0, 3, 6]


def test_layers_of_a_measure_share_one_chart_and_are_in_a_group_of_their_own(run: Written) -> None:
    layers = shown(run)["Layers, classes, outputs"]
    assert layers["stable_rank"] == {"parts/stable_rank/net.0.weight", "parts/stable_rank/net.2.weight"}
    assert not [tag for tag in run.scalars if tag.startswith("complexity/") and "net." in tag]
    assert run.layouts[1:] == []


def test_event_files_are_read_by_log_key(tmp_path: Path) -> None:
    monitor = ComplexityMonitor(["StableRank"], per_layer=True)
    fitted(tmp_path / "run", [monitor])
    last = read_events(tmp_path / "run").history()[-1].values
    assert last["complexity/stable_rank/net.0.weight"] == pytest.approx(
        monitor.history[-1].values["complexity/stable_rank/net.0.weight"]
    )
    assert last.keys() == monitor.history[-1].values.keys()


def test_of_many_layers_the_first_the_last_and_some_between_have_bands() -> None:
    keys = [f"complexity/spectrum/{i}" for i in range(100)]
    (charts,) = layout([Source(None, [], set(), set(), keys)]).values()
    assert len(charts) == MOST_BANDS
    assert ([*charts][:1], [*charts][-1]) == (["spectrum/0"], "spectrum/99")


def test_a_layout_of_the_user_stays(tmp_path: Path) -> None:
    from pytorch_lightning.loggers import TensorBoardLogger

    logger = TensorBoardLogger(tmp_path, name="", version="run")
    logger.experiment.add_custom_scalars({"mine": {"loss": ["Multiline", ["train_loss"]]}})
    fitted(tmp_path / "run", [ComplexityMonitor("fast")], logger=logger)
    assert written(tmp_path / "run").charts() == {"mine": {"loss": ["train_loss"]}}


def test_what_is_measured_later_is_in_the_layout_at_the_end(tmp_path: Path) -> None:
    class Late(ComplexityMonitor):
        def _names(self) -> list[str]:
            return [n for n in super()._names() if n != "jacobian_norm" or self._steps > 0]

    fitted(tmp_path / "run", [Late(["ParameterNorm", "JacobianNorm"], budget=None)], plain())
    found = written(tmp_path / "run")
    assert len(found.layouts) == 2
    assert "jacobian_norm" in found.charts()["Estimates with their standard errors"]


def test_a_run_that_goes_on_in_its_folder_keeps_its_layout(tmp_path: Path) -> None:
    first = fitted(tmp_path / "run", [ComplexityMonitor("fast")])
    first.save_checkpoint(tmp_path / "last.ckpt")
    fitted(tmp_path / "run", [ComplexityMonitor("fast")], ckpt_path=tmp_path / "last.ckpt", max_epochs=3)
    assert len(written(tmp_path / "run").layouts) == 1


# Details that are no numbers -----------------------------------------------------------------------


def test_vectors_are_histograms_and_curves_are_pictures(tmp_path: Path) -> None:
    monitor = ComplexityMonitor([Detailed(), LinearRegions(along="plane")], budget=None, on_error="raise")
    fitted(tmp_path / "run", [monitor])
    found = written(tmp_path / "run")
    assert found.kinds["complexity/detailed/weights"] == {"histo"}
    assert found.kinds["complexity/detailed/density"] == found.kinds["complexity/detailed/loss"] == {"image"}
    assert found.kinds["complexity/linear_regions/picture"] == {"image"}
    assert monitor.history[-1].values["complexity/detailed/one"] == 4
    assert "complexity/detailed/weights" not in monitor.history[-1].values
    assert found.scalars["spread/detailed/weights/middle"][-1] == (6, 2)


# The summary ---------------------------------------------------------------------------------------


def test_the_summary_says_what_was_measured_how_and_what_was_not_and_why(tmp_path: Path) -> None:
    monitor = ComplexityMonitor(["ParameterNorm", Failing(), "JacobianNorm"], budget=1e-9)
    module = plain()
    with pytest.warns(UserWarning, match="leaves out"):
        fitted(tmp_path / "run", [monitor], module)
    (first, _), *_, (last, text) = written(tmp_path / "run").texts["complexity/summary/text_summary"]
    assert (first, last) == (0, 6)
    assert "**Classifier**: 51 parameters in 4 tensors." in text
    assert "24 training samples and 24 for validation" in text
    for line in monitor.explain(module, [X, Y]).splitlines():
        assert f"    {line}" in text.replace("a tuple", "a list")
    assert re.search(r"\| parameter_norm \| [\d.]+ \| \d of 3 times \| higher \|", text)
    assert "### Thinned by the budget\n\n- " in text
    assert "ever measured" in text.partition("Thinned")[2]
    assert text.endswith("### Left out\n\n- **failing**: MeasureError: no value on this network")


def test_each_monitor_has_a_summary(run: Written) -> None:
    assert run.texts.keys() == {"complexity/summary/text_summary", "complexity/shifted/summary/text_summary"}


def test_monitors_without_names_share_a_summary(tmp_path: Path) -> None:
    fitted(tmp_path / "run", [ComplexityMonitor(["ParameterNorm"]), ComplexityMonitor(["StableRank"])])
    ((_, first), (_, text)) = written(tmp_path / "run").texts["complexity/summary/text_summary"]
    for said in (first, text):
        assert "| parameter_norm |" in said
        assert "| stable_rank |" in said
    assert text.count("Measured on") == 1


def test_a_summary_says_what_is_frozen(tmp_path: Path) -> None:
    module = plain()
    module.net[0].requires_grad_(False)
    fitted(tmp_path / "run", [ComplexityMonitor("fast")], module)
    text = written(tmp_path / "run").texts["complexity/summary/text_summary"][-1][1]
    assert "51 parameters in 4 tensors, 21 of them trained." in text


def test_a_module_that_cannot_be_explained_is_summarised_all_the_same(tmp_path: Path, monkeypatch: Any) -> None:
    from lightning_complexity.callbacks.views import run as views

    def broken(*args: Any) -> str:
        raise ZeroDivisionError

    monkeypatch.setattr(views, "explained", broken)
    fitted(tmp_path / "run", [ComplexityMonitor("fast")])
    text = written(tmp_path / "run").texts["complexity/summary/text_summary"][-1][1]
    assert "    loss: that of training_step" in text
