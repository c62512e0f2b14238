"""How a network and its features bear the mixing and augmentation of inputs."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from lightning_complexity.functional.margins import check_classes, check_classification
from lightning_complexity.functional.representation.features import (
    davies_bouldin_index,
    graph_variation,
    hidden_margins,
    rounding_of,
    same_class_pairs,
    trimmed_mean,
)
from lightning_complexity.metrics.base import ComplexityMetric
from lightning_complexity.network import Context, MeasureError, Snapshot, features, running_order
from lightning_complexity.network.outputs import (
    checked_predictions,
    class_targets,
    features_on,
    predictions_on,
)
from lightning_complexity.network.running.task import main_tensor
from lightning_complexity.network.tracing.calls import Layer, find_layer, with_output_of

__all__ = ["LabelVariation", "MixupDaviesBouldin", "MixupMargin"]


def _mixed_within_classes(snapshot: Snapshot, at_most: int) -> tuple[Tensor, Tensor]:
    """Halfway mixes of every two inputs of a class, among the first ``at_most`` of it, and their classes."""
    targets, kept = class_targets(snapshot)
    inputs, targets = snapshot.float_inputs.detach()[kept], targets[kept]
    first, second = same_class_pairs(targets, at_most).T
    return (inputs[first] + inputs[second]) / 2, targets[first]


class MixupDaviesBouldin(ComplexityMetric):
    r"""Davies-Bouldin index of the features times the error on inputs mixed within their class.

    .. math:: \text{DB} \cdot (1 - A)

    ``A`` is the accuracy on the halfway mixes of every two samples of a class. The score that won the competition on
    predicting generalization at NeurIPS 2020, with the features of one layer here and all samples at once where the
    authors average small batches of pooled features. Low for networks that should generalize well. Its ranking varies
    much from task to task. Undefined, ``nan``, for a single sample, a single class, and where no class has two samples.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order, whose input the
            features are: 1 for what the second layer is given.
        at_most: Samples of each class that are mixed.
        per_layer: Must be ``False``.

    Raises:
        ValueError: If ``at_most`` is below 2; in ``update``, if there is no such layer, and for a second batch.

    Example:
        >>> x = torch.tensor([[0.0], [2.0], [9.0], [11.0]])
        >>> net = torch.nn.Linear(1, 2)  # answers 1 from 0.5 on
        >>> _ = net.weight.data.copy_(torch.tensor([[0.0], [2.0]])), net.bias.data.copy_(torch.tensor([0.0, -1.0]))
        >>> metric = MixupDaviesBouldin(layer=-1)
        >>> metric.update(net, x, torch.tensor([0, 0, 1, 1]))
        >>> metric.compute()  # 2 / 9, and one mix of two is wrong
        tensor(0.1111)
    """

    name = "mixup_davies_bouldin"
    no_penalty_reason = "an accuracy has no gradient"
    needs = frozenset({"inputs", "targets"})
    cost = "forward"
    increases_with_complexity = None
    single_update_reason = "pairs are taken among all samples of a class"
    formula = r"\text{DB} \cdot (1 - \text{accuracy on } (x_i + x_j) / 2 \text{ of one class})"
    reference = "After Natekar and Sharma, 2020 (the winners of PGDL, NeurIPS 2020)"
    units = "pure number"
    misleads_when = "there are few samples of a class to be mixed, or mixing leaves the data, as for tokens"

    def __init__(self, layer: Layer = -1, *, at_most: int = 10, per_layer: bool = False, **kwargs: Any) -> None:
        if at_most < 2:
            raise ValueError(f"at_most must be at least 2 samples of a class, got {at_most!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.layer, self.at_most = layer, at_most

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The score on the snapshot."""
        snapshot.check_samples_apart(type(self).__name__)
        (found,) = features(snapshot, self.layer).values()
        targets, kept = class_targets(snapshot)
        index = davies_bouldin_index(found[kept], targets[kept])
        mixes, classes = _mixed_within_classes(snapshot, self.at_most)
        if not len(mixes):
            return index * torch.nan
        logits = predictions_on(snapshot, mixes)
        check_classification(logits, classes)
        check_classes(classes, logits.shape[1])
        return index * (logits.argmax(1) != classes).to(index.dtype).mean()


