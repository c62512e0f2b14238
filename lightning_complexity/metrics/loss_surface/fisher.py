"""The Fisher information of the loss, and what compares it with the Hessian."""

from __future__ import annotations

from typing import Any, Literal, get_args

import torch
from torch import Tensor

from lightning_complexity.functional.function.sensitivity import safe_sqrt
from lightning_complexity.metrics.base import ComplexityMetric, SampleMeanByParameter, SampleMeanMetric, latest
from lightning_complexity.metrics.base.checks import check_at_least
from lightning_complexity.metrics.loss_surface.curvature import HessianTrace
from lightning_complexity.network import Context, HessianOperator, MeasureError, Snapshot, gradients, trainable
from lightning_complexity.network.curvature.fisher import gradient_squares, outputs_along, per_sample_gradients
from lightning_complexity.network.curvature.output_curvature import output_curvature, output_gradient

__all__ = ["EmpiricalFisherTrace", "FisherRaoNorm", "TakeuchiCriterion"]

Fisher = Literal["model", "empirical"]
_EXACT_UP_TO = 2000


class EmpiricalFisherTrace(SampleMeanByParameter):
    r"""Mean squared norm of each sample's own gradient: the trace of the empirical Fisher information.

    .. math:: \frac1n \sum_i \lVert \nabla_\theta\, \ell(f_\theta(x_i), y_i) \rVert_2^2

    With the labels of the data; with labels drawn from the model it is :class:`GaussNewtonTrace`, which it comes close
    to only where the model fits. One forward and one backward pass for networks of linear layers, convolutions and
    BatchNorm; for others one of each sample. Needs a loss that is a mean over samples. The standard error is over
    samples.

    Args:
        per_layer: Whether ``compute`` returns the part of each parameter by name.

    Raises:
        ValueError: In ``update``, if no parameter is trained, if the loss is no function of outputs and targets, or if
            samples depend on one another.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> metric = EmpiricalFisherTrace()
        >>> metric.update(net, torch.tensor([[3.0]]), torch.ones(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # the gradient is 2 (0 - 1) 3
        tensor(36., dtype=torch.float64)
    """

    name = "empirical_fisher_trace"
    units = "loss² / weight²"
    increases_with_complexity = True
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "backward"
    order = 1
    no_penalty_reason = "GaussNewtonTrace and GradientNorm penalise what it is made of, at less cost"
    formula = r"\frac{1}{n} \sum_i \lVert \nabla_\theta \ell_i \rVert_2^2"
    reference = "Kunstner, Balles and Hennig, NeurIPS 2019"
    misleads_when = "it is taken for the Fisher information: it vanishes with the loss, whatever the curvature is"

    def __init__(self, *, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The squared norm of each sample's gradient, before the parts of the parameters."""
        self.layer_names = list(trainable(snapshot, context.layers))
        squares = gradient_squares(snapshot, context.layers)
        return torch.cat([squares.sum(1, keepdim=True), squares], dim=1)


class FisherRaoNorm(SampleMeanMetric):
    r"""Length of the parameters in the metric of the Fisher information.

    .. math:: \sqrt{\theta^T F \theta}, \quad
              \theta^T F\, \theta = \frac1n \sum_i \mathbb{E}_y \langle \theta, \nabla_\theta\, \ell_i(y) \rangle^2

    Through :math:`J_i \theta`, the change of each sample's outputs as the parameters grow, by two backward passes for
    any network. With ``fisher="model"`` labels :math:`y` are those that the model would draw: for the cross-entropy,
    and for the squared error as that of a Gaussian, :math:`\theta^T F \theta` is the mean of
    :math:`(J_i \theta)^T H_i\, J_i \theta`, which is taken for any loss that is convex in a sample's outputs. With
    ``fisher="empirical"`` they are those of the data. For a network of ``L`` linear layers without biases and with
    ReLU, :math:`J \theta = L f(x)`, which public code has with ``L + 1``. It does not change when layers of such a
    network are rescaled against each other. The standard error is over samples. The gradient where the norm is zero is
    0.

    Args:
        fisher: ``"model"`` or ``"empirical"``; the log key of the latter is ``empirical_fisher_rao_norm``.
        biases: Whether parameters of one dimension count, biases and those of normalizations.
        squared: Whether to square it; the log key then begins with ``squared_``.
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if no parameter is trained, if the loss is no such function, or if samples depend on
            one another.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.ones_(net.weight)
        >>> metric = FisherRaoNorm()
        >>> metric.update(net, torch.tensor([[3.0]]), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # the root of 3 * 2 * 3
        tensor(4.2426, dtype=torch.float64)
    """

    name = "fisher_rao_norm"
    units = "root of loss"
    increases_with_complexity = True
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "hessian"
    order = 2
    formula = r"\sqrt{\theta^T F \theta}"
    reference = "Liang, Poggio, Rakhlin and Stokes, AISTATS 2019"
    misleads_when = (
        "training has reached a small loss, with which it vanishes; networks of different depth are compared, which is "
        "a factor of it; outputs are log-probabilities, in which the loss is linear: that of the model is 0 then"
    )

    def __init__(
        self,
        fisher: Fisher = "model",
        *,
        biases: bool = True,
        squared: bool = False,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if fisher not in get_args(Fisher):
            raise ValueError(f'fisher must be "model" or "empirical", got {fisher!r}.')
        super().__init__(per_layer=per_layer, **kwargs)
        self.fisher, self.biases, self.squared = fisher, biases, squared
        self.name = f"{'squared_' if squared else ''}{'empirical_' if fisher == 'empirical' else ''}fisher_rao_norm"
        if squared or fisher == "empirical":
            self.units = "loss²" if squared and fisher == "empirical" else "loss"

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The square of each sample."""
        snapshot.check_samples_apart("the Fisher information")
        direction = {n: p for n, p in trainable(snapshot).items() if self.biases or p.ndim > 1}
        if not direction:
            raise MeasureError("needs a trained parameter of more than one dimension; pass biases=True to count all.")
        if not snapshot.differentiable:
            direction = {name: p.detach() for name, p in direction.items()}
        along = outputs_along(snapshot, direction)
        if self.fisher == "empirical":
            return (output_gradient(snapshot) * along).flatten(1).sum(1).square()
        squares = (along * output_curvature(snapshot).product(along)).flatten(1).sum(1)
        return snapshot.num_samples * squares.clamp(min=0)  # rounding may leave less where probabilities are 0 and 1

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The norm on the snapshot's samples."""
        square = super().measure(snapshot, context)
        return square if self.squared else safe_sqrt(square)

    def total(self) -> Tensor:
        """The norm on all samples so far."""
        return super().total() if self.squared else super().total().sqrt()

    def standard_error(self) -> Tensor:
        """Standard error over samples; of the root to first order, 0 where that is 0."""
        error = super().standard_error()
        return error if self.squared else error / (2 * self.total()).clamp(min=torch.finfo(error.dtype).tiny)


class TakeuchiCriterion(ComplexityMetric):
    r"""Takeuchi's estimate of the generalization gap from the noise of the gradient and the curvature.

    .. math:: \frac{1}{m} \operatorname{tr}(H^{-1} C) \approx \frac{\operatorname{tr} C}{m \operatorname{tr} H}

    with :math:`C` the covariance of the gradients of single samples and :math:`H` the Hessian of the mean loss. The
    second form is cheap and the default; the first, with ``exact=True``, needs the whole Hessian and is refused for
    more than 2,000 parameters; directions without curvature are left out of it. For linear regression it is the
    expected gap up to terms of higher order. It holds at a minimum of the loss of ``m`` samples.

    **It goes the wrong way between true and random labels**: on digits it was 0.2 to 0.3 times as large for random
    ones. ``nan`` for a single sample, whose gradient has no covariance.

    Args:
        num_training_samples: ``m``; by default as many as are measured.
        exact: Whether to invert the Hessian.
        num_probes: Of the trace of the Hessian.
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if no parameter is trained, if the loss is no function of outputs and targets, or if
            ``exact`` and the network is larger.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = torch.nn.init.zeros_(net.weight)
        >>> metric = TakeuchiCriterion()
        >>> metric.update(net, torch.ones(2, 1), torch.tensor([[1.0], [-1.0]]), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # gradients -2 and 2 have variance 8, the Hessian is 2
        tensor(2., dtype=torch.float64)
    """

    name = "takeuchi_criterion"
    units = "loss"
    increases_with_complexity = True
    needs = frozenset({"inputs", "targets", "loss"})
    cost = "hessian"
    order = 2
    single_update_reason = "it divides what is measured on all samples together"
    no_penalty_reason = "GaussNewtonTrace and GradientNorm penalise what it is made of"
    formula = r"\operatorname{tr} C / (m \operatorname{tr} H)"
    reference = "Takeuchi, 1976; Thomas et al., AISTATS 2020; after arXiv 2602.23219, 2026"
    misleads_when = "labels are random: it is smaller for them; away from a minimum it says nothing"

    value: Tensor

    def __init__(
        self,
        *,
        num_training_samples: int | None = None,
        exact: bool = False,
        num_probes: int = 8,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if num_training_samples is not None:
            check_at_least(1, num_training_samples=num_training_samples)
        check_at_least(1, num_probes=num_probes)
        super().__init__(per_layer=per_layer, **kwargs)
        self.num_training_samples, self.exact, self.num_probes = num_training_samples, exact, num_probes

    def _prepare_state(self) -> None:
        self.add_state("value", torch.tensor(torch.nan, dtype=torch.float64), dist_reduce_fx=latest)

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The criterion on the snapshot's samples."""
        samples = self.num_training_samples or snapshot.num_samples
        if self.exact:
            return _trace_of_quotient(snapshot) / samples
        squares = gradient_squares(snapshot).sum(1).double()
        count = len(squares)
        if count < 2:
            return torch.full_like(squares[0], torch.nan)
        mean = torch.stack([g.double().square().sum() for g in gradients(snapshot).values()]).sum()
        covariance = (squares.mean() - mean) * count / (count - 1)
        trace = HessianTrace(self.num_probes).measure(snapshot, context).double()
        return covariance / (samples * trace)


def _trace_of_quotient(snapshot: Snapshot) -> Tensor:
    hessian = HessianOperator(snapshot)
    size = hessian.shape[1]
    if size > _EXACT_UP_TO:
        raise MeasureError(
            f"the exact criterion takes the whole Hessian, of {size} parameters, more than {_EXACT_UP_TO}. Leave exact "
            "out."
        )
    each = per_sample_gradients(snapshot).double()
    if len(each) < 2:
        return torch.full_like(each[0, 0], torch.nan)
    matrix = hessian.matmat(torch.eye(size, dtype=hessian.dtype, device=hessian.device)).double()
    if not matrix.isfinite().all():
        return torch.full_like(each[0, 0], torch.nan)
    inverse = torch.linalg.pinv(matrix, hermitian=True, rtol=1e-8 if hessian.dtype == torch.float64 else 1e-5)
    return (inverse * torch.cov(each.T).reshape(size, size)).sum()
