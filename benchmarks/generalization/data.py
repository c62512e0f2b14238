"""Data of the study: small training sets, with the same share of wrong labels in training and validation."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from sklearn.datasets import load_digits
from torch import Tensor

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist"
MNIST_FILES = tuple(f"{part}-{kind}-ubyte.gz" for part in ("train", "t10k") for kind in ("images-idx3", "labels-idx1"))
CLASSES = 10


class Samples(NamedTuple):
    """Inputs and their labels."""

    inputs: Tensor
    labels: Tensor


class Split(NamedTuple):
    """What one run sees; the labels of the test set are never noisy."""

    train: Samples
    validation: Samples
    test: Samples


class Problem(NamedTuple):
    """A data set and the sizes of what is drawn from it."""

    load: Callable[[], tuple[Samples, Samples | None]]
    train: int
    validation: int
    test: int


def missing_files() -> list[str]:
    """Files of MNIST that are needed and not there."""
    return [name for name in MNIST_FILES if not (MNIST / name).is_file()]


def read_idx(path: Path) -> Tensor:
    """The array of bytes in a compressed IDX file."""
    content = gzip.decompress(path.read_bytes())
    shape = np.frombuffer(content, ">i4", count=content[3], offset=4)
    return torch.tensor(np.frombuffer(content, np.uint8, offset=4 + 4 * len(shape)).reshape(tuple(shape)))


@cache
def _digits() -> tuple[Samples, None]:
    data = load_digits()
    return Samples(torch.tensor(data.data).float() / 16, torch.tensor(data.target)), None


@cache
def _mnist() -> tuple[Samples, Samples]:
    arrays = [read_idx(MNIST / name) for name in MNIST_FILES]
    pool, test = (Samples(x.flatten(1).float() / 255, y.long()) for x, y in (arrays[:2], arrays[2:]))
    return pool, test


PROBLEMS = {"digits": Problem(_digits, 200, 500, 1097), "MNIST": Problem(_mnist, 500, 1000, 10_000)}


def flipped(labels: Tensor, noise: float, generator: torch.Generator) -> Tensor:
    """Labels of which the share ``noise`` are other ones, each of the others as likely."""
    rows = torch.randperm(len(labels), generator=generator)[: round(noise * len(labels))]
    shifts = torch.randint(1, CLASSES, (len(rows),), generator=generator)
    result = labels.clone()
    result[rows] = (labels[rows] + shifts) % CLASSES
    return result


def split(data: str, noise: float, seed: int) -> Split:
    """Draw training and validation set, both with noisy labels; the test set is the data's own, or all the rest."""
    problem, generator = PROBLEMS[data], torch.Generator().manual_seed(seed)
    pool, test = problem.load()
    order = torch.randperm(len(pool.labels), generator=generator)
    train, validation, rest = (
        Samples(pool.inputs[rows], pool.labels[rows])
        for rows in order.tensor_split([problem.train, problem.train + problem.validation])
    )
    noisy = [Samples(part.inputs, flipped(part.labels, noise, generator)) for part in (train, validation)]
    return Split(*noisy, test or rest)
