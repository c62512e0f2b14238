"""Path norms, against enumeration of paths and unrolled matrices."""

from __future__ import annotations

import copy
import itertools
import math
import pickle
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.functional import Scaled, aligned, log_path_norms, scaled, scaled_power, scaled_sum
from lightning_complexity.metrics import PathNorm
from lightning_complexity.network import Context, Snapshot, UnsupportedOperationError
from lightning_complexity.network.tracing.path_sums import path_sums
from lightning_complexity.regularizers import PathNorm as PathNormPenalty
from tests.networks import conv_net, mlp


def path_norm(model: nn.Module, *shape: int, q: float = 2) -> Tensor:
    """The sum over paths, by the package: the path norm to the power of q."""
    outputs = path_sums(model.eval(), shape, torch.zeros(()), q, measure="PathNorm")
    return outputs.value.sum() * math.exp(outputs.log_scale)


def enumerated(layers: list[tuple[Tensor, Tensor]], q: float) -> list[float]:
    """For each output the sum over all paths of a multilayer perceptron, one path after the other."""
    totals = [0.0] * len(layers[-1][0])
    widths = [layers[0][0].shape[1], *(w.shape[0] for w, _ in layers)]
    for start in range(len(layers) + 1):  # 0: from an input; l: from the bias of layer l
        for units in itertools.product(*(range(n) for n in widths[max(start, 0) :])):
            product = 1.0 if start == 0 else abs(layers[start - 1][1][units[0]].item())
            for (weight, _), (unit, following) in zip(layers[start:], itertools.pairwise(units), strict=True):
                product *= abs(weight[following, unit].item())
            totals[units[-1]] += product**q
    return totals


