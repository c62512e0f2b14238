"""What ``list`` says of each metric."""

from __future__ import annotations

import json

import pytest

from lightning_complexity import cli
from lightning_complexity.metrics import SUITES, catalogue


def printed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    cli.main(["list", *arguments])
    return capsys.readouterr().out


def test_every_metric_is_listed_with_its_formula(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys).splitlines()
    assert len(lines) == 1 + 3 * len(catalogue())
    assert [line.split()[0] for line in lines[1::3]] == [entry.metric.__name__ for entry in catalogue()]
    assert "ln (sum_paths prod_e |theta_e|^q)^(1/q)" in [line.strip() for line in lines]
    assert not any(mark in line for line in lines for mark in ("`", "\\"))
    assert all(line.isascii() for line in lines)


def test_a_family_alone(capsys: pytest.CaptureFixture[str]) -> None:
    rows = printed(capsys, "--family", "paths").splitlines()
    assert rows[1].split() == [
        "PathNorm",
        "log_path_norm",
        "higher",
        *("ln(output", "/", "input)"),
        "forward",
        "inputs",
        "fast",
        "yes",
    ]
    assert len(rows) == 4


def test_json_has_all_that_is_known(capsys: pytest.CaptureFixture[str]) -> None:
    rows = json.loads(printed(capsys, "--json"))
    assert {row["metric"] for row in rows} == {entry.metric.__name__ for entry in catalogue()}
    by_name = {row["metric"]: row for row in rows}
    assert by_name["StableRank"]["suite"] == "fast"
    assert by_name["MeanMargin"]["needs"] == ["inputs", "targets"]
    assert by_name["LinearRegions"]["penalty"] is False
    assert by_name["LinearRegions"]["no_penalty_reason"]
    assert all(row["formula"] and row["misleads_when"] and row["reference"] for row in rows)
    assert (by_name["DeadUnits"]["more_complex"], by_name["DeadUnits"]["units"]) == ("lower", "share of units")
    assert by_name["LogVolume"]["units"] == "ln(volume)"
    assert {row["metric"] for row in rows if row["suite"] == "fast"} == set(SUITES["fast"])


def test_a_mistyped_family_gets_the_close_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match=r"list: there is no family 'norm'\. Did you mean norms\?"):
        cli.main(["list", "--family", "norm"])
