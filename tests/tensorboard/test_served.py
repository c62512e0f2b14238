"""What a TensorBoard server has of real runs, with its data server and without."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import torch
from torch.utils.tensorboard import SummaryWriter

from lightning_complexity.callbacks import ComplexityMonitor
from lightning_complexity.metrics import SUITES, LinearRegions, resolve
from lightning_complexity.recording import read_record
from tests.tensorboard.answers import eventually, get, session_groups, wait_until_loaded
from tests.tensorboard.runs import fitted
from tests.tensorboard_server import serving

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("demo")
    command = [sys.executable, "-m", "lightning_complexity", "demo", "--quick", "--output", str(output)]
    subprocess.run(command, check=True, capture_output=True)
    # The table of hyperparameters has the columns of the run that TensorBoard happens to read first.
    quantities = [LinearRegions(along="plane"), *SUITES["standard"]]
    fitted(output / "regions", [ComplexityMonitor(quantities, on_error="raise")])
    return output


@pytest.fixture(scope="module", params=["data server", "--load_fast=false"])
def server(request: pytest.FixtureRequest, logs: Path) -> Iterator[str]:
    options = [request.param] if request.param.startswith("--") else []
    with serving(logs, "--reload_interval=1", *options) as url:
        wait_until_loaded(url, logs)
        yield url


def test_served_curves_are_those_of_the_record(server: str, logs: Path) -> None:
    for run in ("true_labels", "random_labels"):
        history = read_record(logs / run)
        for metric in resolve(SUITES["standard"]):
            tag = f"complexity/{metric.name}"
            points = get(f"{server}data/plugin/scalars/scalars?{urlencode({'run': run, 'tag': tag})}")
            recorded = [(m.step, m.values[tag]) for m in history if tag in m.values]
            assert [step for _, step, _ in points] == [step for step, _ in recorded]
            assert [value for _, _, value in points] == pytest.approx([value for _, value in recorded], rel=1e-6)


def test_pictures_are_served_beside_the_numbers(server: str) -> None:
    assert [*get(f"{server}data/plugin/images/tags")["regions"]] == ["complexity/linear_regions/picture"]
    assert get(f"{server}data/plugin/scalars/scalars?run=regions&tag=complexity/linear_regions")


def test_the_table_of_hyperparameters_has_the_final_values_of_all_runs(server: str, logs: Path) -> None:
    def is_whole() -> bool:
        return {"true_labels", "random_labels"} <= session_groups(server)[1].keys()

    eventually(is_whole, "sessions of both runs")
    columns, rows = session_groups(server)
    for run in ("true_labels", "random_labels"):
        last = read_record(logs / run)[-1].values
        found = dict(zip(columns, rows[run], strict=False))
        assert found["probe/generalization_gap"] == pytest.approx(last["probe/generalization_gap"], rel=1e-5)
        assert found["complexity/parameter_norm"] == pytest.approx(last["complexity/parameter_norm"], rel=1e-5)


@pytest.mark.parametrize("options", [[], ["--load_fast=false"]])
def test_the_last_layout_and_the_first_columns_of_a_run_count(options: list[str], tmp_path: Path) -> None:
    """What :mod:`lightning_complexity.callbacks.views` relies on."""
    from torch.utils.tensorboard.summary import hparams

    with SummaryWriter(tmp_path / "run") as writer:
        for title in ("first", "last"):
            writer.add_custom_scalars({title: {title: ["Multiline", ["probe/a"]]}})
            for summary in hparams({title: 1.0}, {f"probe/{title}": 0.0}):
                writer._get_file_writer().add_summary(summary)
        writer.add_scalar("probe/first", torch.tensor(3.0), 1)
    with serving(tmp_path, *options) as url:
        wait_until_loaded(url, tmp_path)
        layout = get(f"{url}data/plugin/custom_scalars/layout")
        assert [category["title"] for category in layout["category"]] == ["last"]
        assert session_groups(url) == (["probe/first"], {"run": [3.0]})
