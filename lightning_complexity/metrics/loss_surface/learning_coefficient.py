"""How singular the loss is around the current parameters, by random walks there."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.langevin import (
    chain_standard_error,
    default_inverse_temperature,
)
from lightning_complexity.metrics.base import ComplexityMetric, latest
from lightning_complexity.network import Context, MeasureError, Snapshot
from lightning_complexity.network.curvature.output_curvature import loss_of_outputs
from lightning_complexity.network.landscape.langevin import Walk, Walked, langevin_walks

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["FunctionalVariance", "LearningCoefficient"]


class _WalkMetric(ComplexityMetric):
    """What is read off random walks around the parameters; those of equal options are walked once."""

    needs = frozenset({"inputs", "targets", "loss"})
    suite = None  # hundreds of training steps: asked for by name
    cost = "sampling"
    order = 1
    chooses_layers = True
    single_update_reason = "it walks on the loss of all samples"
    looks_at_samples = False
    traces: Tensor
    acceptance: Tensor

    def __init__(
        self,
        num_chains: int = 2,
        num_draws: int = 50,
        *,
        burn_in: int = 50,
        step_size: float = 1e-4,
        localization: float = 100.0,
        num_samples: int | None = None,
        inverse_temperature: float | None = None,
        batch_size: int | None = None,
        seed: int = 0,
        **kwargs: Any,
    ) -> None:
        for name, value, least in (
            ("num_chains", num_chains, 1),
            ("num_draws", num_draws, 2),
            ("burn_in", burn_in, 0),
            ("num_samples", num_samples, 2),
            ("batch_size", batch_size, 1),
        ):
            if value is not None and value < least:
                raise ValueError(f"{name} must be at least {least}, got {value!r}.")
        for name, number in (("step_size", step_size), ("inverse_temperature", inverse_temperature)):
            if number is not None and not 0 < number < float("inf"):
                raise ValueError(f"{name} must be a positive number, got {number!r}.")
        if not 0 <= localization < float("inf"):
            raise ValueError(f"localization must be a number and not negative, got {localization!r}.")
        super().__init__(**kwargs)
        self.num_chains, self.num_draws, self.burn_in = num_chains, num_draws, burn_in
        self.step_size, self.localization = step_size, localization
        self.num_samples, self.inverse_temperature = num_samples, inverse_temperature
        self.batch_size, self.seed = batch_size, seed

    def samples_trained_on(self, snapshot: Snapshot) -> int:
        """Number of samples that the network was trained on, as said or as measured."""
        return self.num_samples or snapshot.num_samples

    def temperature(self, snapshot: Snapshot) -> float:
        """The inverse temperature of the walks."""
        return self.inverse_temperature or default_inverse_temperature(self.samples_trained_on(snapshot))

    def walks(self, snapshot: Snapshot, context: Context) -> Walked:
        """The walks, which metrics of equal options share."""
        if self.looks_at_samples and snapshot.task.judges_batches:
            snapshot = _judged_by_outputs(snapshot)
        walk = Walk(
            self.num_chains,
            self.num_draws,
            self.burn_in,
            self.step_size,
            self.localization,
            self.temperature(snapshot),
            self.batch_size,
            self.seed,
            self.looks_at_samples and snapshot.task.judges_batches,
        )
        return langevin_walks(snapshot, walk, context.layers)

    @abstractmethod
    def of_walks(self, walked: Walked, snapshot: Snapshot) -> Tensor:
        """The value at each step that counts, shape ``(chains, draws)``."""

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Mean over walks."""
        return self.of_walks(self.walks(snapshot, context), snapshot).mean()

    def _prepare_state(self) -> None:
        self.add_state("traces", torch.full((1, 1), torch.nan), dist_reduce_fx=latest)
        self.add_state("acceptance", torch.tensor(torch.nan), dist_reduce_fx=latest)

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the value at each step."""
        walked = self.walks(snapshot, context)
        self.traces, self.acceptance = self.of_walks(walked, snapshot), walked.acceptance.mean()

    def total(self) -> Tensor:
        """Mean over walks."""
        return self.traces.mean()

    def standard_error(self) -> Tensor:
        """Standard error of the mean over walks, see :func:`lightning_complexity.functional.chain_standard_error`."""
        return chain_standard_error(self.traces)

    def details(self) -> dict[str, Tensor]:
        """The standard error, and with which probability steps would be accepted."""
        return {"standard_error": self.standard_error(), "acceptance": self.acceptance}


def _judged_by_outputs(snapshot: Snapshot) -> Snapshot:
    """The same with a loss of outputs and targets, which samples have alone, where its own is seen to be one."""
    try:
        return snapshot.on(snapshot.batches, loss_of_outputs(snapshot))
    except MeasureError:
        return snapshot


class LearningCoefficient(_WalkMetric):
    r"""Local learning coefficient of the loss at the current parameters, estimated by Langevin dynamics.

    .. math:: \hat\lambda = n \beta \big( \mathbb{E}_w L(w) - L(w^*) \big), \quad
        w \sim \exp\big( -n \beta L(w) - \tfrac\gamma2 \|w - w^*\|^2 \big), \quad n \beta = \frac{n}{\ln n}

    How fast the volume of parameters whose loss is about as low shrinks with the loss: half the number of parameters of
    a regular model, less where many parameters do the same. A walk goes

    .. math:: w_{t+1} = w_t - \frac\epsilon2 \big( n \beta \nabla L(w_t) + \gamma (w_t - w^*) \big) +
        \sqrt\epsilon\, \xi_t

    and costs about a training step each step. For a quadratic loss with curvatures :math:`h_i` the walk's mean is

    .. math:: \frac12 \sum_i \frac{n \beta h_i}{(n \beta h_i + \gamma) (1 - \epsilon (n \beta h_i + \gamma) / 4)}

    so that the localization :math:`\gamma` lowers it, to half the effective dimension of the curvature at
    :math:`\gamma / (n \beta)`, and steps that are not small against the largest curvature raise it: the detail
    ``acceptance``, the mean probability of accepting a step by the Metropolis-Hastings rule, is then far below 0.9, and
    0 where the walk explodes. Curvatures need about :math:`1 / (\epsilon (n \beta h_i + \gamma))` steps to be seen;
    where ``burn_in`` is shorter the value is too low. Values compare between equal options only.

    The network is in evaluation mode and keeps its running statistics; its parameters stay where they are. Negative
    where the walk finds lower losses, as before the end of training. The standard error is over walks and the time
    along them, and does not cover what localization, step size and burn-in do. :attr:`losses` has the loss after each
    step of each walk; :meth:`figures` draws them. Undefined, ``nan``, for a single sample without ``num_samples`` or
    ``inverse_temperature``. :meth:`on` moves the parameters of some layers and lets the others be.

    Args:
        num_chains: Number of walks.
        num_draws: Number of steps of each walk that count.
        burn_in: Number of steps of each walk before these.
        step_size: :math:`\epsilon`.
        localization: :math:`\gamma`.
        num_samples: Number ``n`` of samples that the network was trained on; default the number measured. A monitor
            measures a part of them, so give it there.
        inverse_temperature: :math:`n \beta`; default :math:`n / \ln n`.
        batch_size: At most how many samples a step looks at, each time others; default all. The losses of batches are
            compared with those that the same batches had at the start.
        seed: Of the noise. The noise is the same every time, so that a curve over training does not jump.

    Raises:
        ValueError: If an option is out of its range.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> _ = net.weight.data.fill_(2.0)
        >>> metric = LearningCoefficient(4, 200, step_size=1e-2, localization=0.0, inverse_temperature=20.0)
        >>> metric.update(net, torch.ones(2, 1), torch.full((2, 1), 2.0), loss=torch.nn.functional.mse_loss)
        >>> bool(0.4 < metric.compute() < 0.7)  # (w - 2)^2 is regular, with one parameter: 1/2
        True
    """

    name = "learning_coefficient"
    increases_with_complexity = True
    units = "pure number"
    no_penalty_reason = "it is known with an error that takes hundreds of training steps to lower"
    formula = r"\frac{n}{\ln n} (\operatorname{mean}_w L(w) - L(w^*))"
    reference = "Lau et al., AISTATS 2025; of some layers: Wang et al., ICLR 2025"
    misleads_when = (
        "training is not over, so that walks find lower losses; steps are too long for the sharpest direction, which "
        "`acceptance` shows; curves with other options, or another number of samples, are compared"
    )
    losses: Tensor
    loss_at_start: Tensor

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("losses", torch.full((1, 1), torch.nan), dist_reduce_fx=latest)
        self.add_state("loss_at_start", torch.tensor(torch.nan), dist_reduce_fx=latest)

    def of_walks(self, walked: Walked, snapshot: Snapshot) -> Tensor:
        """How much higher than at the start the loss is, times the inverse temperature."""
        return self.temperature(snapshot) * (walked.losses[:, self.burn_in :] - walked.loss_at_start)

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the losses too."""
        super().accumulate(snapshot, context)
        walked = self.walks(snapshot, context)
        self.losses, self.loss_at_start = walked.losses, walked.loss_at_start

    def figures(self, snapshot: Snapshot) -> dict[str, Figure]:
        """The loss along the walks."""
        from lightning_complexity.network.landscape.figures import draw_walks

        return {f"{self.name}/walks": draw_walks(self.losses, self.loss_at_start, self.burn_in)}


