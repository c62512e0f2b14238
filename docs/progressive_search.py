"""Write the tables of docs/progressive-search.md: ``python docs/progressive_search.py TABLE FOLDER``.

TABLE is ``nas-bench-macro_cifar10.json``. FOLDER keeps what was found; what is there is not searched again. About an
hour of one core, most of it for the LSTM; ``--write-only`` makes the page out of what there is.
"""

from __future__ import annotations

import argparse
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import optuna
import pandas as pd
from scipy import stats

from lightning_complexity.selection.samplers.evolution import AgingEvolutionSampler
from lightning_complexity.selection.samplers.progressive import ProgressiveSampler
from lightning_complexity.selection.samplers.surrogates import (
    KernelRidgeSurrogate,
    NeuralSurrogate,
    Prediction,
    RidgeSurrogate,
    Surrogate,
)
from lightning_complexity.selection.spaces.base import ProgressiveSpace, Structure
from lightning_complexity.selection.spaces.macro import MacroSpace

PAGE = Path(__file__).with_name("progressive-search.md")
TOP, NETWORKS = 10, 3969
BEAMS = (8, 16, 32, 64)
DATA_SEEDS = (0, 1, 2)
TRIALS = 400
SURROGATES: dict[str, Callable[[], Surrogate]] = {
    "ridge": RidgeSurrogate,
    "ridge, pairs": lambda: RidgeSurrogate(pairs=True),
    "kernel ridge": KernelRidgeSurrogate,
    "MLP": lambda: NeuralSurrogate("mlp"),
    "LSTM": lambda: NeuralSurrogate("lstm"),
}
SEEDS = {"MLP": (0, 1, 2), "LSTM": (0, 1)}  # the others are not random
OTHERS = {"aging evolution": tuple(range(10)), "TPE": tuple(range(5))}


class Search(NamedTuple):
    """One search, as a row of the results says it."""

    searcher: str
    target: str
    window: int
    """0 for all levels."""
    beam: int
    data_seed: int
    seed: int


class Watched(Surrogate):
    """A surrogate whose predictions of all candidates of a level are compared with the truth."""

    def __init__(self, surrogate: Surrogate, truth: dict[Structure, float]) -> None:
        self.surrogate, self.truth = surrogate, truth
        self.correlations: list[float] = []

    def fit(self, space: ProgressiveSpace, structures: Sequence[Structure], targets: Any, seed: int) -> Prediction:
        """Fits, and compares what is predicted."""
        predict = self.surrogate.fit(space, structures, targets, seed)

        def compared(others: Sequence[Structure]) -> Any:
            predicted = predict(others)
            errors = [self.truth[other] for other in others]
            self.correlations.append(float(stats.spearmanr(predicted, np.negative(errors)).statistic))
            return predicted

        return compared


def searches() -> Iterator[Search]:
    """All that are made, those that take long at the end."""
    for name, seeds in OTHERS.items():
        yield from (Search(name, "", 0, 0, data, seed) for seed in seeds for data in DATA_SEEDS)
    of_surrogates = [
        Search(name, target, window, beam, data, seed)
        for target, window in (("log", 2), ("loss", 0), ("log", 0), ("loss", 2))
        for name in SURROGATES
        for beam in BEAMS
        for seed in SEEDS.get(name, (0,))
        for data in DATA_SEEDS
    ]
    yield from sorted(of_surrogates, key=lambda s: (s.seed, s.searcher in SEEDS, s.beam * (s.searcher in SEEDS)))


def run(search: Search, space: MacroSpace, truth: dict[Structure, float]) -> dict[str, Any]:
    """What a search found, by the order in which it tried networks."""
    surrogate = None
    sampler: optuna.samplers.BaseSampler
    if search.searcher == "aging evolution":
        sampler = AgingEvolutionSampler(space, seed=search.seed)
    elif search.searcher == "TPE":
        sampler = optuna.samplers.TPESampler(seed=search.seed)
    else:
        surrogate = Watched(SURROGATES[search.searcher](), truth)
        options: dict[str, Any] = {"target": search.target, "window": search.window or None}
        sampler = ProgressiveSampler(space, beam=search.beam, surrogate=surrogate, seed=search.seed, **options)
    tried: dict[Structure, float] = {}

    def objective(trial: optuna.Trial) -> float:
        structure = space.suggest(trial)
        return tried.setdefault(structure, space.outcome(structure, search.data_seed)["error"])

    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=TRIALS if surrogate is None else 10_000)
    ranks = {structure: rank for rank, structure in enumerate(sorted(truth, key=truth.__getitem__), 1)}
    order = list(tried)
    hits = (place for place, structure in enumerate(order, 1) if ranks[structure] <= TOP)
    bests = {n: ranks[min(order[:n], key=tried.__getitem__)] for n in (50, 100, 150, 250)}
    return {
        **search._asdict(),
        "networks": len(order),
        "first": next(hits, math.inf),
        "rank": ranks[min(order, key=tried.__getitem__)],
        **{f"rank_{n}": rank for n, rank in bests.items()},
        "correlations": " ".join(f"{c:.2f}" for c in surrogate.correlations) if surrogate else "",
    }


