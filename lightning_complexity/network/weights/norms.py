"""The weight matrices of a network, their spectra and norms, and their distance from where they started."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from lightning_complexity.functional.numerics.spectral_norms import (
    NUM_WARM_VECTORS,
    circular_norm,
    warm_started_spectral_norm,
)
from lightning_complexity.functional.weights.norms import mixed_norm
from lightning_complexity.functional.weights.paths import Scaled
from lightning_complexity.functional.weights.spectra import schatten_norm, singular_values
from lightning_complexity.network.errors import MeasureError
from lightning_complexity.network.outputs import check_not_quantized, check_real
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.folding import fold_batch_norm
from lightning_complexity.network.tracing.path_sums import path_sums as read_path_sums
from lightning_complexity.network.weights.choice import LayerChoice, chosen
from lightning_complexity.network.weights.convolutions import input_shapes as read_input_shapes
from lightning_complexity.network.weights.convolutions import warm_started_operator_norm
from lightning_complexity.network.weights.matrices import Weight, low_rank_adapters, read_weights, running_statistics

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


def weight_matrices(snapshot: Snapshot, *, folded: bool = False, layers: LayerChoice | None = None) -> list[Weight]:
    """The weight matrices, see :func:`read_weights`.

    Args:
        snapshot: Of the network.
        folded: Whether the BatchNorm that follows a layer is multiplied into it. Needs inputs.
        layers: Which layers count; all by default.

    Raises:
        MeasureError: If there are none, or where the matrices of a low-rank adapter are no layers of their own.
    """
    weights = _all_weights(snapshot, folded)
    if layers is None:
        _check_no_adapters(snapshot)
        return _with_entries(weights)
    found = [w for w in weights if layers(w.name, w.module)]
    if not found:
        raise MeasureError(f"no weight matrix is chosen by {layers}; there are {', '.join(w.name for w in weights)}.")
    return _with_entries(found)


def weights_of(snapshot: Snapshot, path: str) -> list[Weight]:
    """The weight matrices of one module, also those that it shares with a module before it.

    Args:
        snapshot: Of the network.
        path: Name of the module.

    Raises:
        MeasureError: As :func:`weight_matrices`.
    """
    weight_matrices(snapshot)
    return snapshot.read(lambda model, stand_in: read_weights(model.get_submodule(path), stand_in))


def _with_entries(weights: list[Weight]) -> list[Weight]:
    empty = next((w for w in weights if w.tensor.numel() == 0), None)
    if empty is not None:
        raise MeasureError(
            f"needs weight matrices with entries, but {empty.name!r} has shape {tuple(empty.tensor.shape)}. Build the "
            "layer with at least one unit, or choose others where the measure has .on(...)."
        )
    return weights


@shared
def _all_weights(snapshot: Snapshot, folded: bool) -> list[Weight]:
    check_not_quantized(snapshot)
    check_real(snapshot)
    if folded:
        weights = snapshot.run_one(lambda model, sample: fold_batch_norm(model, sample, read_weights(model)))
    else:
        weights = snapshot.read(read_weights)
    if not weights:
        raise MeasureError("needs a network with weight matrices; this one has none that are known.")
    return weights


def _check_no_adapters(snapshot: Snapshot) -> None:
    adapted = low_rank_adapters(snapshot.model)
    if adapted:
        raise MeasureError(
            f"{adapted[0] or 'the network'!r} adds the product of two matrices of low rank to a layer, so that its "
            "matrices are no layers of a chain. Merge the adapters into the layers, or choose layers with .on(...)."
        )


def chosen_parameters(
    snapshot: Snapshot, layers: LayerChoice | None = None, *, integers: bool = False
) -> dict[str, Tensor]:
    """The parameters by name, tied ones once; of the chosen layers.

    Args:
        snapshot: Of the network.
        layers: Which layers count; all by default.
        integers: Whether tables of integers count too.
    """
    check_not_quantized(snapshot)
    found = {n: p for n, p in snapshot.parameters.items() if integers or p.is_floating_point() or p.is_complex()}
    return chosen(found, layers, snapshot.model)


@shared
def _spectrum(snapshot: Snapshot, name: str, folded: bool) -> Tensor:
    return singular_values(_weight(snapshot, name, folded).blocks).flatten()


def _weight(snapshot: Snapshot, name: str, folded: bool) -> Weight:
    return next(w for w in _all_weights(snapshot, folded) if w.name == name)


def spectra(snapshot: Snapshot, *, folded: bool = False, layers: LayerChoice | None = None) -> dict[str, Tensor]:
    """Singular values of each weight by name; of a grouped convolution those of all its blocks."""
    weights = weight_matrices(snapshot, folded=folded, layers=layers)
    return {w.name: _spectrum(snapshot, w.name, folded) for w in weights}


@shared
def convolution_inputs(snapshot: Snapshot) -> dict[int, torch.Size]:
    """Shape of one input of every convolution that is called, by ``id`` of the module. Needs inputs."""
    return snapshot.run_one(read_input_shapes)


def layer_norms(
    snapshot: Snapshot,
    norm: MatrixNorm = "spectral",
    *,
    convolution: ConvolutionNorm = "kernel",
    folded: bool = False,
    layers: LayerChoice | None = None,
    warm_start: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Norm of each weight by name.

    Args:
        snapshot: Of the network.
        norm: ``"frobenius"``, ``"spectral"``, ``"trace"``, ``("schatten", p)`` or a pair ``(p, q)``, see
            :func:`lightning_complexity.functional.mixed_norm`.
        convolution: What a convolution's spectral norm is: that of its kernel reshaped to ``(out, in * kernel)``;
            that of a ``"circular"`` convolution with stride 1, by Fourier transform; or that of the
            ``"operator"`` itself at its input size, with its stride, padding, dilation and groups. The last two
            need inputs.
        folded: Whether the BatchNorm that follows a layer is multiplied into it. Needs inputs.
        layers: Which layers count; all by default.
        warm_start: Singular vectors that spectral norms start from, brought up to date.
    """
    weights = weight_matrices(snapshot, folded=folded, layers=layers)
    return {w.name: _layer_norm(snapshot, w.name, norm, convolution, folded, warm_start) for w in weights}


