"""What is trained, until when, and when it is looked at."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any

from lightning_complexity.studies.training.optimizers import OPTIMIZERS, OptimizerName


def _check(is_right: bool, name: str, needed: str, value: object) -> None:
    if not is_right:
        raise ValueError(f"{name} must be {needed}, got {value!r}.")


def _is_whole(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


@dataclass(frozen=True)
class Setting:
    """The hyper-parameters of one network: a multilayer perceptron with ReLU, and how it is trained.

    Attributes:
        width: Units of each hidden layer.
        depth: Hidden layers.
        optimizer: ``"sgd"``, ``"momentum"`` (0.9), ``"adam"``, ``"rmsprop"``, ``"lbfgs"`` (all samples in each step) or
            ``"path_sgd"``.
        learning_rate: Its learning rate.
        batch_size: Samples of a step; not for ``"lbfgs"``.
        weight_decay: Factor of half the squared norm of the parameters in the loss.
        dropout: Share of hidden activations that are dropped in training.
        num_samples: How many samples are trained on; all with ``None``.
        label_noise: Share of them whose class is drawn at random; 1 for random labels.
        num_confused: How many further samples with false classes are trained on.
        batch_norm: Whether hidden layers have batch normalization.
        seed: Of the choice of samples, their labels, the initialization and the order of samples.
    """

    width: int = 64
    depth: int = 2
    optimizer: OptimizerName = "sgd"
    learning_rate: float = 0.1
    batch_size: int = 32
    weight_decay: float = 0.0
    dropout: float = 0.0
    num_samples: int | None = None
    label_noise: float = 0.0
    num_confused: int = 0
    batch_norm: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("width", "depth", "batch_size"):
            _check(_is_whole(getattr(self, name), 1), name, "a whole number of at least 1", getattr(self, name))
        for name in ("num_confused", "seed"):
            _check(_is_whole(getattr(self, name), 0), name, "a whole number of at least 0", getattr(self, name))
        _check(
            self.num_samples is None or _is_whole(self.num_samples, 1),
            "num_samples",
            "a whole number of at least 1, or None",
            self.num_samples,
        )
        _check(self.optimizer in OPTIMIZERS, "optimizer", f"one of {', '.join(OPTIMIZERS)}", self.optimizer)
        rate, decay = self.learning_rate, self.weight_decay
        _check(_is_number(rate) and rate > 0, "learning_rate", "a positive number", rate)
        _check(_is_number(decay) and decay >= 0, "weight_decay", "a number of at least 0", decay)
        _check(_is_number(self.dropout) and 0 <= self.dropout < 1, "dropout", "at least 0 and below 1", self.dropout)
        noise = self.label_noise
        _check(_is_number(noise) and 0 <= noise <= 1, "label_noise", "between 0 and 1", noise)
        if self.optimizer == "lbfgs" and self.dropout:
            raise ValueError("optimizer='lbfgs' needs a loss that does not change by itself: set dropout=0.")
        if self.optimizer == "path_sgd" and self.batch_norm:
            raise ValueError("optimizer='path_sgd' is not defined with batch normalization: set batch_norm=False.")


@dataclass(frozen=True)
class Stop:
    """When training is over.

    It is checked on all training samples, in evaluation mode: ten times an epoch once it is near, and twice where there
    are more than 2,000 of them.

    Attributes:
        loss: The mean loss on them, cross-entropy for classes, is at most so much,
        zero_error: and none of them is classified wrongly;
        max_steps: or so many optimizer steps are done. The criterion then counts as not reached.
    """

    loss: float = 0.01
    zero_error: bool = True
    max_steps: int = 20_000

    def __post_init__(self) -> None:
        _check(_is_number(self.loss) and self.loss > 0, "loss", "a positive number", self.loss)
        _check(_is_whole(self.max_steps, 1), "max_steps", "a whole number of at least 1", self.max_steps)

    def is_reached(self, loss: float, accuracy: float | None) -> bool:
        """Whether a loss and an accuracy on all training samples fulfil the criterion.

        Args:
            loss: The mean loss.
            accuracy: ``None`` where there are no classes; then the loss decides.
        """
        return loss <= self.loss and (not self.zero_error or accuracy is None or accuracy == 1)

    def __str__(self) -> str:
        """The criterion in words."""
        return f"training loss at most {self.loss:g}" + (" and no training error" if self.zero_error else "")


@dataclass(frozen=True)
class Moments:
    """When networks are measured and judged, beside their initialization and their end.

    Attributes:
        steps: After so many optimizer steps, to compare networks at equal steps.
        losses: When the training loss first is at most so much, to compare networks at equal loss.
        share: After this share of ``max_steps``; ``None`` for not.
    """

    steps: tuple[int, ...] = (10, 30, 100, 300, 1000, 3000, 10_000)
    losses: tuple[float, ...] = (1.0, 0.3, 0.1, 0.03)
    share: float | None = 0.1

    def __post_init__(self) -> None:
        for step in self.steps:
            _check(_is_whole(step, 1), "steps", "whole numbers of at least 1", step)
        for loss in self.losses:
            _check(_is_number(loss) and loss > 0, "losses", "positive numbers", loss)
        _check(
            self.share is None or (_is_number(self.share) and 0 < self.share < 1),
            "share",
            "between 0 and 1, or None",
            self.share,
        )

    def at_step(self, step: int, max_steps: int) -> list[str]:
        """Names of the moments that come with a step.

        Example:
            >>> Moments(steps=(10, 30), share=0.1).at_step(10, max_steps=100)
            ['step 10', 'share 0.1']
        """
        names = [f"step {step}"] if step in self.steps else []
        is_share = self.share is not None and step == max(round(self.share * max_steps), 1)
        return [*names, f"share {self.share:g}"] if is_share else names


def as_dict(value: Setting | Stop | Moments) -> dict[str, Any]:
    """The fields as JSON has them: lists in the place of tuples."""
    found = {field.name: getattr(value, field.name) for field in fields(value)}
    return {name: list(v) if isinstance(v, tuple) else v for name, v in found.items()}
