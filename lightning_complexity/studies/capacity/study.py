"""Capacity of networks of several widths, trained through Lightning in folders of their own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import torch
from tqdm import tqdm

from lightning_complexity.studies.capacity.samples import SampleCapacity, check_limits, largest_fitted
from lightning_complexity.studies.capacity.signs import RademacherEstimate, rademacher_estimate
from lightning_complexity.studies.training.data import Data
from lightning_complexity.studies.training.runs import Result, train
from lightning_complexity.studies.training.settings import Moments, Setting, Stop

_AT_THE_END = Moments(steps=(), losses=(), share=None)


@dataclass(frozen=True)
class Plan:
    """What is trained to find capacities.

    Attributes:
        stop: When a training is over.
        error: Share of wrong classes, up to which samples count as fitted.
        seeds: Trainings that are averaged for a number of samples.
        resolution: Share of it, up to which that number is found.
        samples: How many get random signs.
        draws: How many sets of signs.
        restarts: Trainings for each.
    """

    stop: Stop = field(default_factory=lambda: Stop(max_steps=2000))
    error: float = 0.01
    seeds: int = 3
    resolution: float = 0.05
    samples: int = 256
    draws: int = 5
    restarts: int = 1

    def __post_init__(self) -> None:
        for name, least in (("seeds", 1), ("samples", 2), ("draws", 1), ("restarts", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}.")
        check_limits(self.error, self.resolution)


def samples_fitted(setting: Setting, data: Data, plan: Plan, folder: Path, bar: tqdm[None]) -> SampleCapacity:
    """The effective model complexity of a setting.

    Args:
        setting: Of the networks.
        data: Their samples are drawn from.
        plan: What is trained.
        folder: For the networks.
        bar: Counts the trainings.
    """

    def error_of(size: int, seed: int) -> float:
        place = folder / f"samples-{size}-seed-{seed}"
        result = _trained(replace(setting, num_samples=size, seed=seed), data, plan, place, bar)
        assert result.end.train.accuracy is not None
        return 1 - result.end.train.accuracy

    return largest_fitted(error_of, len(data), error=plan.error, seeds=plan.seeds, resolution=plan.resolution)


def signs_followed(setting: Setting, data: Data, plan: Plan, folder: Path, bar: tqdm[None]) -> RademacherEstimate:
    """The empirical Rademacher complexity of classifiers of a setting with outputs -1 and 1, on the same samples.

    Args:
        setting: Of the networks.
        data: The samples are those of.
        plan: What is trained.
        folder: For the networks.
        bar: Counts the trainings.

    Raises:
        ValueError: If there are not as many samples.
    """
    if plan.samples > len(data):
        raise ValueError(f"samples must be at most {len(data)}, as {data.name} has, got {plan.samples}.")
    x = data.x_train[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))[: plan.samples]]
    found = []
    for draw in range(plan.draws):
        signs = torch.randint(0, 2, (len(x),), generator=torch.Generator().manual_seed(draw))
        # Both classes are among the test samples, so that there are two outputs whatever the signs are.
        drawn = Data(f"{data.name}, {plan.samples} samples with random signs {draw}", x, signs, x[:2], torch.arange(2))
        accuracies = []
        for restart in range(plan.restarts):
            place = folder / f"signs-{draw}-of-{plan.samples}-seed-{restart}"
            one = replace(setting, num_samples=None, label_noise=0.0, num_confused=0, seed=restart)
            accuracies.append(_trained(one, drawn, plan, place, bar).end.train.accuracy or 0.0)
        found.append(2 * max(accuracies) - 1)
    return rademacher_estimate(found)


def _trained(setting: Setting, data: Data, plan: Plan, place: Path, bar: tqdm[None]) -> Result:
    bar.set_postfix_str(place.name)
    result = train(setting, data, place, metrics="ParameterCount", stop=plan.stop, moments=_AT_THE_END, probe=2)
    bar.update()
    return result


def study_capacity(settings: Sequence[Setting], data: Data, plan: Plan, output: Path) -> tuple[pd.DataFrame, str]:
    """Both capacities of networks of several widths.

    Finished trainings are not repeated. ``capacity.csv`` has a row a width, ``errors.csv`` one for each number of
    samples that was tried.

    Args:
        settings: Differ in their widths.
        data: Samples.
        plan: What is trained.
        output: Folder of all that is written.

    Returns:
        The table, and what is to be said.

    Raises:
        ValueError: If a folder has networks of something else, or there are too few samples.
    """
    rows, errors, notes = [], [], []
    with tqdm(desc="capacity", unit="network") as bar:
        for setting in settings:
            place = output / "networks" / f"width-{setting.width}"
            signs = signs_followed(setting, data, plan, place, bar)
            samples = samples_fitted(setting, data, plan, place, bar)
            rows.append(
                {
                    "width": setting.width,
                    "samples_fitted": samples.value,
                    "is_all": samples.is_all,
                    "rademacher": signs.value,
                    "standard_error": signs.standard_error,
                }
            )
            notes += [] if samples.is_monotone else [f"width {setting.width} {samples}"]
            for size, found in sorted(samples.errors.items()):
                errors += [(setting.width, size, seed, value) for seed, value in enumerate(found)]
    table = pd.DataFrame(rows)
    table.to_csv(output / "capacity.csv", index=False)
    pd.DataFrame(errors, columns=["width", "samples", "seed", "error"]).to_csv(output / "errors.csv", index=False)
    return table, _text(table, data, plan, notes)


def _text(table: pd.DataFrame, data: Data, plan: Plan, notes: Sequence[str]) -> str:
    shown = pd.DataFrame(
        {
            "width": table["width"],
            "samples fitted": [
                f"{'>= ' if is_all else ''}{value}"
                for value, is_all in zip(table["samples_fitted"], table["is_all"], strict=True)
            ],
            "random signs": [
                f"{value:.3f} +- {error:.3f}"
                for value, error in zip(table["rademacher"], table["standard_error"], strict=True)
            ],
        }
    )
    return "\n".join(
        [
            f"Trained until {plan.stop}, at most {plan.stop.max_steps:,} steps.",
            "",
            shown.to_string(index=False),
            "",
            f"samples fitted: effective model complexity, the most samples of {data.name} that are fitted with a mean",
            f"training error of at most {plan.error:g} over {plan.seeds} seeds, found up to {plan.resolution:.0%}; "
            ">= where these are all.",
            f"random signs: empirical Rademacher complexity of signs of outputs on {plan.samples} samples, the mean of",
            f"{plan.draws} draws: a lower bound, as training need not find the best fit. 1: all signs are fitted.",
            *notes,
        ]
    )