def searched(table: Path, folder: Path) -> None:
    """Make all searches that are not there yet."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    space = MacroSpace(table)
    truth = {structure: space.outcome(structure)["error"] for structure in space.structures}
    path = folder / "searches.csv"
    folder.mkdir(parents=True, exist_ok=True)
    there = set()
    if path.exists():
        there = {Search(*row) for row in _read(path)[list(Search._fields)].itertuples(index=False)}
    for search in searches():
        if search not in there:
            row = pd.DataFrame([run(search, space, truth)])
            row.to_csv(path, mode="a", header=not path.exists(), index=False)
            print(*row.iloc[0].tolist(), flush=True)


def _read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, dtype={"first": float})


def tables(found: pd.DataFrame) -> dict[str, str]:
    """The tables of the page, by name."""
    guided = found[found["beam"] > 0]
    rows = []
    for (name, target, window), part in guided.groupby(["searcher", "target", "window"], sort=False):
        cells = [_hits(part[part["beam"] == beam]) for beam in BEAMS]
        rows.append([name, target, str(window or "all"), *cells])
    order = {name: place for place, name in enumerate(SURROGATES)}
    rows.sort(key=lambda row: ((row[1], row[2]) != ("log", "2"), row[1] == "loss", row[2] == "all", order[row[0]]))
    sizes = [f"K = {beam}: {guided.loc[guided['beam'] == beam, 'networks'].max()} networks" for beam in BEAMS]
    levels = []
    for (name, target, window), part in guided[guided["beam"].isin((8, 64))].groupby(
        ["searcher", "target", "window"], sort=False
    ):
        cells = [_correlations(part[part["beam"] == beam]) for beam in (8, 64)]
        levels.append([name, target, str(window or "all"), *cells])
    levels.sort(key=lambda row: ((row[1], row[2]) != ("log", "2"), row[1] == "loss", row[2] == "all", order[row[0]]))
    others = [_random_search()]
    for name in OTHERS:
        part = found[found["searcher"] == name]
        first = part["first"]
        middle = [f"{np.quantile(first, q, method='inverted_cdf'):.0f}" for q in (0.25, 0.5, 0.75)]
        mean = f"{first.mean():.0f}" if np.isfinite(first).all() else f"> {first.clip(upper=TRIALS).mean():.0f}"
        medians = [f"{part[f'rank_{n}'].median():g}" for n in (50, 100, 150, 250)]
        others.append([name, str(len(part)), mean, *middle, f"{np.isfinite(first).mean():.0%}", *medians])
    return {
        "progressive": _table(["surrogate", "target", "levels", *sizes], rows),
        "correlations": _table(["surrogate", "target", "levels", "K = 8", "K = 64"], levels),
        "others": _table(
            ["search", "runs", "mean", "quarter", "half", "three quarters", f"within {TRIALS}"]
            + [f"rank at {n}" for n in (50, 100, 150, 250)],
            others,
        ),
    }


def _random_search() -> list[str]:
    """What follows for networks that are drawn without repeats."""
    tried = np.arange(1, NETWORKS + 1)

    def place(among: Any, draws: Any, share: float) -> str:  # that the first of so many has with this probability
        return str(int(tried[np.argmax(stats.hypergeom.pmf(0, NETWORKS, among, draws) <= 1 - share)]))

    middle = [place(TOP, tried, share) for share in (0.25, 0.5, 0.75)]
    within = f"{1 - stats.hypergeom.pmf(0, NETWORKS, TOP, TRIALS):.0%}"
    medians = [place(tried, n, 0.5) for n in (50, 100, 150, 250)]
    return ["random, exactly", "", f"{(NETWORKS + 1) / (TOP + 1):.0f}", *middle, within, *medians]


def _hits(part: pd.DataFrame) -> str:
    """Networks to the first of the best, and in brackets the rank of the one that is chosen, for each data seed."""
    if part["data_seed"].nunique() < len(DATA_SEEDS):
        return "not run"
    hits, ranks = [], []
    for _, of_data in part.groupby("data_seed"):
        first = of_data["first"].median()
        missed = "*" if not np.isfinite(of_data["first"]).all() else ""
        hits.append(f"{first:g}{missed}" if np.isfinite(first) else "none")
        ranks.append(f"{of_data['rank'].median():g}")
    return f"{', '.join(hits)} ({', '.join(ranks)})"


def _correlations(part: pd.DataFrame) -> str:
    by_level = np.array([[float(c) for c in row.split()] for row in part["correlations"]])
    return ", ".join(f"{c:.2f}" for c in by_level.mean(0)) if by_level.size else "not run"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def write(parts: dict[str, str]) -> None:
    """Put tables between the marks of the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, table in parts.items():
        text = re.sub(
            rf"(<!-- {name} -->\n).*?(<!-- end -->)",
            lambda match, table=table: f"{match[1]}{table}\n{match[2]}",
            text,
            flags=re.DOTALL,
        )
    PAGE.write_text(text, encoding="utf-8")


def main() -> None:
    """Search what is not there yet, and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--write-only", action="store_true")
    arguments = parser.parse_args()
    if not arguments.write_only:
        searched(arguments.table, arguments.folder)
    write(tables(_read(arguments.folder / "searches.csv")))


if __name__ == "__main__":
    main()
