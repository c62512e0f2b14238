"""One network, on one batch, at one moment: everything that measures read from it, computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from operator import itemgetter
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.parameter import UninitializedParameter
from torch.nn.utils import parametrize

from lightning_complexity.functional.margins import check_classification, signed_margins
from lightning_complexity.functional.paths import Scaled
from lightning_complexity.functional.sensitivity import jacobian_grams
from lightning_complexity.functional.spectra import schatten_norm, singular_values
from lightning_complexity.network.activations import Activation, capture_activations
from lightning_complexity.network.batches import chunks, map_tensors, num_samples
from lightning_complexity.network.costs import Costs, count_costs
from lightning_complexity.network.errors import MissingInputError
from lightning_complexity.network.features import Layer, entering, find_layer, running_order
from lightning_complexity.network.folding import fold_batch_norm
from lightning_complexity.network.norms import (
    ConvolutionNorm,
    LayerNorm,
    circular_norms,
    follow_operator_norms,
    matrix_norms,
    schatten_order,
)
from lightning_complexity.network.observe import observe
from lightning_complexity.network.operators import input_shapes
from lightning_complexity.network.paths import path_sums
from lightning_complexity.network.planes import PlaneRegions, plane_regions, rectangle_around
from lightning_complexity.network.segments import Restriction
from lightning_complexity.network.weights import Weight, read_weights

LossFunction = Callable[[Tensor, Tensor], Tensor]
Result = TypeVar("Result")

_JACOBIAN_ENTRIES = 2**19  # of the Jacobians that are held at once


class _Call(nn.Module):
    """Lets ``functional_call`` run any function of a module instead of its ``forward``."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, function: Callable[[nn.Module], Result]) -> Result:
        with parametrize.cached():
            return function(self.model)


def _forward(inputs: Any, model: nn.Module) -> Any:
    return model(inputs)


def _called_with(function: Callable[[nn.Module, Any], Result], inputs: Any, model: nn.Module) -> Result:
    return function(model, inputs)


