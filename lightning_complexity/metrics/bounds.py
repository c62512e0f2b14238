"""Generalization bounds, evaluated with their constants."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.functional import bounds
from lightning_complexity.functional.weights.norms import mixed_norm
from lightning_complexity.metrics.base.bounds import Bound, NormBound, RadiiAndMargin
from lightning_complexity.metrics.size import VCDimensionBound
from lightning_complexity.network import (
    Context,
    MeasureError,
    Snapshot,
    Weight,
    distance_norms,
    distances,
    features,
    layer_norms,
    weight_matrices,
)
from lightning_complexity.network.outputs import classified

__all__ = [
    "FrobeniusBound",
    "MixedNormBound",
    "SizeIndependentBound",
    "SpectralBound",
    "SpectralFrobeniusBound",
    "TwoLayerBound",
    "VCGeneralizationBound",
]


def _sizes(of_weights: Tensor) -> tuple[int, int, int]:
    classes, features, width = (int(size) for size in of_weights[:3])
    return classes, features, width


def _vector(norms: dict[str, Tensor]) -> Tensor:
    return torch.stack(list(norms.values()))


class MixedNormBound(NormBound):
    r"""Generalization bound by the largest L1 norms of the units, Bartlett and Mendelson 2002.

    .. math:: E(f) - E_D(f) \le \frac{R + 3 \sqrt{\ln(m/\delta)}}{\sqrt m}, \quad
              R = \frac{2^{d+2}\, C \sqrt{\ln D} \; r}{\gamma} \prod_{i=1}^d \|W_i\|_{1,\infty}

    with probability :math:`1 - \delta`. :math:`E` is the test error, :math:`E_D` the share of training samples with a
    margin below :math:`\gamma`, a percentile of the signed margins; :math:`r^2` the mean of :math:`\|x\|_\infty^2`;
    ``C`` classes, ``D`` inputs, ``d`` layers. A value above ``ln 1 = 0`` says nothing about the test error; bounds are
    compared between networks.

    Proved for fully connected ReLU networks without biases. Of other networks it is the number that
    the literature compares: BatchNorm is multiplied into the layer before it, a convolution is its reshaped kernel,
    biases and skip connections do not count. ``nan`` while the margin is not positive.

    Args:
        of: ``"bound"``; or ``"rademacher"`` for :math:`R / (2 \sqrt m)`, which bounds the empirical Rademacher
            complexity of the losses.
        log: Whether the value is the logarithm; without it the name has no ``log_``, and deep networks may overflow.
        delta: Probability that the bound does not hold.
        num_samples: Number ``m`` of samples that the network was trained on; default the number measured. Give it
            where only a part of them is, as :class:`lightning_complexity.ComplexityMonitor` does.
        percentile: Which percentile of the margins :math:`\gamma` is, between 0 and 100.
        per_layer: Must be ``False``, a bound has no layers.

    Raises:
        ValueError: In ``update``, at layers that are neither linear nor convolutions.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.eye(2))
        >>> metric = MixedNormBound(of="rademacher", log=False)
        >>> metric.update(net, torch.eye(2), torch.tensor([0, 1]))
        >>> metric.compute()  # 8 * 2 * sqrt(ln 2) / (2 sqrt 2)
        tensor(4.7096, dtype=torch.float64)
    """

    name = "log_mixed_norm_bound"
    no_penalty_reason = "LogNormProduct is the part of it that depends on the weights"
    formula = (
        r"(R + 3 \sqrt{\ln(m/\delta)}) / \sqrt m, \; "
        r"R = 2^{d+2} C \sqrt{\ln D} \; r \prod_i \lVert W_i \rVert_{1,\infty} / \gamma"
    )
    reference = "Bartlett and Mendelson, JMLR 2002; constants of Neyshabur et al., ICLR 2019"
    units = "error rate"
    misleads_when = "compared across depths: the factor 2^d dominates; one unit with large weights decides its layer"
    _quantity = "mixed_norm"

    def layer_numbers(self, snapshot: Snapshot, context: Context) -> list[Tensor]:
        """Norms."""
        return [_vector(layer_norms(snapshot, (1, math.inf), folded=True))]

    def log_capacity(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of ``R``."""
        classes, features, _ = _sizes(of_weights)
        return bounds.log_mixed_norm_capacity(of_weights[3:], classes, features, data.mean_l_inf, data.margin)


