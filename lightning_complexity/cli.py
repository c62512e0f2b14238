"""The command ``lightning-complexity``."""

from __future__ import annotations

import atexit
import gc
import os
import re
import sys
from argparse import Action
from collections.abc import Callable, Iterable, Iterator
from difflib import get_close_matches
from importlib.metadata import PackageNotFoundError, version
from io import TextIOWrapper
from pathlib import Path
from typing import Any, NoReturn

try:
    from jsonargparse import ArgumentError, ArgumentParser, DefaultHelpFormatter
except ImportError:
    sys.exit("the command line needs jsonargparse: pip install lightning-complexity[cli]")

from lightning_complexity.commands.listing import list_parser, run_list
from lightning_complexity.commands.measure import measure_parser, run_measure
from lightning_complexity.dashboard.commands.report import report_parser, run_report
from lightning_complexity.selection.commands.search import add_search, run_search
from lightning_complexity.selection.commands.spaces import add_spaces, run_spaces
from lightning_complexity.studies.commands.study import add_study, run_study
from lightning_complexity.studies.commands.sweeps import add_worker, run_worker

_EPILOGUE = """\
Exit codes: 0 done, 1 it could not be done, 2 the command was not understood, 130 interrupted. Errors are one line;
--debug, anywhere, shows where they come from."""
_NUMBERS = {"int": "whole number", "float": "number"}


class _Formatter(DefaultHelpFormatter):
    """Says nothing of defaults that are none, and names the type of paths in words."""

    def _get_type_str(self, action: Action) -> str | None:
        text: str | None = super()._get_type_str(action)
        return "path" if text == "<class 'Path'>" else text

    def _get_help_string(self, action: Action) -> str:
        text = str(super()._get_help_string(action))
        without = text.replace(", default: %(default)s", "").replace(" (default: %(default)s)", "")
        return without if action.default is None else text


def _format_help(parser: ArgumentParser) -> None:
    """Of a parser and those below it that have no formatter of their own."""
    if parser.formatter_class is DefaultHelpFormatter:
        parser.formatter_class = _Formatter
    for below in _below(parser).values():
        _format_help(below)


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        prog="lightning-complexity",
        description=f"Watch how complex a neural network becomes while it trains. {_EPILOGUE}",
        version=_version(),
        exit_on_error=False,
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    commands = parser.add_subcommands(required=True)
    commands.add_subcommand("demo", _demo_parser(), help="train two networks and compare their complexity")
    commands.add_subcommand("list", list_parser(), help="list every metric")
    commands.add_subcommand("measure", measure_parser(), help="measure checkpoints of a trained module")
    commands.add_subcommand("report", report_parser(), help="draw runs in one file, and say what happened")
    add_study(commands)
    add_search(commands)
    add_spaces(commands)
    add_worker(commands)
    _format_help(parser)
    return parser


def _version() -> str:
    try:
        return version("lightning-complexity")
    except PackageNotFoundError:  # used from its sources, without having been installed
        return "unknown"


def _demo_parser() -> ArgumentParser:
    parser = ArgumentParser(
        description="Train one network on true and on random labels of handwritten digits, and compare its "
        'complexity. Takes a minute or two; downloads nothing. For example: "lightning-complexity demo --quick".'
    )
    parser.add_argument("--quick", action="store_true", help="a smaller run, under 20 seconds")
    parser.add_argument(
        "--seed", type=int, default=0, help="of data split, random labels, initialization and order of samples"
    )
    parser.add_argument(
        "--output", type=Path, default=Path("complexity_demo"), help="folder for TensorBoard logs, records and curves"
    )
    parser.add_argument("--open", action="store_true", help="start TensorBoard at the end and open it in a browser")
    return parser


def _run_demo(options: dict[str, Any]) -> None:
    from lightning_complexity.demo import run_demo

    run_demo(**options)


