"""The page of the study: every number, verdict and conclusion on it comes from the runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from statistics import fmean, median

from scipy import stats

from benchmarks.generalization.comparisons import HELPED, HURT, LEVEL, UNCLEAR, Comparison, Estimate, compared
from benchmarks.generalization.data import PROBLEMS
from benchmarks.generalization.study import Run, Study
from benchmarks.generalization.text import TEXT
from benchmarks.generalization.training import BATCH, MOMENTUM, NONE, RATE, WEIGHT_DECAY, WIDTH, Outcome
from benchmarks.report import number, table

FALL = 0.05
"""Of the validation accuracy, in tuning, that is called a loss."""
Verdicts = Mapping[str, Mapping[str, Comparison]]
"""By title of the condition, by method."""


@dataclass(frozen=True)
class Condition:
    """The runs on one data set with one share of wrong labels."""

    study: Study
    data: str
    noise: float

    @property
    def title(self) -> str:
        """For headings and columns."""
        return f"{self.data}, {f'{percent(self.noise, 0)} wrong' if self.noise else 'clean'} labels"

    def strength(self, method: str) -> float:
        """What the tuning chose."""
        return self.study.chosen(self.data, self.noise, method)

    def values(self, method: str, of: Callable[[Outcome], float]) -> list[float]:
        """One number of each final seed's network."""
        strength, seeds = self.strength(method), self.study.plan.final_seeds
        return [of(self.study.runs[Run("final", self.data, self.noise, method, strength, seed)]) for seed in seeds]

    def accuracies(self, method: str) -> list[float]:
        """On the test set."""
        return self.values(method, lambda outcome: outcome.test_accuracy)

    def comparisons(self, baseline: str = NONE) -> dict[str, Comparison]:
        """Of all other methods with one."""
        methods = [method for method in self.study.plan.methods if method != baseline]
        return compared({method: self.accuracies(method) for method in methods}, self.accuracies(baseline))

    def measure(self, method: str, trained_by: str) -> float:
        """Mean over seeds of what ``method`` holds down, on networks that were trained by one or the other."""
        return fmean(self.values(trained_by, lambda outcome: outcome.measures[method]))

    def time_ratio(self, method: str) -> float:
        """Median over seeds of the time divided by that without penalty."""
        pairs = zip(*(self.values(name, lambda outcome: outcome.seconds) for name in (method, NONE)), strict=True)
        return median(seconds / without for seconds, without in pairs)

    def training_accuracy(self, method: str) -> float:
        """Mean over seeds, on the labels that were trained on."""
        return fmean(self.values(method, lambda outcome: outcome.train_accuracy))


def conditions(study: Study) -> list[Condition]:
    """All of a study."""
    return [Condition(study, data, noise) for data, noise in study.plan.conditions]


def percent(share: float, digits: int = 1) -> str:
    """With the space that a unit has."""
    return f"{100 * share:.{digits}f} %"


def overview(study: Study) -> str:
    """Differences and verdicts of all conditions."""
    columns = {condition.title: condition.comparisons() for condition in conditions(study)}

    def row(method: str) -> list[str]:
        cells = [column[method] for column in columns.values()]
        return [method, *(f"{cell.points}, {cell.verdict}" for cell in cells)]

    return table(["method", *columns], [row(method) for method in study.plan.methods])


def results(condition: Condition) -> str:
    """The table of one condition."""

    def row(method: str, comparison: Comparison) -> list[str]:
        return [
            method,
            comparison.accuracy.in_percent(".1f"),
            comparison.difference.in_percent("+.1f"),
            "<0.001" if comparison.p < 0.001 else f"{comparison.p:.3f}",
            comparison.verdict,
            percent(condition.training_accuracy(method)),
            f"{condition.measure(method, method):.3g} ({condition.measure(method, NONE):.3g})",
            number(condition.time_ratio(method)),
        ]

    accuracy = Estimate.of(condition.accuracies(NONE)).in_percent(".1f")
    first = [NONE, accuracy, "", "", "", percent(condition.training_accuracy(NONE)), "", number(1.0)]
    header = ["method", "test accuracy, %", "difference, points", "p (Holm)", "verdict"]
    header += ["training accuracy", "measure (without)", "time"]
    return table(header, [first, *(row(*item) for item in condition.comparisons().items())])


def tuning(condition: Condition) -> str:
    """Mean validation accuracy of each multiple of the scale; that of the chosen one is bold."""
    study, (data, noise) = condition.study, (condition.data, condition.noise)
    without = f"{100 * study.validation(data, noise, NONE, 0.0):.1f}"

    def row(method: str) -> list[str]:
        chosen = condition.strength(method)
        shares = {s: f"{100 * study.validation(data, noise, method, s):.1f}" for s in study.grid(data, noise, method)}
        cells = [f"**{share}**" if strength == chosen else share for strength, share in shares.items()]
        return [method, f"{study.scale(data, noise, method):g}", without, *cells]

    header = [condition.title, "scale", "x 0", *(f"x {factor:g}" for factor in study.plan.factors)]
    return table(header, [row(method) for method in study.plan.methods])


