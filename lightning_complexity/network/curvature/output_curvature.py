"""The Hessian of the loss for the outputs, sample by sample."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_complexity.network.derivatives import differentiated, gradients
from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.losses import mean_loss
from lightning_complexity.network.outputs import class_dim, model_outputs, predictions
from lightning_complexity.network.running.batches import map_tensors
from lightning_complexity.network.running.task import LossFunction, Task, main_tensor
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot

_FEW = 16
_DENSE_OUTPUTS, _DENSE_ENTRIES = 64, 2**22


class OutputCurvature(ABC):
    """The Hessian of the loss of the batch for its outputs: a positive semi-definite block for each sample.

    Attributes:
        shape: That of the outputs.
        like: Outputs, for their precision and device.
    """

    def __init__(self, outputs: Tensor) -> None:
        self.shape, self.like = outputs.shape, outputs.detach()

    @abstractmethod
    def product(self, v: Tensor) -> Tensor:
        """The product with a vector in the shape of the outputs."""

    @abstractmethod
    def half(self, r: Tensor) -> Tensor:
        """The product with a factor ``S`` of the Hessian ``S S^T``, of a vector in the shape of the outputs."""

    def columns(self) -> Iterator[Tensor]:
        """The columns of the factors of all samples: as many as a sample has outputs."""
        ones = torch.eye(self.shape[1:].numel(), dtype=self.like.dtype, device=self.like.device)
        for one in ones:
            yield self.half(one.reshape(1, *self.shape[1:]).expand(self.shape))

    @abstractmethod
    def trace_between(self, weight: Tensor) -> Tensor:
        """The trace of ``W^T H_i W`` for the block of each sample, for a matrix with a row for each output."""


class DiagonalCurvature(OutputCurvature):
    """That of a loss that takes outputs one by one, such as the squared error or binary cross-entropy."""

    def __init__(self, outputs: Tensor, diagonal: Tensor) -> None:
        super().__init__(outputs)
        self._diagonal = diagonal

    def product(self, v: Tensor) -> Tensor:
        """Entry by entry."""
        return self._diagonal * v

    def half(self, r: Tensor) -> Tensor:
        """With the square roots."""
        return _root(self._diagonal) * r

    def trace_between(self, weight: Tensor) -> Tensor:
        """The squared norms of the rows, weighted."""
        return self._diagonal.flatten(1) @ weight.square().sum(1)


class SoftmaxCurvature(OutputCurvature):
    r"""That of the cross-entropy, :math:`c\, (\operatorname{diag} p - p p^T)` for each sample and position."""

    def __init__(self, outputs: Tensor, dim: int, factor: Tensor) -> None:
        super().__init__(outputs)
        self._probabilities, self._dim, self._factor = outputs.softmax(dim), dim, factor

    def _centred(self, v: Tensor, weights: Tensor) -> Tensor:
        return weights * v - self._probabilities * (weights * v).sum(self._dim, keepdim=True)

    def product(self, v: Tensor) -> Tensor:
        """With ``diag p - p p^T``."""
        return self._factor * self._centred(v, self._probabilities)

    def half(self, r: Tensor) -> Tensor:
        """With ``diag sqrt(p) - p sqrt(p)^T``."""
        return _root(self._factor) * self._centred(r, _root(self._probabilities))

    def trace_between(self, weight: Tensor) -> Tensor:
        """Mean squared norm of the rows minus the squared norm of their mean, under the probabilities."""
        means = self._probabilities @ weight
        spread = self._probabilities @ weight.square().sum(1) - means.square().sum(1)
        return self._factor.expand(len(means), 1).squeeze(1) * spread


class DenseCurvature(OutputCurvature):
    """Any other, as a matrix for each sample."""

    def __init__(self, outputs: Tensor, blocks: Tensor) -> None:
        super().__init__(outputs)
        self._blocks = blocks
        values, vectors = torch.linalg.eigh(blocks.detach())
        self.is_positive = bool((values[:, 0] >= -1e-5 * values.abs().amax()).all())
        values = torch.where(values > 1e-6 * values.abs().amax(), values, 0)
        self._halves = vectors * values.sqrt().unsqueeze(1)
        if blocks.requires_grad:  # eigenvectors have no derivative where values are equal; S S^T has that of the blocks
            inverse = vectors * torch.where(values > 0, values, 1).rsqrt().unsqueeze(1) * (values > 0).unsqueeze(1)
            self._halves = self._halves + (blocks - blocks.detach()) @ inverse / 2

    def product(self, v: Tensor) -> Tensor:
        """By matrices."""
        return (self._blocks @ v.flatten(1).unsqueeze(2)).reshape(self.shape)

    def half(self, r: Tensor) -> Tensor:
        """With eigenvectors times square roots of eigenvalues."""
        return (self._halves @ r.flatten(1).unsqueeze(2)).reshape(self.shape)

    def trace_between(self, weight: Tensor) -> Tensor:
        """By matrices."""
        return torch.einsum("nij,ij->n", self._blocks, weight @ weight.mT)


def _root(t: Tensor) -> Tensor:
    """The square root of what is positive, else 0 with a derivative of 0."""
    is_zero = t <= 0  # not where it is nan
    return torch.where(is_zero, 0, torch.where(is_zero, 1, t).sqrt())


@shared
def output_curvature(snapshot: Snapshot) -> OutputCurvature:
    """The Hessian of the loss for the outputs; of a differentiable snapshot differentiable, but for dense ones.

    Which form it has is seen by products with random vectors, so that any function of outputs and targets will do.

    Raises:
        MeasureError: If the loss is no function of outputs and targets, couples samples, or is not convex in the
        outputs.
    """
    with torch.enable_grad():
        outputs, gradient, keeps_graph = _differentiated_loss(snapshot, create_graph=True)

        def product(v: Tensor) -> Tensor:
            return differentiated([gradient], [outputs], [v], retain_graph=True, create_graph=keeps_graph)[0]

        w = torch.randn(outputs.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64).to(outputs)
        image = product(w)
        for candidate in _candidates(
            class_dim(snapshot), outputs if keeps_graph else outputs.detach(), product, w, image
        ):
            if _is_close(candidate.product(w).detach(), image.detach()):
                return candidate
    raise MeasureError(
        "needs a loss that is a convex function of each sample's own outputs, such as cross-entropy or the squared "
        f"error, or one of at most {_DENSE_OUTPUTS} outputs a sample. Give another with "
        "loss=lambda outputs, targets: ...."
    )


def _is_close(found: Tensor, expected: Tensor) -> bool:
    tolerance = 1e-8 if expected.dtype == torch.float64 else 2e-4
    return bool((found - expected).abs().max() <= tolerance * expected.abs().max()) or not bool(
        expected.isfinite().all()
    )


def _candidates(
    dim: int | None, outputs: Tensor, product: Callable[[Tensor], Tensor], w: Tensor, image: Tensor
) -> Iterator[OutputCurvature]:
    if dim is None and outputs.ndim > 1 and outputs.shape[1] > 1:
        dim = 1  # targets may have a shape that says nothing of classes
    if dim is not None:
        pattern = SoftmaxCurvature(outputs, dim, outputs.new_ones(())).product(w)
        along, own = (w * image).sum(dim, keepdim=True), (w * pattern).sum(dim, keepdim=True)
        common = (along.sum() / own.sum()).reshape([1] * outputs.ndim)
        # What is left out of sure samples has to be less than what is told apart in the end.
        is_weighted = own > (1e-10 if own.dtype == torch.float64 else 1e-5) * own.max()
        weighted = torch.where(is_weighted, along / torch.where(is_weighted, own, 1), 0)
        for factor in (common, weighted):
            if not factor.min() < 0:
                yield SoftmaxCurvature(outputs, dim, factor)
    diagonal = product(torch.ones_like(w))
    if not diagonal.min() < 0:
        yield DiagonalCurvature(outputs, diagonal)
    size = outputs.shape[1:].numel()
    if size <= _DENSE_OUTPUTS and outputs.numel() * size <= _DENSE_ENTRIES:
        ones = torch.eye(size, dtype=w.dtype, device=w.device)
        rows = [product(one.reshape(1, *w.shape[1:]).expand(w.shape).contiguous()).flatten(1) for one in ones]
        dense = DenseCurvature(outputs, torch.stack(rows, dim=1))
        if dense.is_positive:
            yield dense


@shared
def output_gradient(snapshot: Snapshot) -> Tensor:
    """The gradient of the loss for the outputs, times the number of samples; differentiable where the snapshot is.

    Raises:
        MeasureError: If the loss is no function of outputs and targets.
    """
    with torch.enable_grad():
        return snapshot.num_samples * _differentiated_loss(snapshot, create_graph=snapshot.differentiable)[1]


def _differentiated_loss(snapshot: Snapshot, *, create_graph: bool) -> tuple[Tensor, Tensor, bool]:
    """The tensor that the loss is a function of, its gradient, and whether both depend on the parameters."""
    given, outputs = model_outputs(snapshot), predictions(snapshot)
    main, task = main_tensor(given), loss_of_outputs(snapshot)
    keeps_graph = snapshot.differentiable and outputs.requires_grad
    leaf = outputs if keeps_graph else outputs.detach().clone().requires_grad_()
    others: list[Tensor] = []

    def replaced(tensor: Tensor) -> Tensor:
        if tensor is main:
            return leaf.reshape(main.shape)
        if not tensor.is_floating_point():
            return tensor
        others.append(tensor.detach().clone().requires_grad_())
        return others[-1]

    loss = task.loss_of(map_tensors(replaced, given), snapshot.targets)
    found, *rest = differentiated([loss], [leaf, *others], create_graph=create_graph, of="outputs")
    if any(g.any() for g in rest):
        raise MeasureError(
            "needs a loss of one tensor of outputs, but this one depends on several. Choose one with "
            "forward=lambda model, inputs: ...., and give its loss."
        )
    return leaf, found, keeps_graph


@shared
def loss_of_outputs(snapshot: Snapshot) -> Task:
    """The task with its loss as a function of outputs and targets.

    A loss that takes batches, such as that of a ``training_step``, is tried to be the cross-entropy, the squared error
    or the binary cross-entropy of what the network gives: it is if the loss and its gradient for the parameters are the
    same on some samples, and the loss on all. On a snapshot that observes it may be a multiple of one of these.

    Raises:
        MeasureError: If it is none of these.
    """
    task = snapshot.task
    if not task.judges_batches:
        return task
    few = snapshot.first(_FEW)
    loss, gradient = mean_loss(few), gradients(few)
    for known in (F.cross_entropy, F.mse_loss, F.binary_cross_entropy_with_logits):
        candidate = dataclasses.replace(task, loss=None if known is F.cross_entropy else _shaped(known))
        other = few.on(few.batches, candidate)
        try:
            factor = _factor(mean_loss(other), loss)
            if factor is None or (factor != 1 and snapshot.differentiable):
                continue
            if factor != 1:
                candidate = _multiplied(candidate, factor)
                other = few.on(few.batches, candidate)
            if _are_close(gradients(other), gradient) and _is_loss_of_all(snapshot, candidate):
                return candidate
        except ValueError:  # targets that are not for this loss
            continue
    raise MeasureError(
        "needs a loss of outputs and targets, but this one takes whole batches, and is neither the cross-entropy nor "
        "the squared error nor the binary cross-entropy of the outputs. Give it with loss=lambda outputs, targets: ...."
    )


def _factor(known: Tensor, loss: Tensor) -> float | None:
    """How many times the known loss the other is; ``None`` where that is no positive number."""
    if torch.isclose(known, loss, rtol=1e-5, equal_nan=True):
        return 1.0
    factor = float(loss.detach() / known.detach())
    return factor if 0 < factor < float("inf") else None


def _multiplied(task: Task, factor: float) -> Task:
    return dataclasses.replace(task, loss=lambda outputs, targets: factor * task.loss_of(outputs, targets))


def _is_loss_of_all(snapshot: Snapshot, task: Task) -> bool:
    """Whether the losses of all samples are equal: some may all be of one class, say, to which weights do nothing."""
    if snapshot.differentiable:
        return True
    known = task.loss_of(model_outputs(snapshot), snapshot.targets).detach()
    return bool(torch.isclose(known, mean_loss(snapshot).detach().to(known), rtol=1e-4, equal_nan=True))


def _shaped(loss: Callable[[Tensor, Tensor], Tensor]) -> LossFunction:
    """A loss of targets that may lack a dimension of length 1."""

    def of_outputs(outputs: Tensor, targets: Tensor) -> Tensor:
        return loss(outputs, targets.reshape(outputs.shape).to(outputs.dtype))

    return of_outputs


def _are_close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    differences = [(g - expected[name]).square().sum() for name, g in found.items()]
    sizes = [g.square().sum() for g in expected.values()]
    difference, size = torch.stack(differences).sum(), torch.stack(sizes).sum()
    return bool(difference <= 1e-8 * size) or bool(difference.isnan() and size.isnan())
