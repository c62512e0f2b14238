"""Faults of kinds that no rule was written for, or developed with: what is found of what nobody thought of?"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import nn

from lightning_complexity import ComplexityPenalty
from lightning_complexity.regularizers import ParameterNorm
from tests.dashboard.findings.bases import sgd
from tests.dashboard.findings.faults import layers, with_optimizer
from tests.dashboard.findings.trainings import Training


def high_temperature(t: Training) -> Training:
    loss = t.loss
    return replace(t, loss=lambda outputs, targets: loss(outputs / 1000, targets))


def sorted_by_class(t: Training) -> Training:
    x, y, val_x, val_y = t.data
    order = torch.argsort(y)
    return replace(t, data=(x[order], y[order], val_x, val_y), shuffle=False)


def far_targets(t: Training) -> Training:
    x, y, val_x, val_y = t.data
    return replace(t, data=(x, y + 100, val_x, val_y + 100))


def strong_penalty(t: Training) -> Training:
    return replace(t, callbacks=(ComplexityPenalty(ParameterNorm(10.0)),))


def zero_weights(t: Training) -> Training:
    for parameter in t.network.parameters():
        nn.init.zeros_(parameter)
    return t


def saturated(t: Training) -> Training:
    for layer in layers(t.network)[:-1]:
        layer.weight.data.mul_(100)
    return t


def same_validation(t: Training) -> Training:
    x, y, _, _ = t.data
    return replace(t, data=(x, y, x, y))


def shuffled_validation(t: Training) -> Training:
    x, y, val_x, val_y = t.data
    return replace(t, data=(x, y, val_x, val_y[torch.randperm(len(val_y))]))


def label_among_inputs(t: Training) -> Training:
    """What will not be known of new samples."""
    x, y, val_x, val_y = t.data
    x[:, :10] = 4 * nn.functional.one_hot(y, 10).float()
    val_x[:, :10] = 0
    return replace(t, data=(x, y, val_x, val_y))


NOT_LEARNING = ("not_learning", "vanishing_gradient", "learning_rate_too_small", "underfitting")
UNSEEN: dict[str, tuple[Callable[[Training], Training], str, tuple[str, ...]]] = {
    "temperature of 1000": (high_temperature, "digits, ELU", NOT_LEARNING),
    "sorted by class": (
        sorted_by_class,
        "digits, linear",
        ("learning_rate_too_large", "evaluation_differs", "not_learning"),
    ),
    "targets far from zero": (far_targets, "taught, MLP", ("input_scale",)),
    "penalty too strong": (strong_penalty, "digits, wide MLP, Adam", ("too_strong_penalty",)),
    "weights of zero": (zero_weights, "digits, wide MLP, Adam", ("dead_units", "not_learning", "vanishing_gradient")),
    "saturated": (saturated, "digits, ELU", ("exploding_gradient", "input_scale", "vanishing_gradient")),
    "training set as validation": (same_validation, "cancer, leaky", ("leaking_validation",)),
    "shuffled validation labels": (shuffled_validation, "blobs, MLP", ("validation_differs", "memorised_labels")),
    "label among the inputs": (label_among_inputs, "digits, residual", ("validation_differs", "overfitting")),
    "momentum of 0.999": (
        with_optimizer(sgd(0.1, 0.999)),
        "digits, deep MLP",
        ("learning_rate_too_large", "divergence", "evaluation_differs"),
    ),
}
