"""Networks whose outcome is to be predicted from a tenth of their training."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

from tqdm import tqdm

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.studies.training.data import Data
from lightning_complexity.studies.training.runs import RESULT_NAME, train
from lightning_complexity.studies.training.settings import Moments, Setting, Stop

WIDTHS, LEARNING_RATES, LABEL_NOISE = (16, 64, 256), (0.01, 0.05), (0.0, 0.2)
EPOCHS = 30
SHARE = 0.1
_BATCH_SIZE = 32
_NEVER = 1e-12  # a loss that is not reached: all networks train for as many epochs


def design(data: Data, num_seeds: int, *, quick: bool = False) -> list[Setting]:
    """A grid of width, number of samples, learning rate and label noise, with momentum.

    Args:
        data: Decides how many samples there can be: 200, 500 and 1000, or a fifth, a half and all of fewer.
        num_seeds: Networks of each configuration.
        quick: Twelve configurations of small networks, for a check that everything works.

    Raises:
        ValueError: If the data have fewer than ten samples, or there is no seed.
    """
    if num_seeds < 1:
        raise ValueError(f"num_seeds must be at least 1, got {num_seeds}.")
    most = min(len(data), 200 if quick else 1000)
    if most < 10:
        raise ValueError(f"{data.name} has {len(data)} samples to train on; at least 10 are needed.")
    sizes = [most // 5, most // 2, most]
    widths = WIDTHS[:2] if quick else WIDTHS
    rates = LEARNING_RATES[1:] if quick else LEARNING_RATES
    return [
        Setting(
            width=width,
            num_samples=size,
            learning_rate=rate,
            label_noise=noise,
            seed=seed,
            optimizer="momentum",
            batch_size=_BATCH_SIZE,
        )
        for seed, width, size, rate, noise in product(range(num_seeds), widths, sizes, rates, LABEL_NOISE)
    ]


def train_networks(
    settings: Sequence[Setting],
    data: Data,
    folder: Path,
    metrics: Sequence[str | ComplexityMetric],
    *,
    epochs: int = EPOCHS,
    share: float = SHARE,
) -> None:
    """Train networks for as many epochs each, measured at a share of them; those that are finished are not again.

    Args:
        settings: Of the networks.
        data: What to train on.
        folder: Gets a folder for each network.
        metrics: What to measure.
        epochs: How many.
        share: Of the training, at which to measure.

    Raises:
        ValueError: If a folder has the result of something else.
    """
    cases = [(setting, folder / _name(setting)) for setting in settings]
    finished = [case for case in cases if (case[1] / RESULT_NAME).exists()]
    cases = finished + [case for case in cases if case not in finished]
    moments = Moments(steps=(), losses=(), share=share)
    with tqdm(desc="early", unit="network", initial=len(finished), total=len(cases), smoothing=0) as bar:
        for setting, place in cases:
            steps = epochs * -(-(setting.num_samples or len(data)) // setting.batch_size)
            train(setting, data, place, metrics=metrics, stop=Stop(loss=_NEVER, max_steps=steps), moments=moments)
            bar.update((setting, place) not in finished)


def _name(setting: Setting) -> str:
    return (
        f"width-{setting.width}-samples-{setting.num_samples}-rate-{setting.learning_rate:g}"
        f"-noise-{setting.label_noise:g}-seed-{setting.seed}"
    )
