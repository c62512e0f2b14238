"""Formulas of the catalogue, which are written in LaTeX, as plain ASCII for a terminal."""

from __future__ import annotations

import re
from collections.abc import Iterator

# Letters and functions, which need a space before them where another stands; the rest is put as it is.
_WORDS = (
    *("alpha", "gamma", "delta", "epsilon", "theta", "lambda", "mu", "rho", "sigma", "phi", "omega", "ell", "partial"),
    *("Sigma", "Delta", "beta", "eta", "tau", "tr", "arg", "cos"),
    *("sum", "prod", "int", "exp", "ln", "log", "max", "min"),
)
_OTHER_WORDS = {"nabla": "grad", "infty": "inf"}
_SYMBOLS = {
    **dict.fromkeys(("lVert", "rVert", "|"), "||"),
    **dict.fromkeys(("lvert", "rvert"), "|"),
    "langle": "<",
    "rangle": ">",
    "mid": " | ",
    "in": " in ",
    **dict.fromkeys((",", ";", "quad"), " "),
    **dict.fromkeys(("big", "Big"), ""),
    **{symbol: symbol for symbol in "{}#"},
    "le": " <= ",
    "ne": " != ",
    "neq": " != ",
    "propto": " ~ ",
    "pm": " +- ",
    "cdot": " * ",
    "dots": "...",
}
_ACCENTS = {"hat": "hat", "dot": "dot", "bar": "mean", "overline": "mean"}
_TOKEN = re.compile(r"\\([A-Za-z]+|.)|(.)", re.DOTALL)


def plain_text(formula: str) -> str:
    r"""A formula in one line of ASCII, with parentheses where LaTeX has a fraction, a root or a raised sum.

    Args:
        formula: In the LaTeX of :attr:`~lightning_complexity.metrics.ComplexityMetric.formula`.

    Raises:
        ValueError: At a command of LaTeX that is not known here.

    Example:
        >>> plain_text(r"\frac{1}{L} \sum_i \lVert W_i \rVert_F^2 / 2^{d+1}")
        '(1/L) sum_i ||W_i||_F^2 / 2^(d+1)'
        >>> plain_text(r"\sqrt{\ln(m/\delta)} \max_{c \neq y_i}")
        'sqrt(ln(m/delta)) max_(c != y_i)'
    """
    text = re.sub(r"\s+", " ", _sequence(_tokens(formula))).strip()
    text = re.sub(r"\s+([,)])", r"\1", re.sub(r"\(\s+", "(", text))
    return re.sub(r"(\|+)\s*(.*?)\s*\1", r"\1\2\1", text)  # no space inside of a norm


def _tokens(formula: str) -> Iterator[tuple[bool, str]]:
    """Whether each token is a command, and its name or character."""
    for command, character in _TOKEN.findall(formula):
        yield (True, command) if command else (False, character)


def _sequence(tokens: Iterator[tuple[bool, str]], until: str | None = None) -> str:
    """The text of all tokens up to a closing brace, or to the end."""
    text = ""
    for is_command, token in tokens:
        if not is_command and token == until:
            return text
        if is_command:
            text += _command(token, tokens, text)
        elif token == "{":
            text += _sequence(tokens, "}")
        elif token in "^_":
            text += token + _script(_argument(tokens))
        else:
            text += token
    return text


def _separated(before: str, word: str) -> str:
    return f" {word}" if before and (before[-1].isalnum() or before[-1] == ")") else word


def _command(name: str, tokens: Iterator[tuple[bool, str]], before: str) -> str:
    if name in _WORDS or name in _OTHER_WORDS:
        return _separated(before, _OTHER_WORDS.get(name, name))
    if name in ("text", "operatorname"):
        return _separated(before, _argument(tokens))
    if name in ("frac", "tfrac"):
        over, under = _argument(tokens), _argument(tokens)
        return f"({_grouped(over)}/{_grouped(under)})"
    if name == "sqrt":
        return _separated(before, f"sqrt({_argument(tokens)})")
    if name == "binom":
        return f"binomial({_argument(tokens)}, {_argument(tokens)})"
    if name in _ACCENTS:
        return _separated(before, f"{_grouped(_argument(tokens))}_{_ACCENTS[name]}")
    if name not in _SYMBOLS:
        raise ValueError(f"there is no plain text for \\{name}.")
    return _SYMBOLS[name]


def _argument(tokens: Iterator[tuple[bool, str]]) -> str:
    """The text of what follows: a group in braces, or one token."""
    is_command, token = next(tokens)
    while not is_command and token == " ":
        is_command, token = next(tokens)
    if is_command:
        return _command(token, tokens, "")
    return _sequence(tokens, "}").strip() if token == "{" else token


def _grouped(text: str) -> str:
    return text if re.fullmatch(r"\w|\d+", text) else f"({text})"


def _script(text: str) -> str:
    return text if re.fullmatch(r"\w+|[+]|\(.*\)", text) else f"({text})"