def _at_least_single(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() and tensor.element_size() < 4 else tensor


def _recordable(tensor: Tensor) -> Tensor:
    """A tensor that a graph may keep: one made in inference mode is copied."""
    if not tensor.is_inference():
        return tensor
    with torch.inference_mode(False):
        return tensor.clone()


def initial_state(model: nn.Module) -> dict[str, Tensor]:
    """Copy the parameters to the CPU, to measure distances from them later, and the running statistics with them.

    Returns:
        Parameters, and buffers of floating-point numbers, by name; tied parameters once.
    """
    buffers = {name: b for name, b in model.named_buffers() if b.is_floating_point()}
    tensors = {**dict(model.named_parameters()), **buffers}
    return {name: t.detach().to("cpu", copy=True) for name, t in tensors.items()}


class Snapshot:
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
            training step cost less, see :func:`lightning_complexity.functional.follow_spectral_norm`.

    Raises:
        ValueError: If the inputs are empty, or the model has parameters without a shape yet.

    Example:
        >>> net = nn.Linear(2, 3)
        >>> snapshot = Snapshot(net, torch.zeros(4, 2), torch.tensor([0, 1, 2, 0]))
        >>> snapshot.outputs.shape, snapshot.margins.shape
        (torch.Size([4, 3]), torch.Size([4]))
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Any = None,
        targets: Any = None,
        *,
        loss: LossFunction | None = None,
        initial: Mapping[str, Tensor] | None = None,
        live: bool = False,
        outputs: Tensor | None = None,
        chunk_size: int = 256,
        seed: int = 0,
        vectors: dict[str, Tensor] | None = None,
    ) -> None:
        for name, parameter in model.named_parameters():
            if isinstance(parameter, UninitializedParameter):
                raise ValueError(f"parameter {name!r} has no shape yet; call the model once before measuring it.")
        if inputs is not None and num_samples(inputs) == 0:
            raise ValueError("inputs are empty; a measure needs at least one sample.")
        self.model, self.live, self.chunk_size, self.seed = model, live, chunk_size, seed
        self._inputs, self._targets = map_tensors(_recordable, inputs), map_tensors(_recordable, targets)
        self._initial, self._outputs = initial, outputs
        self.loss_function: LossFunction = F.cross_entropy if loss is None else loss
        self._path_sums: dict[float, Scaled] = {}
        self._layer_norms: dict[Any, dict[str, Tensor]] = {}
        self._vectors = vectors
        self._replaced: Mapping[str, Tensor] = {}
        self._plane_regions: dict[float, PlaneRegions] = {}
        self._features: dict[str, Tensor] = {}

    # What was given ------------------------------------------------------------------------------

    def has(self, what: str) -> bool:
        """Whether ``"inputs"``, ``"targets"``, ``"initial"`` or ``"loss"`` can be used."""
        return what == "loss" or getattr(self, f"_{what}") is not None

    @property
    def inputs(self) -> Any:
        """The batch, in at least single precision."""
        return map_tensors(_at_least_single, self._given("inputs", self._inputs))

    @property
    def targets(self) -> Any:
        """The targets of the batch."""
        return self._given("targets", self._targets)

    @property
    def initial(self) -> Mapping[str, Tensor]:
        """Parameters, and the buffers that were kept with them, at the start of training."""
        initial: Mapping[str, Tensor] = self._given("initial", self._initial)
        return initial

    @property
    def num_samples(self) -> int:
        """Number of samples in the batch."""
        return num_samples(self.inputs)

    @cached_property
    def float_inputs(self) -> Tensor:
        """The batch, where a measure needs it to be one floating-point tensor.

        Raises:
            MissingInputError: If it is something else, such as token indices or a mapping.
        """
        inputs = self.inputs
        if isinstance(inputs, Tensor) and inputs.is_floating_point():
            return inputs
        got = inputs.dtype if isinstance(inputs, Tensor) else type(inputs).__name__
        raise MissingInputError(
            f"needs inputs that are one floating-point tensor, got {got}. Measure the part of the "
            "network behind the embedding, on its inputs."
        )

    @staticmethod
    def _given(name: str, value: Any) -> Any:
        if value is None:
            raise MissingInputError(f"needs {name}, which this snapshot was not given.")
        return value

    def generator(self) -> torch.Generator:
        """A fresh CPU generator with the snapshot's seed."""
        return torch.Generator().manual_seed(self.seed)

    # Running the network -------------------------------------------------------------------------

    @cached_property
    def parameters(self) -> dict[str, Tensor]:
        """The parameters by name, tied ones once: the real ones, or detached leaves of the same numbers."""
        named = {n: self._at_start(n, p) for n, p in self.model.named_parameters()}
        if self.live:
            return {n: _at_least_single(p) for n, p in named.items()}
        with torch.inference_mode(False):
            return {n: _at_least_single(p.detach()).requires_grad_(p.requires_grad) for n, p in named.items()}

    @cached_property
    def _constants(self) -> dict[str, Tensor]:
        return {n: p.detach() for n, p in self.parameters.items()}

    def run(
        self,
        function: Callable[[nn.Module], Result],
        *,
        differentiable: bool = False,
        dtype: torch.dtype | None = None,
    ) -> Result:
        """Call ``function(model)`` with this snapshot's parameters and throw-away buffers in the model.

        Args:
            function: Anything that reads or calls the model.
            differentiable: Whether an observing snapshot records gradients for its parameters.
            dtype: Precision of parameters and buffers, if not their own.

        Returns:
            What the function returns.
        """
        records = self.live or differentiable
        with observe(self.model), torch.set_grad_enabled(records):
            named_buffers = self.model.named_buffers()
            buffers = {n: _at_least_single(self._at_start(n, b).detach().clone()) for n, b in named_buffers}
            tensors = {**(self.parameters if records else self._constants), **buffers}
            if dtype is not None:
                tensors = {n: t.to(dtype) if t.is_floating_point() else t for n, t in tensors.items()}
            result: Result = functional_call(
                _Call(self.model), {f"model.{n}": t for n, t in tensors.items()}, (function,)
            )
            return result

    def _at_start(self, name: str, tensor: Tensor) -> Tensor:
        replaced = self._replaced.get(name)
        return tensor if replaced is None else replaced.to(_at_least_single(tensor))

    @cached_property
    def start(self) -> Snapshot:
        """The network as it was at the start of training, on the same batch.

        Raises:
            ValueError: If the initial state does not fit the network.
        """
        self._check_start(dict(self.model.named_parameters()))
        start = Snapshot(
            self.model, self._inputs, self._targets, loss=self.loss_function, chunk_size=self.chunk_size, seed=self.seed
        )
        start._replaced = self.initial
        return start

    def _check_start(self, tensors: Mapping[str, Tensor]) -> None:
        unlike = [n for n, t in tensors.items() if n not in self.initial or self.initial[n].shape != t.shape]
        if unlike:
            raise ValueError(
                f"the initial state does not fit the network: {unlike[0]!r} was not there, or had another shape. "
                "Take it with network.initial_state(model) before training."
            )

    def run_chunks(self, function: Callable[[nn.Module, Any], Result], inputs: Any = None) -> Iterator[Result]:
        """Call ``function(model, inputs)`` on each chunk of the batch, or of other inputs, see :meth:`run`."""
        for (x,) in self._chunks(self.inputs if inputs is None else inputs):
            yield self.run(partial(_called_with, function, x))

    def _chunks(self, *data: Any) -> Iterator[Any]:
        size = self.num_samples if self._outputs is not None else self.chunk_size
        yield from chunks(data, size)

    def _one_sample(self) -> Any:
        return next(chunks(self.inputs, 1))

    # Weights -------------------------------------------------------------------------------------

    @cached_property
    def weights(self) -> list[Weight]:
        """The weight matrices, see :func:`read_weights`.

        Raises:
            ValueError: If the network has none.
        """
        return self._any(self.run(read_weights))

    @cached_property
    def folded_weights(self) -> list[Weight]:
        """The weight matrices with the BatchNorm that follows each multiplied in. Needs inputs."""
        sample = self._one_sample()
        return self._any(self.run(lambda model: fold_batch_norm(model, sample, read_weights(model))))

    @staticmethod
    def _any(weights: list[Weight]) -> list[Weight]:
        if not weights:
            raise ValueError("needs a network with weight matrices; this one has none that are known.")
        return weights

    @cached_property
    def spectra(self) -> dict[str, Tensor]:
        """Singular values of each weight by name; of a grouped convolution those of all its blocks."""
        return _spectra(self.weights)

    @cached_property
    def folded_spectra(self) -> dict[str, Tensor]:
        """The same of the folded weights. Needs inputs."""
        return _spectra(self.folded_weights)

    def distances(self, *, folded: bool = False) -> list[Weight]:
        """How far each weight matrix is from where it started, as a weight of its own. Needs the initial state."""
        if folded:
            self._check_start(_running_statistics(self.model))
        now, then = (s.folded_weights if folded else s.weights for s in (self, self.start))
        return [w.minus(before) for w, before in zip(now, then, strict=True)]

    @cached_property
    def input_shapes(self) -> dict[int, torch.Size]:
        """Shape of one input of every convolution that is called, by ``id`` of the module. Needs inputs."""
        sample = self._one_sample()
        return self.run(lambda model: input_shapes(model, sample))

    def layer_norms(
        self, norm: LayerNorm = "spectral", *, convolution: ConvolutionNorm = "kernel", folded: bool = False
    ) -> dict[str, Tensor]:
        """Norm of each weight by name.

        Args:
            norm: ``"frobenius"``, ``"spectral"``, ``"trace"``, ``("schatten", p)`` or a pair ``(p, q)``, see
                :func:`lightning_complexity.functional.group_norm`.
            convolution: What a convolution's spectral norm is: that of its kernel reshaped to ``(out, in * kernel)``;
                that of a ``"circular"`` convolution with stride 1, by Fourier transform; or that of the
                ``"operator"`` itself at its input size, with its stride, padding, dilation and groups. The last two
                need inputs.
            folded: Whether the BatchNorm that follows a layer is multiplied into it. Needs inputs.
        """
        key = norm, convolution, folded
        if key not in self._layer_norms:
            self._layer_norms[key] = self._read_layer_norms(norm, convolution, folded)
        return self._layer_norms[key]

    def _read_layer_norms(self, norm: LayerNorm, convolution: ConvolutionNorm, folded: bool) -> dict[str, Tensor]:
        weights = self.folded_weights if folded else self.weights
        if convolution == "circular":
            return circular_norms(weights, self.input_shapes)
        key = f"{convolution}/folded" if folded else convolution
        if convolution == "operator":
            return follow_operator_norms(weights, self.input_shapes, self._vectors, key)
        if norm == "spectral" and self.live:
            return matrix_norms(weights, norm, self._vectors, key)
        order = schatten_order(norm)
        if order is None:
            return matrix_norms(weights, norm)
        spectra = self.folded_spectra if folded else self.spectra
        return {w.name: schatten_norm(spectra[w.name], order) for w in weights}

    def distance_norms(self, norm: LayerNorm = "frobenius", *, folded: bool = False) -> dict[str, Tensor]:
        """Norm of each weight's distance from where it started, by name. Needs the initial state."""
        return matrix_norms(self.distances(folded=folded), norm, self._vectors, "distance")

    def path_sums(self, q: float) -> Scaled:
        r"""Sum of :math:`\prod |\theta|^q` over the paths to each output. Needs inputs, for their shape."""
        if q not in self._path_sums:
            x = self.float_inputs
            self._path_sums[q] = self.run(lambda model: path_sums(model, tuple(x.shape[1:]), x, q, measure="PathNorm"))
        return self._path_sums[q]

    # Regions -------------------------------------------------------------------------------------

    def activations(self, inputs: Any) -> Iterator[list[Activation]]:
        """The nonlinearities that inputs go through, chunk by chunk; see :func:`capture_activations`."""
        for chunk in chunks(inputs, self.chunk_size):
            yield self.run(lambda model, chunk=chunk: capture_activations(model, chunk))  # type: ignore[misc]

    def restriction(self, origin: Tensor, directions: Tensor, *, measure: str) -> Restriction:
        """The network on a segment or a plane, in double precision; see :class:`Restriction`."""
        call = partial(self.run, dtype=torch.float64)
        return Restriction(call, origin, directions, measure=measure, chunk_size=self.chunk_size)

    def plane_regions(self, margin: float, *, measure: str) -> PlaneRegions:
        """Linear regions in the rectangle around the first three samples; see :func:`rectangle_around`.

        Raises:
            ValueError: If there are fewer than three samples, or they are on a line.
        """
        if margin not in self._plane_regions:
            if self.num_samples < 3:
                raise ValueError(f"{measure} in a plane needs three samples, got {self.num_samples}.")
            origin, directions, _, corners = rectangle_around(self.float_inputs[:3].detach(), margin)
            self._plane_regions[margin] = plane_regions(self.restriction(origin, directions, measure=measure), corners)
        return self._plane_regions[margin]

    # Outputs -------------------------------------------------------------------------------------

    @cached_property
    def outputs(self) -> Tensor:
        """What the network gives for the batch."""
        return self.outputs_on(self.inputs) if self._outputs is None else self._outputs

    def outputs_on(self, inputs: Any) -> Tensor:
        """What the network gives for another batch."""
        parts = [self.run(partial(_forward, x)) for (x,) in self._chunks(inputs)]
        if not all(isinstance(part, Tensor) for part in parts):
            raise ValueError(f"needs a network that returns one tensor, got {type(parts[0]).__name__}.")
        return torch.cat([_at_least_single(part) for part in parts])

    @cached_property
    def running_order(self) -> list[str]:
        """Names of the linear and convolution modules in the order in which they run. Needs inputs."""
        sample = self._one_sample()
        order = self.run(lambda model: running_order(model, sample))
        if not order:
            raise ValueError("needs a network with linear or convolution layers; this one calls none.")
        return order

    def features(self, *layers: Layer) -> dict[str, Tensor]:
        """What goes into layers, flattened to shape ``(n, d)``, by their names.

        Args:
            layers: Names of modules, or places among the linear and convolution modules in the order in which they
                run: what goes into the last one, at -1, are the penultimate features. All of them by default.

        Raises:
            ValueError: If there is no such layer.
        """
        names = [find_layer(layer, self.running_order, self.model) for layer in layers or self.running_order]
        new = [name for name in dict.fromkeys(names) if name not in self._features]
        if new:
            parts = list(self.run_chunks(lambda model, x: entering(model, x, new)))
            self._features |= {name: torch.cat([part[name].flatten(1) for part in parts]) for name in new}
        return {name: self._features[name] for name in names}

    @cached_property
    def margins(self) -> Tensor:
        """Signed margin of every sample."""
        return signed_margins(self.outputs, self.targets)

    @cached_property
    def mean_loss(self) -> Tensor:
        """Mean loss of the batch."""
        return self._loss(self.outputs, self.targets)

    @cached_property
    def accuracy(self) -> Tensor:
        """Share of samples whose largest output is that of the target."""
        check_classification(self.outputs, self.targets)
        return (self.outputs.argmax(1) == self.targets).double().mean()

    @cached_property
    def costs(self) -> Costs:
        """What one forward pass of the first sample takes, see :func:`count_costs`."""
        sample = self._one_sample()
        return self.run(lambda model: count_costs(model, sample))

    def _loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if self.loss_function is F.cross_entropy and targets.is_floating_point():
            _check_soft_labels(outputs, targets)
        return self.loss_function(outputs, targets)

    # Derivatives ---------------------------------------------------------------------------------

    def input_output_chunks(self, at_most: int | None = None) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of inputs that require grad and outputs computed from them, of some samples at a time."""
        if self._outputs is not None:
            yield self.float_inputs, self._outputs
            return
        size = self.chunk_size if at_most is None else min(at_most, self.chunk_size)
        for (x,) in chunks((self.float_inputs,), size):
            yield self._differentiable_outputs(x)

    def _differentiable_outputs(self, x: Tensor) -> tuple[Tensor, Tensor]:
        def forward(model: nn.Module) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                leaf = x.detach().clone().requires_grad_()
                return leaf, model(leaf)

        return self.run(forward)

    @cached_property
    def _jacobians(self) -> tuple[Tensor, Tensor]:
        parts = []
        for x, y in self.input_output_chunks(None if self.live else self._jacobians_at_once()):
            with torch.enable_grad():
                parts.append((jacobian_grams(y, x, create_graph=self.live), y if self.live else y.detach()))
        return torch.cat([grams for grams, _ in parts]), torch.cat([outputs for _, outputs in parts])

    def _jacobians_at_once(self) -> int:
        entries = self.float_inputs[0].numel() * self.run(partial(_forward, self._one_sample())).numel()
        return max(_JACOBIAN_ENTRIES // entries, 1)

    @property
    def jacobian_grams(self) -> Tensor:
        """Gram matrix of each sample's Jacobian, shape ``(n, C, C)``, by one backward pass for each output."""
        return self._jacobians[0]

    @property
    def jacobian_outputs(self) -> Tensor:
        """The outputs that came with them."""
        return self._jacobians[1]

    def input_gradients(self) -> Iterator[Tensor]:
        """Gradient of each sample's loss for its input, chunk by chunk. Needs targets."""
        done = 0
        for x, outputs in self.input_output_chunks():
            targets = map_tensors(itemgetter(slice(done, done + len(x))), self.targets)
            done += len(x)
            with torch.enable_grad():
                total = len(x) * self._loss(_at_least_single(outputs), targets)
                (gradient,) = torch.autograd.grad(total, x, create_graph=self.live, materialize_grads=True)
            yield gradient

    @cached_property
    def trainable(self) -> dict[str, Tensor]:
        """The parameters that are trained, by name."""
        return {n: p for n, p in self.parameters.items() if p.requires_grad}

    def _gradient_graphs(self) -> Iterator[list[Tensor]]:
        """For each chunk, the share of the mean loss's gradient that it adds, with its graph."""
        if not self.trainable:
            raise ValueError("needs a network with parameters that are trained; this one has none.")
        total = self.num_samples
        for x, y in self._chunks(self.inputs, self.targets):
            share = num_samples(x) / total

            def gradient(model: nn.Module, x: Any = x, y: Any = y, share: float = share) -> list[Tensor]:
                loss = share * self._loss(_at_least_single(model(x)), y)
                parameters = list(self.trainable.values())
                return list(torch.autograd.grad(loss, parameters, create_graph=True, materialize_grads=True))

            yield self.run(gradient, differentiable=True)

    @cached_property
    def _retained_gradient_graph(self) -> list[Tensor]:
        return next(self._gradient_graphs())

    def _graphs(self) -> Iterator[list[Tensor]]:
        if self.num_samples <= self.chunk_size:
            yield self._retained_gradient_graph
        else:
            yield from self._gradient_graphs()

    @cached_property
    def gradient(self) -> Tensor:
        """Gradient of the mean loss for the trained parameters, as one vector. Needs targets."""
        return sum(_flat(g).detach() for g in self._graphs())  # type: ignore[return-value]

    def hvp(self, v: Tensor) -> Tensor:
        """Product of the Hessian of the mean loss with a vector of the length of :attr:`gradient`.

        One backward pass for each chunk of the batch over a retained graph of the gradient; the graph
        is kept between calls if the batch is a single chunk.
        """
        parameters = list(self.trainable.values())
        sizes = [p.numel() for p in parameters]
        parts = [part.view_as(p) for part, p in zip(v.split(sizes), parameters, strict=True)]
        product = torch.zeros_like(v)
        for gradients in self._graphs():
            product += _flat(_vector_jacobian(gradients, parameters, parts))
        return product


