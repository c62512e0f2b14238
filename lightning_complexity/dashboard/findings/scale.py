"""Sizes: of inputs, weights, gradients, and of the curvature that a learning rate allows."""

from __future__ import annotations

import math
from collections.abc import Iterator

from lightning_complexity.dashboard.findings.evidence import VAL_ACCURACY, Curve, Evidence, number, percent
from lightning_complexity.dashboard.findings.finding import Finding
from lightning_complexity.dashboard.runs import TRAIN_ACCURACY, TRAIN_LOSS

LARGE_START = 2.5
"""Initial loss over that of guessing among the classes; usual initializations have at most 1.5."""
FEWEST_CLASSES, RAREST = 10, 1e-3
"""For the loss of guessing: an initial accuracy above 1/10 may be that of a frequent class, and below 1/1000 chance."""
STEEP = 10.0
"""Root of the geometric complexity at initialization: the norm of the logits' Jacobian, usually 0.05 to 1."""
GROWTH = 100.0
"""Largest gradient over the initial one."""
STEEP_WEIGHTS = 5.0
"""Initial gradient over the norm of the parameters; usual initializations have at most 1."""
SHRUNK = 0.3
"""Norm of the parameters over the initial one; trainings that learn make it grow."""
EDGE = (0.8, 1.3)
"""Largest eigenvalue of the Hessian times the learning rate over 2, where training is at the edge of stability."""
SHARES = ("preconditioned_sharpness", "critical_sharpness")
SHARPNESS = ("largest_hessian_eigenvalue", "sharpness")
FEWEST_MOMENTS = 4


def large_start(evidence: Evidence) -> Iterator[Finding]:
    """The network begins with a loss far above that of guessing: inputs or weights are too large.

    Needs ``probe/train_loss`` and ``probe/train_accuracy`` of the initial network; ``complexity/geometric_complexity``
    tells which: outputs are large because inputs are (small Jacobian), or because weights are (large one).
    ``complexity/gradient_norm`` and ``complexity/parameter_norm`` do where there is no accuracy.
    """
    loss = evidence.initial(TRAIN_LOSS)
    if loss is None:
        return
    accuracies = [a for key in (TRAIN_ACCURACY, VAL_ACCURACY) if (a := evidence.initial(key)) is not None]
    squared, gradient, norm = (
        evidence.initial(f"complexity/{name}") for name in ("geometric_complexity", "gradient_norm", "parameter_norm")
    )
    jacobian = math.sqrt(squared) if squared is not None and squared >= 0 else None
    guessing = -math.log(min(max(*accuracies, RAREST), 1 / FEWEST_CLASSES)) if accuracies else math.inf
    excess = loss / guessing
    steep = gradient / norm if gradient is not None and norm else 0.0
    if excess < LARGE_START and steep < STEEP_WEIGHTS:
        return
    evidence_of_size = [f"The initial loss is {number(loss)}"]
    if excess:
        evidence_of_size.append(f"{number(excess)} times that of guessing")
    if steep:
        evidence_of_size.append(f"the initial gradient {number(steep)} times as large as all weights")
    sure = 0.9 if jacobian is not None and excess > LARGE_START else 0.7
    if jacobian is not None and jacobian > STEEP:
        yield Finding(
            "exploding_gradient",
            "fault",
            f"The network begins too steep: the norm of the logits' Jacobian is {number(jacobian)}.",
            ", ".join(evidence_of_size) + ".",
            value=jacobian,
            confidence=sure,
            next_step="Initialize with smaller weights (torch.nn.init.kaiming_normal_), add normalization layers, or "
            "set Trainer(gradient_clip_val=1.0).",
            step=0,
        )
        return
    yield Finding(
        "input_scale",
        "fault",
        "Inputs (or targets) are not normalised, it seems: the network begins with outputs far too large.",
        ", ".join(evidence_of_size)
        + (f", with a Jacobian of only {number(jacobian)}." if jacobian is not None else "."),
        value=excess or steep,
        confidence=sure,
        next_step="Bring each input to mean 0 and standard deviation 1 over the training set."
        + ("" if jacobian is not None else ' Measure "GeometricComplexity" to tell large inputs from large weights.'),
        step=0,
    )


