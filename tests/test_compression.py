"""Codes and the bounds that rest on them: against a coder step by step, all sequences of a tiny length, and by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from lightning_complexity.functional import adaptive_code_length, occam_bound
from lightning_complexity.metrics import CompressionBound, PACBayesBound
from lightning_complexity.network import initial_state
from tests.networks import mlp


def bits_step_by_step(symbols: list[int], levels: int) -> float:
    """What a coder spends that gives each symbol its share of those before, one more of each."""
    seen, bits = [1] * levels, 0.0
    for symbol in symbols:
        bits -= math.log2(seen[symbol] / sum(seen))
        seen[symbol] += 1
    return bits


@pytest.mark.parametrize("levels", [2, 3, 7])
@pytest.mark.parametrize("length", [0, 1, 50])
def test_the_code_is_as_long_as_a_coder_s(levels: int, length: int) -> None:
    symbols = np.random.default_rng(0).integers(0, levels, length).tolist()
    counts = torch.bincount(torch.tensor(symbols, dtype=torch.long), minlength=levels)
    assert adaptive_code_length(counts).item() == pytest.approx(bits_step_by_step(symbols, levels))


def test_the_codes_of_all_sequences_fill_the_tree() -> None:
    sequences = list(itertools.product(range(3), repeat=5))
    counts = torch.stack([torch.bincount(torch.tensor(one), minlength=3) for one in sequences])
    assert (2.0 ** -adaptive_code_length(counts)).sum().item() == pytest.approx(1)


@pytest.mark.parametrize("error", [0.0, 0.1, 0.6])
def test_occam_s_bound_by_a_root_finder_and_by_hand(error: float) -> None:
    complexity = (40 * math.log(2) + math.log(1 / 0.05)) / 200

    def excess(p: float) -> float:
        return (
            (error * math.log(error / p) if error else 0) + (1 - error) * math.log((1 - error) / (1 - p)) - complexity
        )

    arguments = torch.tensor(error), torch.tensor(40.0), 200
    tight, loose = occam_bound(*arguments), occam_bound(*arguments, form="hoeffding")
    assert tight.item() == pytest.approx(brentq(excess, max(error, 1e-300), 1 - 1e-12))
    assert loose.item() == pytest.approx(error + math.sqrt(complexity / 2))
    assert tight <= loose


def samples() -> tuple[Tensor, Tensor]:
    """Two classes that one entry tells apart, most of them."""
    x = torch.randn(2000, 3)
    return x, (x[:, 0] + 0.1 * torch.randn(2000) > 0).long()


def trained(x: Tensor, y: Tensor) -> tuple[nn.Module, dict[str, Tensor]]:
    net = mlp(3, 4, 2)
    start = initial_state(net)
    optimizer = torch.optim.SGD(net.parameters(), 0.5)
    for _ in range(60):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net(x), y).backward()
        optimizer.step()
    return net, start


def by_hand(net: nn.Module, start: dict[str, Tensor], x: Tensor, y: Tensor, levels: int, choices: int) -> tuple:
    """Bits and error of the rounded network."""
    half, bits, rounded = levels // 2, math.log2(choices), {}
    for name, p in net.named_parameters():
        moved = (p.detach() - start[name]).numpy()
        spacing = float(np.float32(np.abs(moved).max() / half))
        places = np.clip(np.rint(moved / spacing), -half, half).astype(int)
        bits += 32 + bits_step_by_step((places + half).ravel().tolist(), levels)
        rounded[name] = start[name] + torch.tensor(spacing * places)
    predicted = torch.func.functional_call(net, rounded, x).argmax(1)
    return bits, (predicted != y).double().mean().item()


@pytest.mark.parametrize("form", ["kl", "hoeffding"])
def test_the_bound_is_the_best_of_all_levels_by_hand(form: str) -> None:
    x, y = samples()
    net, start = trained(x, y)
    choices = (33, 3, 9)
    metric = CompressionBound(levels=choices, form=form, delta=0.01)  # type: ignore[arg-type]
    metric.update(net, x, y, initial=start)
    bounds = {}
    for levels in choices:
        bits, error = by_hand(net, start, x, y, levels, len(choices))
        numbers = torch.tensor(error), torch.tensor(bits)
        bounds[float(occam_bound(*numbers, len(x), delta=0.01, form=form))] = bits, error, levels  # type: ignore[arg-type]
    best = min(bounds)
    assert best < 0.5
    assert metric.compute().item() == pytest.approx(best)
    found = [metric.details()[ending].item() for ending in ("bits", "error", "levels")]
    assert found == pytest.approx(bounds[best])


def test_it_holds_where_it_can_be_counted() -> None:
    """Over samples of two hundred, the network is chosen on each; the error on all is known."""
    violated = 0
    for seed in range(15):
        torch.manual_seed(seed)
        x, y = samples()
        net, start = trained(x[:200], y[:200])
        metric = CompressionBound(levels=[5], delta=0.5)
        metric.update(net, x[:200], y[:200], initial=start)
        _, error = by_hand(net, start, x, y, 5, 1)
        violated += metric.compute().item() < error
    assert violated == 0


def test_a_network_that_did_not_move_costs_its_scales_and_zeros() -> None:
    x, y = samples()
    net = mlp(3, 4, 2)
    metric = CompressionBound(levels=[3])
    metric.update(net, x, y, initial=initial_state(net))
    zeros = sum(math.log2((p.numel() + 1) * (p.numel() + 2) / 2) for p in net.parameters())
    assert metric.report()["compression_bound/bits"].item() == pytest.approx(4 * 32 + zeros)
    assert metric.report()["compression_bound/error"].item() == pytest.approx((net(x).argmax(1) != y).double().mean())


def test_few_samples_say_nothing_but_the_bits() -> None:
    x, y = samples()
    net, start = trained(x, y)
    metric = CompressionBound()
    metric.update(net, x[:5], y[:5], initial=start)
    assert metric.compute().item() == pytest.approx(1, abs=1e-6)
    assert metric.details()["levels"] == 3
    metric = CompressionBound(form="hoeffding")
    metric.update(net, x[:5], y[:5], initial=start)
    assert metric.compute() == 1


def test_weights_that_are_not_finite_have_no_code() -> None:
    x, y = samples()
    net, start = trained(x, y)
    next(net.parameters()).data[0, 0] = math.inf
    metric = CompressionBound()
    metric.update(net, x, y, initial=start)
    assert metric.compute().isnan()
    assert all(value.isnan() for value in metric.details().values())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"levels": []}, "levels must be odd"),
        ({"levels": [4]}, "levels must be odd"),
        ({"levels": [1]}, "levels must be odd"),
        ({"levels": [3.0]}, "levels must be odd"),
        ({"delta": 0}, "delta"),
        ({"num_samples": 0}, "num_samples"),
        ({"form": "chernoff"}, "form must be one of kl, hoeffding"),
    ],
)
def test_options_that_make_no_sense(options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        CompressionBound(**options)
    if "form" in options:
        with pytest.raises(ValueError, match=message):
            occam_bound(torch.tensor(0.1), torch.tensor(1.0), 5, **options)


@pytest.mark.parametrize("kind", [CompressionBound, PACBayesBound])
def test_samples_whose_class_the_loss_ignores_prove_nothing(kind: type[CompressionBound | PACBayesBound]) -> None:
    net = nn.Linear(3, 3)
    start = initial_state(net)
    with torch.no_grad():
        net.weight.add_(torch.eye(3))
    x = torch.randn(400, 3)
    y = x.argmax(1)
    ignored = torch.cat([y[:100], torch.full((300,), -100)])
    some, all_of_them = kind(), kind()
    some.update(net, x[:100], y[:100], initial=start)
    all_of_them.update(net, x, ignored, initial=start)
    assert all_of_them.compute() == pytest.approx(some.compute().item())
    with_more = kind(num_samples=4000)
    with_more.update(net, x, ignored, initial=start)
    assert with_more.compute() < some.compute()
