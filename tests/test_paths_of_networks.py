"""Path norms of whole networks: enumerated, in exact integers at depth, and by the recipes of other code."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity.metrics import PathNorm
from lightning_complexity.regularizers import PathNorm as PathNormPenalty
from tests.networks import randomize_batch_norm
from tests.test_paths import Function, unrolled

# Architectures, against enumeration on the graph of their units ---------------------------------

Graph = dict[str, list[tuple[str, Tensor]]]
"""For each layer of units the layers that its units lead to, and the matrices of weights."""


def enumerated_on(graph: Graph, num_inputs: int, q: float) -> list[float]:
    """For each unit of ``"out"`` the sum over all paths from the inputs and from ``"one"``, one after the other."""
    totals: dict[int, float] = {}
    lists = {source: [(target, m.abs().tolist()) for target, m in edges] for source, edges in graph.items()}

    def walk(layer: str, unit: int, product: float) -> None:
        if layer == "out":
            totals[unit] = totals.get(unit, 0.0) + product**q
            return
        for target, matrix in lists[layer]:
            for following, row in enumerate(matrix):
                if row[unit] != 0:
                    walk(target, following, product * row[unit])

    for unit in range(num_inputs):
        walk("input", unit, 1.0)
    walk("one", 0, 1.0)
    return [totals[unit] for unit in range(len(totals))]


def affine(layer: Callable[[Tensor], Tensor], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Matrix and shift, a column, of a layer in evaluation mode."""
    shift = layer(torch.zeros(1, *shape)).reshape(-1, 1)
    return unrolled(layer, shape) - shift, shift


def conv_norm(fan_in: int, fan_out: int, kernel: int, *, bias: bool = True) -> nn.Sequential:
    conv = nn.Conv2d(fan_in, fan_out, kernel, padding=kernel // 2, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(fan_out))


class Residual(nn.Module):
    """Stem with ReLU6 and max pooling, a block with a projection on its skip, average pooling."""

    shape = (1, 4, 4)

    def __init__(self) -> None:
        super().__init__()
        self.stem = conv_norm(1, 2, 3)
        self.first, self.second, self.projection = conv_norm(2, 2, 3), conv_norm(2, 3, 1), conv_norm(2, 3, 1)
        self.relu, self.relu6, self.pool = nn.ReLU(inplace=True), nn.ReLU6(), nn.MaxPool2d(2)
        self.mean, self.head = nn.AvgPool2d(2), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu6(self.stem(x)))
        y = self.second(self.relu(self.first(x)))
        y += self.projection(x)
        return self.head(self.mean(self.relu(y)).flatten(1))

    def graph(self) -> Graph:
        (stem, stem_shift), pool = affine(self.stem, self.shape), unrolled(self.pool, (2, 4, 4))
        parts = [affine(layer, (2, 2, 2)) for layer in (self.first, self.second, self.projection)]
        (first, first_shift), (second, second_shift), (projection, projection_shift) = parts
        head, head_shift = affine(self.head, (3,))
        shifts = {"stem": stem_shift, "hidden": first_shift, "out": head_shift}
        return {
            "input": [("stem", stem)],
            "one": [*shifts.items(), ("sum", second_shift), ("sum", projection_shift)],
            "stem": [("pooled", pool)],
            "pooled": [("hidden", first), ("sum", projection)],
            "hidden": [("sum", second)],
            "sum": [("mean", unrolled(self.mean, (3, 2, 2)))],
            "mean": [("out", head)],
        }


class Dense(nn.Module):
    """Each layer sees the concatenation of all before it, normalized, as in a DenseNet."""

    shape = (1, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, 2, 3, padding=1, bias=False)
        self.first_norm, self.first = nn.BatchNorm2d(2), nn.Conv2d(2, 1, 3, padding=1)
        self.second_norm, self.second = nn.BatchNorm2d(3), nn.Conv2d(3, 1, 1)
        self.head = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        x = torch.cat([x, self.first(F.relu(self.first_norm(x)))], 1)
        x = torch.cat([x, self.second(F.relu(self.second_norm(x)))], 1)
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))

    def graph(self) -> Graph:
        first_norm, first_norm_shift = affine(self.first_norm, (2, 2, 2))
        first, first_shift = affine(self.first, (2, 2, 2))
        second_norm, second_norm_shift = affine(self.second_norm, (3, 2, 2))
        second, second_shift = affine(self.second, (3, 2, 2))
        mean = unrolled(lambda x: F.adaptive_avg_pool2d(x, 1), (4, 2, 2))
        head, head_shift = affine(self.head, (4,))
        return {
            "input": [("stem", unrolled(self.stem, self.shape))],
            "one": [
                *[("normed", first_norm_shift), ("first", first_shift)],
                *[("all normed", second_norm_shift), ("second", second_shift), ("out", head_shift)],
            ],
            "stem": [("normed", first_norm), ("all normed", second_norm[:, :8]), ("mean", mean[:, :8])],
            "normed": [("first", first)],
            "first": [("all normed", second_norm[:, 8:]), ("mean", mean[:, 8:12])],
            "all normed": [("second", second)],
            "second": [("mean", mean[:, 12:])],
            "mean": [("out", head)],
        }


