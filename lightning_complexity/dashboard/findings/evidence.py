"""What a run's history says, in a form that rules can read: clean curves, and how far chance moves their values."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeGuard

import numpy as np
import numpy.typing as npt

from lightning_complexity.dashboard.events import MEASURED
from lightning_complexity.dashboard.runs import OVERHEAD, STANDARD_ERROR, TRAIN_ACCURACY, TRAIN_LOSS, Run
from lightning_complexity.recording import Measurement

Floats = npt.NDArray[np.float64]

VAL_LOSS, VAL_ACCURACY = "probe/val_loss", "probe/val_accuracy"
TINY = 1e-300
"""What is divided by instead of zero."""
DEFAULT_PROBE = 256
"""Samples of a monitor's probe unless it is told otherwise."""
LARGEST_PROBE = 4096
SURE = 0.99
"""No confidence is above it: a rule can be wrong about what it does not see."""


@dataclass(frozen=True)
class Curve:
    """The finite values of one log key, in the order of steps.

    Attributes:
        steps: Completed optimizer steps, increasing.
        values: One a step.
    """

    steps: Floats
    values: Floats

    def __len__(self) -> int:
        return len(self.values)

    @property
    def first(self) -> float:
        """The first value."""
        return float(self.values[0])

    @property
    def last(self) -> float:
        """The last value."""
        return float(self.values[-1])

    @cached_property
    def noise(self) -> float:
        r"""How far a value is from where its neighbours say it is: a standard deviation, robust against jumps.

        .. math:: \frac{\mathrm{median}_i |v_{i-1} - 2 v_i + v_{i+1}|}{0.6745 \sqrt 6}

        which a straight line does not contribute to. 0 with fewer than four values.
        """
        if len(self) < 4:
            return 0.0
        with np.errstate(all="ignore"):
            spread = float(np.median(np.abs(np.diff(self.values, 2)))) / (0.6745 * math.sqrt(6))
        return spread if math.isfinite(spread) else 0.0

    @property
    def error(self) -> float | None:
        """The noise, where there are enough values to know it."""
        return self.noise if len(self) >= 4 else None

    def since(self, step: float) -> Curve:
        """The part from a step on."""
        kept = self.steps >= step
        return Curve(self.steps[kept], self.values[kept])


def common(one: Curve, other: Curve) -> tuple[Curve, Curve]:
    """The parts of two curves that were measured at the same steps."""
    _, first, second = np.intersect1d(one.steps, other.steps, return_indices=True)
    return Curve(one.steps[first], one.values[first]), Curve(other.steps[second], other.values[second])


def certainty(z: float) -> float:
    """Probability, at most :data:`SURE`, that a normal number is below ``z`` standard deviations.

    Example:
        >>> round(certainty(1.0), 2), certainty(float("inf"))
        (0.84, 0.99)
    """
    return 0.5 if math.isnan(z) else min(SURE, 0.5 * (1 + math.erf(z / math.sqrt(2))))


def share_error(share: float, number: int) -> float:
    r"""Standard error of a share of samples, with one success and one failure more than were seen.

    .. math:: \sqrt{p (1 - p) / n}, \quad p = (k + 1) / (n + 2)

    so that 0 of 10 is not without an error.
    """
    p = (share * number + 1) / (number + 2)
    return math.sqrt(max(p * (1 - p), 0.0) / number)


