"""Checkpoints measured by the command: the same numbers as by hand, on the data of the user, whatever is wrong."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from lightning_complexity import cli, metrics
from lightning_complexity.recording import read_record

X = torch.randn(40, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(40) % 3


class Net(pl.LightningModule):
    def __init__(self, width: int = 5, loss: object = None) -> None:
        super().__init__()
        self.save_hyperparameters(ignore=[] if loss is not None else ["loss"])
        self.net = nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: tuple[Tensor, Tensor]) -> Tensor:
        x, y = batch
        return F.cross_entropy(self(x), y)

    def validation_step(self, batch: tuple[Tensor, Tensor]) -> None:
        self.log("val_loss", self.training_step(batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


class WithLoaders(Net):
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(X, Y), batch_size=8)


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(X, Y), batch_size=8, shuffle=True)

    def val_dataloader(self) -> DataLoader[tuple[Tensor, ...]]:
        return DataLoader(TensorDataset(X[:9], Y[:9]), batch_size=8)


def broken_data() -> object:
    class Broken(TensorDataset):
        def __getitem__(self, index: int) -> tuple[Tensor, ...]:
            raise OSError("disk gone")

    return DataLoader(Broken(X, Y))


class Nothing:
    pass


class Raising(Net):
    def __init__(self) -> None:
        raise RuntimeError("two\nlines")


def raising_data() -> object:
    raise ZeroDivisionError("by zero")


NUMBER = 3


MODEL = ("--model", f"{__name__}:Net")
DATA = ("--data", f"{__name__}:Data")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    keep = pl.callbacks.ModelCheckpoint(folder, save_top_k=-1, every_n_epochs=1)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    pl.seed_everything(0)
    pl.Trainer(max_epochs=3, callbacks=[keep], accelerator="cpu", precision="64-true", **options).fit(
        Net(width=6), Data()
    )
    return folder


def rows(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[dict[str, object]]:
    cli.main(["measure", *map(str, arguments), "--format", "json"])
    return json.loads(capsys.readouterr().out)


def test_values_are_those_of_the_metrics(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = rows(capsys, trained, *MODEL, *DATA, "--metrics", "PathNorm", "DistanceFromInitialization", "MeanMargin")
    assert [row["step"] for row in found] == [5, 10, 15]
    assert [row["epoch"] for row in found] == [0, 1, 2]
    x = X.double()  # which checkpoints of the tests are in
    first, last = (Net.load_from_checkpoint(row["checkpoint"]) for row in (found[0], found[-1]))
    values = found[-1]["values"]
    assert values["complexity/log_path_norm"] == pytest.approx(metrics.PathNorm()(last, x).item())
    assert values["complexity/mean_margin"] == pytest.approx(metrics.MeanMargin()(last, x, Y).item())
    squares = [(p - q).square().sum() for p, q in zip(first.parameters(), last.parameters(), strict=True)]
    assert values["complexity/distance_from_initialization"] == pytest.approx(sum(squares).sqrt().item(), rel=1e-5)
    loss, val_loss = F.cross_entropy(last(x), Y).item(), F.cross_entropy(last(x[:9]), Y[:9]).item()
    assert values["probe/train_loss"] == pytest.approx(loss, rel=1e-5)
    assert values["probe/generalization_gap"] == pytest.approx(val_loss - loss, rel=1e-4)


def test_a_table_has_a_column_for_each_checkpoint(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["measure", str(trained), *MODEL, *DATA, "--metrics", "ParameterNorm"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["step", "5", "step", "10", "step", "15"]
    assert lines[1].split()[0] == "complexity/parameter_norm"
    assert len(lines[1].split()) == 4


def test_csv_goes_to_a_file(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "new" / "measured.csv"
    options = ["--metrics", "ParameterNorm", "--format", "csv", "--output", str(path)]
    cli.main(["measure", str(trained), *MODEL, *options])
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    assert [row["step"] for row in found] == ["5", "10", "15"]
    assert capsys.readouterr().out == ""


def test_without_data_only_weights_are_measured(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = sorted(trained.glob("*.ckpt"))[-1]
    cli.main(["measure", str(file), *MODEL, "--metrics", "ParameterNorm", "PathNorm", "DistanceFromInitialization"])
    out, err = capsys.readouterr()
    assert len(out.splitlines()) == 2
    assert "not measured: log_path_norm: there are no samples: give --data" in err
    assert "not measured: distance_from_initialization: one checkpoint has no beginning: give --initial" in err


def test_loaders_of_the_module_and_a_beginning_are_taken(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first, *_, last = sorted(trained.glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    found = rows(capsys, last, "--model", f"{__name__}:WithLoaders", "--initial", first, "--metrics", "fast")
    assert found[0]["values"]["complexity/distance_from_initialization"] > 0
    assert "probe/train_accuracy" in found[0]["values"]


def test_a_state_dict_and_a_function(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "weights.pt"
    torch.save(Net().state_dict(), path)
    cli.main(["measure", str(path), "--model", f"{__name__}:Net", "--metrics", "ParameterNorm"])
    assert capsys.readouterr().out.splitlines()[0].split() == ["weights"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", f"{__name__}:Nothing"], "Nothing must make a LightningModule, got Nothing"),
        (["--model", f"{__name__}:Nett"], "Did you mean Net"),
        ([*MODEL, "--data", f"{__name__}:broken_data"], "no samples could be drawn: .*disk gone"),
        ([*MODEL, "--metrics", "PathNrm"], "there is no metric 'PathNrm'. Did you mean"),
        ([*MODEL, "--probe", "0"], "--probe must be at least 1, got 0"),
        (["--model", f"{__name__}:NUMBER"], "--model must be a class or a function, got .*:NUMBER, a int"),
        ([*MODEL, "--data", f"{__name__}:NUMBER"], "--data must be a LightningDataModule, .*:NUMBER, a int"),
        (["--model", f"{__name__}:Raising"], r"RuntimeError: two lines \(--debug shows where\)"),
        ([*MODEL, "--data", f"{__name__}:raising_data"], r"ZeroDivisionError: by zero \(--debug shows where\)"),
        ([*MODEL, "--output", "."], r"--output must be a file, got the folder \."),
        ([*MODEL, "--initial", "none.ckpt"], r"there is no checkpoint none\.ckpt"),
    ],
)
def test_mistakes_are_one_line(trained: Path, arguments: list[str], message: str) -> None:
    with pytest.raises(SystemExit, match=f"measure: .*{message}") as error:
        cli.main(["measure", str(trained), *arguments])
    assert "\n" not in str(error.value)


def test_files_that_are_no_checkpoints(tmp_path: Path) -> None:
    text, numbers, other = tmp_path / "a.ckpt", tmp_path / "b.ckpt", tmp_path / "c.ckpt"
    text.write_text("weights")
    (nothing := tmp_path / "d.ckpt").touch()
    torch.save([1, 2], numbers)
    torch.save(nn.Linear(2, 2).state_dict(), other)
    for path, message in (
        (text, r"a\.ckpt is no file that torch has saved, or is cut off: it cannot be loaded \(UnpicklingError\)\.$"),
        (nothing, r"it cannot be loaded \(EOFError\)\.$"),
        (numbers, "holds a list"),
        (other, r"is not of Net: Missing key\(s\)"),
        (tmp_path / "empty", "no file"),
    ):
        (tmp_path / "empty").mkdir(exist_ok=True)
        with pytest.raises(SystemExit, match=message):
            cli.main(["measure", str(path), *MODEL])


def test_objects_are_loaded_only_if_trusted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "objects.ckpt"
    module = Net(loss=Path("x"))
    torch.save({"state_dict": module.state_dict(), "hyper_parameters": {"loss": Path("x"), "width": 5}}, path)
    with pytest.raises(SystemExit, match=r"holds objects such as pathlib.*--trust loads it"):
        cli.main(["measure", str(path), *MODEL])
    cli.main(["measure", str(path), *MODEL, "--trust", "--metrics", "ParameterNorm"])
    assert "parameter_norm" in capsys.readouterr().out


def test_steps_are_in_order_of_numbers(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for step in (9, 10):
        torch.save({"state_dict": Net().state_dict(), "global_step": step, "epoch": 0}, tmp_path / f"step={step}.ckpt")
    assert [row["step"] for row in rows(capsys, tmp_path, *MODEL, "--metrics", "ParameterNorm")] == [9, 10]


def test_nothing_is_written_beside_checkpoints(trained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = sorted(trained.rglob("*"))
    rows(capsys, trained, *MODEL, *DATA)
    assert sorted(trained.rglob("*")) == before
    with pytest.raises(FileNotFoundError):
        read_record(trained)
