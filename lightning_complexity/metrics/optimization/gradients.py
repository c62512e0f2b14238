"""Gradients of the loss at the current parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.functional.weights.norms import combine_norms, lp_norm
from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.network import Context, Snapshot, gradients
from lightning_complexity.network.weights.choice import chosen

__all__ = ["GradientNorm"]


class GradientNorm(ComplexityMetric):
    r"""Norm of the gradient of the mean loss with respect to the trained parameters.

    .. math:: \Big\| \nabla_\theta \frac1n \sum_i \ell(f_\theta(x_i), y_i) \Big\|_2

    To first order the loss rises by :math:`\rho` times this norm within a distance :math:`\rho` of the parameters, and
    gradient descent with step size :math:`h` follows the gradient flow of the loss plus :math:`h/4` times its square.
    One forward and one backward pass. What is added up over batches is the gradient itself, as long as the parameters
    and weighted by samples, so that the value is that of one big batch. Where the gradient is zero, the gradient of its
    norm is 0. Dropout is off and BatchNorm has its running statistics: what an optimizer sees differs a little.

    Args:
        squared: Whether to square the norm; the log key is then ``squared_gradient_norm``.
        per_layer: Whether ``compute`` returns the norm of each parameter's gradient by name; the squares add up to
            that of the whole.

    Raises:
        ValueError: In ``update``, if no parameter is trained.

    Example:
        >>> net = torch.nn.Linear(2, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> metric = GradientNorm()
        >>> metric.update(net, torch.tensor([[3.0, 4.0]]), torch.ones(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # the gradient is 2 (0 - 1) (3, 4)
        tensor(10.)
    """

    name = "gradient_norm"
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "backward"
    order = 1
    has_layers = True
    chooses_layers = True
    suite = "standard"
    formula = r"\lVert \nabla_\theta L \rVert_2"
    reference = "Zhao, Zhang and Hu, ICML 2022; Barrett and Dherin, ICLR 2021 (its square)"
    increases_with_complexity = True
    units = "loss / weight"
    misleads_when = "training loss is near zero, where it vanishes with the loss for any labels; layers were rescaled"

    weighted: Tensor
    count: Tensor
    sizes: dict[str, int]

    def __init__(self, *, squared: bool = False, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        self.squared = squared
        if squared:
            self.name, self.units = "squared_gradient_norm", "loss² / weight²"

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The norm on the snapshot's samples."""
        return self._of(self._gradients(snapshot, context).values())

    @staticmethod
    def _gradients(snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        return chosen(gradients(snapshot), context.layers, snapshot.model)

    def _of(self, parts: Iterable[Tensor]) -> Tensor:
        norm = combine_norms(torch.stack([lp_norm(part) for part in parts]))
        return norm.square() if self.squared else norm

    def _prepare_state(self) -> None:
        self.add_note("sizes", {})
        self.add_state("weighted", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Add the gradient, weighted by the number of samples in the batch."""
        found = self._gradients(snapshot, context)
        self.sizes = {name: gradient.numel() for name, gradient in found.items()}
        flat = torch.cat([gradient.detach().flatten() for gradient in found.values()])
        self.weighted = self.weighted + flat * snapshot.num_samples
        self.count = self.count + snapshot.num_samples

    def total(self) -> Tensor:
        """The norm of the mean gradient so far."""
        return self._of([self.weighted / self.count])

    def parts(self) -> dict[str, Tensor]:
        """The norm of each parameter's part of it."""
        parts = (self.weighted / self.count).split(list(self.sizes.values()))
        return {name: self._of([part]) for name, part in zip(self.sizes, parts, strict=True)}