def layers_of(model: nn.Sequential) -> list[tuple[Tensor, Tensor]]:
    return [(m.weight, m.bias) for m in model if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("q", [1, 1.5, 2, 4])
def test_equals_enumeration_of_paths(q: float) -> None:
    model = mlp(3, 4, 2, 3)
    torch.testing.assert_close(path_norm(model, 3, q=q).item(), sum(enumerated(layers_of(model), q)))


def test_synflow_is_the_depth_times_the_norm_for_q_1() -> None:
    """Sum over weights of ``|w dR/d|w||``, with ``R`` the sum of outputs of absolute weights on an input of ones."""
    model = mlp(5, 7, 6, 3, bias=False)
    weights = [m.weight.detach().abs().requires_grad_() for m in model if isinstance(m, nn.Linear)]
    outputs = torch.ones(5)
    for weight in weights:
        outputs = weight @ outputs
    scores = [(w * g).sum() for w, g in zip(weights, torch.autograd.grad(outputs.sum(), weights), strict=True)]
    torch.testing.assert_close(torch.stack(scores).sum().detach(), 3 * path_norm(model, 5, q=1))


def unrolled(layer: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> Tensor:
    """Matrix of a linear layer; of max pooling the matrix that says which entry is in which window."""
    basis = torch.eye(math.prod(shape)).reshape(-1, *shape)
    return torch.stack([(layer(e.unsqueeze(0))).flatten() for e in basis], dim=1)


@pytest.mark.parametrize("q", [1, 2, 4])
def test_convolutional_network_equals_product_of_unrolled_matrices(q: float) -> None:
    model = conv_net().eval()

    def fused(conv: nn.Conv2d, norm: nn.BatchNorm2d, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        bias = norm(conv(torch.zeros(1, *shape))).flatten()
        return unrolled(lambda x: norm(conv(x)), shape) - bias.unsqueeze(1), bias

    first, first_bias = fused(model.first, model.norm, (2, 6, 6))
    second, second_bias = fused(model.second, model.second_norm, (4, 6, 6))
    max_pool = unrolled(lambda x: F.max_pool2d(x, 2), (4, 6, 6))
    mean_pool = unrolled(lambda x: F.adaptive_avg_pool2d(x, 2), (4, 3, 3))
    hidden = first.abs().pow(q).sum(1) + first_bias.abs().pow(q)
    hidden = hidden + second.abs().pow(q) @ hidden + second_bias.abs().pow(q)
    hidden = mean_pool.pow(q) @ (max_pool @ hidden)
    expected = (model.head.weight.abs().pow(q) @ hidden + model.head.bias.abs().pow(q)).sum()
    torch.testing.assert_close(path_norm(model, 2, 6, 6, q=q), expected)


class Function(nn.Module):
    """A module that calls one function, so that functional calls are seen like modules."""

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def add_in_place(x: Tensor) -> Tensor:
    y = 2 * x
    y.add_(x)
    return y


KERNEL = torch.tensor([[[1.0, -2.0, 0.5]], [[3.0, 0.0, -1.0]]], dtype=torch.float64)
LINEAR_OPERATIONS: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "conv1d": (lambda x: F.conv1d(x, KERNEL, stride=2, padding=1, dilation=2), (1, 9)),
    "grouped conv1d": (lambda x: F.conv1d(x, KERNEL, groups=2), (2, 5)),
    "transposed convolution": (lambda x: F.conv_transpose1d(x, KERNEL, stride=2, output_padding=1), (2, 4)),
    "conv3d": (lambda x: F.conv3d(x, torch.arange(8.0).reshape(1, 1, 2, 2, 2)), (1, 3, 3, 3)),
    "matmul": (lambda x: x @ torch.tensor([[1.0, -2.0], [0.0, 3.0]]), (2,)),
    "max pooling": (lambda x: F.max_pool2d(x, 3, stride=2, padding=1), (2, 6, 6)),
    "max pooling that rounds up": (lambda x: F.max_pool2d(x, 2, ceil_mode=True), (1, 5, 5)),
    "max pooling with dilation": (lambda x: F.max_pool1d(x, 2, 1, 0, 3), (1, 8)),
    "adaptive max pooling": (lambda x: F.adaptive_max_pool2d(x, (2, 3)), (1, 5, 7)),
    "average pooling": (lambda x: F.avg_pool2d(x, 3, 2, 1), (2, 6, 6)),
    "average pooling without padding counted": (
        lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False),
        (1, 6, 6),
    ),
    "average pooling that rounds up": (lambda x: F.avg_pool1d(x, 3, 2, 0, True), (1, 6)),
    "adaptive average pooling": (lambda x: F.adaptive_avg_pool2d(x, 3), (1, 5, 7)),
    "mean": (lambda x: x.mean((-2, -1)), (3, 2, 4)),
    "sum": (lambda x: x.sum(-1), (3, 4)),
    "nearest interpolation": (lambda x: F.interpolate(x, scale_factor=2), (1, 3, 3)),
    "padding": (lambda x: F.pad(x, (1, 2)), (3,)),
    "concatenation": (lambda x: torch.cat([x, 3 * x], dim=1), (2,)),
    "subtraction": (lambda x: x[:, :2] - 2 * x[:, 1:], (3,)),
    "scaling": (lambda x: (-x) * torch.tensor([0.5, -3.0]) / 2, (2,)),
    "addition with a factor": (lambda x: torch.add(x[:, :1], x[:, 1:], alpha=-3), (2,)),
    "views": (lambda x: torch.stack(x.chunk(2, dim=1)).permute(1, 0, 2).flatten(1).unsqueeze(-1)[..., 0], (4,)),
}


@pytest.mark.parametrize("name", LINEAR_OPERATIONS)
@pytest.mark.parametrize("q", [1, 2, 3])
def test_operation_equals_its_unrolled_matrix(name: str, q: float) -> None:
    operation, shape = LINEAR_OPERATIONS[name]
    matrix = unrolled(operation, shape)
    # A layer before the operation, so that not all entries are equal.
    scale = torch.rand(math.prod(shape)) + 0.5
    expected = (matrix.abs().pow(q) @ scale.pow(q)).sum()
    model = Function(lambda x: operation(x * scale.reshape(shape)))
    torch.testing.assert_close(path_norm(model, *shape, q=q), expected)


def test_in_place_addition() -> None:
    # Sums over paths have no cancellation: 2 x + x has the two paths 2 and 1.
    torch.testing.assert_close(path_norm(Function(add_in_place), 1, q=2), torch.tensor(5.0))


def test_paths_that_are_all_zero() -> None:
    model = Function(lambda x: torch.cat([0 * x, 0 * x]))
    outputs = path_sums(model, (2,), torch.zeros(()), 2, measure="PathNorm")
    assert torch.equal(outputs.value, torch.zeros(2, 2))
    torch.testing.assert_close(path_norm(Function(lambda x: torch.cat([0 * x, 3 * x])), 2), torch.tensor(18.0))


def test_shared_module_is_on_two_edges() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 3.0)
    torch.testing.assert_close(path_norm(nn.Sequential(layer, nn.ReLU(), layer), 1), torch.tensor(81.0))