class FunctionalVariance(_WalkMetric):
    r"""Functional variance: how much the samples' losses vary around the current parameters.

    .. math:: V = \sum_{i=1}^n \operatorname{Var}_w \ell(f_w(x_i), y_i)

    over the random walks of :class:`LearningCoefficient`, which has the same options; with equal ones both come of the
    same walks. In Watanabe's theory :math:`\beta V / 2`, the detail ``singular_fluctuation``, is what the gap between
    training and generalization error of the tempered posterior takes; for a regular model that fits it is half the
    number of parameters. Where fewer than ``n`` samples are measured the sum is scaled up to ``n``.

    The loss must be the mean of those that samples have alone. Losses of outputs and targets come along at every step.
    One that takes batches, such as a module's own step, walks again: as a loss of outputs where it is seen to be the
    cross-entropy, the squared error or the binary cross-entropy of these, else asked for each sample alone at about ten
    steps of each walk, which takes a pass for each sample. Undefined, ``nan``, for a single sample without
    ``num_samples`` or ``inverse_temperature``. With a ``batch_size`` only steps at which the same batch was drawn are
    compared; where that is never, 0.

    Args:
        num_chains: Number of walks.
        num_draws: Number of steps of each walk that count.
        burn_in: Number of steps of each walk before these.
        step_size: :math:`\epsilon`.
        localization: :math:`\gamma`.
        num_samples: Number ``n`` of samples that the network was trained on; default the number measured.
        inverse_temperature: :math:`n \beta`; default :math:`n / \ln n`.
        batch_size: At most how many samples a step looks at; default all.
        seed: Of the noise.

    Raises:
        ValueError: If an option is out of its range.
        MeasureError: In ``update``, if samples have no losses of their own.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> metric = FunctionalVariance(num_draws=50)
        >>> metric.update(net, torch.zeros(2, 1), torch.zeros(2, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # the weight does not matter to an input of zero
        tensor(0.)
    """

    name = "functional_variance"
    looks_at_samples = True
    increases_with_complexity = True
    units = "loss²"
    no_penalty_reason = "it is known with an error that takes hundreds of training steps to lower"
    formula = r"\sum_i \operatorname{Var}_w \ell(f_w(x_i), y_i)"
    reference = "Watanabe, JMLR 2010"
    misleads_when = (
        "steps are too long for the sharpest direction, which `acceptance` shows; the localization keeps the walk from "
        "where the variance would come from; curves with other options are compared"
    )
    beta: Tensor

    def _prepare_state(self) -> None:
        super()._prepare_state()
        self.add_state("beta", torch.tensor(torch.nan), dist_reduce_fx=latest)

    def of_walks(self, walked: Walked, snapshot: Snapshot) -> Tensor:
        """The squared deviations of losses, added up over samples."""
        if walked.sample_variances is None:
            raise MeasureError(
                "needs a loss that is the mean of those that samples have alone, and batches that can be cut into "
                "samples. Give such a loss with loss=lambda outputs, targets: ...., or leave this measure out."
            )
        return self.samples_trained_on(snapshot) * walked.sample_variances

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the temperature too."""
        super().accumulate(snapshot, context)
        self.beta = torch.tensor(self.temperature(snapshot) / self.samples_trained_on(snapshot))

    def details(self) -> dict[str, Tensor]:
        """The standard error, the acceptance, and half of the value times the inverse temperature of a sample."""
        return {**super().details(), "singular_fluctuation": self.beta * self.total() / 2}
