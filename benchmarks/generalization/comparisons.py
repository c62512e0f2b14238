"""Statistics of the study: means with intervals, paired comparisons, and a correction for how many there are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from scipy import stats

LEVEL = 0.05
HELPED, HURT, UNCLEAR = "helped", "hurt", "no difference seen"
RESOLUTION = 1e-5
"""Accuracies that differ by less are equal: no test set is so large, and tables round."""


@dataclass(frozen=True)
class Estimate:
    """Mean with its 95 % confidence interval by Student's t, and the p-value of the mean being 0."""

    mean: float
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        """Of at least two values; those that are all equal leave no spread to judge by, so that ``p`` is 1."""
        mean = fmean(values)
        if max(values) - min(values) < RESOLUTION:
            return cls(mean, mean, mean, 1.0)
        test = stats.ttest_1samp(values, 0)
        low, high = test.confidence_interval(1 - LEVEL)
        return cls(mean, float(low), float(high), float(test.pvalue))

    @classmethod
    def of_difference(cls, values: Sequence[float], reference: Sequence[float]) -> Estimate:
        """Of pairs."""
        return cls.of([value - other for value, other in zip(values, reference, strict=True)])

    def in_percent(self, form: str) -> str:
        """Mean and interval times 100."""
        return f"{100 * self.mean:{form}} [{100 * self.low:{form}}, {100 * self.high:{form}}]"


@dataclass(frozen=True)
class Comparison:
    """One method beside another on the same seeds; ``p`` is adjusted for all methods that are compared."""

    accuracy: Estimate
    difference: Estimate
    p: float

    @property
    def verdict(self) -> str:
        """What the adjusted p-value allows to say."""
        if self.p >= LEVEL:
            return UNCLEAR
        return HELPED if self.difference.mean > 0 else HURT

    @property
    def points(self) -> str:
        """The mean difference in percentage points."""
        return f"{100 * self.difference.mean:+.1f}"


def compared(accuracies: Mapping[str, Sequence[float]], reference: Sequence[float]) -> dict[str, Comparison]:
    """Every method beside the one whose accuracies are the reference, seed by seed."""
    differences = {name: Estimate.of_difference(values, reference) for name, values in accuracies.items()}
    adjusted = holm({name: difference.p for name, difference in differences.items()})
    return {name: Comparison(Estimate.of(accuracies[name]), differences[name], adjusted[name]) for name in accuracies}


def holm(p_values: Mapping[str, float]) -> dict[str, float]:
    """Holm's adjusted p-values: below a level for just those hypotheses that his procedure rejects at it."""
    adjusted, largest = {}, 0.0
    for rank, name in enumerate(sorted(p_values, key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[name]))
        adjusted[name] = largest
    return adjusted
