"""What a snapshot reads off the layers of a network: weights, spectra, norms, distances, path sums."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from lightning_complexity.functional.paths import Scaled
from lightning_complexity.functional.spectra import schatten_norm, singular_values
from lightning_complexity.network.convolutions import input_shapes
from lightning_complexity.network.norms import (
    ConvolutionNorm,
    MatrixNorm,
    circular_norms,
    matrix_norms,
    schatten_order,
    warm_started_operator_norms,
)
from lightning_complexity.network.running.execution import RunningNetwork, running_statistics
from lightning_complexity.network.tracing.folding import fold_batch_norm
from lightning_complexity.network.tracing.path_sums import path_sums
from lightning_complexity.network.weights import Weight, read_weights


class LayersOfNetwork(RunningNetwork):
    """Weights, folded or not, and numbers of them."""

    @cached_property
    def _layer_norms(self) -> dict[Any, dict[str, Tensor]]:
        return {}

    @cached_property
    def _path_sums(self) -> dict[float, Scaled]:
        return {}

    @cached_property
    def weights(self) -> list[Weight]:
        """The weight matrices, see :func:`read_weights`.

        Raises:
            ValueError: If the network has none.
        """
        return self._any(self.read(read_weights))

    @cached_property
    def folded_weights(self) -> list[Weight]:
        """The weight matrices with the BatchNorm that follows each multiplied in. Needs inputs."""
        sample = self._one_sample()
        return self._any(self.run(lambda model: fold_batch_norm(model, sample, read_weights(model))))

    def _any(self, weights: list[Weight]) -> list[Weight]:
        if not weights:
            raise ValueError("needs a network with weight matrices; this one has none that are known.")
        if self.layers is None:
            return weights
        chosen = [w for w in weights if self.layers(w.name, w.module)]
        if not chosen:
            raise ValueError(f"no weight matrix is chosen by {self.layers}.")
        return chosen

    @cached_property
    def spectra(self) -> dict[str, Tensor]:
        """Singular values of each weight by name; of a grouped convolution those of all its blocks."""
        return _spectra(self.weights)

    @cached_property
    def folded_spectra(self) -> dict[str, Tensor]:
        """The same of the folded weights. Needs inputs."""
        return _spectra(self.folded_weights)

    def distances(self, *, folded: bool = False) -> list[Weight]:
        """How far each weight matrix is from where it started, as a weight of its own. Needs the initial state."""
        if folded:
            self._check_start(running_statistics(self.model))
        now, then = (s.folded_weights if folded else s.weights for s in (self, self.start))
        return [w.minus(before) for w, before in zip(now, then, strict=True)]

    @cached_property
    def input_shapes(self) -> dict[int, torch.Size]:
        """Shape of one input of every convolution that is called, by ``id`` of the module. Needs inputs."""
        sample = self._one_sample()
        return self.run(lambda model: input_shapes(model, sample))

    def layer_norms(
        self, norm: MatrixNorm = "spectral", *, convolution: ConvolutionNorm = "kernel", folded: bool = False
    ) -> dict[str, Tensor]:
        """Norm of each weight by name.

        Args:
            norm: ``"frobenius"``, ``"spectral"``, ``"trace"``, ``("schatten", p)`` or a pair ``(p, q)``, see
                :func:`lightning_complexity.functional.mixed_norm`.
            convolution: What a convolution's spectral norm is: that of its kernel reshaped to ``(out, in * kernel)``;
                that of a ``"circular"`` convolution with stride 1, by Fourier transform; or that of the
                ``"operator"`` itself at its input size, with its stride, padding, dilation and groups. The last two
                need inputs.
            folded: Whether the BatchNorm that follows a layer is multiplied into it. Needs inputs.
        """
        key = norm, convolution, folded
        if key not in self._layer_norms:
            self._layer_norms[key] = self._read_layer_norms(norm, convolution, folded)
        return self._layer_norms[key]

    def _read_layer_norms(self, norm: MatrixNorm, convolution: ConvolutionNorm, folded: bool) -> dict[str, Tensor]:
        weights = self.folded_weights if folded else self.weights
        if convolution == "circular":
            return circular_norms(weights, self.input_shapes)
        key = f"{convolution}/folded" if folded else convolution
        if convolution == "operator":
            return warm_started_operator_norms(weights, self.input_shapes, self._vectors, key)
        if norm == "spectral" and self.live:
            return matrix_norms(weights, norm, self._vectors, key)
        order = schatten_order(norm)
        if order is None:
            return matrix_norms(weights, norm)
        spectra = self.folded_spectra if folded else self.spectra
        return {w.name: schatten_norm(spectra[w.name], order) for w in weights}

    def distance_norms(self, norm: MatrixNorm = "frobenius", *, folded: bool = False) -> dict[str, Tensor]:
        """Norm of each weight's distance from where it started, by name. Needs the initial state."""
        return matrix_norms(self.distances(folded=folded), norm, self._vectors, "distance")

    def path_sums(self, q: float) -> Scaled:
        r"""Sum of :math:`\prod |\theta|^q` over the paths to each output. Needs inputs, for their shape."""
        if q not in self._path_sums:
            x = self.float_inputs
            self._path_sums[q] = self.run(lambda model: path_sums(model, tuple(x.shape[1:]), x, q, measure="PathNorm"))
        return self._path_sums[q]


def _spectra(weights: list[Weight]) -> dict[str, Tensor]:
    return {w.name: singular_values(w.blocks).flatten() for w in weights}
