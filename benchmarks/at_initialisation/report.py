"""What measures of untrained networks say of their accuracy, as a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor

from benchmarks.at_initialisation.measuring import AS_DRAWN, CELLS_OF_A_DRAW, NORMALIZED, networks
from lightning_complexity.studies.early.predicting import HeldOut, divide, explained, hold_out, rank_correlation
from tests.nas_bench_201 import OPERATIONS, edges
from tests.selection.design_spaces.subspaces import macro_networks

Floats = NDArray[np.float64]

ACCURACY = "c10_test"
FLOPS, PARAMETERS = f"{AS_DRAWN}/flop_count", f"{AS_DRAWN}/parameter_count"
MOST_MISSING = 0.05
DRAWS, REPEATS, FOLDS = 1000, 5, 5
DATA_SETS = {"c10_test": "CIFAR-10", "c100_test": "CIFAR-100", "in16_test": "ImageNet-16-120"}


def table(path: Path) -> pd.DataFrame:
    """Measured networks with what the table knows of them; without measures that many have no value of."""
    measured = pd.read_csv(path).set_index("row")
    known = networks()
    for operation in OPERATIONS:
        known[f"count/{operation}"] = known["cellstr"].str.count(operation)
        for edge, name in enumerate(zip(*known["cellstr"].map(_operations), strict=True)):
            known[f"edge/{edge}/{operation}"] = [float(one == operation) for one in name]
    frame = measured.join(known)
    for name in measure_names(frame):
        values = frame[name].replace([np.inf, -np.inf], np.nan)
        frame[name] = values.fillna(values.median()) if values.isna().mean() <= MOST_MISSING else np.nan
    return frame.drop(columns=[name for name in measure_names(frame) if frame[name].isna().all()])


def _operations(cell: str) -> list[str]:
    return [name for node in edges(cell) for name, _ in node]


def function_of(cell: str) -> str:
    """What a cell computes, in words that are the same for cells that compute the same.

    >>> function_of("|nor_conv_1x1~0|+|none~0|skip_connect~1|+|none~0|none~1|skip_connect~2|")
    'nor_conv_1x1(0)'
    """
    nodes = ["0"]
    for node in edges(cell):
        parts = [
            nodes[i] if name == "skip_connect" else f"{name}({nodes[i]})"
            for name, i in node
            if name != "none" and nodes[i]
        ]
        nodes.append(f"[{'+'.join(sorted(parts))}]" if len(parts) > 1 else "".join(parts))
    return nodes[-1]


def measure_names(frame: pd.DataFrame) -> list[str]:
    """Columns of measures."""
    return [name for name in frame.columns if str(name).startswith((f"{AS_DRAWN}/", f"{NORMALIZED}/"))]


def correlation(first: Floats, second: Floats, times: Floats) -> Floats:
    """Spearman's, for each row of how often a network counts; 0 where all values are one."""
    one, other = (_ranks(values, times) for values in (first, second))
    return _weighted_correlation(one, other, times)


def partial(first: Floats, second: Floats, given: Floats, times: Floats) -> Floats:
    """Spearman's correlation at equal values of a third quantity, by the formula of three correlations."""
    a, b, c = (correlation(x, y, times) for x, y in ((first, second), (first, given), (second, given)))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = (a - b * c) / np.sqrt((1 - b**2) * (1 - c**2))
    return np.where(np.abs(b) < 1 - 1e-9, found, 0.0)


def _weighted_correlation(one: Floats, other: Floats, times: Floats) -> Floats:
    total = times.sum(1, keepdims=True)
    x, y = (values - (times * values).sum(1, keepdims=True) / total for values in (one, other))
    products, a, b = ((times * u * v).sum(1) for u, v in ((x, y), (x, x), (y, y)))
    size = np.sqrt(a * b)
    return np.divide(products, size, out=np.zeros_like(size), where=size > 0)


def _ranks(values: Floats, times: Floats) -> Floats:
    distinct, place = np.unique(values, return_inverse=True)
    counts = np.zeros((len(distinct), len(times)))
    np.add.at(counts, place, times.T)
    return (counts.cumsum(0) - (counts - 1) / 2)[place].T


