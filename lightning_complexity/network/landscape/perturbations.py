"""The loss of a network with other parameters than it has."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.flatness import BoxMaximum, maximize_in_box, sam_perturbation
from lightning_complexity.functional.loss_surface.pac_bayes import FoundScale, find_scale
from lightning_complexity.network.derivatives import gradients, trainable
from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.losses import mean_loss
from lightning_complexity.network.outputs import accuracy, predictions
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.folding import FoldedNetwork, folded_network
from lightning_complexity.network.weights.matrices import read_weights

Compat = Literal["rgm"]


def moved(snapshot: Snapshot, steps: dict[str, Tensor]) -> Snapshot:
    """The same network on the same batch, with a step added to some parameters.

    Args:
        snapshot: Of the network.
        steps: What is added, by the names of the parameters.
    """
    return snapshot.with_tensors({name: snapshot.parameters[name] + step for name, step in steps.items()})


@shared
def rise_along_gradient(snapshot: Snapshot, rho: float, *, adaptive: bool = False) -> Tensor:
    """Rise of the loss at the step of sharpness-aware minimization, 0-d. Needs targets.

    Args:
        snapshot: Of the network.
        rho: Length of the step.
        adaptive: Whether the length is relative to the parameters.

    Raises:
        MeasureError: If the snapshot was given outputs, which are those of the parameters as they are.
    """
    if snapshot.given_outputs is not None:
        raise MeasureError(
            "needs the loss at other parameters, which takes a forward pass of its own in evaluation mode, while "
            "outputs may be those of training mode. Leave outputs out."
        )
    found = gradients(snapshot)
    parameters = {name: snapshot.parameters[name] for name in found}
    with torch.set_grad_enabled(snapshot.differentiable):
        steps = sam_perturbation(list(parameters.values()), list(found.values()), rho, adaptive=adaptive)
        there = moved(snapshot, dict(zip(parameters, steps, strict=True)))
        return mean_loss(there) - mean_loss(snapshot)


def largest_loss_in_box(
    snapshot: Snapshot, radii: dict[str, Tensor], starts: Iterable[Tensor], max_steps: int
) -> BoxMaximum:
    """The largest loss with parameters in a box around those that are. Needs targets.

    Args:
        snapshot: Of the network.
        radii: How far each parameter may be from what it is, by name, of the shapes of the parameters.
        starts: See :func:`lightning_complexity.functional.maximize_in_box`.
        max_steps: From each start.
    """
    sizes, shapes = [r.numel() for r in radii.values()], [r.shape for r in radii.values()]

    def loss_at(step: Tensor) -> tuple[Tensor, Tensor]:
        parts = [part.view(shape) for part, shape in zip(step.split(sizes), shapes, strict=True)]
        there = moved(snapshot, dict(zip(radii, parts, strict=True)))
        with torch.no_grad():
            gradient = torch.cat([gradients(there)[name].flatten() for name in radii])
            return mean_loss(there), gradient

    return maximize_in_box(
        loss_at, torch.cat([r.flatten() for r in radii.values()]), starts=starts, max_steps=max_steps
    )


# Noise -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Noise:
    """Gaussian noise on the trained parameters of a network whose BatchNorms are folded in.

    Attributes:
        magnitude_aware: Whether its standard deviation is ``sqrt(scale^2 w^2 + epsilon^2)`` instead of the scale.
        num_draws: How many networks are drawn. They have the same numbers at every scale, times the scale; where the
            loss counts, each second one those of the one before with the other sign.
        compat: ``"rgm"`` for the noise of the study of robust generalization measures: its code gives torch the
            variance for the standard deviation, draws anew for each scale, and moves the parameters of folded
            BatchNorms as well.
        epsilon: Standard deviation for weights of zero.
    """

    magnitude_aware: bool = False
    num_draws: int = 10
    compat: Compat | None = None
    epsilon: float = 1e-3

    def deviation(self, weight: Tensor, scale: float) -> Tensor:
        """Standard deviation of the noise on each entry."""
        scales = torch.full_like(weight, scale**2)
        variance = scales * weight.square() + self.epsilon**2 if self.magnitude_aware else scales
        return variance if self.compat == "rgm" else variance.sqrt()


@shared
def _folded(snapshot: Snapshot) -> FoldedNetwork:
    return snapshot.run_one(lambda model, sample: folded_network(model, sample, read_weights(model)))


def folded_parameters(snapshot: Snapshot, *, normalizations: bool = False) -> tuple[Snapshot, dict[str, Tensor]]:
    """The same network with its BatchNorms folded in, and its trained parameters by name.

    Args:
        snapshot: Of the network.
        normalizations: Whether the parameters of folded BatchNorms, which are then 1 and 0, are among them.
    """
    folded = _folded(snapshot)
    trained = {name: folded.tensors.get(name, p.detach()) for name, p in trainable(snapshot).items()}
    if not normalizations:
        trained = {name: p for name, p in trained.items() if name not in folded.normalizations}
    return snapshot.with_tensors(folded.tensors), trained


@shared
def tolerated_noise(snapshot: Snapshot, noise: Noise, drop: float, rise: float) -> FoundScale:
    """The scale of noise at which the accuracy drops, or where there are no classes the loss rises, by so much.

    Args:
        snapshot: With targets.
        noise: What is added to the parameters.
        drop: Of the accuracy.
        rise: Of the loss.
    """
    base, trained = folded_parameters(snapshot, normalizations=noise.compat is not None)
    error_of, target = error_or_loss(snapshot, drop, rise)
    before = float(error_of(snapshot))
    if not math.isfinite(before) or not all(p.isfinite().all() for p in trained.values()):
        return FoundScale(math.nan, math.nan, False)
    anew = torch.Generator().manual_seed(0)

    def raised(scale: float) -> float:
        """What noise of a scale adds to the error, on average."""
        generator = anew if noise.compat == "rgm" else torch.Generator().manual_seed(0)
        # Of a loss, the mean with the opposite step has lost what the step changes to first order.
        signs = (1, -1) if error_of is mean_loss and noise.compat is None else (1,)
        errors = list[float]()
        while len(errors) < noise.num_draws:
            drawn = {name: noise.deviation(p, scale) * _normal(p, generator) for name, p in trained.items()}
            for sign in signs[: noise.num_draws - len(errors)]:
                noisy = {name: p + sign * drawn[name] for name, p in trained.items()}
                errors.append(float(error_of(base.with_tensors(noisy))))
        change = sum(errors) / len(errors) - before
        return math.inf if math.isnan(change) else change

    if noise.compat == "rgm":
        return _bisected(lambda scale: abs(raised(scale)), target)
    return find_scale(raised, target, precision=0.02)


def _normal(like: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype).to(like.device)


def error_or_loss(snapshot: Snapshot, drop: float, rise: float) -> tuple[Callable[[Snapshot], Tensor], float]:
    """What is to rise, and by how much: one minus the accuracy, or the loss where there are no classes."""
    try:
        accuracy(snapshot)
    except ValueError:
        return mean_loss, rise
    return error_rate, drop


def error_rate(snapshot: Snapshot) -> Tensor:
    """One minus the accuracy, ``nan`` where outputs are; the largest of them is no class."""
    error = 1 - accuracy(snapshot)
    return error if predictions(snapshot).isfinite().all() else torch.full_like(error, torch.nan)


def _bisected(function: Callable[[float], float], target: float) -> FoundScale:
    """The study's search: fifteen halvings of [0, 2]; the last scale counts, converged or not."""
    low, high = 0.0, 2.0
    for _ in range(15):
        scale = (low + high) / 2
        reached = function(scale)
        if abs(reached - target) < 0.1 * target:
            return FoundScale(scale, reached, True)
        low, high = (low, scale) if reached > target else (scale, high)
    return FoundScale(scale, reached, False)


def mean_error_with_noise(snapshot: Snapshot, sigma: float, num_draws: int) -> Tensor:
    """Mean error rate of networks whose trained parameters have noise of a scale, the same draws every time.

    Args:
        snapshot: With class targets.
        sigma: Scale of the noise.
        num_draws: How many networks.
    """
    trained = {name: p.detach() for name, p in trainable(snapshot).items()}
    generator = torch.Generator().manual_seed(0)
    errors = []
    for _ in range(num_draws):
        noisy = {name: p + sigma * _normal(p, generator) for name, p in trained.items()}
        errors.append(error_rate(snapshot.with_tensors(noisy)))
    return torch.stack(errors).mean()
