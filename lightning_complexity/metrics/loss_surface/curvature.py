"""Traces of the curvature of the loss at the current parameters."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.curvature import hutch_plus_plus_samples, hutchinson_samples
from lightning_complexity.metrics.base import ProbedMetric
from lightning_complexity.network import Context, HessianOperator, MeasureError, Snapshot
from lightning_complexity.network.curvature.gauss_newton import TraceSamples, gauss_newton_samples, is_multilinear

__all__ = ["GaussNewtonTrace", "HessianTrace"]

Estimator = Literal["auto", "hutchinson", "hutch++"]


class _TraceMetric(ProbedMetric):
    """A trace that may be known exactly."""

    is_exact: bool

    needs = frozenset({"inputs", "targets", "loss"})

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_note("is_exact", False)

    def _known(self, found: TraceSamples) -> tuple[list[str], Tensor]:
        self.is_exact = found.is_exact
        return found.names, found.samples

    def standard_error(self) -> Tensor:
        """Standard error of the estimate over its probes; 0 where the trace is exact, ``nan`` for one probe."""
        error = super().standard_error()
        return torch.zeros_like(error) if self.is_exact else error


class HessianTrace(_TraceMetric):
    r"""Trace of the Hessian of the mean loss with respect to the trained parameters, exact where that is cheap.

    .. math:: \operatorname{tr} H, \quad H = \nabla_\theta^2 \frac1n \sum_i \ell(f_\theta(x_i), y_i)

    A network that is piecewise linear in each single parameter (linear layers, convolutions, ReLU, pooling, BatchNorm
    with running statistics, no weight used twice) has the trace of its Gauss-Newton matrix, which takes plain backward
    passes: with ``estimator="auto"`` the graph of each forward pass is looked through, and where that is proved it is
    computed as :class:`GaussNewtonTrace`, exactly if a sample has no more outputs than ``num_probes``. Everywhere else
    it is estimated:

    - ``"hutchinson"``: :math:`\frac{1}{m} \sum_j v_j^T H v_j` with random signs :math:`v_j`, one backward pass over a
      retained graph for each;
    - ``"hutch++"``: at as many products, takes large eigenvalues out first; better where they fall quickly. It has no
      layers, and takes one snapshot.

    Unbiased; ``standard_error()`` is over the probes, and 0 where the trace is exact. The probes are the same every
    time, so that a curve over training does not jump. Per layer: the trace of each parameter's diagonal block.

    Args:
        num_probes: Number ``m`` of random vectors, or of products.
        estimator: See above.
        per_layer: Whether ``compute`` returns the trace for each parameter by name.

    Raises:
        ValueError: In ``update``, if no parameter is trained.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> metric = HessianTrace(num_probes=1)
        >>> metric.update(net, torch.tensor([[3.0]]), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # the second derivative of (3 w)^2
        tensor(18.0000, dtype=torch.float64)
    """

    name = "hessian_trace"
    cost = "hessian"
    order = 2
    formula = r"\operatorname{tr} \nabla_\theta^2 L"
    reference = "Hutchinson, 1990; Yao et al., PyHessian, 2020; Meyer et al., Hutch++, 2021"
    increases_with_complexity = True
    units = "loss / weight²"
    misleads_when = (
        "layers were rescaled: with ReLU the same function has any trace; near zero training loss it vanishes "
        "with the loss, whatever was learned; optimizers with large steps lower it without lowering the gap"
    )

    def __init__(
        self, num_probes: int = 8, *, estimator: Estimator = "auto", per_layer: bool = False, **kwargs: Any
    ) -> None:
        if estimator not in get_args(Estimator):
            raise ValueError(f"estimator must be one of {', '.join(get_args(Estimator))}, got {estimator!r}.")
        if estimator == "hutch++" and per_layer:
            raise ValueError('HessianTrace(estimator="hutch++") has no layers; leave per_layer or estimator out.')
        if estimator == "hutch++" and num_probes < 6:
            raise ValueError(f'HessianTrace(estimator="hutch++") needs num_probes of at least 6, got {num_probes!r}.')
        super().__init__(num_probes, per_layer=per_layer, **kwargs)
        self.estimator = estimator
        if estimator == "hutch++":
            self.single_update_reason = "the directions that are taken out are those of all samples together"

    def probe(self, snapshot: Snapshot, context: Context) -> tuple[list[str], Tensor]:
        """Samples of the trace of each parameter's block."""
        if self.estimator == "auto" and not snapshot.differentiable:
            found = self._gauss_newton(snapshot, context)
            if found is not None:
                return self._known(found)
        hessian = HessianOperator(snapshot, context.layers)
        if self.estimator == "hutch++":
            samples = hutch_plus_plus_samples(hessian, self.num_probes, generator=context.generator())
            self.is_exact = len(samples) == 1
            return ["all"], samples.unsqueeze(1)
        samples = hutchinson_samples(hessian, self.num_probes, generator=context.generator())
        return list(hessian.blocks), samples

    def _gauss_newton(self, snapshot: Snapshot, context: Context) -> TraceSamples | None:
        """The samples of the Gauss-Newton trace, where it is proved to be that of the Hessian."""
        try:
            if not is_multilinear(snapshot):
                return None
            found = gauss_newton_samples(snapshot, self.num_probes, context.seed, context.layers)
        except MeasureError:  # of a loss that it is not defined for
            return None
        return found if found.is_hessian else None


class GaussNewtonTrace(_TraceMetric):
    r"""Trace of the Gauss-Newton matrix of the mean loss, which for cross-entropy is that of the Fisher information.

    .. math:: \operatorname{tr} \sum_i J_i^T H_i J_i

    with :math:`J_i` the Jacobian of a sample's outputs for the trained parameters and :math:`H_i` the Hessian of the
    loss for these outputs. Never negative, and what remains of the Hessian where the residuals are small. For the
    cross-entropy, and for the squared error as a Gaussian log-likelihood, it is the Fisher information of the model,
    with labels drawn from it. It is 0 for a loss that is linear in the outputs, such as ``nll_loss`` of a network that
    gives logarithms of probabilities: have it give logits, by ``forward=``, with the cross-entropy.

    With no more outputs than ``num_probes`` it is exact, by a backward pass for each output. Else each probe is one
    backward pass, of random signs for each output of each sample: for networks of linear layers, convolutions and
    BatchNorm by squared norms of each sample's gradient, without products between samples, so that a few probes do; for
    others by the squared norm of their sum. Any loss that is a convex function of each sample's own outputs will do;
    its Hessian for them is found by products with random vectors. ``standard_error()`` is over the probes, and 0 where
    the trace is exact.

    Args:
        num_probes: Backward passes at most.
        per_layer: Whether ``compute`` returns the trace for each parameter by name.

    Raises:
        ValueError: In ``update``, if no parameter is trained, if the loss is not such a function, or if samples depend
        on one another.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> metric = GaussNewtonTrace()
        >>> metric.update(net, torch.tensor([[3.0]]), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()
        tensor(18.0000, dtype=torch.float64)
    """

    name = "gauss_newton_trace"
    units = "loss / weight²"
    increases_with_complexity = True
    cost = "backward"
    order = 1
    formula = r"\operatorname{tr} \sum_i J_i^T \nabla_z^2 \ell_i\, J_i"
    reference = "Schraudolph, 2002; Martens, JMLR 2020; Dangel, Kunstner and Hennig, BackPACK, ICLR 2020"
    misleads_when = (
        "layers were rescaled: with ReLU the same function has any trace; near zero training loss it vanishes "
        "with the loss, whatever was learned; outputs are log-probabilities, in which the loss is linear: it is 0 then"
    )

    def __init__(self, num_probes: int = 8, *, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(num_probes, per_layer=per_layer, **kwargs)

    def probe(self, snapshot: Snapshot, context: Context) -> tuple[list[str], Tensor]:
        """Samples of the trace of each parameter's block."""
        return self._known(gauss_newton_samples(snapshot, self.num_probes, context.seed, context.layers))
