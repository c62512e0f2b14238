"""Data of studies: what is there without a download, files by path, and labels that are made wrong."""

from __future__ import annotations

import gzip
import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_NUM_TRAIN_DIGITS = 1437
_IDX_BYTES = 8  # the type code of unsigned bytes, the only one that image files have


@dataclass(frozen=True)
class Data:
    """Samples for training and for testing, in memory.

    Attributes:
        name: What a result says that it was trained on.
        x_train: Inputs, shape ``(n, d)``.
        y_train: Classes, shape ``(n,)``.
        x_test: Inputs that are not trained on.
        y_test: Their classes.
    """

    name: str
    x_train: Tensor
    y_train: Tensor
    x_test: Tensor
    y_test: Tensor

    @property
    def num_classes(self) -> int:
        """Number of classes."""
        return int(torch.cat([self.y_train, self.y_test]).max()) + 1

    def __len__(self) -> int:
        """Number of samples that can be trained on."""
        return len(self.y_train)


def load_data(source: str | Path) -> Data:
    """The data of a study.

    Args:
        source: ``"digits"``, scikit-learn's 1,797 handwritten digits of 8 x 8 pixels; or a folder with the four files
            of MNIST or of a data set in its format, ``train-images-idx3-ubyte``, ``train-labels-idx1-ubyte``,
            ``t10k-images-idx3-ubyte`` and ``t10k-labels-idx1-ubyte``, each with ``.gz`` or without.

    Returns:
        Inputs between 0 and 1, flattened.

    Raises:
        ImportError: For digits, without scikit-learn.
        FileNotFoundError: If there is no such folder, or a file is missing in it.
        ValueError: If a file is not in that format.
    """
    if str(source) == "digits":
        return _digits()
    folder = Path(source)
    if not folder.is_dir():
        raise FileNotFoundError(
            f'there is no data {str(source)!r}: give "digits", or a folder with the four IDX files of MNIST.'
        )
    x_train, y_train = _images_and_labels(folder, "train")
    x_test, y_test = _images_and_labels(folder, "t10k")
    if x_train.shape[1] != x_test.shape[1]:
        raise ValueError(
            f"images for training have {x_train.shape[1]} pixels and those for testing {x_test.shape[1]}, in {folder}."
        )
    return Data(folder.resolve().name, x_train, y_train, x_test, y_test)


def _digits() -> Data:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError("digits need scikit-learn: pip install lightning-complexity[studies]") from error
    images, labels = load_digits(return_X_y=True)
    x, y = torch.tensor(images / 16, dtype=torch.float32), torch.tensor(labels, dtype=torch.int64)
    order = torch.randperm(len(y), generator=torch.Generator().manual_seed(0))
    train, test = order[:_NUM_TRAIN_DIGITS], order[_NUM_TRAIN_DIGITS:]
    return Data("digits", x[train], y[train], x[test], y[test])


def read_idx(path: Path) -> NDArray[np.uint8]:
    """Read a file of unsigned bytes in the IDX format, compressed with gzip or not.

    Args:
        path: The file.

    Returns:
        The array, of as many dimensions as the file says.

    Raises:
        ValueError: If the file is not in that format, or is cut short.
    """
    content = path.read_bytes()
    if content[:2] == b"\x1f\x8b":
        try:
            content = gzip.decompress(content)
        except (OSError, EOFError) as error:
            raise ValueError(f"{path} cannot be decompressed: {error}.") from error
    if len(content) < 4 or content[:2] != b"\0\0" or content[2] != _IDX_BYTES:
        raise ValueError(f"{path} is not an IDX file of unsigned bytes: it starts with {content[:4].hex(' ') or '-'}.")
    start = 4 + 4 * content[3]
    if len(content) < start:
        raise ValueError(f"{path} is cut short: it ends in its header.")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    values = np.frombuffer(content, dtype=np.uint8, offset=start)
    if values.size != np.prod(shape, dtype=np.int64):
        raise ValueError(f"{path} has {values.size} values, but its header says {' x '.join(map(str, shape))}.")
    return values.reshape(shape)


def _images_and_labels(folder: Path, part: str) -> tuple[Tensor, Tensor]:
    image_file, label_file = _file(folder, f"{part}-images-idx3-ubyte"), _file(folder, f"{part}-labels-idx1-ubyte")
    images, labels = read_idx(image_file), read_idx(label_file)
    if images.ndim < 2 or labels.ndim != 1 or len(images) != len(labels) or not len(labels):
        raise ValueError(
            f"{image_file} has the shape {images.shape} and {label_file} {labels.shape}; as many images as labels are "
            "needed, at least one."
        )
    pixels = torch.from_numpy(images.reshape(len(images), -1).astype(np.float32) / 255)
    return pixels, torch.from_numpy(labels.astype(np.int64))


def _file(folder: Path, name: str) -> Path:
    for candidate in (folder / name, folder / f"{name}.gz"):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(f"there is neither {name} nor {name}.gz in {folder}.")


def training_samples(
    data: Data, *, num_samples: int | None = None, label_noise: float = 0.0, num_confused: int = 0, seed: int = 0
) -> tuple[Tensor, Tensor]:
    """Choose samples to train on, some with labels that say nothing or something false.

    With the same seed a smaller choice is a part of a larger one, and labels that are random at a share of noise are so
    at any higher share.

    Args:
        data: What to choose from.
        num_samples: How many; all that are left by ``num_confused`` with ``None``.
        label_noise: Share of them whose class is drawn at random, from all classes; with 1 labels are random.
        num_confused: How many further samples, each with a class drawn from those that it does not have.
        seed: Of all that.

    Returns:
        Inputs and classes of ``num_samples + num_confused`` samples.

    Raises:
        ValueError: If there are not as many samples.
    """
    size = len(data) - num_confused if num_samples is None else num_samples
    if size < 1 or size + num_confused > len(data):
        raise ValueError(
            f"{data.name} has {len(data)} samples to train on, but {size} and {num_confused} confused ones were asked "
            "for; lower num_samples or num_confused."
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=generator)
    # Confused samples come from the end, so that those with true labels are the same at every size of the confusion.
    chosen = torch.cat([order[:size], order[len(data) - num_confused :]])
    x, y = data.x_train[chosen], data.y_train[chosen].clone()
    random = torch.randint(0, data.num_classes, (len(data),), generator=generator)[:size]
    is_noisy = (torch.rand(len(data), generator=generator) < label_noise)[:size]
    y[:size] = torch.where(is_noisy, random, y[:size])
    shift = torch.randint(1, max(data.num_classes, 2), (len(data),), generator=generator)[len(data) - num_confused :]
    y[size:] = (y[size:] + shift) % data.num_classes
    return x, y
