"""Norms of each layer's weight matrix: which there are, and how they are read off a network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_complexity.functional.norms import mixed_norm
from lightning_complexity.functional.spectra import schatten_norm, singular_values
from lightning_complexity.functional.spectral_norms import (
    NUM_WARM_VECTORS,
    circular_norm,
    warm_started_spectral_norm,
)
from lightning_complexity.network.convolutions import warm_started_operator_norm
from lightning_complexity.network.weights import Weight

MatrixNorm = Literal["frobenius", "spectral", "trace"] | tuple[Literal["schatten"], float] | tuple[float, float]
ConvolutionNorm = Literal["kernel", "circular", "operator"]


def norm_name(norm: Any) -> str:
    """Name of a norm in log keys.

    Raises:
        ValueError: If it is none.

    Example:
        >>> norm_name("trace"), norm_name(("schatten", 1.5)), norm_name((2, 1))
        ('trace', 'schatten_1p5', '2_1')
    """
    if norm in ("frobenius", "spectral", "trace"):
        return str(norm)
    if isinstance(norm, (tuple, list)) and len(norm) == 2:
        orders = norm[1:] if norm[0] == "schatten" else norm
        if all(isinstance(order, (int, float)) and order >= 1 for order in orders):
            numbers = "_".join(f"{order:g}".replace(".", "p") for order in orders)
            return f"schatten_{numbers}" if norm[0] == "schatten" else numbers
    raise ValueError(
        'norm must be "frobenius", "spectral", "trace", ("schatten", p) or a pair (p, q) with numbers of at least 1, '
        f"got {norm!r}."
    )


def check_convolution(convolution: str, norm: Any = "spectral") -> None:
    """Raise an error unless the norm of convolutions can be chosen so."""
    if convolution not in get_args(ConvolutionNorm):
        raise ValueError(f'convolution must be "kernel", "circular" or "operator", got {convolution!r}.')
    if convolution != "kernel" and norm != "spectral":
        raise ValueError(f'convolution={convolution!r} needs norm="spectral", got norm={norm!r}.')


def schatten_order(norm: MatrixNorm) -> float | None:
    """Order of the norm of singular values that ``norm`` is; ``None`` if it is one of the entries."""
    if isinstance(norm, str):
        return {"trace": 1.0, "spectral": torch.inf}.get(norm)
    return float(norm[1]) if norm[0] == "schatten" else None


def matrix_norms(
    weights: list[Weight], norm: MatrixNorm, vectors: dict[str, Tensor] | None = None, key: str = "weight"
) -> dict[str, Tensor]:
    """Norm of each weight matrix by name, convolutions reshaped to ``(out, in * kernel)``.

    Args:
        weights: Which.
        norm: As in :meth:`Snapshot.layer_norms`.
        vectors: Singular vectors that spectral norms start from, by ``key`` and name; brought up to date.
        key: Tells the matrices of one kind from those of another.
    """
    if norm == "spectral":
        return {w.name: _follow_spectral_norm(w, vectors, f"{key}/{w.name}") for w in weights}
    order = schatten_order(norm)
    if order is not None:
        return {w.name: schatten_norm(singular_values(w.blocks).flatten(), order) for w in weights}
    p, q = (2.0, 2.0) if isinstance(norm, str) else (float(order) for order in norm)
    return {w.name: mixed_norm(w.blocks, p, q) for w in weights}


def _follow_spectral_norm(weight: Weight, vectors: dict[str, Tensor] | None, key: str) -> Tensor:
    norms, found = warm_started_spectral_norm(weight.blocks, (vectors or {}).get(key))
    if found is not None and vectors is not None:
        vectors[key] = found
    return norms.amax()


def warm_started_operator_norms(
    weights: list[Weight], shapes: Mapping[int, torch.Size], vectors: dict[str, Tensor] | None, key: str
) -> dict[str, Tensor]:
    """Norm of each layer's linear map by name, of convolutions at their input's size.

    Args:
        weights: Which.
        shapes: Input shape of each convolution, channels first, by ``id`` of the module.
        vectors: As in :func:`matrix_norms`.
        key: As in :func:`matrix_norms`.
    """
    norms = {}
    for w in weights:
        name = f"{key}/{w.name}"
        if not w.is_convolution:
            norms[w.name] = _follow_spectral_norm(w, vectors, name)
        elif vectors is None:
            norms[w.name], _ = warm_started_operator_norm(w, _called_with(w, shapes))
        else:
            shape = _called_with(w, shapes)
            norms[w.name], vectors[name] = warm_started_operator_norm(w, shape, vectors.get(name), NUM_WARM_VECTORS)
    return norms


def circular_norms(weights: list[Weight], shapes: Mapping[int, torch.Size]) -> dict[str, Tensor]:
    """Norm of each convolution with stride 1 on a torus of its input's size; spectral norms of other layers.

    Args:
        weights: Which.
        shapes: Input shape of each convolution, channels first, by ``id`` of the module.
    """
    return {w.name: _circular_norm(w, shapes) for w in weights}


def _circular_norm(weight: Weight, shapes: Mapping[int, torch.Size]) -> Tensor:
    if not weight.is_convolution:
        return warm_started_spectral_norm(weight.blocks)[0].amax()
    size = _called_with(weight, shapes)[1:]
    kernel = weight.tensor.reshape(len(weight.blocks), -1, *weight.tensor.shape[1:])
    return circular_norm(_dilated(kernel, weight.module), size)


def _dilated(kernel: Tensor, module: nn.Module) -> Tensor:
    for dim, step in enumerate(module.dilation, -len(module.dilation)):  # type: ignore[arg-type]
        length = kernel.shape[dim]
        shape = list(kernel.shape)
        shape[dim] = step * (length - 1) + 1
        places = torch.arange(0, shape[dim], step, device=kernel.device)
        kernel = kernel.new_zeros(shape).index_add(dim, places, kernel)
    return kernel


def _called_with(weight: Weight, shapes: Mapping[int, torch.Size]) -> torch.Size:
    """Shape of one input of a weight's convolution.

    Raises:
        ValueError: If the convolution was never called.
    """
    if id(weight.module) not in shapes:
        raise ValueError(f"the norm of {weight.name!r} needs its input size, but it was not called.")
    return shapes[id(weight.module)]
