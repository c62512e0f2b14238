"""Edge of stability: how close the optimizer's own steps are to raising the loss."""

from __future__ import annotations

import logging
import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.curvature import random_start
from lightning_complexity.functional.loss_surface.stability import CriticalStep, critical_step
from lightning_complexity.functional.numerics.lanczos import Eigenvalues, Lanczos, extreme_eigenvalues
from lightning_complexity.functional.numerics.linear_operators import ScaledOperator
from lightning_complexity.metrics.base import ComplexityMetric, latest
from lightning_complexity.metrics.base.checks import check_at_least, check_share
from lightning_complexity.network import Context, HessianOperator, MeasureError, Snapshot, gradients, mean_loss
from lightning_complexity.network.optimization.optimizers import Scaling, next_update, scaling

__all__ = ["CriticalSharpness", "PreconditionedSharpness"]

_LOGGER = logging.getLogger(__name__)


class _StabilityMetric(ComplexityMetric):
    """A sharpness, and its share of what the optimizer's steps can stand."""

    needs = frozenset({"inputs", "targets", "loss"})
    reads_optimizers = True
    single_update_reason = "the loss along a step is that of all samples together"

    numbers: Tensor
    names: tuple[str, ...]

    def _prepare_state(self) -> None:
        self.add_note("names", ())
        self.add_state("numbers", torch.full((1,), torch.nan, dtype=torch.float64), dist_reduce_fx=latest)

    def _keep(self, value: float, **details: float) -> None:
        kept = {name: number for name, number in details.items() if not math.isnan(number)}
        self.names = tuple(kept)
        self.numbers = torch.tensor([value, *kept.values()], dtype=torch.float64, device=self.numbers.device)

    def total(self) -> Tensor:
        """The sharpness."""
        return self.numbers[0]

    def details(self) -> dict[str, Tensor]:
        """What is known beside it; no share of the limit where no optimizer was given."""
        return dict(zip(self.names, self.numbers[1:], strict=True))


class _Line(NamedTuple):
    """The line that a step goes along.

    Attributes:
        direction: Change of each parameter for a step of 1.
        slope: Of the loss at the start.
        rate: Learning rate of a step of 1.
        first: Where to look first.
        has_optimizer: Whether the line is that of an optimizer.
    """

    direction: dict[str, Tensor]
    slope: float
    rate: float
    first: float
    has_optimizer: bool


