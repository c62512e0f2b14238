"""Rank measures by how well they explain the gap, with every statistic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from lightning_complexity.studies.ranking.design import Bools, Design, Floats, without_overflow
from lightning_complexity.studies.ranking.information import (
    cells,
    competition_information,
    conditional_information,
    least,
    subsets,
)
from lightning_complexity.studies.ranking.intervals import LOWEST, bootstrap, num_seeds
from lightning_complexity.studies.ranking.kendall import granulated, kendall, mean_of_defined
from lightning_complexity.studies.ranking.printing import printed
from lightning_complexity.studies.ranking.sign_error import (
    MIN_EFFECTIVE_SAMPLES,
    Environments,
    environments,
    summarized,
)
from lightning_complexity.studies.tables import Filters, Source, Table, read_table

_ZERO = 1e-12
NOISE_FILTER, ALL_PAIRS = "noise filter", "all pairs"


@dataclass(frozen=True)
class Ranking:
    r"""How well each measure explains the gap. Printing it shows the main columns and what they mean.

    Attributes:
        frame: A row a measure, the best by ``Psi`` first: ``networks`` and ``configurations``; ``tau_a_runs`` and
            ``tau_b_runs`` over networks; ``tau_a`` and ``tau_b`` over means of configurations; ``Psi``;
            ``Psi_seed_mean`` and ``Psi_seed_std`` (population) over seeds, each by itself; ``direction``: whether
            those :math:`\psi_i` that are not 0 are all positive (``rises``), all negative (``falls``), or of both
            signs (``turns``), ``none`` if all are 0; ``K``, and ``K0``, ``K1``, ``K2`` with the number of
            hyper-parameters in :math:`S` fixed; ``K_competition`` (100 times it is the competition's score);
            ``sign_error``, ``sign_error_p90``, ``sign_error_max`` over all environments, and ``robust_sign_error``
            and so on with the noise filter (``nan`` without ``test_samples``).
        psi: Granulated coefficients, measures by hyper-parameters.
        psi_by_seed: ``Psi`` on the networks of one seed, measures by seeds.
        information: Conditional mutual information (Jiang et al.), measures by :math:`S`, whose names are joined by
            ``|``; ``empty`` for none.
        competition: The competition's variant, measures by pairs of hyper-parameters.
        sign_error: ``n``, ``mean``, ``p90`` and ``max`` over environments, by measure, weights (``noise filter`` or
            ``all pairs``) and environments (``all``, a hyper-parameter, or ``weak_family``).
        intervals: ``low`` and ``high`` of statistics over seeds, by measure and statistic; empty without.
        gap: The column that measures should explain.
        rows: How many rows were read.
        left_out: How many of them were left out, by reason.
        notes: What a reader must know about these numbers.
    """

    frame: pd.DataFrame
    psi: pd.DataFrame
    psi_by_seed: pd.DataFrame
    information: pd.DataFrame
    competition: pd.DataFrame
    sign_error: pd.DataFrame
    intervals: pd.DataFrame
    gap: str
    rows: int
    left_out: dict[str, int]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return printed(
            self.frame, self.psi, self.sign_error, self.intervals, self.gap, self.rows, self.left_out, self.notes
        )


@dataclass(frozen=True)
class _Options:
    test_samples: int | None
    min_effective_samples: float
    interval_of: tuple[str, ...]
    draws: int | None
    confidence: float
    random_seed: int


def rank(
    table: Table | Source,
    *,
    hyperparameters: Sequence[str] = (),
    measures: Sequence[str] | None = None,
    gap: str = "",
    seed: str | None = None,
    filters: Filters = (),
    missing: str = "rows",
    test_samples: int | None = None,
    min_effective_samples: float = MIN_EFFECTIVE_SAMPLES,
    interval_of: Sequence[str] = ("tau_b", "Psi", "sign_error"),
    draws: int | None = None,
    confidence: float = 0.95,
    random_seed: int = 0,
) -> Ranking:
    r"""Rank measures by how well they explain the generalization gap of a set of trained networks.

    A measure explains the gap if it is greater where the gap is. Statistics and their formulas are in the modules of
    ``lightning_complexity.studies.ranking``: Kendall's tau and its granulated form, conditional mutual information,
    which does not see the sign, and the robust sign error.

    Args:
        table: Of :func:`read_table`, or what it reads: a pandas frame, a CSV, or a folder of records.
        hyperparameters: Columns that were varied, as all arguments up to ``missing`` for :func:`read_table`; not
            given with a table of it.
        measures: Columns of measures.
        gap: Column of the gap.
        seed: Column of the seed.
        filters: Rows to keep.
        missing: What happens to rows where a measure is not finite.
        test_samples: How many samples the gap's test accuracy is of, for the noise filter of the sign error (10,000
            in the paper); the gap must then be a difference of accuracies, as fractions. No filter if not given.
        min_effective_samples: Of an environment of the sign error. With :math:`r` repeats of a configuration there
            are at most :math:`r^2`, so that the paper's 12 needs four.
        interval_of: Statistics that get an interval over seeds; ``"K"`` can be added, but takes long.
        draws: Of seeds for the intervals; 0 for no intervals; 200, if there are two seeds, if not given.
        confidence: Of the intervals.
        random_seed: Of the draws.

    Raises:
        ValueError: If columns do not fit (see :func:`read_table`), if no two configurations differ in one
            hyper-parameter only, if ``draws`` are asked for with fewer than two seeds, or if the gap cannot be one of
            accuracies where ``test_samples`` is given.

    Example:
        >>> grid = [(w, d, s) for w in (8, 16) for d in (1, 2) for s in (0, 1)]
        >>> frame = pd.DataFrame(grid, columns=["width", "depth", "seed"])
        >>> frame["norm"], frame["gap"] = frame.width * 2.0 + frame.seed, frame.width / 100 - frame.depth / 1000
        >>> ranking = rank(frame, hyperparameters=["width", "depth"], measures=["norm"], gap="gap", seed="seed")
        >>> ranking.psi.loc["norm"].to_dict()
        {'width': 1.0, 'depth': 0.0}
    """
    if isinstance(table, Table):
        if hyperparameters or measures is not None or gap or seed is not None or filters:
            raise ValueError("columns and filters are those of the table; give them to read_table only.")
    else:
        if not gap or not hyperparameters:
            raise ValueError("rank needs hyperparameters= and gap=, the names of columns.")
        table = read_table(
            table,
            hyperparameters=hyperparameters,
            measures=measures,
            gap=gap,
            seed=seed,
            filters=filters,
            missing=missing,
        )
    if unknown := set(interval_of) - LOWEST.keys():
        raise ValueError(f"interval_of: {min(unknown)!r} has no interval; choose from {', '.join(LOWEST)}.")
    _check_gap(table, test_samples)
    options = _Options(test_samples, min_effective_samples, tuple(interval_of), draws, confidence, random_seed)
    parts = [_rank(part, options) for part in table.by_missing()]
    frames = {
        name: pd.concat([getattr(part, name) for part in parts])
        for name in ("frame", "psi", "psi_by_seed", "information", "competition", "sign_error", "intervals")
    }
    order = frames["frame"]["Psi"].fillna(-2.0).sort_values(ascending=False, kind="stable").index
    for name in ("frame", "psi", "psi_by_seed", "information", "competition"):
        frames[name] = frames[name].loc[order]
    for name in ("sign_error", "intervals"):
        frames[name] = frames[name].sort_index()
    notes = tuple(dict.fromkeys(note for part in parts for note in part.notes))
    return Ranking(**frames, gap=table.gap, rows=table.rows, left_out=table.left_out, notes=notes)


def _check_gap(table: Table, test_samples: int | None) -> None:
    if table.frame[table.gap].nunique() < 2:
        raise ValueError(
            f"the gap {table.gap!r} is the same in all {len(table.frame)} rows: there is nothing to explain."
        )
    if test_samples is None:
        return
    if test_samples < 1:
        raise ValueError(f"test_samples must be positive, got {test_samples}.")
    greatest = float(table.frame[table.gap].abs().max())
    if greatest > 1:
        raise ValueError(
            f"test_samples needs a gap of accuracies as fractions, but {table.gap!r} reaches {greatest:.4g}: divide "
            "per cents by 100, or leave test_samples out for gaps of losses."
        )


def _rank(table: Table, options: _Options) -> Ranking:
    design = Design.of(table)
    names = pd.Index(table.measures, name="measure")
    lonely = [name for name, pairs in zip(design.names, design.pairs, strict=True) if not len(pairs.first)]
    if len(lonely) == len(design.names):
        raise ValueError(
            f"no two of the {len(design.codes)} configurations differ in one hyper-parameter only "
            f"({', '.join(design.names)}); rankings need pairs that do, as in a grid. "
            "Leave out hyper-parameters that were not varied by themselves."
        )
    notes = [
        f"no two configurations differ in {name!r} only: it has no psi, and Psi is the mean of the others"
        for name in lonely
    ]
    runs = without_overflow(table.frame[list(names)].to_numpy(float))
    gap = without_overflow(table.frame[[table.gap]].to_numpy(float))[:, 0]
    means, gap_means = design.means(runs), design.means(gap[:, None])[:, 0]
    frame = pd.DataFrame(index=names)
    frame["networks"], frame["configurations"] = len(gap), len(gap_means)
    frame[["tau_a_runs", "tau_b_runs"]] = [kendall(m, gap) for m in runs.T]
    frame[["tau_a", "tau_b"]] = [kendall(m, gap_means) for m in means.T]
    psi = pd.DataFrame(granulated(design, means, gap_means), names, pd.Index(design.names, name="hyperparameter"))
    frame["Psi"] = mean_of_defined(psi.to_numpy(float))
    by_seed = _psi_by_seed(design, names, runs, gap)
    frame["Psi_seed_mean"], frame["Psi_seed_std"] = by_seed.mean(axis=1), by_seed.std(axis=1, ddof=0)
    frame["direction"] = [_direction(row) for row in psi.to_numpy(float)]
    information, competition = _information(design, names, means, gap_means)
    frame = frame.join(_least(information))
    frame["K_competition"] = competition.min(axis=1) if competition.shape[1] else np.nan
    sign_error, more = _sign_error(design, names, runs, gap, options)
    for weights, column in ((ALL_PAIRS, "sign_error"), (NOISE_FILTER, "robust_sign_error")):
        overall = sign_error.xs((weights, "all"), level=("weights", "environments")).reindex(names)
        frame[[column, f"{column}_p90", f"{column}_max"]] = overall[["mean", "p90", "max"]].to_numpy(float)
    intervals, why = _intervals(design, frame, runs, gap, options)
    if design.seeds and not design.shared_seeds:
        notes.append(
            "configurations share no seeds: there is no Psi by seed, and intervals pair repeats by their order"
        )
    notes += more + why + _notes(names, means)
    return Ranking(
        frame,
        psi,
        by_seed,
        information,
        competition,
        sign_error,
        intervals,
        table.gap,
        table.rows,
        table.left_out,
        tuple(notes),
    )


def _psi_by_seed(design: Design, names: pd.Index[str], runs: Floats, gap: Floats) -> pd.DataFrame:
    """Psi on the networks of one seed; none where configurations share no seeds."""
    columns = {}
    for i, seed in enumerate(design.seeds if design.shared_seeds else ()):
        own = design.seed == i
        means = np.full((len(design.codes), len(names) + 1), np.nan)
        present = np.unique(design.configuration[own])
        values = np.column_stack([runs, gap])[own]
        means[present] = pd.DataFrame(values).groupby(design.configuration[own]).mean().to_numpy(float)
        columns[seed] = mean_of_defined(granulated(design, means[:, :-1], means[:, -1]))
    return pd.DataFrame(columns, index=names, dtype=float)


def _direction(psi: Floats) -> str:
    rises, falls = bool((psi > _ZERO).any()), bool((psi < -_ZERO).any())
    return {(True, False): "rises", (False, True): "falls", (False, False): "none"}.get((rises, falls), "turns")


def _information(design: Design, names: pd.Index[str], means: Floats, gap: Floats) -> tuple[pd.DataFrame, pd.DataFrame]:
    sets = subsets(len(design.names), 2)
    labels = ["|".join(design.names[i] for i in s) or "empty" for s in sets]
    jiang, competition = [], []
    for measure in means.T:
        counts = list(cells(design.codes, measure, gap, sets))
        jiang.append([conditional_information(c) for c in counts])
        competition.append([competition_information(c) for c, s in zip(counts, sets, strict=True) if len(s) == 2])
    two = [label for label, s in zip(labels, sets, strict=True) if len(s) == 2]
    return pd.DataFrame(jiang, names, labels), pd.DataFrame(competition, names, two, dtype=float)


def _least(information: pd.DataFrame) -> pd.DataFrame:
    sizes = [0 if label == "empty" else 1 + label.count("|") for label in information.columns]
    rows = []
    for values in information.to_numpy(float):
        by_size = {f"K{n}": least([v for v, size in zip(values, sizes, strict=True) if size == n]) for n in range(3)}
        rows.append({"K": least(list(values)), **by_size})
    return pd.DataFrame(rows, index=information.index)


def _sign_error(
    design: Design, names: pd.Index[str], runs: Floats, gap: Floats, options: _Options
) -> tuple[pd.DataFrame, list[str]]:
    rows, notes = [], []
    for weights, test_samples in ((ALL_PAIRS, None), (NOISE_FILTER, options.test_samples)):
        if weights == NOISE_FILTER and test_samples is None:
            found = Environments.none(len(names))
        else:
            found = environments(design, runs, gap, test_samples)
        enough, weak = found.enough(options.min_effective_samples), found.weak_family()
        groups: dict[str, Floats] = {"all": found.losses[enough]}
        for i, hyperparameter in enumerate(design.names):
            groups[hyperparameter] = found.losses[enough & (found.hyperparameter == i)]
        groups["weak_family"] = weak.losses[weak.enough(options.min_effective_samples)]
        for environment, losses in groups.items():
            for name, values in zip(names, summarized(losses).T, strict=True):
                rows.append((name, weights, environment, 2 * len(losses), *values))
        if len(found.weights) and not enough.any():
            notes.append(
                f"no sign error ({weights}): no two configurations have {options.min_effective_samples:g} effective "
                f"pairs of runs; repeats are {design.repeats} at most. Give more, or a lower min_effective_samples"
            )
    if options.test_samples is None:
        notes.append("no noise filter of the sign error: give test_samples, the size of the test set, for one")
    frame = pd.DataFrame(rows, columns=["measure", "weights", "environments", "n", "mean", "p90", "max"])
    return frame.set_index(["measure", "weights", "environments"]), notes


def _intervals(
    design: Design, frame: pd.DataFrame, runs: Floats, gap: Floats, options: _Options
) -> tuple[pd.DataFrame, list[str]]:
    index = pd.MultiIndex.from_arrays([[], []], names=["measure", "statistic"])
    nothing = pd.DataFrame({"estimate": [], "low": [], "high": []}, index=index, dtype=float)
    if options.draws == 0 or not options.interval_of:
        return nothing, []
    if options.draws is None and num_seeds(design) < 2:
        return nothing, ["no intervals: each configuration was trained once"]
    noise = options.test_samples is not None
    half = bootstrap(
        design,
        runs,
        gap,
        options.interval_of,
        draws=200 if options.draws is None else options.draws,
        confidence=options.confidence,
        test_samples=options.test_samples,
        min_effective_samples=options.min_effective_samples,
        random_seed=options.random_seed,
    )
    parts = []
    for statistic, width in half.items():
        column = "robust_sign_error" if noise and statistic == "sign_error" else statistic
        estimate = frame[column].to_numpy(float)
        low, high = np.maximum(estimate - width, LOWEST[statistic]), np.minimum(estimate + width, 1.0)
        part = pd.DataFrame({"estimate": estimate, "low": low, "high": high})
        part.index = pd.MultiIndex.from_product([frame.index, [column]], names=index.names)
        parts.append(part)
    return pd.concat(parts), []


def _notes(names: pd.Index[str], means: Floats) -> list[str]:
    constant: Bools = (means == means[:1]).all(0)
    listed = ", ".join(names[constant])
    return [f"constant, and so of no use: {listed} (Psi and K 0, tau_b undefined)"] if listed else []
