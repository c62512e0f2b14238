"""Random numbers that belong to samples."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from lightning_complexity.functional import normal_by_sample, sample_keys

DTYPES = [
    *(torch.float16, torch.bfloat16, torch.float32, torch.float64),
    *(torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64, torch.bool),
]


def numbers(seed: int = 0, n: int = 400, size: int = 501, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    samples = torch.arange(n, dtype=torch.float32).unsqueeze(1)
    return normal_by_sample(sample_keys(samples, seed), (size,), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_moments_and_distribution(dtype: torch.dtype) -> None:
    flat = numbers(dtype=dtype).flatten().double().numpy()
    n = len(flat)
    for power, moment in ((1, 0.0), (2, 1.0), (3, 0.0), (4, 3.0)):
        error = (flat**power).std() / n**0.5
        assert abs((flat**power).mean() - moment) < 4 * error
    assert stats.kstest(flat, "norm").pvalue > 0.01
    assert np.abs(flat).max() > 4


def test_nothing_is_correlated() -> None:
    z = numbers().numpy()
    n, size = z.shape
    for rows, count in ((z, size), (z.T, n)):
        correlations = np.corrcoef(rows)[np.triu_indices(len(rows), 1)] * count**0.5
        assert abs(correlations.mean()) < 4 / len(correlations) ** 0.5
        assert correlations.std() == pytest.approx(1, abs=0.05)
        assert np.abs(correlations).max() < 6.5
    for other in (numbers(1), numbers(2**40)):
        assert abs((z * other.numpy()).mean()) < 4 / z.size**0.5


def test_neighbours_in_a_pair_are_independent() -> None:
    z = numbers().numpy()
    first, second = z[:, :251], np.c_[z[:, 251:], np.zeros(len(z))]
    assert abs((first**2 * second**2)[:, :250].mean() - 1) < 4 * 3 / (250 * len(z)) ** 0.5


@pytest.mark.parametrize("dtype", DTYPES)
def test_keys_follow_the_sample(dtype: torch.dtype) -> None:
    samples = torch.randint(0, 2, (40, 3, 12), generator=torch.Generator().manual_seed(0)).to(dtype)
    samples[7] = samples[3]
    keys = sample_keys(samples, seed=5)
    assert keys.dtype == torch.int64
    assert keys[7] == keys[3]
    assert len(keys.unique()) == 39
    order = torch.randperm(40)
    assert torch.equal(sample_keys(samples[order], seed=5), keys[order])
    assert torch.equal(torch.cat([sample_keys(part, seed=5) for part in samples.split(7)]), keys)
    turned = samples.transpose(1, 2).contiguous().transpose(1, 2)
    assert not turned.is_contiguous()
    assert torch.equal(sample_keys(turned, seed=5), keys)
    assert not set(sample_keys(samples, seed=6).tolist()) & set(keys.tolist())


def test_keys_of_samples_with_few_bits_spread() -> None:
    corners = torch.cartesian_prod(*[torch.tensor([0.0, 1.0])] * 12)  # whose lower bits are all zero
    for dtype in (torch.float32, torch.float64):
        keys = sample_keys(corners.to(dtype), seed=0)
        for part in (keys & 0xFFFFFFFF, keys >> 32 & 0xFFFFFFFF):
            assert len(part.unique()) >= 4094
            assert stats.kstest(part.numpy() / 2**32, "uniform").pvalue > 0.01


def test_numbers_do_not_depend_on_the_batch_or_the_type() -> None:
    keys = sample_keys(torch.randn(30, 4), seed=0)
    whole = normal_by_sample(keys, (2, 5), torch.float64)
    assert whole.shape == (30, 2, 5)
    assert torch.equal(torch.cat([normal_by_sample(k, (2, 5), torch.float64) for k in keys.split(7)]), whole)
    torch.testing.assert_close(normal_by_sample(keys, (2, 5), torch.float32), whole.float(), rtol=1e-4, atol=1e-5)
    assert normal_by_sample(keys, (), torch.bfloat16).shape == (30,)
    assert normal_by_sample(keys[:0], (3,), torch.float32).shape == (0, 3)


def test_drawing_leaves_the_random_state_alone() -> None:
    before = torch.get_rng_state()
    numbers()
    assert torch.equal(torch.get_rng_state(), before)


def test_complex_samples_are_refused() -> None:
    with pytest.raises(TypeError, match=r"got torch.complex128; pass torch.view_as_real"):
        sample_keys(torch.zeros(2, 2, dtype=torch.complex128), seed=0)


def test_all_bits_of_a_key_count() -> None:
    keys = torch.tensor([0, 1, 1 << 31, 1 << 32, 1 << 63 - 1])
    drawn = normal_by_sample(keys, (100,), torch.float64)
    assert (torch.cdist(drawn, drawn) + 100 * torch.eye(5) > 10).all()
