"""How random a spectrum looks: against integrals, published numbers and matrices that are random."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch import nn

from lightning_complexity.functional import marchenko_pastur_median, marchenko_pastur_soft_rank
from lightning_complexity.metrics import MarchenkoPasturSoftRank


@pytest.mark.parametrize("ratio", [1.0, 0.5, 0.1, 1e-2, 1e-4])
def test_half_of_the_mass_is_below_the_median(ratio: float) -> None:
    low, high = (1 - math.sqrt(ratio)) ** 2, (1 + math.sqrt(ratio)) ** 2

    def density(x: float) -> float:
        return math.sqrt(max((high - x) * (x - low), 0)) / (2 * math.pi * ratio * x)

    mass, _ = quad(density, max(low, 1e-12), marchenko_pastur_median(ratio))
    assert mass == pytest.approx(0.5, abs=1e-5)


@pytest.mark.parametrize(("ratio", "published"), [(0.1, 1.6089), (0.5, 2.1711), (1.0, 2.8582)])
def test_the_median_gives_the_published_thresholds(ratio: float, published: float) -> None:
    """Gavish and Donoho, 2014: the optimal threshold over the median singular value."""
    root = math.sqrt(ratio**2 + 14 * ratio + 1)
    threshold = math.sqrt(2 * (ratio + 1) + 8 * ratio / (ratio + 1 + root))
    assert threshold / math.sqrt(marchenko_pastur_median(ratio)) == pytest.approx(published, abs=3e-4)


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.5, math.nan])
def test_a_ratio_that_no_matrix_has(ratio: float) -> None:
    with pytest.raises(ValueError, match="ratio must be above 0 and at most 1"):
        marchenko_pastur_median(ratio)


@pytest.mark.parametrize("variance", ["median", "entries"])
@pytest.mark.parametrize(("rows", "columns"), [(400, 400), (150, 600), (600, 150)])
def test_a_gaussian_matrix_is_about_one(rows: int, columns: int, variance: str) -> None:
    spectrum = torch.linalg.svdvals(3 * torch.randn(rows, columns))
    found = marchenko_pastur_soft_rank(spectrum, rows, columns, variance)  # type: ignore[arg-type]
    assert found.item() == pytest.approx(1, abs=0.04)


def test_a_strong_direction_lowers_it_by_its_strength() -> None:
    matrix = torch.randn(200, 400)
    matrix += 10 * (20 + math.sqrt(200)) * torch.ones(200, 1) @ torch.ones(1, 400) / math.sqrt(200 * 400)
    spectrum = torch.linalg.svdvals(matrix)
    edge = (20 + math.sqrt(200)) ** 2
    robust, plain = (marchenko_pastur_soft_rank(spectrum, 200, 400, v).item() for v in ("median", "entries"))
    assert robust == pytest.approx(edge / spectrum[0].item() ** 2, rel=0.02)
    assert plain == pytest.approx(edge * matrix.square().mean().item() / spectrum[0].item() ** 2)


def test_edges() -> None:
    assert marchenko_pastur_soft_rank(torch.zeros(4), 4, 5).isnan()
    assert marchenko_pastur_soft_rank(torch.tensor([1.0, 0.0, 0.0]), 3, 5) == 0
    assert marchenko_pastur_soft_rank(torch.tensor([2.0, math.nan]), 2, 2).isnan()
    with pytest.raises(ValueError, match="variance must be one of median, entries"):
        marchenko_pastur_soft_rank(torch.ones(2), 2, 2, "mean")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="variance must be one of median, entries"):
        MarchenkoPasturSoftRank("mean")  # type: ignore[arg-type]


def test_layers_have_their_own_shapes_and_groups_one_each() -> None:
    net = nn.Sequential(nn.Linear(30, 20), nn.Conv2d(8, 12, 3, groups=2))
    metric = MarchenkoPasturSoftRank(per_layer=True)
    metric.update(net)
    dense = np.linalg.svd(net[0].weight.detach().numpy(), compute_uv=False) ** 2
    groups = net[1].weight.detach().reshape(2, 6, 36).numpy()
    grouped = np.concatenate([np.linalg.svd(group, compute_uv=False) ** 2 for group in groups])
    expected = {}
    for name, eigenvalues, small, large in (("0.weight", dense, 20, 30), ("1.weight", grouped, 6, 36)):
        variance = np.median(eigenvalues) / large / marchenko_pastur_median(small / large)
        expected[name] = variance * (math.sqrt(small) + math.sqrt(large)) ** 2 / eigenvalues.max()
    found = {name: value.item() for name, value in metric.compute().items()}
    assert found == pytest.approx(expected)
    whole = MarchenkoPasturSoftRank("entries")
    whole.update(net)
    assert list(whole.report()) == ["marchenko_pastur_soft_rank_of_entries"]
    assert 0.3 < whole.compute() < 3
