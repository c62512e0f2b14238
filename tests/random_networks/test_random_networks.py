"""Every measure on thousands of random networks: a number, a documented ``nan`` or ``inf``, or a refusal; no trace."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from lightning_complexity import metrics
from lightning_complexity.network import Context, Snapshot
from tests.random_networks import subjects
from tests.random_networks.cases import Case, drawn
from tests.random_networks.checks import Fault, faults
from tests.random_networks.shrinking import shrunk, with_same_fault

AT_ONCE = 50
SHARE, SMALLER_SHARE = 0.08, 0.02  # of all measures on one network: of the first ones, and of the thousands
REPORTED = 3


def report(found: dict[tuple[str, str], tuple[Case, Fault]]) -> str:
    lines = [f"{len(found)} measures are at fault. The smallest networks with the first of them:"]
    for case, fault in list(found.values())[:REPORTED]:
        lines += [f"{fault.subject}: {fault.kind}", f"    {fault.text}", f"    {with_same_fault(case, fault)}"]
    return "\n".join(lines)


def check(seeds: range, share: float) -> None:
    found: dict[tuple[str, str], tuple[Case, Fault]] = {}
    for seed in seeds:
        case = drawn(seed)
        for fault in faults(case, *subjects.some(seed, share)):
            found.setdefault((fault.subject, fault.kind), (case, fault))
    assert not found, report(found)


@pytest.mark.parametrize("start", range(0, 150, AT_ONCE))
def test_some_networks(start: int) -> None:
    check(range(start, start + AT_ONCE), SHARE)


@pytest.mark.slow
@pytest.mark.parametrize("start", range(150, 5_000, AT_ONCE))
def test_many_networks(start: int) -> None:
    check(range(start, start + AT_ONCE), SMALLER_SHARE)


# The suite itself ------------------------------------------------------------------------------------


class Faulty(metrics.ParameterNorm):
    """Does what no measure may do."""

    def __init__(self, fault: str) -> None:
        super().__init__()
        self.fault = fault

    def layers(self, snapshot: Snapshot, context: Context) -> dict[str, Tensor]:
        names = [type(module).__name__ for module in snapshot.model.modules()]
        if self.fault == "raw" and "Tanh" in names:
            raise KeyError("missing")
        if self.fault == "value error of Python" and "Tanh" in names:
            return {"norm": torch.tensor(float("a number"))}
        if self.fault == "trace" and "Tanh" in names:
            with torch.no_grad():
                snapshot.model.head.linear.bias.add_(1)
        if self.fault == "by chunks":
            return {"norm": torch.tensor(float(snapshot.chunk_size))}
        if self.fault == "nan":
            return {"norm": torch.tensor(torch.nan)}
        return super().layers(snapshot, context)


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("raw", "the words of torch or Python"),
        ("value error of Python", "a ValueError that the package did not raise"),
        ("trace", "a trace"),
        ("by chunks", "differs by chunks"),
        ("nan", "not finite, undocumented"),
    ],
)
def test_faults_are_found_and_shrunk(fault: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(subjects.METRICS, "Faulty", lambda: Faulty(fault))
    case = Case(layers=("linear", ("residual", "relu", "tanh", "softmax"), "gelu"), outputs="tuple", seed=3)
    found = next(f for f in faults(case, ["Faulty"], []) if f.kind == kind)
    assert with_same_fault(case, found) == (Case() if fault in ("by chunks", "nan") else Case(layers=("tanh",)))


def test_an_ordinary_network_has_no_fault() -> None:
    case = Case(layers=("linear", "relu"))
    assert not faults(case, list(subjects.METRICS), list(subjects.PENALTIES))


def test_a_case_builds_the_same_network_again() -> None:
    case = drawn(11)
    again = eval(repr(case), {"Case": Case})
    assert again == case
    one, other = case.build(), again.build()
    for a, b in zip(one.model.state_dict().values(), other.model.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, equal_nan=True)


def test_shrinking_keeps_what_matters() -> None:
    case = Case(source="vector", layers=("tanh", ("block", "relu", "sort"), "gelu"), probe="huge", seed=5)

    def fails(other: Case) -> bool:
        return other.probe == "huge" and "sort" in str(other.layers)

    assert shrunk(case, fails) == Case(layers=("sort",), probe="huge")


def test_the_grammar_is_drawn_from_everywhere() -> None:
    drawn_values: dict[str, set[Any]] = {}
    for seed in range(2_000):
        for field, value in vars(drawn(seed)).items():
            drawn_values.setdefault(field, set()).update(value if field == "layers" else [value])
    from tests.random_networks import tasks

    assert drawn_values["outputs"] == tasks.OUTPUTS.keys()
    assert drawn_values["judge"] == tasks.JUDGES.keys()
    assert drawn_values["probe"] == tasks.PROBES.keys()
    assert drawn_values["precision"] == tasks.PRECISIONS.keys()


def test_every_layer_leaves_the_shape() -> None:
    from tests.random_networks.layers import LAYERS, SHAPES, build

    for shape, layers in LAYERS.items():
        for name in layers:
            module = build(name, shape)
            assert isinstance(module, nn.Module)
            x = torch.randn(3, *SHAPES[shape])
            assert module(x).shape == x.shape, name
