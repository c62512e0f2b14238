"""Whether outputs are piecewise linear in each single parameter, read off the graph of derivatives.

What autograd has recorded is all that depends on parameters, also where a weight is computed from them, where functions
are the network's own, and where a module is used twice.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


_LINEAR = _names(
    """AccumulateGrad AddBackward0 AddBackward1 SubBackward0 SubBackward1 RsubBackward1 NegBackward0 SumBackward0
    SumBackward1 MeanBackward0 MeanBackward1 ViewBackward0 UnsafeViewBackward0 ReshapeAliasBackward0 AliasBackward0
    TBackward0 TransposeBackward0 PermuteBackward0 ExpandBackward0 SqueezeBackward0 SqueezeBackward1
    SqueezeBackward2 UnsqueezeBackward0 SelectBackward0 SliceBackward0 IndexBackward0 IndexSelectBackward0
    GatherBackward0 CatBackward0 StackBackward0 SplitBackward0 SplitWithSizesBackward0 UnbindBackward0
    ChunkBackward0 NarrowBackward0 CloneBackward0 LazyCloneBackward0 ToCopyBackward0 ContiguousBackward0
    FlipBackward0 RollBackward0 RepeatBackward0 AsStridedBackward0 CopySlices CopyBackwards AvgPool1DBackward0
    AvgPool2DBackward0 AvgPool3DBackward0 AdaptiveAvgPool2DBackward0 AdaptiveAvgPool3DBackward0
    ConstantPadNdBackward0 ReflectionPad1DBackward0 ReflectionPad2DBackward0 ReplicationPad1DBackward0
    ReplicationPad2DBackward0 UpsampleNearest2DBackward0 UpsampleBilinear2DBackward0 PixelShuffleBackward0
    PixelUnshuffleBackward0 Im2ColBackward0 Col2ImBackward0 EmbeddingBackward0 MaskedFillBackward0
    MaskedFillBackward1 WhereBackward0 TrilBackward0 TriuBackward0 UnfoldBackward0 MovedimBackward0
    NativeChannelShuffleBackward0 CumsumBackward0"""
)
_KINKED = _names(
    """ReluBackward0 LeakyReluBackward0 LeakyReluBackward1 ThresholdBackward0 HardtanhBackward0 HardtanhBackward1
    ClampBackward0 ClampBackward1 ClampMinBackward0 ClampMaxBackward0 AbsBackward0 HardsigmoidBackward0
    SoftshrinkBackward0 HardshrinkBackward0 MaxPool2DWithIndicesBackward0 MaxPool3DWithIndicesBackward0
    AdaptiveMaxPool2DBackward0 AdaptiveMaxPool3DBackward0 MaximumBackward0 MinimumBackward0 MaxBackward0
    MaxBackward1 MinBackward0 MinBackward1 AmaxBackward0 AminBackward0"""
)
# Positions of the two factors among the tensors that an operation takes, and how many these are.
_PRODUCTS = {
    **dict.fromkeys(("MulBackward0", "MmBackward0", "BmmBackward0", "MvBackward0", "DotBackward0"), (0, 1, 2)),
    "PreluKernelBackward0": (0, 1, 2),
    **dict.fromkeys(("AddmmBackward0", "AddmvBackward0", "BaddbmmBackward0", "AddcmulBackward0"), (1, 2, 3)),
    **dict.fromkeys(("ConvolutionBackward0", "NativeBatchNormBackward0", "LinearBackward0"), (0, 1, 3)),
}


def not_multilinear(outputs: Iterable[Tensor]) -> str | None:
    """The operation that may keep outputs from being piecewise linear in each single parameter.

    They are if all operations are affine or have kinks, and no product has one parameter in both factors: the second
    derivative for each parameter is then zero, wherever there is one, and the Hessian of a loss of the outputs has the
    diagonal of its Gauss-Newton matrix. What is not known counts as curved.

    Args:
        outputs: With the graph from the parameters to them.

    Returns:
        The name of the first such operation, ``None`` if there is none.

    Example:
        >>> import torch
        >>> net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.ReLU(), torch.nn.Linear(3, 1))
        >>> print(not_multilinear([net(torch.ones(1, 2))]))
        None
        >>> not_multilinear([net(torch.ones(1, 2)).tanh()])
        'Tanh'
    """
    leaves: dict[Any, int] = {}
    supports: dict[Any, int] = {None: 0}  # the parameters that a node depends on, one bit each
    for node in _children_first(outputs):
        name = node.name()
        if name.endswith("AccumulateGrad"):
            supports[node] = leaves.setdefault(node, 1 << len(leaves))
            continue
        parts = [supports[earlier] for earlier, _ in node.next_functions]
        if not _keeps_linear(node, name, parts):
            return str(name.partition("Backward")[0])
        total = 0
        for part in parts:
            total |= part
        supports[node] = total
    return None


def _keeps_linear(node: Any, name: str, parts: list[int]) -> bool:
    if name in _LINEAR or name in _KINKED:
        return True
    if name == "DivBackward0":
        return parts[1:] in ([], [0])
    if name not in _PRODUCTS or getattr(node, "_saved_training", False):
        return False
    first, second, count = _PRODUCTS[name]
    return len(parts) == count and not parts[first] & parts[second]


def _children_first(outputs: Iterable[Tensor]) -> Iterable[Any]:
    """The nodes of the outputs' graph, each behind those that it is computed from."""
    waiting: list[tuple[Any, bool]] = [(tensor.grad_fn, False) for tensor in outputs if tensor.grad_fn is not None]
    seen: set[Any] = {None}
    while waiting:
        node, is_open = waiting.pop()
        if is_open:
            yield node
        elif node not in seen:
            seen.add(node)
            waiting.append((node, True))
            waiting += [(earlier, False) for earlier, _ in node.next_functions if earlier not in seen]
