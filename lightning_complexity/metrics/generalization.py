"""The measures of the study of robust generalization measures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_complexity.functional.generalization import adjusted_measure, order_statistic_margin
from lightning_complexity.functional.loss_surface.pac_bayes import (
    magnitude_aware_pac_bayes_capacity,
    pac_bayes_capacity,
)
from lightning_complexity.metrics.base import Cost, WeightsAndSamplesMetric
from lightning_complexity.metrics.loss_surface.flatness import check_compat
from lightning_complexity.network import (
    Context,
    Snapshot,
    Weight,
    distance_norms,
    distances,
    layer_norms,
    margins,
    path_sums,
    weight_matrices,
)
from lightning_complexity.network.landscape.perturbations import Compat, Noise, tolerated_noise
from lightning_complexity.network.weights.norms import circular_matrix_norm, convolution_inputs

__all__ = ["GeneralizationMeasure", "generalization_measures"]

Over = Literal["", "ratio", "product", "sum"]


@dataclass(frozen=True)
class StudiedNetwork:
    """Numbers of the layers that the study's formulas are made of, all squared; BatchNorm folded.

    Attributes:
        snapshot: Of the network.
        fft: Whether spectral norms of convolutions are those on a torus.
        num_samples: How many there are in training.
        compat: Whose noise it is, see :class:`Noise`.
    """

    snapshot: Snapshot
    fft: bool
    num_samples: int
    compat: Compat | None

    def _squares(self, norms: dict[str, Tensor]) -> Tensor:
        return torch.stack(list(norms.values())).double().square()

    def _image_sizes(self) -> dict[int, torch.Size]:
        """The study transforms every kernel at the size of the first convolution's input, also behind a stride."""
        called = convolution_inputs(self.snapshot)
        convolutions = [w.module for w in self.weights if id(w.module) in called]
        return {id(module): called[id(convolutions[0])] for module in convolutions}

    @property
    def weights(self) -> list[Weight]:
        return weight_matrices(self.snapshot, folded=True)

    @property
    def depth(self) -> int:
        return len(self.weights)

    @property
    def size(self) -> Tensor:
        count = sum(w.tensor.numel() for w in self.weights)
        return torch.tensor(float(count), dtype=torch.float64)

    @property
    def frobenius(self) -> Tensor:
        return self._squares(layer_norms(self.snapshot, "frobenius", folded=True))

    @property
    def spectral(self) -> Tensor:
        if self.fft:
            return self._circular(self.weights)
        return self._squares(layer_norms(self.snapshot, folded=True))

    @property
    def frobenius_distance(self) -> Tensor:
        return self._squares(distance_norms(self.snapshot, "frobenius", folded=True))

    @property
    def spectral_distance(self) -> Tensor:
        if self.fft:
            return self._circular(distances(self.snapshot, folded=True))
        return self._squares(distance_norms(self.snapshot, "spectral", folded=True))

    def _circular(self, weights: list[Weight]) -> Tensor:
        sizes = self._image_sizes()
        return self._squares({w.name: circular_matrix_norm(w, sizes) for w in weights})

    def noise(self, magnitude_aware: bool) -> Tensor:
        """The scale of noise that the network bears."""
        noise = Noise(magnitude_aware, compat=self.compat)
        return self.size.new_tensor(tolerated_noise(self.snapshot, noise, drop=0.1, rise=0.5).scale)

    def pac_bayes(self, squares: Tensor) -> Tensor:
        return pac_bayes_capacity(squares.sum(), self.noise(False), self.num_samples)

    @property
    def moved(self) -> Tensor:
        """How far each weight is from where it started."""
        return torch.cat([w.tensor.flatten() for w in distances(self.snapshot, folded=True)]).double()

    def magnitude_aware_pac_bayes(self, squares: Tensor) -> Tensor:
        return magnitude_aware_pac_bayes_capacity(squares.sum(), self.moved, self.noise(True), self.num_samples)

    @property
    def log_paths(self) -> Tensor:
        paths = path_sums(self.snapshot, 2)
        return paths.value.sum().double().log() + paths.log_scale


