"""The table of operations says what torch's own functions do, and what is not in it is refused."""

from __future__ import annotations

import inspect
import itertools
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lightning_complexity import metrics
from lightning_complexity.network import UnsupportedOperationError, capture_activations
from lightning_complexity.network.tracing.operations import OPERATIONS, Effect, Operation, bends_of, plain_name

PIECEWISE_LINEAR_ONLY: dict[str, Callable[[], Any]] = {
    "RegionBoundaryDistance": metrics.RegionBoundaryDistance,
    "LocalComplexity": lambda: metrics.LocalComplexity(num_directions=2),
    "SmoothLocalComplexity": lambda: metrics.SmoothLocalComplexity(num_directions=2),
    "DeadUnits": metrics.DeadUnits,
    "ActivationEntropy": metrics.ActivationEntropy,
    "PatternEntropy": metrics.PatternEntropy,
    "Transitions": lambda: metrics.Transitions(num_points=64),
    "LinearRegions": metrics.LinearRegions,
    "RegionBound": metrics.RegionBound,
    "VCDimensionBound": metrics.VCDimensionBound,
    "PathNorm": metrics.PathNorm,
}
WHOLE_NETWORK = ("LinearRegions", "RegionBound", "VCDimensionBound", "PathNorm")


class Calling(nn.Module):
    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x)


def network(function: Callable[[Tensor], Tensor]) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 4), Calling(function), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def outcome(measure: str, model: nn.Module, x: Tensor) -> str:
    try:
        PIECEWISE_LINEAR_ONLY[measure]().update(model, x)
    except UnsupportedOperationError as error:
        return "refused" if error.measure == measure else f"refused as {error.measure}"
    return "accepted"


# Names ------------------------------------------------------------------------------------------


def torch_has(name: str) -> bool:
    places = (torch, F, Tensor, torch.ops.aten, torch._C._linalg, torch._C._sparse)
    marked = (name, f"__{name}__", f"_{name}", f"{name}_")
    return any(hasattr(place, n) for place in places for n in marked)


@pytest.mark.parametrize("name", OPERATIONS)
def test_every_row_is_an_operation_of_torch_under_its_plain_name(name: str) -> None:
    assert torch_has(name)
    assert plain_name(name) == name


def test_all_ways_to_call_have_one_name() -> None:
    x = torch.ones(2)
    ways = ("add", "add_", "__add__", "__radd__", "__iadd__", torch.ops.aten.add.Tensor.__name__)
    assert {plain_name(way) for way in ways} == {"add"}
    assert {plain_name(f.__name__) for f in (F.relu, F.relu_, x.relu, x.relu_, torch.ops.aten.relu)} == {"relu"}


# What rows say, against torch -------------------------------------------------------------------

KINKED: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {
    "hardtanh": ((-0.5, 0.25), {}),
    "leaky_relu": ((0.1,), {}),
    "prelu": ((torch.full((1,), 0.25, dtype=torch.float64),), {}),
    "threshold": ((0.25, 0.25), {}),
    "softshrink": ((0.25,), {}),
    "hardshrink": ((0.25,), {}),
    "clamp": ((-0.5, 0.5), {}),
    "clamp_min": ((0.5,), {}),
    "clamp_max": ((0.5,), {}),
}


def named(name: str) -> Callable[..., Any]:
    return next(getattr(place, name) for place in (F, torch, Tensor) if hasattr(place, name))


def rows(*effects: Effect) -> list[str]:
    return [name for name, operation in OPERATIONS.items() if operation.effect in effects]


@pytest.mark.parametrize("name", rows(Effect.KINKED))
def test_kinks_and_flat_pieces_are_where_the_slope_says(name: str) -> None:
    args, kwargs = KINKED.get(name, ((), {}))
    bends = bends_of(name, args, kwargs)
    slopes = []
    for piece, (low, high) in enumerate(itertools.pairwise([-10.0, *bends.kinks, 10.0])):
        z = torch.linspace(low, high, 7)[1:-1].requires_grad_()
        (slope,) = torch.autograd.grad(named(name)(z * 1, *args, **kwargs).sum(), z)
        torch.testing.assert_close(slope, slope[:1].expand_as(slope))
        assert (slope[0] == 0) == (piece in bends.flat)
        slopes.append(slope[0].item())
    assert all(left != right for left, right in itertools.pairwise(slopes))


def test_a_clamp_has_as_many_kinks_as_bounds() -> None:
    assert [len(bends_of("clamp", (), bounds).kinks) for bounds in ({"min": 0}, {"max": 1}, {"min": 0, "max": 1})] == [
        1,
        1,
        2,
    ]


