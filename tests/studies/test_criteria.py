"""The experiments: what they train, what they leave out, where they compare, what they write."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from lightning_complexity.metrics import MeanMargin, ParameterNorm, RegionBoundaryDistance, resolve
from lightning_complexity.studies import criteria
from lightning_complexity.studies.criteria import comparing, pictures, running
from lightning_complexity.studies.criteria.comparing import compare, matched_moments, quantity_of, why_excluded
from lightning_complexity.studies.criteria.experiments import Expectation, by_test_error, width_for
from lightning_complexity.studies.training.data import Data, load_data
from lightning_complexity.studies.training.networks import perceptron
from lightning_complexity.studies.training.runs import Moment, Result
from lightning_complexity.studies.training.settings import Moments, Setting, Stop
from lightning_complexity.studies.training.watching import Fit

MOMENTS = Moments(steps=(10, 100), losses=(1.0, 0.5), share=None)
STOP = Stop(loss=0.1)


def moment(name: str, step: int, value: float, loss: float, error: float = 0.1) -> Moment:
    return Moment((name,), step, step / 10, Fit(loss, 1.0), Fit(loss + 1, 1 - error), {"parameter_norm": value})


def network(scale: float = 1.0, *, length: int = 1, error: float = 0.1, end_loss: float = 0.05) -> Result:
    """Norms grow with steps; a network that trains ``length`` times as long is behind at equal steps."""
    points = [("step 10", 10, 1 / length), ("step 100", 100, 10 / length)]
    steps = [moment(name, step, scale * value, 2 - value / 10, error) for name, step, value in points]
    losses = [moment(f"loss {loss:g}", 200 * length, scale * 20, 0.9 * loss, error) for loss in MOMENTS.losses]
    end = moment("end", 400 * length, scale * 40, end_loss, error)
    return Result({}, "criterion", (*steps, *losses, end), 0.0)


def verdicts(results: dict[tuple[str, int], Result], expected: list[Expectation]) -> dict[str, comparing.Row]:
    rows = compare(results, expected, [quantity_of(ParameterNorm())], MOMENTS)
    return {row.point: row for row in rows}


def test_points_may_have_opposite_verdicts() -> None:
    results = {("true", s): network(1 + s / 50) for s in range(3)}
    results |= {("random", s): network(3 + s / 50, length=5) for s in range(3)}
    rows = verdicts(results, [Expectation("", "true", "random")])
    assert {point: row.verdict.outcome for point, row in rows.items()} == {
        "end": "pass",
        "equal steps": "fail",
        "equal loss": "pass",
    }
    assert (rows["end"].steps_lower, rows["end"].steps_higher) == (400, 2000)
    assert rows["equal steps"].steps_lower == rows["equal steps"].steps_higher == 55


def test_only_losses_that_are_equal_count_as_equal() -> None:
    first, second = network(), network()
    jumped = replace(second, moments=tuple(replace(m, train=Fit(m.train.loss * 0.5, 1.0)) for m in second.moments))
    assert len(matched_moments(first, second, "equal loss", MOMENTS)) == 2
    assert matched_moments(first, jumped, "equal loss", MOMENTS) == []
    assert len(matched_moments(first, jumped, "equal steps", MOMENTS)) == 2


def test_steps_that_one_of_them_did_not_take_do_not_count() -> None:
    short = replace(network(), moments=network().moments[:1] + network().moments[-1:])
    assert [m.step for m, _ in matched_moments(short, network(), "equal steps", MOMENTS)] == [10]


def test_seeds_that_only_one_condition_has_do_not_count() -> None:
    results = {("true", s): network(1 + s / 50) for s in range(3)} | {
        ("random", 0): network(3),
        ("random", 5): network(3),
    }
    verdict = verdicts(results, [Expectation("", "true", "random")])["end"].verdict
    assert (verdict.num_seeds, verdict.outcome) == (1, "inconclusive")


def test_directions_are_those_of_the_catalogue() -> None:
    higher, lower, none = map(quantity_of, (ParameterNorm(), RegionBoundaryDistance(), MeanMargin()))
    assert [q.direction for q in (higher, lower, none)] == ["higher", "lower", "none"]
    values = {"region_boundary_distance": 1.0}, {"region_boundary_distance": 3.0}
    results = {
        (name, s): replace(network(), moments=(replace(network().end, measures=v),))
        for s in range(2)
        for name, v in zip(("true", "random"), values, strict=True)
    }
    (row, *_) = compare(results, [Expectation("", "true", "random")], [lower], MOMENTS)
    assert row.verdict.outcome == "fail"


def test_the_criterion_is_verified_by_the_last_judgement() -> None:
    assert why_excluded(network(), STOP) is None
    late = why_excluded(replace(network(end_loss=0.3), ended="max_steps"), STOP)
    assert late == "max_steps after 400 steps, at training loss 0.3 and 0.0 % training error"
    # What a result says of itself does not count.
    assert why_excluded(network(end_loss=0.11), STOP) is not None
    wrong = network()
    wrong = replace(wrong, moments=(*wrong.moments[:-1], replace(wrong.end, train=Fit(0.05, 0.99))))
    assert why_excluded(wrong, STOP) == "criterion after 400 steps, at training loss 0.05 and 1.0 % training error"


def test_pairs_by_test_error_need_a_difference_beyond_noise() -> None:
    data = Data("", torch.zeros(60, 4), torch.arange(60) % 3, torch.zeros(1, 4), torch.zeros(1).long())
    first, second, third = criteria.experiment("width", data, quick=True).conditions
    errors = {(first.name, s): 0.3 + s / 100 for s in range(3)} | {(second.name, s): 0.1 + s / 100 for s in range(3)}
    errors |= {(third.name, s): (0.1, 0.12, 0.1)[s] for s in range(3)}
    found = by_test_error((first, second, third), errors)
    assert [(e.lower, e.higher) for e in found] == [(second.name, first.name), (third.name, first.name)]


@pytest.mark.parametrize("depth", [1, 2, 5, 8])
def test_networks_of_equal_size(depth: int) -> None:
    width = width_for(50_000, depth, 64, 10)
    count = sum(p.numel() for p in perceptron([64, *[width] * depth, 10]).parameters())
    assert abs(count - 50_000) < 1_500


@pytest.mark.parametrize("name", criteria.EXPERIMENTS)
def test_conditions_are_what_they_are_called(name: criteria.experiments.ExperimentName) -> None:
    data = load_data("digits")
    for quick in (True, False):
        experiment = criteria.experiment(name, data, quick=quick)
        names = [condition.name for condition in experiment.conditions]
        assert len(set(names)) == len(names) >= 2
        expected = experiment.expectations({})
        assert {e.lower for e in expected} | {e.higher for e in expected} <= set(names)
        assert all(isinstance(condition.change, Setting) for condition in experiment.conditions)


def test_an_unknown_experiment() -> None:
    with pytest.raises(ValueError, match="no experiment 'label'; there are labels, width"):
        criteria.experiment("label", load_data("digits"))


# A whole experiment ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def labels(tmp_path_factory: pytest.TempPathFactory) -> tuple[criteria.Experiment, list[object], Path, criteria.Report]:
    output = tmp_path_factory.mktemp("labels")
    experiment = criteria.experiment("labels", load_data("digits"), quick=True)
    metrics = criteria.metrics_of(experiment, ["ParameterNorm", "JacobianNorm"])
    train_one = criteria.trainer_of_data(experiment, load_data("digits"), metrics)
    report = criteria.run(experiment, train_one, metrics, output, num_seeds=2)
    return experiment, metrics, output, report


def test_a_whole_experiment(labels: tuple[criteria.Experiment, list[object], Path, criteria.Report]) -> None:
    experiment, _, output, report = labels
    assert not report.excluded
    assert len(report.results) == 8
    with (output / "verdicts.csv").open() as file:
        rows = list(csv.DictReader(file))
    measured = [row for row in rows if row["measure"] == "jacobian_norm"]
    assert [row["point"] for row in measured] == ["end", "equal steps", "equal loss"]
    assert all(row["verdict"] in ("pass", "fail", "inconclusive") and row["seeds"] == "2" for row in measured)
    steps = next(row for row in rows if row["measure"] == "training_steps" and row["point"] == "end")
    assert float(steps["steps_higher"]) > 2 * float(steps["steps_lower"])
    assert float(steps["effect"]) > 1
    with (output / "networks.csv").open() as file:
        networks = list(csv.DictReader(file))
    assert {row["condition"] for row in networks} == {c.name for c in experiment.conditions}
    assert all(float(row["train_loss"]) <= 0.2 and float(row["train_accuracy"]) == 1 for row in networks)
    for picture in ("levels.png", "curves.png"):
        assert (output / picture).read_bytes().startswith(b"\x89PNG")
    for text in ("steps to 0.5", "at equal steps", "training loss at most 0.2 and no training error"):
        assert text in report.text


def test_finished_networks_are_read_and_missing_ones_trained(
    labels: tuple[criteria.Experiment, list[object], Path, criteria.Report], tmp_path: Path
) -> None:
    experiment, metrics, output, report = labels
    trained = []

    def train_one(condition: criteria.experiments.Condition, seed: int, folder: Path) -> Result:
        if not (folder / "result.json").exists():
            trained.append(folder.name)
        return criteria.trainer_of_data(experiment, load_data("digits"), metrics)(condition, seed, folder)

    gone = running.folder_of(experiment.conditions[0], 1, output)
    (gone / "result.json").unlink()
    again = criteria.run(experiment, train_one, metrics, output, num_seeds=2)
    assert trained == [gone.name]
    assert [row for row in again.rows if row.measure != "training_seconds"] == [
        row for row in report.rows if row.measure != "training_seconds"
    ]


def test_networks_that_fail_or_fall_short_are_named(tmp_path: Path) -> None:
    data = load_data("digits")
    experiment = criteria.experiment("labels", data, quick=True)
    experiment = replace(experiment, stop=Stop(loss=0.2, max_steps=130), conditions=experiment.conditions[:2])
    metrics = resolve(["ParameterNorm"])
    good = criteria.trainer_of_data(experiment, data, metrics)

    def train_one(condition: criteria.experiments.Condition, seed: int, folder: Path) -> Result:
        if seed == 1 and condition.name.startswith("true"):
            raise RuntimeError("no memory left")
        return good(condition, seed, folder)

    report = criteria.run(experiment, train_one, metrics, tmp_path, num_seeds=2)
    assert "true labels, 50 samples, seed 1: could not be trained. RuntimeError: no memory left" in report.text
    assert all(reason.startswith("max_steps after 130") for k, reason in report.excluded.items() if k[0][0] == "r")
    assert all(row.verdict.outcome == "inconclusive" for row in report.rows)

    def never(condition: criteria.experiments.Condition, seed: int, folder: Path) -> Result:
        raise RuntimeError("no memory left")

    with pytest.raises(ValueError, match=r"none of the networks could be trained\. The first .*no memory left"):
        criteria.run(experiment, never, metrics, tmp_path / "never", num_seeds=1)


def test_widths_come_beside_published_curves(tmp_path: Path) -> None:
    data = load_data("digits")
    experiment = criteria.experiment("width", data, quick=True, widths=(32, 8))
    assert [c.level for c in experiment.conditions] == [8, 32]
    assert all(isinstance(c.change, Setting) and c.change.depth == 1 for c in experiment.conditions)
    names = ("l2 norm", "l1-path norm", "l2-path norm", "spectral norm")
    series = {name: {"x": [8, 32, 128], "y": [1.0, 0.5, 0.0]} for name in names}
    figures = {
        "hidden_units_error": {"series": {"test": series["l2 norm"]}},
        "hidden_units_measures": {"series": series},
    }
    published = tmp_path / "published.json"
    published.write_text(json.dumps({"figures": figures}))
    metrics = criteria.metrics_of(experiment, ["ParameterNorm"])
    train_one = criteria.trainer_of_data(experiment, data, metrics)
    report = criteria.run(experiment, train_one, metrics, tmp_path, num_seeds=1, published=published)
    assert "With one seed there is no interval, and every verdict is inconclusive" in report.text
    with (tmp_path / "published.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["curve"] == "l2-path norm"]
    assert [row["hidden units"] for row in rows] == ["8", "32", "128"]
    assert {rows[0]["here"], rows[1]["here"]} == {"0.0", "1.0"}
    assert (rows[0]["published"], rows[1]["published"]) == ("1.0", "0.0")
    assert (tmp_path / "gap.png").read_bytes().startswith(b"\x89PNG")
    published.write_text("{}")
    with pytest.raises(ValueError, match="does not hold the published curves over hidden units"):
        pictures.published_curves(published)


def test_equal_numbers_have_no_range() -> None:
    for number in (0.1, 1 / 3, 84.7):  # the mean of three is one rounding off for some
        mean, below, above = pictures.mean_and_range([number] * 3)
        assert mean == pytest.approx(number)
        assert 0 <= below < 1e-12
        assert 0 <= above < 1e-12
