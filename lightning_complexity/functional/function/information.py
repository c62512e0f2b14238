"""Information that decisions have of each other and of the classes."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["held_out_linear_classes", "output_entropy", "performance_correlation"]


def output_entropy(logits: Tensor, dim: int = 1) -> Tensor:
    r"""Entropy of the probabilities that logits stand for, in nats.

    .. math:: -\sum_c p_c \ln p_c, \quad p = \operatorname{softmax}(f)

    Args:
        logits: Any shape.
        dim: Dimension of classes.

    Returns:
        That shape without ``dim``; between 0 and the logarithm of the number of classes.

    Example:
        >>> output_entropy(torch.zeros(1, 8))  # ln 8
        tensor([2.0794])
    """
    log_p = logits.log_softmax(dim)
    return -(log_p.exp() * log_p).sum(dim)


def _entropy(columns: Tensor) -> Tensor:
    """Plug-in entropy of the rows in bits, with Miller and Madow's correction for finitely many of them."""
    counts = columns.unique(dim=0, return_counts=True)[1].double()
    p = counts / counts.sum()
    return (-(p * p.log()).sum() + (len(p) - 1) / (2 * counts.sum())) / math.log(2)


def performance_correlation(decisions: Tensor, simple: Tensor, targets: Tensor) -> Tensor:
    r"""How much of what decisions say about the classes a simple model says too, in bits.

    .. math:: \mu_Y(F; L) = I(F; Y) - I(F; Y \mid L)

    From counts, with Miller and Madow's correction of each entropy. It is at most the information of either about the
    classes, and negative where only both together say something.

    Args:
        decisions: Classes that the network says, shape ``(n,)``.
        simple: Classes that the simple model says, shape ``(n,)``.
        targets: True classes, shape ``(n,)``.

    Returns:
        0-d, double precision.

    References:
        Kalimeris et al., "SGD on neural networks learns functions of increasing complexity", NeurIPS 2019.

    Example:
        >>> f, l = torch.tensor([0, 0, 1, 1]).repeat(250), torch.tensor([0, 1, 0, 1]).repeat(250)
        >>> round(performance_correlation(f, l, f ^ l).item(), 2)  # each alone says nothing, both say all
        -1.0
    """

    def entropy(*names: Tensor) -> Tensor:
        return _entropy(torch.stack(names, 1))

    f, s, y = decisions, simple, targets
    alone = entropy(f) + entropy(y) - entropy(f, y)
    beside = entropy(f, s) + entropy(y, s) - entropy(f, y, s) - entropy(s)
    return alone - beside


def held_out_linear_classes(inputs: Tensor, targets: Tensor, *, folds: int = 5, weight_decay: float = 1e-2) -> Tensor:
    r"""Classes by linear models that did not see the sample: logistic regression, one for each fold.

    .. math:: \min_{W, b} \; \frac{1}{n} \sum_i \ell(W x_i + b, y_i) + \frac{\lambda}{2} \|W\|_F^2

    on inputs that are scaled to mean 0 and mean square 1 over all features, minimised by L-BFGS in double precision.
    Sample ``i`` is in fold ``i mod folds``.

    Args:
        inputs: Shape ``(n, d)``.
        targets: Class indices, shape ``(n,)``.
        folds: At least 2; at most ``n`` are used.
        weight_decay: :math:`\lambda`.

    Returns:
        Shape ``(n,)``; for a single sample its class.

    Example:
        >>> x = torch.tensor([-3.0, -2.0, -3.0, -2.0, -3.0, 2.0, 3.0, 2.0, 3.0, 2.0])
        >>> held_out_linear_classes(x[:, None], (x >= 0).long())
        tensor([0, 0, 0, 0, 0, 1, 1, 1, 1, 1])
    """
    folds = min(folds, len(inputs))
    if folds < 2:
        return targets.clone()
    x = inputs.detach().double()
    x = x - x.mean(0)
    x = x / x.square().mean().sqrt().clamp(min=torch.finfo(torch.float64).tiny)
    found = torch.empty_like(targets)
    fold = torch.arange(len(x), device=x.device) % folds
    for held_out in range(folds):
        seen = fold != held_out
        weight, bias = _logistic_regression(x[seen], targets[seen], int(targets.max()) + 1, weight_decay)
        found[~seen] = (x[~seen] @ weight.mT + bias).argmax(1)
    return found


def _logistic_regression(x: Tensor, y: Tensor, classes: int, weight_decay: float) -> tuple[Tensor, Tensor]:
    weight = x.new_zeros(classes, x.shape[1]).requires_grad_()
    bias = x.new_zeros(classes).requires_grad_()
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(x @ weight.mT + bias, y) + weight_decay / 2 * weight.square().sum()
        loss.backward()
        return loss

    with torch.enable_grad():
        optimizer.step(closure)
    return weight.detach(), bias.detach()