class FrobeniusBound(NormBound):
    r"""Generalization bound by Frobenius norms, Neyshabur et al. 2015.

    .. math:: E(f) - E_D(f) \le \frac{R + 3 \sqrt{\ln(m/\delta)}}{\sqrt m}, \quad
              R = \frac{2^{d+1} \sqrt C \; r}{\gamma} \prod_{i=1}^d \|W_i\|_F

    with :math:`r^2` the mean of :math:`\|x\|_2^2`; the rest, the arguments, and what the number means for other than
    fully connected networks, as for :class:`MixedNormBound`.

    ``nan`` while the margin is not positive.

    Args:
        of: ``"bound"`` or ``"rademacher"``.
        log: Whether the value is the logarithm.
        delta: Probability that the bound does not hold.
        num_samples: Number of training samples; default the number measured.
        percentile: Which percentile of the margins is the margin.
        per_layer: Must be ``False``, a bound has no layers.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.eye(2))
        >>> metric = FrobeniusBound(of="rademacher", log=False)
        >>> metric.update(net, torch.eye(2), torch.tensor([0, 1]))
        >>> metric.compute()  # 4 * sqrt(2) * sqrt(2) / (2 sqrt 2)
        tensor(2.8284, dtype=torch.float64)
    """

    name = "log_frobenius_bound"
    no_penalty_reason = "LogNormProduct is the part of it that depends on the weights"
    formula = (
        r"(R + 3 \sqrt{\ln(m/\delta)}) / \sqrt m, \; R = 2^{d+1} \sqrt C \; r \prod_i \lVert W_i \rVert_F / \gamma"
    )
    reference = "Neyshabur et al., COLT 2015; constants of Neyshabur et al., ICLR 2019"
    units = "error rate"
    misleads_when = (
        "compared across depths or widths: the factor 2^d and the norms of wide layers make it grow where test "
        "error falls; it is above 1 on networks of practical size"
    )
    _quantity = "frobenius"

    def layer_numbers(self, snapshot: Snapshot, context: Context) -> list[Tensor]:
        """Norms."""
        return [_vector(layer_norms(snapshot, "frobenius", folded=True))]

    def log_capacity(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of ``R``."""
        classes, _, _ = _sizes(of_weights)
        return bounds.log_frobenius_capacity(of_weights[3:], classes, data.mean_l2, data.margin)


class SizeIndependentBound(FrobeniusBound):
    r"""Generalization bound by Frobenius norms without a factor exponential in depth, after Golowich et al. 2018.

    .. math:: E(f) - E_D(f) \le \frac{R + 3 \sqrt{\ln(m/\delta)}}{\sqrt m}, \quad
              R = \frac{4 \sqrt C \; \big( \sqrt{2 d \ln 2} + 1 \big) \; r}{\gamma} \prod_{i=1}^d \|W_i\|_F

    with :math:`r^2` the mean of :math:`\|x\|_2^2`; the rest, the arguments, and what the number means for other than
    fully connected networks, as for :class:`MixedNormBound`.

    ``nan`` while the margin is not positive.

    Args:
        of: ``"bound"`` or ``"rademacher"``.
        log: Whether the value is the logarithm.
        delta: Probability that the bound does not hold.
        num_samples: Number of training samples; default the number measured.
        percentile: Which percentile of the margins is the margin.
        per_layer: Must be ``False``, a bound has no layers.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> metric = SizeIndependentBound()
        >>> x = torch.eye(2)
        >>> metric.update(net, x, net(x).argmax(1))
        >>> bool(metric.compute() > 0)
        True
    """

    name = "log_size_independent_bound"
    no_penalty_reason = "LogNormProduct is the part of it that depends on the weights"
    formula = (
        r"(R + 3 \sqrt{\ln(m/\delta)}) / \sqrt m, \; "
        r"R = 4 \sqrt C (\sqrt{2 d \ln 2} + 1) \; r \prod_i \lVert W_i \rVert_F / \gamma"
    )
    reference = "after Golowich et al., COLT 2018"
    units = "error rate"
    misleads_when = (
        "compared across widths: Frobenius norms grow with the width although wider networks generalize better; "
        "above 1 in practice"
    )
    _quantity = "size_independent"

    def log_capacity(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of ``R``."""
        classes, _, _ = _sizes(of_weights)
        return bounds.log_size_independent_capacity(of_weights[3:], classes, data.mean_l2, data.margin)


class SpectralBound(NormBound):
    r"""Generalization bound by spectral norms and distances from initialization, after Bartlett et al. 2017.

    .. math:: E(f) - E_D(f) \le \frac{R + S}{\sqrt m} + \frac8m, \quad
              R = \frac{144 \ln(m) \ln(2w)}{\gamma} \Big( r + \frac1{\sqrt m} \Big) \prod_i s_i
              \Big( \sum_i (b_i / s_i)^{2/3} \Big)^{3/2}

    with :math:`s_i = \|W_i\|_2 + 1/d`, :math:`b_i = \|W_i - W_i^0\|_{2,1} + 1/d` (the sum of the units'
    :math:`\ell_2` norms), :math:`r^2` the mean of :math:`\|x\|_2^2`, ``w`` the largest width, and ``S`` of
    :func:`lightning_complexity.functional.log_spectral_bound`. Needs the state at the start. The rest, the arguments,
    and what the number means for other than fully connected networks, as for :class:`MixedNormBound`.

    ``nan`` while the margin is not positive.

    Args:
        of: ``"bound"`` or ``"rademacher"``.
        log: Whether the value is the logarithm.
        delta: Probability that the bound does not hold.
        num_samples: Number of training samples; default the number measured.
        percentile: Which percentile of the margins is the margin.
        per_layer: Must be ``False``, a bound has no layers.

    Example:
        >>> import torch
        >>> from lightning_complexity.network import initial_state
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> metric, x = SpectralBound(), torch.eye(2)
        >>> metric.update(net, x, net(x).argmax(1), initial=initial_state(net))
        >>> bool(metric.compute() > 0)
        True
    """

    name = "log_spectral_bound"
    no_penalty_reason = "LogSpectralComplexity is the part of it that depends on the weights"
    needs = frozenset({"inputs", "targets", "initial"})
    formula = (
        r"(R + S) / \sqrt m + 8/m, \; R = 144 \ln(m) \ln(2w) (r + 1/\sqrt m) "
        r"\prod_i s_i \big( \sum_i (b_i / s_i)^{2/3} \big)^{3/2} / \gamma"
    )
    reference = "after Bartlett et al., NeurIPS 2017"
    units = "error rate"
    misleads_when = (
        "layers are wide and far from where they started: the distances grow with the width, so that the bound "
        "rises while test error falls"
    )
    _quantity = "spectral"

    def layer_numbers(self, snapshot: Snapshot, context: Context) -> list[Tensor]:
        """Norms and distances."""
        moved = {w.name: mixed_norm(w.blocks, 2, 1) for w in distances(snapshot, folded=True)}
        return [_vector(layer_norms(snapshot, folded=True)), _vector(moved)]

    def log_capacity(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of ``R``."""
        norms, distances = of_weights[3:].chunk(2)
        slack, (_, _, width) = 1 / len(norms), _sizes(of_weights)
        return bounds.log_spectral_capacity(norms + slack, distances + slack, m, width, data.mean_l2, data.margin)

    def log_bound(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of the bound."""
        norms, distances = of_weights[3:].chunk(2)
        _, _, width = _sizes(of_weights)
        return bounds.log_spectral_bound(norms, distances, m, width, data.mean_l2, data.margin, self.delta)


class SpectralFrobeniusBound(NormBound):
    r"""Generalization bound by spectral norms and Frobenius distances from initialization, Neyshabur et al. 2018.

    .. math:: E(f) - E_D(f) \le \sqrt{\frac{R^2 + 6 \ln (2m/\delta)}{m}}, \quad
              R = \frac{168\, d \; r \sqrt{\ln (4 d h)}}{\sqrt 2 \, \gamma} \prod_i \|W_i\|_2
              \Big( \sum_i h_i \frac{\|W_i - W_i^0\|_F^2}{\|W_i\|_2^2} \Big)^{1/2}

    with :math:`h_i` the units of layer ``i``, ``h`` the largest, and :math:`r = \max \|x\|_2` over the samples. A
    PAC-Bayes bound, which has no Rademacher form. Needs the state at the start. The rest, the arguments, and what the
    number means for other than fully connected networks, as for :class:`MixedNormBound`. Public code has the first
    layer's norm once more, see :func:`lightning_complexity.functional.log_spectral_frobenius_capacity`.

    ``nan`` while the margin is not positive.

    Args:
        log: Whether the value is the logarithm.
        delta: Probability that the bound does not hold.
        num_samples: Number of training samples; default the number measured.
        percentile: Which percentile of the margins is the margin.
        per_layer: Must be ``False``, a bound has no layers.

    Example:
        >>> import torch
        >>> from lightning_complexity.network import initial_state
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> metric, x = SpectralFrobeniusBound(), torch.eye(2)
        >>> metric.update(net, x, net(x).argmax(1), initial=initial_state(net))
        >>> bool(metric.compute() > 0)
        True
    """

    name = "log_spectral_frobenius_bound"
    no_penalty_reason = "LogSpectralProduct and WeightDistance are the parts of it that depend on the weights"
    needs = frozenset({"inputs", "targets", "initial"})
    formula = (
        r"\sqrt{(R^2 + 6 \ln (2m/\delta)) / m}, \; R = 168\, d \; r \sqrt{\ln (4dh)} \prod_i \lVert W_i \rVert_2 "
        r"\big( \sum_i h_i \lVert W_i - W_i^0 \rVert_F^2 / \lVert W_i \rVert_2^2 \big)^{1/2} / (\sqrt 2 \gamma)"
    )
    reference = "Neyshabur et al., ICLR 2018; constants of Neyshabur et al., ICLR 2019"
    units = "error rate"
    misleads_when = (
        "compared across widths or depths: it grows with the square of the depth times the width; above 1 in practice"
    )
    _quantity = "spectral_frobenius"

    def __init__(self, **kwargs: Any) -> None:
        if kwargs.get("of", "bound") != "bound":
            raise ValueError("SpectralFrobeniusBound is a PAC-Bayes bound and has no Rademacher form; leave of out.")
        super().__init__(**kwargs)

    def layer_numbers(self, snapshot: Snapshot, context: Context) -> list[Tensor]:
        """Norms, distances and widths."""
        norms = _vector(layer_norms(snapshot, folded=True))
        widths = [w.blocks.shape[0] * w.blocks.shape[1] for w in weight_matrices(snapshot, folded=True)]
        return [norms, _vector(distance_norms(snapshot, "frobenius", folded=True)), norms.new_tensor(widths)]

    def log_capacity(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of ``R``."""
        norms, distances, widths = of_weights[3:].chunk(3)
        return bounds.log_spectral_frobenius_capacity(norms, distances, widths, data.max_l2, data.margin)

    def log_bound(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of the bound."""
        return bounds.log_pac_bayes_bound(self.log_capacity(of_weights, data, m), m, self.delta)


class TwoLayerBound(NormBound):
    r"""Generalization bound of networks with one hidden layer, Neyshabur et al. 2019.

    .. math:: E(f) - E_D(f) \le \frac{R + 3 \sqrt{5H + \ln(\max(1, \gamma \sqrt m) / \delta)}}{\sqrt m}, \quad
              R = \frac{3 \sqrt 2 \, (\sqrt{2C} + 1)}{\gamma} (\|V\|_F + 1) \big( h + \|U - U^0\|_F\, r + 1 \big)

    with ``H`` hidden units, :math:`h^2` the mean of the squared norm of the hidden units at initialization, and
    :math:`r^2` the mean of :math:`\|x\|_2^2`. Unlike other bounds it can fall as the layer gets wider. In no suite, as
    it is for one architecture alone. Needs the state at the start. The rest and the arguments as for
    :class:`MixedNormBound`.

    ``nan`` while the margin is not positive.

    Args:
        of: ``"bound"`` or ``"rademacher"``.
        log: Whether the value is the logarithm.
        delta: Probability that the bound does not hold.
        num_samples: Number of training samples; default the number measured.
        percentile: Which percentile of the margins is the margin.
        per_layer: Must be ``False``, a bound has no layers.

    Raises:
        ValueError: In ``update``, if the network does not have exactly two weights, both of linear layers.

    Example:
        >>> import torch
        >>> from lightning_complexity.network import initial_state
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU(), torch.nn.Linear(2, 2))
        >>> metric, x = TwoLayerBound(), torch.eye(2)
        >>> metric.update(net, x, net(x).argmax(1), initial=initial_state(net))
        >>> bool(metric.compute() > 0)
        True
    """

    name = "log_two_layer_bound"
    suite = None
    no_penalty_reason = "DistanceFromInitialization is the part of it that depends on the weights"
    needs = frozenset({"inputs", "targets", "initial"})
    formula = (
        r"(R + 3 \sqrt{5H + \ln(\max(1, \gamma \sqrt m) / \delta)}) / \sqrt m, \; "
        r"R = 3 \sqrt 2 (\sqrt{2C} + 1) (\lVert V \rVert_F + 1) (h + \lVert U - U^0 \rVert_F r + 1) / \gamma"
    )
    reference = "Neyshabur et al., ICLR 2019"
    units = "error rate"
    misleads_when = "the network has another form than one hidden layer without biases, for which it is proved"
    _quantity = "two_layer"

    def layer_numbers(self, snapshot: Snapshot, context: Context) -> list[Tensor]:
        """Hidden units, norm of the second layer, distance of the first."""
        first, second = _two_layers(snapshot)
        norms = layer_norms(snapshot, "frobenius", folded=True)
        moved = distance_norms(snapshot, "frobenius", folded=True)
        hidden = norms[second.name].new_tensor(float(first.blocks.shape[-2]))
        return [torch.stack([hidden, norms[second.name], moved[first.name]])]

    def _hidden(self, snapshot: Snapshot, context: Context) -> Tensor:
        _, second = _two_layers(snapshot)
        (entering,) = features(snapshot.at_initialization, second.name.removesuffix(".weight")).values()
        return entering.double().square().sum(1)

    def log_capacity(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of ``R``."""
        (classes, _, _), (_, norm, distance) = _sizes(of_weights), of_weights[3:]
        return bounds.log_two_layer_capacity(norm, distance, classes, data.hidden, data.mean_l2, data.margin)

    def log_bound(self, of_weights: Tensor, data: RadiiAndMargin, m: int) -> Tensor:
        """Logarithm of the bound."""
        capacity = self.log_capacity(of_weights, data, m)
        return bounds.log_two_layer_bound(capacity, int(of_weights[3]), data.margin, m, self.delta)


def _two_layers(snapshot: Snapshot) -> list[Weight]:
    weights = weight_matrices(snapshot, folded=True)
    if len(weights) != 2 or not all(isinstance(w.module, nn.Linear) for w in weights):
        names = ", ".join(w.name for w in weights)
        raise MeasureError(f"TwoLayerBound needs a network of two linear layers, got the weights {names}.")
    return weights


class VCGeneralizationBound(Bound):
    r"""Generalization bound by the VC dimension, with the bound of Harvey et al. 2017 on it.

    .. math:: E(f) - E_D(f) \le \sqrt{\frac{8 C V \ln(e \max(m/V, 1)) + 8 \ln(2/\delta)}{m}}

    with probability :math:`1 - \delta`, where :math:`E_D` is the training error, ``C`` the number of classes and ``V``
    :class:`lightning_complexity.metrics.VCDimensionBound`. Depends on the architecture and the number of samples alone.

    Args:
        of: ``"bound"``; or ``"rademacher"`` for :math:`\sqrt{2 C V \ln(e \max(m/V, 1)) / m}`, at most 1.
        log: Whether the value is the logarithm; without it the name has no ``log_``.
        delta: Probability that the bound does not hold.
        num_samples: Number ``m`` of samples that the network was trained on; default the number measured.
        per_layer: Must be ``False``, a bound has no layers.

    Raises:
        UnsupportedOperationError: In ``update``, at an operation that is not piecewise linear.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
        >>> metric = VCGeneralizationBound(log=False, num_samples=1_000_000)
        >>> metric.update(net, torch.zeros(1, 2), torch.tensor([0]))
        >>> metric.compute()
        tensor(0.2230, dtype=torch.float64)
    """

    name = "log_vc_generalization_bound"
    no_penalty_reason = "depends on the architecture alone, so that its gradient is zero"
    formula = r"\sqrt{(8 C V \ln(e \max(m/V, 1)) + 8 \ln(2/\delta)) / m}"
    reference = "Vapnik and Chervonenkis; Harvey et al., COLT 2017"
    units = "error rate"
    misleads_when = (
        "any two networks of one architecture are compared: it does not see weights or data, and rises with size "
        "while test error falls"
    )
    _quantity = "vc_generalization"

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._dimension = VCDimensionBound()

    def from_weights(self, snapshot: Snapshot, context: Context) -> Tensor:
        """VC dimension and number of classes."""
        logits, _ = classified(snapshot)
        dimension = self._dimension.measure(snapshot, context).double()
        return torch.stack([dimension, dimension.new_tensor(float(logits.shape[1]))])

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Nothing; the samples are only counted."""
        return torch.zeros(len(classified(snapshot).targets), 0)

    def summarize(self, of_weights: Tensor, samples: Tensor) -> Tensor:
        """The bound or the complexity."""
        (dimension, classes), m = of_weights.tolist(), self.num_samples or len(samples)
        if self.of == "rademacher":
            value = bounds.vc_rademacher_complexity(dimension, int(classes), m)
        else:
            value = bounds.vc_generalization_bound(dimension, int(classes), m, self.delta)
        return of_weights.new_tensor(math.log(value) if self.is_logarithm else value)
