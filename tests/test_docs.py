"""Pages follow the code: the README prints what it says, the catalogue is that of the classes, links lead somewhere."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from lightning_complexity import cli
from lightning_complexity.demo import HIGHER_FOR_RANDOM_LABELS, HIGHER_FOR_TRUE_LABELS_AT_EQUAL_STEPS
from lightning_complexity.metrics import catalogue

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
GUIDE, DEMO, CATALOGUE = ((ROOT / "docs" / f"{name}.md").read_text() for name in ("guide", "demo", "catalogue"))
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def python(text: str) -> list[str]:
    """The blocks of Python of a page."""
    return re.findall(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def test_the_catalogue_is_up_to_date() -> None:
    result = subprocess.run(
        [sys.executable, str(ROOT / "docs" / "catalogue.py"), "--check"], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, f"{result.stdout}Run `make docs`."


# The README -----------------------------------------------------------------------------------------


def test_the_readme_is_short() -> None:
    assert len(README.splitlines()) < 150


def is_rounded_alike(actual: str, said: str) -> bool:
    """Whether two numbers differ by no more than one in the last digit that is said."""
    last = Decimal(1).scaleb(Decimal(said).as_tuple().exponent)
    return abs(Decimal(actual) - Decimal(said)) <= last


def test_first_lines_print_what_the_readme_says(tmp_path: Path) -> None:
    said = re.search(r"```python\n.*?```\n\n```\n(.*?)```", README, re.DOTALL)[1].splitlines()
    command = [sys.executable, "-c", "\n".join(python(README))]  # with the lines that come later, which print nothing
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=tmp_path)
    printed = [line for line in done.stdout.splitlines() if re.match(r"(complexity|probe)/", line)]
    assert len(said) == 17
    for line, expected in zip(printed, said, strict=True):
        assert line.split()[0] == expected.split()[0]
        assert is_rounded_alike(line.split()[1], expected.split()[1]), (line, expected)
        assert line.index(line.split()[1]) == 48


@pytest.mark.parametrize(
    ("actual", "said", "alike"),
    [
        ("10.38", "10.38", True),
        ("10.39", "10.38", True),
        ("10.40", "10.38", False),
        ("448", "448.4", False),
        ("0.05441", "0.05442", True),
        ("0.9531", "0.9688", False),
    ],
)
def test_the_last_digit_alone_may_differ(actual: str, said: str, alike: bool) -> None:
    assert is_rounded_alike(actual, said) == alike


def test_the_guides_lines_on_plots_run() -> None:
    code = re.search(r"^## In code\n(.*?)^## ", GUIDE, re.DOTALL | re.MULTILINE)[1]
    [block] = python(code)
    subprocess.run([sys.executable, "-W", "error", "-c", block], check=True, env={**os.environ, "MPLBACKEND": "Agg"})


# Pages ---------------------------------------------------------------------------------------------


def test_the_demo_output_on_its_page_bears_out_its_claims() -> None:
    ratios = {name: float(value) for name, value in re.findall(r"^([a-z_]+) .*? x ([0-9.]+)", DEMO, re.MULTILINE)}
    assert all(ratios[name] > 1.2 for name in HIGHER_FOR_RANDOM_LABELS)
    found = re.findall(r"^([a-z_]+) .* (\d+) of (\d+)$", DEMO, re.MULTILINE)
    counts = {name: (int(count), int(total)) for name, count, total in found}
    assert all(2 * counts[name][0] > counts[name][1] for name in HIGHER_FOR_TRUE_LABELS_AT_EQUAL_STEPS)


def commands_of(text: str) -> list[list[str]]:
    """What is written as a command of ours in blocks of a page, without what stands for something else."""
    blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    words = [shlex.split(line, comments=True) for line in lines if line.startswith("lightning-complexity ")]
    return [w[1:] for w in words if "..." not in w]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_on_pages_are_understood(page: Path) -> None:
    for words in commands_of(page.read_text()):
        if words != ["--help"]:
            cli._parser().parse_args(words)


def anchors(page: Path) -> set[str]:
    """Of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    links = [*re.findall(r"\]\(([^)\s]+)\)", text), *re.findall(r'src="([^"]+)"', text)]
    for link in links:
        if link.startswith(("http:", "https:")):
            continue
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


# The catalogue -------------------------------------------------------------------------------------


def test_the_catalogue_says_of_every_measure_what_one_must_know() -> None:
    for entry in catalogue():
        name = entry.metric.__name__
        [section] = re.findall(rf"^### {name}\n(.*?)(?=^##|\Z)", CATALOGUE, re.DOTALL | re.MULTILINE)
        direction = f"{entry.more_complex} is more complex" if entry.more_complex else "no direction is more complex"
        assert f"- Direction: {direction}\n- Units: {entry.units}\n- Misleads when " in section
        assert re.search(r"^```math\n[^`]+\n```$", section, re.MULTILINE), name
        [row] = re.findall(rf"^\| \[{name}\]\(#{name.lower()}\) .*$", CATALOGUE, re.MULTILINE)
        assert len(re.split(r"(?<!\\)\|", row)) == 10, row


def test_the_catalogue_is_written_for_markdown() -> None:
    for mark in (":math:", ":class:", r"\operatorname", r"\|"):
        assert mark not in CATALOGUE
    assert "``" not in CATALOGUE.replace("```", "")
    formulas = [*re.findall(r"^```math\n(.*?)\n```$", CATALOGUE, re.MULTILINE), *re.findall(r"\$`(.*?)`\$", CATALOGUE)]
    assert len(formulas) > len(catalogue())
    for formula in formulas:
        bare = formula.replace(r"\{", "").replace(r"\}", "")
        assert bare.count("{") == bare.count("}"), formula
        assert "|" not in formula
