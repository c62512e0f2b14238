"""Twenty planted faults and twenty healthy trainings, none of which rules were developed with."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch

pytest.importorskip("sklearn", reason="needs scikit-learn, of the extra `studies`, for its data sets")

from tests.dashboard.findings.bases import DEVELOPMENT, GRADING
from tests.dashboard.findings.faults import FAULTS
from tests.dashboard.findings.grading import graded, score, standard_only, table, trained


def test_there_are_twenty_of_each_and_none_is_both_developed_with_and_graded() -> None:
    assert len(FAULTS) == len(GRADING) == 20
    assert not set(DEVELOPMENT) & set(GRADING)
    assert all(f.development in DEVELOPMENT and f.grading in GRADING for f in FAULTS.values())


@pytest.fixture
def as_a_user_would() -> Iterator[None]:
    """In single precision, on one thread."""
    dtype, threads = torch.get_default_dtype(), torch.get_num_threads()
    torch.set_default_dtype(torch.float32)
    torch.set_num_threads(1)
    yield
    torch.set_default_dtype(dtype)
    torch.set_num_threads(threads)


@pytest.mark.slow
@pytest.mark.usefixtures("as_a_user_would")
@pytest.mark.longest
@pytest.mark.timeout(3600)
@pytest.mark.filterwarnings("ignore")  # diverged networks, limits that are not met: all on purpose
def test_faults_are_found_and_healthy_runs_are_left_alone(capsys: Any) -> None:
    runs = list(trained())
    grades = graded(runs)
    found, alarms = score(grades)
    lines = [table(grades), f"everything: found {found} of 20, false alarms {alarms} of 20"]
    for per_layer in (False, True):
        less = graded((fault, base, standard_only(run, per_layer=per_layer)) for fault, base, run in runs)
        few, more = score(less)
        lines.append(f"standard suite, {per_layer=}: found {few} of 20, false alarms {more} of 20")
        assert few >= 17
        assert more <= 1
    with capsys.disabled():
        sys.stdout.write("\n" + "\n".join(lines) + "\n")
    assert found >= 17
    assert alarms <= 1
