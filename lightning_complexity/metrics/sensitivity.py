"""How much the function changes with its input."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.sensitivity import jacobian_norms
from lightning_complexity.metrics.base import SampleMeanMetric
from lightning_complexity.network import Snapshot

__all__ = ["JacobianNorm"]

JacobianOf = Literal["softmax", "logits"]


class JacobianNorm(SampleMeanMetric):
    r"""Mean over samples of the Frobenius norm of the Jacobian of the outputs with respect to the inputs.

    .. math:: \frac{1}{n} \sum_i \Big\| \frac{\partial f(x_i)}{\partial x_i} \Big\|_F

    Exact, it takes one backward pass for each output. With ``num_projections=k`` it takes ``k``, along random
    unit vectors; the squared norm is then unbiased, the norm itself slightly low for few projections.
    The reported standard error is over samples. Scaling the inputs scales the value inversely, so
    compare networks on the same inputs. A saturated softmax has a small Jacobian also in a bad network: look
    at ``of="logits"`` too. The gradient where the Jacobian is zero is 0.

    Args:
        of: ``"softmax"`` for the class probabilities, as in the paper, or ``"logits"``.
        num_projections: ``None`` for exact.
        per_layer: Must be ``False``, the Jacobian is that of the whole network.

    Raises:
        MissingInputError: In ``update``, if the inputs are not one floating-point tensor.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = net.weight.data.copy_(torch.tensor([[3.0, 0.0], [0.0, 4.0]]))
        >>> metric = JacobianNorm(of="logits")
        >>> metric.update(net, torch.ones(5, 2))
        >>> metric.compute()
        tensor(5., dtype=torch.float64)
    """

    name = "jacobian_norm"
    needs = frozenset({"inputs"})
    cost = "backward"
    formula = r"\frac{1}{n} \sum_i \lVert \partial f(x_i) / \partial x_i \rVert_F"
    reference = "Novak et al., ICLR 2018"

    def __init__(
        self,
        of: JacobianOf = "softmax",
        *,
        num_projections: int | None = None,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if of not in get_args(JacobianOf):
            raise ValueError(f'of must be "softmax" or "logits", got {of!r}.')
        if num_projections is not None and num_projections < 1:
            raise ValueError(f"num_projections must be at least 1 or None for exact, got {num_projections!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.of, self.num_projections = of, num_projections

    def per_sample(self, snapshot: Snapshot) -> Tensor:
        """Norm of each sample's Jacobian."""
        return torch.cat([self._norms(x, y, snapshot) for x, y in snapshot.input_output_chunks()])

    def _norms(self, inputs: Tensor, outputs: Tensor, snapshot: Snapshot) -> Tensor:
        with torch.enable_grad():
            return jacobian_norms(
                outputs.softmax(-1) if self.of == "softmax" else outputs,
                inputs,
                num_projections=self.num_projections,
                generator=snapshot.generator(),
                create_graph=snapshot.live,
            )
