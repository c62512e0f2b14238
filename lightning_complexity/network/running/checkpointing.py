"""Activation checkpointing whose recomputation runs as the forward pass did, whenever it happens."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.utils.checkpoint as torch_checkpoint

Function = Callable[..., Any]


@contextmanager
def recomputed_by(replay: Callable[[Function], Function | None]) -> Iterator[None]:
    """Let checkpointed functions be recomputed by ``replay(function)`` in place of ``function``.

    Reentrant checkpoints become those without reentry, which can be differentiated twice and for chosen inputs.

    Args:
        replay: Called with each function that is checkpointed inside the block; ``None`` lets it keep what it computes.
    """
    generator, reentrant = torch_checkpoint._checkpoint_without_reentrant_generator, torch_checkpoint.CheckpointFunction

    def replaying(function: Function, *args: Any, **kwargs: Any) -> Iterator[None]:
        recomputed = replay(function)
        return _kept() if recomputed is None else generator(recomputed, *args, **kwargs)

    class WithoutReentry:
        @staticmethod
        def apply(function: Function, preserve_rng_state: bool, *args: Any) -> Any:
            return torch_checkpoint.checkpoint(
                function, *args, use_reentrant=False, preserve_rng_state=preserve_rng_state
            )

    try:
        torch_checkpoint._checkpoint_without_reentrant_generator = replaying  # type: ignore[assignment]
        torch_checkpoint.CheckpointFunction = WithoutReentry  # type: ignore[misc, assignment]
        # Torch ends a recomputation early by an exception, which a scripted module turns into an error.
        with torch_checkpoint.set_checkpoint_early_stop(False):
            yield
    finally:
        torch_checkpoint._checkpoint_without_reentrant_generator = generator
        torch_checkpoint.CheckpointFunction = reentrant  # type: ignore[misc]


def _kept() -> Iterator[None]:
    yield