@pytest.mark.parametrize("name", rows(Effect.CURVED))
def test_curved_activations_bend_smoothly_but_at_their_kinks(name: str) -> None:
    z = torch.linspace(-6, 6, 1001).requires_grad_()
    (slope,) = torch.autograd.grad(named(name)(z * 1).sum(), z)
    jumps = (slope.diff().abs() > 0.1).nonzero().flatten()
    assert len(jumps) == len(OPERATIONS[name].kinks)
    assert all(abs(z[i].item() - kink) < 0.02 for i, kink in zip(jumps, OPERATIONS[name].kinks, strict=True))
    assert slope.diff().count_nonzero() > 300, "it is not piecewise linear"


X = torch.linspace(-2, 3, 48, dtype=torch.float64).reshape(2, 4, 6)
MATRIX = torch.tensor([[1.0, -2.0], [0.5, 3.0]], dtype=torch.float64)
INDEX = torch.tensor([1, 0])
MASK = torch.tensor([True, False, True, True, False, True])
# How to call those that take more than a tensor, or another shape.
ARGUMENTS: dict[str, Callable[[Callable[..., Any], Tensor], Any]] = {
    "to": lambda f, x: f(x, torch.float64),
    "flatten": lambda f, x: f(x, 1),
    "unflatten": lambda f, x: f(x, 1, (2, 2)),
    "view": lambda f, x: f(x, 2, -1),
    "reshape": lambda f, x: f(x, (2, -1)),
    "squeeze": lambda f, x: f(x[:, :1], 1),
    "unsqueeze": lambda f, x: f(x, 1),
    "permute": lambda f, x: f(x, (2, 0, 1)),
    **dict.fromkeys(("transpose", "swapaxes", "swapdims", "movedim", "moveaxis"), lambda f, x: f(x, 1, 2)),
    **dict.fromkeys(("expand", "broadcast_to"), lambda f, x: f(x[:1], (3, 4, 6))),
    "expand_as": lambda f, x: f(x[:1], x),
    "broadcast_tensors": lambda f, x: f(x[:1], x),
    **dict.fromkeys(("repeat", "tile"), lambda f, x: f(x, (2, 1, 1))),
    **dict.fromkeys(("repeat_interleave", "chunk", "split", "tensor_split"), lambda f, x: f(x, 2)),
    **dict.fromkeys(("hsplit", "vsplit"), lambda f, x: f(x, 2)),
    "split_with_sizes": lambda f, x: f(x, (1, 1)),
    "narrow": lambda f, x: f(x, 1, 0, 2),
    "select": lambda f, x: f(x, 1, 0),
    "getitem": lambda f, x: x[0],
    "setitem": lambda f, x: torch.zeros_like(x).index_put((INDEX,), x),
    **dict.fromkeys(("T", "mT", "real", "data"), lambda f, x: x.mT),
    **dict.fromkeys(("flip", "roll"), lambda f, x: f(x, (1,))),
    "roll": lambda f, x: f(x, 1, 1),
    **dict.fromkeys(("view_as", "reshape_as"), lambda f, x: f(x, torch.zeros(8, 6))),
    "pixel_shuffle": lambda f, x: f(x[..., None], 2),
    "pixel_unshuffle": lambda f, x: f(x, 2),
    "channel_shuffle": lambda f, x: f(x[..., None], 2),
    "native_channel_shuffle": lambda f, x: f(x[..., None], 2),
    "unfold": lambda f, x: f(x[:, None], 2),
    **dict.fromkeys(
        ("cat", "concat", "concatenate", "stack", "hstack", "vstack", "dstack", "column_stack"),
        lambda f, x: f([x, x]),
    ),
    "index_select": lambda f, x: f(x, 1, INDEX),
    "gather": lambda f, x: f(x, 0, torch.ones(1, 4, 6, dtype=torch.long)),
    "take": lambda f, x: f(x, INDEX),
    "take_along_dim": lambda f, x: f(x, torch.ones(1, 4, 6, dtype=torch.long), 0),
    "diag": lambda f, x: f(x[0]),
    "meshgrid": lambda f, x: f(x[0, 0], x[0, 1], indexing="ij"),
    "copy": lambda f, x: torch.zeros_like(x).copy_(x),
    "type": lambda f, x: f(x, torch.float64),
    "type_as": lambda f, x: f(x, x),
    **dict.fromkeys(("cuda", "half", "bfloat16", "requires_grad", "retain_grad", "set"), lambda f, x: x),
    "alias": lambda f, x: torch.ops.aten.alias(x),
    "as_strided": lambda f, x: f(x, (2, 2), (1, 2)),
    **dict.fromkeys(("alpha_dropout", "feature_alpha_dropout", "dropout"), lambda f, x: f(x, 0.5, False)),
    **dict.fromkeys(("dropout1d", "dropout2d", "dropout3d"), lambda f, x: f(x[:, :, None], 0.5, False)),
    "dropout1d": lambda f, x: f(x, 0.5, False),
    "feature_dropout": lambda f, x: f(x, 0.5, False),
    "rsub": lambda f, x: torch.rsub(x, x[:1]),
    **dict.fromkeys(("add", "sub"), lambda f, x: f(x, x.flip(1))),
    "cumsum": lambda f, x: f(x, 1),
    "trace": lambda f, x: f(x[0]),
    **dict.fromkeys(("interpolate", "upsample"), lambda f, x: F.interpolate(x, scale_factor=2, mode="linear")),
    "fold": lambda f, x: f(x, (3, 4), 2),
    "pad": lambda f, x: f(x, (1, 1), "reflect"),
    "constant_pad_nd": lambda f, x: f(x, (1, 1), 2.0),
    "where": lambda f, x: f(MASK, x, x.flip(1)),
    "masked_fill": lambda f, x: f(x, MASK, 2.0),
    "masked_scatter": lambda f, x: f(x, MASK, x.flip(1)),
    "masked_select": lambda f, x: f(x, MASK),
    **dict.fromkeys(("index_add", "index_copy"), lambda f, x: f(x, 1, INDEX, x[:, :2])),
    "index_put": lambda f, x: f(x, (INDEX,), x),
    "index_fill": lambda f, x: f(x, 1, INDEX, 3.0),
    **dict.fromkeys(("scatter", "scatter_add"), lambda f, x: f(x, 0, torch.ones(1, 4, 6, dtype=torch.long), x)),
    "select_scatter": lambda f, x: f(x, x[:, 0], 1, 1),
    "slice_scatter": lambda f, x: f(x, x[:, :1], 1, 1, 2),
    "diagonal_scatter": lambda f, x: f(x[0], x[0, 0, :4]),
    "fill": lambda f, x: torch.full_like(x, 2.0),
    "fill_diagonal": lambda f, x: x[0].clone().fill_diagonal_(2.0),
    "lerp": lambda f, x: f(x, x.flip(1), 0.3),
    "grid_sample": lambda f, x: f(x[:, None], torch.linspace(-1, 1, 8).reshape(1, 2, 2, 2).expand(2, -1, -1, -1),
                                  align_corners=False),
}  # fmt: skip