def _running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """Buffers that BatchNorm folding reads."""
    normalizations = (m for m in model.named_modules() if isinstance(m[1], nn.modules.batchnorm._NormBase))
    return {
        f"{path}.{name}".removeprefix("."): buffer
        for path, module in normalizations
        for name, buffer in module.named_buffers(recurse=False)
        if buffer.is_floating_point()
    }


def _spectra(weights: list[Weight]) -> dict[str, Tensor]:
    return {w.name: singular_values(w.blocks).flatten() for w in weights}


def _vector_jacobian(outputs: list[Tensor], inputs: list[Tensor], vectors: list[Tensor]) -> list[Tensor]:
    """Backward pass through those outputs that depend on anything."""
    used = [(o, v) for o, v in zip(outputs, vectors, strict=True) if o.requires_grad]
    if not used:
        return [torch.zeros_like(p) for p in inputs]
    outputs, vectors = [o for o, _ in used], [v for _, v in used]
    return list(torch.autograd.grad(outputs, inputs, vectors, retain_graph=True, materialize_grads=True))


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([t.flatten() for t in tensors])


def _check_soft_labels(outputs: Tensor, targets: Tensor) -> None:
    ones = targets.new_ones(targets.shape[:1])
    if targets.shape == outputs.shape and torch.allclose(targets.sum(1), ones, atol=1e-3):
        return
    raise MissingInputError(
        "needs class targets for the cross-entropy loss (integers of shape (n,), or probabilities that sum "
        f"to 1), got {targets.dtype} of shape {tuple(targets.shape)}. For regression pass your loss, "
        "as in ComplexityMonitor(loss=torch.nn.functional.mse_loss)."
    )
