"""How far two measures together explain the gap, against one."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from lightning_complexity.studies.ranking.design import Design, Floats, Ints
from lightning_complexity.studies.tables import Table

_SAME_DIRECTION = 1e-9


def rank_pairs(
    table: Table,
    *,
    hold_out: str | None = None,
    folds: int = 5,
    repeats: int = 5,
    draws: int = 500,
    confidence: float = 0.95,
    random_seed: int = 0,
) -> pd.DataFrame:
    r"""Predict the gap from one measure and from two, on configurations that the prediction has not seen.

    The gap is fitted by least squares to the rank of one measure among the networks fitted to, or to the ranks of
    two, with an intercept; signs are free. :math:`R^2 = 1 - \sum (g - \hat g)^2 / \sum (g - \bar g)^2` over networks
    that were held out, :math:`\bar g` being the mean of those fitted to; it is negative where a measure misleads.
    Ranks make it independent of monotone transforms of a measure.

    Args:
        table: Of :func:`~lightning_complexity.studies.read_table`, without missing values.
        hold_out: A hyper-parameter: each of its values is held out once. Configurations in ``folds`` random folds
            if not given: no configuration is in both parts, but its neighbours in a grid are.
        folds: How many.
        repeats: How often configurations are divided anew.
        draws: Of configurations, for the interval of the gain.
        confidence: Of that interval.
        random_seed: Of folds and draws.

    Returns:
        A row a pair, the best first: ``first``, ``second``, ``r2_first``, ``r2_second``, ``r2_together``, and
        ``gain``, what is gained over the better one of the two, with ``low`` and ``high``. The intervals are those of
        single pairs: the best of many pairs is partly so by chance.

    Raises:
        ValueError: If a measure is not finite somewhere, if there are fewer than two, if ``hold_out`` is no
            hyper-parameter, or if there are fewer configurations than folds.
    """
    names, design = table.measures, Design.of(table)
    values, gap = table.frame[list(names)].to_numpy(float), table.frame[table.gap].to_numpy(float)
    if len(names) < 2:
        raise ValueError(f"pairs need at least two measures, got {len(names)}.")
    if not np.isfinite(values).all():
        raise ValueError("pairs need measures that are finite in all rows: read the table with missing='rows'.")
    pairs = list(combinations(range(len(names)), 2))
    first, second = np.array(pairs).T
    generator = np.random.default_rng(random_seed)
    errors = np.zeros((len(design.codes), 1 + len(names) + len(pairs)))  # of the mean, of one, of two
    for parts in _divisions(design, hold_out, folds, repeats, generator):
        for part in np.unique(parts):
            held = (parts == part)[design.configuration]
            squares = _held_out_errors(values, gap, held, first, second)
            np.add.at(errors, design.configuration[held], squares)
    drawn = generator.multinomial(len(errors), np.full(len(errors), 1 / len(errors)), size=draws).astype(float)
    total = _explained(errors.sum(0, keepdims=True), len(names), first, second)
    gains = _explained(drawn @ errors, len(names), first, second)[3]
    low, high = np.quantile(gains, [(1 - confidence) / 2, (1 + confidence) / 2], axis=0)
    frame = pd.DataFrame(
        {
            "first": [names[i] for i in first],
            "second": [names[i] for i in second],
            **{k: v[0] for k, v in zip(("r2_first", "r2_second", "r2_together", "gain"), total, strict=True)},
            "low": low,
            "high": high,
        }
    )
    # Pairs that differ by rounding alone stay in their order, which then is the same on all machines.
    order = frame["r2_together"].round(9).sort_values(ascending=False, kind="stable").index
    return frame.loc[order].reset_index(drop=True)


def _divisions(
    design: Design, hold_out: str | None, folds: int, repeats: int, generator: np.random.Generator
) -> list[Ints]:
    """The part of each configuration, for each division."""
    if hold_out is not None:
        if hold_out not in design.names:
            raise ValueError(f"hold_out must be one of {', '.join(design.names)}, got {hold_out!r}.")
        return [design.codes[:, design.names.index(hold_out)]]
    count = len(design.codes)
    if not 2 <= folds <= count:
        raise ValueError(f"folds must be between 2 and the number of configurations, {count}, got {folds}.")
    return [generator.permutation(np.arange(count) % folds) for _ in range(max(1, repeats))]


def _held_out_errors(values: Floats, gap: Floats, held: np.ndarray, first: Ints, second: Ints) -> Floats:
    """Squared errors of the mean, of each measure and of each pair, for the runs held out."""
    seen, mean = values[~held], gap[~held].mean()
    ranks = np.stack([rankdata(column) for column in seen.T], axis=1) / len(seen)
    centre = ranks.mean(0)
    own = (np.stack([_rank_in(*columns) for columns in zip(seen.T, values[held].T, strict=True)], axis=1)) - centre
    ranks -= centre
    gram, products = ranks.T @ ranks, ranks.T @ (gap[~held] - mean)
    size = np.diag(gram)
    one = np.divide(products, size, out=np.zeros_like(products), where=size > _SAME_DIRECTION)
    # The second measure counts by what of it is not in the first.
    share = np.divide(gram[first, second], size[first], out=np.zeros(len(first)), where=size[first] > _SAME_DIRECTION)
    new = size[second] - share * gram[first, second]
    by_second = np.divide(
        products[second] - share * products[first],
        new,
        out=np.zeros(len(first)),
        where=new > _SAME_DIRECTION * np.maximum(size[second], 1.0),
    )
    by_first = one[first] - share * by_second
    rest = gap[held] - mean
    together = own[:, first] * by_first + own[:, second] * by_second
    return (rest[:, None] - np.column_stack([np.zeros(len(rest)), own * one, together])) ** 2


def _rank_in(seen: Floats, values: Floats) -> Floats:
    """Ranks of values among those seen, as a share; means of ties."""
    ordered = np.sort(seen)
    places = np.searchsorted(ordered, values, "left") + np.searchsorted(ordered, values, "right")
    return (places + 1) / 2 / len(seen)


def _explained(errors: Floats, num_measures: int, first: Ints, second: Ints) -> tuple[Floats, Floats, Floats, Floats]:
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = 1 - errors[:, 1:] / errors[:, :1]
    one, together = shares[:, :num_measures], shares[:, num_measures:]
    return one[:, first], one[:, second], together, together - np.maximum(one[:, first], one[:, second])
