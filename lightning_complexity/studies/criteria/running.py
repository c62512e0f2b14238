"""Run an experiment: train what is missing, verify the criterion, compare, write tables and pictures."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from tqdm import tqdm

from lightning_complexity.metrics import (
    CapacityOverMargin,
    ComplexityMetric,
    JacobianNorm,
    LogNormProduct,
    LogSpectralProduct,
    ParameterCount,
    PathNorm,
    resolve,
)
from lightning_complexity.plots import plot_histories
from lightning_complexity.plots.curves import figure_class
from lightning_complexity.recording import read_record
from lightning_complexity.studies.criteria import pictures, tables
from lightning_complexity.studies.criteria.comparing import TRAINING, Results, Row, compare, quantity_of, why_excluded
from lightning_complexity.studies.criteria.experiments import Condition, Experiment
from lightning_complexity.studies.training.data import Data
from lightning_complexity.studies.training.runs import RESULT_NAME, Result, train
from lightning_complexity.studies.training.settings import Setting
from lightning_complexity.studies.training.user import Change, Problem, train_user

TrainOne = Callable[[Condition, int, Path], Result]


@dataclass(frozen=True)
class Report:
    """What an experiment gave.

    Attributes:
        rows: A verdict for each measure at each matched point.
        results: All networks that were trained, by condition and seed.
        excluded: Why networks were not compared: what of the criterion they miss, or why they could not be trained.
        text: All that is to be said, with the tables.
        files: What was written.
    """

    rows: list[Row]
    results: Results
    excluded: dict[tuple[str, int], str]
    text: str
    files: list[Path]


def published_metrics() -> list[ComplexityMetric]:
    """The four norms over the margin of Neyshabur et al. 2017, whose squares, but for constants, they plot.

    References:
        Neyshabur, Bhojanapalli, McAllester and Srebro, Exploring generalization in deep learning, NeurIPS 2017.
    """
    l1, l2 = PathNorm(q=1), PathNorm(q=2)
    l1.name, l2.name = "log_l1_path_norm", "log_l2_path_norm"
    capacities: list[ComplexityMetric] = [LogNormProduct("frobenius"), l1, l2, LogSpectralProduct()]
    return [CapacityOverMargin(capacity, percentile=5) for capacity in capacities]


def metrics_of(experiment: Experiment, metrics: Sequence[str | ComplexityMetric]) -> list[ComplexityMetric]:
    """What an experiment measures: what is asked for, and for widths what its pictures show.

    Raises:
        ValueError: At an unknown metric.
    """
    found = resolve(metrics)
    if experiment.name == "width":
        names = {metric.name for metric in found}
        found += [m for m in [ParameterCount(), JacobianNorm(), *published_metrics()] if m.name not in names]
    return found


def trainer_of_data(experiment: Experiment, data: Data, metrics: Sequence[ComplexityMetric]) -> TrainOne:
    """Train networks of ours on data in memory."""

    def train_one(condition: Condition, seed: int, folder: Path) -> Result:
        assert isinstance(condition.change, Setting)
        setting = replace(condition.change, seed=seed)
        return train(
            setting,
            data,
            folder,
            metrics=metrics,
            stop=experiment.stop,
            moments=experiment.moments,
            probe=experiment.probe,
        )

    return train_one


def trainer_of_user(experiment: Experiment, problem: Problem, metrics: Sequence[ComplexityMetric]) -> TrainOne:
    """Train a user's module on a user's data."""

    def train_one(condition: Condition, seed: int, folder: Path) -> Result:
        assert isinstance(condition.change, Change)
        return train_user(
            problem,
            replace(condition.change, seed=seed),
            folder,
            metrics=metrics,
            stop=experiment.stop,
            moments=experiment.moments,
            probe=experiment.probe,
        )

    return train_one


def folder_of(condition: Condition, seed: int, output: Path) -> Path:
    """Of one network of an experiment."""
    return output / "networks" / f"{re.sub(r'[^a-z0-9]+', '-', condition.name.lower())}-seed-{seed}"


def run(
    experiment: Experiment,
    train_one: TrainOne,
    metrics: Sequence[ComplexityMetric],
    output: Path,
    *,
    num_seeds: int,
    published: Path | None = None,
) -> Report:
    """Train the networks of an experiment that are not there yet, and compare all.

    What cannot be trained is named, and the others go on. Only networks of which the last judgement fulfils the
    criterion are compared.

    Args:
        experiment: What to train.
        train_one: Trains a network, or reads the result of a finished one.
        metrics: What is measured.
        output: Folder of the experiment: ``networks/``, ``verdicts.csv``, ``networks.csv`` and pictures.
        num_seeds: Networks of each condition.
        published: Published curves to draw beside those of widths.

    Raises:
        ImportError: Without matplotlib.
        ValueError: If none of the networks could be trained, with the first reason; if a folder has the result of
            something else.
    """
    figure_class()  # what pictures need is missed before anything is trained
    output.mkdir(parents=True, exist_ok=True)
    results, excluded = _trained(experiment, train_one, output, num_seeds)
    if not results:
        raise ValueError(f"none of the networks could be trained. The first {next(iter(excluded.values()))}")
    reasons = {key: why_excluded(result, experiment.stop) for key, result in results.items()}
    excluded |= {key: reason for key, reason in reasons.items() if reason is not None}
    reached = {key: result for key, result in results.items() if reasons[key] is None}
    errors = {k: 1 - r.end.test.accuracy for k, r in reached.items() if r.end.test.accuracy is not None}
    expectations = experiment.expectations(errors)
    quantities = [*TRAINING, *map(quantity_of, metrics)]
    rows = compare(reached, expectations, quantities, experiment.moments, every_group=experiment.every_group)
    files = _write(experiment, results, reached, excluded, rows, metrics, output)
    if published is not None:
        files += _write_published(experiment, reached, published, output)
    text = _text(experiment, results, excluded, rows, len(expectations), num_seeds)
    return Report(rows, results, excluded, text, files)


def _trained(
    experiment: Experiment, train_one: TrainOne, output: Path, num_seeds: int
) -> tuple[dict[tuple[str, int], Result], dict[tuple[str, int], str]]:
    """All networks, and why some could not be trained; finished ones first, so that the time left is that of others."""
    results: dict[tuple[str, int], Result] = {}
    failed: dict[tuple[str, int], str] = {}
    cases = [(c, seed, folder_of(c, seed, output)) for c, seed in experiment.cases(num_seeds)]
    finished = [case for case in cases if (case[2] / RESULT_NAME).exists()]
    missing = [case for case in cases if case not in finished]
    for condition, seed, folder in finished:
        results[condition.name, seed] = train_one(condition, seed, folder)
    with tqdm(total=len(cases), initial=len(finished), desc=experiment.name, unit="network", smoothing=0) as bar:
        for condition, seed, folder in missing:
            bar.set_postfix_str(f"{condition.name}, seed {seed}")
            try:
                results[condition.name, seed] = train_one(condition, seed, folder)
            except Exception as error:  # of a user's own code, it may be any
                failed[condition.name, seed] = f"could not be trained. {type(error).__name__}: {error}"
            bar.update()
    return results, failed


def _write(
    experiment: Experiment,
    results: Results,
    reached: Results,
    excluded: dict[tuple[str, int], str],
    rows: list[Row],
    metrics: Sequence[ComplexityMetric],
    output: Path,
) -> list[Path]:
    verdicts, networks, levels, curves = (
        output / name for name in ("verdicts.csv", "networks.csv", "levels.png", "curves.png")
    )
    tables.write_rows(verdicts, tables.verdict_rows(experiment.name, rows))
    tables.write_rows(networks, tables.network_rows(results, excluded))
    files = [verdicts, networks]
    measured = [m for m in metrics if any(m.name in result.end.measures for result in reached.values())]
    if reached:
        pictures.picture_of_levels(experiment, reached, measured).savefig(levels, dpi=110)
        files.append(levels)
    first = {c.name: folder_of(c, 0, output) for c in experiment.conditions if (c.name, 0) in reached}
    if first and measured:
        histories = {name: read_record(folder) for name, folder in first.items()}
        plot_histories(histories, [metric.name for metric in measured]).savefig(curves, dpi=110)
        files.append(curves)
    if experiment.name == "width" and reached:
        gap = output / "gap.png"
        pictures.picture_of_gap(reached).savefig(gap, dpi=110)
        files.append(gap)
    return files


def _write_published(experiment: Experiment, reached: Results, published: Path, output: Path) -> list[Path]:
    rows, figure = pictures.beside_published(experiment, reached, published)
    table, picture = output / "published.csv", output / "published.png"
    tables.write_rows(table, rows)
    figure.savefig(picture, dpi=110)
    return [table, picture]


def _text(
    experiment: Experiment,
    results: Results,
    excluded: dict[tuple[str, int], str],
    rows: list[Row],
    num_expectations: int,
    num_seeds: int,
) -> str:
    parts = [
        f"Trained until {experiment.stop}, at most {experiment.stop.max_steps:,} steps; means over seeds:",
        tables.networks_table(experiment, results),
    ]
    if excluded:
        named = [f"  {name}, seed {seed}: {reason}" for (name, seed), reason in excluded.items()]
        parts.append("\n".join([f"Left out of the comparison, {len(excluded)} networks:", *named]))
    parts.append(f"A measure passes if it is {experiment.criterion}.\n{_HOW}")
    parts.append(tables.verdicts_table(rows) if rows else "There is nothing to compare.")
    notes = [f"  {row.measure}, {row.point}: {row.verdict.reason}" for row in rows if row.verdict.is_by_pairs]
    if notes:
        parts.append("\n".join(["Not by the interval, but by its pairs:", *notes]))
    if not num_expectations:
        parts.append("No two conditions differ in test error by more than its standard error over seeds.")
    if num_seeds < 2:
        parts.append("With one seed there is no interval, and every verdict is inconclusive: use --seeds 3 or more.")
    return "\n\n".join(parts)


_HOW = (
    "Beside each verdict, how much higher it is where it should be, with the 95 % interval over seeds: as a factor, "
    "above x 1 for\na pass, or in standard deviations of all values, above 0 for a pass."
)
