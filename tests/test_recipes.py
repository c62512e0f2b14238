"""The recipes of the documentation run, and print what the page says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
SECTIONS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
SETUP = re.search(r"```python\n(.*?)```", PAGE.partition("\n## ")[0], re.DOTALL)[1]


@pytest.mark.filterwarnings("ignore:The 'train_dataloader' does not have many workers")
@pytest.mark.parametrize("recipe", SECTIONS)
def test_the_recipe_prints_what_it_says(recipe: str) -> None:
    code, expected = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", SECTIONS[recipe], re.DOTALL).groups()
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(SETUP + code, {"__name__": "recipe"})
    text = printed.getvalue().replace("torch.float64", "torch.float32")  # the tests' default precision
    assert text == expected
