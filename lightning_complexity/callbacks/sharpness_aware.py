"""Sharpness-aware minimization: each optimizer step takes the gradient at the worst point nearby."""

from __future__ import annotations

import inspect
import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedBuffer

from lightning_complexity.callbacks.base import Callback, LightningModule, Trainer
from lightning_complexity.callbacks.step import returned_loss, unheard
from lightning_complexity.callbacks.summing import Repeatable
from lightning_complexity.functional import combine_norms, sam_perturbation
from lightning_complexity.network.running.batches import owned
from lightning_complexity.network.running.memory import is_written, lazily_cloned
from lightning_complexity.network.running.sharding import local_part, norms_over_parts, reshard
from lightning_complexity.network.running.state import PythonState

_STRATEGIES = ("SingleDeviceStrategy", "DDPStrategy", "ModelParallelStrategy")


class SharpnessAwareMinimization(Callback):
    r"""Train with sharpness-aware minimization (SAM), by the user's optimizer; this changes training.

    Before each optimizer step the parameters move by :math:`e = \rho\, g / \|g\|_2` along the gradient :math:`g`, or
    adaptively (ASAM) by :math:`e = \rho\, w^2 g / \||w| g\|_2`; ``training_step`` runs again there; the parameters move
    back to the bit; and the optimizer steps with the gradient that was found. A step takes twice as long.

    - With ``accumulate_grad_batches`` the step is along the gradient of all batches together, and all run again: they
      stay in memory until then.
    - Under ``DistributedDataParallel`` and ``fully_shard`` (FSDP2) the step is along the gradient that the processes
      have averaged; of a sharded network each moves its own parts, by the norm of all.
    - With mixed precision nothing needs to be unscaled: the step does not depend on the scale of the gradient. Where
      that is not finite there is no second pass, so that a ``GradScaler`` skips the step as without this callback.
    - Gradient clipping applies to the second gradient.
    - Both passes draw the same random numbers of torch, NumPy and Python, so that masks of dropout are equal, and begin
      with the same buffers and parameters that are not trained; with attributes of the module as the first left them.
      The second leaves nothing behind but its gradient: buffers, such as statistics of BatchNorm, a teacher that
      follows its student, metrics, attributes and logs of the module are those of the first. The hooks
      ``on_before_backward`` and ``on_after_backward`` run in both passes, in the second with parameters that are moved.
    - Penalties of other callbacks are part of the loss in both passes; what is logged of them is that of the first.
      Whatever is measured after a step is of parameters that are not moved.

    Args:
        rho: Length of the move; about ten times larger if it is adaptive.
        adaptive: Whether the length is relative to the parameters.

    Raises:
        ValueError: If ``rho`` is not positive; before training, with manual optimization, with a ``training_step``
            that takes ``dataloader_iter``, with a strategy other than those for one device,
            ``DistributedDataParallel`` and ``ModelParallelStrategy``, or with two of these callbacks.

    References:
        Foret et al., "Sharpness-aware minimization", ICLR 2021; Kwon et al., "ASAM", ICML 2021.

    Example:
        >>> sam = SharpnessAwareMinimization(rho=0.05)
        >>> # Trainer(callbacks=[sam]).fit(model)
    """

    def __init__(self, rho: float = 0.05, *, adaptive: bool = False) -> None:
        if not (math.isfinite(rho) and rho > 0):
            raise ValueError(f"rho must be positive and finite, got {rho!r}.")
        self.rho, self.adaptive = rho, adaptive
        self._passes: _TwoPasses | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Stand in for the strategy's training and optimizer step.

        Raises:
            ValueError: If the training is of a kind that cannot have two passes.
        """
        if stage != "fit":
            return
        _check(trainer, pl_module)
        self._passes = _TwoPasses(trainer, pl_module, self)

    def on_before_backward(self, trainer: Trainer, pl_module: LightningModule, loss: Tensor) -> None:
        """Leave out batches whose gradients were thrown away, as by an ``optimizer_step`` that skips steps."""
        if self._passes is not None:
            self._passes.forget_without_gradients()

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Give the strategy its own steps back."""
        self._remove()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Give the strategy its own steps back."""
        self._remove()

    def _remove(self) -> None:
        if self._passes is not None:
            self._passes.remove()
        self._passes = None


def _check(trainer: Trainer, pl_module: LightningModule) -> None:
    name = SharpnessAwareMinimization.__name__
    if sum(isinstance(c, SharpnessAwareMinimization) for c in trainer.callbacks) > 1:
        raise ValueError(f"a Trainer takes one {name}; leave the others out.")
    if not pl_module.automatic_optimization:
        raise ValueError(
            f"{name} needs automatic optimization, as a training_step that optimizes by itself cannot be run twice. "
            "Take both passes in training_step, with lightning_complexity.functional.sam_perturbation for the move."
        )
    if "dataloader_iter" in inspect.signature(pl_module.training_step).parameters:
        raise ValueError(
            f"{name} runs each batch twice, but training_step takes dataloader_iter and fetches batches itself. Let it "
            "take a batch."
        )
    strategy = type(trainer.strategy)
    if not any(cls.__name__ in _STRATEGIES for cls in strategy.__mro__):
        raise ValueError(
            f"{name} needs the whole gradient of each parameter on every process, which {strategy.__name__} does not "
            "keep. Use one device, Trainer(strategy='ddp'), or fully_shard in configure_model under "
            "ModelParallelStrategy()."
        )


class _RandomStates:
    """The states of the random generators that a training step draws from."""

    def __init__(self, device: torch.device) -> None:
        self._python, self._torch = random.getstate(), torch.get_rng_state()
        self._numpy = np.random.get_state()  # noqa: NPY002 (the state that a step may draw from)
        self._device = device if device.type == "cuda" else None
        self._cuda = None if self._device is None else torch.cuda.get_rng_state(self._device)

    def put_back(self) -> None:
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002
        torch.set_rng_state(self._torch)
        if self._device is not None and self._cuda is not None:
            torch.cuda.set_rng_state(self._cuda, self._device)


class _Untrained:
    """The numbers that a training step may write to itself: buffers, and parameters that no optimizer trains.

    Such as those of a teacher that follows its student. Frozen parameters take no memory as long as nothing writes to
    them.
    """

    def __init__(self, pl_module: nn.Module, trained: set[int]) -> None:
        buffers = (b for b in pl_module.buffers() if not isinstance(b, UninitializedBuffer))  # as lazy layers have
        parameters = (p for p in pl_module.parameters() if id(p) not in trained and type(p) is nn.Parameter)
        self._values = [(buffer, buffer.detach().clone()) for buffer in buffers]
        self._frozen = [(p, lazily_cloned(p.detach())) for p in parameters]

    @torch.no_grad()
    def put_back(self) -> None:
        for buffer, value in self._values:
            buffer.copy_(value)
        for parameter, value in self._frozen:
            if is_written(parameter, value):
                parameter.copy_(value)


class _Batch:
    """A batch that was trained on, and what its training step began with."""

    def __init__(
        self, pl_module: LightningModule, trained: set[int], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> None:
        self.args, self.kwargs = _kept(args), _kept(kwargs)
        self.random_states, self.terms = _RandomStates(pl_module.device), Repeatable(pl_module)
        self.untrained = _Untrained(pl_module, trained)


def _kept(data: Any) -> Any:
    """A batch as it is now, whatever the step writes to it; one that cannot be copied itself."""
    try:
        return owned(data)
    except Exception:
        return data


class _TwoPasses:
    """Takes the place of a strategy's training and optimizer step."""

    def __init__(self, trainer: Trainer, pl_module: LightningModule, options: SharpnessAwareMinimization) -> None:
        self._trainer, self._module, self._options = trainer, pl_module, options
        self._strategy = trainer.strategy
        self._training_step, self._optimizer_step = self._strategy.training_step, self._strategy.optimizer_step
        self._batches: list[_Batch] = []
        self._is_second = False
        self._strategy.training_step, self._strategy.optimizer_step = self.training_step, self.optimizer_step

    def remove(self) -> None:
        for name in ("training_step", "optimizer_step"):
            self._strategy.__dict__.pop(name, None)

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        """The training step, whose batch is kept for the second pass."""
        batch = _Batch(self._module, self._trained(), args, kwargs)
        output = self._training_step(*args, **kwargs)
        if output is not None:
            self._batches.append(batch)
        return output

    def _given(self) -> Iterator[nn.Parameter]:
        """All parameters of the optimizers."""
        return (p for o in self._trainer.optimizers for group in o.param_groups for p in group["params"])

    def _trained(self) -> set[int]:
        return {id(p) for p in self._given() if p.requires_grad}

    def forget_without_gradients(self) -> None:
        """Of batches of which no gradient is left, keep the one that gradients are taken of next."""
        if not self._is_second and not any(p.grad is not None and _is_nonzero(p.grad) for p in self._given()):
            del self._batches[:-1]

    def optimizer_step(self, optimizer: Any, closure: Callable[[], Any], *args: Any, **kwargs: Any) -> Any:
        """The optimizer step, with the gradient of the second pass."""
        before = len(self._batches)

        def both_passes() -> Any:
            del self._batches[before:]  # some optimizers ask more than once
            loss = closure()
            self._second_pass(optimizer)
            return loss

        try:
            return self._optimizer_step(optimizer, both_passes, *args, **kwargs)
        finally:
            self._batches.clear()

    def _second_pass(self, optimizer: Any) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        if not parameters or not self._batches:
            return
        with torch.no_grad():
            steps = self._steps(parameters)
        if not _are_finite(steps, parameters):
            return
        reshard(self._module)  # so that it moves what the next forward pass gathers
        with _moved(parameters, steps), _gradients_anew(self._module, parameters), self._unchanged():
            state = PythonState(self._module)
            self._is_second = True
            try:
                for batch in self._batches:
                    self._repeat(batch, optimizer, state)
            finally:
                self._is_second = False

    def _steps(self, parameters: list[nn.Parameter]) -> list[Tensor]:
        gradients = [_real(_dense(local_part(p.grad))) for p in parameters if p.grad is not None]
        options = self._options
        return sam_perturbation(
            [_real(local_part(p)) for p in parameters],
            gradients,
            options.rho,
            adaptive=options.adaptive,
            combine=partial(_norm_of_all, of=parameters),
        )

    @contextmanager
    def _unchanged(self) -> Iterator[None]:
        """Put buffers, parameters that are not trained, and random states back."""
        kept = _Untrained(self._module, self._trained()), _RandomStates(self._module.device)
        try:
            yield
        finally:
            for state in kept:
                state.put_back()

    def _repeat(self, batch: _Batch, optimizer: Any, state: PythonState) -> None:
        themselves = {id(t): t for t in (*self._module.parameters(), *self._module.buffers())}
        with torch.enable_grad(), self._gradients_shared(batch), state.replaced(themselves):
            batch.random_states.put_back()
            batch.untrained.put_back()
            with batch.terms.repeated(), unheard(self._module):
                loss = returned_loss(self._training_step(*batch.args, **batch.kwargs))
            if loss is not None:
                self._strategy.backward(loss / self._trainer.accumulate_grad_batches, optimizer)

    def _gradients_shared(self, batch: _Batch) -> Any:
        """Let processes average their gradients with the last batch alone."""
        is_last, blocked = batch is self._batches[-1], getattr(self._strategy, "block_backward_sync", nullcontext)
        return nullcontext() if is_last else blocked()


