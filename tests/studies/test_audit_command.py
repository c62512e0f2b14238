"""The command study audit: on networks that it trains, and on a table."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from lightning_complexity import cli


def run(*arguments: str) -> None:
    cli.main(["study", "audit", *arguments])


@pytest.mark.slow
def test_a_quick_audit_of_networks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["--quick", "--seeds", "2", "--workers", "1", "--output", str(tmp_path)]
    run(*arguments)
    printed = capsys.readouterr().out
    assert "Slopes in num_samples" in printed
    assert "not measured: jacobian_norm falls with n under each optimizer" in printed
    claim = "parameter_norm rises with n under each optimizer"
    assert any(f"{found}: {claim} (adam " in printed for found in ("confirmed", "refuted", "not decided"))
    networks = pd.read_csv(tmp_path / "networks.csv")
    assert len(networks) == 12
    assert networks["reached"].all()
    slopes = pd.read_csv(tmp_path / "slopes.csv")
    assert set(slopes["normalisation"]) == {"raw", "/ sqrt(n)"}
    assert slopes["low"].notna().all()
    # The same table as a CSV says the same, but for learning rates, which differ with the optimizer there.
    table = tmp_path / "networks.csv"
    frame = networks.drop(columns="learning_rate")
    frame.to_csv(table, index=False)
    factors = ["--factors", "num_samples", "optimizer", "--size", "num_samples"]
    run("--table", str(table), *factors, "--output", str(tmp_path / "again"))
    assert (tmp_path / "again" / "slopes.csv").read_text() == (tmp_path / "slopes.csv").read_text()
    assert "First figures" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--table", "nowhere.csv"], "--table needs --factors: the columns that were varied"),
        (["--table", "nowhere.csv", "--factors", "a"], "No such file or directory: 'nowhere.csv'"),
        (["--factors", "width"], "--factors is for --table; networks that are trained have their own"),
        (["--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["--data", "nowhere"], "there is no data 'nowhere'"),
    ],
)
def test_errors_are_said_in_words(arguments: list[str], message: str, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=f"study audit: .*{message}"):
        run(*arguments, "--output", str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()
