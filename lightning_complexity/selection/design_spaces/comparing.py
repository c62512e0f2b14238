"""Which of two spaces has the better networks: as they are, and at equal complexity."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from lightning_complexity.selection.design_spaces.distances import Difference, Estimate, difference
from lightning_complexity.selection.design_spaces.distributions import (
    FEW,
    Bins,
    Floats,
    common_bins,
    normalizing_weights,
)
from lightning_complexity.selection.design_spaces.efficiency import search_efficiency
from lightning_complexity.selection.design_spaces.sampling import SpaceSample, read_space
from lightning_complexity.studies.tables import Source, counted


@dataclass(frozen=True)
class SpaceComparison:
    """Two spaces, and how their random networks differ. Its ``str`` is the verdict in words.

    Attributes:
        samples: Of the two spaces.
        plain: How errors differ as they are.
        normalized: How they differ at equal complexity, if there is one.
        bins: Of complexity.
    """

    samples: tuple[SpaceSample, SpaceSample]
    plain: Difference
    normalized: Difference | None
    bins: Bins | None

    @property
    def changes(self) -> bool:
        """Whether equal complexity leads to another conclusion."""
        return self.normalized is not None and _conclusion(self.plain) != _conclusion(self.normalized)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What makes the comparison uncertain, in words."""
        return (*_left_out(self.samples), *self._thin_bins())

    def weights(self, which: int) -> Floats | None:
        """The normalizing weights of one of the two spaces' networks, if there are bins.

        Args:
            which: 0 or 1.
        """
        complexity = self.samples[which].complexity
        return None if self.bins is None or complexity is None else normalizing_weights(complexity, self.bins)

    def efficiency(self, draws: Sequence[int] | None = None) -> pd.DataFrame:
        """The least error of k random networks of each space: :func:`search_efficiency`, with a column ``space``.

        Args:
            draws: Numbers of networks that are tried; powers of two up to the number of networks if not given.

        Returns:
            With a column ``normalized``, which is true where networks are weighted for equal complexity.
        """
        parts = []
        for which, sample in enumerate(self.samples):
            weights = self.weights(which)
            for used in (None,) if weights is None else (None, weights):
                part = search_efficiency(sample.errors, draws, weights=used)
                part.insert(0, "normalized", used is not None)
                part.insert(0, "space", sample.name)
                parts.append(part)
        return pd.concat(parts, ignore_index=True)

    def _thin_bins(self) -> list[str]:
        if self.bins is None:
            return []
        found = []
        for sample in self.samples:
            assert sample.complexity is not None
            counts = self.bins.counts(sample.complexity)
            thin = counts < FEW
            if thin.any():
                found.append(
                    f"{thin.sum()} of {len(counts)} bins have fewer than {FEW} networks of {sample.name}: "
                    f"{counts[thin].sum()} of its {counts.sum()} networks carry {thin.mean():.0%} of its weight. "
                    "Use fewer bins, or sample more there."
                )
        return found

    def __str__(self) -> str:
        first, second = self.samples
        parts = [f"{first.error} of {len(first)} networks of {first.name} and {len(second)} of {second.name}"]
        parts.append(f"As they are: {_words(self.plain, self.samples)}")
        if self.normalized is not None and self.bins is not None:
            sizes = " and ".join(
                f"{distribution.effective_size:.0f} of {size}"
                for distribution, size in zip(self.normalized.distributions, self.normalized.sizes, strict=True)
            )
            parts.append(
                f"At equal {first.complexity_name} ({self.bins.describe()}; effective sample sizes {sizes}): "
                + _words(self.normalized, self.samples)
            )
            same = "The conclusion changes with" if self.changes else "The conclusion is the same at equal"
            change = (
                f": {_short(self.plain, self.samples)} as they are, {_short(self.normalized, self.samples)} at equal"
            )
            parts.append(
                f"{same} {first.complexity_name}{f'{change} {first.complexity_name}' if self.changes else ''}."
            )
        parts += [f"Beware: {warning}" for warning in self.warnings]
        return "\n".join(parts)


