"""Searches replayed on learning curves: how many epochs a pruner needs to find as good a network.

    python -m benchmarks.early_pruning early/digits.npz early/mnist.npz early/teacher.npz --output early

Pools of networks and their curves come from ``benchmarks.early_curves``. A search proposes networks of the pool that it
has not tried, at random or by TPE, and ends when its epochs are spent. It has found what it would choose by validation
error, among the networks whose training was finished; scored is the test error of the network of the same settings from
the other seed. Regret is how much worse that is than the best of the pool; with two objectives, error and number of
parameters, the share of the hypervolume that is missing.

Epochs to the same regret: when the mean regret of all searches first is no more than that without pruning at the end.
Intervals are percentiles over draws of searches.
"""

from __future__ import annotations

import argparse
import re
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler

from lightning_complexity.selection.pareto import hypervolume
from lightning_complexity.selection.stopping import EarlyVerdictPruner

EPOCHS = 30
BUDGET = 40 * EPOCHS
SPACE: dict[str, BaseDistribution] = {
    "width": IntDistribution(4, 256, log=True),
    "depth": IntDistribution(1, 3),
    "learning_rate": FloatDistribution(1e-4, 1e-1, log=True),
    "batch_size": IntDistribution(16, 128, log=True),
    "weight_decay": FloatDistribution(1e-6, 1e-1, log=True),
    "dropout": FloatDistribution(0, 0.5),
    "optimizer": CategoricalDistribution(["sgd", "adam"]),
}
PRUNERS: dict[str, Callable[[], BasePruner]] = {
    "none": NopPruner,
    "median": lambda: MedianPruner(n_startup_trials=5, n_warmup_steps=2),
    "halving": lambda: SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    "hyperband": lambda: HyperbandPruner(min_resource=1, max_resource=EPOCHS, reduction_factor=3),
    "verdict": EarlyVerdictPruner,
    "verdict, at a tenth": lambda: EarlyVerdictPruner(0.1),
    "verdict, no measures": lambda: EarlyVerdictPruner(features=("settings", "losses")),
    "verdict, losses only": lambda: EarlyVerdictPruner(features=("losses",)),
    "verdict, settings only": lambda: EarlyVerdictPruner(features=("settings",)),
    "verdict, none kept": lambda: EarlyVerdictPruner(keep=0),
}
OF_ONE_OBJECTIVE = ("median", "halving", "hyperband")
GRID = np.arange(EPOCHS, BUDGET + 1, 10)


class Pool:
    """Networks, their curves, and what counts as regret.

    Args:
        path: Of a file of ``benchmarks.early_curves``.
        seed: Of the networks that are seen in a search; those of the other score what it has found.
    """

    def __init__(self, path: Path, seed: int) -> None:
        data = np.load(path)
        curves = data["curves"].astype(float)
        self.settings = [{name: data[name][i].item() for name in SPACE} for i in range(len(curves))]
        self.curves = curves[:, seed]
        self.measures = [
            {str(n): float(v) for n, v in zip(data["measure_names"], row, strict=True)}
            for row in data["measures"][:, seed]
        ]
        self.scores = data["test_errors"][:, 1 - seed]
        self.parameters = data["parameters"].astype(float)
        points = np.stack([self.scores, np.log10(self.parameters)], axis=1)
        self.bound = np.array([self.scores.max(), points[:, 1].max()])
        self.points, self.volume = points, hypervolume(points, self.bound)

    def __len__(self) -> int:
        return len(self.curves)

    def regret(self, finished: list[int], both: bool) -> float:
        """Of the choice among networks whose training was finished."""
        errors = self.curves[finished, -1, 2]
        if not both:
            return float(self.scores[finished[int(errors.argmin())]] - self.scores.min())
        sizes = self.parameters[finished]
        front = [
            i
            for i, e, s in zip(finished, errors, sizes, strict=True)
            if not ((errors <= e) & (sizes <= s) & ((errors < e) | (sizes < s))).any()
        ]
        return 1 - hypervolume(self.points[front], self.bound) / self.volume


