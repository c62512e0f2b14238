"""Counts by hand and by closed forms."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrizations
from torch.utils.flop_counter import FlopCounterMode

from lightning_complexity.functional import convolutional_vc_dimension, piecewise_linear_vc_dimension
from lightning_complexity.metrics import (
    ActivationCount,
    FlopCount,
    ParameterCount,
    ParameterNorm,
    PeakActivationMemory,
    VCDimensionBound,
)
from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.network import NetworkError, Snapshot, UnsupportedOperationError
from tests.networks import conv_net, mlp

BYTES = 8  # of an entry in double precision


def value(metric: ComplexityMetric, model: nn.Module, inputs: Any = None) -> Any:
    metric.update(model, inputs)
    computed = metric.compute()
    return {k: v.item() for k, v in computed.items()} if isinstance(computed, dict) else computed.item()


def macs(model: nn.Module, inputs: Any) -> int:
    return value(FlopCount(of="macs"), model, inputs)


class Function(nn.Module):
    """A network that is a function, and its tensors."""

    def __init__(self, function: Callable[..., Tensor], *tensors: Tensor) -> None:
        super().__init__()
        self.function = function
        self.tensors = nn.ParameterList(tensors)

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x, *self.tensors)


# Parameters --------------------------------------------------------------------------------------


def test_biases_count_and_ties_count_once() -> None:
    assert value(ParameterCount(), nn.Linear(3, 2)) == 8
    tied = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    assert value(ParameterCount(), tied) == 9 + 3 + 3
    assert value(ParameterCount(), nn.Conv2d(4, 6, 3, groups=2, bias=False)) == 6 * 2 * 9
    assert value(ParameterCount(), nn.BatchNorm1d(5)) == 10


def test_frozen_parameters_can_be_left_out() -> None:
    model = nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    assert value(ParameterCount(of="trainable"), model) == 3
    assert value(ParameterCount(), model) == 11


def test_zeros_can_be_left_out() -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[0.0, -0.0, 1.0], [math.nan, 1e-300, -2.0]]))
        model.bias.zero_()
    assert value(ParameterCount(of="nonzero", per_layer=True), model) == {"weight": 4, "bias": 0}
    tied = nn.Sequential(model, nn.Linear(3, 2, bias=False))
    tied[1].weight = model.weight
    assert value(ParameterCount(of="nonzero"), tied) == 4


def test_a_network_without_parameters_has_none() -> None:
    assert value(ParameterCount(), nn.ReLU()) == 0
    assert value(ParameterNorm(), nn.ReLU()) == 0


@pytest.mark.parametrize("cls", [ParameterCount, FlopCount, ActivationCount, VCDimensionBound])
def test_each_choice_has_its_own_name_and_others_are_refused(cls: Any) -> None:
    choices = {
        ParameterCount: ["all", "trainable", "nonzero"],
        FlopCount: ["flops", "macs"],
        ActivationCount: ["convolutions", "all"],
        VCDimensionBound: ["piecewise_linear", "convolutional"],
    }[cls]
    names = [cls(of=of).name for of in choices]
    assert names[0] == cls.name
    assert len(set(names)) == len(names)
    with pytest.raises(ValueError, match=rf"of must be '{choices[0]}' or .*, got 'some'"):
        cls(of="some")


# Operations --------------------------------------------------------------------------------------

T, H, E = 7, 5, 8
"""Steps of a sequence, hidden units, width of attention."""

COUNTED: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], int]] = {
    "linear": (lambda: nn.Linear(4, 5), (4,), 4 * 5),
    "linear of a sequence": (lambda: nn.Linear(4, 5), (T, 4), T * 4 * 5),
    "one output": (lambda: nn.Linear(4, 1), (4,), 4),
    "mlp": (lambda: mlp(4, 5, 3), (4,), 4 * 5 + 5 * 3),
    "conv1d stride": (lambda: nn.Conv1d(2, 4, 3, stride=2), (2, 9), 4 * (2 * 4 * 3)),
    "conv2d groups": (lambda: nn.Conv2d(4, 6, 3, groups=2), (4, 9, 8), 7 * 6 * (2 * 6 * 9)),
    "conv2d depthwise": (lambda: nn.Conv2d(6, 6, 3, groups=6, padding=1), (6, 5, 5), 25 * 6 * 9),
    "conv2d padding counts": (lambda: nn.Conv2d(1, 1, 3, padding=1), (1, 2, 2), 4 * 9),
    "conv2d circular": (lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular"), (2, 5, 5), 25 * 2 * 3 * 9),
    "conv2d dilation": (lambda: nn.Conv2d(2, 3, 3, dilation=2), (2, 9, 9), 25 * 2 * 3 * 9),
    "conv3d": (lambda: nn.Conv3d(2, 3, (1, 2, 3)), (2, 4, 4, 4), 4 * 3 * 2 * (2 * 3 * 6)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5), 25 * (4 * 3 * 9)),
    "rnn": (lambda: nn.RNN(3, H, batch_first=True), (T, 3), T * H * (3 + H)),
    "lstm": (lambda: nn.LSTM(3, H, batch_first=True), (T, 3), T * 4 * H * (3 + H)),
    "lstm projected": (
        lambda: nn.LSTM(3, H, proj_size=2, batch_first=True),
        (T, 3),
        T * (4 * H * (3 + 2) + H * 2),
    ),
    "two lstms both ways": (
        lambda: nn.LSTM(3, H, num_layers=2, bidirectional=True, batch_first=True),
        (T, 3),
        T * 2 * 4 * H * (3 + H) + T * 2 * 4 * H * (2 * H + H),
    ),
    "gru": (lambda: nn.GRU(3, H, batch_first=True), (T, 3), T * 3 * H * (3 + H)),
    "lstm cell": (lambda: nn.LSTMCell(3, H), (3,), 4 * H * (3 + H)),
    "encoder layer": (
        lambda: nn.TransformerEncoderLayer(E, 2, 16, batch_first=True),
        (T, E),
        4 * T * E * E + 2 * T * T * E + 2 * T * E * 16,
    ),
    "sdpa": (lambda: Function(lambda x: F.scaled_dot_product_attention(x, x, x)), (2, T, E), 2 * 2 * T * T * E),
    "functional": (lambda: Function(F.linear, torch.ones(3, 4)), (4,), 12),
    "einsum": (lambda: Function(lambda x, w: torch.einsum("bi,ji->bj", x, w), torch.ones(3, 4)), (4,), 12),
    "matrix times vector": (lambda: Function(lambda x, w: (w @ x[0])[None], torch.ones(3, 4)), (4,), 12),
    "added to it": (
        lambda: Function(lambda x, w: torch.addmv(w[:, 0], w, x[0])[None], torch.ones(3, 4)),
        (4,),
        12,
    ),
    "dot": (lambda: Function(lambda x, w: torch.dot(x[0], w)[None], torch.ones(4)), (4,), 4),
    "bilinear": (lambda: nn.Bilinear(4, 4, 3), (4,), 3 * 4 * (4 + 1)),
    "conv_tbc": (
        lambda: Function(lambda x, w: torch.conv_tbc(x.transpose(0, 1), w, w.new_zeros(3)), torch.ones(2, 4, 3)),
        (T, 4),
        (T - 1) * 2 * 4 * 3,
    ),
    "twice the same": (lambda: nn.Sequential(*[nn.Linear(4, 4)] * 2), (4,), 2 * 16),
    "no products": (lambda: nn.Sequential(nn.BatchNorm1d(4), nn.ReLU(), nn.Softmax(1)), (4,), 0),
}


class Pair(nn.Module):
    def __init__(self, module: nn.Bilinear) -> None:
        super().__init__()
        self.module = module

    def forward(self, x: Tensor) -> Tensor:
        return self.module(x, x)


def counted(name: str) -> tuple[nn.Module, tuple[int, ...], int]:
    build, shape, expected = COUNTED[name]
    model = build()
    model = Pair(model) if isinstance(model, nn.Bilinear) else model
    return model.float(), shape, expected  # the fused kernels are for single precision


@pytest.mark.parametrize("name", COUNTED)
def test_multiply_accumulates_by_closed_form(name: str) -> None:
    model, shape, expected = counted(name)
    x = torch.randn(3, *shape).float()
    assert macs(model, x) == expected
    assert value(FlopCount(), model, x) == 2 * expected
    assert macs(model, x[:1]) == expected
    layers = value(FlopCount(of="macs", per_layer=True), model, x)
    assert sum(layers.values()) == expected


def test_multihead_attention_with_another_length_of_keys() -> None:
    class Cross(nn.Module):
        def __init__(self, need_weights: bool) -> None:
            super().__init__()
            self.need_weights = need_weights
            self.attention = nn.MultiheadAttention(E, 2, kdim=3, vdim=6, batch_first=True)

        def forward(self, x: tuple[Tensor, Tensor, Tensor]) -> Tensor:
            return self.attention(*x, need_weights=self.need_weights)[0]

    s = 4
    inputs = torch.randn(2, T, E), torch.randn(2, s, 3), torch.randn(2, s, 6)
    expected = T * E * E + s * 3 * E + s * 6 * E + 2 * T * s * E + T * E * E
    assert macs(Cross(True), inputs) == macs(Cross(False), inputs) == expected


@pytest.mark.parametrize("name", ["lstm", "encoder layer"])
def test_a_bare_counter_misses_what_is_fused(name: str) -> None:
    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no fused recurrent layers for the CPU")
    model, shape, _ = counted(name)
    with torch.no_grad(), FlopCounterMode(display=False) as bare:
        model.eval()(torch.randn(1, *shape).float())
    assert bare.get_total_flops() == 0, "if this fails, torch counts fused kernels by now, and tracing/costs.py can too"


def test_attention_is_counted_whatever_kernel_the_network_asks_for() -> None:
    def attend(x: Tensor) -> Tensor:
        with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
            return F.scaled_dot_product_attention(x, x, x)

    assert macs(Function(attend), torch.randn(1, 2, T, E)) == 2 * 2 * T * T * E


def test_a_fused_kernel_is_refused() -> None:
    class Fused(nn.LSTM):
        def forward(self, x: Tensor) -> Tensor:
            torch.backends.mkldnn.enabled = True
            return super().forward(x)[0]

    if not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no fused LSTM for the CPU")
    with pytest.raises(UnsupportedOperationError, match=r"FlopCount .* 'mkldnn_rnn_layer'.* module '0'"):
        macs(nn.Sequential(Fused(3, H, batch_first=True)).float(), torch.ones(1, T, 3).float())


def test_layers_are_the_innermost_modules() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            layer = nn.Linear(4, 4)
            self.first, self.second = nn.Sequential(layer), nn.Sequential(layer, nn.Linear(4, 2))

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(self.second(self.first(x)), torch.ones(3, 2))

    layers = value(FlopCount(of="macs", per_layer=True), Shared(), torch.randn(2, 4))
    assert layers == {"first.0": 32, "second.1": 8, "forward": 6}


def test_settings_are_as_before() -> None:
    def settings() -> tuple[bool, ...]:
        backends = torch.backends
        return backends.mkldnn.enabled, backends.cudnn.enabled, backends.mha.get_fastpath_enabled()

    before = settings()
    value(FlopCount(), mlp(3, 2), torch.ones(1, 3))
    assert settings() == before
    with pytest.raises(NetworkError):
        value(FlopCount(), mlp(3, 2), torch.ones(1, 4))
    assert settings() == before


def test_weights_that_are_computed_count_once() -> None:
    model = nn.Sequential(*[parametrizations.spectral_norm(nn.Linear(4, 5))] * 2, nn.Linear(5, 1))
    model[1] = nn.Linear(5, 5)
    assert macs(model, torch.ones(1, 4)) == 20 + 25 + 5 + (5 * 4 + 5)


def test_all_counts_come_from_one_pass() -> None:
    calls = []

    def forward(x: Tensor) -> Tensor:
        calls.append(len(x))
        return F.linear(x, torch.ones(3, 4))

    snapshot = Snapshot(nn.Sequential(Function(forward), nn.Linear(3, 1)), torch.randn(9, 4))
    for metric in (FlopCount(), ActivationCount(), PeakActivationMemory(), VCDimensionBound()):
        metric.update(snapshot)
    assert calls == [1]


def test_mappings_and_token_indices() -> None:
    class Bag(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embedding, self.head = nn.Embedding(10, 6), nn.Linear(6, 2)

        def forward(self, batch: dict[str, Tensor]) -> Tensor:
            return self.head(self.embedding(batch["tokens"]).mean(1))

    assert macs(Bag(), {"tokens": torch.zeros(3, 4, dtype=torch.long)}) == 12


# Activations -------------------------------------------------------------------------------------


def test_activations_are_outputs_of_convolutions() -> None:
    x = torch.randn(2, 2, 8, 8)
    assert value(ActivationCount(per_layer=True), conv_net(), x) == {"first": 4 * 64, "second": 4 * 64, "head": 0}
    assert value(ActivationCount(), conv_net(), x) == 512
    assert value(ActivationCount(of="all"), conv_net(), x) == 512 + 3
    transposed = nn.ConvTranspose1d(2, 3, 3, stride=2)
    assert value(ActivationCount(), transposed, torch.randn(2, 2, 5)) == 3 * 11
    assert value(ActivationCount(), Function(F.conv2d, torch.ones(4, 2, 3, 3)), x) == 4 * 36
    assert value(ActivationCount(), mlp(3, 4, 2), torch.ones(1, 3)) == 0


def test_activations_of_products() -> None:
    assert value(ActivationCount(of="all"), mlp(3, 4, 2), torch.ones(2, 3)) == 4 + 2
    lstm = nn.LSTM(3, H, batch_first=True)
    assert value(ActivationCount(of="all"), lstm, torch.ones(2, T, 3)) == 2 * T * 4 * H
    attention = Function(lambda x: F.scaled_dot_product_attention(x, x, x))
    assert value(ActivationCount(of="all"), attention, torch.ones(2, 3, T, E)) == 3 * T * T + 3 * T * E


# Memory ------------------------------------------------------------------------------------------


def peak(model: nn.Module, inputs: Any) -> float:
    return value(PeakActivationMemory(), model, inputs) / BYTES


def test_peak_memory_by_hand() -> None:
    x = torch.randn(6, 4)
    assert peak(nn.Linear(4, 5), x) == 4 + 5
    # The input stays; at the ReLU its argument and its result are there too, later one of them and the output.
    assert peak(mlp(4, 5, 3), x) == 4 + 5 + 5
    assert peak(nn.Sequential(nn.Linear(4, 5), nn.ReLU(inplace=True), nn.Linear(5, 3)), x) == 4 + 5 + 3
    # A chain needs no more for more layers.
    assert peak(mlp(4, 5, 5, 5, 5, 3), x) == 4 + 5 + 5
    # Views are the same memory.
    assert peak(nn.Sequential(nn.Linear(4, 6), nn.Unflatten(1, (2, 3)), nn.Flatten()), x) == 4 + 6


def test_what_a_forward_keeps_stays() -> None:
    layers = [nn.Linear(4, 4) for _ in range(5)]

    class Dense(nn.Module):
        def __init__(self, keep: bool) -> None:
            super().__init__()
            self.keep, self.layers = keep, nn.ModuleList(layers)

        def forward(self, x: Tensor) -> Tensor:
            kept = []
            for layer in self.layers:
                x = layer(x)
                kept = [*kept, x] if self.keep else []
            return x

    x = torch.randn(3, 4)
    assert peak(Dense(keep=False), x) == 4 + 4 + 4
    assert peak(Dense(keep=True), x) == 4 + 5 * 4


def test_peak_memory_of_attention_grows_with_its_scores() -> None:
    attention = Function(lambda x: F.scaled_dot_product_attention(x, x, x))
    sizes = [peak(attention, torch.randn(1, 1, t, 2)) for t in (64, 128)]
    assert 3.5 < sizes[1] / sizes[0] < 4


def test_peak_memory_is_that_of_one_sample_and_of_no_parameter() -> None:
    x = torch.randn(50, 2, 8, 8)
    assert peak(conv_net(), x) == peak(conv_net(), x[:1])
    # At the addition: input, the block's input, the normalized second convolution, their sum.
    assert peak(conv_net(), x) == 2 * 64 + 3 * 4 * 64
    assert peak(nn.Sequential(nn.Embedding(1000, 4)), torch.zeros(1, 3, dtype=torch.long)) == 3 + 3 * 4
    constant = torch.ones(1000)
    assert peak(Function(lambda x: x + constant.view(10, 100)[0, :4]), torch.ones(1, 4)) == 8


def test_peak_memory_in_single_precision_is_half() -> None:
    x = torch.randn(3, 4)
    assert peak(mlp(4, 5, 3).float(), x.float()) == 14 / 2
    assert peak(mlp(4, 5, 3).bfloat16(), x.bfloat16()) == 14 / 2


# VC dimension ------------------------------------------------------------------------------------


def two_layers(d: int, h: int, c: int) -> float:
    """As evaluated by Neyshabur et al. (ICLR 2019) for one hidden layer."""
    first, second = (d + 1) * h, (h + 1) * c
    p = first + second
    inner = math.log2(4 * math.e * (h + 2 * c))
    return 2 + p * math.log2(8 * math.e * (h + 2 * c) * inner) * (2 * first + second) / p


@pytest.mark.parametrize(("d", "h", "c"), [(784, 8, 10), (3072, 1024, 10), (5, 3, 1)])
def test_vc_bound_of_two_layers(d: int, h: int, c: int) -> None:
    assert piecewise_linear_vc_dimension([(d + 1) * h, (h + 1) * c], [h, c]) == pytest.approx(two_layers(d, h, c))
    assert value(VCDimensionBound(), mlp(d, h, c), torch.zeros(1, d)) == pytest.approx(two_layers(d, h, c))


def largest_shattered(parameters: list[int], units: list[int]) -> int:
    r"""Largest m with 2^m <= prod_i 2 (2 e m k_i p i / W_i)^{W_i}: no larger set can be shattered."""
    cumulated = np.cumsum(parameters)
    m = int(cumulated[-1])  # the inequality holds for no fewer

    def possible(m: int) -> bool:
        growth = (
            1 + w * math.log2(2 * math.e * m * k * 2 * i / w)
            for i, (k, w) in enumerate(zip(units, cumulated, strict=True), 1)
        )
        return m <= sum(growth)

    while possible(2 * m):
        m *= 2
    low, high = m, 2 * m
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if possible(middle) else (low, middle)
    return low


@pytest.mark.parametrize(
    ("parameters", "units"), [([6], [1]), ([40, 9], [8, 1]), ([300, 420, 420, 21], [20, 20, 20, 1])]
)
def test_vc_bound_solves_the_growth_inequality(parameters: list[int], units: list[int]) -> None:
    bound = piecewise_linear_vc_dimension(parameters, units)
    assert largest_shattered(parameters, units) <= bound <= 2 * largest_shattered(parameters, units)
    assert bound >= parameters[0] / units[0], "of a half space alone"


def test_vc_bound_reads_layers_off_the_network() -> None:
    # Convolutions: outputs are units; BatchNorm's parameters belong to the layer that it normalizes.
    x = torch.zeros(2, 2, 8, 8)
    expected = piecewise_linear_vc_dimension([4 * 18 + 4 + 8, 4 * 18 + 8, 16 * 3 + 3], [256, 256, 3])
    assert value(VCDimensionBound(), conv_net(), x) == pytest.approx(expected, rel=1e-12)
    # A shared layer brings its parameters once.
    layer = nn.Linear(4, 4)
    shared = nn.Sequential(layer, nn.ReLU(), layer, nn.ReLU(), nn.Linear(4, 1))
    expected = piecewise_linear_vc_dimension([20, 0, 5], [4, 4, 1])
    assert value(VCDimensionBound(), shared, torch.zeros(1, 4)) == pytest.approx(expected, rel=1e-12)
    # Three pieces.
    capped = nn.Sequential(nn.Linear(4, 3), nn.ReLU6(), nn.Linear(3, 1))
    expected = piecewise_linear_vc_dimension([15, 4], [3, 1], pieces=3)
    assert value(VCDimensionBound(), capped, torch.zeros(1, 4)) == pytest.approx(expected, rel=1e-12)


def test_vc_bound_counts_the_pieces_of_activations() -> None:
    def bound(activation: Callable[[Tensor], Tensor], outputs: int = 6) -> float:
        model = nn.Sequential(nn.Linear(4, 6), Function(activation), nn.Linear(outputs, 1))
        return value(VCDimensionBound(), model, torch.zeros(1, 4))

    expected = [piecewise_linear_vc_dimension([30, 7], [6, 1], pieces=pieces) for pieces in (2, 3)]
    for activation in (
        F.relu,
        lambda x: x.clamp(min=0),
        lambda x: x.clamp_max(1),
        lambda x: x.clamp(max=torch.ones(6)),
    ):
        assert bound(activation) == pytest.approx(expected[0], rel=1e-12)
    for activation in (F.hardsigmoid, lambda x: x.clamp(0, 1), F.hardshrink):
        assert bound(activation) == pytest.approx(expected[1], rel=1e-12)
    # The largest of three is linear on three pieces.
    maxout = bound(lambda x: x.unflatten(1, (2, 3)).amax(2), outputs=2)
    assert maxout == pytest.approx(piecewise_linear_vc_dimension([30, 3], [6, 1], pieces=3), rel=1e-12)


@pytest.mark.parametrize(
    "build",
    [
        nn.Sigmoid,
        nn.Tanh,
        nn.GELU,
        nn.LogSigmoid,
        lambda: nn.LayerNorm(4),
        lambda: nn.RMSNorm(4),
        lambda: nn.Softmax(1),
        lambda: nn.InstanceNorm1d(1),
    ],
)
def test_vc_bound_refuses_what_is_not_piecewise_linear(build: Callable[[], nn.Module]) -> None:
    net = nn.Sequential(nn.Linear(4, 4), build())
    with pytest.raises(UnsupportedOperationError, match=r"VCDimensionBound has no meaning .* module '1'"):
        value(VCDimensionBound(), net, torch.zeros(1, 4))
    assert value(VCDimensionBound(of="convolutional"), nn.Sequential(net[0], nn.Sigmoid()), torch.zeros(1, 4)) > 0


def test_vc_bound_needs_weights() -> None:
    for of in ("piecewise_linear", "convolutional"):
        with pytest.raises(ValueError, match="needs a network with weight matrices"):
            value(VCDimensionBound(of=of), nn.ReLU(), torch.zeros(1, 4))
    with pytest.raises(ValueError, match="got 1 and 2"):
        piecewise_linear_vc_dimension([1], [1, 1])


def test_convolutional_vc_dimension_by_hand() -> None:
    assert convolutional_vc_dimension([10, 6], side=8) == pytest.approx(2 * math.log2(96) ** 3 * 16)
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Conv2d(3, 4, 2), nn.Flatten(), nn.Linear(4 * 3 * 5, 2))
    expected = 3 * math.log2(6 * 3 * 8) ** 3 * (9 * 6 + 4 * 12 + 120)
    assert value(VCDimensionBound(of="convolutional"), net, torch.zeros(1, 2, 6, 8)) == pytest.approx(expected)
    assert value(VCDimensionBound(of="convolutional"), mlp(3, 4, 2), torch.zeros(1, 3)) == pytest.approx(
        2 * math.log2(12) ** 3 * 20
    )
