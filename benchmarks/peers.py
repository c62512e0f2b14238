"""The same quantity by other packages, where they are installed; none is needed."""

from __future__ import annotations

from collections.abc import Callable
from importlib.util import find_spec

from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

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
        with sdpa_kernel(SDPBackend.MATH):  # the others cannot be differentiated twice
            hessian(workload.model, nn.CrossEntropyLoss(), data=data, cuda=False).trace(maxIter=NUM_PROBES, tol=0)

    return trace


def _weightwatcher(workload: Workload) -> Action:
    def analyze() -> None:
        from weightwatcher import WeightWatcher

        WeightWatcher(model=workload.model).analyze(plot=False)

    return analyze


PEERS: dict[str, tuple[str, Callable[[Workload], Action]]] = {
    "curvlinops": ("Hessian trace by curvlinops", _curvlinops),
    "pyhessian": ("Hessian trace by pyhessian", _pyhessian),
    "weightwatcher": ("spectra and power laws by weightwatcher", _weightwatcher),
}
"""By package, what it does; traces take as many probes as ``HessianTrace`` does by default."""


def missing_packages() -> list[str]:
    """Those that would be compared if they were installed."""
    return [package for package in PEERS if find_spec(package) is None]


def peer_actions(workload: Workload) -> dict[str, Action]:
    """By name, what the installed packages do."""
    missing = missing_packages()
    return {title: build(workload) for package, (title, build) in PEERS.items() if package not in missing}
