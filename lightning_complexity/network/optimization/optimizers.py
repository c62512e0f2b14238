"""What optimizers are about to do to a network: their next update, how they scale it, when that is stable."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.optim import SGD, Adam, AdamW, Optimizer, RMSprop

from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.running.memory import at_least_single
from lightning_complexity.network.snapshot import Snapshot


class Update(NamedTuple):
    """The next step of all optimizers together.

    Attributes:
        changes: What it adds to each parameter that they train, by name.
        rate: The largest learning rate of any group, in units of which steps are given. Where that is 0, the
            changes are those at the rate that the schedule started from, or at 1.
    """

    changes: dict[str, Tensor]
    rate: float


class Scaling(NamedTuple):
    """How optimizers scale gradients, and how far that is from diverging.

    Attributes:
        factors: What the gradient of each parameter is multiplied with, by name, relative to the largest learning rate.
        rate: That rate.
        limit: Below it rate times curvature is stable, see :func:`scaling`; the lowest of any group.
    """

    factors: dict[str, Tensor]
    rate: float
    limit: float


def next_update(snapshot: Snapshot, gradients: Mapping[str, Tensor]) -> Update:
    """The step that the snapshot's optimizers would take with these gradients; none of them changes.

    Args:
        snapshot: With optimizers.
        gradients: By name of the parameter.

    Raises:
        MeasureError: If an optimizer cannot be copied, or needs more than gradients.
    """
    rate, changes = _largest_rate(snapshot), dict[str, Tensor]()
    for optimizer, state in _with_state(snapshot):
        changes |= _step_of_a_copy(optimizer, state, _trained_by(snapshot, optimizer), snapshot, gradients)
    return Update(changes, rate)


def _with_state(snapshot: Snapshot) -> Iterator[tuple[Optimizer, Mapping[Any, Any]]]:
    return zip(snapshot.optimizers, snapshot.optimizer_state, strict=True)


def _largest_rate(snapshot: Snapshot) -> float:
    rates = [float(group["lr"]) for o in snapshot.optimizers for group in o.param_groups if "lr" in group]
    if not rates:
        raise MeasureError("needs optimizers with a learning rate, 'lr' in their parameter groups.")
    return max(rates)


def _trained_by(snapshot: Snapshot, optimizer: Optimizer) -> dict[int, str]:
    """Names of the parameters of an optimizer that are trained parameters of the network, by their ``id``."""
    given = {id(p) for group in optimizer.param_groups for p in group["params"]}
    named = snapshot.model.named_parameters()
    found = {id(p): name for name, p in named if id(p) in given and p.requires_grad}
    if not found:
        raise MeasureError(
            f"{type(optimizer).__name__} trains no parameter of this network. Give the optimizer of this very model: "
            "where the model is copied, compiled or sharded afterwards, it may hold other parameters."
        )
    return found


def _step_of_a_copy(
    optimizer: Optimizer,
    state: Mapping[Any, Any],
    names: dict[int, str],
    snapshot: Snapshot,
    gradients: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    parameters = {i: snapshot.parameters[name].detach() for i, name in names.items()}
    given = {i: gradients[name].detach() for i, name in names.items()}
    try:
        try:
            # In single precision, most of a step that is small against the weights would be lost to rounding.
            doubled = _step_with(optimizer, state, parameters, given, double=True)
        except Exception:  # of an optimizer that keeps numbers of another precision where nobody sees them
            doubled = _step_with(optimizer, state, parameters, given, double=False)
    except Exception as error:  # of an optimizer that needs a closure, say, or keeps more than its state
        text = " ".join(str(error).split())[:200]
        raise MeasureError(
            f"the next step of {type(optimizer).__name__} could not be computed on a copy of it: {text}. Leave "
            "optimizer out to measure along the gradient, or leave this measure out."
        ) from error
    return {names[i]: (s - parameters[i]).to(parameters[i].dtype) for i, s in doubled.items()}


def _step_with(
    optimizer: Optimizer,
    state: Mapping[Any, Any],
    parameters: Mapping[int, Tensor],
    given: Mapping[int, Tensor],
    *,
    double: bool,
) -> dict[int, Tensor]:
    """The parameters after a step of a copy of the optimizer."""
    stand_ins = {i: _precise(p.clone(), double) for i, p in parameters.items()}
    for i, stand_in in stand_ins.items():
        stand_in.grad = given[i].to(stand_in.dtype)
    twin = _copied(optimizer, state, stand_ins, double=double)
    with torch.no_grad():
        # Without what watches steps of all optimizers, which would count this one.
        inspect.unwrap(type(optimizer).step)(twin)
    return stand_ins


def _copied(
    optimizer: Optimizer, found: Mapping[Any, Any], stand_ins: Mapping[int, Tensor], *, double: bool
) -> Optimizer:
    """An optimizer of the same class and state for other parameters; it has nothing in common with the first."""
    groups = []
    for group in optimizer.param_groups:
        options = {name: copy.deepcopy(value) for name, value in group.items() if name != "params"}
        if float(options.get("lr", 1.0)) == 0:
            options["lr"] = options.get("initial_lr") or 1.0
        groups.append({**options, "params": [stand_ins[id(p)] for p in group["params"] if id(p) in stand_ins]})
    state: dict[Any, Any] = {}
    for key, kept in found.items():  # some have keys that are no parameters
        if not isinstance(key, Tensor):
            state[key] = copy.deepcopy(kept)
        elif id(key) in stand_ins:
            # Fused steps take the number of steps in single precision alone.
            state[stand_ins[id(key)]] = {
                name: _precise(copy.deepcopy(value), double and name != "step") for name, value in kept.items()
            }
    twin: Any = object.__new__(type(optimizer))
    twin.__setstate__({"defaults": copy.deepcopy(optimizer.defaults), "state": _State(state), "param_groups": groups})
    copied: Optimizer = twin
    return copied


class _State(dict[Any, Any]):
    """State of parameters that starts as an empty dictionary."""

    def __missing__(self, key: Any) -> dict[str, Any]:
        self[key] = {}
        found: dict[str, Any] = self[key]
        return found


def _precise(value: Any, double: bool) -> Any:
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return value
    return value.to(torch.promote_types(value.dtype, torch.float64)) if double else at_least_single(value)


def scaling(snapshot: Snapshot, gradients: Mapping[str, Tensor]) -> Scaling:
    r"""How the snapshot's optimizers will scale gradients in their next step, and their limit of stability.

    On a quadratic with curvature :math:`\lambda` in the scaled coordinates, and with frozen factors, steps with rate
    :math:`\eta` stay bounded as long as :math:`\eta \lambda` is below

    - :math:`2 + 2 \mu` for gradient descent with momentum :math:`\mu`, 2 without,
    - :math:`(2 + 2 \mu) / (1 + 2 \mu)` with Nesterov's,
    - :math:`(2 + 2 \beta_1) / (1 - \beta_1)` where the momentum is a moving average, as for Adam: 38 at 0.9.

    Weight decay is left out.

    Args:
        snapshot: With optimizers.
        gradients: By name of the parameter.

    Raises:
        MeasureError: If an optimizer is none of ``SGD``, ``Adam``, ``AdamW`` and ``RMSprop``, or maximizes the loss.
    """
    rate, factors, limits = _largest_rate(snapshot), dict[str, Tensor](), list[float]()
    for optimizer, state in _with_state(snapshot):
        names = _trained_by(snapshot, optimizer)
        for group in optimizer.param_groups:
            share = float(group["lr"]) / rate if rate > 0 else 1.0
            limits.append(_limit(optimizer, group))
            for p in group["params"]:
                if id(p) in names:
                    name = names[id(p)]
                    factors[name] = share * _factor(optimizer, group, state.get(p, {}), gradients[name].detach())
    return Scaling(factors, rate, min(limits))


def _limit(optimizer: Optimizer, group: Mapping[str, Any]) -> float:
    if group.get("maximize"):
        raise MeasureError(
            f"is about steps that lower the loss, but {type(optimizer).__name__} was given maximize=True. Leave "
            "optimizer out for the Hessian as it is."
        )
    if isinstance(optimizer, (Adam, AdamW)):
        beta = float(group["betas"][0])
        return (2 + 2 * beta) / (1 - beta)
    momentum = float(group.get("momentum", 0.0))
    return (2 + 2 * momentum) / (1 + 2 * momentum) if group.get("nesterov") else 2 + 2 * momentum


def _factor(optimizer: Optimizer, group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor) -> Tensor:
    if isinstance(optimizer, (Adam, AdamW)):
        return 1 / _adam_denominator(group, state, gradient)
    if isinstance(optimizer, RMSprop):
        return 1 / _rmsprop_denominator(group, state, gradient)
    if isinstance(optimizer, SGD):
        damped = float(group["dampening"]) if group["momentum"] else 0.0
        return torch.full_like(gradient, 1 - damped)
    raise MeasureError(
        f"knows how SGD, Adam, AdamW and RMSprop scale gradients, but not {type(optimizer).__name__}. Leave optimizer "
        "out for the Hessian as it is, or take CriticalSharpness, which any optimizer will do for."
    )


def _adam_denominator(group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor) -> Tensor:
    beta, steps = float(group["betas"][1]), float(state.get("step", 0)) + 1
    squares = beta * state.get("exp_avg_sq", torch.zeros_like(gradient)).to(gradient) + (1 - beta) * gradient.square()
    if group.get("amsgrad"):
        squares = torch.maximum(state.get("max_exp_avg_sq", squares).to(gradient), squares)
    return (squares / (1 - beta**steps)).sqrt() + float(group["eps"])


def _rmsprop_denominator(group: Mapping[str, Any], state: Mapping[str, Any], gradient: Tensor) -> Tensor:
    alpha = float(group["alpha"])
    squares = alpha * state.get("square_avg", torch.zeros_like(gradient)).to(gradient) + (1 - alpha) * gradient.square()
    if group.get("centered"):
        mean = alpha * state.get("grad_avg", torch.zeros_like(gradient)).to(gradient) + (1 - alpha) * gradient
        squares = squares - mean.square()
    return squares.clamp(min=0).sqrt() + float(group["eps"])
