"""The recipes run as pasted, one after the other, and print what the page says."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

PAGE = (Path(__file__).parents[1] / "docs" / "recipes.md").read_text()
RECIPES: list[tuple[str, str]] = re.findall(r"```python\n((?:(?!```).)*)```\n\n```\n(.*?)```", PAGE, re.DOTALL)
START = re.search(r"```python\n(.*?)```", PAGE, re.DOTALL)[1]
HEADINGS = "Images", "Tokens", "Regression", "Batches that are dictionaries", "A GAN"


def test_there_are_five() -> None:
    assert tuple(re.findall(r"^## (.*)$", PAGE, re.MULTILINE)) == HEADINGS
    assert len(RECIPES) == len(HEADINGS)


def test_they_print_what_the_page_says(tmp_path: Path) -> None:
    code = "".join(f"{recipe}print('next recipe')\n" for recipe, _ in [(START, ""), *RECIPES])
    command = [sys.executable, "-W", "ignore", "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert result.returncode == 0, result.stderr[-3000:]
    assert result.stdout.split("next recipe\n")[1:-1] == [printed for _, printed in RECIPES]