class PoolSampler(BaseSampler):
    """Proposes networks of a pool that were not tried: those nearest to what another sampler proposes."""

    def __init__(self, pool: Pool, sampler: BaseSampler, seed: int) -> None:
        self.pool, self.sampler, self.left = pool, sampler, list(range(len(pool)))
        self.random, self.chosen = np.random.default_rng(seed), -1
        self.places = np.array([self._place(setting) for setting in pool.settings])

    def _place(self, setting: Mapping[str, Any]) -> list[float]:
        found = []
        for name, distribution in SPACE.items():
            if isinstance(distribution, CategoricalDistribution):
                found.append(float(distribution.choices.index(setting[name])))
                continue
            ends = np.array([distribution.low, distribution.high, setting[name]], dtype=float)
            low, high, value = np.log(ends) if distribution.log else ends
            found.append((value - low) / (high - low))
        return found

    def infer_relative_search_space(self, *_: Any) -> dict[str, BaseDistribution]:
        """All settings."""
        return SPACE

    def sample_relative(self, study: Any, trial: Any, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Those of a network of the pool."""
        wanted = self.sampler.sample_relative(study, trial, search_space)
        if wanted:
            place = self.left[int(((self.places[self.left] - self._place(wanted)) ** 2).sum(1).argmin())]
        else:
            place = int(self.random.choice(self.left))
        self.left.remove(place)
        self.chosen = place
        return self.pool.settings[place]

    def sample_independent(self, *_: Any) -> Any:
        """Is not needed."""
        raise NotImplementedError


def search(
    pool: Pool,
    pruner: BasePruner,
    *,
    tpe: bool,
    both: bool,
    seed: int,
    budget: int = BUDGET,
    reasons: list[str] | None = None,
) -> list[list[float]]:
    """Search until the epochs are spent.

    Args:
        pool: Of networks.
        pruner: That ends trainings.
        tpe: Whether TPE proposes, rather than chance.
        both: Whether the number of parameters is an objective too.
        seed: Of what is proposed.
        budget: In epochs.
        reasons: Gets the end of each training that was pruned, and the reason.

    Returns:
        Epochs and regret, each time that a training was finished.
    """
    inner = TPESampler(multivariate=True, seed=seed) if tpe else RandomSampler(seed=seed)
    sampler = PoolSampler(pool, inner, seed)
    study = optuna.create_study(
        directions=["minimize"] * (1 + both), sampler=sampler, pruner=pruner, study_name=f"search {seed}"
    )
    finished: list[int] = []
    found, epochs = [], 0
    while epochs < budget and sampler.left:
        trial = study.ask()
        for name, distribution in SPACE.items():
            trial._suggest(name, distribution)
        place = sampler.chosen
        spent = trained(pool, place, trial, pruner, both)
        epochs += spent
        if spent < EPOCHS:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
            if reasons is not None:
                reasons.append(f"{pool.curves[place, -1, 2]} {trial.user_attrs.get('early:reason', '')}")
            continue
        error = pool.curves[place, -1, 2]
        study.tell(trial, [error, pool.parameters[place]] if both else error)
        finished.append(place)
        found.append([epochs, pool.regret(finished, both)])
    return found


def trained(pool: Pool, place: int, trial: optuna.Trial, pruner: BasePruner, both: bool) -> int:
    """After how many epochs a training ends."""
    curve = pool.curves[place]
    if isinstance(pruner, EarlyVerdictPruner):
        moments = sorted({max(round(share * EPOCHS), 1) for share in pruner.shares})
        if both:
            pruner.set_exact(trial, {1: pool.parameters[place]})
        for epoch in moments:
            losses = dict(zip(("train_loss", "loss", "error"), curve[epoch - 1], strict=False))
            pruner.report(trial, epoch / EPOCHS, losses, measures=pool.measures[place])
            if pruner.should_prune(trial):
                return epoch
    elif not isinstance(pruner, NopPruner):
        for epoch in range(1, EPOCHS):
            trial.report(curve[epoch - 1, 2], epoch)
            if trial.should_prune():
                return epoch
    return EPOCHS


def regrets(found: list[list[float]], grid: np.ndarray) -> np.ndarray:
    """Regret of a search after so many epochs; before the first training is finished, that of the first."""
    epochs, values = np.array(found).T
    return values[np.maximum(np.searchsorted(epochs, grid, side="right") - 1, 0)]


def epochs_to(regret: np.ndarray, target: float) -> float:
    """When the mean of searches, shape ``(searches, grid)``, first is no more than a target."""
    reached = np.flatnonzero(regret.mean(0) <= target + 1e-12)
    return float(GRID[reached[0]]) if len(reached) else np.inf


def compared(runs: Mapping[str, np.ndarray], budget: int, draws: int = 1000) -> pd.DataFrame:
    """Epochs to the regret that is there without pruning after a budget, beside those of others.

    Args:
        runs: Regret of searches, shape ``(seeds, grid)``, by pruner.
        budget: In epochs.
        draws: Of searches, for intervals of the ratios.
    """
    random = np.random.default_rng(0)
    count, last = len(runs["none"]), int(np.searchsorted(GRID, budget))
    chosen = [np.arange(count), *random.integers(0, count, size=(draws, count))]
    targets = [runs["none"][seeds].mean(0)[last] for seeds in chosen]
    epochs = {
        name: np.array([epochs_to(regret[seeds], target) for seeds, target in zip(chosen, targets, strict=True)])
        for name, regret in runs.items()
    }
    rows = []
    for name, regret in runs.items():
        row: dict[str, Any] = {"pruner": name, "epochs": epochs[name][0]}
        for base in ("none", "hyperband"):
            if base in runs and name != base:
                with np.errstate(invalid="ignore"):  # neither came to it
                    ratios = np.sort(np.nan_to_num(epochs[name] / epochs[base], nan=1.0, posinf=np.inf)[1:])
                low, high = ratios[int(0.025 * draws)], ratios[int(0.975 * draws) - 1]
                row[f"of {base}"] = f"{epochs[name][0] / epochs[base][0]:.2f} [{low:.2f}, {high:.2f}]"
        half = int(np.searchsorted(GRID, budget // 2))
        less = np.array([(regret[seeds, half] - runs["none"][seeds, last]).mean() for seeds in chosen])
        low, high = np.percentile(less[1:], [2.5, 97.5])
        row["at half the epochs, more than none"] = f"{less[0]:+.4f} [{low:+.4f}, {high:+.4f}]"
        row |= {f"regret at {e}": regret[:, int(np.searchsorted(GRID, e))].mean() for e in (300, 600, 1200)}
        rows.append(row)
    return pd.DataFrame(rows)


def searches(pools: list[Pool], name: str, *, tpe: bool, both: bool, seeds: int) -> np.ndarray:
    """Regret of searches with a pruner, shape ``(seeds, grid)``."""
    found = [search(pools[seed % 2], PRUNERS[name](), tpe=tpe, both=both, seed=seed) for seed in range(seeds)]
    return np.array([regrets(one, GRID) for one in found])


def of_the_pruned(pools: list[Pool], keep: float, seeds: int, confidence: float = 0.8) -> pd.Series[float]:
    """How well the ends of trainings that were pruned had been predicted, which no search ever sees."""
    reasons: list[str] = []
    for seed in range(seeds):
        pruner = EarlyVerdictPruner(keep=keep, confidence=confidence)
        search(pools[seed % 2], pruner, tpe=False, both=False, seed=seed, reasons=reasons)
    told = [re.match(r"(\S+) predicted value (\S+) \[(\S+), (\S+)\]", reason) for reason in reasons]
    end, value, low, high = np.array([[float(x) for x in match.groups()] for match in told if match]).T
    covered = ((low <= end) & (end <= high)).mean()
    better = (end < low).mean()
    return pd.Series({"keep": keep, "covered": covered, "better": better, "ratio": np.exp(np.log(value / end).mean())})


def main() -> None:
    """Replay all searches, and print a table for each pool, sampler and number of objectives."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pools", type=Path, nargs="+")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--output", type=Path, help="a folder for tables and for the regret of each search")
    parser.add_argument("--pruners", nargs="+", default=list(PRUNERS), choices=list(PRUNERS))
    parser.add_argument("--samplers", nargs="+", default=["random", "tpe"], choices=["random", "tpe"])
    parser.add_argument("--objectives", nargs="+", type=int, default=[1, 2], choices=[1, 2])
    parser.add_argument("--of_the_pruned", action="store_true", help="how well their ends had been predicted instead")
    arguments = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
    warnings.filterwarnings("ignore", message="nothing is pruned by an early verdict")
    if arguments.output:
        arguments.output.mkdir(parents=True, exist_ok=True)
    tables = []
    for path in arguments.pools:
        pools = [Pool(path, seed) for seed in range(2)]
        if arguments.of_the_pruned:
            rows = [of_the_pruned(pools, keep, arguments.seeds) for keep in (0, 0.03, 0.1)]
            print(path.stem, pd.DataFrame(rows).to_string(index=False), sep="\n", flush=True)
            continue
        for sampler in arguments.samplers:
            for objectives in arguments.objectives:
                names = [n for n in arguments.pruners if objectives == 1 or n not in OF_ONE_OBJECTIVE]
                tpe, both = sampler == "tpe", objectives == 2
                runs = {name: searches(pools, name, tpe=tpe, both=both, seeds=arguments.seeds) for name in names}
                if arguments.output:
                    np.savez_compressed(arguments.output / f"{path.stem}-{sampler}-{objectives}.npz", **runs)
                for budget in (BUDGET // 2, BUDGET):
                    case = {"data": path.stem, "sampler": sampler, "objectives": objectives, "budget": budget}
                    table = compared(runs, budget)
                    print(case, table.to_string(index=False, float_format="{:.4f}".format), sep="\n", flush=True)
                    tables.append(table.assign(**case))
                    if arguments.output:
                        pd.concat(tables).to_csv(arguments.output / "pruning.csv", index=False)


if __name__ == "__main__":
    main()