class Shared(nn.Module):
    """One block that is called three times, the last time around a skip."""

    shape = (1, 2, 2)

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.block, self.head = conv_norm(1, 2, 1), conv_norm(2, 2, 1), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(2):
            x = F.relu6(self.block(self.stem(x) if x.shape[1] == 1 else x))
        return self.head((x + self.block(x)).flatten(1))

    def graph(self) -> Graph:
        (stem, stem_shift), (block, shift) = affine(self.stem, self.shape), affine(self.block, (2, 2, 2))
        head, head_shift = affine(self.head, (8,))
        shifts = {"stem": stem_shift, "once": shift, "twice": shift, "sum": shift, "out": head_shift}
        return {
            "input": [("stem", stem)],
            "one": [*shifts.items()],
            "stem": [("once", block)],
            "once": [("twice", block)],
            "twice": [("sum", block), ("sum", torch.eye(8))],
            "sum": [("out", head)],
        }


@pytest.mark.parametrize("build", [Residual, Dense, Shared])
def test_architecture_equals_enumeration_of_paths(build: type[Residual | Dense | Shared]) -> None:
    model = build().eval()
    randomize_batch_norm(model)
    with torch.no_grad():
        graph = model.graph()
    for q in (1, 2, 3.5):
        metric = PathNorm(q, per_output=True, log=False)
        metric.update(model, torch.zeros(1, *model.shape))
        expected = [total ** (1 / q) for total in enumerated_on(graph, math.prod(model.shape), q)]
        torch.testing.assert_close(torch.stack(list(metric.compute().values())), torch.tensor(expected))


# The depth of a ResNet-152, in integers of any size ---------------------------------------------


class Bottleneck(nn.Module):
    def __init__(self, fan_in: int, width: int, stride: int) -> None:
        super().__init__()
        fan_out = 4 * width
        self.convs = nn.ModuleList(
            [
                nn.Conv2d(fan_in, width, 1, bias=False),
                nn.Conv2d(width, width, 3, stride, padding=1, bias=False),
                nn.Conv2d(width, fan_out, 1, bias=False),
            ]
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(n, eps=0.0) for n in (width, width, fan_out))
        self.projects = stride > 1 or fan_in != fan_out
        if self.projects:
            self.projection = nn.Conv2d(fan_in, fan_out, 1, stride, bias=False)
            self.projection_norm = nn.BatchNorm2d(fan_out, eps=0.0)

    def forward(self, x: Tensor) -> Tensor:
        skip = self.projection_norm(self.projection(x)) if self.projects else x
        for conv, norm in zip(self.convs[:-1], self.norms[:-1], strict=True):
            x = F.relu(norm(conv(x)), inplace=True)
        return F.relu(self.norms[-1](self.convs[-1](x)) + skip)


