"""The weight matrices of a network, chosen by module type."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import prod

from torch import Tensor, nn
from torch.nn.utils.spectral_norm import SpectralNorm

from lightning_complexity.network.running.guard import hooked_weights

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED_CONVOLUTIONS = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_GATES = {"RNN_TANH": 1, "RNN_RELU": 1, "GRU": 3, "LSTM": 4}


@dataclass(frozen=True)
class Weight:
    """One weight matrix as the network uses it, after any parametrization.

    Attributes:
        name: Path of the parameter, such as ``"encoder.0.weight"``; a part of a packed parameter
            adds its own name, ``"attention.in_proj_weight.q"``.
        tensor: The weight in its own shape.
        blocks: The same numbers as matrices, shape ``(groups, rows, columns)``. A linear layer has one
            block ``(out, in)``; a convolution with ``g`` groups has ``g`` blocks
            ``(out / g, in / g * kernel)``, for its matrix is block diagonal; a transposed convolution
            has those of the convolution it is the transpose of.
        module: The module it belongs to.
    """

    name: str
    tensor: Tensor
    blocks: Tensor
    module: nn.Module

    @property
    def is_convolution(self) -> bool:
        """Whether it is that of a convolution or transposed convolution."""
        return isinstance(self.module, (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS))

    def minus(self, other: Weight) -> Weight:
        """Difference to another weight of the same layer."""
        return Weight(self.name, self.tensor - other.tensor, self.blocks - other.blocks, self.module)


def _weight_names(module: nn.Module) -> list[str]:
    if isinstance(module, nn.MultiheadAttention):
        return ["in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"]
    if isinstance(module, nn.RNNBase):
        return [name for name, _ in module.named_parameters(recurse=False) if name.startswith("weight")]
    if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS, nn.Linear, nn.Embedding, nn.EmbeddingBag)):
        return ["weight"]
    return []


def _split(name: str, tensor: Tensor, module: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Take a parameter that packs several matrices apart."""
    if isinstance(module, nn.MultiheadAttention) and name.endswith("in_proj_weight"):
        yield from ((f"{name}.{part}", t) for part, t in zip("qkv", tensor.chunk(3), strict=True))
    elif isinstance(module, nn.RNNBase) and "_hr_" not in name:
        yield from ((f"{name}.{gate}", t) for gate, t in enumerate(tensor.chunk(_GATES[module.mode])))
    else:
        yield name, tensor


