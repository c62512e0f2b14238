"""The experiments: which networks are trained, and which of two is expected to be less complex."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from lightning_complexity.studies.training.data import Data
from lightning_complexity.studies.training.optimizers import OPTIMIZERS, OptimizerName
from lightning_complexity.studies.training.settings import Moments, Setting, Stop
from lightning_complexity.studies.training.user import Change

ExperimentName = Literal["labels", "width", "optimizers", "confusion", "depth"]
EXPERIMENTS: tuple[ExperimentName, ...] = get_args(ExperimentName)
LEARNING_RATES: dict[OptimizerName, float] = {
    "sgd": 0.1,
    "momentum": 0.05,
    "adam": 1e-3,
    "rmsprop": 1e-3,
    "lbfgs": 1.0,
    "path_sgd": 0.05,
}

Errors = Mapping[tuple[str, int], float]
"""Test errors by condition and seed, of networks that reached the criterion."""


@dataclass(frozen=True)
class Condition:
    """Networks that differ in their seeds alone.

    Attributes:
        name: Such as ``"random labels, 400 samples"``.
        level: Where it is on the axis of pictures.
        series: Which line of pictures it belongs to.
        change: With any seed: the setting of a network of ours, or what is changed about a user's own.
    """

    name: str
    level: float
    series: str
    change: Setting | Change


@dataclass(frozen=True)
class Expectation:
    """Two conditions and which of them a measure should be lower for.

    Attributes:
        group: What is compared.
        lower: Name of the condition with less complex networks.
        higher: Name of the other one.
    """

    group: str
    lower: str
    higher: str


@dataclass(frozen=True)
class Experiment:
    """Networks to train and to compare.

    Attributes:
        name: One of ``EXPERIMENTS``.
        criterion: What a measure passes by, in a sentence.
        axis: What the level of a condition is.
        conditions: In the order of the axis.
        expectations: From test errors, where the criterion asks for them.
        every_group: Whether a measure has to be right in each group.
        stop: When trainings are over.
        moments: When networks are measured.
        probe: Samples to measure on.
    """

    name: ExperimentName
    criterion: str
    axis: str
    conditions: tuple[Condition, ...]
    expectations: Callable[[Errors], list[Expectation]]
    every_group: bool = False
    stop: Stop = field(default_factory=Stop)
    moments: Moments = field(default_factory=Moments)
    probe: int = 256

    def condition(self, name: str) -> Condition:
        """The condition of a name."""
        return next(condition for condition in self.conditions if condition.name == name)

    def cases(self, num_seeds: int) -> Iterator[tuple[Condition, int]]:
        """Conditions and seeds, seed by seed, so that each seed takes about as long as the last."""
        for seed in range(num_seeds):
            for condition in self.conditions:
                yield condition, seed


def experiment(
    name: ExperimentName,
    data: Data,
    *,
    quick: bool = False,
    rates: Mapping[OptimizerName, float] = LEARNING_RATES,
    widths: Sequence[int] | None = None,
    batch_size: int = 32,
) -> Experiment:
    """An experiment of an MLP.

    Args:
        name: Of the experiment.
        data: What it is made on.
        quick: Few, small networks, for a check that everything works.
        rates: Learning rates of the optimizers.
        widths: Numbers of hidden units, for ``"width"``.
        batch_size: Samples of an optimizer step.

    Raises:
        ValueError: At an unknown name, or if there are too few samples.
    """
    if name not in EXPERIMENTS:
        raise ValueError(f"there is no experiment {name!r}; there are {', '.join(EXPERIMENTS)}.")
    made = {"labels": _labels, "width": _width, "optimizers": _optimizers, "confusion": _confusion, "depth": _depth}
    found = made[name](data, _Choices(quick, rates, tuple(sorted(set(widths or ()))), batch_size))
    return _quick(found) if quick else found


def _quick(found: Experiment) -> Experiment:
    moments = Moments(steps=(10, 30, 100), losses=(1.0, 0.5), share=None)
    return replace(found, stop=Stop(loss=0.2, max_steps=1500), moments=moments, probe=64)


def user_experiment(
    name: ExperimentName, rates: Mapping[OptimizerName, float] = LEARNING_RATES, *, quick: bool = False
) -> Experiment:
    """An experiment of a user's own module and data.

    Args:
        name: ``"labels"``, with their targets or these permuted; or ``"optimizers"``, with their optimizer or others.
        rates: Learning rates of the optimizers.
        quick: To a training loss of 0.2 and 1,500 steps at most.

    Raises:
        ValueError: At another experiment.
    """
    if name == "labels":
        true, permuted = "true labels", "permuted labels"
        made = Experiment(
            "labels",
            "lower for true labels than for permuted ones",
            "labels",
            (Condition(true, 0, "", Change()), Condition(permuted, 1, "", Change(permute_labels=True))),
            _known([Expectation("all samples", true, permuted)]),
            every_group=True,
        )
        return _quick(made) if quick else made
    if name == "optimizers":
        changes = {name: Change(optimizer=name, learning_rate=rates[name]) for name in OPTIMIZERS}
        named = [("its own", Change()), *changes.items()]
        conditions = tuple(Condition(name, index, "", change) for index, (name, change) in enumerate(named))
        made = Experiment(
            "optimizers", _OF_OPTIMIZERS, "optimizer", conditions, lambda errors: by_test_error(conditions, errors)
        )
        return _quick(made) if quick else made
    raise ValueError(
        f"study {name} builds networks of its own; with --module there are study labels and study optimizers."
    )


_OF_OPTIMIZERS = "lower for the solution with the lower test error, of two that different optimizers reach"


@dataclass(frozen=True)
class _Choices:
    quick: bool
    rates: Mapping[OptimizerName, float]
    widths: tuple[int, ...]
    batch_size: int

    @property
    def base(self) -> Setting:
        return Setting(
            width=64 if self.quick else 256,
            depth=2,
            optimizer="momentum",
            learning_rate=self.rates["momentum"],
            batch_size=self.batch_size,
        )


def _sizes(data: Data, sizes: tuple[int, ...]) -> list[int]:
    """Those that there are, and all samples in the place of the first that is too many."""
    fitting = [size for size in sizes if size < len(data)]
    return fitting if len(fitting) == len(sizes) else [*fitting, len(data)]


def _labels(data: Data, chosen: _Choices) -> Experiment:
    sizes = _sizes(data, (50, 100) if chosen.quick else (100, 200, 400, 800, 1600, 3200))
    conditions = tuple(
        Condition(
            f"{kind} labels, {size} samples",
            size,
            f"{kind} labels",
            replace(chosen.base, num_samples=size, label_noise=float(kind == "random")),
        )
        for size in sizes
        for kind in ("true", "random")
    )
    expected = [
        Expectation(f"{size} samples", f"true labels, {size} samples", f"random labels, {size} samples")
        for size in sizes
    ]
    return Experiment(
        "labels",
        "lower for true labels than for random ones, at every number of samples",
        "samples",
        conditions,
        _known(expected),
        every_group=True,
    )


def _width(data: Data, chosen: _Choices) -> Experiment:
    defaults = (16, 64, 256) if chosen.quick else (8, 16, 32, 64, 128, 256, 512, 1024, 2048)
    widths = chosen.widths or defaults
    size = min(200, len(data)) if chosen.quick else None
    conditions = tuple(
        Condition(f"{width} units", width, "", replace(chosen.base, depth=1, width=width, num_samples=size))
        for width in widths
    )
    return Experiment(
        "width",
        "lower for more hidden units, where these have a lower test error",
        "hidden units",
        conditions,
        lambda errors: _with_level(by_test_error(conditions, errors), conditions, rising=False),
    )


def _optimizers(data: Data, chosen: _Choices) -> Experiment:
    size = min(100, len(data)) if chosen.quick else min(1000, len(data))
    conditions = tuple(
        Condition(
            name,
            index,
            "",
            replace(chosen.base, optimizer=name, learning_rate=chosen.rates[name], num_samples=size),
        )
        for index, name in enumerate(OPTIMIZERS)
    )
    return Experiment(
        "optimizers",
        _OF_OPTIMIZERS,
        "optimizer",
        conditions,
        lambda errors: by_test_error(conditions, errors),
    )


def _confusion(data: Data, chosen: _Choices) -> Experiment:
    size = min(100 if chosen.quick else 700, len(data) // 2)
    shares = (0, 0.5, 1) if chosen.quick else (0, 0.1, 0.2, 0.4, 0.6, 0.8, 1)
    counts = [round(share * size) for share in shares]
    conditions = tuple(
        Condition(
            f"{count} wrong labels",
            count,
            "",
            replace(chosen.base, num_samples=size, num_confused=count),
        )
        for count in counts
    )
    return Experiment(
        "confusion",
        f"lower for fewer wrongly labelled samples beside {size} right ones, where these have a lower test error",
        "wrongly labelled samples",
        conditions,
        lambda errors: _with_level(by_test_error(conditions, errors), conditions, rising=True),
    )


def _depth(data: Data, chosen: _Choices) -> Experiment:
    depths = (1, 3) if chosen.quick else (1, 2, 3, 5, 8)
    budget = 5_000 if chosen.quick else 50_000
    inputs, outputs = data.x_train.shape[1], data.num_classes
    size = min(200, len(data)) if chosen.quick else None
    # With momentum eight layers do not leave the start; the question is about the optimizers of today.
    base = replace(chosen.base, optimizer="adam", learning_rate=chosen.rates["adam"], num_samples=size)
    conditions = tuple(
        Condition(
            f"{depth} hidden layers",
            depth,
            "",
            replace(base, depth=depth, width=width_for(budget, depth, inputs, outputs)),
        )
        for depth in depths
    )
    expected = [
        Expectation(f"{deep.name} against {shallow.name}", shallow.name, deep.name)
        for index, shallow in enumerate(conditions)
        for deep in conditions[index + 1 :]
    ]
    return Experiment(
        "depth",
        f"higher for the deeper of two networks of about {budget:,} parameters",
        "hidden layers",
        conditions,
        _known(expected),
    )


def width_for(num_parameters: int, depth: int, inputs: int, outputs: int) -> int:
    """Width of the perceptron whose number of parameters is nearest to a given one.

    Example:
        >>> width_for(50_000, 1, 64, 10), width_for(50_000, 8, 64, 10)
        (667, 79)
    """

    def count(width: int) -> int:
        return width * (inputs + 1) + (depth - 1) * width * (width + 1) + outputs * (width + 1)

    width = 1
    while count(width + 1) <= num_parameters:
        width += 1
    return min((width, width + 1), key=lambda w: abs(count(w) - num_parameters))


def by_test_error(conditions: tuple[Condition, ...], errors: Errors) -> list[Expectation]:
    """Pairs of conditions whose test errors differ in the mean over common seeds by more than its standard error.

    Args:
        conditions: To be compared, each with each.
        errors: Test errors of networks.
    """
    found = []
    for index, first in enumerate(conditions):
        for second in conditions[index + 1 :]:
            seeds = [s for name, s in errors if name == first.name and (second.name, s) in errors]
            differences = [errors[second.name, seed] - errors[first.name, seed] for seed in seeds]
            if _is_clear(differences):
                lower, higher = (first, second) if sum(differences) > 0 else (second, first)
                found.append(Expectation(f"{lower.name} against {higher.name}", lower.name, higher.name))
    return found


def _is_clear(differences: list[float]) -> bool:
    if not differences or sum(differences) == 0:
        return False
    if len(differences) == 1:
        return True
    count = len(differences)
    mean = sum(differences) / count
    variance = sum((difference - mean) ** 2 for difference in differences) / (count - 1)
    return abs(mean) > (variance / count) ** 0.5


def _known(expected: list[Expectation]) -> Callable[[Errors], list[Expectation]]:
    """Expectations that do not depend on test errors."""
    return lambda _: expected


def _with_level(expected: list[Expectation], conditions: tuple[Condition, ...], *, rising: bool) -> list[Expectation]:
    """Those in which the complexity that is expected rises, or falls, with the level."""
    level = {condition.name: condition.level for condition in conditions}
    return [e for e in expected if (level[e.lower] < level[e.higher]) == rising]
