"""The Hessian of the loss as a linear operator."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from lightning_complexity.functional.linear_operators import LinearOperator
from lightning_complexity.network.choice import LayerChoice
from lightning_complexity.network.derivatives import (
    differentiated,
    gradient_graph,
    output_loss,
    trainable,
)
from lightning_complexity.network.losses import batch_losses, check_dependent
from lightning_complexity.network.outputs import float_tensors
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.decompositions import Decompositions, check_derivatives


class HessianOperator(LinearOperator):
    r"""Hessian of the loss of the whole batch for the trained parameters, or for those of some layers.

    Its blocks are the parameters by name. One product is one backward pass through the graph of the gradient, which is
    kept. A batch of several chunks is gone through twice for each product, so that it is exact for any loss:

    .. math:: H v = \sum_c \Big( J_c^T\, (\nabla_z^2 \ell\, J v)_c + \nabla_\theta \langle J_c^T g_c, v \rangle \Big)

    with the Jacobians :math:`J_c` of the outputs :math:`z_c` of chunk ``c``, and :math:`g` the gradient of the loss for
    all outputs. Differentiable on a differentiable snapshot.

    Args:
        snapshot: With inputs and targets.
        layers: Which layers count; all by default.
    """

    def __init__(self, snapshot: Snapshot, layers: LayerChoice | None = None) -> None:
        self._snapshot = snapshot
        self._parameters = trainable(snapshot, layers)
        self._names = list(trainable(snapshot))
        like = next(iter(self._parameters.values()))
        size = sum(p.numel() for p in self._parameters.values())
        blocks = {name: p.numel() for name, p in self._parameters.items()}
        super().__init__((size, size), dtype=like.dtype, device=like.device, blocks=blocks)

    def matvec(self, v: Tensor) -> Tensor:
        """Product with a vector."""
        parts = [
            part.view_as(p)
            for part, p in zip(v.split(list(self.blocks.values())), self._parameters.values(), strict=True)
        ]
        snapshot = self._snapshot
        if snapshot.num_samples <= snapshot.chunk_size:
            order = 3 if snapshot.differentiable else 2
            product = self._through_graph(parts, order)
        elif snapshot.task.judges_batches:
            product = self._by_batches(parts)
        else:
            product = self._by_chunks(parts)
        return torch.cat([p.flatten() for p in product])

    def _through_graph(self, vectors: list[Tensor], order: int) -> list[Tensor]:
        found = dict(zip(self._names, gradient_graph(self._snapshot, order), strict=True))
        gradients = [found[name] for name in self._parameters]
        check_derivatives(gradients, order=order)
        return differentiated(
            gradients,
            list(self._parameters.values()),
            vectors,
            retain_graph=True,
            create_graph=self._snapshot.differentiable,
        )

    def _by_batches(self, vectors: list[Tensor]) -> list[Tensor]:
        product = [torch.zeros_like(v) for v in vectors]
        for loss in batch_losses(self._snapshot, 2, records=True):
            gradient = differentiated([loss], self._leaves, create_graph=True)
            product = [p + f for p, f in zip(product, differentiated(gradient, self._leaves, vectors), strict=True)]
        return product

    def _by_chunks(self, vectors: list[Tensor]) -> list[Tensor]:
        leaves, gradients = output_loss(self._snapshot)
        changes: list[list[Tensor]] = []
        product = [torch.zeros_like(v) for v in vectors]
        for outputs, g in self._chunks([gradient.detach() for gradient in gradients]):
            weights = [part.clone().requires_grad_() for part in g]
            pulled = differentiated(outputs, self._leaves, weights, create_graph=True)
            found = differentiated(pulled, [*self._leaves, *weights], vectors)
            product = [p + f for p, f in zip(product, found, strict=False)]
            changes.append(found[len(vectors) :])
        whole = [torch.cat(column) for column in zip(*changes, strict=True)]
        curved = differentiated(gradients, leaves, whole, retain_graph=True)
        for outputs, of_chunk in self._chunks(curved):
            product = [p + f for p, f in zip(product, differentiated(outputs, self._leaves, of_chunk), strict=True)]
        return product

    @property
    def _leaves(self) -> list[Tensor]:
        return list(self._parameters.values())

    def _chunks(self, vectors: list[Tensor]) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
        snapshot = self._snapshot
        for x, of_chunk in snapshot.chunks(snapshot.inputs, vectors):
            with Decompositions(2):
                outputs = float_tensors(snapshot.run(lambda model, x=x: model(x), records=True))  # type: ignore[misc]
            check_dependent([o for o in outputs if o.requires_grad])
            yield outputs, [v.to(o.dtype) for o, v in zip(outputs, of_chunk, strict=True)]
