"""The same quantity by other packages, where they are installed; none is needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.actions import Action
from benchmarks.models import Workload

NUM_PROBES = 8


def _curvlinops(workload: Workload) -> Action:
    data = [(workload.inputs, workload.targets)]
    parameters = list(workload.model.parameters())

    def trace() -> None:
        from curvlinops import HessianLinearOperator, hutchinson_trace

        hessian = HessianLinearOperator(workload.model, nn.CrossEntropyLoss(), parameters, data)
        hutchinson_trace(hessian, num_matvecs=NUM_PROBES)

    return trace


def _pyhessian(workload: Workload) -> Action:
    def trace() -> None:
        from pyhessian import hessian

        data = (workload.inputs, workload.targets)
        hessian(workload.model, nn.CrossEntropyLoss(), data=data, cuda=False).trace(maxIter=NUM_PROBES, tol=0)

    return trace


def _jacobian_regularizer(workload: Workload) -> Action:
    inputs = workload.inputs.clone().requires_grad_()
    optimizer = torch.optim.SGD(workload.model.parameters(), lr=1e-3)

    def step() -> None:
        from jacobian import JacobianReg

        outputs = workload.model(inputs)
        loss = F.cross_entropy(outputs, workload.targets) + JacobianReg(n=1)(inputs, outputs)
        loss.backward()
        inputs.grad = None
        optimizer.step()
        optimizer.zero_grad()

    return step


def _weightwatcher(workload: Workload) -> Action:
    def analyze() -> None:
        from weightwatcher import WeightWatcher

        WeightWatcher(model=workload.model).analyze(plot=False)

    return analyze


HESSIAN_TRACES: dict[str, Callable[[Workload], Action]] = {"curvlinops": _curvlinops, "pyhessian": _pyhessian}
"""What estimates the trace of the Hessian from as many probes as ``HessianTrace`` does by default."""


OTHERS: dict[str, tuple[str, Callable[[Workload], Action]]] = {
    "jacobian": ("step with the Jacobian penalty of jacobian_regularizer, one projection", _jacobian_regularizer),
    "weightwatcher": ("spectra and power laws by weightwatcher", _weightwatcher),
}
"""By package, what it does."""


def missing_packages() -> list[str]:
    """Those that would be compared if they were installed."""
    return [package for package in (*HESSIAN_TRACES, *OTHERS) if find_spec(package) is None]


def peer_actions(workload: Workload) -> dict[str, Action]:
    """By name, what the installed packages do."""
    missing = missing_packages()
    traces = {
        f"Hessian trace by {package}": build for package, build in HESSIAN_TRACES.items() if package not in missing
    }
    others = {title: build for package, (title, build) in OTHERS.items() if package not in missing}
    return {name: build(workload) for name, build in (traces | others).items()}
