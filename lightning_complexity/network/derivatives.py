"""What a snapshot differentiates: outputs and losses for inputs, the loss for parameters, once and twice."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property, partial
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.functional.sensitivity import jacobian_grams
from lightning_complexity.network.batches import chunks, map_tensors, num_samples
from lightning_complexity.network.outputs import OutputsOfNetwork
from lightning_complexity.network.running import at_least_single, forward

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
        """The parameters that are trained, by name."""
        return {n: p for n, p in self.parameters.items() if p.requires_grad}

    def _gradient_graphs(self) -> Iterator[list[Tensor]]:
        """For each chunk, the share of the mean loss's gradient that it adds, with its graph."""
        if not self.trainable:
            raise ValueError("needs a network with parameters that are trained; this one has none.")
        total = self.num_samples
        for x, y in self._chunks(self.inputs, self.targets):
            share = num_samples(x) / total

            def gradient(model: nn.Module, x: Any = x, y: Any = y, share: float = share) -> list[Tensor]:
                loss = share * self._loss(at_least_single(model(x)), y)
                parameters = list(self.trainable.values())
                return list(torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True))

            yield self.run(gradient, differentiable=True)

    @cached_property
    def _retained_gradient_graph(self) -> list[Tensor]:
        return next(self._gradient_graphs())

    def _graphs(self) -> Iterator[list[Tensor]]:
        if self.num_samples <= self.chunk_size:
            yield self._retained_gradient_graph
        else:
            yield from self._gradient_graphs()

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the mean loss for the trained parameters, as one vector. Needs targets."""
        return sum(_flat(g).detach() for g in self._graphs())  # type: ignore[return-value]

    def hvp(self, v: Tensor) -> Tensor:
        """Product of the Hessian of the mean loss with a vector of the length of :attr:`gradient`.

        One backward pass for each chunk of the batch over a retained graph of the gradient; the graph
        is kept between calls if the batch is a single chunk.
        """
        parameters = list(self.trainable.values())
        sizes = [p.numel() for p in parameters]
        parts = [part.view_as(p) for part, p in zip(v.split(sizes), parameters, strict=True)]
        product = torch.zeros_like(v)
        for gradients in self._graphs():
            product += _flat(_vector_jacobian(gradients, parameters, parts))
        return product


def _vector_jacobian(outputs: list[Tensor], inputs: list[Tensor], vectors: list[Tensor]) -> list[Tensor]:
    """Backward pass through those outputs that depend on anything."""
    used = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    if not used:
        return [torch.zeros_like(p) for p in inputs]
    outputs, vectors = [o for o, _ in used], [v for _, v in used]
    return list(torch.autograd.grad(outputs, inputs, vectors, retain_graph=True, materialize_grads=True))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])