def conclusions(study: Study) -> list[str]:
    """Sentences that follow from the verdicts."""
    verdicts: Verdicts = {condition.title: condition.comparisons() for condition in conditions(study)}
    lines = [f"**{title}**: {_by_verdict(column)}." for title, column in verdicts.items()]
    lines.append(_measures_and_verdicts(study, verdicts))
    if WEIGHT_DECAY in study.plan.methods:
        beside = {condition.title: condition.comparisons(WEIGHT_DECAY) for condition in conditions(study)}
        better, worse = ("; ".join(_found(beside, verdict)) or "none" for verdict in (HELPED, HURT))
        lines.append(f"Compared with weight decay in the same way, better were: {better}. Worse were: {worse}.")
    edges = [edge for condition in conditions(study) for edge in _edges(condition)]
    return [*lines, f"Chosen at an end of the grid: {'; '.join(edges) or 'none'}.", _too_strong(study)]


def _by_verdict(column: Mapping[str, Comparison]) -> str:
    """The methods in descending order of the difference."""
    ordered = sorted(column, key=lambda method: -column[method].difference.mean)
    parts = []
    for verdict in (HELPED, UNCLEAR, HURT):
        found = [f"{method} ({column[method].points})" for method in ordered if column[method].verdict == verdict]
        if found:
            parts.append(f"{verdict}: {', '.join(found)}")
    return "; ".join(parts)


def _found(verdicts: Verdicts, verdict: str) -> list[str]:
    return [
        f"{method} on {title} ({comparison.points})"
        for title, column in verdicts.items()
        for method, comparison in column.items()
        if comparison.verdict == verdict
    ]


def _measures_and_verdicts(study: Study, verdicts: Verdicts) -> str:
    cases = [(condition, method) for condition in conditions(study) for method in study.plan.methods]
    higher = [f"{method} on {condition.title}" for condition, method in cases if not _is_lower(condition, method)]
    found = [verdicts[condition.title][method].verdict for condition, method in cases if _is_lower(condition, method)]
    return (
        f"What a method penalises was lower than without it in {len(found)} of {len(cases)} cases. The method helped "
        f"in {found.count(HELPED)} of these {len(found)}, and hurt in {found.count(HURT)}. "
        f"It was not lower for: {'; '.join(higher) or 'none'}."
    )


def _is_lower(condition: Condition, method: str) -> bool:
    return condition.measure(method, method) < condition.measure(method, NONE)


def _edges(condition: Condition) -> list[str]:
    study, found = condition.study, []
    for method in study.plan.methods:
        grid = study.grid(condition.data, condition.noise, method)
        ends = {grid[0]: "lowest", grid[-1]: "highest"}
        if end := ends.get(condition.strength(method)):
            found.append(f"{method} on {condition.title} ({end})")
    return found


def _too_strong(study: Study) -> str:
    falls = [
        study.validation(data, noise, NONE, 0.0) - study.validation(data, noise, method, strength)
        for data, noise in study.plan.conditions
        for method in study.plan.methods
        for strength in study.grid(data, noise, method)
    ]
    return (
        f"The strength matters: {sum(fall > FALL for fall in falls)} of the {len(falls)} strengths tried in tuning "
        f"lost more than {100 * FALL:g} points of validation accuracy."
    )


def page(study: Study) -> str:
    """The whole page."""
    plan = study.plan
    of_study = conditions(study)
    return TEXT.format(
        overview=overview(study),
        conclusions="\n".join(f"- {line}" for line in conclusions(study)),
        results="\n\n".join(f"### {condition.title}\n\n{results(condition)}" for condition in of_study),
        tables="\n\n".join(map(tuning, of_study)),
        sizes="; ".join(map(_sizes, plan.data)),
        factors=", ".join(f"{factor:g}" for factor in plan.factors),
        needed=stats.t.isf(LEVEL / len(plan.methods) / 2, len(plan.final_seeds) - 1),
        tuning=len(plan.tuning_seeds),
        final=len(plan.final_seeds),
        methods=len(plan.methods),
        steps=plan.steps,
        width=WIDTH,
        batch=BATCH,
        rate=RATE,
        momentum=MOMENTUM,
    )


def _sizes(data: str) -> str:
    problem = PROBLEMS[data]
    return f"{data} {problem.train:,} to train, {problem.validation:,} to validate, {problem.test:,} to test"
