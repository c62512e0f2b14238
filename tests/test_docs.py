"""README and catalogue follow the code, and the README's lines run as pasted."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from lightning_complexity import cli
from lightning_complexity.demo import HIGHER_FOR_RANDOM_LABELS, HIGHER_FOR_TRUE_LABELS_AT_EQUAL_STEPS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_tables_are_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "catalogue.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{result.stdout}Run `make docs`."


@pytest.fixture(scope="module")
def first_screen(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """What the README's first lines print, and what it says they print."""
    code, printed = re.search(r"```python\n(.*?)```\n\n```\n(.*?)```", README, re.DOTALL).groups()
    folder = tmp_path_factory.mktemp("readme")
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=folder)
    return result.stdout, printed


def values(text: str) -> dict[str, float]:
    return {
        name: float(value) for name, value in re.findall(r"^((?:complexity|probe)/\S+)\s+(\S+)$", text, re.MULTILINE)
    }


def test_first_lines_print_what_the_readme_says(first_screen: tuple[str, str]) -> None:
    actual, said = map(values, first_screen)
    assert actual.keys() == said.keys()
    assert len(said) == 17
    # The initialization is random, so that digits differ from run to run.
    for name in ("complexity/parameter_norm", "complexity/distance_from_initialization", "probe/train_accuracy"):
        assert actual[name] == pytest.approx(said[name], rel=0.15)


def test_the_demo_output_in_the_readme_bears_out_its_claims() -> None:
    ratios = {name: float(value) for name, value in re.findall(r"^([a-z_]+) .*? x ([0-9.]+)", README, re.MULTILINE)}
    assert all(ratios[name] > 1.2 for name in HIGHER_FOR_RANDOM_LABELS)
    found = re.findall(r"^([a-z_]+) .* (\d+) of (\d+)$", README, re.MULTILINE)
    counts = {name: (int(count), int(total)) for name, count, total in found}
    assert all(2 * counts[name][0] > counts[name][1] for name in HIGHER_FOR_TRUE_LABELS_AT_EQUAL_STEPS)


def commands_of(text: str) -> list[list[str]]:
    """What is written as a command of ours in blocks of a page, without what stands for something else."""
    blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("lightning-complexity ")]
    return [w[1:] for w in words if "..." not in w]


@pytest.mark.parametrize(
    "page", [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))], ids=lambda page: page.stem
)
def test_commands_on_pages_are_understood(page: Path) -> None:
    for words in commands_of(page.read_text()):
        if words != ["--help"]:
            cli._parser().parse_args(words)
