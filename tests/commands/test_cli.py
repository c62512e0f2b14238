"""Errors and exit codes of the command line as a whole."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

from lightning_complexity import cli
from lightning_complexity.recording import Measurement, append


def code(*arguments: str) -> object:
    with pytest.raises(SystemExit) as error:
        cli.main([*arguments])
    return error.value.code


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("--version") == 0
    assert version("lightning-complexity") in capsys.readouterr().out


def test_a_mistyped_command_gets_the_close_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert code("mesure") == 2
    assert capsys.readouterr().err.startswith("there is no command 'mesure'. Did you mean measure?")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["measure", "a.ckpt"], "the following arguments are required: --model"),
        (["measure", "a.ckpt", "--modle", "a:B", "--model", "a:B"], "--modle a:B Did you mean --model?"),
        (
            ["measure", "a.ckpt", "--model", "a:B", "--probe", "few"],
            "--probe: must be a whole number, got few",
        ),
        (["list", "--format", "x"], "unrecognized arguments: --format x"),
        (["report"], "the following arguments are required: RUN_DIR"),
        (["measure"], "the following arguments are required: checkpoints, --model"),
        (["worker"], "the following arguments are required: --storage, --study"),
        (["study", "labelz"], "Did you mean labels?"),
        (["list", "--family"], "--family: expected one argument"),
    ],
)
def test_what_is_not_understood_is_said_in_options(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(*arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert message in first
    assert second == f"See: lightning-complexity {arguments[0]} --help"


@pytest.mark.parametrize(("commands", "first"), [([], "demo, list"), (["study"], "labels, width")])
def test_without_a_command_all_are_said(commands: list[str], first: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(*commands) == 2
    message, advice = capsys.readouterr().err.splitlines()
    assert message.startswith(f"a command is needed: {first}")
    assert advice == " ".join(["See: lightning-complexity", *commands, "--help"])


def test_dashes_and_underscores_of_options_are_alike(capsys: pytest.CaptureFixture[str]) -> None:
    for command, option in ((["study", "labels"], "--max_steps"), (["search"], "--batch-size")):
        assert code(*command, f"{option}=few") == 2
        message, advice = capsys.readouterr().err.splitlines()
        assert message.endswith("must be a whole number, got few")
        assert advice == f"See: lightning-complexity {' '.join(command)} --help"


@pytest.mark.parametrize(
    "arguments",
    [
        ["study", "labels", "--data", "nofolder"],
        ["search", "--objectives", "eror"],
        ["spaces", "none.csv", "other.csv"],
        ["worker", "--storage", "none.log", "--study", "none"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_debug_shows_the_errors_of_all_commands(arguments: list[str]) -> None:
    assert str(code(*arguments)).startswith(arguments[0])
    with pytest.raises((ValueError, OSError)):
        cli.main([*arguments, "--debug"])


def test_an_interrupted_command_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupt(options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setitem(cli._RUNNERS, "list", interrupt)
    assert code("list") == 130
    assert capsys.readouterr().err == "\nlist: interrupted.\n"

    def end(options: object) -> None:  # as Lightning's Trainer does
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    monkeypatch.setitem(cli._RUNNERS, "report", end)
    assert code("report", ".") == 130
    assert capsys.readouterr().err == "\nreport: interrupted.\n"
    with pytest.raises(KeyboardInterrupt):
        cli.main(["list", "--debug"])


@pytest.mark.parametrize("name", ["demo", "list", "measure", "report", "study", "search", "spaces", "worker"])
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(name, "--help") == 0
    usage, _, rest = " ".join(capsys.readouterr().out.split()).partition("usage: ")[2].partition("example")
    assert usage.startswith("lightning-complexity")
    assert f"lightning-complexity {name}" in rest
    assert "<class" not in rest
    assert "default: null" not in rest


def test_an_error_is_one_line_and_debug_shows_where_it_comes_from() -> None:
    message = code("measure", "none.ckpt", "--model", "torch.nn:Linear")
    assert message == "measure: there is no checkpoint none.ckpt."
    with pytest.raises(FileNotFoundError):
        cli.main(["measure", "none.ckpt", "--model", "torch.nn:Linear", "--debug"])


def test_letters_that_a_terminal_has_not_end_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "runs" / "größe 😀"
    append(folder / "complexity.jsonl", Measurement(0, 0, 1.0, {"complexity/parameter_norm": 1.0}))
    written = BytesIO()
    monkeypatch.setattr(sys, "stdout", TextIOWrapper(written, encoding="ascii"))
    cli.main(["report", str(folder.parent), "-o", str(tmp_path / "page.html")])
    assert b"Nothing unusual in one run. (gr\\xf6\\xdfe \\U0001f600)" in written.getvalue()


def test_a_reader_that_has_enough_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stdout", stream)
        assert code("list") == 1
    assert capsys.readouterr().err == ""
