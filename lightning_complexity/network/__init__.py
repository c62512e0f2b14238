"""Read a network without changing it: weights, spectra, outputs, derivatives, paths."""

from lightning_complexity.network.batches import map_tensors, num_samples, split_batch
from lightning_complexity.network.errors import MissingInputError, UnsupportedOperationError
from lightning_complexity.network.folding import fold_batch_norm
from lightning_complexity.network.norms import ConvolutionNorm, LayerNorm, check_convolution, norm_name
from lightning_complexity.network.observe import observe
from lightning_complexity.network.paths import path_sums
from lightning_complexity.network.snapshot import LossFunction, Snapshot, initial_state
from lightning_complexity.network.weights import Weight, read_weights

__all__ = [
    "ConvolutionNorm",
    "LayerNorm",
    "LossFunction",
    "MissingInputError",
    "Snapshot",
    "UnsupportedOperationError",
    "Weight",
    "check_convolution",
    "fold_batch_norm",
    "initial_state",
    "map_tensors",
    "norm_name",
    "num_samples",
    "observe",
    "path_sums",
    "read_weights",
    "split_batch",
]
