"""What each torch operation does to data: the one table that everything that follows a forward pass reads.

Path sums, activations, linear regions, bounds, folding and feeding layers look operations up here. An operation that
has no row is refused wherever it matters. To make one known, add its plain name to the row that it fits, or a new
row: ``tests/test_operations.py`` compares every row with torch's own function.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import Tensor


class Effect(Enum):
    """What an operation does to those of its arguments that depend on the network's inputs, the data."""

    SHAPE = "reads their shapes only, or gives the same for all finite numbers"
    READ = "hands their numbers to Python, which may decide by them what the network does"
    DECISION = "compares them: what it gives jumps"
    MOVE = "moves, repeats, converts or zeroes their numbers"
    SUM = "is affine in all of them together"
    PRODUCT = "is affine in one factor as long as the others are no data"
    LAYER = "the same, and the entries of its result are units"
    BATCH_NORM = "is affine for each channel, with running statistics"
    MEAN_POOLING = "averages over windows"
    MAX_POOLING = "takes maxima over windows"
    MAXIMUM = "takes the larger, or smaller, of two tensors or along a dimension"
    KINKED = "is piecewise linear, entry by entry"
    CURVED = "is an activation that is not piecewise linear"
    POINTWISE = "is smooth, entry by entry, and a part of softmax and normalizations that are written out"
    MIXING = "mixes entries in another way: softmax, normalization, attention, recurrent layers, sorting"


@dataclass(frozen=True)
class Bends:
    """How an activation bends, and whether this call of it overwrites its input.

    Attributes:
        kinks: Inputs at which the slope jumps, ascending.
        flat: Which of the pieces between the kinks, counted from the left, have slope zero.
        inplace: Whether the input is overwritten.
        piecewise_linear: Whether it is linear between the kinks.
        continuous: Whether its values do not jump.
    """

    kinks: tuple[float, ...] = ()
    flat: tuple[int, ...] = ()
    inplace: bool = False
    piecewise_linear: bool = True
    continuous: bool = True


class UnknownBendsError(ValueError):
    """Kinks that are not the same for all entries."""


@dataclass(frozen=True)
class Operation:
    """One row of the table.

    Attributes:
        effect: What it does to data.
        bends: Of a kinked operation, how it bends; takes the arguments behind the first.
        kinks: Of a curved operation, the inputs at which its slope jumps.
        added: Position and name of the argument that a product or layer adds, a bias say; it is no factor.
        fixed: Position and name of an argument in which it is not affine.
        unit_dim: The dimension along which the result's units differ, if it makes units.
        output_dim: Of a layer with a weight tensor, the dimension of the weight along which output units differ.
        homogeneous: Whether ``f(c x) = c f(x)`` for positive ``c``, whatever its options are.
        keeps_zero: Whether it gives zeros for zeros.
        keeps_units: Whether units stay apart and in their place, up to statistics of them all.
        in_chain: Whether it passes on all of what comes in and nothing else.
        passes_paths: Whether a path goes through it with factor 1; clipping does not count.
    """

    effect: Effect
    bends: Callable[..., Bends] | None = None
    kinks: tuple[float, ...] = ()
    added: tuple[int, str] | None = None
    fixed: tuple[int, str] | None = None
    unit_dim: int | None = None
    output_dim: int | None = None
    homogeneous: bool = False
    keeps_zero: bool = False
    keeps_units: bool = False
    in_chain: bool = False
    passes_paths: bool = False


# How kinked activations bend. Each has the signature of the torch function behind its first argument. ----------


def _relu(inplace: bool = False) -> Bends:
    return Bends((0.0,), (0,), inplace)


def _relu6(inplace: bool = False) -> Bends:
    return Bends((0.0, 6.0), (0, 2), inplace)


