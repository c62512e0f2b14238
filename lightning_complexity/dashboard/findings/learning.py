"""Whether anything was learned: divergence, a loss without a floor, no progress, constant predictions."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lightning_complexity.dashboard.findings.evidence import (
    SURE,
    TINY,
    Curve,
    Evidence,
    certainty,
    number,
    percent,
    with_error,
)
from lightning_complexity.dashboard.findings.finding import Finding
from lightning_complexity.dashboard.runs import TRAIN_LOSS

NO_PROGRESS = 0.05
"""Share of the initial loss. A network that knows only the classes' frequencies already gets some of it."""
POOR_PROGRESS = 0.4
"""Share of the initial loss: most of what there was to learn was not."""
RISE = 1.5
"""A final loss of so many times the initial one is worse than no training, also where the first was a lucky one."""
WITHOUT_FLOOR = 3.0
"""A loss that falls so many times its initial size below zero; densities have negative losses, but moderate ones."""
NO_MOVEMENT = 0.02
"""Distance from initialization over the initial norm; trainings that learn move by a tenth and more."""
SMALL_GRADIENT = 1e-3
"""The first layer's gradient over the last one's; depth and width alone change it by about ten."""
LARGE_STEP = 0.5
"""Distance of one measured interval over the norm of the parameters."""


def divergence(evidence: Evidence) -> Iterator[Finding]:
    """The training loss or the weights are not finite, or the loss is above where it began.

    Needs ``probe/train_loss`` or ``complexity/parameter_norm``.
    """
    lower_rate = "Lower the learning rate by ten, or set Trainer(gradient_clip_val=1.0); look at the inputs for nan."
    for key, what in ((TRAIN_LOSS, "training loss"), ("complexity/parameter_norm", "norm of the parameters")):
        step = evidence.first_not_finite(key)
        if step is not None:
            yield Finding(
                "divergence",
                "fault",
                f"Training diverged: the {what} is not finite from step {step} on.",
                f"{key} is not finite at step {step}.",
                confidence=SURE,
                next_step=lower_rate,
                step=step,
            )
            return
    loss = evidence.train_loss
    if len(loss) < 2 or loss.first <= 0 or loss.last <= RISE * loss.first:
        return
    rise = loss.last - loss.first
    yield Finding(
        "divergence",
        "fault",
        f"The training loss rose from {number(loss.first)} to {number(loss.last)}.",
        f"A rise of {with_error(rise, loss.error)}.",
        value=rise,
        standard_error=loss.error,
        confidence=certainty(rise / max(loss.noise, 0.2 * loss.first, TINY)),
        next_step=lower_rate + " If the loss rises smoothly, look at its sign.",
        step=int(loss.steps[int(np.argmax(loss.values > RISE * loss.first))]),
    )


def wrong_sign(evidence: Evidence) -> Iterator[Finding]:
    """The loss falls far below zero, or falls while the training accuracy does.

    Needs ``probe/train_loss``; ``probe/train_accuracy`` makes it surer.
    """
    loss, accuracy = evidence.train_loss, evidence.train_accuracy
    if len(loss) < 3:
        return
    below = loss.last < -WITHOUT_FLOOR * abs(loss.first) - 10 * loss.noise and loss.last <= loss.values.min() / 2
    error = math.hypot(*(evidence.accuracy_error(accuracy.first) for _ in range(2))) if len(accuracy) else 0.0
    fall = (accuracy.first - accuracy.last) / error if len(accuracy) >= 2 else 0.0
    opposed = fall > 2 and loss.last < loss.first - 3 * loss.noise
    if not (below or opposed):
        return
    also = f" while training accuracy fell to {percent(accuracy.last)}" if opposed else ""
    yield Finding(
        "wrong_sign",
        "fault",
        f"The training loss falls without a floor, from {number(loss.first)} to {number(loss.last)}{also}.",
        "Losses that measure an error are not negative; this one is minimized in the wrong direction, it seems.",
        value=loss.last,
        standard_error=loss.error,
        confidence=0.95 if below and opposed else 0.85,
        next_step="Look at the sign of what training_step returns.",
    )