class CriticalSharpness(_StabilityMetric):
    r"""Two over the learning rate at which the optimizer's next step would no longer lower the loss.

    .. math:: \frac{2}{\eta_c}, \quad \eta_c = \min \{ \eta > 0 : L(\theta + \eta\, d) > L(\theta) \}

    with :math:`d` the optimizer's next update for a learning rate of 1, computed on a copy of it from the gradient on
    these samples. On a quadratic it is :math:`d^T H d / (-g^T d)`, for gradient descent a mean of the Hessian's
    eigenvalues weighted by how much of the gradient they have, and at most the largest; at the edge of stability it
    comes close to it. One backward pass and at most nine forward passes; no second derivative, so that it works with
    fused attention, compiled networks and large ones. Without an optimizer it goes along the negative gradient.

    Logged beside the value, if an optimizer is known: ``/share_of_limit``, the learning rate over :math:`\eta_c`. Where
    steps of a linear optimizer begin to diverge on a quadratic, each turns its direction around and leaves the loss as
    it is: that share is then 1 whatever the momentum is. Also ``/converged``, 0 where the loss was still below its
    start after the last pass, so that the value is an upper limit, or where rounding hides the place; and
    ``/evaluations``, forward passes at other weights. Where the loss comes back to its start several times, one of the
    places is found. Infinite where the update points uphill, as momentum may; ``nan`` where the gradient is zero.
    Parameter groups with different rates move together, and :math:`\eta` is the largest of them; several optimizers
    step together. At a rate of 0 the direction is that at the rate that the schedule starts from.

    Args:
        tolerance: Of :math:`\eta_c`, relative.
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if no parameter is trained, or the optimizer needs more than gradients.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> metric = CriticalSharpness()
        >>> metric.update(net, torch.tensor([[3.0]]), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # the second derivative of (3 w)^2
        tensor(18.0000, dtype=torch.float64)
    """

    name = "critical_sharpness"
    units = "loss / weight²"
    increases_with_complexity = True
    cost = "backward"
    order = 1
    formula = r"2 / \min \{ \eta > 0 : L(\theta + \eta d) > L(\theta) \}"
    reference = "after arXiv 2601.16979, 2026; Cohen et al., ICLR 2021; Roulet et al., 2023"
    misleads_when = (
        "it is compared between learning rates: it rises to what the rate allows; along an update that points uphill "
        "it is infinite, and it says nothing about the curvature elsewhere"
    )

    def __init__(self, *, tolerance: float = 1e-5, **kwargs: Any) -> None:
        check_share(tolerance=tolerance)
        super().__init__(**kwargs)
        self.tolerance = tolerance

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The sharpness along the next update."""
        line, found = self._search(snapshot)
        if not snapshot.differentiable:
            return torch.tensor(_sharpness(line, found), dtype=torch.float64, device=snapshot.device)
        if not found.converged or found.step == 0:
            constant = torch.stack([(0 * d).sum() for d in line.direction.values()]).sum()
            return constant + _sharpness(line, found)
        return 2 / (line.rate * _differentiable_step(snapshot, line, found.step))

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the sharpness and what was found on the way."""
        line, found = self._search(snapshot)
        self._keep(
            _sharpness(line, found),
            share_of_limit=_share_of_limit(line, found, snapshot),
            converged=float(found.converged),
            evaluations=float(found.evaluations),
        )

    def _search(self, snapshot: Snapshot) -> tuple[_Line, CriticalStep]:
        if snapshot.given_outputs is not None:
            raise MeasureError("needs the loss at other weights, for which there are no outputs; leave outputs out.")
        found = gradients(snapshot)  # first, for the loss comes with them
        loss = mean_loss(snapshot).detach()
        start = float(loss)
        line = _line(snapshot, found, start)
        rounding = 4 * torch.finfo(loss.dtype).eps * (abs(start) + _change_if_weights_were_zero(snapshot, found))

        def loss_at(step: float) -> float:
            moved = {n: snapshot.parameters[n].detach() + step * d.detach() for n, d in line.direction.items()}
            return float(mean_loss(snapshot.moved(moved)).detach())

        return line, critical_step(
            loss_at, start, line.slope, first=line.first, tolerance=self.tolerance, rounding=rounding
        )


def _line(snapshot: Snapshot, found: dict[str, Tensor], start: float) -> _Line:
    if snapshot.optimizers:
        update = next_update(snapshot, found)
        rate = update.rate if update.rate > 0 else 1.0
        return _Line(update.changes, _product(found, update.changes), rate, 1.0, has_optimizer=True)
    _LOGGER.info("CriticalSharpness goes along the gradient, as no optimizer was given; it has no share of a limit.")
    slope = -_product(found, found)
    # At which the loss would be zero if it fell as it begins to.
    first = abs(start) / -slope if slope < 0 and start != 0 else 1.0
    return _Line({name: -g for name, g in found.items()}, slope, 1.0, first, has_optimizer=False)


def _change_if_weights_were_zero(snapshot: Snapshot, found: dict[str, Tensor]) -> float:
    """Root of the sum of squares: in proportion to it, rounding of the weights changes the loss."""
    pairs = [(g.detach().double(), snapshot.parameters[name].detach().double()) for name, g in found.items()]
    return float(torch.stack([(g * p).square().sum() for g, p in pairs]).sum().sqrt())


def _product(first: dict[str, Tensor], second: dict[str, Tensor]) -> float:
    return sum(float((first[name].detach().double() * d.detach().double()).sum()) for name, d in second.items())


def _sharpness(line: _Line, found: CriticalStep) -> float:
    return math.inf if found.step == 0 else 2 / (line.rate * found.step)


def _share_of_limit(line: _Line, found: CriticalStep, snapshot: Snapshot) -> float:
    if not line.has_optimizer:
        return math.nan
    if all(float(group["lr"]) == 0 for o in snapshot.optimizers for group in o.param_groups):
        return 0.0
    return math.inf if found.step == 0 else 1 / found.step


def _differentiable_step(snapshot: Snapshot, line: _Line, step: float) -> Tensor:
    """The critical step as a function of the parameters: what keeps the loss equal at both ends says how it changes."""
    with torch.enable_grad():
        end = {name: snapshot.parameters[name] + step * d for name, d in line.direction.items()}
        at_end = mean_loss(snapshot.moved(end, differentiable=True))
        difference = at_end - mean_loss(snapshot)
        pulled = torch.autograd.grad(at_end, list(end.values()), retain_graph=True, materialize_grads=True)
        slope = _product(dict(zip(end, pulled, strict=True)), line.direction)
        return step - (difference - difference.detach()) / slope


