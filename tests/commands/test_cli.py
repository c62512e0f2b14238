"""Errors and exit codes of the command line as a whole."""

from __future__ import annotations

from importlib.metadata import version

import pytest

from lightning_complexity import cli


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
            "--probe: Expected a <class 'int'>. Got value: few",
        ),
        (["list", "--format", "x"], "unrecognized arguments: --format x"),
    ],
)
def test_what_is_not_understood_is_said_in_options(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert code(*arguments) == 2
    first, second = capsys.readouterr().err.splitlines()
    assert message in first
    assert second == f"See: lightning-complexity {arguments[0]} --help"


@pytest.mark.parametrize("name", ["demo", "list", "measure", "report", "study", "worker"])
def test_each_command_explains_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert code(name, "--help") == 0
    assert "usage" in capsys.readouterr().out.lower()


def test_an_error_is_one_line_and_debug_shows_where_it_comes_from() -> None:
    message = code("measure", "none.ckpt", "--model", "torch.nn:Linear")
    assert message == "measure: there is no checkpoint none.ckpt."
    with pytest.raises(FileNotFoundError):
        cli.main(["measure", "none.ckpt", "--model", "torch.nn:Linear", "--debug"])