def test_added_constant_starts_a_path() -> None:
    torch.testing.assert_close(path_norm(Function(lambda x: 2 * (x + 3)), 1), torch.tensor(4.0 * (1 + 9)))


def test_batch_norm_and_bias_before_it_are_one_path() -> None:
    model = nn.Sequential(nn.Conv2d(1, 1, 1), nn.BatchNorm2d(1, eps=0.0)).eval()
    with torch.no_grad():
        for tensor, value in [
            (model[0].weight, 2.0),
            (model[0].bias, 5.0),
            (model[1].weight, 3.0),
            (model[1].bias, 1.0),
            (model[1].running_mean, 4.0),
            (model[1].running_var, 4.0),
        ]:
            tensor.fill_(value)
    # (2 x + 5 - 4) * 3 / 2 + 1 = 3 x + 2.5
    torch.testing.assert_close(path_norm(model, 1, 1, 1), torch.tensor(3.0**2 + 2.5**2))


def test_clipped_rectifier_is_not_clipped() -> None:
    layer = nn.Linear(1, 1, bias=False)
    nn.init.constant_(layer.weight, 100.0)
    torch.testing.assert_close(path_norm(nn.Sequential(layer, nn.ReLU6()), 1), torch.tensor(1e4))


def test_no_depth_overflows() -> None:
    depth, width, weight = 3000, 4, 50.0
    model = mlp(*[width] * (depth + 1), bias=False)
    for p in model.parameters():
        nn.init.constant_(p, weight)
    model, x = model.float(), torch.zeros(1, width, dtype=torch.float32)
    for q in (1, 2, 16):
        metric = PathNorm(q)
        metric.update(model, x)
        # width^(depth + 1) paths of weight^depth each
        expected = ((depth + 1) * math.log(width)) / q + depth * math.log(weight)
        assert metric.compute().item() == pytest.approx(expected, rel=1e-6)


def test_logarithm_and_value_agree() -> None:
    model, x = mlp(3, 4, 2), torch.zeros(1, 3)
    logarithm, value = PathNorm(), PathNorm(log=False)
    for metric in (logarithm, value):
        metric.update(model, x)
    assert (logarithm.name, value.name) == ("log_path_norm", "path_norm")
    torch.testing.assert_close(logarithm.compute().exp(), value.compute())


def test_rescaling_between_layers_changes_nothing() -> None:
    model = mlp(3, 4, 2)
    before = path_norm(model, 3).item()
    with torch.no_grad():
        model[0].weight *= 7
        model[0].bias *= 7
        model[2].weight /= 7
    assert path_norm(model, 3).item() == pytest.approx(before)


@pytest.mark.parametrize(
    "rectifier", [nn.ReLU(), nn.ReLU(inplace=True), nn.LeakyReLU(), Function(lambda x: x.clamp(min=0)), nn.Dropout()]
)
def test_rectifiers_pass_everything_on(rectifier: nn.Module) -> None:
    torch.testing.assert_close(path_norm(nn.Sequential(Function(lambda x: -3 * x), rectifier), 1), torch.tensor(9.0))


def test_zeros_of_the_same_shape_start_no_path() -> None:
    torch.testing.assert_close(path_norm(Function(lambda x: x + torch.zeros_like(x)), 1), torch.tensor(1.0))