_RUNNERS: dict[str, Callable[[dict[str, Any]], None]] = {
    "demo": _run_demo,
    "list": run_list,
    "measure": run_measure,
    "report": run_report,
    "study": run_study,
    "search": run_search,
    "spaces": run_spaces,
    "worker": run_worker,
}


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: Of the command; those of the process if not given.
    """
    given = sys.argv[1:] if arguments is None else arguments
    atexit.register(gc.freeze)  # or Python looks for garbage in all that was imported, for a second or two
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):  # names of runs may have letters that a terminal has not
            stream.reconfigure(errors="backslashreplace")
    debug = "--debug" in given
    given = [argument for argument in given if argument != "--debug"]
    _check_command(given)
    parser = _parser()
    given = _as_spelled(given, parser)
    try:
        options = parser.parse_args(given)
    except ArgumentError as error:
        _end_misunderstood(_in_options(str(error), parser, given), _commands(parser, given))
    name = options.subcommand
    try:
        _RUNNERS[name](options[name].as_dict())
        sys.stdout.flush()
    except SystemExit as end:  # a command's own message
        reason = end.__context__
        if debug and isinstance(reason, Exception):
            raise reason from reason.__cause__
        if isinstance(reason, KeyboardInterrupt) and not isinstance(end.code, str):  # Lightning's, without a word
            _end_interrupted(name)
        raise
    except KeyboardInterrupt:
        if debug:
            raise
        _end_interrupted(name)
    except BrokenPipeError:  # whoever reads, such as head, has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except (ValueError, OSError, ImportError, KeyError) as error:
        if debug:
            raise
        sys.exit(f"{name}: {_in_one_line(error)}")
    except Exception as error:  # most often of a module, loader or search space of the user's
        if debug:
            raise
        sys.exit(f"{name}: {type(error).__name__}: {_in_one_line(error)} (--debug shows where)")


def _end_interrupted(name: str) -> NoReturn:
    print(f"\n{name}: interrupted.", file=sys.stderr)
    sys.exit(130)  # as shells have it


def _in_one_line(error: Exception) -> str:
    return " ".join(line.strip() for line in str(error).splitlines())


def _check_command(arguments: list[str]) -> None:
    """End with the close one where there is no such command."""
    name = arguments[0] if arguments else ""
    if name and not name.startswith("-") and name not in _RUNNERS:
        message = f"there is no command {name!r}.{_close(name, _RUNNERS)} There are {', '.join(_RUNNERS)}."
        _end_misunderstood(message, [])


def _end_misunderstood(message: str, commands: list[str]) -> NoReturn:
    print(f"{message}\nSee: {' '.join(['lightning-complexity', *commands])} --help", file=sys.stderr)
    sys.exit(2)


def _below(parser: ArgumentParser) -> dict[str, ArgumentParser]:
    """Parsers of the commands of a parser, by name."""
    return next((found for action in parser._actions if (found := getattr(action, "_name_parser_map", None))), {})


def _commands(parser: ArgumentParser, arguments: list[str]) -> list[str]:
    """Which command was given, and which one below it."""
    below = _below(parser)
    place = next((place for place, argument in enumerate(arguments) if argument in below), None)
    if place is None:
        return []
    return [arguments[place], *_commands(below[arguments[place]], arguments[place + 1 :])]


def _as_spelled(arguments: list[str], parser: ArgumentParser) -> list[str]:
    """Arguments in which options have the dashes or underscores that they are known by."""
    options = {option for action in _actions_of(parser, arguments) for option in action.option_strings}
    known = {option.replace("-", "_"): option for option in options if option.startswith("--")}

    def spelled(argument: str) -> str:
        name, *value = argument.split("=", 1)
        is_known = name in options or not name.startswith("--")
        return argument if is_known else "=".join([known.get(name.replace("-", "_"), name), *value])

    return [spelled(argument) for argument in arguments]


def _in_options(message: str, parser: ArgumentParser, arguments: list[str]) -> str:
    """A message of the parser with options as one writes them, and the close one of one that there is not."""
    message = re.sub(r"\s*\n\s*", " ", message)
    actions = list(_actions_of(parser, arguments))
    if missing := re.search(r"(?<=required: )[\w., ]+", message):
        names = (_as_written(name.rpartition(".")[2], actions) for name in missing[0].split(", "))
        message = message.replace(missing[0], ", ".join(names))
    message = re.sub(r'Parser key "(?:\w+\.)*(\w+)":', r"--\1:", message)
    message = re.sub(
        r"Expected a <class '(int|float)'>\. Got value: (.*)",
        lambda m: f"must be a {_NUMBERS[m[1]]}, got {m[2]}",
        message,
    )
    if "subcommand" in message and "not provided" in message:
        below = parser
        for name in _commands(parser, arguments):
            below = _below(below)[name]
        return f"a command is needed: {', '.join(_below(below))}."
    unknown = re.search(r"nrecognized arguments: (--[\w-]+)", message)
    if unknown:
        return message + _close(unknown[1], {option for action in actions for option in action.option_strings})
    choice = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
    return message + (_close(choice[1], re.findall(r"[\w-]+", choice[2])) if choice else "")


def _actions_of(parser: ArgumentParser, arguments: list[str]) -> Iterator[Action]:
    """Arguments of a parser, and of the commands below it that were given."""
    for action in parser._actions:
        yield action
        for name, below in (getattr(action, "_name_parser_map", None) or {}).items():
            if name in arguments:
                yield from _actions_of(below, arguments)


def _as_written(name: str, actions: Iterable[Action]) -> str:
    """An argument as one writes it: an option with its dashes, others as the help calls them."""
    found = next((action for action in actions if action.dest == name), None)
    if found is None or found.option_strings:
        return f"--{name}"
    return str(found.metavar or name)


def _close(name: str, known: Iterable[str]) -> str:
    close = get_close_matches(name, known, n=1)
    return f" Did you mean {close[0]}?" if close else ""
