"""The simplest model within one standard error of the best. Needs no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lightning_complexity.selection.pareto import Floats, check_direction, numbers_of

SAME_SCORE = 1e-12
"""How far beyond the bound, relatively, a score may be by rounding."""


@dataclass(frozen=True)
class Model:
    """One of the models that were compared: its row, name, score and cost."""

    row: int
    name: str
    score: float
    cost: float


@dataclass(frozen=True)
class Choice:
    """Which model the rule chose, and from what.

    Attributes:
        chosen: The cheapest of the models within the bound.
        best: The model with the best score.
        standard_error: Of the best model's score.
        bound: The worst score that is within one standard error of the best.
        within: Rows of all models within the bound, in the order in which they came.
        compared: How many models were compared.
        left_out: Rows whose score or cost is not finite.
        direction: Of the score.
        score: What the score is called.
        cost: What the cost is called.
    """

    chosen: Model
    best: Model
    standard_error: float
    bound: float
    within: tuple[int, ...]
    compared: int
    left_out: tuple[int, ...]
    direction: str
    score: str
    cost: str

    @property
    def sentence(self) -> str:
        """Which model was chosen, and why."""
        best, chosen = self.best, self.chosen
        sign = "+" if self.direction == "minimize" else "-"
        limit = f"{_text(best.score)} {sign} {_text(self.standard_error)} = {_text(self.bound)}"
        if chosen.row == best.row:
            text = (
                f"{chosen.name} is chosen: its {self.score} of {_text(best.score)} is the best of {self.compared}, "
                f"and no model with less {self.cost} than {_text(chosen.cost)} is within one standard error of it "
                f"({limit})."
            )
        else:
            text = (
                f"{chosen.name} is chosen: with {self.cost} {_text(chosen.cost)} it is the simplest of "
                f"{len(self.within)} of {self.compared} models whose {self.score} is within one standard error of the "
                f"best ({limit}); its {self.score} is {_text(chosen.score)}, and the best, {best.name}, has "
                f"{self.cost} {_text(best.cost)}."
            )
        return text + (f" Left out as not finite: {len(self.left_out)}." if self.left_out else "")


def simplest_within_one_standard_error(
    scores: Sequence[float] | Sequence[Sequence[float]],
    costs: Sequence[float],
    *,
    standard_errors: Sequence[float] | None = None,
    direction: str = "minimize",
    names: Sequence[str] | None = None,
    score: str = "error",
    cost: str = "cost",
) -> Choice:
    r"""Choose the cheapest model whose score is within one standard error of the best.

    For an error that is to be small, the model of least cost among those with

    .. math:: \bar e_m \le \min_k \bar e_k + \mathrm{SE}(\bar e_{k^*}), \qquad \mathrm{SE} = s / \sqrt n,

    where :math:`k^*` is the model with the smallest error and :math:`s` the standard deviation, with :math:`n - 1`, of
    its :math:`n` repeats over seeds or folds. A score at the bound is within it. Of equally cheap models the one with
    the better score is chosen, of equally good ones the first; of several best models the cheapest gives the bound.

    Models with a score, a repeat or a cost that is not finite are left out and counted: the mean over the trainings
    that did not diverge would flatter a model. A standard error of zero leaves the best models only. Folds share data,
    so that the standard error over them is too small; the authors of the rule use it so, as a rule and not as a test.

    Args:
        scores: One number a model; or its repeats, two or more, whose numbers may differ.
        costs: Parameters, FLOPs, latency or any measure, that is to be small; one number a model.
        standard_errors: One number a model, if ``scores`` are no repeats. Only that of the best model counts.
        direction: Of the score: ``"minimize"`` or ``"maximize"``. Costs are to be small.
        names: Of the models; ``"row 0"``, ... if not given.
        score: What the score is called in the sentence.
        cost: What the cost is called in the sentence.

    Raises:
        ValueError: If lengths differ, no model is left, the best model's standard error is unknown or negative, or
            repeats and standard errors are both given or both missing.
        TypeError: If scores or costs are no numbers.

    References:
        Breiman, Friedman, Olshen and Stone, Classification and Regression Trees, Wadsworth 1984, section 3.4.3, for the
        size of a tree. Hastie, Tibshirani and Friedman, The Elements of Statistical Learning, 2nd ed., section 7.10.

    Example:
        >>> choice = simplest_within_one_standard_error(
        ...     [0.12, 0.053, 0.050], [100, 1000, 9000], standard_errors=[0.01, 0.004, 0.005], cost="parameters"
        ... )
        >>> choice.sentence
        'row 1 is chosen: with parameters 1,000 it is the simplest of 2 of 3 models whose error is within one standard
        error of the best (0.05 + 0.005 = 0.055); its error is 0.053, and the best, row 2, has parameters 9,000.'
    """
    check_direction(direction)
    means, errors = _means_and_errors(scores, standard_errors)
    prices = _numbers(costs, "costs")
    labels = [f"row {row}" for row in range(len(means))] if names is None else [str(name) for name in names]
    for given, what in ((prices, "costs"), (labels, "names")):
        if len(given) != len(means):
            raise ValueError(f"{what} must be one for each of {len(means)} models, got {len(given)}.")
    finite = np.isfinite(means) & np.isfinite(prices)
    if not finite.any():
        raise ValueError(f"at least one model must have a finite {score} and {cost}, got none of {len(means)}.")
    rows = np.flatnonzero(finite)
    losses = means if direction == "minimize" else -means
    best = min(rows.tolist(), key=lambda row: (losses[row], prices[row]))
    error = float(errors[best])
    if not (np.isfinite(error) and error >= 0):
        raise ValueError(
            f"the standard error of the best model, {labels[best]}, must be a number that is not negative, got "
            f"{error}: repeat it with other seeds or folds, or leave it out."
        )
    bound = losses[best] + error
    within = [row for row in rows.tolist() if losses[row] <= bound + SAME_SCORE * abs(bound)]
    chosen = min(within, key=lambda row: (prices[row], losses[row]))

    def model(row: int) -> Model:
        return Model(row, labels[row], float(means[row]), float(prices[row]))

    return Choice(
        chosen=model(chosen),
        best=model(best),
        standard_error=error,
        bound=float(bound if direction == "minimize" else -bound),
        within=tuple(within),
        compared=len(rows),
        left_out=tuple(np.flatnonzero(~finite).tolist()),
        direction=direction,
        score=score,
        cost=cost,
    )


def mean_and_standard_error(repeats: Sequence[float] | Floats) -> tuple[float, float]:
    r"""Mean of repeats, and its standard error :math:`s / \sqrt n`; NaN for one repeat, both NaN if any is not finite.

    >>> mean_and_standard_error([1.0, 3.0])
    (2.0, 1.0)
    """
    values = np.asarray(repeats, dtype=float)
    if not len(values) or not np.isfinite(values).all():
        return float("nan"), float("nan")
    with np.errstate(over="ignore", invalid="ignore"):  # of repeats beyond 1e150, about to diverge
        error = float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")
        return float(values.mean()), error


def _means_and_errors(scores: Any, standard_errors: Sequence[float] | None) -> tuple[Floats, Floats]:
    entries = _listed(scores, "scores")
    lengths = {np.ndim(entry) for entry in entries}
    if len(lengths) > 1:
        raise ValueError("scores must be one number for every model, or repeats for every model, got both.")
    if lengths == {1}:
        if standard_errors is not None:
            raise ValueError(
                "standard_errors are computed from repeats: give the mean scores with them, or leave them out."
            )
        pairs = [mean_and_standard_error(_numbers(entry, "scores")) for entry in entries]
        return np.array([pair[0] for pair in pairs]), np.array([pair[1] for pair in pairs])
    if standard_errors is None:
        raise ValueError("standard_errors are needed where scores are one number a model; or give the repeats of each.")
    means, errors = _numbers(entries, "scores"), _numbers(standard_errors, "standard_errors")
    if len(means) != len(errors):
        raise ValueError(f"standard_errors must be one for each of {len(means)} models, got {len(errors)}.")
    return means, errors


def _listed(values: Any, name: str) -> list[Any]:
    try:
        return list(values)
    except TypeError as error:
        raise TypeError(f"{name} must be a sequence with an entry for each model, got {values!r}.") from error


def _numbers(values: Any, name: str) -> Floats:
    numbers = numbers_of(_listed(values, name), name)
    if numbers.ndim != 1:
        raise ValueError(f"{name} must be one number a model, got shape {numbers.shape}.")
    return numbers


def _text(value: float) -> str:
    """Four digits, and thousands of whole numbers apart.

    >>> _text(12345.0), _text(0.0123456), _text(1e9)
    ('12,345', '0.01235', '1,000,000,000')
    """
    return f"{value:,.0f}" if value == round(value) and abs(value) < 1e12 else f"{value:.4g}"