def _norm_of_all(norms: Tensor, of: list[nn.Parameter]) -> Tensor:
    """The norm of all parameters from one norm for this process's part of each."""
    return combine_norms(norms_over_parts(norms, of))


def _dense(tensor: Tensor) -> Tensor:
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _is_nonzero(gradient: Tensor) -> bool:
    """Whether it is; of a part of a sharded one that it may be, so that processes do not part."""
    return local_part(gradient) is not gradient or bool(_dense(gradient).any())


def _real(tensor: Tensor) -> Tensor:
    return torch.view_as_real(tensor) if tensor.is_complex() else tensor


def _are_finite(steps: list[Tensor], parameters: list[nn.Parameter]) -> bool:
    """Whether all steps are, on all processes where parameters are sharded, which must go on alike."""
    are_finite = torch.stack([step.isfinite().all() for step in steps]).all()
    if any(local_part(p) is not p for p in parameters):
        everywhere = are_finite.int()
        torch.distributed.all_reduce(everywhere, torch.distributed.ReduceOp.MIN)
        return bool(everywhere)
    return bool(are_finite)


@contextmanager
def _moved(parameters: list[nn.Parameter], steps: list[Tensor]) -> Iterator[None]:
    """Add the steps to the parameters, and put these back to the bit."""
    before = [local_part(p).detach().clone() for p in parameters]
    try:
        with torch.no_grad():
            for p, step in zip(parameters, steps, strict=True):
                _real(local_part(p)).add_(step)
        yield
    finally:
        with torch.no_grad():
            for p, value in zip(parameters, before, strict=True):
                local_part(p).copy_(value)


@contextmanager
def _gradients_anew(pl_module: nn.Module, parameters: list[nn.Parameter]) -> Iterator[None]:
    """Let some parameters get gradients from none on; those of others stay as they are."""
    chosen = {id(p) for p in parameters}
    others = [(p, p.grad) for p in pl_module.parameters() if id(p) not in chosen]
    for p in parameters:
        p.grad = None
    for p, _ in others:
        p.grad = None
    try:
        yield
    finally:
        for p, gradient in others:
            p.grad = gradient
