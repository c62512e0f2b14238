"""How sure a network is, and how much of what it knows is simple."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics.utilities import dim_zero_cat

from lightning_complexity.functional.function.information import (
    held_out_linear_classes,
    output_entropy,
    performance_correlation,
)
from lightning_complexity.metrics.base import ComplexityMetric, SampleMeanMetric
from lightning_complexity.metrics.base.checks import check_at_least
from lightning_complexity.network import Context, MeasureError, Snapshot, predictions
from lightning_complexity.network.outputs import class_dim, class_targets, classified

__all__ = ["OutputEntropy", "PerformanceCorrelation"]


class OutputEntropy(SampleMeanMetric):
    r"""Entropy of the network's probabilities of classes, mean over samples, in nats.

    .. math:: -\frac{1}{n} \sum_i \sum_c p_{ic} \ln p_{ic}, \quad p_i = \operatorname{softmax}(f(x_i))

    Low where the network is sure, right or wrong; at most the logarithm of the number of classes. Outputs must be
    logits; positions of a sample are averaged.

    Raises:
        MeasureError: In ``update``, if outputs are no logits of several classes.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> _ = torch.nn.init.zeros_(net.weight), torch.nn.init.zeros_(net.bias)
        >>> metric = OutputEntropy()
        >>> metric.update(net, torch.eye(2))
        >>> metric.compute()  # ln 2
        tensor(0.6931, dtype=torch.float64)
    """

    name = "output_entropy"
    units = "nats"
    needs = frozenset({"inputs"})
    cost = "forward"
    increases_with_complexity = False
    formula = r"-\frac{1}{n} \sum_i \sum_c p_{ic} \ln p_{ic}, \quad p_i = \operatorname{softmax}(f(x_i))"
    reference = "as a penalty: Pereyra et al., ICLR workshop 2017"
    misleads_when = "outputs are scaled, as by weight decay or label smoothing, without a change of any decision"

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Entropy of each sample."""
        dim = class_dim(snapshot)
        if dim is None:
            raise MeasureError(
                "needs outputs that are logits of several classes, with targets, if given, that are classes. Say what "
                "the outputs are with forward=lambda model, inputs: ...."
            )
        outputs = predictions(snapshot)
        return output_entropy(outputs, dim).reshape(len(outputs), -1).mean(1)


