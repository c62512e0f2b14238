"""The order of callbacks: what measures comes after what changes the network."""

from __future__ import annotations

from lightning_complexity.callbacks.base import Trainer


def put_in_order(trainer: Trainer) -> None:
    """Put our callbacks behind all others, but before those that save checkpoints, which Lightning puts last.

    Of ours, those with the higher ``order_among_callbacks`` come later: pruning, constraints, monitors. Each then
    sees the network as the ones before it left it, in whatever order a user lists them.
    """
    callbacks = list(trainer.callbacks)
    saving = {id(c) for c in trainer.checkpoint_callbacks}

    def place(callback: object) -> int:
        if id(callback) in saving or hasattr(callback, "best_model_path"):  # also of the other Lightning
            return 100
        return int(getattr(callback, "order_among_callbacks", 0))

    ordered = sorted(callbacks, key=place)
    if any(a is not b for a, b in zip(ordered, callbacks, strict=True)):
        trainer.callbacks = ordered  # a new list, as Lightning may be going through the old one