def _blocks(tensor: Tensor, module: nn.Module) -> Tensor:
    groups = module.groups if isinstance(module, (*CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)) else 1
    return tensor.reshape(groups, tensor.shape[0] // groups, prod(tensor.shape[1:]))


def _current_weight(module: nn.Module, name: str) -> Tensor | None:
    """The weight that the next forward pass would use; an attribute that a hook sets is that of the last."""
    for hook in hooked_weights(module):
        if hook.name == name:
            if isinstance(hook, SpectralNorm):
                return hook.compute_weight(module, do_power_iteration=False)
            return hook.compute_weight(module)
    weight: Tensor | None = getattr(module, name)
    return weight


def read_weights(model: nn.Module, stand_in: Callable[[Tensor], Tensor] = lambda weight: weight) -> list[Weight]:
    """All weight matrices of ``model``, in the order of ``named_modules``.

    Read are ``Linear``, ``Conv1d`` to ``Conv3d`` and their transposes, ``Embedding``, ``EmbeddingBag``, the packed
    projection of ``MultiheadAttention`` as its query, key and value part, and the gates of ``RNN``,
    ``GRU`` and ``LSTM`` one by one. A weight that several modules share appears once, under the first name.
    Biases, normalization layers and bare ``nn.Parameter`` of user modules are no weight matrices.

    Args:
        model: Any module. Reading the weight of a parametrized layer in training mode may change its
            buffers; read through a :class:`lightning_complexity.network.Snapshot` instead.
        stand_in: Gives what is read in place of a weight.

    Returns:
        One :class:`Weight` for each matrix; empty if there is none.

    Example:
        >>> [(w.name, tuple(w.blocks.shape)) for w in read_weights(nn.Conv2d(2, 4, 3, groups=2))]
        [('weight', (2, 2, 9))]
    """
    seen: list[Tensor] = []
    found: list[Weight] = []
    for path, module in model.named_modules():
        for name in _weight_names(module):
            tensor = _current_weight(module, name)
            if tensor is None or any(tensor is other for other in seen):
                continue
            seen.append(tensor)
            full_name = f"{path}.{name}" if path else name
            for part, matrix in _split(full_name, stand_in(tensor), module):
                found.append(Weight(part, matrix, _blocks(matrix, module), module))
    return found


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that BatchNorm folding reads, by name."""
    normalizations = (m for m in model.named_modules() if isinstance(m[1], nn.modules.batchnorm._NormBase))
    return {
        f"{path}.{name}".removeprefix("."): buffer
        for path, module in normalizations
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }


def quantized_layers(model: nn.Module) -> list[str]:
    """Paths of the layers whose weights are kept as integers: quantized, packed, or in a tensor of its own kind.

    Example:
        >>> quantized_layers(nn.Sequential(nn.Linear(2, 3)))
        []
    """
    found = (path for path, module in model.named_modules() if _is_quantized(module))
    return [path for path in found if not path.endswith("_packed_params")]  # the module that holds them


def _is_quantized(module: nn.Module) -> bool:
    if hasattr(module, "_packed_params") or hasattr(module, "_all_weight_values"):
        return True
    weighted = (nn.Linear, nn.Embedding, nn.EmbeddingBag, *CONVOLUTIONS, *TRANSPOSED_CONVOLUTIONS)
    weight = module._parameters.get("weight") if isinstance(module, weighted) else None
    if weight is not None and not (weight.is_floating_point() or weight.is_complex()):
        return True
    return any(_holds_integers(p) for p in module.parameters(recurse=False))


def _holds_integers(tensor: Tensor) -> bool:
    """Whether a tensor that says it holds floating-point numbers keeps them as integers."""
    if tensor.is_quantized:
        return True
    flatten = getattr(tensor, "__tensor_flatten__", None)  # of wrappers around other tensors
    inside = [] if flatten is None else [getattr(tensor, name) for name in flatten()[0]]
    parts = [part for part in inside if isinstance(part, Tensor)]
    return any(not (p.is_floating_point() or p.is_complex()) or _holds_integers(p) for p in parts)


def low_rank_adapters(model: nn.Module) -> list[str]:
    """Paths of the modules that add a product of two thin matrices to a weight matrix, as LoRA does.

    Such a module has, down to two levels below it, the weights of exactly three linear layers: a base of shape
    ``(out, in)``, and without biases ``A`` of shape ``(r, in)`` and ``B`` of shape ``(out, r)``, where ``r`` is less
    than both. The two may also be parameters of the linear layer itself. A ``Sequential`` of three layers is none.

    Example:
        >>> import torch
        >>> linear = nn.Linear(4, 4)
        >>> linear.lora_A, linear.lora_B = nn.Parameter(torch.ones(1, 4)), nn.Parameter(torch.zeros(4, 1))
        >>> low_rank_adapters(nn.ModuleDict({"projection": linear}))
        ['projection']
    """
    found = [path for path, module in model.named_modules() if _is_adapted(module)]
    return [path for path in found if not any(_is_below(other, path) for other in found)]


def _is_below(path: str, ancestor: str) -> bool:
    return path != ancestor and (not ancestor or path.startswith(f"{ancestor}."))


def _is_adapted(module: nn.Module) -> bool:
    if isinstance(module, nn.Sequential):
        return False
    linear = [m for path, m in module.named_modules() if isinstance(m, nn.Linear) and path.count(".") < 2]
    # Not the weights themselves: to read one that is parametrized may change it.
    matrices = [((m.out_features, m.in_features), m.bias is None) for m in linear]
    if isinstance(module, nn.Linear):
        own = module.named_parameters(recurse=False)
        matrices += [((p.shape[0], p.shape[1]), True) for name, p in own if name != "weight" and p.ndim == 2]
    return len(matrices) == 3 and any(_fit(*order) for order in itertools.permutations(matrices))


_Matrix = tuple[tuple[int, int], bool]


def _fit(base: _Matrix, a: _Matrix, b: _Matrix) -> bool:
    """Whether the second and third are thin factors, without biases, of a matrix of the shape of the first."""
    (shape, _), (down, down_alone), (up, up_alone) = base, a, b
    rank = down[0]
    fits = down[1] == shape[1] and up == (shape[0], rank) and rank < min(shape)
    return fits and down_alone and up_alone
