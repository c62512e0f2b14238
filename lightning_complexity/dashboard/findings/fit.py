"""How training and validation samples compare: overfitting, memorised labels, leaks, other data."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from lightning_complexity.dashboard.findings.evidence import (
    SURE,
    TINY,
    VAL_ACCURACY,
    Curve,
    Evidence,
    certainty,
    common,
    number,
    percent,
    with_error,
)
from lightning_complexity.dashboard.findings.finding import Finding

RISE = 0.15
"""Rise of the validation loss over its best value: less than that costs nothing that a test would see."""
ERRORS = 3.0
"""Standard errors: once in 700 by chance, where a run is looked at a few times."""
GAP = 0.1
"""Of accuracies: what is worth a sentence, however sure."""
LARGE_GAP = 0.2
"""Of accuracies, or of the initial loss: more than small data sets have with a fitting network."""
CHANGED = 1e-2
"""Range of a loss over its first value: losses that stay at that of guessing are equal without a leak."""
FITTED_ACCURACY, FITTED_LOSS = 0.95, 0.9
"""Accuracy, or share of the initial loss that is gone, of training samples that may have been memorised."""
CLOSE = 1.25
"""Validation loss over training loss of a network that has fitted its samples: unseen ones have more."""


def overfitting(evidence: Evidence) -> Iterator[Finding]:
    """The validation loss rises beyond its noise while the training loss falls.

    Needs ``probe/train_loss`` and ``probe/val_loss`` at four moments.
    """
    train, val = common(evidence.train_loss, evidence.val_loss)
    if len(val) < 4 or val.values.min() <= 0:
        return
    best = int(np.argmin(val.values))
    rise, fall = val.last - val.values[best], train.values[best] - train.last
    error = max(math.hypot(val.noise, val.noise), TINY)
    if len(val) - best < 3 or rise < max(RISE * val.values[best], ERRORS * error) or fall <= 2 * train.noise:
        return
    step = int(val.steps[best])
    yield Finding(
        "overfitting",
        "warning",
        f"Overfitting begins at step {step}: the validation loss rises from {number(val.values[best])} to "
        f"{number(val.last)}, while the training loss falls on.",
        f"A rise of {number(rise)} +- {number(error)}; the training loss falls by {number(fall)} meanwhile.",
        value=float(rise),
        standard_error=error,
        confidence=certainty(rise / max(error, RISE * val.values[best])),
        next_step='Stop there (EarlyStopping("probe/val_loss", mode="min")), or use more samples, weight decay, or '
        "ComplexityPenalty(regularizers.GeometricComplexity(1e-3)).",
        step=step,
    )


def memorised_labels(evidence: Evidence) -> Iterator[Finding]:
    """Training samples are fitted and validation is as good as guessing: labels that say nothing.

    Needs accuracies on both probes.
    """
    train, val = common(evidence.train_accuracy, evidence.val_accuracy)
    if len(val) < 3:
        return
    gap, error = train.last - val.last, _gap_error(evidence, train.last, val.last)
    gain, gain_error = val.last - val.first, _gap_error(evidence, val.first, val.last)
    if gap < max(3 * GAP, ERRORS * error) or abs(gain) > max(2 * gain_error, 0.2 * gap):
        return
    yield Finding(
        "memorised_labels",
        "fault",
        f"Training labels are memorised: {percent(train.last)} of training samples are right, and {percent(val.last)} "
        f"of validation samples, hardly other than the {percent(val.first)} at the beginning.",
        f"The gap is {number(gap)} +- {number(error)}, the gain on validation {number(gain)} +- {number(gain_error)}.",
        value=gap,
        standard_error=error,
        confidence=min(certainty(gap / error), 0.95),
        next_step="Look at samples with their labels: are they shuffled against each other? If they are right, "
        "there is nothing in the inputs that tells new samples apart.",
    )


def noisy_training_labels(evidence: Evidence) -> Iterator[Finding]:
    """Validation samples are classified better than training samples, with one network in evaluation mode.

    Needs accuracies on both probes.
    """
    train, val = common(evidence.train_accuracy, evidence.val_accuracy)
    if len(val) < 3:
        return
    later = slice(-max(1, len(val) // 4), None)
    excess = float(np.mean(val.values[later] - train.values[later]))
    error = _gap_error(evidence, train.last, val.last)
    if excess < max(GAP / 2, ERRORS * error) or val.last <= val.first:
        return
    yield Finding(
        "noisy_training_labels",
        "warning",
        f"Validation is better than training: {percent(val.last)} right against {percent(train.last)}.",
        f"A difference of {number(excess)} +- {number(error)} on probes of one network in evaluation mode.",
        value=excess,
        standard_error=error,
        confidence=certainty(excess / error),
        next_step="Look at training samples with the largest loss: some labels are wrong, it seems, or samples "
        "harder (augmented) than those of validation.",
    )


def validation_differs(evidence: Evidence) -> Iterator[Finding]:
    """Validation falls behind within the first passes over the data, before samples can be memorised; or below chance.

    Needs ``probe/train_loss`` and ``probe/val_loss``; accuracies where there are any.
    """
    train, val = common(evidence.train_loss, evidence.val_loss)
    if len(val) < 3 or train.first <= 0 or not evidence.history:
        return
    early = _early(evidence, train)
    if early is None:
        return
    gone, kept = train.first - train.values[early], val.first - val.values[early]
    accuracy = _accuracies_at(evidence, train.steps[early])
    behind, error = (None, 0.0)
    if accuracy is not None:
        behind, error = accuracy[0] - accuracy[1], _gap_error(evidence, *accuracy)
    sure = behind is None or behind > max(2 * GAP, ERRORS * error)
    if gone < 0.1 * train.first or kept > gone / 4 or not sure:
        return
    step = int(train.steps[early])
    course = f"the training loss has fallen by {number(gone)}, the validation loss by {number(kept)}"
    accuracies = "" if behind is None else f" Accuracies differ by {number(behind)} +- {number(error)} there."
    if _may_be_memorised(evidence, step, gone / train.first):
        yield Finding(
            "validation_differs",
            "warning",
            "Validation gains nothing where training samples are fitted after few passes over the data: at step "
            f"{step} {course}.",
            "Training samples are few for so large a network, so that they are memorised at once, or validation "
            f"samples are of another kind.{accuracies}",
            value=float(gone - kept),
            confidence=0.8,
            next_step="Use more samples, augmentation or a smaller network; and compare what both loaders give: "
            "preprocessing, order of classes, split.",
            step=step,
        )
        return
    yield Finding(
        "validation_differs",
        "fault",
        f"Validation samples are of another kind than training samples: at step {step}, after few passes over the "
        f"data, {course}.",
        f"Samples are hardly memorised so early.{accuracies}",
        value=float(gone - kept),
        confidence=0.9 if behind is None else min(certainty(behind / error), 0.95),
        next_step="Compare what both loaders give: preprocessing, order of classes, split. "
        "Measure on both with a second ComplexityMonitor(probe=..., name=...).",
        step=step,
    )


def _may_be_memorised(evidence: Evidence, step: int, gone: float) -> bool:
    """Whether training samples are fitted, so that there is no telling, and validation is not worse than guessing."""
    accuracy, val = _accuracies_at(evidence, step), evidence.val_accuracy
    if accuracy is None:
        return gone >= FITTED_LOSS
    worse = val.first - accuracy[1] > ERRORS * evidence.accuracy_error(val.first, VAL_ACCURACY)
    return accuracy[0] >= FITTED_ACCURACY and not worse


def leaking_validation(evidence: Evidence) -> Iterator[Finding]:
    """Validation is as training: the same values, or no gap although samples took long to fit.

    Needs ``probe/train_loss`` and ``probe/val_loss``; accuracies for the second part.
    """
    train, val = common(evidence.train_loss, evidence.val_loss)
    if len(val) < 3:
        return
    next_step = (
        "Look for samples that are in both sets (duplicates, patients or scenes that were split), and split by them."
    )
    differences = np.abs(train.values - val.values)
    if np.all(differences <= 1e-6 * np.abs(train.values)) and np.ptp(train.values) > CHANGED * abs(train.first):
        yield Finding(
            "leaking_validation",
            "fault",
            "Validation samples are the training samples: their losses are equal at every moment.",
            f"{len(val)} losses are equal to six digits.",
            value=float(differences.max()),
            confidence=SURE,
            next_step=next_step,
        )
        return
    fitted = _fitted(evidence)
    slow = _slow(evidence)
    if not fitted or not slow or val.last > CLOSE * train.last or train.last <= 0:
        return
    ratio = val.last / train.last
    yield Finding(
        "leaking_validation",
        "warning",
        "Validation samples may be among the training samples: after many passes all are fitted, these as well.",
        f"The validation loss is {number(ratio)} times the training loss, and {percent(evidence.val_accuracy.last)} "
        "are right, where it took many passes to fit the training samples.",
        value=ratio,
        confidence=0.7,
        next_step=next_step + " If there are none, the task is an easy one.",
    )


def generalization_gap(evidence: Evidence) -> Iterator[Finding]:
    """How much better training samples fare than validation samples, at the end; a warning where it is a lot.

    Needs accuracies on both probes; for regression their losses, of which the gap is taken over the initial one.
    """
    train, val = common(evidence.train_accuracy, evidence.val_accuracy)
    error: float | None
    if len(val):
        gap, error = train.last - val.last, _gap_error(evidence, train.last, val.last)
        what = f"{percent(train.last)} of training samples are right, {percent(val.last)} of validation samples"
    else:
        train, val = common(evidence.train_loss, evidence.val_loss)
        if len(val) < 2 or train.first <= 0:
            return
        gap = (val.last - train.last) / train.first
        error = None if val.error is None else math.hypot(val.noise, train.noise) / train.first
        what = f"the training loss is {number(train.last)}, the validation loss {number(val.last)}"
    if gap < max(GAP, ERRORS * (error or 0.0)):
        return
    large = gap >= LARGE_GAP
    yield Finding(
        "generalization_gap",
        "warning" if large else "note",
        f"There is a {'large ' if large else ''}generalization gap: {what}.",
        f"The gap is {with_error(gap, error)}{'' if len(evidence.val_accuracy) else ' of the initial loss'}.",
        value=gap,
        standard_error=error,
        interval=None if error is None else (gap - 1.96 * error, gap + 1.96 * error),
        confidence=certainty(gap / max(error or 0.0, GAP / 2)),
        next_step="Use more samples or augmentation, weight decay, or a penalty such as "
        "ComplexityPenalty(regularizers.GeometricComplexity(1e-3)).",
    )


def _gap_error(evidence: Evidence, train: float, val: float) -> float:
    return math.hypot(evidence.accuracy_error(train), evidence.accuracy_error(val, VAL_ACCURACY))


def _early(evidence: Evidence, train: Curve) -> int | None:
    """The last place, not the first, within the first two passes over the data."""
    epochs = {m.step: m.epoch for m in evidence.history}
    if evidence.run.source == "events" and not any(epochs.values()):
        return None  # event files need not say the epoch
    places = [i for i, step in enumerate(train.steps) if i and epochs[int(step)] <= 1]
    return places[-1] if places else None


def _accuracies_at(evidence: Evidence, step: float) -> tuple[float, float] | None:
    train, val = common(evidence.train_accuracy, evidence.val_accuracy)
    place = np.flatnonzero(train.steps == step)
    return (float(train.values[place[0]]), float(val.values[place[0]])) if len(place) else None


def _fitted(evidence: Evidence) -> bool:
    train, val = common(evidence.train_accuracy, evidence.val_accuracy)
    if not len(val) or train.last < 0.98 or evidence.progress is None or evidence.progress < 0.9:
        return False
    return val.last >= train.last - 0.005


def _slow(evidence: Evidence) -> bool:
    """Whether the training samples were far from fitted after five passes."""
    epochs = {m.step: m.epoch for m in evidence.history}
    train = evidence.train_accuracy
    later = [v for step, v in zip(train.steps, train.values, strict=True) if epochs[int(step)] >= 5]
    return bool(later) and later[0] < 0.9
