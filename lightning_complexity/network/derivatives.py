"""What a snapshot differentiates: outputs and losses for inputs, the loss for parameters, once and twice."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.functional.sensitivity import jacobian_grams
from lightning_complexity.network.outputs import OutputsOfNetwork
from lightning_complexity.network.running.batches import chunks, map_tensors, num_samples
from lightning_complexity.network.running.execution import at_least_single, forward
from lightning_complexity.network.tracing.decompositions import Decompositions, check_derivatives

_JACOBIAN_ENTRIES = 3 * 2**17  # of the Jacobians that are held at once


class DerivativesOfNetwork(OutputsOfNetwork):
    """Jacobians, gradients and Hessian products."""

    def input_output_chunks(self, at_most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of inputs that require grad and outputs computed from them, of some samples at a time."""
        if self._outputs is not None:
            yield self.float_inputs, self._outputs
            return
        size = self.chunk_size if at_most is None else min(at_most, self.chunk_size)
        for (x,) in chunks((self.float_inputs,), size):
            yield self._differentiable_outputs(x)

    def _differentiable_outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def forward(model: nn.Module) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = x.detach().clone().requires_grad_()
                return leaf, model(leaf)

        return self.run(forward)

    @cached_property
    def _jacobians(self) -> tuple[Tensor, Tensor]:
        parts = []
        for x, y in self.input_output_chunks(None if self.live else self._jacobians_at_once()):
            with torch.enable_grad():
                parts.append((jacobian_grams(y, x, create_graph=self.live), y if self.live else y.detach()))
        return torch.cat([grams for grams, _ in parts]), torch.cat([outputs for _, outputs in parts])

    def _jacobians_at_once(self) -> int:
        entries = self.float_inputs[0].numel() * self.run(partial(forward, self._one_sample())).numel()
        return max(_JACOBIAN_ENTRIES // entries, 1)

    @property
    def jacobian_grams(self) -> Tensor:
        """Gram matrix of each sample's Jacobian, shape ``(n, C, C)``, by one backward pass for each output."""
        return self._jacobians[0]

    @property
    def jacobian_outputs(self) -> Tensor:
        """The outputs that came with them."""
        return self._jacobians[1]

    def input_gradients(self) -> Iterator[Tensor]:
        """Gradient of each sample's loss for its input, chunk by chunk. Needs targets."""
        done = 0
        for x, outputs in self.input_output_chunks():
            targets = map_tensors(itemgetter(slice(done, done + len(x))), self.targets)
            done += len(x)
            with torch.enable_grad():
                total = len(x) * self._loss(at_least_single(outputs), targets)
                (gradient,) = torch.autograd.grad(total, x, create_graph=self.live, materialize_grads=True)
            yield gradient

    @cached_property
    def trainable(self) -> dict[str, Tensor]:
        """The parameters that are trained, by name.

        Raises:
            ValueError: If there are none.
        """
        # The graph of given outputs starts at the model's own parameters, also where those have half precision.
        parameters = self.parameters if self._outputs is None else dict(self.model.named_parameters())
        trained = {n: p for n, p in parameters.items() if p.requires_grad}
        if not trained:
            raise ValueError("needs a network with parameters that are trained; this one has none.")
        return trained

    def _shares(self, order: int) -> Iterator[list[Tensor]]:
        """For each chunk, the share of the mean loss's gradient that it adds.

        Args:
            order: Of the highest derivative that will be taken; above 1 the shares have their graphs.
        """
        if self._outputs is not None:
            yield self._differentiated(self._loss_of_given_outputs(self._outputs), order)
            return
        total = self.num_samples
        for x, y in self._chunks(self.inputs, self.targets):

            def gradients(model: nn.Module, x: Any = x, y: Any = y) -> list[Tensor]:
                with Decompositions(order):
                    loss = num_samples(x) / total * self._loss(at_least_single(model(x)), y)
                return self._differentiated(loss, order)

            yield self.run(gradients, differentiable=True)

    def _loss_of_given_outputs(self, outputs: Tensor) -> Tensor:
        if not outputs.requires_grad:
            raise ValueError("needs outputs with the graph from the parameters to them, or none: leave outputs out.")
        check_derivatives([outputs], order=2)
        with torch.enable_grad():
            return self._loss(at_least_single(outputs), self.targets)

    def _differentiated(self, loss: Tensor, order: int) -> list[Tensor]:
        parameters = list(self.trainable.values())
        # Whoever gave the outputs still needs their graph.
        retain = order > 1 or self._outputs is not None
        return list(
            torch.autograd.grad(loss, parameters, retain_graph=retain, create_graph=order > 1, materialize_grads=True)
        )

    @cached_property
    def _kept_shares(self) -> dict[int, list[list[Tensor]]]:
        return {}

    def _keep_shares(self, order: int) -> list[list[Tensor]]:
        if order not in self._kept_shares:
            self._kept_shares[order] = list(self._shares(order))
        return self._kept_shares[order]

    def _graphs(self) -> Iterator[list[Tensor]]:
        """Shares for products with the Hessian, kept if training goes through them or if the batch is one chunk."""
        order = 3 if self.live else 2
        if self.live or self.num_samples <= self.chunk_size:
            yield from self._keep_shares(order)
        else:
            yield from self._shares(order)

    @cached_property
    def gradients(self) -> dict[str, Tensor]:
        """Gradient of the mean loss for each trained parameter, by name. Needs targets.

        On a live snapshot with its graph: to differentiate it is a product with the Hessian.
        """
        kept = self._keep_shares(2) if self.live else self._kept_shares.get(2)
        shares = ([g if self.live else g.detach() for g in share] for share in kept or self._shares(1))
        gradients = next(shares)
        for share in shares:
            gradients = [g + s for g, s in zip(gradients, share, strict=True)]
        return {name: at_least_single(g) for name, g in zip(self.trainable, gradients, strict=True)}

    @property
    def gradient(self) -> Tensor:
        """The gradient of the mean loss for the trained parameters as one vector. Needs targets."""
        return _flat(list(self.gradients.values()))

    def hvp(self, v: Tensor) -> Tensor:
        """Product of the Hessian of the mean loss with a vector of the length of :attr:`gradient`.

        One backward pass for each chunk of the batch over a retained graph of the gradient; the graph
        is kept between calls if the batch is a single chunk. Differentiable on a live snapshot.
        """
        parameters = list(self.trainable.values())
        sizes = [p.numel() for p in parameters]
        parts = [part.view_as(p) for part, p in zip(v.split(sizes), parameters, strict=True)]
        product = torch.zeros_like(v)
        for gradients in self._graphs():
            check_derivatives(gradients, order=3 if self.live else 2)
            product = product + _flat(_vector_jacobian(gradients, parameters, parts, create_graph=self.live))
        return product


def _vector_jacobian(
    outputs: list[Tensor], inputs: list[Tensor], vectors: list[Tensor], *, create_graph: bool
) -> list[Tensor]:
    """Backward pass through those outputs that depend on anything."""
    used = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    if not used:
        return [torch.zeros_like(p) for p in inputs]
    outputs, vectors = [o for o, _ in used], [v for _, v in used]
    return list(
        torch.autograd.grad(
            outputs, inputs, vectors, retain_graph=True, create_graph=create_graph, materialize_grads=True
        )
    )


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])
