"""The guard that lets a network be measured without changing it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

_LOGGING_METHODS = ("log", "log_dict")
_KERNELS: tuple[tuple[SDPBackend, Callable[[], bool]], ...] = (
    (SDPBackend.FLASH_ATTENTION, torch.backends.cuda.flash_sdp_enabled),
    (SDPBackend.EFFICIENT_ATTENTION, torch.backends.cuda.mem_efficient_sdp_enabled),
    (SDPBackend.MATH, torch.backends.cuda.math_sdp_enabled),
)
TWICE_DIFFERENTIABLE: tuple[SDPBackend, ...] = (SDPBackend.MATH,)


def kernels_of_attention() -> tuple[SDPBackend, ...]:
    """Those that are in use here, some of which can be differentiated only once."""
    return tuple(kernel for kernel, is_enabled in _KERNELS if is_enabled()) or TWICE_DIFFERENTIABLE


def attention_by(kernels: Sequence[SDPBackend]) -> AbstractContextManager[None]:
    """Let attention inside the block be computed by some of these."""
    block: AbstractContextManager[None] = sdpa_kernel(list(kernels))
    return block


def _ignore(*args: Any, **kwargs: Any) -> None:
    """Stand in for a logging method while a network is observed."""


def cuda_devices(module: nn.Module) -> list[torch.device]:
    """The GPUs that hold parameters of a module."""
    return sorted({p.device for p in module.parameters() if p.device.type == "cuda"}, key=str)


@contextmanager
def _numpy_and_python_random_state_kept() -> Iterator[None]:
    python, numpy = random.getstate(), np.random.get_state()  # noqa: NPY002 (the state users' augmentations draw from)
    try:
        yield
    finally:
        random.setstate(python)
        np.random.set_state(numpy)  # noqa: NPY002


def _deterministic() -> tuple[bool, bool]:
    return torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()


def _anomaly() -> tuple[bool, bool]:
    return torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()


_SWITCHES: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.get_num_threads, torch.set_num_threads),
    (_deterministic, lambda mode: torch.use_deterministic_algorithms(mode[0], warn_only=mode[1])),
    (_anomaly, lambda mode: torch.autograd.set_detect_anomaly(*mode)),
)
"""What a network may switch for the whole process: how to see, and how to set it."""


@contextmanager
def _switches_kept() -> Iterator[None]:
    before = [see() for see, _ in _SWITCHES]
    try:
        yield
    finally:
        for (see, put), value in zip(_SWITCHES, before, strict=True):
            if see() != value:
                put(value)


@contextmanager
def _evaluation_mode(module: nn.Module) -> Iterator[None]:
    # The attribute is set, not `.eval()` called: an overridden `train()` may do more than set it.
    modes = [(m, m.training) for m in module.modules()]
    try:
        for m, _ in modes:
            m.training = False
        yield
    finally:
        for m, training in modes:
            m.training = training


@contextmanager
def _logging_muted(module: nn.Module) -> Iterator[None]:
    """Keep a ``self.log`` inside ``forward`` from overwriting what training logged."""
    muted = [(m, name) for m in module.modules() for name in _LOGGING_METHODS if hasattr(type(m), name)]
    before = [m.__dict__.get(name) for m, name in muted]
    try:
        for m, name in muted:
            m.__dict__[name] = _ignore
        yield
    finally:
        for (m, name), own in zip(muted, before, strict=True):
            if own is None:
                m.__dict__.pop(name, None)
            else:
                m.__dict__[name] = own


def hooked_weights(module: nn.Module) -> Iterator[WeightNorm | SpectralNorm]:
    """The hooks of ``torch.nn.utils.weight_norm`` and ``spectral_norm``, which set a weight in each forward pass."""
    for hook in module._forward_pre_hooks.values():
        if isinstance(hook, (WeightNorm, SpectralNorm)):
            yield hook


@contextmanager
def _hooked_weights_kept(module: nn.Module) -> Iterator[None]:
    hooked = [(m, hook.name) for m in module.modules() for hook in hooked_weights(m)]
    before = [m.__dict__.get(name) for m, name in hooked]
    try:
        yield
    finally:
        for (m, name), weight in zip(hooked, before, strict=True):
            m.__dict__[name] = weight


@contextmanager
def _gradient_hooks_off(module: nn.Module) -> Iterator[None]:
    """Keep hooks on parameters from changing the gradients that a measure differentiates or reads."""
    hooked = [p._backward_hooks for p in module.parameters() if p._backward_hooks]
    before = [dict(hooks) for hooks in hooked]
    try:
        for hooks in hooked:
            hooks.clear()
        yield
    finally:
        for hooks, own in zip(hooked, before, strict=True):
            hooks.update(own)


@contextmanager
def observe(module: nn.Module) -> Iterator[None]:
    """Let the block call ``module`` and differentiate it, and leave no trace of that.

    Inside, every submodule is in evaluation mode, gradients are enabled (also under ``no_grad`` and
    ``inference_mode``), autocast is off, compiled code runs eagerly, attention uses the kernels that
    can be differentiated twice, and ``log``/``log_dict`` of a ``LightningModule`` and the hooks on gradients of
    parameters do nothing.
    Afterwards, also after an exception, the mode of each submodule, the random states of
    Python, NumPy and torch (CPU and the module's devices), and torch's default precision, number of threads,
    deterministic algorithms and detection of anomalies are what they were.

    What it does not undo: what a forward pass writes to parameters, buffers and attributes, which
    :class:`lightning_complexity.network.Snapshot` keeps from the module, and calls of the module's forward hooks.

    Args:
        module: The network to be observed.

    Example:
        >>> net = nn.Sequential(nn.Dropout(0.5))
        >>> with observe(net):
        ...     net(torch.ones(3))
        tensor([1., 1., 1.])
        >>> net.training
        True
    """
    with computed_exactly(module), left_alone(module):
        yield


@contextmanager
def computed_exactly(module: nn.Module) -> Iterator[None]:
    """Let the block record gradients, and compute in the precision of its tensors."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        for device_type in {"cpu", *(p.device.type for p in module.parameters())} - {"meta"}:
            stack.enter_context(torch.autocast(device_type, enabled=False))
        yield


@contextmanager
def left_alone(module: nn.Module) -> Iterator[None]:
    """Let the block call ``module`` in evaluation mode, and put modes, random states and logging back."""
    with ExitStack() as stack:
        stack.enter_context(_switches_kept())
        stack.enter_context(_numpy_and_python_random_state_kept())
        stack.enter_context(torch.random.fork_rng(devices=cuda_devices(module)))
        stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(attention_by(TWICE_DIFFERENTIABLE))
        stack.enter_context(_logging_muted(module))
        stack.enter_context(_evaluation_mode(module))
        stack.enter_context(_hooked_weights_kept(module))
        stack.enter_context(_gradient_hooks_off(module))
        yield