class Gated(nn.Module):
    """Squeeze and excitation: channels are multiplied by a sigmoid of their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(4, 4), nn.Sigmoid())

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean(1, keepdim=True))


def assign(x: Tensor) -> Tensor:
    x[:, 0] = 0
    return x


@pytest.mark.parametrize(
    ("model", "operation", "where"),
    [
        (nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()), "sigmoid", "'1'"),
        (nn.Sequential(nn.Linear(4, 4), nn.Tanh()), "tanh", "'1'"),
        (nn.Sequential(nn.Linear(4, 4), nn.GELU()), "gelu", "'1'"),
        (nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4)), "layer_norm", "'1'"),
        (nn.Sequential(nn.Linear(4, 4), nn.Softmax(-1)), "softmax", "'1'"),
        (nn.Sequential(Function(lambda x: x * x)), "mul of two activations", "'0'"),
        (Function(lambda x: 1 / x), "rdiv", "own forward"),
        (Function(lambda x: x**2), "pow", "own forward"),
        (nn.BatchNorm1d(4, track_running_stats=False), "batch_norm without running statistics", "own forward"),
        (Function(lambda x: x.clamp(min=1)), "clamp between 1 and None", "own forward"),
        (Function(lambda x: x if x.sum().item() > 0 else -x), "item", "own forward"),
        (Function(lambda x: assign(2 * x)), "__setitem__", "own forward"),
        (nn.LeakyReLU(-2.0), "leaky_relu with slope -2.0", "own forward"),
        (nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), "multi_head_attention_forward", "'self_attn'"),
        (Gated(), "sigmoid", "'gate.1'"),
        (Function(lambda x: x * x.mean(1, keepdim=True).sigmoid()), "sigmoid", "own forward"),
        (Function(lambda x: F.scaled_dot_product_attention(x, x, x)), "scaled_dot_product_attention", "own forward"),
        (Function(lambda x: x @ x.transpose(1, 2)), "matmul of two activations", "own forward"),
        (Function(lambda x: F.softmax(x, -1)), "softmax", "own forward"),
        (Function(lambda x: F.hardsigmoid(x)), "hardsigmoid", "own forward"),
        (nn.Sequential(nn.Linear(4, 4), nn.SiLU()), "silu", "'1'"),
        (nn.Sequential(nn.Linear(4, 4), nn.LSTM(4, 4)), "lstm", "'1'"),
    ],
)
def test_operation_without_a_sum_over_paths_is_named(model: nn.Module, operation: str, where: str) -> None:
    with pytest.raises(UnsupportedOperationError, match=f"PathNorm has no meaning for .*{where}") as caught:
        PathNorm().update(model, torch.zeros(2, 3, 4, dtype=torch.float32))
    assert operation in caught.value.operation
    assert caught.value.measure == "PathNorm"


def change_a_view_in_place(x: Tensor) -> Tensor:
    y = 2 * x
    y[:, :1].add_(x[:, :1])
    return y


def test_change_through_a_view_is_refused_not_missed() -> None:
    with pytest.raises(UnsupportedOperationError, match="in-place change of a view"):
        path_norm(Function(change_a_view_in_place), 2)


def test_relu_in_place_on_a_view_is_fine() -> None:
    torch.testing.assert_close(path_norm(Function(lambda x: (2 * x).view(-1).relu_()), 2), torch.tensor(8.0))


def test_token_inputs_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one floating-point tensor, got torch.int64"):
        PathNorm().update(nn.Embedding(5, 3), torch.zeros(2, 4, dtype=torch.long))


def test_training_with_the_penalty_lowers_it() -> None:
    model, x = mlp(3, 8, 2), torch.zeros(1, 3)
    # Not its logarithm, whose gradient grows as the norm shrinks: then the seed decides whether steps overshoot.
    optimizer, penalty = torch.optim.SGD(model.parameters(), lr=0.05), PathNormPenalty(1.0, log=False)
    before = penalty(model, x).item()
    for _ in range(40):
        optimizer.zero_grad()
        penalty(model, x).backward()
        optimizer.step()
    assert penalty(model, x).item() < 0.5 * before


def test_scaled_numbers() -> None:
    tiny, huge = scaled(torch.tensor([1e-300])), Scaled(torch.ones(1), 1e4)
    assert scaled_sum([tiny, huge]).log_scale == 1e4
    assert scaled_power(torch.tensor([1e-200]), 8).log_scale == pytest.approx(8 * math.log(1e-200))
    zero = scaled(torch.zeros(2))
    assert zero.log_scale == -torch.inf
    assert torch.equal(scaled_sum([zero, zero]).value, torch.zeros(2))
    assert scaled_sum([zero, huge]).log_scale == huge.log_scale
    assert scaled(torch.ones(0)).log_scale == -math.inf


@pytest.mark.parametrize("q", [1, 2, 3])
def test_powers_leave_the_weight_as_it_was(q: float) -> None:
    weight = torch.tensor([3.0, -2.0])
    with torch.no_grad():
        power = scaled_power(weight, q)
    torch.testing.assert_close(power.value * math.exp(power.log_scale), torch.tensor([3.0**q, 2.0**q]))
    assert weight.tolist() == [3, -2]
    weight.requires_grad_()
    power = scaled_power(weight, q)
    (power.value.sum() * math.exp(power.log_scale)).backward()
    torch.testing.assert_close(weight.grad, torch.tensor([q * 3.0 ** (q - 1), -q * 2.0 ** (q - 1)]))


@pytest.mark.parametrize("order", list(itertools.permutations([1000.0, math.nan, 0.0])))
def test_nan_stays_nan_in_sums_of_any_order(order: tuple[float, ...]) -> None:
    terms = [Scaled(torch.tensor([math.nan if math.isnan(scale) else 1.0]), scale) for scale in order]
    assert scaled_sum(terms).value.isnan().all()
    assert any(value.isnan().all() for value in aligned(terms)[0])


# Each output ------------------------------------------------------------------------------------


@pytest.mark.parametrize("q", [1, 1.5, 2, 4])
@pytest.mark.parametrize("log", [True, False])
def test_outputs_equal_enumeration_of_their_paths(q: float, log: bool) -> None:
    model, x = mlp(3, 4, 2, 3), torch.zeros(5, 3)
    metric, whole = PathNorm(q, log=log, per_output=True), PathNorm(q, log=log)
    for one in (metric, whole):
        one.update(model, x)
    expected = [total ** (1 / q) for total in enumerated(layers_of(model), q)]
    outputs = metric.compute()
    assert list(outputs) == ["0", "1", "2"]
    values = torch.stack(list(outputs.values()))
    torch.testing.assert_close(values.exp() if log else values, torch.tensor(expected))
    report = metric.report()
    assert report == {metric.name: whole.compute(), **{f"{metric.name}/{k}": v for k, v in outputs.items()}}
    combined = values.exp().pow(q).sum().log() / q if log else values.pow(q).sum() ** (1 / q)
    torch.testing.assert_close(report[metric.name], combined)
    assert torch.equal(metric.measure(Snapshot(model, x), Context()), whole.compute())


def test_outputs_of_more_dimensions_are_named_by_all_indices() -> None:
    metric = PathNorm(q=1, log=False, per_output=True)
    metric.update(nn.Conv2d(1, 2, 1), torch.zeros(4, 1, 1, 2))
    assert list(metric.compute()) == ["0_0_0", "0_0_1", "1_0_0", "1_0_1"]
    metric.update(nn.Sequential(nn.Linear(2, 1), nn.Flatten(0)), torch.zeros(1, 2))
    assert list(metric.compute()) == ["0"]


def test_an_output_without_paths_has_norm_zero() -> None:
    model = nn.Linear(2, 2)
    with torch.no_grad():
        for p in model.parameters():
            p[1] = 0
    metric = PathNorm(per_output=True)
    metric.update(model, torch.zeros(1, 2))
    assert metric.compute()["1"] == -torch.inf
    torch.testing.assert_close(metric.compute()["0"], metric.report()["log_path_norm"])


def test_outputs_survive_what_torchmetrics_does() -> None:
    metric, x = PathNorm(per_output=True), torch.zeros(2, 3)
    assert metric.compute_on_cpu is False
    called = metric(mlp(3, 4, 2), x)
    assert list(called) == ["0", "1"]
    called = metric(mlp(3, 4, 5), x)  # another number of outputs
    assert len(called) == 5
    for other in (pickle.loads(pickle.dumps(metric)), metric.clone(), copy.deepcopy(metric)):
        assert other.compute() == called
    assert not metric.state_dict()
    metric.reset()
    assert metric.value.isnan()
    assert metric.outputs.numel() == 0
    metric.update(mlp(3, 4, 2), x)
    assert len(metric.report()) == 3


def test_logarithms_of_outputs_far_outside_of_floating_point() -> None:
    norms = log_path_norms(Scaled(torch.tensor([[1.0, 4.0]]), 5000.0), q=2)
    torch.testing.assert_close(norms, torch.tensor([[2500.0, 2500 + math.log(2)]]))


@pytest.mark.parametrize("q", [0.5, float("inf"), float("nan")])
def test_exponent_must_give_a_norm(q: float) -> None:
    with pytest.raises(ValueError, match="q must be at least 1 and finite"):
        PathNorm(q)