def result(name: str, x: Tensor) -> Tensor:
    function = next((f for p in (torch, F, Tensor) if callable(f := getattr(p, name, None))), None)
    call = ARGUMENTS.get(name, lambda f, x: f(x))
    parts = call(function, x.clone())
    return torch.cat([p.flatten() for p in parts]) if isinstance(parts, (tuple, list)) else parts.flatten()


@pytest.mark.parametrize("name", rows(Effect.MOVE, Effect.SUM))
def test_moves_and_sums_are_affine(name: str) -> None:
    x, y = torch.randn_like(X), torch.randn_like(X)
    middle = result(name, 0.3 * x + 0.7 * y)
    torch.testing.assert_close(middle, 0.3 * result(name, x) + 0.7 * result(name, y))


POOLED = rows(Effect.MAX_POOLING, Effect.MEAN_POOLING)
FLAGGED = rows(Effect.MOVE, Effect.SUM, Effect.KINKED, Effect.CURVED, Effect.POINTWISE, Effect.MIXING)


def applied(name: str, x: Tensor) -> Tensor:
    if OPERATIONS[name].effect is Effect.KINKED:
        args, kwargs = KINKED.get(name, ((), {}))
        return named(name)(x, *args, **kwargs)
    if name in POOLED:
        image = x.reshape(2, 4, *{"1": (6,), "2": (2, 3), "3": (1, 2, 3)}[name[-2]])
        return named(name)(image, 1).flatten()
    if name in ("maximum", "minimum", "fmax", "fmin"):
        return named(name)(x, x.flip(1))
    if name in ("softmax", "log_softmax", "softmin", "cummax", "cummin", "pow", "float_power"):
        found = named(name)(x, 1)
        return found if isinstance(found, Tensor) else found[0]
    return result(name, x)


@pytest.mark.parametrize("name", [n for n in OPERATIONS if OPERATIONS[n].homogeneous])
def test_homogeneous_operations_scale(name: str) -> None:
    x = torch.randn_like(X)
    torch.testing.assert_close(applied(name, 3 * x), 3 * applied(name, x))