class MixupMargin(ComplexityMetric):
    r"""Mean margin at a hidden layer, of inputs mixed within their class or augmented.

    .. math:: \frac{1}{\sqrt{v}\, n} \sum_i \frac{m(x_i)}{\| \partial m(x_i) / \partial h \|}, \quad
        m(x) = f_y(x) - \max_{c \ne y} f_c(x)

    ``h`` is the output of a layer. Inputs whose gradient is zero, as behind dead rectifiers, have no such margin and
    are left out; the authors add 1e-7 to the norm, which lets a single such input decide the mean. ``v`` is the
    variance of the layer's entries over the inputs, its mean over entries without the 5 % smallest and largest.
    Unchanged when the layer is scaled and the next one scaled back. Negative where the network is wrong; large for
    networks that should generalize well.
    Undefined, ``nan``, for a single sample and where no class has two; infinite where the layer gives the same for all
    inputs.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order, whose output
            ``h`` is.
        augmentation: Takes the inputs and returns others with the same classes. By default the inputs are the halfway
            mixes of every two samples of a class. With an augmentation the log name is ``augmented_margin``.
        at_most: Samples of each class that are mixed.
        per_layer: Must be ``False``.

    Raises:
        ValueError: If ``at_most`` is below 2; in ``update``, if there is no such layer, and for a second batch.

    Example:
        >>> net = torch.nn.Linear(2, 2)
        >>> metric = MixupMargin()
        >>> metric.update(net, torch.randn(8, 2), torch.arange(8) % 2)
        >>> metric.compute().shape
        torch.Size([])
    """

    name = "mixup_margin"
    no_penalty_reason = "JacobianNorm is what one trains with"
    needs = frozenset({"inputs", "targets"})
    cost = "backward"
    increases_with_complexity = None
    single_update_reason = "pairs and variances are taken among all samples"
    formula = r"\frac{1}{\sqrt{v}\, n} \sum_i m(x_i) / \lVert \partial m(x_i) / \partial h \rVert"
    reference = "After Natekar and Sharma, 2020 (PGDL, NeurIPS 2020)"
    units = "pure number"
    misleads_when = "samples of a class, mixed, are no sample of it; outputs were scaled"

    def __init__(
        self,
        layer: Layer = 0,
        *,
        augmentation: Callable[[Tensor], Tensor] | None = None,
        at_most: int = 10,
        per_layer: bool = False,
        **kwargs: Any,
    ) -> None:
        if at_most < 2:
            raise ValueError(f"at_most must be at least 2 samples of a class, got {at_most!r}.")
        super().__init__(per_layer=per_layer, **kwargs)
        self.layer, self.augmentation, self.at_most = layer, augmentation, at_most
        if augmentation is not None:
            self.name = "augmented_margin"

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The mean margin on the snapshot."""
        snapshot.check_samples_apart(type(self).__name__)
        name = find_layer(self.layer, running_order(snapshot), snapshot.model)
        if self.augmentation is None:
            inputs, classes = _mixed_within_classes(snapshot, self.at_most)
        else:
            targets, kept = class_targets(snapshot)
            inputs, classes = self.augmentation(snapshot.float_inputs.detach().clone())[kept], targets[kept]
        if len(inputs) < 2:
            return snapshot.float_inputs.new_tensor(torch.nan)
        predictions_on(snapshot, inputs[:1])  # that samples come first, which as many samples as classes hide
        margins, hidden, done = [], [], 0
        for outputs, h, leaf in snapshot.run_chunks(partial(with_output_of, name=name), inputs):
            of_chunk = classes[done : done + snapshot.chunk_size]
            logits = checked_predictions(main_tensor(outputs), len(of_chunk))
            if len(h) != len(of_chunk) or not logits.requires_grad:
                raise MeasureError(
                    f"needs outputs that depend on what {name!r} gives, with samples in its first dimension, got shape "
                    f"{tuple(h.shape)} there for {len(of_chunk)} samples. Choose another layer with layer=...."
                )
            check_classes(of_chunk, logits.shape[-1])
            margins.append(hidden_margins(logits, leaf, of_chunk).detach())
            hidden.append(h.flatten(1))
            done += len(h)
        given = torch.cat(hidden)
        variance = trimmed_mean(given.var(0))
        variance = torch.where(variance <= rounding_of(given).square(), torch.zeros_like(variance), variance)
        every = torch.cat(margins)
        return every[~every.isinf()].mean() / variance.sqrt()


class LabelVariation(ComplexityMetric):
    r"""How much mixed labels vary between inputs whose features are nearest neighbours.

    .. math:: \frac{\operatorname{tr}(Y^T L Y)}{4 n}

    Every input is mixed with another one, and its one-hot label ``Y`` alike, in shares that are Beta(2, 2) distributed;
    ``L`` is the normalised Laplacian of the graph that joins each mix to the one with the nearest features, see
    :func:`lightning_complexity.functional.graph_variation`. Low where features follow the labels. The mixes are the
    same every time. 0 for a single sample.

    Args:
        layer: A module's name, or a place among the linear and convolution modules in running order. The features that
            go into the last one, the penultimate ones, by default.
        per_layer: Must be ``False``.

    Raises:
        ValueError: In ``update``, if there is no such layer, and for a second batch.

    Example:
        >>> metric = LabelVariation()
        >>> metric.update(torch.nn.Linear(2, 2), torch.eye(2).repeat(4, 1), torch.arange(8) % 2)
        >>> bool(0 <= metric.compute() <= 0.5)
        True
    """

    name = "label_variation"
    no_penalty_reason = "nearest neighbours change"
    needs = frozenset({"inputs", "targets"})
    cost = "forward"
    increases_with_complexity = None
    single_update_reason = "inputs are mixed with one another and neighbours are found among all"
    formula = r"\operatorname{tr}(Y^T L Y) / (4 n)"
    reference = "After the team BrAIn's VPM in PGDL, NeurIPS 2020"
    units = "pure number"
    misleads_when = (
        "features do not separate classes at all, or there are few samples of each class: neighbours are then random"
    )

    def __init__(self, layer: Layer = -1, *, per_layer: bool = False, **kwargs: Any) -> None:
        super().__init__(per_layer=per_layer, **kwargs)
        self.layer = layer

    def measure(self, snapshot: Snapshot, context: Context) -> Tensor:
        """The variation on the snapshot."""
        snapshot.check_samples_apart(type(self).__name__)
        targets, kept = class_targets(snapshot)
        inputs, labels = mixed(snapshot.float_inputs.detach()[kept], F.one_hot(targets[kept]), context.generator())
        name = find_layer(self.layer, running_order(snapshot), snapshot.model)
        return graph_variation(features_on(snapshot, name, inputs), labels)


def mixed(inputs: Tensor, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Mix every sample with another one, in a share from the distribution Beta(2, 2), and the labels alike.

    Args:
        inputs: Shape ``(n, ...)``.
        labels: One-hot, shape ``(n, classes)``.
        generator: Source of shares and partners.

    Returns:
        Mixed inputs and labels.
    """
    n = len(inputs)
    # A gamma variable of shape 2 is the sum of two exponential ones; two of them give the beta variable.
    a, b = -torch.rand(2, n, 2, generator=generator, dtype=torch.float64).clamp(min=1e-300).log().sum(2)
    partner = torch.randperm(n, generator=generator).to(inputs.device)
    share = (a / (a + b)).to(inputs)

    def mix(x: Tensor) -> Tensor:
        s = share.reshape(-1, *[1] * (x.ndim - 1))
        return s * x + (1 - s) * x[partner]

    return mix(inputs), mix(labels.to(inputs.dtype))