def resamples(count: int, seed: int = 0) -> Floats:
    """How often each network counts: once, in the first row; as in samples with replacement, in the others."""
    times = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=DRAWS)
    return np.vstack([np.ones(count), times]).astype(float)


def shown(values: Floats) -> str:
    """The first one, and what 95 % of the others are between."""
    low, high = np.quantile(values[1:], (0.025, 0.975))
    return f"{values[0]:.2f} ({low:.2f} to {high:.2f})"


def rankings(frame: pd.DataFrame) -> str:
    """A table of all measures: correlation with accuracy on each draw and on all, and at equal FLOPs."""
    accuracy, flops = frame[ACCURACY].to_numpy(float), frame[FLOPS].to_numpy(float)
    connected = frame["connected"].to_numpy(bool)
    times, times_connected = resamples(len(frame)), resamples(int(connected.sum()), 1)
    rows = []
    for name in measure_names(frame):
        values = frame[name].to_numpy(float)
        whole = correlation(values, accuracy, times)
        draws = [
            correlation(values[own], accuracy[own], np.ones((1, own.sum())))[0]
            for own in ((frame["draw"] == draw).to_numpy() for draw in sorted(frame["draw"].unique()))
        ]
        own = correlation(values[connected], accuracy[connected], times_connected)
        at_equal = partial(values[connected], accuracy[connected], flops[connected], times_connected)
        cells = [f"{value:.2f}" for value in draws]
        rows.append((abs(whole[0]), [f"`{name}`", *cells, shown(whole), shown(own), shown(at_equal)]))
    rows.sort(key=lambda row: -row[0])
    header = ["measure", *(f"draw {d + 1}" for d in sorted(frame["draw"].unique()))]
    header += ["all", "connected", "connected, at equal FLOPs"]
    return markdown(header, [row for _, row in rows])


def predictions(frame: pd.DataFrame) -> str:
    """A table of what is predicted of held-out networks, from what."""
    y = np.log(100 - frame[ACCURACY].to_numpy(float))
    counts, wiring = ([n for n in frame.columns if str(n).startswith(start)] for start in ("count/", "edge/"))
    measures = measure_names(frame)
    plain = [name for name in measures if name not in (FLOPS, PARAMETERS)]
    sets = {
        "FLOPs": [FLOPS],
        "FLOPs, region bound": [FLOPS, f"{AS_DRAWN}/log_region_bound"],
        "FLOPs, path norm": [FLOPS, f"{AS_DRAWN}/log_path_norm"],
        "FLOPs, parameters": [FLOPS, PARAMETERS],
        "FLOPs, parameters, all measures": [FLOPS, PARAMETERS, *plain],
        "how often each operation occurs": counts,
        "the operation at each edge": wiring,
        "the operation at each edge, all measures": [*wiring, *measures],
    }
    times, groups = resamples(len(frame), 2), _groups(frame)
    rows = []
    for method, predict in (("ridge", _ridge), ("forest", _forest)):
        scores: dict[str, tuple[Floats, Floats]] = {}
        for title, names in sets.items():
            held_out = predict(frame[names].rank(pct=True).to_numpy(float), y, groups)
            scores[title] = (explained(y, held_out, times), rank_correlation(y, held_out, times))
            base = "the operation at each edge" if title.startswith("the operation at each edge,") else "FLOPs"
            gain = "" if title == base else shown(scores[title][0] - scores[base][0])
            rows.append([method, title, *map(shown, scores[title]), gain])
    return markdown(["method", "from", "R2", "rank correlation", "R2 gained over what comes first"], rows)


def beside_flops(frame: pd.DataFrame, most: int = 5) -> str:
    """A table of the measures that say most beside FLOPs, each alone."""
    y, groups = np.log(100 - frame[ACCURACY].to_numpy(float)), _groups(frame)
    found = []
    for name in measure_names(frame):
        held_out = _ridge(frame[[FLOPS, name]].rank(pct=True).to_numpy(float), y, groups)
        once = np.ones((1, len(frame)))
        found.append((explained(y, held_out, once)[0], rank_correlation(y, held_out, once)[0], name))
    rows = [[f"`{name}`", f"{r2:.2f}", f"{rank:.2f}"] for r2, rank, name in sorted(found, reverse=True)[:most]]
    return markdown(["with FLOPs", "R2", "rank correlation"], rows)


