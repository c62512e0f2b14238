"""Twenty faults that are planted into trainings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from lightning_complexity import ComplexityConstraint
from lightning_complexity.metrics import StableRank
from tests.dashboard.findings.bases import adam, mlp, sgd
from tests.dashboard.findings.trainings import Optimizer, Training


def layers(network: nn.Module) -> list[nn.Module]:
    return [m for m in network.modules() if isinstance(m, (nn.Linear, nn.Conv2d, nn.Embedding))]


def dead_layer(t: Training) -> Training:
    nn.init.constant_(layers(t.network)[-2].bias, -100.0)
    return t


def with_optimizer(optimizer: Optimizer, epochs: int | None = None) -> Callable[[Training], Training]:
    return lambda t: replace(t, optimizer=optimizer, epochs=epochs or t.epochs)


def noisy_labels(share: float, epochs: int) -> Callable[[Training], Training]:
    def plant(t: Training) -> Training:
        x, y, val_x, val_y = t.data
        wrong = torch.randint(int(y.max()) + 1, y.shape)
        y = torch.where(torch.rand(len(y)) < share, wrong, y)
        return replace(t, data=(x, y, val_x, val_y), epochs=epochs)

    return plant


def raw_inputs(t: Training) -> Training:
    x, y, val_x, val_y = t.data
    return replace(t, data=(127.5 * (x + 1), y, 127.5 * (val_x + 1), val_y))


def frozen_layer(t: Training) -> Training:
    layers(t.network)[-2].requires_grad_(False)
    return t


def forgotten_by_optimizer(t: Training) -> Training:
    return replace(t, trained=lambda network: layers(network)[-1].parameters())


def leaking_validation(t: Training) -> Training:
    """Few samples, and validation on half of them."""
    x, y, _, _ = t.data
    x, y = x[:200], y[:200]
    some = torch.randperm(len(x))[:100]
    return replace(t, data=(x, y, x[some], y[some]), epochs=40)


def exploding_gradient(t: Training) -> Training:
    for layer in layers(t.network):
        layer.weight.data.mul_(6)
    return t


def deep_sigmoid(t: Training) -> Training:
    x, y = t.data[0].flatten(1), t.data[1]
    classes = int(y.max()) + 1
    return replace(
        t,
        data=(x, y, t.data[2].flatten(1), t.data[3]),
        network=mlp(x.shape[1], *[32] * 7, classes, activation=nn.Sigmoid),
        optimizer=sgd(0.1),
    )


def imbalanced(t: Training) -> Training:
    """One class in twenty is another one, at a rate too small to see it."""

    def kept(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        first, other = (y == 0).nonzero()[:, 0], (y == 1).nonzero()[:, 0]
        index = torch.cat([first.repeat(19 * len(other) // len(first) + 1), other])
        index = index[torch.randperm(len(index))][:600]
        noise = 0.3 * torch.randn(len(index), *x.shape[1:]) if x.is_floating_point() else 0
        return x[index] + noise, y[index]

    x, y, val_x, val_y = t.data
    return replace(t, data=(*kept(x, y), *kept(val_x, val_y)), optimizer=sgd(0.002))


def few_samples(number: int, epochs: int, rate: float = 3e-3) -> Callable[[Training], Training]:
    def plant(t: Training) -> Training:
        x, y, val_x, val_y = t.data
        return replace(t, data=(x[:number], y[:number], val_x, val_y), epochs=epochs, optimizer=adam(rate))

    return plant


def shifted_targets(t: Training) -> Training:
    """The classes of validation are counted from one."""
    x, y, val_x, val_y = t.data
    return replace(t, data=(x, y, val_x, (val_y + 1) % (int(y.max()) + 1)))


def other_validation(t: Training) -> Training:
    """Validation is in another colour, so to speak."""
    x, y, val_x, val_y = t.data
    return replace(t, data=(x, y, -val_x, val_y))


def stale_statistics(t: Training) -> Training:
    """BatchNorm that never updates what it evaluates with, on inputs far from zero."""
    for module in t.network.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            module.momentum = 0.0
    x, y, val_x, val_y = t.data
    return replace(t, data=(10 * x + 10, y, 10 * val_x + 10, val_y))


def unreachable_constraint(t: Training) -> Training:
    """A stable rank is at least 1."""
    return replace(t, callbacks=(ComplexityConstraint(StableRank(), at_most=0.5, every_n_steps=5),))


def heavy_dropout(t: Training) -> Training:
    """Behind the inputs and in each hidden layer."""
    parts: Iterable[nn.Module] = t.network
    network = nn.Sequential(*(m for p in parts for m in ([nn.Dropout(0.95), p] if isinstance(p, nn.Linear) else [p])))
    return replace(t, network=network)


def wrong_sign(t: Training) -> Training:
    loss = t.loss
    return replace(t, loss=lambda outputs, targets: -loss(outputs, targets))


@dataclass(frozen=True)
class Fault:
    """A fault, what to plant it into, and which findings name it."""

    plant: Callable[[Training], Training]
    development: str
    grading: str
    names: tuple[str, ...]


SMALL = "learning_rate_too_small"
NOT_LEARNING = ("not_learning", "vanishing_gradient")
FAULTS: dict[str, Fault] = {
    "dead layer": Fault(dead_layer, "digits, MLP", "digits, CNN, SGD", ("dead_units", "collapsed_features")),
    "learning rate too large": Fault(
        with_optimizer(sgd(3.0)), "digits, MLP", "digits, residual", ("learning_rate_too_large", "divergence")
    ),
    "learning rate too small": Fault(with_optimizer(sgd(1e-4)), "digits, CNN", "digits, wide MLP, Adam", (SMALL,)),
    "label noise": Fault(
        noisy_labels(0.4, 40),
        "digits, MLP, Adam",
        "digits, wide MLP, Adam",
        ("overfitting", "memorised_labels", "noisy_training_labels"),
    ),
    "random labels": Fault(
        noisy_labels(1.0, 60), "digits, MLP, Adam", "digits, deep MLP", ("memorised_labels", "overfitting")
    ),
    "inputs not normalised": Fault(raw_inputs, "digits, CNN", "digits, weight decay", ("input_scale",)),
    "frozen layer": Fault(frozen_layer, "digits, MLP", "tokens, transformer", ("frozen_layer",)),
    "leaking validation": Fault(leaking_validation, "digits, MLP", "digits, wide MLP, Adam", ("leaking_validation",)),
    "exploding gradient": Fault(exploding_gradient, "digits, MLP", "digits, deep MLP", ("exploding_gradient",)),
    "vanishing gradient": Fault(deep_sigmoid, "digits, MLP", "cancer, leaky", NOT_LEARNING),
    "constant prediction": Fault(imbalanced, "digits, CNN", "digits, GELU, dropout", ("constant_prediction",)),
    "few samples": Fault(
        few_samples(40, 100), "friedman, MLP", "friedman, deep", ("overfitting", "generalization_gap")
    ),
    "weight decay too strong": Fault(
        with_optimizer(adam(1e-3, 300.0)), "digits, MLP", "friedman, deep", ("too_strong_penalty", "collapsed_norms")
    ),
    "targets shifted": Fault(shifted_targets, "digits, MLP", "digits, linear", ("validation_differs",)),
    "BatchNorm never updated": Fault(
        stale_statistics, "digits, BatchNorm", "digits, CNN, BatchNorm", (*NOT_LEARNING, "evaluation_differs")
    ),
    "constraint out of reach": Fault(
        unreachable_constraint, "digits, MLP", "digits, ELU", ("constraint_out_of_reach",)
    ),
    "dropout 0.95": Fault(heavy_dropout, "digits, MLP, Adam", "digits, weight decay", ("underfitting", *NOT_LEARNING)),
    "part not optimized": Fault(forgotten_by_optimizer, "digits, CNN", "tokens, wide bag", ("frozen_layer",)),
    "sign of the loss": Fault(wrong_sign, "digits, MLP", "taught, MLP", ("divergence", "wrong_sign")),
    "validation from elsewhere": Fault(other_validation, "digits, MLP", "digits, CNN, SGD", ("validation_differs",)),
}