def _hardtanh(min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Bends:
    return Bends((float(min_val), float(max_val)), (0, 2), inplace)


def _hardsigmoid(inplace: bool = False) -> Bends:
    return Bends((-3.0, 3.0), (0, 2), inplace)


def _leaky_relu(negative_slope: float = 0.01, inplace: bool = False) -> Bends:
    return Bends((0.0,), () if negative_slope else (0,), inplace)


def _prelu(weight: Tensor) -> Bends:  # noqa: ARG001
    return Bends((0.0,))


def _rrelu(
    lower: float = 0.125,  # noqa: ARG001
    upper: float = 1 / 3,  # noqa: ARG001
    training: bool = False,  # noqa: ARG001
    inplace: bool = False,
) -> Bends:
    return Bends((0.0,), (), inplace)


def _threshold(threshold: float, value: float, inplace: bool = False) -> Bends:
    return Bends((float(threshold),), (0,), inplace, continuous=threshold == value)


def _softshrink(lambd: float = 0.5) -> Bends:
    return Bends((-lambd, lambd), (1,))


def _hardshrink(lambd: float = 0.5) -> Bends:
    return Bends((-lambd, lambd), (1,), continuous=lambd == 0)


def _absolute() -> Bends:
    return Bends((0.0,))


def _number(bound: Any) -> float:
    if isinstance(bound, Tensor) and bound.numel() != 1:
        raise UnknownBendsError
    return float(bound)


def _clamp(min: Any = None, max: Any = None) -> Bends:  # noqa: A002 (the operation's signature)
    low, high = (() if bound is None else (_number(bound),) for bound in (min, max))
    flat = ((0,) if low else ()) + ((len(low) + 1,) if high else ())
    return Bends(low + high, flat[:1] if low == high else flat)


def _clamp_min(min: Any) -> Bends:  # noqa: A002
    return _clamp(min=min)


def _clamp_max(max: Any) -> Bends:  # noqa: A002
    return _clamp(max=max)


# The table --------------------------------------------------------------------------------------------------------

OPERATIONS: dict[str, Operation] = {}
"""Rows by plain name, see :func:`plain_name`."""


def _rows(effect: Effect, names: str, **properties: Any) -> None:
    OPERATIONS.update(dict.fromkeys(names.split(), Operation(effect, **properties)))


_LINEAR_MAP: dict[str, Any] = {"homogeneous": True, "keeps_zero": True}
_UNIT_BY_UNIT: dict[str, Any] = {**_LINEAR_MAP, "keeps_units": True}

_rows(
    Effect.SHAPE,
    """zeros_like ones_like full_like empty_like rand_like randn_like randint_like new_zeros new_ones new_full new_empty
    new_tensor zero isfinite isnan isinf""",
)
_rows(
    Effect.READ,
    "item tolist numpy equal allclose is_nonzero __bool__ __int__ __float__ __index__ __array__ __contains__",
)
_rows(
    Effect.DECISION,
    """gt lt ge le eq ne greater less greater_equal less_equal not_equal isclose argmax argmin argsort any all
    count_nonzero nonzero logical_and logical_or logical_not logical_xor and or xor invert bucketize searchsorted
    bool long int""",
)
_rows(Effect.MOVE, "to float double", **_UNIT_BY_UNIT)
_rows(Effect.MOVE, "clone contiguous", in_chain=True, **_UNIT_BY_UNIT)
_rows(Effect.MOVE, "flatten unflatten view reshape squeeze unsqueeze", in_chain=True, **_LINEAR_MAP)
_rows(
    Effect.MOVE,
    """permute transpose swapaxes swapdims movedim moveaxis expand expand_as broadcast_to broadcast_tensors repeat
    repeat_interleave tile chunk split tensor_split hsplit vsplit split_with_sizes unbind narrow select getitem
    setitem T mT data detach flip fliplr flipud rot90 roll ravel view_as reshape_as pixel_shuffle pixel_unshuffle
    channel_shuffle native_channel_shuffle unfold cat concat concatenate stack hstack vstack dstack column_stack
    atleast_1d atleast_2d atleast_3d index_select gather take take_along_dim diagonal diag diag_embed tril triu
    meshgrid copy half bfloat16 type type_as cpu cuda requires_grad retain_grad set alias real as_strided""",
    **_LINEAR_MAP,
)
_rows(Effect.MOVE, "nan_to_num positive", **_UNIT_BY_UNIT)
_rows(
    Effect.MOVE,
    "alpha_dropout feature_alpha_dropout dropout1d dropout2d dropout3d feature_dropout",
    passes_paths=True,
    **_UNIT_BY_UNIT,
)
_rows(Effect.MOVE, "dropout", in_chain=True, passes_paths=True, **_UNIT_BY_UNIT)
_rows(Effect.SUM, "add sub rsub", keeps_units=True)
_rows(Effect.SUM, "neg", passes_paths=True, **_LINEAR_MAP)
_rows(Effect.SUM, "sum mean nansum nanmean cumsum diff trace interpolate upsample fold", **_LINEAR_MAP)
_rows(
    Effect.SUM,
    """pad where masked_fill masked_scatter masked_select index_add index_copy index_put index_fill scatter scatter_add
    select_scatter slice_scatter diagonal_scatter fill fill_diagonal constant_pad_nd""",
)
_rows(Effect.SUM, "lerp", fixed=(2, "weight"))
_rows(Effect.SUM, "grid_sample", fixed=(1, "grid"))
_rows(
    Effect.PRODUCT,
    """mul einsum tensordot dot vdot inner outer ger kron cross linalg_multi_dot chain_matmul mv embedding embedding_bag
    sparse_mm spmm smm""",
)
_rows(Effect.PRODUCT, "div", fixed=(1, "other"))
_rows(Effect.PRODUCT, "addcmul addr addmv", added=(0, "input"))
_rows(Effect.LAYER, "matmul rmatmul mm bmm", unit_dim=-1)
_rows(Effect.LAYER, "addmm baddbmm addbmm", added=(0, "input"), unit_dim=-1)
_rows(Effect.LAYER, "bilinear", added=(3, "bias"), unit_dim=-1)
_rows(Effect.LAYER, "linear", added=(2, "bias"), unit_dim=-1, output_dim=0, in_chain=True)
_rows(Effect.LAYER, "conv1d conv2d conv3d", added=(2, "bias"), unit_dim=1, output_dim=0, in_chain=True)
_rows(Effect.LAYER, "convolution", added=(2, "bias"), unit_dim=1)
_rows(
    Effect.LAYER,
    "conv_transpose1d conv_transpose2d conv_transpose3d",
    added=(2, "bias"),
    unit_dim=1,
    output_dim=1,
)
_rows(Effect.BATCH_NORM, "batch_norm", keeps_units=True, in_chain=True)
_rows(
    Effect.MEAN_POOLING,
    "avg_pool1d avg_pool2d avg_pool3d adaptive_avg_pool1d adaptive_avg_pool2d adaptive_avg_pool3d",
    in_chain=True,
    **_UNIT_BY_UNIT,
)
_rows(
    Effect.MAX_POOLING,
    "max_pool1d max_pool2d max_pool3d adaptive_max_pool1d adaptive_max_pool2d adaptive_max_pool3d",
    **_UNIT_BY_UNIT,
)
_rows(Effect.MAXIMUM, "maximum minimum fmax fmin max min amax amin", **_LINEAR_MAP)
_rows(Effect.KINKED, "relu", bends=_relu, passes_paths=True, **_UNIT_BY_UNIT)
_rows(Effect.KINKED, "abs", bends=_absolute, passes_paths=True, **_UNIT_BY_UNIT)
_rows(Effect.KINKED, "leaky_relu", bends=_leaky_relu, **_UNIT_BY_UNIT)
_rows(Effect.KINKED, "prelu", bends=_prelu, **_UNIT_BY_UNIT)
_rows(Effect.KINKED, "rrelu", bends=_rrelu, **_UNIT_BY_UNIT)
_rows(Effect.KINKED, "relu6", bends=_relu6, keeps_zero=True, keeps_units=True, passes_paths=True)
_rows(Effect.KINKED, "hardtanh", bends=_hardtanh, keeps_units=True, passes_paths=True)
_rows(Effect.KINKED, "softshrink", bends=_softshrink, keeps_zero=True, keeps_units=True)
_rows(Effect.KINKED, "hardshrink", bends=_hardshrink, keeps_zero=True, keeps_units=True)
_rows(Effect.KINKED, "hardsigmoid", bends=_hardsigmoid, keeps_units=True)
_rows(Effect.KINKED, "threshold", bends=_threshold, keeps_units=True)
_rows(Effect.KINKED, "clamp", bends=_clamp, keeps_units=True)
_rows(Effect.KINKED, "clamp_min", bends=_clamp_min, keeps_units=True)
_rows(Effect.KINKED, "clamp_max", bends=_clamp_max, keeps_units=True)
_rows(Effect.CURVED, "tanh gelu silu mish elu celu softsign tanhshrink erf", keeps_zero=True, keeps_units=True)
_rows(Effect.CURVED, "sigmoid softplus logsigmoid", keeps_units=True)
_rows(Effect.CURVED, "selu", kinks=(0.0,), keeps_zero=True, keeps_units=True)
_rows(Effect.CURVED, "hardswish", kinks=(-3.0, 3.0), keeps_zero=True, keeps_units=True)
_rows(Effect.POINTWISE, "exp log sqrt rsqrt pow square reciprocal rdiv rpow float_power", keeps_units=True)
_rows(Effect.MIXING, "layer_norm group_norm instance_norm rms_norm", keeps_units=True)
_rows(
    Effect.MIXING,
    """softmax log_softmax softmin gumbel_softmax glu normalize local_response_norm scaled_dot_product_attention
    multi_head_attention_forward lstm gru rnn_tanh rnn_relu sort topk median cummax cummin aminmax logsumexp norm var
    std var_mean std_mean linalg_vector_norm linalg_norm prod""",
)

_SYNONYMS = dict(
    pair.split("=")
    for pair in """
    absolute=abs clip=clamp negative=neg subtract=sub multiply=mul divide=div true_divide=div truediv=div itruediv=div
    idiv=div rtruediv=rdiv radd=add iadd=add rmul=mul imul=mul imatmul=matmul isub=sub ipow=pow adjoint=mT expit=sigmoid
    log_sigmoid=logsigmoid iand=and ior=or ixor=xor bitwise_and=and bitwise_or=or bitwise_xor=xor bitwise_not=invert
    native_layer_norm=layer_norm native_group_norm=group_norm
    """.split()  # noqa: SIM905 (reads better so)
)


def plain_name(name: str) -> str:
    """The name by which the table knows an operation, from that of a function, method, operator or ATen operation.

    Example:
        >>> [plain_name(name) for name in ("relu_", "__radd__", "clip", "special_exp2", "mul.Tensor")]
        ['relu', 'add', 'clamp', 'exp2', 'mul']
    """
    if name in OPERATIONS:
        return name
    name = name.partition(".")[0].removeprefix("special_").removesuffix("_with_indices")
    plain = name.strip("_") if name.startswith("__") else name.removesuffix("_").removeprefix("_")
    return _SYNONYMS.get(plain, plain)


_OVERWRITING_OPERATORS = {
    *("__setitem__", "__set__"),
    *(f"__i{name}__" for name in ("add", "sub", "mul", "div", "truediv", "floordiv", "mod", "pow", "matmul")),
    *(f"__i{name}__" for name in ("and", "or", "xor", "lshift", "rshift")),
}


def overwrites(name: str, kwargs: dict[str, Any]) -> bool:
    """Whether an operation may write into its first argument; a wrong yes costs a copy."""
    name = name.partition(".")[0]
    if name.startswith("__"):
        return name in _OVERWRITING_OPERATORS
    return name.endswith("_") or kwargs.get("inplace", False) is True


def argument(args: tuple[Any, ...], kwargs: dict[str, Any], place: tuple[int, str], default: Any = None) -> Any:
    """An argument by its position or its name."""
    position, name = place
    return args[position] if position < len(args) else kwargs.get(name, default)


def bends_of(plain: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Bends:
    """How an activation bends.

    Args:
        plain: Plain name of a kinked or curved operation.
        args: Positional arguments behind the first.
        kwargs: Keyword arguments.

    Raises:
        UnknownBendsError: If not all entries bend at the same inputs.
    """
    operation = OPERATIONS[plain]
    if operation.bends is not None:
        return operation.bends(*args, **kwargs)
    alpha = argument(args, kwargs, (0, "alpha"), 1.0)
    kinks = (0.0,) if plain == "elu" and alpha != 1 else operation.kinks
    return Bends(kinks, inplace=kwargs.get("inplace", False) is True, piecewise_linear=False)