def no_progress(evidence: Evidence) -> Iterator[Finding]:
    """The training loss is about where it began, and why, as far as weights and gradients tell.

    Needs ``probe/train_loss`` at two moments; ``complexity/distance_from_initialization`` and
    ``complexity/parameter_norm`` tell a small learning rate, ``complexity/gradient_norm`` with ``per_layer=True`` a
    vanishing gradient.
    """
    loss, progress = evidence.train_loss, evidence.progress
    if progress is None or loss.last > RISE * loss.first or progress >= POOR_PROGRESS:
        return
    moved = _movement(evidence)
    ratio = _gradient_ratio(evidence)
    what = f"The training loss went from {number(loss.first)} to {number(loss.last)} in {evidence.last_step} steps"
    error = None if loss.error is None else loss.error / loss.first
    if ratio is not None and ratio[0] < SMALL_GRADIENT:
        yield Finding(
            "vanishing_gradient",
            "fault",
            f"{what}; gradients hardly reach {ratio[1]}.",
            f"The gradient of {ratio[1]} is {number(ratio[0])} of the last layer's.",
            confidence=0.9,
            next_step="Use ReLU, normalization layers or skip connections, or fewer layers.",
            value=progress,
            standard_error=error,
        )
    elif moved is not None and moved < NO_MOVEMENT:
        yield Finding(
            "learning_rate_too_small",
            "fault",
            f"{what}, and the weights hardly moved.",
            f"All parameters moved by {percent(moved)} of their initial norm.",
            confidence=0.9 if progress < NO_PROGRESS else 0.75,
            next_step="Raise the learning rate by ten to a hundred, or find one by Lightning's Tuner.lr_find; "
            "look for a gradient of zero.",
            value=progress,
            standard_error=error,
        )
    elif progress < NO_PROGRESS + 2 * (error or 0.0):
        missing = (
            "" if ratio is not None else ' Measure "GradientNorm" with per_layer=True to see whether gradients vanish.'
        )
        yield Finding(
            "not_learning",
            "fault",
            f"{what}: nothing was learned.",
            f"That is {percent(progress)} of it"
            + ("." if error is None else f"; values next to each other differ by {percent(error)}."),
            confidence=0.8,
            next_step="Check that targets belong to their inputs, and that the network in evaluation mode is the one "
            f"that is trained (BatchNorm, dropout); try another learning rate.{missing}",
            value=progress,
            standard_error=error,
        )
    else:
        yield from _underfitting(evidence, progress, error)


def _underfitting(evidence: Evidence, progress: float, error: float | None) -> Iterator[Finding]:
    loss = evidence.train_loss
    later = loss.since(evidence.last_step * 2 / 3)
    falls = len(later) >= 2 and later.first - later.last > max(3 * loss.noise, 0.02 * loss.first)
    if len(later) < 2:
        course, first = (
            "What it does in the last third of the training was not measured.",
            "Train longer, and measure more often",
        )
    elif falls:
        course, first = "It still falls over the last third of the training.", "Train longer"
    else:
        course, first = "It no longer falls over the last third of the training.", "Use a larger network"
    yield Finding(
        "underfitting",
        "warning",
        f"Training samples are not fitted: their loss is {number(loss.last)}, {percent(1 - progress)} of the first.",
        course,
        value=progress,
        standard_error=error,
        confidence=0.7,
        next_step=f"{first}; use less dropout, weaker penalties and weight decay, or another learning rate; if targets "
        "are noisy, this may be all there is to learn.",
    )


def constant_prediction(evidence: Evidence) -> Iterator[Finding]:
    r"""Accuracies never change, and the loss is no lower than that of a constant answer.

    A network that gives all samples the same answer, right for a share :math:`p`, has a loss of at least
    :math:`-p \ln p - (1 - p) \ln (1 - p)`. Needs ``probe/train_loss`` and ``probe/train_accuracy``.
    """
    accuracy, loss = evidence.train_accuracy, evidence.train_loss
    if len(accuracy) < 4 or not len(loss):
        return
    p, val = accuracy.last, evidence.val_accuracy
    since = max(_constant_since(accuracy), _constant_since(val) if len(val) else -math.inf)
    constant = len(accuracy.since(since))
    floor = -p * math.log(p) - (1 - p) * math.log1p(-p) if 0 < p < 1 else 0.0
    if not (0 < p < 1 and constant >= max(4, len(accuracy) / 2) and loss.last > 0.97 * floor):
        return
    yield Finding(
        "constant_prediction",
        "fault",
        f"All samples seem to get the same answer: training accuracy is {percent(p)} at {constant} moments in a row.",
        f"The loss of {number(loss.last)} is not below {number(floor)}, the least of a constant answer so often right.",
        value=p,
        standard_error=evidence.accuracy_error(p),
        confidence=0.9 if len(val) else 0.8,
        next_step="Count the classes: with one that is frequent, weigh the loss (CrossEntropyLoss(weight=...)) or the "
        "sampler, and watch a balanced accuracy; else look for dead units and a learning rate that is too large.",
        step=int(since),
    )


def _constant_since(curve: Curve) -> float:
    """The step since which a curve has its last value."""
    changed = np.flatnonzero(curve.values != curve.last)
    return float(curve.steps[int(changed[-1]) + 1 if len(changed) else 0])