class MeasureFormula(NamedTuple):
    """One formula of the study.

    Attributes:
        equation: Its number in Jiang et al., 2020, which the study keeps; empty where it has none.
        formula: In LaTeX.
        capacity: What it takes from the weights.
        over: How the margin enters: not at all; as a quotient by its square; in the logarithm of a product, or of a
            geometric mean, of squared norms.
        needs_initial: Whether it needs the state at the start.
    """

    equation: str
    formula: str
    capacity: Callable[[StudiedNetwork], Tensor]
    over: Over = ""
    needs_initial: bool = False


def _product(squares: Tensor) -> Tensor:
    return squares.log().sum()


def _sum(squares: Tensor) -> Tensor:
    return torch.tensor(float(len(squares))).log() + squares.log().mean()


_SPEC, _FRO = r"\prod_i \lVert W_i \rVert_2^2", r"\prod_i \lVert W_i \rVert_F^2"
_WITHOUT_FFT = {
    "l2": MeasureFormula("", r"\lVert w \rVert_2", lambda n: n.frobenius.sum().sqrt()),
    "l2_dist": MeasureFormula(
        "", r"\lVert w - w^0 \rVert_2", lambda n: n.frobenius_distance.sum().sqrt(), needs_initial=True
    ),
    "params": MeasureFormula("20", r"\omega", lambda n: n.size),
    "inverse_margin": MeasureFormula("22", r"1 / \gamma^2", lambda n: n.size.new_ones(()), "ratio"),
    "log_prod_of_fro_over_margin": MeasureFormula(
        "36", rf"\ln ({_FRO} / \gamma^2)", lambda n: _product(n.frobenius), "product"
    ),
    "log_prod_of_fro": MeasureFormula("37", rf"\ln {_FRO}", lambda n: _product(n.frobenius)),
    "log_sum_of_fro_over_margin": MeasureFormula(
        "38", rf"\ln d + \tfrac1d \ln ({_FRO} / \gamma^2)", lambda n: _sum(n.frobenius), "sum"
    ),
    "log_sum_of_fro": MeasureFormula("39", rf"\ln d + \tfrac1d \ln {_FRO}", lambda n: _sum(n.frobenius)),
    "fro_dist": MeasureFormula(
        "40", r"\sum_i \lVert W_i - W_i^0 \rVert_F^2", lambda n: n.frobenius_distance.sum(), needs_initial=True
    ),
    "param_norm": MeasureFormula("42", r"\sum_i \lVert W_i \rVert_F^2", lambda n: n.frobenius.sum()),
    "path_norm_over_margin": MeasureFormula(
        "43", r"\sum_{\text{paths}} \prod_e \theta_e^2 / \gamma^2", lambda n: n.log_paths.exp(), "ratio"
    ),
    "path_norm": MeasureFormula("44", r"\sum_{\text{paths}} \prod_e \theta_e^2", lambda n: n.log_paths.exp()),
}
_WITH_FFT = {
    "log_spec_init_main": MeasureFormula(
        "29",
        rf"\ln \big( {_SPEC} \sum_i \lVert W_i - W_i^0 \rVert_F^2 / \lVert W_i \rVert_2^2 / \gamma^2 \big)",
        lambda n: _product(n.spectral) + (n.frobenius_distance / n.spectral).sum().log(),
        "product",
        needs_initial=True,
    ),
    "log_spec_orig_main": MeasureFormula(
        "30",
        rf"\ln \big( {_SPEC} \sum_i \lVert W_i \rVert_F^2 / \lVert W_i \rVert_2^2 / \gamma^2 \big)",
        lambda n: _product(n.spectral) + (n.frobenius / n.spectral).sum().log(),
        "product",
    ),
    "log_prod_of_spec_over_margin": MeasureFormula(
        "31", rf"\ln ({_SPEC} / \gamma^2)", lambda n: _product(n.spectral), "product"
    ),
    "log_prod_of_spec": MeasureFormula("32", rf"\ln {_SPEC}", lambda n: _product(n.spectral)),
    "fro_over_spec": MeasureFormula(
        "33", r"\sum_i \lVert W_i \rVert_F^2 / \lVert W_i \rVert_2^2", lambda n: (n.frobenius / n.spectral).sum()
    ),
    "log_sum_of_spec_over_margin": MeasureFormula(
        "34", rf"\ln d + \tfrac1d \ln ({_SPEC} / \gamma^2)", lambda n: _sum(n.spectral), "sum"
    ),
    "log_sum_of_spec": MeasureFormula("35", rf"\ln d + \tfrac1d \ln {_SPEC}", lambda n: _sum(n.spectral)),
    "dist_spec_init": MeasureFormula(
        "41", r"\sum_i \lVert W_i - W_i^0 \rVert_2^2", lambda n: n.spectral_distance.sum(), needs_initial=True
    ),
}
_BEHIND = r" + \ln (m / \sigma) + 10"
_MAGNITUDE = (
    r"\tfrac14 \sum_k \ln \frac{{\epsilon^2 + (\sigma^2 + 1) \lVert {} \rVert_2^2 / \omega}}"
    r"{{\epsilon^2 + \sigma^2 (w_k - w_k^0)^2}}"
)
_PAC_BAYES = {
    "pacbayes_init": MeasureFormula(
        "48",
        r"\lVert w - w^0 \rVert_2^2 / (4 \sigma^2)" + _BEHIND,
        lambda n: n.pac_bayes(n.frobenius_distance),
        needs_initial=True,
    ),
    "pacbayes_orig": MeasureFormula(
        "49", r"\lVert w \rVert_2^2 / (4 \sigma^2)" + _BEHIND, lambda n: n.pac_bayes(n.frobenius)
    ),
    "pacbayes_flatness": MeasureFormula("53", r"1 / \sigma^2", lambda n: n.noise(False) ** -2),
    "pacbayes_mag_init": MeasureFormula(
        "56",
        _MAGNITUDE.format("w - w^0") + _BEHIND,
        lambda n: n.magnitude_aware_pac_bayes(n.frobenius_distance),
        needs_initial=True,
    ),
    "pacbayes_mag_orig": MeasureFormula(
        "57",
        _MAGNITUDE.format("w") + _BEHIND,
        lambda n: n.magnitude_aware_pac_bayes(n.frobenius),
        needs_initial=True,
    ),
    "pacbayes_mag_flatness": MeasureFormula("61", r"1 / \sigma^2", lambda n: n.noise(True) ** -2),
}
MEASURES: dict[str, MeasureFormula] = {
    **_WITHOUT_FFT,
    **_PAC_BAYES,
    **_WITH_FFT,
    **{f"{name}_fft": measure for name, measure in _WITH_FFT.items()},
}


