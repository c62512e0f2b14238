"""Units and layers that do nothing: dead units, frozen layers, features of few directions."""

from __future__ import annotations

from collections.abc import Iterator

from lightning_complexity.dashboard.findings.evidence import DEFAULT_PROBE, SURE, Evidence, number, percent, share_error
from lightning_complexity.dashboard.findings.finding import Finding

DEAD_LAYER = 0.9
"""Share of a layer's units: the layer passes hardly anything on."""
MANY_DEAD = 0.5
"""Share of all units; a few tenths are dead in many networks that train well."""
DYING = 0.3
"""Rise of the share during training."""
STANDING_STILL = 1e-7
"""Distance from initialization over the largest of all layers: rounding of single precision."""
TOO_SMALL = 1e-5
"""Gradient over the largest of all layers: steps in proportion to it are lost in rounding to single precision."""
ONE_DIRECTION = 1.1
"""Effective rank of features that are all on one line."""


def dead_units(evidence: Evidence) -> Iterator[Finding]:
    """Units that pass nothing on for any sample of the probe.

    Needs ``complexity/dead_units`` (suite ``"full"``), by layer with ``per_layer=True``. Without it, a Jacobian of
    exactly zero says that nothing of the input arrives: needs ``complexity/geometric_complexity``.
    """
    layers = {name: curve for name, curve in evidence.parts("dead_units").items() if curve.last >= DEAD_LAYER}
    total = evidence.curve("complexity/dead_units")
    revive = (
        "Lower the learning rate, use LeakyReLU or GELU, or normalization before the activation; look at the biases."
    )
    if layers:
        name, curve = max(layers.items(), key=lambda item: item[1].last)
        begun = curve.steps[curve.values >= DEAD_LAYER][0]
        yield Finding(
            "dead_units",
            "fault",
            f"The layer {name} is dead: {percent(curve.last)} of its units pass nothing on.",
            f"That is so from step {int(begun)} on"
            + (f", and in {len(layers) - 1} more layers." if len(layers) > 1 else "."),
            value=curve.last,
            standard_error=share_error(curve.last, DEFAULT_PROBE),
            confidence=SURE if curve.last == 1 else 0.9,
            next_step=revive,
            step=int(begun),
        )
    elif len(total) and (total.last >= MANY_DEAD or total.last - total.first >= DYING):
        yield Finding(
            "dead_units",
            "warning",
            f"{percent(total.last)} of all units are dead, {percent(total.first)} at the beginning.",
            "They pass nothing on for any sample of the probe.",
            value=total.last,
            standard_error=share_error(total.last, DEFAULT_PROBE),
            confidence=0.9,
            next_step=revive,
        )
    else:
        yield from _no_jacobian(evidence, revive, measured=len(total) > 0)


def _no_jacobian(evidence: Evidence, revive: str, *, measured: bool) -> Iterator[Finding]:
    jacobian = evidence.curve("complexity/geometric_complexity")  # that of probabilities vanishes where they saturate
    if not len(jacobian) or jacobian.last != 0:
        return
    last_alive = jacobian.steps[jacobian.values != 0]
    step = int(jacobian.steps[jacobian.steps > last_alive[-1]][0]) if len(last_alive) else int(jacobian.steps[0])
    see = "" if measured else ' Measure "DeadUnits" with per_layer=True to see which layer it is.'
    yield Finding(
        "dead_units",
        "fault",
        f"Outputs do not depend on the inputs from step {step} on: a layer is dead.",
        "The Jacobian of the outputs is exactly zero for all samples of the probe.",
        value=0.0,
        confidence=0.95,
        next_step=revive + see,
        step=step,
    )


def frozen_layer(evidence: Evidence) -> Iterator[Finding]:
    """Layers that are where they began while others move.

    Needs ``complexity/distance_from_initialization`` with ``per_layer=True``, after the first step.
    """
    distances = {
        name: curve.last
        for name, curve in evidence.parts("distance_from_initialization").items()
        if len(curve) >= 2 and curve.steps[-1] > 0
    }
    largest = max(distances.values(), default=0.0)
    still = [name for name, distance in distances.items() if distance <= STANDING_STILL * largest]
    weights = [
        name for name in still if not name.endswith("bias")
    ]  # one before BatchNorm has no effect, and no gradient
    if not weights or largest <= 0:
        return
    shown = ", ".join(weights[:3]) + (f" and {len(weights) - 3} more" if len(weights) > 3 else "")
    gradients = evidence.parts("gradient_norm")
    reached = max((gradients[name].last for name in weights if name in gradients), default=None)
    share = 0.0 if not reached else reached / max(curve.last for curve in gradients.values())
    next_step = (
        "Look at requires_grad, and at which parameters configure_optimizers gives the optimizer; if they are frozen "
        "on purpose, all is well."
    )
    if reached is None:
        why = "No gradient is measured for them: they are frozen, or nothing depends on them."
    elif share >= TOO_SMALL:
        why = f"Their gradient is not zero ({number(reached)}): the optimizer leaves them out."
    else:
        why = "Their gradient is zero."
        if reached:
            why = (
                f"Their gradient, {number(reached)} at most, is {number(share)} of the largest: too small to move them."
            )
        next_step = "Look for what keeps the gradient from them: dead units, saturated activations, a detach(); use "
        next_step += "normalization layers or skip connections, or fewer layers."
    yield Finding(
        "frozen_layer",
        "warning",
        f"{shown} did not move at all, while others did.",
        f"{why} {len(still)} of {len(distances)} parameters are exactly where they began.",
        value=float(len(still)),
        confidence=0.95,
        next_step=next_step,
    )


def collapsed_features(evidence: Evidence) -> Iterator[Finding]:
    """Features that are all on one line although more was learned to be told apart.

    Needs ``complexity/feature_effective_rank`` (suite ``"full"``).
    """
    rank = evidence.curve("complexity/feature_effective_rank")
    if len(rank) < 2 or rank.last > ONE_DIRECTION or rank.first < 2 * ONE_DIRECTION or evidence.learned:
        return
    step = int(rank.steps[rank.values <= ONE_DIRECTION][0])
    yield Finding(
        "collapsed_features",
        "warning",
        f"All features are on one line: their effective rank fell from {number(rank.first)} to {number(rank.last)}.",
        "Little of the training loss is gone.",
        value=rank.last,
        confidence=0.8,
        next_step="Lower the learning rate, weaken penalties and weight decay, or add normalization layers.",
        step=step,
    )