def compare_spaces(
    first: Source | SpaceSample,
    second: Source | SpaceSample,
    *,
    error: str = "error",
    complexity: str | None = None,
    bins: int | None = None,
    logarithmic: bool = False,
    within: tuple[float, float] | None = None,
    names: tuple[str, str] | None = None,
    confidence: float = 0.95,
    draws: int = 1000,
    seed: int = 0,
) -> SpaceComparison:
    r"""Compare two spaces by the errors of random networks, as they are and at equal complexity.

    A space whose networks are larger may have lower errors for that alone. At equal complexity, networks have the
    weights of :func:`normalizing_weights`, with which both spaces are spread evenly over the range of complexity that
    they have in common. A bin should be narrow enough that, within it, complexity makes no difference to the error.

    A difference is shown if the Kolmogorov-Smirnov distance is larger than chance makes it, by a permutation test; a
    space is better if, beside that, the interval of the chance that its random network has the lower error lies above
    one half. Spaces whose distributions cross can differ without either being better.

    Args:
        first: A frame, a CSV, a folder of records, or what :func:`read_space` read.
        second: Likewise.
        error: Column of what should be small.
        complexity: Column of parameters, FLOPs, latency or any measure; without, spaces are compared as they are only.
        bins: How many bins of complexity; if not given, as many, up to ten, as each have five networks of both spaces.
        logarithmic: Whether bins are of equal ratios and not of equal differences. The conclusion may depend on it.
        within: Range of complexity; that which both spaces have if not given.
        names: Of the spaces.
        confidence: Of intervals and tests.
        draws: Permutations and bootstrap samples.
        seed: Of random numbers.

    Raises:
        FileNotFoundError: If there is no such file or folder.
        ValueError: If a column is missing or holds words, no network is left, a bin is empty, or an option is out of
            range.

    References:
        Radosavovic, Johnson, Xie, Lo and Dollár, On Network Design Spaces for Visual Recognition, ICCV 2019. Interval
        and test are ours; see :func:`~lightning_complexity.selection.design_spaces.distances.difference`.

    Example:
        >>> import pandas as pd
        >>> generator = np.random.default_rng(0)
        >>> small, large = generator.uniform(1, 8, 200), generator.uniform(4, 12, 200)
        >>> spaces = [pd.DataFrame({"error": 1 / size, "size": size}) for size in (small, large)]
        >>> found = compare_spaces(*spaces, complexity="size", names=("A", "B"))
        >>> found.plain.better, found.normalized.better, found.changes
        (1, None, True)
    """
    if not 0 < confidence < 1:
        raise ValueError(f"confidence must be between 0 and 1, got {confidence}.")
    if draws < 2 or (draws + 1) * (1 - confidence) < 1:
        least = int(np.ceil(1 / (1 - confidence)))
        raise ValueError(f"draws must be at least {least} for a confidence of {confidence:g}, got {draws}.")
    names = names or ("", "")
    samples = tuple(
        _sample(source, error, complexity, name) for source, name in zip((first, second), names, strict=True)
    )
    a, b = _named_apart(*samples)
    plain = difference(a.errors, b.errors, confidence=confidence, draws=draws, seed=seed)
    if a.complexity is None or b.complexity is None:
        return SpaceComparison((a, b), plain, None, None)
    complexities = (a.complexity, b.complexity)
    found = common_bins(complexities, bins, logarithmic=logarithmic, within=within, names=(a.name, b.name))
    normalized = difference(a.errors, b.errors, complexities, found, confidence=confidence, draws=draws, seed=seed)
    return SpaceComparison((a, b), plain, normalized, found)


def _sample(source: Source | SpaceSample, error: str, complexity: str | None, name: str) -> SpaceSample:
    if not isinstance(source, SpaceSample):
        return read_space(source, error=error, complexity=complexity, name=name or None)
    return replace(source, name=name) if name else source


def _named_apart(first: SpaceSample, second: SpaceSample) -> tuple[SpaceSample, SpaceSample]:
    if first.name != second.name:
        return first, second
    return replace(first, name=f"{first.name} 1"), replace(second, name=f"{second.name} 2")


def _left_out(samples: tuple[SpaceSample, SpaceSample]) -> list[str]:
    return [
        f"left out of {sample.name} are {counted(sample.left_out)}; trainings that diverged count as no networks so."
        for sample in samples
        if sample.left_out
    ]


def _conclusion(found: Difference) -> tuple[int | None, bool]:
    return found.better, found.is_shown


def _short(found: Difference, samples: tuple[SpaceSample, SpaceSample]) -> str:
    if found.better is not None:
        return f"{samples[found.better].name} is better"
    return "they differ without either being better" if found.is_shown else "no difference is shown"


def _words(found: Difference, samples: tuple[SpaceSample, SpaceSample]) -> str:
    """A conclusion, and the numbers that it rests on."""
    which = 1 if found.first_wins.value < 0.5 else 0
    winner, loser = samples[which], samples[1 - which]
    wins = found.first_wins if which == 0 else Estimate(*(1 - v for v in _ends(found.first_wins)))
    medians = [distribution.quantile(0.5) for distribution in found.distributions]
    shift = found.median_difference
    level = f"{100 * found.confidence:g} % interval"
    return (
        f"{_short(found, samples)}. A random network of {winner.name} has a lower {winner.error} than one of "
        f"{loser.name} with probability {wins.value:.3f} ({level} {wins.low:.3f} to {wins.high:.3f}). Medians are "
        f"{medians[0]:.4g} and {medians[1]:.4g}, which differ by {shift.value:.4g} ({shift.low:.4g} to "
        f"{shift.high:.4g}). The distributions are at most {found.distance.value:.3f} apart "
        f"({found.distance.low:.3f} to {found.distance.high:.3f}), at {found.at:.4g}; p = {found.p_value:.2g}."
    )


def _ends(estimate: Estimate) -> tuple[float, float, float]:
    return estimate.value, estimate.high, estimate.low
