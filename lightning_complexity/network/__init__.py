"""Read a network without changing it: weights, spectra, outputs, derivatives, paths.

Quantities are functions of a :class:`Snapshot`, computed once however many measures ask; :func:`shared` makes one.
"""

from lightning_complexity.network.context import Context
from lightning_complexity.network.curvature.hessian import HessianOperator
from lightning_complexity.network.derivatives import gradients, input_gradients, jacobian_grams, trainable
from lightning_complexity.network.errors import (
    MeasureError,
    MissingInputError,
    NetworkError,
    NothingMeasuredError,
    UnsupportedOperationError,
)
from lightning_complexity.network.landscape.modes import ModeConnectivity, linear_mode_connectivity
from lightning_complexity.network.losses import mean_loss
from lightning_complexity.network.optimization.live import LiveSteps
from lightning_complexity.network.optimization.weight_trajectory import WeightTrajectory
from lightning_complexity.network.outputs import (
    accuracy,
    costs,
    features,
    margins,
    model_outputs,
    predictions,
    running_order,
)
from lightning_complexity.network.per_sample import sample_gradient_products, squared_sample_gradients
from lightning_complexity.network.regions.planes import (
    PlaneRegions,
    decision_boundary,
    plane_regions,
    rectangle_around,
)
from lightning_complexity.network.regions.segments import NotFiniteError, Restriction, SegmentPieces, segment_pieces
from lightning_complexity.network.running.batches import Batches, map_tensors, num_samples
from lightning_complexity.network.running.guard import observe
from lightning_complexity.network.running.task import ForwardFunction, LossFunction, TargetFunction, Task
from lightning_complexity.network.running.tensors import initial_state
from lightning_complexity.network.sharing import Shared, shared
from lightning_complexity.network.snapshot import Snapshot
from lightning_complexity.network.tracing.activations import Activation, capture_activations
from lightning_complexity.network.tracing.folding import fold_batch_norm
from lightning_complexity.network.tracing.sources import FedActivation, Feed, trace_sources
from lightning_complexity.network.weights.choice import LayerChoice
from lightning_complexity.network.weights.matrices import Weight, read_weights
from lightning_complexity.network.weights.norms import (
    ConvolutionNorm,
    MatrixNorm,
    check_convolution,
    distance_norms,
    distances,
    layer_norms,
    norm_name,
    path_sums,
    spectra,
    weight_matrices,
)

__all__ = [
    "Activation",
    "Batches",
    "Context",
    "ConvolutionNorm",
    "FedActivation",
    "Feed",
    "ForwardFunction",
    "HessianOperator",
    "LayerChoice",
    "LiveSteps",
    "LossFunction",
    "MatrixNorm",
    "MeasureError",
    "MissingInputError",
    "ModeConnectivity",
    "NetworkError",
    "NotFiniteError",
    "NothingMeasuredError",
    "PlaneRegions",
    "Restriction",
    "SegmentPieces",
    "Shared",
    "Snapshot",
    "TargetFunction",
    "Task",
    "UnsupportedOperationError",
    "Weight",
    "WeightTrajectory",
    "accuracy",
    "capture_activations",
    "check_convolution",
    "costs",
    "decision_boundary",
    "distance_norms",
    "distances",
    "features",
    "fold_batch_norm",
    "gradients",
    "initial_state",
    "input_gradients",
    "jacobian_grams",
    "layer_norms",
    "linear_mode_connectivity",
    "map_tensors",
    "margins",
    "mean_loss",
    "model_outputs",
    "norm_name",
    "num_samples",
    "observe",
    "path_sums",
    "plane_regions",
    "predictions",
    "read_weights",
    "rectangle_around",
    "running_order",
    "sample_gradient_products",
    "segment_pieces",
    "shared",
    "spectra",
    "squared_sample_gradients",
    "trace_sources",
    "trainable",
    "weight_matrices",
]
