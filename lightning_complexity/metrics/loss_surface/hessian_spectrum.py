"""The spectrum of the Hessian of the loss: its ends, its density, and what it adds up to."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.curvature import standard_error
from lightning_complexity.functional.numerics.lanczos import (
    Eigenvalues,
    Quadrature,
    extreme_eigenvalues,
    mean_over_spectrum,
    spectral_density,
)
from lightning_complexity.metrics.base import ComplexityMetric, Curve, latest
from lightning_complexity.metrics.base.checks import check_at_least, check_share
from lightning_complexity.network import Context, Snapshot
from lightning_complexity.network.curvature.hessian import hessian_lanczos, hessian_quadratures

__all__ = ["EffectiveDimension", "LargestHessianEigenvalue", "NegativeCurvature", "SmallestHessianEigenvalue"]


class _HessianMetric(ComplexityMetric):
    """What all have in common."""

    needs = frozenset({"inputs", "targets", "loss"})
    cost = "hessian"
    order = 2
    chooses_layers = True
    single_update_reason = "eigenvalues of a mean of Hessians are not means of eigenvalues"


class _ExtremeEigenvalue(_HessianMetric):
    """Eigenvalues at one end of the spectrum; the value is the outermost."""

    no_penalty_reason = "HessianTrace and GaussNewtonTrace lower the same curvature at a fraction of the cost"

    eigenvalues: Tensor
    residuals: Tensor
    products: Tensor
    converged: Tensor

    def __init__(self, k: int = 1, *, tolerance: float = 1e-3, max_products: int = 200, **kwargs: Any) -> None:
        check_at_least(1, k=k)
        check_share(tolerance=tolerance)
        if max_products < k:
            raise ValueError(f"max_products must be at least k={k}, got {max_products!r}.")
        super().__init__(**kwargs)
        self.k, self.tolerance, self.max_products = k, tolerance, max_products

    @abstractmethod
    def _ends(self) -> tuple[int, int]:
        """How many eigenvalues at the upper and at the lower end."""

    def _found(self, snapshot: Snapshot, context: Context) -> Eigenvalues:
        process = hessian_lanczos(snapshot, context.layers)
        largest, smallest = self._ends()
        return extreme_eigenvalues(process, largest, smallest, tolerance=self.tolerance, max_products=self.max_products)

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The outermost eigenvalue."""
        found = self._found(snapshot, context)
        return torch.cat([found.largest, found.smallest])[0]

    def _prepare_state(self) -> None:
        for state in ("eigenvalues", "residuals"):
            self.add_state(state, torch.full((1,), torch.nan, dtype=torch.float64), dist_reduce_fx=latest)
        for state in ("products", "converged"):
            self.add_state(state, torch.tensor(torch.nan, dtype=torch.float64), dist_reduce_fx=latest)

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep the eigenvalues."""
        found = self._found(snapshot, context)
        device = self.products.device
        self.eigenvalues = torch.cat([found.largest, found.smallest]).to(device)
        self.residuals = found.residuals.to(device)
        self.products = torch.tensor(float(found.products), dtype=torch.float64, device=device)
        self.converged = torch.tensor(float(found.converged), dtype=torch.float64, device=device)

    def total(self) -> Tensor:
        """The outermost eigenvalue."""
        return self.eigenvalues[0]

    def details(self) -> dict[str, Tensor]:
        """The eigenvalues behind the first, the largest residual, the number of products, and whether that sufficed."""
        others = {str(i): value for i, value in enumerate(self.eigenvalues[1:], start=2)}
        return {
            **others,
            "residual": self.residuals.max(),
            "products": self.products,
            "converged": self.converged,
        }


class LargestHessianEigenvalue(_ExtremeEigenvalue):
    r"""Largest eigenvalues of the Hessian of the mean loss with respect to the trained parameters: the sharpness.

    .. math:: \lambda_1 = \max_{\lVert v \rVert = 1} v^T H v

    By Lanczos' iteration with full reorthogonalisation, one product with the Hessian a step on one graph that is kept,
    which :class:`SmallestHessianEigenvalue` and the other measures of the spectrum go on from. Gradient descent with
    step size :math:`\eta` is stable along an eigenvector as long as its eigenvalue is below :math:`2 / \eta`. Logged
    beside the value: the next eigenvalues as ``/2``, ``/3``, ...; ``/residual``, the largest
    :math:`\lVert H v - \lambda v \rVert`, within which there is an eigenvalue; ``/products``; ``/converged``, 1 or 0.
    Where there are fewer parameters than ``k``, there are as many values. Eigenvalues that are equal, as those of a
    linear network's outputs for the squared error, may count as one. Keeps a vector as long as the parameters for
    each product.

    Args:
        k: How many.
        tolerance: Of each residual, relative to its eigenvalue, or to a tenth of the largest one where that is more.
        max_products: Where it stops, converged or not.
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if no parameter is trained.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> metric = LargestHessianEigenvalue()
        >>> metric.update(net, torch.tensor([[3.0]]), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # the second derivative of (3 w)^2
        tensor(18., dtype=torch.float64)
    """

    name = "largest_hessian_eigenvalue"
    units = "loss / weight²"
    increases_with_complexity = True
    formula = r"\lambda_{\max}(\nabla_\theta^2 L)"
    reference = "Lanczos, 1950; Hochreiter and Schmidhuber, 1997; Cohen et al., ICLR 2021"
    misleads_when = (
        "layers were rescaled: with ReLU the same function has any sharpness; it rises to what the learning rate "
        "allows; near zero training loss it vanishes with the loss"
    )

    def _ends(self) -> tuple[int, int]:
        return self.k, 0


class SmallestHessianEigenvalue(_ExtremeEigenvalue):
    r"""Smallest, most negative eigenvalue of the Hessian of the mean loss with respect to the trained parameters.

    .. math:: \lambda_d = \min_{\lVert v \rVert = 1} v^T H v

    Negative at a saddle and wherever the loss is concave along some direction; at a minimum it is not. As
    :class:`LargestHessianEigenvalue`, whose products it goes on from.

    Args:
        k: How many.
        tolerance: Of each residual, relative to its eigenvalue, or to a tenth of the largest one where that is more.
        max_products: Where it stops, converged or not.
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if no parameter is trained.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> metric = SmallestHessianEigenvalue()
        >>> metric.update(net, torch.tensor([[3.0]]), torch.zeros(1, 1), loss=lambda z, y: -(z - y).square().mean())
        >>> metric.compute()
        tensor(-18., dtype=torch.float64)
    """

    name = "smallest_hessian_eigenvalue"
    units = "loss / weight²"
    increases_with_complexity = None
    formula = r"\lambda_{\min}(\nabla_\theta^2 L)"
    reference = "Lanczos, 1950; Dauphin et al., NeurIPS 2014; Alain et al., 2018"
    misleads_when = "it is taken for the distance from a minimum: it says how curved the loss is, not how steep"

    def _ends(self) -> tuple[int, int]:
        return 0, self.k


class _SpectralMetric(_HessianMetric):
    """A number of the whole spectrum, by stochastic Lanczos quadrature."""

    nodes: Tensor
    weights: Tensor
    size: Tensor

    def __init__(self, num_probes: int = 8, *, num_steps: int = 16, **kwargs: Any) -> None:
        check_at_least(1, num_probes=num_probes, num_steps=num_steps)
        super().__init__(**kwargs)
        self.num_probes, self.num_steps = num_probes, num_steps

    @abstractmethod
    def from_spectrum(self, quadratures: list[Quadrature], size: Tensor) -> Tensor:
        """The number, 0-d."""

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The number of the snapshot's Hessian."""
        return self.from_spectrum(*self._spectrum(snapshot, context))

    def _spectrum(self, snapshot: Snapshot, context: Context) -> tuple[list[Quadrature], Tensor]:
        quadratures = hessian_quadratures(snapshot, self.num_probes, self.num_steps, context.layers)
        size = hessian_lanczos(snapshot, context.layers).size
        return quadratures, torch.tensor(float(size), dtype=torch.float64)

    def _prepare_state(self) -> None:
        for state in ("nodes", "weights"):
            self.add_state(state, torch.full((1, 1), torch.nan, dtype=torch.float64), dist_reduce_fx=latest)
        self.add_state("size", torch.tensor(torch.nan, dtype=torch.float64), dist_reduce_fx=latest)

    def accumulate(self, snapshot: Snapshot, context: Context) -> None:
        """Keep nodes and weights."""
        quadratures, size = self._spectrum(snapshot, context)
        device = self.size.device
        longest = max(len(q.nodes) for q in quadratures)
        self.nodes = torch.stack([_padded(q.nodes, longest) for q in quadratures]).to(device)
        self.weights = torch.stack([_padded(q.weights, longest) for q in quadratures]).to(device)
        self.size = size.to(device)

    @property
    def quadratures(self) -> list[Quadrature]:
        """Nodes and weights of each probe, of which densities and means over eigenvalues are made."""
        return [Quadrature(nodes, weights) for nodes, weights in zip(self.nodes, self.weights, strict=True)]

    def total(self) -> Tensor:
        """The number."""
        return self.from_spectrum(self.quadratures, self.size)

    def density(self, num_points: int = 512, width: float = 0.01) -> tuple[Tensor, Tensor]:
        """The density of eigenvalues, each a normal distribution of a small width.

        Args:
            num_points: At how many values.
            width: Standard deviation of each, as a share of the range of the spectrum.

        Returns:
            Values and the density at each, which integrates to 1, shapes ``(num_points,)``.
        """
        return spectral_density(self.quadratures, num_points, width)

    def curves(self, snapshot: Snapshot) -> dict[str, Curve]:
        """The density of eigenvalues, on a logarithmic axis."""
        if not self.nodes.isfinite().all():
            return {}
        values, density = self.density()
        floor = 1e-6 * density.amax()
        curve = Curve(values, density.clamp(min=floor), "eigenvalue of the Hessian", "density", log_y=True)
        return {"density": curve}


def _padded(values: Tensor, length: int) -> Tensor:
    return torch.cat([values, values.new_zeros(length - len(values))])


class NegativeCurvature(_SpectralMetric):
    r"""Share of the Hessian's curvature that is negative, by stochastic Lanczos quadrature.

    .. math:: \frac{\sum_{\lambda < 0} |\lambda|}{\sum_\lambda |\lambda|}

    Between 0 at a minimum and 1; one half where curvature up and down are equal, as at random places of a wide network.
    Each probe is a random vector with ``num_steps`` products with the Hessian. Few eigenvalues are large and most are
    close to zero, so that eigenvalues are weighted by their size and not counted. ``density()`` gives the whole density
    of eigenvalues, which loggers of pictures get too. Logged beside the value: its standard error over probes, by the
    jackknife. Undefined, ``nan``, where there is no curvature beyond rounding.

    Args:
        num_probes: Random vectors.
        num_steps: Products for each: the density has so many nodes.
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if no parameter is trained.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> metric = NegativeCurvature()
        >>> metric.update(net, torch.tensor([[3.0]]), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()
        tensor(0., dtype=torch.float64)
    """

    name = "negative_curvature"
    units = "share of curvature"
    increases_with_complexity = None
    no_penalty_reason = "the nodes of the quadrature have no cheap derivative; HessianTrace lowers the curvature itself"
    formula = r"\sum_{\lambda < 0} |\lambda| / \sum_\lambda |\lambda|"
    reference = "Ghorbani, Krishnan and Xiao, ICML 2019; Yao et al., PyHessian, 2020"
    misleads_when = "it is taken for a property of the function: it says how far training has come"

    def from_spectrum(self, quadratures: list[Quadrature], size: Tensor) -> Tensor:
        """The share."""
        negative, all_of_it = _moments(quadratures)
        return negative.mean() / all_of_it.mean()

    def standard_error(self) -> Tensor:
        """Standard error over probes, by leaving out one at a time; ``nan`` for one probe."""
        negative, all_of_it = _moments(self.quadratures)
        count = len(negative)
        if count < 2:
            return torch.full_like(negative[0], torch.nan)
        without = (negative.sum() - negative) / (all_of_it.sum() - all_of_it)
        return ((count - 1) / count * (without - without.mean()).square().sum()).sqrt()

    def details(self) -> dict[str, Tensor]:
        """The standard error."""
        return {"standard_error": self.standard_error()}


def _moments(quadratures: list[Quadrature]) -> tuple[Tensor, Tensor]:
    negative = mean_over_spectrum(quadratures, lambda nodes: (-nodes).clamp(min=0))
    return negative, mean_over_spectrum(quadratures, torch.abs)


class EffectiveDimension(_SpectralMetric):
    r"""Number of directions that the data determine: the effective dimension of the Hessian of the mean loss.

    .. math:: N_{\mathrm{eff}}(\alpha) = \sum_{\lambda > 0} \frac{\lambda}{\lambda + \alpha}

    Between 0 and the number of trained parameters. For ridge regression it equals the degrees of freedom. By stochastic
    Lanczos quadrature: the number of parameters times a mean over the spectrum; negative eigenvalues count as zero. For
    a loss that is a mean of ``n`` samples and a Gaussian prior of precision :math:`\tau`, :math:`\alpha = \tau / n`.
    Logged beside the value: its standard error over probes. Probes of networks with no more parameters than
    ``num_steps`` differ in their weights only.

    Args:
        alpha: Eigenvalues well above it count as one, well below it as nothing. It has the units of the loss: of a loss
            times ten, ten times as much means the same.
        num_probes: Random vectors.
        num_steps: Products with the Hessian for each.
        per_layer: Must be ``False``.

    Raises:
        ValueError: If ``alpha`` is not positive; in ``update``, if no parameter is trained.

    Example:
        >>> net = torch.nn.Linear(1, 1, bias=False)
        >>> metric = EffectiveDimension(alpha=2.0)
        >>> metric.update(net, torch.tensor([[3.0]]), torch.zeros(1, 1), loss=torch.nn.functional.mse_loss)
        >>> metric.compute()  # 18 / (18 + 2)
        tensor(0.9000, dtype=torch.float64)
    """

    name = "effective_dimension"
    units = "directions"
    increases_with_complexity = True
    no_penalty_reason = "the nodes of the quadrature have no cheap derivative; HessianTrace lowers the curvature itself"
    formula = r"\sum_{\lambda > 0} \lambda / (\lambda + \alpha)"
    reference = "MacKay, Neural Computation 1992; Maddox, Benton and Wilson, 2020"
    misleads_when = "layers were rescaled, or networks have losses of different scale: alpha is not scaled with them"

    def __init__(self, alpha: float = 1.0, *, num_probes: int = 8, num_steps: int = 16, **kwargs: Any) -> None:
        if not alpha > 0:
            raise ValueError(f"alpha must be positive, got {alpha!r}.")
        super().__init__(num_probes, num_steps=num_steps, **kwargs)
        self.alpha = alpha

    def _by_probe(self, quadratures: list[Quadrature], size: Tensor) -> Tensor:
        return size * mean_over_spectrum(quadratures, lambda nodes: _share(nodes.clamp(min=0), self.alpha))

    def from_spectrum(self, quadratures: list[Quadrature], size: Tensor) -> Tensor:
        """Mean over the probes."""
        return self._by_probe(quadratures, size).mean()

    def standard_error(self) -> Tensor:
        """Standard error over probes; ``nan`` for one probe."""
        return standard_error(self._by_probe(self.quadratures, self.size))

    def details(self) -> dict[str, Tensor]:
        """The standard error."""
        return {"standard_error": self.standard_error()}


def _share(eigenvalues: Tensor, alpha: float) -> Tensor:
    return eigenvalues / (eigenvalues + alpha)
