"""Read a network without changing it: weights, spectra, outputs, derivatives, paths."""

from lightning_complexity.network.choice import LayerChoice
from lightning_complexity.network.errors import MissingInputError, UnsupportedOperationError
from lightning_complexity.network.norms import ConvolutionNorm, MatrixNorm, check_convolution, norm_name
from lightning_complexity.network.regions.planes import PlaneRegions, decision_boundary, plane_regions, rectangle_around
from lightning_complexity.network.regions.segments import NotFiniteError, Restriction, SegmentPieces, segment_pieces
from lightning_complexity.network.running.batches import map_tensors, num_samples, split_batch
from lightning_complexity.network.running.execution import LossFunction, initial_state
from lightning_complexity.network.running.guard import observe
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.activations import Activation, capture_activations
from lightning_complexity.network.tracing.folding import fold_batch_norm
from lightning_complexity.network.tracing.path_sums import path_sums
from lightning_complexity.network.tracing.sources import FedActivation, Feed, trace_sources
from lightning_complexity.network.weights import Weight, read_weights

__all__ = [
    "Activation",
    "ConvolutionNorm",
    "FedActivation",
    "Feed",
    "LayerChoice",
    "LossFunction",
    "MatrixNorm",
    "MissingInputError",
    "NotFiniteError",
    "PlaneRegions",
    "Restriction",
    "SegmentPieces",
    "Snapshot",
    "UnsupportedOperationError",
    "Weight",
    "capture_activations",
    "check_convolution",
    "decision_boundary",
    "fold_batch_norm",
    "initial_state",
    "map_tensors",
    "norm_name",
    "num_samples",
    "observe",
    "path_sums",
    "plane_regions",
    "read_weights",
    "rectangle_around",
    "segment_pieces",
    "split_batch",
    "trace_sources",
]
