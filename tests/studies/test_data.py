"""Data of studies."""

from __future__ import annotations

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from lightning_complexity.studies.training.data import Data, load_data, read_idx, training_samples


def write_idx(path: Path, values: np.ndarray, *, zipped: bool = False) -> None:
    content = struct.pack(f">BBBB{values.ndim}I", 0, 0, 8, values.ndim, *values.shape) + values.tobytes()
    path.write_bytes(gzip.compress(content) if zipped else content)


def write_images(folder: Path, *, zipped: bool = False) -> None:
    suffix = ".gz" if zipped else ""
    for part, size in (("train", 6), ("t10k", 3)):
        images = np.arange(size * 4, dtype=np.uint8).reshape(size, 2, 2)
        write_idx(folder / f"{part}-images-idx3-ubyte{suffix}", images, zipped=zipped)
        write_idx(folder / f"{part}-labels-idx1-ubyte{suffix}", np.arange(size, dtype=np.uint8) % 3, zipped=zipped)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_by_path(tmp_path: Path, zipped: bool) -> None:
    write_images(tmp_path, zipped=zipped)
    data = load_data(tmp_path)
    assert data.x_train.shape == (6, 4)
    assert data.x_train[1, 2] == pytest.approx(6 / 255)
    assert data.y_test.tolist() == [0, 1, 2]
    assert data.num_classes == 3
    assert data.name == tmp_path.name


def test_digits_are_split_without_overlap() -> None:
    data = load_data("digits")
    assert (len(data.y_train), len(data.y_test), data.x_train.shape[1], data.num_classes) == (1437, 360, 64, 10)
    assert 0 <= data.x_train.min() < data.x_train.max() <= 1


def test_errors_name_the_path(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r'no data .*nowhere.*: give "digits", or a folder'):
        load_data(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"neither train-images-idx3-ubyte nor train-images-idx3-ubyte\.gz"):
        load_data(tmp_path)
    write_images(tmp_path)
    images = tmp_path / "train-images-idx3-ubyte"
    whole = images.read_bytes()
    for content, message in (
        (b"<html>not found</html>", "is not an IDX file of unsigned bytes: it starts with 3c 68 74 6d"),
        (b"", "is not an IDX file"),
        (whole[:10], "ends in its header"),
        (whole[:-1], "has 23 values, but its header says 6 x 2 x 2"),
        (gzip.compress(whole)[:-9], "cannot be decompressed"),
    ):
        images.write_bytes(content)
        with pytest.raises(ValueError, match=message):
            load_data(tmp_path)
    write_idx(images, np.zeros((5, 2, 2), dtype=np.uint8))
    with pytest.raises(ValueError, match="as many images as labels"):
        load_data(tmp_path)


def test_a_scalar_or_empty_file_is_read_as_what_it_is(tmp_path: Path) -> None:
    write_idx(tmp_path / "empty", np.zeros((0, 2), dtype=np.uint8))
    assert read_idx(tmp_path / "empty").shape == (0, 2)


@pytest.fixture
def data() -> Data:
    x = torch.arange(100.0)[:, None]
    y = torch.arange(100) % 10
    return Data("numbers", x, y, x[:0], y[:0])


def test_smaller_choices_are_part_of_larger_ones(data: Data) -> None:
    small, large = (set(training_samples(data, num_samples=n, seed=1)[0].flatten().tolist()) for n in (20, 50))
    assert len(small) == 20
    assert small < large
    assert small != set(training_samples(data, num_samples=20, seed=2)[0].flatten().tolist())


def test_label_noise_is_a_share_of_random_classes(data: Data) -> None:
    x, clean = training_samples(data, seed=1)
    assert torch.equal(clean, x.flatten().long() % 10)
    half, random = (training_samples(data, label_noise=share, seed=1)[1] for share in (0.5, 1.0))
    assert 0.3 < float((half != clean).double().mean()) < 0.6
    assert 0.8 < float((random != clean).double().mean()) < 1
    changed = half != clean
    assert torch.equal(half[changed], random[changed])


def test_confused_samples_are_all_wrong_and_all_others_right(data: Data) -> None:
    x, y = training_samples(data, num_samples=30, num_confused=20, seed=1)
    right = y == x.flatten().long() % 10
    assert right[:30].all()
    assert not right[30:].any()
    assert len(set(x.flatten().tolist())) == 50
    fewer = training_samples(data, num_samples=30, num_confused=10, seed=1)[0]
    assert torch.equal(fewer[:30], x[:30])
    assert set(fewer[30:].flatten().tolist()) < set(x[30:].flatten().tolist())


def test_too_few_samples(data: Data) -> None:
    with pytest.raises(ValueError, match="numbers has 100 samples to train on, but 90 and 20 confused"):
        training_samples(data, num_samples=90, num_confused=20)