@pytest.mark.parametrize("name", [n for n in OPERATIONS if OPERATIONS[n].keeps_zero])
def test_what_keeps_zero_gives_zeros(name: str) -> None:
    assert not applied(name, torch.zeros_like(X)).any()


@pytest.mark.parametrize(
    "name",
    [n for n, o in OPERATIONS.items() if o.keeps_units and o.effect in (Effect.KINKED, Effect.CURVED, Effect.MOVE)],
)
def test_what_keeps_units_treats_them_alike(name: str) -> None:
    order = torch.tensor([2, 0, 3, 1])
    x = torch.randn_like(X)
    shaped = applied(name, x).reshape(X.shape)
    torch.testing.assert_close(applied(name, x[:, order]).reshape(X.shape), shaped[:, order])


PRODUCTS: dict[str, Callable[[Tensor], Tensor]] = {
    "mul": lambda x: x * 3,
    "div": lambda x: x / 3,
    "einsum": lambda x: torch.einsum("ncl,c->nl", x, torch.arange(4.0)),
    "matmul": lambda x: x @ torch.ones(6, 2),
    "linear": lambda x: F.linear(x, torch.ones(2, 6), torch.ones(2)),
    "conv1d": lambda x: F.conv1d(x, torch.ones(2, 4, 3), torch.ones(2)),
    "conv_transpose1d": lambda x: F.conv_transpose1d(x, torch.ones(4, 2, 3), torch.ones(2)),
    "bilinear": lambda x: F.bilinear(x, torch.ones_like(x), torch.ones(2, 6, 6), torch.ones(2)),
    "addmm": lambda x: torch.addmm(x[0, :, :2], x[0], torch.ones(6, 2)),
    "baddbmm": lambda x: torch.baddbmm(x[..., :2], x, torch.ones(2, 6, 2)),
    "bmm": lambda x: torch.bmm(x, torch.ones(2, 6, 2)),
    "mm": lambda x: torch.mm(x[0], torch.ones(6, 2)),
    "mv": lambda x: torch.mv(x[0], torch.ones(6)),
    "addcmul": lambda x: torch.addcmul(x, x, torch.ones(6)),
    "batch_norm": lambda x: F.batch_norm(x, torch.ones(4), torch.ones(4)),
    "outer": lambda x: torch.outer(x.flatten(), torch.ones(2)),
    "tensordot": lambda x: torch.tensordot(x, torch.ones(6, 2), 1),
}


@pytest.mark.parametrize("name", PRODUCTS)
def test_products_with_constants_are_affine_and_products_of_data_refused(name: str) -> None:
    function = PRODUCTS[name]
    x, y = torch.randn_like(X), torch.randn_like(X)
    torch.testing.assert_close(function(0.3 * x + 0.7 * y), 0.3 * function(x) + 0.7 * function(y))
    assert capture_activations(Calling(lambda x: function(x)[None]), x, measure="A measure") == []


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x,
        lambda x: x @ x.mT,
        lambda x: torch.einsum("ncl,nkl->nck", x, x),
        lambda x: x / (1 + x.abs()),
        lambda x: F.linear(x, x[0]),
        lambda x: F.conv1d(x, x[:, :, :3]),
        lambda x: torch.baddbmm(x @ torch.ones(6, 4), x, x.mT),
        lambda x: torch.lerp(x, x + 1, x),
        lambda x: x * (x > 0),
        lambda x: torch.where(x > 0, x, 0.1 * x),
        lambda x: x.masked_fill(x < 0, 0.0),
        lambda x: (x > 0).double(),
        lambda x: x[:, x[0, :, 0].argsort()],
        lambda x: x if x.sum() > 0 else -x,
        lambda x: x * x.sum().item(),
        lambda x: x.relu() ** 2,
        lambda x: F.batch_norm(x, None, None, training=True),
    ],
)
def test_decisions_and_products_of_data_are_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedOperationError, match="A measure has no meaning"):
        capture_activations(Calling(function), torch.randn_like(X), measure="A measure")