class GeneralizationMeasure(WeightsAndSamplesMetric):
    r"""One of the 34 measures of the study of robust generalization measures, as the study defines it.

    .. math:: \text{by default } \ln \Big( \prod_i \|W_i\|_2^2 / \gamma^2 \Big)

    The catalogue lists names, equation numbers and formulas. Weights are those of linear and convolution layers,
    kernels reshaped to ``(out, in * kernel)``, with BatchNorm folded in at both ends of training; biases only count in
    path norms. ``_fft`` takes for the spectral norm of a convolution that on a torus of the size of the input image,
    as the study does for every layer. :math:`\gamma` is
    :func:`lightning_complexity.functional.order_statistic_margin`; measures over margin are ``nan`` while it is not
    positive, where the study's code takes its absolute value. Path norms are exact, where the study's code gives an
    average pooling the weight :math:`1/n` instead of :math:`1/n^2` and leaves max pooling a maximum.

    For ``pacbayes_*``, :math:`\sigma` is :class:`NoiseTolerance`, with the variance :math:`\sigma^2 w_k^2 + \epsilon^2`
    for ``pacbayes_mag_*``, :math:`\epsilon = 10^{-3}`. The noise is on biases as well, :math:`w` are the weights as
    above. They take one snapshot, and are ``nan`` where no such noise is found, as at chance level. Where a network has
    no classes the loss has to rise by 0.5.

    Args:
        of: The study's name of the measure, in small letters.
        adjusted: Whether the value is adjusted for the number ``m`` of training samples, as in the study's table:
            :math:`(v - \ln m)/2` for logarithms, :math:`\sqrt{v/m}` for others. The value is logged as
            ``generalization_<of>``, adjusted as ``generalization_<of>_adjusted``.
        num_samples: ``m``; default the number of samples measured.
        compat: ``"rgm"`` for the noise of the study's code, see :class:`NoiseTolerance`; for ``pacbayes_*``.
        per_layer: Must be ``False``, the measures are of the network as a whole.

    Raises:
        ValueError: If there is no such measure.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 2, bias=False)
        >>> _ = net.weight.data.copy_(torch.diag(torch.tensor([3.0, 4.0])))
        >>> metric = GeneralizationMeasure("log_prod_of_spec_over_margin")
        >>> metric.update(net, torch.eye(2), torch.tensor([0, 1]))
        >>> metric.compute().exp()  # 16 / 9
        tensor(1.7778, dtype=torch.float64)
    """

    name = "generalization_log_prod_of_spec_over_margin"
    no_penalty_reason = "each has a differentiable measure of its own among the others"
    needs = frozenset({"inputs", "targets"})
    cost: Cost = "forward"
    formula = rf"\text{{by default }} \ln ({_SPEC} / \gamma^2)"
    reference = "Dziugaite et al., NeurIPS 2020; Jiang et al., ICLR 2020"
    increases_with_complexity = True
    units = "by formula"
    misleads_when = (
        "compared across widths or depths, where most of the study's measures of norms rise while test error "
        "falls; each has one environment at least where its sign is wrong"
    )

    def __init__(
        self,
        of: str = "log_prod_of_spec_over_margin",
        *,
        adjusted: bool = False,
        num_samples: int | None = None,
        compat: Compat | None = None,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if of not in MEASURES:
            raise ValueError(f"of must be one of {', '.join(MEASURES)}; got {of!r}.")
        check_compat(compat)
        super().__init__(per_layer=per_layer, **kwargs)
        self.of, self.adjusted, self.num_samples, self.compat = of, adjusted, num_samples, compat
        self.name = f"generalization_{of}{'_adjusted' if adjusted else ''}"
        self.needs = frozenset({"inputs"})
        if self._study.over:
            self.needs |= {"targets"}
        if self._study.needs_initial:
            self.needs |= {"initial"}
        if self._is_searched:
            self.needs, self.cost = self.needs | {"targets", "loss"}, "sampling"
            self.single_update_reason = "its noise is that which all samples together bear"

    @property
    def _study(self) -> MeasureFormula:
        return MEASURES[self.of]

    @property
    def _is_searched(self) -> bool:
        return self.of in _PAC_BAYES

    def from_weights(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The capacity, and the number of layers."""
        num_samples = self.num_samples or snapshot.num_samples
        network = StudiedNetwork(snapshot, self.of.endswith("_fft"), num_samples, self.compat)
        capacity = self._study.capacity(network)
        return torch.stack([capacity.double(), capacity.new_tensor(float(network.depth), dtype=torch.float64)])

    def per_sample(self, snapshot: Snapshot, context: Context) -> Tensor:
        """Signed margins; zeros, to be counted, where the measure is one of the weights alone."""
        return margins(snapshot).double() if self._study.over else torch.zeros(snapshot.num_samples)

    def summarize(self, of_weights: Tensor, samples: Tensor) -> Tensor:
        """The measure."""
        value = _over(self._study.over, of_weights[0], of_weights[1], samples)
        if not self.adjusted:
            return value
        return adjusted_measure(value, self.num_samples or len(samples), is_logarithm=self.of.startswith("log_"))


def _over(over: Over, capacity: Tensor, depth: Tensor, margins: Tensor) -> Tensor:
    if not over:
        return capacity
    margin = order_statistic_margin(margins)
    if over == "ratio":
        return capacity / margin.square()
    return capacity - 2 * margin.log() / (depth if over == "sum" else 1)


def generalization_measures(
    *, adjusted: bool = False, num_samples: int | None = None, searched: bool = False, compat: Compat | None = None
) -> list[GeneralizationMeasure]:
    """The measures of the study.

    Args:
        adjusted: As in :class:`GeneralizationMeasure`.
        num_samples: As in :class:`GeneralizationMeasure`.
        searched: Whether ``pacbayes_*`` are among them, which take some 250 passes over the samples.
        compat: As in :class:`GeneralizationMeasure`.

    Returns:
        One metric each, the study's ``_fft`` ones last.

    Example:
        >>> len(generalization_measures()), len(generalization_measures(searched=True))
        (28, 34)
    """
    names = [of for of in MEASURES if searched or of not in _PAC_BAYES]
    return [GeneralizationMeasure(of, adjusted=adjusted, num_samples=num_samples, compat=compat) for of in names]


# With the largest box ------------------------------------------------------------------------------------