def exploding_gradient(evidence: Evidence) -> Iterator[Finding]:
    """The gradient grows beyond what it was at the start. Needs ``complexity/gradient_norm`` (suite ``"full"``)."""
    gradient = evidence.curve("complexity/gradient_norm")
    if len(gradient) < 2 or gradient.first <= 0:
        return
    growth = float(gradient.values.max()) / gradient.first
    if growth < GROWTH:
        return
    step = int(gradient.steps[int(gradient.values.argmax())])
    yield Finding(
        "exploding_gradient",
        "fault",
        f"The gradient grew to {number(growth)} times its initial norm by step {step}.",
        f"From {number(gradient.first)} to {number(float(gradient.values.max()))}.",
        value=growth,
        confidence=0.85,
        next_step="Set Trainer(gradient_clip_val=1.0), lower the learning rate, or warm it up.",
        step=step,
    )


def shrunk_weights(evidence: Evidence) -> Iterator[Finding]:
    """Weights shrink to a fraction while little is learned: weight decay or a penalty is too strong.

    Needs ``complexity/parameter_norm`` at two moments and ``probe/train_loss``.
    """
    norm = evidence.curve("complexity/parameter_norm")
    if len(norm) < 2 or norm.first <= 0 or norm.last > SHRUNK * norm.first or evidence.learned:
        return
    share = norm.last / norm.first
    step = int(norm.steps[norm.values <= SHRUNK * norm.first][0])
    yield Finding(
        "too_strong_penalty",
        "fault",
        f"The weights shrank to {percent(share)} of their initial norm, and little was learned.",
        f"From {number(norm.first)} to {number(norm.last)}, below {percent(SHRUNK)} since step {step}.",
        value=share,
        confidence=0.9,
        next_step="Weaken weight decay (weight_decay=... of the optimizer) or the penalty's strength by ten.",
        step=step,
    )


def edge_of_stability(evidence: Evidence) -> Iterator[Finding]:
    """Sharpness stays at what the optimizer's steps can stand, as under gradient descent.

    Needs the share of that limit, which ``PreconditionedSharpness`` and ``CriticalSharpness`` log; or the largest
    eigenvalue of the Hessian, and ``lr`` or ``learning_rate`` among the hyper-parameters, for its share of 2 over that.

    References:
        Cohen et al., Gradient descent on neural networks typically occurs at the edge of stability, ICLR 2021; Adaptive
        gradient methods at the edge of stability, 2022.
    """
    curve = _share_of_limit(evidence)
    if curve is None:
        return
    shares = curve.values[len(curve) // 2 :]
    if not all(EDGE[0] <= share <= EDGE[1] for share in shares):
        return
    yield Finding(
        "edge_of_stability",
        "note",
        f"Sharpness is at the edge of stability: {number(curve.last)} of what the optimizer's steps can stand.",
        f"That share is between {number(float(shares.min()))} and {number(float(shares.max()))} in the second half.",
        value=curve.last,
        standard_error=curve.noise,
        interval=(float(shares.min()), float(shares.max())),
        confidence=0.8,
        next_step="A larger learning rate gives flatter minima as long as the loss comes down.",
    )


def _share_of_limit(evidence: Evidence) -> Curve | None:
    """The share of the limit of stability, where it is known at four moments."""
    for name in SHARES:
        curve = evidence.curve(f"complexity/{name}/share_of_limit")
        if len(curve) >= FEWEST_MOMENTS:
            return curve
    rate = evidence.setting("lr", "learning_rate")
    if rate is None or rate <= 0:
        return None
    curves = (evidence.curve(f"complexity/{name}") for name in SHARPNESS)
    found = next((curve for curve in curves if len(curve) >= FEWEST_MOMENTS), None)
    return None if found is None else Curve(found.steps, found.values * rate / 2)