def by_part(frame: pd.DataFrame) -> str:
    """A table of what ridge regression gains from all measures over FLOPs, among fewer and fewer cells."""
    median = frame[ACCURACY].median()
    parts = {
        "all": frame,
        "that lead somewhere": frame[frame["connected"]],
        "the more accurate half": frame[frame[ACCURACY] >= median],
    }
    rows = []
    for title, part in parts.items():
        y, times = np.log(100 - part[ACCURACY].to_numpy(float)), resamples(len(part), 2)
        scores = []
        for names in ([FLOPS], measure_names(part)):
            held_out = _ridge(part[names].rank(pct=True).to_numpy(float), y, _groups(part))
            scores.append(rank_correlation(y, held_out, times))
        rows.append([title, str(len(part)), *map(shown, scores), shown(scores[1] - scores[0])])
    return markdown(["cells", "number", "rank correlation from FLOPs", "from all measures", "gained"], rows)


def _groups(frame: pd.DataFrame) -> NDArray[np.int64]:
    """Cells that compute the same are held out together."""
    return np.unique([function_of(cell) for cell in frame["cellstr"]], return_inverse=True)[1].astype(np.int64)


def _divisions(groups: NDArray[np.int64]) -> list[NDArray[np.int64]]:
    return divide(int(groups.max()) + 1, FOLDS, REPEATS, np.random.default_rng(0))


def _ridge(x: Floats, y: Floats, groups: NDArray[np.int64]) -> HeldOut:
    return hold_out(x, y, groups, _divisions(groups), 0.95)


def _forest(x: Floats, y: Floats, groups: NDArray[np.int64]) -> HeldOut:
    found = np.zeros((3, REPEATS, len(y)))
    for d, parts in enumerate(_divisions(groups)):
        for part in np.unique(parts):
            held = (parts == part)[groups]
            forest = RandomForestRegressor(100, min_samples_leaf=3, max_features=1 / 3, random_state=d)
            found[0, d, held] = forest.fit(x[~held], y[~held]).predict(x[held])
            found[1, d, held] = y[~held].mean()
    return HeldOut(*found)


def of_tables() -> str:
    """Correlations of FLOPs and parameters with accuracy, in whole tables and in draws of 150."""
    known, macro = networks(), macro_networks()
    macro["accuracy"] = 100 - macro["error"]
    rows = []
    for column, title in DATA_SETS.items():
        for which, part in (("all", known), ("connected", known[known["connected"]])):
            sizes = {"FLOPs": "conv_flops_c10", "parameters": "params_c10"}
            rows.append([f"NAS-Bench-201, {title}, {which}", str(len(part)), *_of_sizes(part, column, sizes)])
    rows.append(
        ["NAS-Bench-Macro, CIFAR-10", str(len(macro)), *_of_sizes(macro, "accuracy", {"F": "flops", "P": "parameters"})]
    )
    half = macro[macro["accuracy"] >= macro["accuracy"].median()]
    rows.append(
        ["of these the better half", str(len(half)), *_of_sizes(half, "accuracy", {"F": "flops", "P": "parameters"})]
    )
    return markdown(["table", "networks", "FLOPs", "parameters"], rows)


def _of_sizes(frame: pd.DataFrame, accuracy: str, sizes: dict[str, str]) -> list[str]:
    """Of all networks, and what 95 % of draws of 150 are between."""
    generator, cells = np.random.default_rng(0), []
    chosen = [generator.choice(len(frame), CELLS_OF_A_DRAW, replace=False) for _ in range(DRAWS)]
    ranked = {name: frame[name].to_numpy(float) for name in (accuracy, *sizes.values())}
    for name in sizes.values():
        whole = frame[name].corr(frame[accuracy], method="spearman")
        draws = [
            pd.Series(ranked[name][rows]).corr(pd.Series(ranked[accuracy][rows]), method="spearman") for rows in chosen
        ]
        cells.append(shown(np.array([whole, *draws])))
    return cells


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table."""
    lines = [header, ["---", *("---:" for _ in header[1:])], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