class Evidence:
    """One run, as rules see it.

    Args:
        run: With a history in any order, of any values.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.name = run.name
        by_step: dict[int, Measurement] = {}
        for measurement in (m for m in run.history if is_finite(m.step)):
            old = by_step.get(measurement.step)
            if old is not None:
                measurement = Measurement(
                    old.step, measurement.epoch, measurement.time, {**old.values, **measurement.values}
                )
            by_step[measurement.step] = measurement
        self.history = [by_step[step] for step in sorted(by_step)]
        self._curves: dict[str, Curve] = {}

    @cached_property
    def keys(self) -> frozenset[str]:
        """All log keys."""
        return frozenset().union(*(m.values for m in self.history))

    @cached_property
    def is_measured(self) -> bool:
        """Whether there is anything of the network, and not only how long that took."""
        return any(key.startswith(MEASURED) and key != OVERHEAD for key in self.keys)

    @cached_property
    def last_step(self) -> int:
        """The last step at which anything was measured; 0 without a history."""
        return self.history[-1].step if self.history else 0

    def curve(self, key: str) -> Curve:
        """The finite values of a log key; empty where there are none."""
        if key not in self._curves:
            values = self._numbers(key)
            kept = np.isfinite(values)
            self._curves[key] = Curve(self._steps[kept], values[kept])
        return self._curves[key]

    @cached_property
    def _steps(self) -> Floats:
        return np.array([m.step for m in self.history], dtype=float)

    def _numbers(self, key: str) -> Floats:
        """Of each moment; ``nan`` where there is none."""
        values = [m.values.get(key, math.nan) for m in self.history]
        try:
            numbers = np.array(values, dtype=float)
        except (TypeError, ValueError, OverflowError):
            numbers = np.empty((0, 0))
        if numbers.ndim == 1:
            return numbers
        return np.array([value if is_finite(value) else math.nan for value in values], dtype=float)  # no monitor's

    def initial(self, key: str) -> float | None:
        """The value at the first moment of all, where that is the initial network's."""
        curve = self.curve(key)
        return curve.first if len(curve) and curve.steps[0] == self.history[0].step == 0 else None

    def first_not_finite(self, key: str) -> int | None:
        """The first step at which a log key is ``nan`` or infinite, if there is one."""
        return next((m.step for m in self.history if key in m.values and not is_finite(m.values[key])), None)

    def parts(self, measure: str) -> dict[str, Curve]:
        """The curves of a measure's layers, by their names, where it was measured for each."""
        start = f"complexity/{measure}/"
        keys = sorted(key for key in self.keys if key.startswith(start) and not key.endswith(STANDARD_ERROR))
        return {key.removeprefix(start): curve for key in keys if len(curve := self.curve(key))}

    @cached_property
    def train_loss(self) -> Curve:
        """Of the probe of training samples."""
        return self.curve(TRAIN_LOSS)

    @cached_property
    def val_loss(self) -> Curve:
        """Of the probe of validation samples."""
        return self.curve(VAL_LOSS)

    @cached_property
    def train_accuracy(self) -> Curve:
        """Of the probe of training samples; empty for regression."""
        return self._accuracy(TRAIN_ACCURACY, TRAIN_LOSS)

    @cached_property
    def val_accuracy(self) -> Curve:
        """Of the probe of validation samples; empty for regression."""
        return self._accuracy(VAL_ACCURACY, VAL_LOSS)

    def _accuracy(self, key: str, loss: str) -> Curve:
        """Without what is no share, and without moments of a loss that is nan: outputs are, and all of one class."""
        curve, losses = self.curve(key), ((m.step, m.values.get(loss)) for m in self.history)
        steps = [step for step, value in losses if isinstance(value, float) and math.isnan(value)]
        kept = (curve.values >= 0) & (curve.values <= 1) & ~np.isin(curve.steps, steps)
        return curve if kept.all() else Curve(curve.steps[kept], curve.values[kept])

    def accuracy_error(self, accuracy: float, key: str = TRAIN_ACCURACY) -> float:
        """Binomial standard error of an accuracy on the samples of its probe."""
        return share_error(accuracy, self._num_samples(key))

    def _num_samples(self, key: str) -> int:
        """The fewest samples of which all values can be shares: at least so many there were."""
        values = np.unique(self.curve(key).values)
        values = values[(values > 0) & (values < 1)]
        if len(values) < 3:
            return DEFAULT_PROBE
        numbers = np.arange(2, LARGEST_PROBE + 1)[:, None]
        products = values[:16] * numbers
        fits = (np.abs(products - np.round(products)) < 1e-6 * numbers).all(1)  # accuracies are single precision
        return int(numbers[fits][0, 0]) if fits.any() else DEFAULT_PROBE

    @cached_property
    def progress(self) -> float | None:
        """The share of the initial training loss that is gone at the end, if the loss is a positive one."""
        loss = self.train_loss
        return 1 - loss.last / loss.first if len(loss) >= 2 and loss.first > 0 else None

    @cached_property
    def learned(self) -> bool:
        """Whether at least half of the initial training loss is gone at the end."""
        return self.progress is not None and self.progress >= 0.5

    def setting(self, *names: str) -> float | None:
        """A number among the hyper-parameters, by the last word of its name."""
        for name, value in self.run.settings.items():
            if name.rsplit(".", 1)[-1] in names and is_finite(value):
                return float(value)
        return None


def is_finite(value: object) -> TypeGuard[float]:
    """Whether something is a finite number."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def number(value: float) -> str:
    """Three digits, for sentences.

    Example:
        >>> number(0.12345), number(123456.0), number(5.0)
        ('0.123', '1.23e+05', '5')
    """
    return f"{value:.3g}"


def with_error(value: float, error: float | None) -> str:
    """A number and, where that is known, how far chance moves it.

    Example:
        >>> with_error(1.0, 0.25), with_error(1.0, None)
        ('1 +- 0.25', '1')
    """
    return number(value) if error is None else f"{number(value)} +- {number(error)}"


def percent(share: float) -> str:
    """A share in percent.

    Example:
        >>> percent(0.1234), percent(1.0), percent(12.345)
        ('12.3 %', '100 %', '1234 %')
    """
    if 10 <= share < 1e6:
        return f"{100 * share:.0f} %"
    return f"{100 * share:.3g} %"
