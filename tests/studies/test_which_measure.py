"""The page on which measure explains generalization, from results that are known."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from docs import which_measure


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def verdicts(**outcomes: str) -> list[dict[str, Any]]:
    """Verdicts at the end, at equal steps and at equal loss, by measure."""
    points = ("end", "equal steps", "equal loss")
    return [
        {"measure": measure, "point": point, "verdict": verdict}
        for measure, of_points in outcomes.items()
        for point, verdict in zip(points, of_points.split(), strict=True)
    ]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    both = {"stable_rank": "fail pass pass", "jacobian_norm": "pass inconclusive fail"}
    write(tmp_path / "digits/labels/verdicts.csv", verdicts(log_path_norm="pass fail pass", **both))
    write(tmp_path / "digits/optimizers/verdicts.csv", verdicts(log_path_norm="pass pass inconclusive", **both))
    return tmp_path


def test_what_passes_at_the_end_and_does_not_fail_at_equal_loss(folder: Path) -> None:
    assert which_measure.passing(folder, "digits", ["labels"]) == ["log_path_norm"]
    assert which_measure.passing(folder, "digits", ["labels", "optimizers"]) == ["log_path_norm"]
    assert which_measure.passing(folder, "digits", ["labels", "width"]) == []
    assert which_measure.passing(folder, "mnist", ["labels"]) == []


def test_the_page_has_all_verdicts_with_their_commands(folder: Path) -> None:
    page, costs = which_measure.page(folder), which_measure.costs()
    assert 0.1 < float(costs["PathNorm"]) < 1 < float(costs["JacobianNorm"]) < 20
    assert f"| `log_path_norm` | {costs['PathNorm']} | pass / fail / pass | pass / pass / ? |" in page
    assert f"| `jacobian_norm` | {costs['JacobianNorm']} | pass / ? / fail | pass / ? / fail |" in page
    assert "lightning-complexity study labels --data digits --metrics $QUICKER --seeds 3" in page
    assert "study width --data digits" not in page
    assert "Not run." in page
    assert "## Criteria: MNIST" not in page


def test_marks_of_the_audit_are_explained(folder: Path) -> None:
    row = {"measure": "complexity/stable_rank", "verdict": "turns", "with": 1, "against": 1, "unclear": 0, "width": "+"}
    write(folder / "digits/audit/summary.csv", [{**row, "reason": "width"}])
    text = which_measure.audit_text(folder)
    assert "| `stable_rank` | turns | + |" in text
    assert "against" in text.splitlines()[0]
