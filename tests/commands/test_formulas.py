"""Formulas in a terminal: nothing of LaTeX is left, and what is grouped stays grouped."""

from __future__ import annotations

import re

import pytest

from lightning_complexity.commands.formulas import plain_text
from lightning_complexity.metrics import CatalogueEntry, catalogue
from lightning_complexity.metrics.generalization import MEASURES


@pytest.mark.parametrize("entry", catalogue(), ids=lambda entry: entry.name)
def test_formulas_of_the_catalogue_become_ascii(entry: CatalogueEntry) -> None:
    text = plain_text(entry.formula)
    assert text.isascii()
    assert not re.search(r"\\|  |\( | \)", text)
    assert text.count("(") == text.count(")")


@pytest.mark.parametrize("name", MEASURES)
def test_formulas_of_the_study_become_ascii(name: str) -> None:
    assert "\\" not in plain_text(MEASURES[name].formula)


@pytest.mark.parametrize(
    ("formula", "text"),
    [
        (r"2^{d+1}", "2^(d+1)"),
        (r"2^d x", "2^d x"),
        (r"\frac1{nm}", "(1/(nm))"),
        (r"\frac{a}{12}", "(a/12)"),
        (r"\sqrt m + \sqrt{m/2}", "sqrt(m) + sqrt(m/2)"),
        (r"\binom{N_l}{j}", "binomial(N_l, j)"),
        (r"\max_{c \neq y_i} f", "max_(c != y_i) f"),
        (r"a\lVert W_i \rVert_F^2", "a||W_i||_F^2"),
        (r"\gamma\sqrt m", "gamma sqrt(m)"),
        (r"\lambda^{-\alpha}", "lambda^(-alpha)"),
        (r"\hat P \, dt", "P_hat dt"),
        (r"\{ j : x \}", "{ j : x }"),
        (r"(x)_+", "(x)_+"),
    ],
)
def test_by_hand(formula: str, text: str) -> None:
    assert plain_text(formula) == text


def test_an_unknown_command_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no plain text for \\oint"):
        plain_text(r"\oint")