class PerformanceCorrelation(ComplexityMetric):
    r"""How much of what the network's decisions say about the classes a linear model says too, in bits.

    .. math:: \mu_Y(F; L) = I(F; Y) - I(F; Y \mid L)

    for decisions :math:`F` of the network, :math:`L` of a linear model, and classes :math:`Y`. After the authors
    training first learns what a linear model knows, where it equals :math:`I(F; Y)`, and keeps that. Logged beside it
    are ``information``, :math:`I(F; Y)`, whose difference to it is what the network knows beyond the linear model, and
    ``accuracy_of_linear``. Information is counted, with Miller and Madow's correction; with 10 classes take 1000
    samples or more. 0 for a single sample.

    Args:
        linear_model: Gives outputs for inputs, shape ``(n, classes)``, or classes, shape ``(n,)``: the best linear
            model, trained on the training data. ``None`` for logistic regression on the samples at hand, each decided
            by one of five that did not see it (:func:`lightning_complexity.functional.held_out_linear_classes`).
        weight_decay: Of that regression, which is fitted again only for other samples.

    Raises:
        ValueError: If ``weight_decay`` is negative; in ``update``, for a second batch.
        MeasureError: In ``update``, if targets are not one class for each sample, for outputs of ``linear_model``
            that fit neither, for an error that it raises, and without one for inputs that are no floating-point tensor.

    Example:
        >>> x = torch.tensor([-3.0, -2.0, 2.0, 3.0]).repeat(25)[:, None]
        >>> net = torch.nn.Linear(1, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.tensor([[-1.0], [1.0]]))
        >>> metric = PerformanceCorrelation()
        >>> metric.update(net, x, (x[:, 0] >= 0).long())
        >>> round(metric.compute().item(), 2)  # the network knows one bit, and so does the linear model
        1.01
    """

    name = "performance_correlation"
    units = "bits"
    needs = frozenset({"inputs", "targets"})
    cost = "forward"
    single_update_reason = "the linear model is fitted to all samples"
    no_penalty_reason = "it counts decisions, so that its gradient is zero"
    increases_with_complexity = None
    formula = r"\mu_Y(F; L) = I(F; Y) - I(F; Y \mid L)"
    reference = "Kalimeris et al., NeurIPS 2019"
    misleads_when = "there are few samples for the number of classes, or the linear model is not the best one"

    decisions: list[Tensor] | Tensor

    def __init__(
        self, linear_model: Callable[[Any], Tensor] | None = None, *, weight_decay: float = 1e-2, **kwargs: Any
    ) -> None:
        check_at_least(0, weight_decay=weight_decay)
        super().__init__(**kwargs)
        self.linear_model, self.weight_decay = linear_model, weight_decay
        self._fitted: tuple[tuple[float, bytes], Tensor] | None = None

    def _prepare_state(self) -> None:
        self.add_state("decisions", [], dist_reduce_fx="cat")

    def _decisions(self, snapshot: Snapshot) -> Tensor:
        """Of network and linear model, and the class, shape ``(n, 3)``; -1 for outputs that are not finite."""
        targets, kept = class_targets(snapshot)
        logits = classified(snapshot).logits.detach()
        said = torch.where(logits.isfinite().all(1), logits.argmax(1), -1)
        return torch.stack([said, self._linear(snapshot, targets, kept), targets[kept]], 1)

    def _linear(self, snapshot: Snapshot, targets: Tensor, kept: Tensor) -> Tensor:
        if self.linear_model is None:
            return self._held_out(_rows(snapshot)[kept], targets[kept])
        try:
            with torch.no_grad():
                said = self.linear_model(snapshot.inputs)
        except Exception as error:  # of a function that is the user's
            said_by_it = " ".join(str(error).split())[:200]
            raise MeasureError(
                f"linear_model raised an error on inputs of {_kind(snapshot)}: {said_by_it} Give one that takes inputs "
                "as the network gets them, such as lambda inputs: linear(inputs.flatten(1))."
            ) from error
        if not isinstance(said, Tensor) or said.ndim not in (1, 2) or len(said) != len(targets):
            got = tuple(said.shape) if isinstance(said, Tensor) else type(said).__name__
            raise MeasureError(
                f"needs a linear_model that gives outputs of shape ({len(targets)}, classes) or classes of shape "
                f"({len(targets)},), got {got}."
            )
        return (said.argmax(1) if said.ndim == 2 else said.long())[kept].to(targets.device)

    def _held_out(self, rows: Tensor, targets: Tensor) -> Tensor:
        """Classes by the regression; those of the last time for the same samples, as during a training."""
        fitted_to = self.weight_decay, _digest(rows, targets)
        if self._fitted is None or self._fitted[0] != fitted_to:
            self._fitted = fitted_to, held_out_linear_classes(rows, targets, weight_decay=self.weight_decay)
        return self._fitted[1].to(targets.device)

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The value on the snapshot's samples."""
        return _correlation(self._decisions(snapshot))

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the decisions."""
        self.decisions = [*self.decisions, self._decisions(snapshot)]

    def total(self) -> Tensor:
        """The value."""
        return _correlation(dim_zero_cat(self.decisions))

    def details(self) -> dict[str, Tensor]:
        """What the network knows in all, and how good the linear model is."""
        said, simple, targets = dim_zero_cat(self.decisions).unbind(1)
        return {
            "information": performance_correlation(said, said, targets),
            "accuracy_of_linear": (simple == targets).double().mean(),
        }


def _rows(snapshot: Snapshot) -> Tensor:
    inputs = snapshot.inputs
    if not isinstance(inputs, Tensor) or not inputs.is_floating_point():
        raise MeasureError(
            f"fits a linear model to inputs that are one floating-point tensor, but these are {_kind(snapshot)}. Give "
            "one that takes them with linear_model=lambda inputs: ...."
        )
    return inputs.flatten(1)


def _digest(*tensors: Tensor) -> bytes:
    """Equal for tensors of equal shapes, types and bytes only."""
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(repr((tensor.shape, tensor.dtype)).encode())
        digest.update(tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes())
    return digest.digest()


def _kind(snapshot: Snapshot) -> str:
    inputs = snapshot.inputs
    if isinstance(inputs, Tensor):
        return f"{inputs.dtype} of shape {tuple(inputs.shape)}"
    return "whole batches" if snapshot.is_whole else type(inputs).__name__


def _correlation(decisions: Tensor) -> Tensor:
    said, simple, targets = decisions.unbind(1)
    value = performance_correlation(said, simple, targets)
    return torch.where((said < 0).any(), torch.nan, value)