class ResNet152(nn.Module):
    """Its 152 layers with few channels, whose weights and normalizations are integers."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 2, 7, 2, padding=3, bias=False), nn.BatchNorm2d(2, eps=0.0)
        self.pool = nn.MaxPool2d(3, 2, padding=1)
        blocks: list[nn.Module] = []
        fan_in = 2
        for width, count, stride in zip((2, 2, 4, 4), (3, 8, 36, 3), (1, 2, 2, 2), strict=True):
            for i in range(count):
                blocks.append(Bottleneck(fan_in, width, stride if i == 0 else 1))
                fan_in = 4 * width
        self.blocks, self.head = nn.Sequential(*blocks), nn.Linear(fan_in, 3)
        with torch.no_grad():
            for p in self.parameters():
                p.copy_(torch.randint(-20, 21, p.shape))
            for norm in (m for m in self.modules() if isinstance(m, nn.BatchNorm2d)):
                norm.weight.copy_(2 * torch.randint(1, 4, norm.weight.shape))
                norm.running_mean.copy_(torch.randint(-3, 4, norm.weight.shape))
                norm.running_var.copy_(torch.tensor([1.0, 4.0])[torch.randint(0, 2, norm.weight.shape)])

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.pool(F.relu(self.norm(self.stem(x)))))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


def integers(tensor: Tensor) -> np.ndarray:
    return np.vectorize(int, otypes=[object])(tensor.detach().numpy())


def shifted(x: np.ndarray, kernel: int, stride: int, padding: int) -> list[np.ndarray]:
    """For each position in the kernel what it sees at all positions of the output."""
    height, width = x.shape[1:]
    padded = np.zeros((len(x), height + 2 * padding, width + 2 * padding), dtype=object)
    padded[:, padding : padding + height, padding : padding + width] = x
    ends = [n + 2 * padding - kernel + 1 for n in (height, width)]
    return [padded[:, i : i + ends[0] : stride, j : j + ends[1] : stride] for i in range(kernel) for j in range(kernel)]


def exact_conv_norm(x: np.ndarray, conv: nn.Conv2d, norm: nn.BatchNorm2d, q: int) -> np.ndarray:
    factor = integers(norm.weight) // integers(norm.running_var.sqrt())
    shift = integers(norm.bias) - integers(norm.running_mean) * factor
    kernels = abs(integers(conv.weight) * factor[:, None, None, None]) ** q
    seen = shifted(x, conv.kernel_size[0], conv.stride[0], conv.padding[0])
    taps = np.moveaxis(kernels.reshape(*kernels.shape[:2], -1), 2, 0)
    total = sum(np.tensordot(k, s, 1) for k, s in zip(taps, seen, strict=True))
    return total + abs(shift[:, None, None]) ** q


def exact_path_sums(model: ResNet152, size: int, q: int) -> list[Fraction]:
    """For each output the sum over all paths, without rounding."""
    x = np.ones((3, size, size), dtype=object)
    x = sum(shifted(exact_conv_norm(x, model.stem, model.norm, q), 3, 2, 1))
    for block in model.blocks:
        skip = exact_conv_norm(x, block.projection, block.projection_norm, q) if block.projects else x
        for conv, norm in zip(block.convs, block.norms, strict=True):
            x = exact_conv_norm(x, conv, norm, q)
        x = x + skip
    mean = x.sum((1, 2)) * Fraction(1, math.prod(x.shape[1:])) ** q
    return list(abs(integers(model.head.weight)) ** q @ mean + abs(integers(model.head.bias)) ** q)


def log(number: Fraction) -> float:
    return math.log(number.numerator) - math.log(number.denominator)


@pytest.mark.parametrize("q", [1, 2, 3])
def test_depth_of_resnet_152_in_exact_arithmetic(q: int) -> None:
    model, x = ResNet152(), torch.zeros(1, 3, 64, 64)
    assert sum(isinstance(m, (nn.Conv2d, nn.Linear)) for m in model.modules()) == 152 + 4  # and four projections
    sums = exact_path_sums(model, 64, q)
    assert sum(sums) > 10**308, "so that double precision would overflow"
    metric = PathNorm(q, per_output=True)
    metric.update(model, x)
    expected = {"log_path_norm": log(sum(sums)), **{f"log_path_norm/{i}": log(s) for i, s in enumerate(sums)}}
    assert {name: v.item() for name, v in metric.report().items()} == pytest.approx(
        {name: v / q for name, v in expected.items()}, rel=1e-13
    )
    metric.update(model.float(), x.float())
    assert metric.report()["log_path_norm"].item() == pytest.approx(log(sum(sums)) / q, abs=1e-4)


def test_gradient_at_the_depth_of_resnet_152() -> None:
    model, x = ResNet152(), torch.zeros(1, 3, 64, 64)
    PathNormPenalty(1.0, q=1)(model, x).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    # The sum of the products is linear in the size of each weight: a step of 1 gives its slope.
    total = sum(exact_path_sums(model, 64, 1))
    for weight in (model.stem.weight, model.blocks[20].convs[1].weight, model.head.weight):
        index = tuple((weight.abs() == weight.abs().max()).nonzero()[0].tolist())
        sign = int(weight[index].sign())
        with torch.no_grad():
            weight[index] += sign
            slope = sum(exact_path_sums(model, 64, 1)) - total
            weight[index] -= sign
        assert slope > 0
        assert weight.grad[index].item() == pytest.approx(sign * float(slope / total), rel=1e-9)


# Recipes of other code, which give other numbers ------------------------------------------------


def toy() -> nn.Sequential:
    """A network that all public code accepts."""
    first, second = conv_norm(1, 2, 3), conv_norm(2, 2, 1)
    head = nn.Linear(2, 2)
    model = nn.Sequential(
        *first, nn.ReLU6(), nn.MaxPool2d(2), *second, nn.ReLU6(), nn.AvgPool2d(2), nn.Flatten(), head
    ).eval()
    randomize_batch_norm(model)
    with torch.no_grad():  # for sums beyond the 6 of ReLU6, and biases that matter
        for tensor in (model[0].weight, model[0].bias, model[1].running_mean, model[4].bias, model[5].running_mean):
            tensor.normal_(std=5.0)
    return model


def toy_graph(model: nn.Sequential) -> Graph:
    (first, first_shift), (second, second_shift) = affine(model[:2], (1, 4, 4)), affine(model[4:6], (2, 2, 2))
    head, head_shift = affine(model[-1], (2,))
    return {
        "input": [("first", first)],
        "one": [("first", first_shift), ("second", second_shift), ("out", head_shift)],
        "first": [("pooled", unrolled(model[3], (2, 4, 4)))],
        "pooled": [("second", second)],
        "second": [("mean", unrolled(model[7], (2, 2, 2)))],
        "mean": [("out", head)],
    }


def biases_moved_into_batch_norm(model: nn.Sequential) -> nn.Sequential:
    """The same function, without two biases in a row."""
    model = copy.deepcopy(model)
    for layer, norm in itertools.pairwise(model):
        if isinstance(norm, nn.BatchNorm2d):
            norm.running_mean -= layer.bias
            layer.bias.zero_()
    return model


def by_recipe(
    model: nn.Sequential,
    q: float,
    *,
    max_as_sum: bool = True,
    mean: str = "powered",
    clips: bool = False,
    norm: str = "",
) -> float:
    """Path norm by running a network with changed weights on ones; right by default if biases are in BatchNorm."""
    layers: list[nn.Module] = []
    after_root = 1.0
    for layer in copy.deepcopy(model):
        changed: nn.Module = layer
        if isinstance(layer, nn.BatchNorm2d):
            if norm != "entry by entry":
                scale = layer.weight / (layer.running_var + layer.eps).sqrt()
                layer.bias -= layer.running_mean * scale
                layer.weight.copy_(scale)
                layer.running_mean.zero_()
                layer.running_var.fill_(1)
                layer.eps = 0.0
            for tensor in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                tensor.copy_(tensor.abs() ** q)
        elif isinstance(layer, nn.MaxPool2d) and max_as_sum:
            changed = Function(lambda x: 4 * F.avg_pool2d(x, 2))
        elif isinstance(layer, nn.AvgPool2d) and mean == "powered":
            changed = Function(lambda x: F.avg_pool2d(x, 2) / 4 ** (q - 1))
        elif isinstance(layer, nn.AvgPool2d) and mean == "powered after the root":
            after_root = 1 / 4 ** (q - 1)
        elif isinstance(layer, nn.ReLU6) and not clips:
            changed = nn.ReLU()
        elif isinstance(layer, (nn.Conv2d, nn.Linear)):
            for p in (layer.weight, layer.bias):
                p.copy_(p.abs() ** q)
        layers.append(changed)
    return after_root * nn.Sequential(*layers)(torch.ones(1, 1, 4, 4)).sum().item() ** (1 / q)


WRONG_RECIPES: dict[str, tuple[dict[str, object], set[int]]] = {
    "BatchNorm raised to the power entry by entry": ({"norm": "entry by entry"}, {1, 2}),
    "average pooling's factor after the root": ({"mean": "powered after the root"}, {2}),
    "max pooling left a maximum": ({"max_as_sum": False}, {1, 2}),
    "average pooling's weights without power": ({"mean": "left"}, {2}),  # with q = 1 it has none
    "ReLU6 left in place": ({"clips": True}, {1, 2}),
}


@pytest.mark.parametrize("q", [1, 2])
def test_recipes_of_other_code_give_other_numbers(q: int) -> None:
    model = toy()
    with torch.no_grad():
        exact = sum(enumerated_on(toy_graph(model), 16, q)) ** (1 / q)
        fused = biases_moved_into_batch_norm(model)
        metric = PathNorm(q, log=False)
        for same in (model, fused):
            metric.update(same, torch.zeros(1, 1, 4, 4))
            assert metric.compute().item() == pytest.approx(exact)
        assert by_recipe(fused, q) == pytest.approx(exact)
        others = {name: by_recipe(fused, q, **options) for name, (options, _) in WRONG_RECIPES.items()}
        others["bias and shift as two paths"] = by_recipe(model, q)
    different = {name for name, value in others.items() if value != pytest.approx(exact, rel=0.01)}
    assert different == {
        *(name for name, (_, exponents) in WRONG_RECIPES.items() if q in exponents),
        "bias and shift as two paths",
    }
    assert others["max pooling left a maximum"] < exact
    assert others["ReLU6 left in place"] < exact
    assert others["average pooling's weights without power"] >= exact * (1 - 1e-12)
