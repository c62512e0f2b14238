"""Gradients of the loss at the current parameters."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.functional.norms import combine_norms, lp_norm
from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.network import Snapshot

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
    has_layers = True
    formula = r"\lVert \nabla_\theta L \rVert_2"
    reference = "Zhao, Zhang and Hu, ICML 2022; Barrett and Dherin, ICLR 2021 (its square)"

    weighted: Tensor
    count: Tensor

    def __init__(self, *, squared: bool = False, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        self.squared = squared
        if squared:
            self.name = "squared_gradient_norm"

    def measure(self, snapshot: Snapshot) -> Tensor:
        """The norm on the snapshot's samples."""
        return self._of(snapshot.gradients.values())

    def _of(self, gradients: Iterable[Tensor]) -> Tensor:
        norm = combine_norms(torch.stack([lp_norm(gradient) for gradient in gradients]))
        return norm.square() if self.squared else norm

    def _prepare_state(self) -> None:
        self._sizes: dict[str, int] = {}
        self.add_state("weighted", torch.zeros(()), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.long), dist_reduce_fx="sum")

    def _accumulate(self, snapshot: Snapshot) -> None:
        self._sizes = {name: gradient.numel() for name, gradient in snapshot.gradients.items()}
        self.weighted = self.weighted + snapshot.gradient.detach() * snapshot.num_samples
        self.count = self.count + snapshot.num_samples

    def _by_layer(self) -> dict[str, Tensor]:
        parts = (self.weighted / self.count).split(list(self._sizes.values()))
        return {name: self._of([part]) for name, part in zip(self._sizes, parts, strict=True)}

    def compute(self) -> Tensor | dict[str, Tensor]:
        """The norm of the mean gradient so far, or with ``per_layer=True`` of each parameter's part of it."""
        return self._by_layer() if self.per_layer else self._of([self.weighted / self.count])

    def report(self) -> dict[str, Tensor]:
        """The norm, and with ``per_layer=True`` that of each parameter's part."""
        layers = {f"{self.name}/{name}": norm for name, norm in self._by_layer().items()} if self.per_layer else {}
        return {self.name: self._of([self.weighted / self.count]), **layers}