@pytest.mark.parametrize("measure", PIECEWISE_LINEAR_ONLY)
def test_operations_on_constants_are_harmless(measure: str) -> None:
    class Careful(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.utils.parametrizations.weight_norm(nn.Linear(2, 4))
            self.scale, self.head = nn.Parameter(torch.ones(4)), nn.Linear(4, 2)
            self.register_buffer("mask", torch.tensor([1.0, 0.0, 1.0, 1.0]))

        def forward(self, x: Tensor) -> Tensor:
            if not torch.isfinite(x).all():
                raise ValueError
            x = self.first(x) * F.softplus(self.scale).exp() + torch.sin(torch.arange(4.0)).to(x)
            x = torch.where(self.mask > 0, x, torch.zeros_like(x).exp() * 0)
            gates = torch.softmax(self.scale, 0)
            return self.head(torch.relu(x * gates / gates.norm()))

    model = Careful()
    if measure == "PathNorm":
        model.register_buffer("mask", None)
        model.forward = lambda x: model.head(torch.relu(model.first(x) * F.softplus(model.scale).exp()))
    assert outcome(measure, model, torch.randn(4, 2)) == "accepted"


# What has no row --------------------------------------------------------------------------------


SETTINGS = ("set_", "use_", "enable_", "manual_seed", "seed")
"""Beginnings of the names of functions that change torch itself."""


def elementwise() -> Iterator[tuple[str, Callable[[Tensor], Tensor]]]:
    """Functions of one tensor that torch has, which give another tensor of its shape and are not linear in it."""
    z = torch.linspace(0.1, 0.9, 24, dtype=torch.float64).reshape(6, 4)
    for place in (torch, torch.special, F):
        for name in sorted(dir(place)):
            function = getattr(place, name)
            if (
                name.startswith(("_", *SETTINGS))
                or name.endswith("_")
                or not callable(function)
                or inspect.isclass(function)
            ):
                continue
            if any(word in name for word in ("rand", "dropout", "like", "gumbel", "bernoulli", "rrelu")):
                continue
            try:
                values, again, doubled = function(z.clone()), function(z.clone()), function(2 * z)
                shaped = isinstance(values, Tensor) and values.shape == z.shape and values.dtype == z.dtype
                if not shaped or not values.isfinite().all() or not torch.equal(values, again):
                    continue
                middle = function(1.5 * z)
            except Exception:
                continue
            if not torch.allclose(middle, (values + doubled) / 2, rtol=1e-6, atol=1e-9, equal_nan=True):
                yield f"{place.__name__}.{name}", function


SMOOTH = dict(elementwise())


def test_many_are_found() -> None:
    assert len(SMOOTH) > 40
    assert {"torch.sin", "torch.atan", "torch.special.exp2", "torch.nn.functional.softsign", "torch.sinc"} <= {*SMOOTH}


@pytest.mark.filterwarnings("ignore:Implicit dimension choice")
@pytest.mark.parametrize("name", [n for n in SMOOTH if OPERATIONS.get(plain_name(SMOOTH[n].__name__), Operation(
    Effect.CURVED)).effect not in (Effect.KINKED, Effect.MOVE, Effect.SUM)])  # fmt: skip
def test_smooth_functions_are_refused_by_all_measures_of_piecewise_linear_networks(name: str) -> None:
    model, x = network(lambda z: SMOOTH[name](z.sigmoid() * 0 + z)), torch.rand(6, 2)
    model[1].function = SMOOTH[name]
    with torch.no_grad():
        model[0].weight.copy_(torch.rand(4, 2) / 2)
        model[0].bias.fill_(0.1)
    accepted = [measure for measure in PIECEWISE_LINEAR_ONLY if outcome(measure, model, x) == "accepted"]
    assert accepted == []


@pytest.mark.parametrize("measure", PIECEWISE_LINEAR_ONLY)
def test_attention_softmax_and_layer_norm_are_no_units(measure: str) -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.attention, self.norm = nn.MultiheadAttention(4, 2, batch_first=True), nn.LayerNorm(4)
            self.up, self.down = nn.Linear(4, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.norm(x + self.attention(x, x, x)[0])
            variance = x.pow(2).mean(-1, keepdim=True)  # RMSNorm as T5 writes it
            normalized = x * torch.rsqrt(variance + 1e-6)
            return (x + self.down(F.relu(self.up(normalized)))).mean(1).softmax(-1)

    expected = "refused" if measure in WHOLE_NETWORK else "accepted"
    assert outcome(measure, Block(), torch.randn(4, 3, 4)) == expected


@pytest.mark.parametrize("measure", PIECEWISE_LINEAR_ONLY)
def test_maxout_is_piecewise_linear(measure: str) -> None:
    for maximum in (lambda x: x.unflatten(1, (2, 2)).amax(2), lambda x: x.unflatten(1, (2, 2)).max(2)[0]):
        model = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 4), Calling(maximum), nn.Linear(2, 1))
        assert outcome(measure, model, torch.randn(4, 2)) == "accepted"


def test_a_scripted_module_is_refused() -> None:
    model = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        model[1] = torch.jit.trace(nn.Tanh(), torch.ones(1, 4))
    for measure in WHOLE_NETWORK:
        assert outcome(measure, model, torch.randn(4, 2)) == "refused"
