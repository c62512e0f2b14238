"""One network, on one batch, at one moment: everything that measures read from it, computed once."""

from __future__ import annotations

from lightning_complexity.network.derivatives import DerivativesOfNetwork
from lightning_complexity.network.layers import LayersOfNetwork


class Snapshot(LayersOfNetwork, DerivativesOfNetwork):
    """A lazy, cached view of one network on one batch at one moment.

    An observing snapshot works on detached parameters and cloned buffers: the network's gradients, buffers,
    modes, hooks and random state stay as they are. A live one (``live=True``) works on the real
    parameters, so that what is computed from it can be differentiated and trained with. Both see the
    network in evaluation mode: no dropout, running statistics. Half-precision parameters and
    inputs are computed with in single precision. It holds until the parameters change.

    Args:
        model: Any module whose ``forward`` takes the inputs as its one argument.
        inputs: A batch, first dimension samples; a tensor or nested mappings, tuples and lists of tensors.
        targets: What the loss takes beside the outputs; class indices of shape ``(n,)`` for margins.
        loss: Mean loss of a batch from outputs and targets; default cross-entropy.
        initial: Parameters and buffers at the start of training by name, see :func:`initial_state`.
        live: Whether to work on the real parameters.
        outputs: What the network gave for ``inputs``, to save a second forward pass. ``inputs`` must have
            required grad when it was computed if a Jacobian is to be taken.
        chunk_size: How many samples are computed at once.
        seed: Start of the random numbers that estimators draw; equal seeds draw equal numbers.
        vectors: Singular vectors that spectral norms start from and bring up to date, so that those of the next
            training step cost less, see :func:`lightning_complexity.functional.warm_started_spectral_norm`.

        layers: Which layers count, for measures that have a value for each; see
            :class:`lightning_complexity.network.LayerChoice`.

    Raises:
        ValueError: If the inputs are empty, or the model has parameters without a shape yet.

    Example:
        >>> import torch
        >>> net = torch.nn.Linear(2, 3)
        >>> snapshot = Snapshot(net, torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))
        >>> snapshot.outputs.shape, snapshot.margins.shape
        (torch.Size([4, 3]), torch.Size([4]))
    """
