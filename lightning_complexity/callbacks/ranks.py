"""What the processes of a ``Trainer`` have in common when something is measured."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from torch import Tensor, nn
from torch.optim import Optimizer

from lightning_complexity.callbacks.base import Trainer
from lightning_complexity.callbacks.changes import hashes_of
from lightning_complexity.network import LiveSteps, Snapshot
from lightning_complexity.network.running.ranks import Ranks


def ranks_of(trainer: Trainer) -> Ranks:
    """The processes that train together; this one alone where it cannot ask the others."""
    everyone = Ranks.of()
    return everyone if everyone.count == trainer.world_size else Ranks()


def epochs_end_together(trainer: Trainer) -> bool:
    """Whether an epoch surely has as many batches on all processes, which must all come here."""
    if trainer.world_size == 1:
        return True
    lengths = ranks_of(trainer).gathered(float(trainer.num_training_batches))
    return math.isfinite(lengths[0]) and len(set(lengths)) == 1


def snapshot_of_all(
    module: nn.Module,
    initial: Mapping[str, Tensor] | None,
    ranks: Ranks,
    *,
    live: LiveSteps | None = None,
    optimizers: Iterable[Optimizer] = (),
    optimizer_state: bool = False,
) -> Snapshot:
    """The network as rank zero has it, without data; what follows needs no other process.

    Parameters are the same on all or sharded over them. Buffers such as running statistics can be each process's own:
    those of rank zero count, which are also those that checkpoints have.

    Args:
        module: What is trained.
        initial: Its parameters at the start of training.
        ranks: The processes, which must all come here.
        live: What follows the optimizers on this process.
        optimizers: What trains it.
        optimizer_state: Whether the state of these is read, which is gathered where it is sharded.
    """
    buffers = _differing_buffers(module, ranks)
    network = Snapshot(module, initial=initial, live=live, buffers=buffers, optimizers=optimizers)
    network.gather(optimizer_state=optimizer_state)
    return network


def _differing_buffers(module: nn.Module, ranks: Ranks) -> dict[str, Tensor]:
    """Rank zero's of those buffers that are not the same everywhere."""
    buffers = {name: b for name, b in module.named_buffers() if not hasattr(b, "full_tensor")}
    hashes = ranks.gathered(hashes_of(buffers))
    names = [name for name, value in hashes[0].items() if any(other.get(name) != value for other in hashes)]
    if not names:
        return {}
    first = ranks.from_first({name: buffers[name].detach().cpu() for name in names if name in buffers})
    return {name: value for name, value in first.items() if name in buffers and buffers[name].shape == value.shape}