def restless(evidence: Evidence) -> Iterator[Finding]:
    """A learning rate that is too large: the loss on fixed samples jumps, or the first steps undo the initialization.

    Needs ``probe/train_loss`` at eight moments, or ``complexity/distance_from_initialization`` and
    ``complexity/parameter_norm`` where nothing was learned.
    """
    loss = evidence.train_loss
    moved, norm = evidence.curve("complexity/distance_from_initialization"), evidence.curve("complexity/parameter_norm")
    lower = "Lower the learning rate by three to ten, warm it up, or set Trainer(gradient_clip_val=1.0)."
    if len(loss) >= 8 and loss.first > 0:
        half = loss.since(loss.steps[len(loss) // 2])
        best = max(float(loss.values.min()), 0.0)
        size = half.noise / max(loss.first - best, 0.05 * loss.first)
        spike = float(loss.values.max()) / loss.first
        if size > JUMPS or (spike > SPIKE and loss.last < RISE * loss.first):
            yield Finding(
                "learning_rate_too_large",
                "fault",
                f"The training loss jumps up and down, by {number(half.noise)} between moments.",
                f"That is {percent(size)} of all that it fell; its largest value is {number(spike)} times the first.",
                value=half.noise,
                confidence=0.9 if size > 2 * JUMPS or spike > 2 * SPIKE else 0.75,
                next_step=lower,
            )
            return
    stuck = evidence.progress is not None and evidence.progress < NO_PROGRESS
    if stuck and len(moved) >= 3 and len(norm) and norm.first > 0:
        largest = float(np.abs(np.diff(moved.values)).max()) / norm.first
        if largest > LARGE_STEP:
            yield Finding(
                "learning_rate_too_large",
                "fault",
                "The weights took steps as large as themselves, and nothing was learned.",
                f"The distance from initialization changed by {percent(largest)} of the initial norm at once.",
                value=largest,
                confidence=0.85,
                next_step=lower,
                step=int(moved.steps[1 + int(np.argmax(np.abs(np.diff(moved.values))))]),
            )


def evaluation_differs(evidence: Evidence) -> Iterator[Finding]:
    """Weights move, the gradient is large, and the loss does not fall: it is not this loss that is trained.

    Along its gradient, a loss falls by norm of gradient times distance. Where that is as much as the initial loss, and
    nothing falls, training goes another way than down: the network in training mode is another one than that in
    evaluation mode, or steps are too large for the curvature. Needs ``probe/train_loss``,
    ``complexity/gradient_norm`` (suite ``"full"``) and ``complexity/distance_from_initialization``.
    """
    since = evidence.last_step * 2 / 3
    loss, gradient = evidence.train_loss, evidence.curve("complexity/gradient_norm").since(since)
    distance = evidence.curve("complexity/distance_from_initialization").since(since)
    later = loss.since(since)
    if min(len(later), len(gradient), len(distance)) < 3 or loss.first <= 0 or loss.last > loss.first:
        return
    expected = float(np.median(gradient.values)) * abs(distance.last - distance.first)
    fall = later.first - later.last
    if expected < EXPECTED * loss.first or fall > 2 * loss.noise or loss.last < NO_PROGRESS * loss.first:
        return
    yield Finding(
        "evaluation_differs",
        "warning",
        f"The loss in evaluation mode, {number(loss.last)}, no longer falls, where its gradient is large.",
        f"The weights' last movements, along a gradient of {number(float(np.median(gradient.values)))}, would lower it "
        f"by {number(expected)}; it fell by {with_error(fall, loss.error)}.",
        value=fall,
        standard_error=loss.error,
        confidence=0.7,
        next_step="Compare the loss in training mode with this one: are running statistics of BatchNorm up to date "
        "(momentum, batch size), is dropout too strong? If they agree, lower the learning rate.",
        step=int(later.steps[0]),
    )


EXPECTED = 0.5
"""Fall by the gradient over the initial loss; in trainings that learn it is a tenth to a third, and the loss falls."""
JUMPS = 0.15
"""Noise of the loss, on the same samples, over all that it fell: usual minibatch noise stays below a few hundredths."""
SPIKE = 3.0
"""Largest loss over the initial one, of a training that came back."""


def _movement(evidence: Evidence) -> float | None:
    distance = evidence.curve("complexity/distance_from_initialization")
    norm = evidence.curve("complexity/parameter_norm")
    return distance.last / norm.first if len(distance) >= 2 and len(norm) and norm.first > 0 else None


def _gradient_ratio(evidence: Evidence) -> tuple[float, str] | None:
    """The gradient of the weights that get the least of it, over the most, and whose it is; zeros are not counted."""
    parts = {name: curve.first for name, curve in evidence.parts("gradient_norm").items() if name.endswith("weight")}
    alive = {name: value for name, value in parts.items() if value > 0}
    if len(alive) < 2 or len(alive) < len(parts):
        return None
    least = min(alive, key=lambda name: alive[name])
    return alive[least] / max(alive.values()), least
