"""The Hessian of the loss as a linear operator, and its spectrum."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.curvature import random_start
from lightning_complexity.functional.numerics.lanczos import Lanczos, Quadrature, lanczos_quadrature
from lightning_complexity.functional.numerics.linear_operators import LinearOperator
from lightning_complexity.network.derivatives import (
    differentiated,
    gradient_graph,
    gradients,
    output_loss,
    trainable,
)
from lightning_complexity.network.losses import batch_losses, check_dependent, mean_loss
from lightning_complexity.network.outputs import float_tensors, model_outputs
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.decompositions import Decompositions, check_derivatives
from lightning_complexity.network.weights.choice import LayerChoice


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
        if self.is_at_once:
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
        self._snapshot.observe()
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

    @cached_property
    def is_at_once(self) -> bool:
        """Whether the graph of the gradient for all samples is kept."""
        return self._snapshot.num_samples <= self._snapshot.chunk_size or not self._has_samples_first

    @cached_property
    def _has_samples_first(self) -> bool:
        """Whether outputs can be computed some samples at a time; for whole batches the loss is."""
        snapshot = self._snapshot
        if snapshot.task.judges_batches:
            return True
        return all(t.ndim and len(t) == snapshot.num_samples for t in float_tensors(model_outputs(snapshot)))

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


@shared
def hessian_lanczos(snapshot: Snapshot, layers: LayerChoice | None = None, probe: int = 0) -> Lanczos:
    """Lanczos' iteration for the Hessian from a random vector, continued by all who ask.

    Args:
        snapshot: That observes, with inputs and targets.
        layers: Which layers count.
        probe: Number of the vector.
    """
    operator = HessianOperator(snapshot, layers)
    return _lanczos(snapshot, operator, probe)


def _lanczos(snapshot: Snapshot, operator: HessianOperator, probe: int) -> Lanczos:
    start = random_start(operator, torch.Generator().manual_seed(probe))
    return Lanczos(operator, start, rounding=_rounding(snapshot))


@shared
def _rounding(snapshot: Snapshot) -> float:
    """A curvature that over a way as long as the weights themselves changes the loss by rounding alone.

    So a loss that does not depend on the parameters has no curvature, whatever factor it is multiplied by. Rounding in
    the layers makes it some more; that is not taken for curvature where the gradient is rounding as well.
    """
    weights = trainable(snapshot).values()
    square = float(sum(w.detach().double().square().sum() for w in weights))
    if not square:
        return 0.0
    if HessianOperator(snapshot).is_at_once:
        gradient_graph(snapshot, 2)  # of which the products are taken too
    slope = sum(g.double().square().sum() for g in gradients(snapshot).values()) ** 0.5
    rounding = max(torch.finfo(w.dtype).eps for w in weights) * abs(float(mean_loss(snapshot)))
    return (1024 if slope * square**0.5 <= 1024 * rounding else 16) * rounding / square


@shared
def hessian_quadratures(
    snapshot: Snapshot, num_probes: int, num_steps: int, layers: LayerChoice | None = None
) -> list[Quadrature]:
    """The spectrum of the Hessian as random vectors see it; the vectors of all but the first iteration are not kept."""
    found = [lanczos_quadrature(hessian_lanczos(snapshot, layers), num_steps)]
    operator = HessianOperator(snapshot, layers)
    for probe in range(1, num_probes):
        found.append(lanczos_quadrature(_lanczos(snapshot, operator, probe), num_steps))
    return found
