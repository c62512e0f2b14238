"""Imports go one way, and importing the package is light."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "lightning_complexity"
ORDER = (
    *("functional", "network", "metrics", "regularizers", "recording", "plots"),
    *("callbacks", "studies", "selection", "dashboard", "demo", "commands", "cli"),
)
HEAVY = ("lightning", "pytorch_lightning", "matplotlib", "tensorboard")


def loaded_by(statement: str, names: tuple[str, ...]) -> set[str]:
    code = f"import sys; {statement}; print(*(n for n in {names!r} if n in sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(result.stdout.split())


def test_importing_the_package_is_light() -> None:
    assert loaded_by("import lightning_complexity", (*HEAVY, "torch")) == set()


def test_formulas_and_networks_need_torch_only() -> None:
    names = (*HEAVY, "torchmetrics")
    assert loaded_by("import lightning_complexity.functional, lightning_complexity.network", names) == set()


def test_metrics_and_regularizers_need_no_lightning() -> None:
    # torchmetrics itself loads matplotlib where that is installed.
    names = ("lightning", "pytorch_lightning", "tensorboard")
    assert loaded_by("import lightning_complexity.metrics, lightning_complexity.regularizers", names) == set()


def test_reading_a_record_needs_no_torch(tmp_path: Path) -> None:
    (tmp_path / "complexity.jsonl").touch()
    read = f"import lightning_complexity as c; c.plots; c.recording.read_record({str(tmp_path)!r})"
    assert loaded_by(read, (*HEAVY, "torch", "torchmetrics")) == set()


def test_measuring_many_quantities_and_drawing_samples_need_no_lightning() -> None:
    names = ("lightning", "pytorch_lightning", "tensorboard", "torchmetrics")
    assert loaded_by("from lightning_complexity.recording import *", names) == {"torchmetrics"}


def test_studies_load_what_they_need_when_they_need_it() -> None:
    names = (*HEAVY, "torch", "sklearn", "pandas", "optuna")
    assert loaded_by("import lightning_complexity as c; c.studies", names) == set()


def test_choosing_a_model_loads_what_it_needs_when_it_needs_it() -> None:
    names = (*HEAVY, "torch", "sklearn", "pandas", "optuna")
    assert loaded_by("import lightning_complexity as c; c.selection", names) == set()
    assert loaded_by("from lightning_complexity.selection import *", (*HEAVY, "torch")) == set()


def test_the_check_can_fail() -> None:
    assert "pytorch_lightning" in loaded_by(
        "import lightning_complexity; lightning_complexity.ComplexityMonitor", HEAVY
    )


def test_type_checkers_see_the_families_that_are_found() -> None:
    from lightning_complexity.metrics.catalogue import families

    text = (PACKAGE / "metrics" / "__init__.py").read_text()
    assert [f for f in families() if f"    from {f.__name__} import *\n" not in text] == []


def test_unknown_names_are_attribute_errors() -> None:
    import lightning_complexity

    with pytest.raises(AttributeError, match="has no attribute 'Monitor'"):
        _ = lightning_complexity.Monitor
    assert set(lightning_complexity.__all__) <= set(dir(lightning_complexity))


def imported_modules(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the whole name of the package"
            yield node.module or ""


def layer(module: str) -> str:
    return module.split(".")[1] if module.count(".") else ""


FILES = [p for p in PACKAGE.rglob("*.py") if p.parent != PACKAGE or p.stem in ORDER]


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_one_way(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for module in imported_modules(path):
        if module.startswith("lightning_complexity."):
            assert ORDER.index(layer(module)) <= ORDER.index(own), f"{path} imports {module}"
        if module.split(".")[0] in ("lightning", "pytorch_lightning"):
            assert own == "callbacks", f"{path} imports {module}; only callbacks/ knows Lightning"