class PreconditionedSharpness(_StabilityMetric):
    r"""Largest eigenvalue of the Hessian in the coordinates in which the optimizer descends.

    .. math:: \lambda_{\max} \big( P^{-1/2} H P^{-1/2} \big)

    where the optimizer divides gradients by :math:`P` in its next step: by the square root of the second moment plus
    ``eps`` for Adam, AdamW and RMSprop, by nothing for SGD. By Lanczos' iteration, as
    :class:`LargestHessianEigenvalue`. Without an optimizer it is the plain largest eigenvalue.

    Logged beside the value, if an optimizer is known: ``/share_of_limit``, the learning rate times the value over the
    limit of stability: :math:`2 + 2 \mu` for momentum :math:`\mu`, :math:`(2 + 2 \mu) / (1 + 2 \mu)` with Nesterov's,
    :math:`(2 + 2 \beta_1) / (1 - \beta_1)` for Adam, 38 at 0.9. Above 1, steps grow along the eigenvector. Also
        ``/residual``, ``/products`` and ``/converged``. With several rates, :math:`P` is relative to the largest.
        Weight decay is left out.

    Args:
        tolerance: Of the residual, relative to the eigenvalue.
        max_products: Where it stops, converged or not.
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if no parameter is trained, or the optimizer is another.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> metric, sgd = PreconditionedSharpness(), torch.optim.SGD(net.parameters(), lr=0.1)
        >>> batch = torch.tensor([[3.0]]), torch.zeros(1, 1)
        >>> metric.update(net, *batch, loss=torch.nn.functional.mse_loss, optimizer=sgd)
        >>> metric.report()["preconditioned_sharpness/share_of_limit"]  # 0.1 * 18 / 2
        tensor(0.9000, dtype=torch.float64)
    """

    name = "preconditioned_sharpness"
    units = "1 / learning rate"
    increases_with_complexity = True
    cost = "hessian"
    order = 2
    no_penalty_reason = "HessianTrace and GaussNewtonTrace lower the same curvature at a fraction of the cost"
    formula = r"\lambda_{\max}(P^{-1/2} \nabla_\theta^2 L\, P^{-1/2})"
    reference = "Cohen et al., Adaptive gradient methods at the edge of stability, 2022"
    misleads_when = "it is compared between optimizers or learning rates: it rises to what these allow"

    def __init__(self, *, tolerance: float = 1e-3, max_products: int = 200, **kwargs: Any) -> None:
        check_share(tolerance=tolerance)
        check_at_least(1, max_products=max_products)
        super().__init__(**kwargs)
        self.tolerance, self.max_products = tolerance, max_products

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The largest eigenvalue."""
        return self._found(snapshot)[0].largest[0]

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the eigenvalue and what was found on the way."""
        found, scaled = self._found(snapshot)
        value = float(found.largest[0])
        self._keep(
            value,
            share_of_limit=math.nan if scaled is None else scaled.rate * value / scaled.limit,
            residual=float(found.residuals[0]),
            products=float(found.products),
            converged=float(found.converged),
        )

    def _found(self, snapshot: Snapshot) -> tuple[Eigenvalues, Scaling | None]:
        hessian = HessianOperator(snapshot)
        scaled, factors = None, torch.ones(hessian.shape[1], dtype=hessian.dtype, device=hessian.device)
        if snapshot.optimizers:
            scaled = scaling(snapshot, gradients(snapshot))
            # What no optimizer trains does not move.
            parts = [scaled.factors.get(n, factors.new_zeros(size)).flatten() for n, size in hessian.blocks.items()]
            factors = torch.cat(parts).to(hessian.dtype)
        else:
            _LOGGER.info(
                "PreconditionedSharpness is the plain one, as no optimizer was given; it has no share of a limit."
            )
        operator = ScaledOperator(hessian, factors.sqrt())
        start = random_start(operator, torch.Generator().manual_seed(0))
        found = extreme_eigenvalues(Lanczos(operator, start), tolerance=self.tolerance, max_products=self.max_products)
        return found, scaled
