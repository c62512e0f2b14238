"""What users get wrong, and what networks have that a measure does not know: named once, never a lost run."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from lightning_complexity import ComplexityMonitor, ComplexityPenalty, metrics, regularizers
from tests.networks import mlp
from tests.quick import quick_suite
from tests.training import Classifier, trainer

X = torch.randn(24, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
Y = torch.arange(24) % 3

FULL = [entry for entry in metrics.catalogue() if entry.metric.__name__ in metrics.SUITES["full"]]
VC_BOUND = metrics.VCGeneralizationBound.name
NORM_BOUNDS = {entry.name for entry in FULL if entry.family == "bounds"} - {VC_BOUND}
OF_MARGINS = NORM_BOUNDS | {VC_BOUND, "davies_bouldin_index", "compression_bound"}
OF_MARGINS |= {
    e.name for e in FULL if e.family in ("margins", "generalization", "mixup", "collapse", "information", "pac_bayes")
}
REGION_BOUND = metrics.RegionBound.name
OF_FLOATS = ("sensitivity", "regions", "trajectories", "mixup")
OF_INPUTS = {"log_path_norm", "lann_complexity", "performance_correlation"} | NORM_BOUNDS
OF_JACOBIANS = {"jacobian_norm", "geometric_complexity", "local_lipschitz_constant", "input_gradient_norm"}
OF_INPUTS |= {entry.name for entry in FULL if entry.family in OF_FLOATS}
OF_KINKS = {entry.name for entry in FULL if entry.family in ("regions", "units")} | {"transitions"}


def loader(dataset: Any = None) -> DataLoader[Any]:
    return DataLoader(TensorDataset(X, Y) if dataset is None else dataset, batch_size=8)


def watched(
    module: Classifier, dataset: Any = None, **options: Any
) -> tuple[dict[str, float], dict[str, str], list[str]]:
    """Train for two epochs; the last values, the reasons of what was left out, and the warnings."""
    monitor = ComplexityMonitor(**{"metrics": quick_suite("full"), **options})
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit = trainer(callbacks=[monitor])
        fit.fit(module, loader(dataset))
    assert fit.global_step > 0
    messages = [str(w.message) for w in caught if "ComplexityMonitor" in str(w.message)]
    return monitor.history[-1].values, monitor._failures.left_out, messages


def test_unknown_operation_is_named_once_and_the_rest_goes_on() -> None:
    values, left_out, messages = watched(Classifier(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 3))))
    kinks = OF_KINKS | {"log_path_norm", "vc_dimension_bound", VC_BOUND}
    assert left_out.keys() == kinks
    (message,) = messages
    assert all(name in message for name in kinks)
    assert "the measure has no meaning for the operation 'tanh', called in module 'net.1'" in message
    assert "PathNorm has no meaning" in left_out["log_path_norm"]
    assert values["complexity/hessian_trace"] != 0


def test_token_inputs() -> None:
    class Tokens(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(9, 5), nn.Linear(5, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(F.relu(self.embedding(x).mean(1)))

    dataset = TensorDataset(torch.randint(0, 9, (24, 6)), Y)
    values, left_out, messages = watched(Classifier(Tokens()), dataset)
    assert left_out.keys() == OF_INPUTS - OF_JACOBIANS | {"customized_l1"}  # no layer leads to the activation
    assert len(messages) == len(set(left_out.values()))
    assert any("one floating-point tensor, got torch.int64" in message for message in messages)
    assert math.isfinite(values["complexity/hessian_trace"])


class Pairs(Dataset[Any]):
    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": X[index], "labels": Y[index]}


class FromMapping(Classifier):
    def forward(self, batch: dict[str, Tensor]) -> Tensor:
        return self.net(batch["x"])

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return F.cross_entropy(self(batch), batch["labels"])


def test_forward_that_takes_a_mapping() -> None:
    values, left_out, messages = watched(FromMapping(mlp(4, 6, 3)), Pairs())
    assert left_out.keys() == OF_INPUTS - OF_JACOBIANS
    assert "got dict" in messages[0]
    assert {"complexity/margin_percentile", "complexity/hessian_trace", "probe/train_accuracy"} <= values.keys()


class Autoencoder(Classifier):
    def training_step(self, batch: tuple[Tensor]) -> Tensor:
        return F.mse_loss(self(batch[0]), batch[0])


def test_batches_without_targets_are_said_once() -> None:
    _, left_out, messages = watched(Autoencoder(mlp(4, 6, 4)), TensorDataset(X))
    lacking = [message for message in messages if "targets, which the samples do not have" in message]
    assert len(lacking) == 1
    assert "Give pairs, (inputs, targets), or choose other metrics" in lacking[0]
    named = [name for name, reason in left_out.items() if "which the samples do not have" in reason]
    assert len(named) > 20
    assert all(name in lacking[0] for name in named)


def test_regression_targets_with_the_classification_loss() -> None:
    class Regression(Classifier):
        def training_step(self, batch: Any) -> Tensor:
            return F.mse_loss(self(batch[0]), batch[1])

    dataset = TensorDataset(X, X[:, :1])
    for options in ({}, {"loss": F.mse_loss}):
        values, left_out, _ = watched(module := Regression(mlp(4, 6, 1)), dataset, **options)
        assert left_out.keys() == OF_MARGINS
        assert "probe/train_accuracy" not in values
        assert values["probe/train_loss"] == pytest.approx(F.mse_loss(module(X), X[:, :1]).item())


def test_network_without_parameters() -> None:
    class Nothing(Classifier):
        automatic_optimization = False

        def training_step(self, batch: Any) -> None:
            self.optimizers().step()

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)

    values, left_out, messages = watched(Nothing(nn.ReLU()), TensorDataset(X, Y))
    assert {"log_spectral_product", "stable_rank", "hessian_trace"} <= left_out.keys()
    assert values["complexity/parameter_count"] == 0
    assert len(messages) == len(set(left_out.values()))


def test_nan_weights_are_logged_as_such() -> None:
    module = Classifier(mlp(4, 6, 3))
    nn.init.constant_(module.net[0].weight, math.nan)
    values, left_out, messages = watched(module)
    assert not left_out
    assert not messages
    names = {entry.name for entry in FULL if entry.family != "size"} - {VC_BOUND, REGION_BOUND}
    assert all(math.isnan(values[f"complexity/{name}"]) for name in names)


def test_nan_weights_do_not_break_tensorboard(tmp_path: Path) -> None:
    module = Classifier(mlp(4, 6, 3))
    nn.init.constant_(module.net[0].weight, math.nan)
    trainer(callbacks=[ComplexityMonitor()], logger=TensorBoardLogger(tmp_path)).fit(module, loader())


class Stream(IterableDataset[Any]):
    def __init__(self) -> None:
        self.started = 0

    def __iter__(self) -> Iterator[Any]:
        self.started += 1
        yield from zip(X, Y, strict=True)


def test_iterable_dataset_gives_its_first_batch_and_is_not_iterated_again() -> None:
    stream = Stream()
    monitor = ComplexityMonitor("fast", probe=5)
    trainer(callbacks=[monitor]).fit(Classifier(mlp(4, 3)), DataLoader(stream, batch_size=8))
    torch.testing.assert_close(monitor._probes.train.inputs, X[:5])
    assert stream.started == 2  # once an epoch


@pytest.mark.parametrize("probe", [1, (X[:1], Y[:1])])
def test_single_sample_probe(probe: Any) -> None:
    values, left_out, _ = watched(Classifier(mlp(4, 6, 3)), probe=probe)
    assert not left_out
    assert math.isnan(values["complexity/jacobian_norm/standard_error"])
    assert math.isfinite(values["complexity/jacobian_norm"])


@pytest.mark.parametrize(
    ("probe", "error", "message"),
    [
        (0, ValueError, "probe must be at least 1 sample, got 0"),
        (True, TypeError, "got bool"),
        ("all", TypeError, "a number of training samples, a pair .* or a DataLoader, got str"),
        ((X[:0], Y[:0]), ValueError, "probe has no samples"),
        ((X,), ValueError, "got a tuple of length 1"),
        (({"a": X, "b": X[:3]}, Y), ValueError, r"got lengths \[3, 24\]"),
        ((X, Y[:3]), ValueError, r"got lengths \[3, 24\]"),
    ],
)
def test_impossible_probes_are_refused_at_once(probe: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ComplexityMonitor(probe=probe)


def test_batches_of_three() -> None:
    class Triples(Classifier):
        def training_step(self, batch: Any) -> Tensor:
            x, _, y = batch
            return F.cross_entropy(self(x), y)

    values, left_out, messages = watched(module := Triples(mlp(4, 6, 3)), TensorDataset(X, Y.roll(1), Y))
    assert not left_out
    assert not messages
    assert values["probe/train_accuracy"] == pytest.approx((module(X).argmax(1) == Y).double().mean().item())


def test_samples_that_do_not_fit_together() -> None:
    class Uneven(Dataset[Any]):
        def __len__(self) -> int:
            return 24

        def __getitem__(self, index: int) -> Any:
            return {"x": X[index], "all": X[: 1 + index % 2]}, Y[index]

    class First(Classifier):
        def forward(self, batch: Any) -> Tensor:
            return self.net(batch["x"])

    def collate(samples: list[Any]) -> Any:
        inputs, targets = zip(*samples, strict=True)
        parts = {"x": torch.stack([i["x"] for i in inputs]), "all": torch.cat([i["all"] for i in inputs])}
        return parts, torch.stack(targets)

    monitor = ComplexityMonitor(["MarginPercentile", "GradientNorm"])
    module = First(mlp(4, 3))
    trainer(callbacks=[monitor]).fit(module, DataLoader(Uneven(), batch_size=8, collate_fn=collate))
    loss = F.cross_entropy(module.net(X), Y)
    gradient = torch.autograd.grad(loss, list(module.parameters()))
    last = monitor.history[-1].values
    assert last["probe/train_loss"] == pytest.approx(loss.item())
    assert last["complexity/gradient_norm"] == pytest.approx(torch.cat([g.flatten() for g in gradient]).norm().item())
    assert "complexity/margin_percentile" in last


def test_a_record_that_cannot_be_written(tmp_path: Path) -> None:
    logger = TensorBoardLogger(tmp_path)
    (Path(logger.log_dir) / "complexity.jsonl").mkdir(parents=True)
    monitor = ComplexityMonitor("fast")
    with pytest.warns(UserWarning, match="could not write its record.*Is a directory") as caught:
        trainer(callbacks=[monitor], logger=logger).fit(Classifier(mlp(4, 3)), loader())
    assert len([w for w in caught if "record" in str(w.message)]) == 1
    assert len(monitor.history) == 3


def test_forward_that_is_not_written() -> None:
    class NoForward(Classifier):
        forward = nn.Module.forward

        def training_step(self, batch: Any) -> Tensor:
            return F.cross_entropy(self.net(batch[0]), batch[1])

    values, left_out, _ = watched(NoForward(mlp(4, 3)))
    assert not {"jacobian_norm", "margin_percentile", "hessian_trace", "log_path_norm"} & left_out.keys()
    assert {"probe/train_accuracy", "complexity/stable_rank"} <= values.keys()


def test_on_error_raise_stops_the_run() -> None:
    monitor = ComplexityMonitor(["PathNorm"], on_error="raise")
    with pytest.raises(ValueError, match="operation 'tanh'"):
        trainer(callbacks=[monitor]).fit(Classifier(nn.Sequential(nn.Linear(4, 3), nn.Tanh())), loader())


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"metrics": ["StabelRank"]}, ValueError, r"no metric 'StabelRank'. Did you mean 'StableRank'"),
        ({"metrics": "standrad"}, ValueError, "Did you mean 'standard'"),
        ({"metrics": ["zzzz"]}, ValueError, "there is no metric 'zzzz'. `lightning-complexity list` shows all"),
        ({"metrics": [3]}, TypeError, r"must be a ComplexityMetric such as metrics.PathNorm\(\), or its name, got 3"),
        ({"metrics": [metrics.PathNorm]}, TypeError, r"not a class; write PathNorm\(\)"),
        (
            {"metrics": ["PathNorm", metrics.PathNorm(q=1)]},
            ValueError,
            "two metrics would be logged as 'log_path_norm'",
        ),
        ({"metrics": []}, ValueError, "needs at least one metric"),
        ({"every_n_steps": 0}, ValueError, "every_n_steps must be a whole number of at least 1, or None, got 0"),
        ({"every_n_epochs": 0.5}, ValueError, "every_n_epochs must be a whole number"),
        ({"budget": 0}, ValueError, "budget must be a positive share"),
        ({"on_error": "ignore"}, ValueError, 'on_error must be "warn" or "raise"'),
    ],
    ids=str,
)
def test_impossible_options_are_refused_at_once(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ComplexityMonitor(**options)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: ComplexityPenalty(), ValueError, "needs a regularizer, such as"),
        (lambda: ComplexityPenalty(metrics.PathNorm()), TypeError, "takes regularizers such as"),
        (
            lambda: ComplexityPenalty(regularizers.PathNorm(), regularizers.PathNorm(q=1)),
            ValueError,
            "two penalties would be logged under the same name",
        ),
    ],
)
def test_impossible_penalties_are_refused_at_once(make: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        make()
