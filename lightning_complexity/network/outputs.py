"""What a snapshot reads off the forward pass: outputs, margins, features, costs, activations, regions."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_complexity.functional.margins import check_classification, signed_margins
from lightning_complexity.network.errors import MissingInputError
from lightning_complexity.network.regions.planes import PlaneRegions, plane_regions, rectangle_around
from lightning_complexity.network.regions.segments import Restriction
from lightning_complexity.network.running.batches import chunks
from lightning_complexity.network.running.execution import RunningNetwork, at_least_single, forward
from lightning_complexity.network.tracing.activations import Activation, capture_activations
from lightning_complexity.network.tracing.calls import Layer, entering, find_layer, running_order
from lightning_complexity.network.tracing.costs import Costs, count_costs


class OutputsOfNetwork(RunningNetwork):
    """What the network gives for the batch, and on the way there."""

    @cached_property
    def _features(self) -> dict[str, Tensor]:
        return {}

    @cached_property
    def _plane_regions(self) -> dict[float, PlaneRegions]:
        return {}

    @cached_property
    def outputs(self) -> Tensor:
        """What the network gives for the batch."""
        return self.outputs_on(self.inputs) if self._outputs is None else self._outputs

    def outputs_on(self, inputs: Any) -> Tensor:
        """What the network gives for another batch."""
        parts = [self.run(partial(forward, x)) for (x,) in self._chunks(inputs)]
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(f"needs a network that returns one tensor, got {type(parts[0]).__name__}.")
        return torch.cat([at_least_single(part) for part in parts])

    @cached_property
    def running_order(self) -> list[str]:
        """Names of the linear and convolution modules in the order in which they run. Needs inputs."""
        sample = self._one_sample()
        order = self.run(lambda model: running_order(model, sample))
        if not order:
            raise ValueError("needs a network with linear or convolution layers; this one calls none.")
        return order

    def features(self, *layers: Layer) -> dict[str, Tensor]:
        """What goes into layers, flattened to shape ``(n, d)``, by their names.

        Args:
            layers: Names of modules, or places among the linear and convolution modules in the order in which they
                run: what goes into the last one, at -1, are the penultimate features. All of them by default.

        Raises:
            ValueError: If there is no such layer.
        """
        names = [find_layer(layer, self.running_order, self.model) for layer in layers or self.running_order]
        new = [name for name in dict.fromkeys(names) if name not in self._features]
        if new:
            parts = list(self.run_chunks(lambda model, x: entering(model, x, new)))
            self._features |= {name: torch.cat([part[name].flatten(1) for part in parts]) for name in new}
        return {name: self._features[name] for name in names}

    @cached_property
    def margins(self) -> Tensor:
        """Signed margin of every sample."""
        return signed_margins(self.outputs, self.targets)

    @cached_property
    def mean_loss(self) -> Tensor:
        """Mean loss of the batch."""
        return self._loss(self.outputs, self.targets)

    @cached_property
    def accuracy(self) -> Tensor:
        """Share of samples whose largest output is that of the target."""
        check_classification(self.outputs, self.targets)
        return (self.outputs.argmax(1) == self.targets).double().mean()

    @cached_property
    def costs(self) -> Costs:
        """What one forward pass of the first sample takes, see :func:`count_costs`."""
        sample = self._one_sample()
        return self.run(lambda model: count_costs(model, sample))

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.loss_function is F.cross_entropy and targets.is_floating_point():
            _check_soft_labels(outputs, targets)
        return self.loss_function(outputs, targets)

    def activations(self, inputs: Any) -> Iterator[list[Activation]]:
        """The nonlinearities that inputs go through, chunk by chunk; see :func:`capture_activations`."""
        for chunk in chunks(inputs, self.chunk_size):
            yield self.run(lambda model, chunk=chunk: capture_activations(model, chunk, between_layers=True))  # type: ignore[misc]

    def restriction(self, origin: Tensor, directions: Tensor, *, measure: str) -> Restriction:
        """The network on a segment or a plane, in double precision; see :class:`Restriction`."""
        call = partial(self.run, dtype=torch.float64)
        return Restriction(call, origin, directions, measure=measure, chunk_size=self.chunk_size)

    def plane_regions(self, margin: float, *, measure: str) -> PlaneRegions:
        """Linear regions in the rectangle around the first three samples; see :func:`rectangle_around`.

        Raises:
            ValueError: If there are fewer than three samples, or they are on a line.
        """
        if margin not in self._plane_regions:
            if self.num_samples < 3:
                raise ValueError(f"{measure} in a plane needs three samples, got {self.num_samples}.")
            origin, directions, _, corners = rectangle_around(self.float_inputs[:3].detach(), margin)
            self._plane_regions[margin] = plane_regions(self.restriction(origin, directions, measure=measure), corners)
        return self._plane_regions[margin]


def _check_soft_labels(outputs: Tensor, targets: Tensor) -> None:
    ones = targets.new_ones(targets.shape[:1])
    if targets.shape == outputs.shape and torch.allclose(targets.sum(1), ones, atol=1e-3):
        return
    raise MissingInputError(
        "needs class targets for the cross-entropy loss (integers of shape (n,), or probabilities that sum "
        f"to 1), got {targets.dtype} of shape {tuple(targets.shape)}. For regression pass your loss, "
        "as in ComplexityMonitor(loss=torch.nn.functional.mse_loss)."
    )
