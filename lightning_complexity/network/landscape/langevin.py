"""Random walks of a network's parameters around where they are."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.langevin import langevin_chain
from lightning_complexity.network.derivatives import differentiated, gradients, trainable
from lightning_complexity.network.landscape.sample_losses import detached, has_sample_losses, sample_losses
from lightning_complexity.network.losses import batch_losses, check_dependent, mean_loss
from lightning_complexity.network.outputs import model_outputs
from lightning_complexity.network.running.batches import map_tensors
from lightning_complexity.network.running.memory import at_least_single
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.decompositions import Decompositions
from lightning_complexity.network.weights.choice import LayerChoice


@dataclass(frozen=True)
class Walk:
    r"""How to walk, see :func:`lightning_complexity.functional.langevin_chain`.

    Attributes:
        num_chains: Number of walks.
        num_draws: Steps of each that count.
        burn_in: Steps before these, which do not.
        step_size: :math:`\epsilon`.
        localization: :math:`\\gamma`.
        inverse_temperature: :math:`n \beta`.
        batch_size: At most how many samples a step looks at; ``None`` for all.
        seed: Of the noise.
        alone: Whether a loss that takes batches is asked for each sample alone, at about ten steps of a walk.
    """

    num_chains: int
    num_draws: int
    burn_in: int
    step_size: float
    localization: float
    inverse_temperature: float
    batch_size: int | None
    seed: int
    alone: bool = False


class Walked(NamedTuple):
    """What walks came across.

    Attributes:
        losses: After each step, the beginnings included, shape ``(chains, steps)``. Of a batch: how much its loss
            has changed since the start, added to the loss of all samples there.
        loss_at_start: Of all samples, 0-d.
        acceptance: Of each chain.
        sample_variances: For each step that counts, the mean over its samples of the squared difference of a sample's
            loss from its mean over steps, shape ``(chains, draws)``; ``None`` where samples have no losses.
    """

    losses: Tensor
    loss_at_start: Tensor
    acceptance: Tensor
    sample_variances: Tensor | None


@shared
def langevin_walks(snapshot: Snapshot, walk: Walk, layers: LayerChoice | None = None) -> Walked:
    """Walk around the trained parameters, or those of some layers, on the loss of the batch.

    The network is in evaluation mode, with its running statistics; its own parameters stay where they are. A walk that
    starts at a loss of ``nan`` is not taken.

    Args:
        snapshot: With inputs and targets.
        walk: How to walk.
        layers: Which layers' parameters move; all by default.
    """
    surroundings = _Surroundings(snapshot, walk, layers)
    steps = walk.burn_in + walk.num_draws
    if not surroundings.loss.isfinite():
        undefined = surroundings.loss.new_full((walk.num_chains, steps), torch.nan)
        return Walked(undefined, surroundings.loss, undefined[:, 0], undefined[:, walk.burn_in :])
    chains = [surroundings.chain(number, steps) for number in range(walk.num_chains)]
    losses, acceptance, samples = zip(*chains, strict=True)
    variances = _squared_deviations(samples) if samples[0] else None
    return Walked(torch.stack(losses), surroundings.loss, torch.stack(acceptance), variances)


class _Drawn(NamedTuple):
    losses: Tensor
    acceptance: Tensor
    samples: list[tuple[int, Tensor]]  # after each step that counts, which piece, and the losses of its samples


class _Surroundings:
    """The loss of a network as a function of its parameters in one vector, by pieces of the batch."""

    def __init__(self, snapshot: Snapshot, walk: Walk, layers: LayerChoice | None) -> None:
        self._walk, self._task = walk, snapshot.task
        self._shapes = {name: p.shape for name, p in trainable(snapshot, layers).items()}
        self._start = torch.cat([p.detach().flatten() for p in trainable(snapshot, layers).values()])
        self._gradient = torch.empty_like(self._start)  # memory that is new each time would take longer
        self._pieces = [snapshot] if walk.batch_size is None else list(snapshot.pieces(walk.batch_size))
        total = sum(piece.num_samples for piece in self._pieces)
        # A piece is drawn as often as any other, whatever its size.
        self._weights = [piece.num_samples * len(self._pieces) / total for piece in self._pieces]
        self._losses = [mean_loss(piece).detach() for piece in self._pieces]
        self._singles = [list(piece.pieces(1)) for piece in self._pieces] if walk.alone else []
        self._has_samples = self._singles_agree() if walk.alone else all(map(_has_sample_losses, self._pieces))
        self.loss = torch.stack([w * loss for w, loss in zip(self._weights, self._losses, strict=True)]).mean()

    def _singles_agree(self) -> bool:
        """Whether the loss of each piece is the mean of those that its samples have alone."""
        found = [_losses_alone(singles, {}) for singles in self._singles]
        sizes = [piece.num_samples for piece in self._pieces]
        return [len(f) for f in found] == sizes and all(
            torch.allclose(f.mean(), loss, rtol=1e-4) for f, loss in zip(found, self._losses, strict=True)
        )

    def _looks_at_samples(self, step: int) -> bool:
        every = max(self._walk.num_draws // 10, 1) if self._walk.alone else 1
        return self._has_samples and step > self._walk.burn_in and (step - self._walk.burn_in) % every == 0

    def _of_samples(self, which: int, outputs: Any, state: dict[str, Tensor]) -> Tensor:
        if self._walk.alone:
            return _losses_alone(self._singles[which], state)
        return sample_losses(self._task, detached(outputs), self._pieces[which].targets)

    def chain(self, number: int, steps: int) -> _Drawn:
        """One walk."""
        walk, seed = self._walk, self._walk.seed * 1_000_003 + number
        generator = torch.Generator(self._start.device).manual_seed(seed)
        order = list(self._order(seed, steps + 1))
        samples: dict[int, tuple[int, Tensor]] = {}

        def evaluate(w: Tensor, step: int) -> tuple[Tensor, Tensor]:
            which = order[step]
            state = self._state(w)
            found = _loss_and_gradient(self._pieces[which].with_tensors(state), list(self._shapes))
            if self._looks_at_samples(step) and step not in samples:  # a step may be asked for again
                samples[step] = which, self._of_samples(which, found.outputs, state)
            weight = self._weights[which]
            torch.cat([g.flatten() for g in found.gradients], out=self._gradient)
            if weight != 1:
                self._gradient *= weight
            return self.loss + weight * (found.loss - self._losses[which]), self._gradient

        chain = langevin_chain(
            evaluate,
            self._start,
            num_steps=steps,
            step_size=walk.step_size,
            inverse_temperature=walk.inverse_temperature,
            localization=walk.localization,
            generator=generator,
            evaluated_alike=len(self._pieces) == 1,
        )
        return _Drawn(*chain, [samples[step] for step in sorted(samples)])

    def _order(self, seed: int, count: int) -> Iterator[int]:
        generator = torch.Generator().manual_seed(seed)
        for start in range(0, count, len(self._pieces)):
            yield from torch.randperm(len(self._pieces), generator=generator).tolist()[: count - start]

    def _state(self, w: Tensor) -> dict[str, Tensor]:
        parts = w.split([shape.numel() for shape in self._shapes.values()])
        return {name: part.view(shape) for (name, shape), part in zip(self._shapes.items(), parts, strict=True)}


class _Found(NamedTuple):
    loss: Tensor
    gradients: list[Tensor]
    outputs: Any


def _loss_and_gradient(snapshot: Snapshot, names: list[str]) -> _Found:
    """Loss of the batch, its gradients for some parameters, and the outputs; ``None`` where there are none.

    One forward and one backward pass, and one more forward pass where the batch is gone through in chunks.
    """
    leaves = [snapshot.parameters[name] for name in names]
    outputs = None
    if snapshot.task.judges_batches:
        loss, found = leaves[0].new_zeros(()), [torch.zeros_like(leaf) for leaf in leaves]
        for part in batch_losses(snapshot, 1, records=True):
            found = [f + g for f, g in zip(found, differentiated([part], leaves), strict=True)]
            loss = loss + part.detach()
    elif snapshot.num_samples <= snapshot.chunk_size:
        with Decompositions(1):
            outputs = snapshot.run(lambda model: model(snapshot.inputs), records=True, once=True)
        with torch.enable_grad():
            loss = snapshot.task.loss_of(map_tensors(at_least_single, outputs), snapshot.targets)
        check_dependent([loss] if loss.requires_grad else [])
        found = differentiated([loss], leaves)
    else:
        by_name = gradients(snapshot)
        loss, found, outputs = mean_loss(snapshot), [by_name[name] for name in names], model_outputs(snapshot)
    return _Found(loss.detach(), found, outputs)


def _losses_alone(singles: list[Snapshot], state: dict[str, Tensor]) -> Tensor:
    return torch.stack([mean_loss(single.at(state)).detach() for single in singles])


def _has_sample_losses(piece: Snapshot) -> bool:
    return not piece.task.judges_batches and has_sample_losses(piece.task, model_outputs(piece), piece.targets)


def _squared_deviations(chains: tuple[list[tuple[int, Tensor]], ...]) -> Tensor:
    """Mean over samples of the squared deviation from each one's mean over steps, corrected for being its own mean."""
    drawn = [draw for chain in chains for draw in chain]
    of_piece = {which: torch.stack([losses for w, losses in drawn if w == which]) for which, _ in drawn}
    means = {which: losses.mean(0) for which, losses in of_piece.items()}
    corrections = {which: len(losses) / max(len(losses) - 1, 1) for which, losses in of_piece.items()}
    return torch.stack(
        [
            torch.stack([(losses - means[which]).square().mean() * corrections[which] for which, losses in chain])
            for chain in chains
        ]
    )
