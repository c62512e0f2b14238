"""Learning curves of a pool of networks, on which searches with early stopping are replayed.

    python -m benchmarks.early_curves digits --output early/digits.npz
    python -m benchmarks.early_curves MNIST_FOLDER --output early/mnist.npz
    python -m benchmarks.early_curves TEACHER_FOLDER --output early/teacher.npz   # see docs/early-verdict.md

Fully connected networks with settings drawn at random, each trained twice, for 30 epochs; error and loss on samples
held out after each, and the measures of the standard suite after a tenth. Five to ten minutes of one core each.
"""

from __future__ import annotations

import argparse
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.metrics.catalogue import resolve
from lightning_complexity.network import Snapshot
from lightning_complexity.studies.training.data import Data, load_data
from lightning_complexity.studies.training.networks import perceptron

EPOCHS = 30
MEASURED_AFTER = 3
MEASURES = (
    *("ParameterNorm", "LogSpectralProduct", "StableRank", "PathNorm"),
    *("MarginPercentile", "GeometricComplexity", "JacobianNorm"),
)
TO_TRAIN_ON, TO_CHOOSE_BY, TO_TEST_ON = 600, 400, 2000


def drawn_settings(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Settings at random, all different."""
    random = np.random.default_rng(seed)

    def log(low: float, high: float) -> float:
        return float(np.exp(random.uniform(np.log(low), np.log(high))))

    return [
        {
            "width": round(log(4, 256)),
            "depth": int(random.integers(1, 4)),
            "learning_rate": log(1e-4, 1e-1),
            "batch_size": int(random.choice([16, 32, 64, 128])),
            "weight_decay": log(1e-6, 1e-1),
            "dropout": float(random.uniform(0, 0.5)),
            "optimizer": str(random.choice(["sgd", "adam"])),
        }
        for _ in range(count)
    ]


def split(data: Data) -> list[tuple[Tensor, Tensor]]:
    """Samples to train on, to choose by, and to test on."""
    x, y = torch.cat([data.x_train, data.x_test]), torch.cat([data.y_train, data.y_test])
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    parts = order[: TO_TRAIN_ON + TO_CHOOSE_BY + TO_TEST_ON].tensor_split([TO_TRAIN_ON, TO_TRAIN_ON + TO_CHOOSE_BY])
    return [(x[part].flatten(1).float(), y[part]) for part in parts]


def train(
    setting: dict[str, Any], parts: list[tuple[Tensor, Tensor]], seed: int
) -> tuple[np.ndarray, np.ndarray, float, int]:
    """Losses and error after each epoch, shape ``(epochs, 3)``; measures; final test error; number of parameters."""
    torch.manual_seed(seed)
    (x, y), validation, test = parts
    sizes = [x.shape[1], *[setting["width"]] * setting["depth"], 10]
    net = perceptron(sizes, dropout=setting["dropout"])
    decay, rate = setting["weight_decay"], setting["learning_rate"]
    if setting["optimizer"] == "adam":
        optimizer: torch.optim.Optimizer = torch.optim.AdamW(net.parameters(), lr=rate, weight_decay=decay)
    else:
        optimizer = torch.optim.SGD(net.parameters(), lr=rate, momentum=0.9, weight_decay=decay)
    curve, measures = [], np.full(len(MEASURES), np.nan)
    for epoch in range(1, EPOCHS + 1):
        net.train()
        total = 0.0
        for rows in torch.randperm(len(y)).split(setting["batch_size"]):
            loss = F.cross_entropy(net(x[rows]), y[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item() * len(rows)
        net.eval()
        with torch.no_grad():
            outputs = net(validation[0])
        curve.append([total / len(y), F.cross_entropy(outputs, validation[1]).item(), wrong(outputs, validation[1])])
        if not np.isfinite(curve[-1][:2]).all():
            curve += [[np.nan, np.nan, 1.0]] * (EPOCHS - epoch)
            break
        if epoch == MEASURED_AFTER:
            state = torch.get_rng_state()
            measures = measured(net, x[:64], y[:64])
            torch.set_rng_state(state)
    with torch.no_grad():
        tested = wrong(net(test[0]), test[1])
    return np.array(curve), measures, tested, sum(p.numel() for p in net.parameters())


def wrong(outputs: Tensor, classes: Tensor) -> float:
    """The error; one for outputs that are not numbers."""
    return (outputs.argmax(1) != classes).double().mean().item() if outputs.isfinite().all() else 1.0


def measured(net: nn.Module, x: Tensor, y: Tensor) -> np.ndarray:
    """Measures of complexity of a network."""
    snapshot, found = Snapshot(net, x, targets=y), []
    for metric in resolve(MEASURES):
        metric.update(snapshot)
        found.append(float(metric.compute()))
    return np.array(found)


def main() -> None:
    """Train the pool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="digits, or a folder of MNIST's files")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--configurations", type=int, default=300)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    data = load_data(arguments.data)
    parts, settings = split(data), drawn_settings(arguments.configurations)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    curves, measures, errors, parameters = [], [], [], []
    for number, setting in enumerate(settings):
        runs = [train(setting, parts, seed) for seed in range(2)]
        curves.append([run[0] for run in runs])
        measures.append([run[1] for run in runs])
        errors.append([run[2] for run in runs])
        parameters.append(runs[0][3])
        if number % 20 == 19 or number == len(settings) - 1:  # so that one can look before the end
            print(f"{number + 1} of {len(settings)} configurations, {time.perf_counter() - started:.0f} s", flush=True)
            np.savez_compressed(
                arguments.output,
                curves=np.array(curves, dtype=np.float32),
                measures=np.array(measures, dtype=np.float32),
                measure_names=np.array(MEASURES),
                test_errors=np.array(errors),
                parameters=np.array(parameters),
                **{name: np.array([setting[name] for setting in settings[: number + 1]]) for name in settings[0]},
            )


if __name__ == "__main__":
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        main()