@shared
def _layer_norm(
    snapshot: Snapshot,
    name: str,
    norm: MatrixNorm,
    convolution: ConvolutionNorm,
    folded: bool,
    warm_start: dict[str, Tensor] | None,
) -> Tensor:
    weight = _weight(snapshot, name, folded)
    kind = f"{convolution}/folded" if folded else convolution
    if convolution == "circular":
        return circular_matrix_norm(weight, convolution_inputs(snapshot))
    if convolution == "operator" and weight.is_convolution:
        return _operator_norm(weight, convolution_inputs(snapshot), warm_start, f"{kind}/{name}")
    if norm == "spectral" and (snapshot.differentiable or convolution == "operator"):
        return matrix_norm(weight, norm, warm_start, f"{kind}/{name}")
    order = schatten_order(norm)
    return matrix_norm(weight, norm) if order is None else schatten_norm(_spectrum(snapshot, name, folded), order)


def distances(snapshot: Snapshot, *, folded: bool = False, layers: LayerChoice | None = None) -> list[Weight]:
    """How far each weight matrix is from where it started, as a weight of its own. Needs the initial state."""
    if folded:
        snapshot.check_initial(running_statistics(snapshot.model))
    now, then = (weight_matrices(s, folded=folded, layers=layers) for s in (snapshot, snapshot.at_initialization))
    return [w.minus(before) for w, before in zip(now, then, strict=True)]


def distance_norms(
    snapshot: Snapshot,
    norm: MatrixNorm = "frobenius",
    *,
    folded: bool = False,
    layers: LayerChoice | None = None,
    warm_start: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Norm of each weight's distance from where it started, by name. Needs the initial state."""
    moved = distances(snapshot, folded=folded, layers=layers)
    return {w.name: matrix_norm(w, norm, warm_start, f"distance/{w.name}") for w in moved}


@shared
def path_sums(snapshot: Snapshot, q: float) -> Scaled:
    r"""Sum of :math:`\prod |\theta|^q` over the paths to each output. Needs inputs, for their shape."""
    check_not_quantized(snapshot)
    check_real(snapshot)
    x = snapshot.float_inputs
    return snapshot.run(lambda model: read_path_sums(model, tuple(x.shape[1:]), x, q, measure="PathNorm"))


def matrix_norm(
    weight: Weight, norm: MatrixNorm, warm_start: dict[str, Tensor] | None = None, key: str = "weight"
) -> Tensor:
    """Norm of a weight matrix, convolutions reshaped to ``(out, in * kernel)``.

    Args:
        weight: Which.
        norm: As in :func:`layer_norms`.
        warm_start: Singular vectors that spectral norms start from, brought up to date.
        key: Under which the weight's vectors are kept there.
    """
    if norm == "spectral":
        norms, found = warm_started_spectral_norm(weight.blocks, (warm_start or {}).get(key))
        if found is not None and warm_start is not None:
            warm_start[key] = found
        return norms.amax()
    order = schatten_order(norm)
    if order is not None:
        return schatten_norm(singular_values(weight.blocks).flatten(), order)
    p, q = (2.0, 2.0) if isinstance(norm, str) else (float(order) for order in norm)
    return mixed_norm(weight.blocks, p, q)


def _operator_norm(
    weight: Weight, shapes: Mapping[int, torch.Size], warm_start: dict[str, Tensor] | None, key: str
) -> Tensor:
    shape = _called_with(weight, shapes)
    if warm_start is None:
        return warm_started_operator_norm(weight, shape)[0]
    norm, warm_start[key] = warm_started_operator_norm(weight, shape, warm_start.get(key), NUM_WARM_VECTORS)
    return norm


def circular_matrix_norm(weight: Weight, shapes: Mapping[int, torch.Size]) -> Tensor:
    """Norm of a convolution with stride 1 on a torus of its input's size; spectral norm of another layer.

    Args:
        weight: Which.
        shapes: Input shape of each convolution, channels first, by ``id`` of the module.
    """
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
        MeasureError: If the convolution was never called.
    """
    if id(weight.module) not in shapes:
        raise MeasureError(f"the norm of {weight.name!r} needs its input size, but it was not called.")
    return shapes[id(weight.module)]
