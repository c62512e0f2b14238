"""The command study."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lightning_complexity import cli


def run(*arguments: str) -> None:
    cli.main(["study", *arguments])


def test_a_quick_study_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["confusion", "--quick", "--seeds", "2", "--metrics", "ParameterNorm", "--output", str(tmp_path)]
    run(*arguments)
    first = capsys.readouterr()
    assert "parameter_norm" in first.out
    assert f"Written: {tmp_path / 'verdicts.csv'}" in first.out
    run(*arguments)
    again = capsys.readouterr()
    assert again.out == first.out
    assert "100%" in again.err
    with pytest.raises(SystemExit, match=r"study confusion: .* has the result of a training with other metrics"):
        run(*arguments[:4], "--metrics", "PathNorm", "--output", str(tmp_path))


def test_a_users_own_by_one_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own = ["--module", "tests.studies.own:Network", "--datamodule", "tests.studies.own:Data"]
    options = ["--metrics", "ParameterNorm", "--loss", "0.3", "--max-steps", "600"]
    run("labels", *own, *options, "--seeds", "2", "--output", str(tmp_path / "labels"))
    assert "permuted labels" in capsys.readouterr().out
    rates = ["--learning-rates", "sgd=0.5", "momentum=0.2"]
    run("optimizers", *own, *options, "--seeds", "1", *rates, "--output", str(tmp_path / "optimizers"))
    printed = capsys.readouterr().out
    assert "its own" in printed
    assert "every verdict is inconclusive" in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["labels", "--data", "nowhere"], "study labels: there is no data 'nowhere': give \"digits\", or a folder"),
        (["width", "--metrics", "PathNrm"], "study width: there is no metric 'PathNrm'. Did you mean 'PathNorm'"),
        (["depth", "--seeds", "0"], "--seeds must be at least 1, got 0"),
        (["labels", "--module", "a:B"], "--module needs --datamodule beside it"),
        (["labels", "--datamodule", "a:B"], "--datamodule needs --module beside it"),
        (
            ["labels", "--data", "mnist", "--module", "a:B", "--datamodule", "a:B"],
            "--data is for networks of the study's own; with --module, data come from --datamodule",
        ),
        (["labels", "--module", "nowhere:B", "--datamodule", "a:B"], "there is no module 'nowhere'"),
        (["optimizers", "--learning-rates", "adma=1"], "must be such as adam=0.01, of sgd, .*, got 'adma=1'"),
        (["optimizers", "--learning-rates", "adam"], "must be such as adam=0.01"),
        (["confusion", "--loss", "-1"], "loss must be a positive number, got -1.0"),
        (["width", "--widths", "0"], "width must be a whole number of at least 1, got 0"),
    ],
)
def test_errors_are_said_in_words(arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=message):
        run(*arguments, "--output", "unused")
    assert not Path("unused").exists()


def test_a_missing_package_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for name in [n for n in sys.modules if n.startswith("lightning_complexity.studies.criteria")]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(SystemExit, match=r"tqdm.*: pip install lightning-complexity\[studies\]"):
        run("labels", "--quick", "--output", str(tmp_path))


@pytest.mark.parametrize("arguments", [["study"], ["study", "width"], ["study", "optimizers"]])
def test_help(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        cli.main([*arguments, "--help"])
    assert stopped.value.code == 0
    assert "criteri" in capsys.readouterr().out or arguments == ["study"]
