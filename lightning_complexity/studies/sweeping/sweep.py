"""A designed table of trained networks: workers share a queue of settings, and what they measured is ranked."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning_complexity.recording.record import from_json, to_json
from lightning_complexity.studies.sweeping.worker import ERROR, QUEUED, RUN, SURPLUS, last_attempts, load_study
from lightning_complexity.studies.training.data import Data, load_data
from lightning_complexity.studies.training.runs import Result, train
from lightning_complexity.studies.training.settings import Moments, Setting, Stop, as_dict

if TYPE_CHECKING:
    import pandas as pd
    from optuna import Study, Trial
    from optuna.storages import BaseStorage

DESIGN, NETWORK = "design", "network"
SETTINGS = tuple(f.name for f in fields(Setting))
FOUND = (
    *("ended", "steps", "seconds", "train_loss", "train_accuracy", "test_loss", "test_accuracy"),
    *("generalization_gap", "accuracy_gap"),
)
STOP = Stop(loss=0.05, zero_error=False, max_steps=5000)
AT_THE_END = Moments(steps=(), losses=(), share=None)

DEFAULT_GRID: dict[str, list[Any]] = {
    "width": [32, 128],
    "depth": [1, 2],
    "optimizer": ["momentum"],
    "learning_rate": [0.05, 0.1],
    "batch_size": [16, 64],
    "weight_decay": [0.0, 1e-4],
    "dropout": [0.0],
    "num_samples": [200, 800],
    "label_noise": [0.0, 0.2],
    "seed": [0, 1],
}
"""256 networks."""

QUICK_GRID = {**DEFAULT_GRID, "width": [4, 16], "depth": [1], "learning_rate": [0.1], "batch_size": [16]} | {
    "weight_decay": [0.0],
    "num_samples": [40, 80],
    "label_noise": [0.0],
}


@dataclass(frozen=True)
class Design:
    """Networks to train.

    Attributes:
        points: Their settings.
        data: ``"digits"``, or a folder, as for :func:`~lightning_complexity.studies.training.data.load_data`.
        metrics: Suites and names of metrics.
        stop: When training is over.
        moments: When networks are measured beside the initialization and the end.
        probe: Training samples to measure on.
    """

    points: tuple[Setting, ...]
    data: str = "digits"
    metrics: tuple[str, ...] = ("standard",)
    stop: Stop = STOP
    moments: Moments = field(default=AT_THE_END)
    probe: int = 256

    def __post_init__(self) -> None:
        if not self.points:
            raise ValueError("a design needs at least one network.")
        if len(set(self.points)) < len(self.points):
            raise ValueError("a design must not have the same setting twice.")

    @property
    def varied(self) -> dict[str, list[Any]]:
        """Values of the hyper-parameters that differ, in their order of coming."""
        values = {name: list(dict.fromkeys(getattr(p, name) for p in self.points)) for name in SETTINGS}
        return {name: found for name, found in values.items() if len(found) > 1}

    @property
    def hyperparameters(self) -> list[str]:
        """Those that differ, without the seed."""
        return [name for name in self.varied if name != "seed"]

    @property
    def num_available(self) -> int:
        """Samples that can be trained on."""
        return len(_data(self.data))

    def described(self) -> dict[str, Any]:
        """What a study keeps of it, and is compared by."""
        points = json.dumps([as_dict(point) for point in self.points], sort_keys=True)
        return {
            "space": self.varied,
            "fixed": {n: v for n, v in as_dict(self.points[0]).items() if n not in self.varied},
            "networks": len(self.points),
            "points": hashlib.sha256(points.encode()).hexdigest(),
            "data": self.data,
            "metrics": list(self.metrics),
            "stop": as_dict(self.stop),
            "moments": as_dict(self.moments),
            "probe": self.probe,
        }

    def check(self) -> None:
        """Say what cannot work before anything starts.

        Raises:
            ValueError: At unknown metrics, and at more samples than there are.
            OSError: If there are no such data.
        """
        from lightning_complexity.metrics import resolve

        resolve(list(self.metrics))
        size = self.num_available
        most = max(self.points, key=lambda p: (p.num_samples or 0) + p.num_confused)
        if (most.num_samples or 1) + most.num_confused > size:
            raise ValueError(f"{self.data} has {size} samples to train on, but num_samples is {most.num_samples}.")


def grid(values: Mapping[str, Sequence[Any]]) -> tuple[Setting, ...]:
    """All combinations of values of hyper-parameters, without those that no training can have.

    ``lbfgs`` has no batches and no dropout, so that batch sizes do not make different networks of it.

    Args:
        values: By name of a :class:`~lightning_complexity.studies.training.settings.Setting`'s attributes.

    Raises:
        ValueError: At an unknown name, a value that is out of range, or one that comes twice.

    Example:
        >>> [(s.width, s.depth) for s in grid({"width": [8, 16], "depth": [1, 2]})]
        [(8, 1), (8, 2), (16, 1), (16, 2)]
    """
    for name, found in values.items():
        if name not in SETTINGS:
            raise ValueError(f"there is no hyper-parameter {name!r}; there are {', '.join(SETTINGS)}.")
        if not found:
            raise ValueError(f"{name} needs at least one value.")
        if len(set(found)) < len(found):
            raise ValueError(f"{name} has a value twice: {', '.join(map(str, found))}.")
        for value in found:
            Setting(**{name: value})
    points: dict[Setting, None] = {}
    for combination in itertools.product(*values.values()):
        options = dict(zip(values, combination, strict=True))
        if options.get("optimizer") == "lbfgs":
            if options.get("dropout"):
                continue
            options["batch_size"] = values["batch_size"][0] if "batch_size" in values else Setting.batch_size
        points[Setting(**options)] = None
    if not points:
        raise ValueError("no combination of these values can be trained: lbfgs needs dropout 0.")
    return tuple(points)


# The queue ----------------------------------------------------------------------------------------


def prepare(design: Design, storage: BaseStorage, name: str, url: str) -> Study:
    """A study with a queued trial for each network; one that exists goes on.

    Networks that failed are queued again.

    Args:
        design: What to train.
        storage: For the study.
        name: Of the study.
        url: Of the storage, for errors.

    Raises:
        ValueError: If there is a study of that name with another design, with what differs.
    """
    import optuna

    described = design.described()
    try:
        study = optuna.create_study(storage=storage, study_name=name)
    except optuna.exceptions.DuplicatedStudyError:
        study = load_study(storage, name, url)
    known = study.user_attrs.get(DESIGN)
    if known is None and (study.user_attrs.keys() - {RUN} or study.get_trials(deepcopy=False)):
        raise ValueError(f"study {name!r} is there, but not of a sweep: choose another --study.")
    if known is None:
        study.set_user_attr(RUN, f"{__name__}:run_point")
        study.set_user_attr(DESIGN, described)
    elif known != json.loads(json.dumps(described)):
        raise ValueError(f"study {name!r} has another design: {_difference(known, described)}. Choose another --study.")
    _fill(study, design)
    return study


def _difference(known: dict[str, Any], asked: dict[str, Any]) -> str:
    asked = json.loads(json.dumps(asked))
    before = {**{k: [v] for k, v in known["fixed"].items()}, **known["space"]}
    now = {**{k: [v] for k, v in asked["fixed"].items()}, **asked["space"]}
    found = [f"{n} is {before[n]} there and {now[n]} here" for n in before if n in now and before[n] != now[n]]
    others = [n for n in asked if n not in ("space", "fixed", "networks", "points") and known.get(n) != asked[n]]
    found += [f"{n} is {known.get(n)} there and {asked[n]} here" for n in others]
    return "; ".join(found) or "its networks are others"


def _fill(study: Study, design: Design) -> None:
    """Queue what is neither finished nor on its way."""
    from optuna.trial import TrialState

    there = {
        folder_name(_parameters(trial.params, trial.system_attrs))
        for trial in last_attempts(study)
        if trial.state in (TrialState.COMPLETE, TrialState.RUNNING, TrialState.WAITING)
    }
    varied = design.varied
    for point in design.points:
        parameters = {name: getattr(point, name) for name in varied}
        if folder_name(parameters) not in there:
            study.enqueue_trial(parameters, user_attrs={QUEUED: True})


def _parameters(params: Mapping[str, Any], system_attrs: Mapping[str, Any]) -> dict[str, Any]:
    """The hyper-parameters of a trial, also of one that has not begun."""
    return {**system_attrs.get("fixed_params", {}), **params}


def folder_name(parameters: Mapping[str, Any]) -> str:
    """Of one network, by what is varied.

    Example:
        >>> folder_name({"width": 32, "learning_rate": 0.05})
        'learning_rate=0.05,width=32'
    """
    named = [f"{name}={'all' if value is None else value}" for name, value in sorted(parameters.items())]
    return re.sub(r"[^\w.,=+-]", "-", ",".join(named)) or "network"


@lru_cache(maxsize=1)
def _data(source: str) -> Data:
    """Read once by each worker."""
    return load_data(source)


def run_point(trial: Trial, output: Path) -> float:
    """Train the network of one trial of a sweep; what workers call.

    Args:
        trial: Of a study that :func:`prepare` made.
        output: Networks get folders in its ``networks``.

    Returns:
        The gap of losses, infinite where there is none.
    """
    import torch
    from optuna.exceptions import TrialPruned
    from optuna.trial import TrialState

    torch.set_num_threads(1)  # so small networks gain nothing from more
    design = trial.study.user_attrs[DESIGN]
    parameters = {name: trial.suggest_categorical(name, values) for name, values in design["space"].items()}
    others = trial.study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    if any(t.number < trial.number and _parameters(t.params, t.system_attrs) == parameters for t in others):
        trial.set_user_attr(SURPLUS, True)
        raise TrialPruned("it was queued twice, by two commands at once, and is trained now")
    moments = {**design["moments"], **{name: tuple(design["moments"][name]) for name in ("steps", "losses")}}
    result = train(
        Setting(**design["fixed"], **parameters),
        _data(design["data"]),
        output / "networks" / folder_name(parameters),
        metrics=design["metrics"],
        stop=Stop(**design["stop"]),
        moments=Moments(**moments),
        probe=design["probe"],
    )
    row = network_row(result)
    row["num_samples"] = row["num_samples"] or len(_data(design["data"])) - row["num_confused"]
    numbers = {name: to_json(v) if isinstance(v, float) else v for name, v in row.items()}
    trial.set_user_attr(NETWORK, numbers)
    gap = result.end.generalization_gap
    return gap if gap is not None and math.isfinite(gap) else math.inf


def network_row(result: Result) -> dict[str, Any]:
    """A row of the table: hyper-parameters, how training ended, the gap, measures under their log keys."""
    end = result.end
    numbers = (end.step, end.seconds, *end.train, *end.test, end.generalization_gap, end.accuracy_gap)
    return {
        **asdict(result.setting),
        "reached": result.reached,
        **dict(zip(FOUND, (result.ended, *numbers), strict=True)),
        **{f"complexity/{name}": value for name, value in end.measures.items()},
    }


def networks(study: Study) -> pd.DataFrame:
    """A row for each finished network of a sweep, in an order that does not depend on workers."""
    import pandas as pd
    from optuna.trial import TrialState

    rows = {
        folder_name(trial.params): {n: _number(v) for n, v in trial.user_attrs[NETWORK].items()}
        for trial in study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    }
    return pd.DataFrame([rows[name] for name in sorted(rows)])


def _number(value: Any) -> Any:
    return from_json(value) if value in ("NaN", "Infinity", "-Infinity") else value


def failures(study: Study) -> dict[str, str]:
    """Why networks could not be trained, by their folder."""
    from optuna.trial import TrialState

    found = {}
    for trial in last_attempts(study):
        name = folder_name(_parameters(trial.params, trial.system_attrs))
        if trial.state == TrialState.FAIL:
            found[name] = trial.user_attrs.get(ERROR, "its worker died, again and again")
        else:
            found.pop(name, None)
    return found


# The ranking --------------------------------------------------------------------------------------

_MOSTLY = 0.9


def ranked(frame: pd.DataFrame, hyperparameters: Sequence[str], gap: str, test_samples: int | None = None) -> str:
    """The ranking of a sweep's measures as text, over the networks that reached the criterion.

    Args:
        frame: Of :func:`networks`.
        hyperparameters: Those that were varied.
        gap: The column to explain.
        test_samples: How many samples a gap of accuracies is of, for the noise filter of the sign error,
            which is off with fewer seeds than it needs.
    """
    from lightning_complexity.studies.ranking import rank
    from lightning_complexity.studies.ranking.sign_error import MIN_EFFECTIVE_SAMPLES

    reached = frame[frame["reached"].astype(bool)]
    columns = [c for c in frame.columns if c.startswith("complexity/") and c.count("/") == 1]
    measures = [c for c in columns if len(reached) and _share_finite(reached[c]) >= _MOSTLY]
    left_out = [c.removeprefix("complexity/") for c in columns if c not in measures]
    varied = [name for name in hyperparameters if reached[name].nunique() > 1]
    try:
        if not measures or not varied:
            raise ValueError(f"{len(reached)} networks reached the criterion, too few to compare.")
        repeats = frame["seed"].nunique()
        enough = repeats**2 >= MIN_EFFECTIVE_SAMPLES  # the noise filter would leave a few pairs that all measures get
        ranking = rank(
            frame,
            hyperparameters=varied,
            measures=measures,
            gap=gap,
            seed="seed" if repeats > 1 else None,
            filters=["reached"],
            test_samples=test_samples if enough else None,
            min_effective_samples=min(MIN_EFFECTIVE_SAMPLES, repeats**2),
        )
        text = str(ranking)
    except ValueError as error:
        text = f"No ranking: {error}"
    return text + (f"\nNot ranked, as they are missing in many networks: {', '.join(left_out)}." if left_out else "")


def _share_finite(column: pd.Series[Any]) -> float:
    import numpy as np

    return float(np.isfinite(column.astype(float).to_numpy()).mean())
