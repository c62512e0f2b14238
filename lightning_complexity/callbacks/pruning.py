"""Prune the units of a network that contribute least to its complexity."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from lightning_complexity.callbacks.base import LightningModule, Trainer, completed_batches, double_precision
from lightning_complexity.callbacks.finding import find_task
from lightning_complexity.callbacks.keys import KeyedCallback
from lightning_complexity.callbacks.loggers import log_scalars
from lightning_complexity.callbacks.order import put_in_order
from lightning_complexity.callbacks.probe import Probe, ProbeSource, check_probe, copied, training_probe, unchanged
from lightning_complexity.metrics.base.written import written
from lightning_complexity.metrics.function.lann import pieces_by_unit
from lightning_complexity.network import Feed, Snapshot, Task, trace_sources
from lightning_complexity.network.running.batches import chunks, owned
from lightning_complexity.network.running.called import called


def _prunable(model: nn.Module, probe: Probe) -> dict[str, list[str]]:
    """Names of the parameters that make the units of each activation, weight first, where they can be pruned."""
    names = {id(p): name for name, p in model.named_parameters()}
    with unchanged(model), torch.no_grad():
        network = trace_sources(called(model, probe.task), owned(next(chunks(probe.inputs, 1))))
    found = {}
    for fed in network:
        parameters = [p for feed in fed.feeds for p in _parameters(feed)]
        if fed.feeds and fed.feeds[0].alone and all(id(p) in names for p in parameters):
            found[fed.activation.name] = [names[id(p)] for p in parameters]
    return found


def _parameters(feed: Feed) -> list[Tensor]:
    return [feed.weight, *([] if feed.bias is None else [feed.bias]), *feed.affine]


def _fewest(pieces: Tensor, sizes: Tensor, layer: Tensor, kept: Tensor, count: int) -> Tensor:
    """Indices of ``count`` kept units with the fewest pieces, then the smallest weights; one stays in each layer."""
    order = sorted(range(len(pieces)), key=lambda i: (pieces[i].item(), sizes[i].item()))
    left = {int(i): int(kept[layer == i].sum()) for i in layer.unique()}
    chosen: list[int] = []
    for i in order:
        of_layer = int(layer[i])
        if len(chosen) < count and kept[i] and left[of_layer] > 1:
            left[of_layer] -= 1
            chosen.append(i)
    return torch.tensor(chosen, dtype=torch.long)


class NeuronPruning(KeyedCallback):
    """Prune the units with the fewest linear pieces and hold them at zero; this changes training.

    At the end of each of the chosen epochs the network is imitated by linear pieces, as
    :class:`lightning_complexity.metrics.LANNComplexity` does, and a share of the units that are left, over all layers,
    is pruned: those with the fewest pieces, among equals those with the smallest incoming weights. Weights and bias
    that lead to a pruned unit, and the affine parameters of a BatchNorm in between, are set to zero after every
    step from then on, so that its preactivation is exactly zero; a logistic unit then gives a constant. At least one
    unit of each layer stays. Units of rectifiers all have two pieces, so that the smallest weights decide. Averaged
    weights, of ``StochasticWeightAveraging`` and ``WeightAveraging``, are pruned too where they are validated or left
    at the end.

    Pruned are units whose preactivation is that of one linear layer or convolution alone, found by following the
    data. Layers that end in an addition, share their weight, or have it parametrized stay whole.

    Logs ``pruning/pruned_share``, of the units that can be pruned. What was pruned is kept in checkpoints.

    Args:
        share: Of the units that are left at each pruning, above 0 and below 1.
        at_epochs: After how many completed epochs to prune.
        degree: Of the imitation, see ``LANNComplexity``.
        probe: Samples that pieces are counted on, as in :class:`lightning_complexity.ComplexityMonitor`.

    Attributes:
        masks: For each parameter, by name, which of its units are pruned.

    Raises:
        ValueError: At options that make no sense; when training starts, on a network without units that can be
            pruned; when a fit continues from a checkpoint of another network.

    Example:
        >>> pruning = NeuronPruning(0.1, at_epochs=[5, 10])
        >>> # Trainer(callbacks=[pruning]).fit(model)
    """

    order_among_callbacks = 1

    def __init__(
        self, share: float = 0.1, *, at_epochs: Iterable[int], degree: float = 0.1, probe: ProbeSource = 256
    ) -> None:
        self.at_epochs = sorted(set(at_epochs))
        if not 0 < share < 1:
            raise ValueError(f"share must be above 0 and below 1, got {share!r}.")
        if not self.at_epochs or self.at_epochs[0] < 1:
            raise ValueError(f"at_epochs must be numbers of completed epochs, such as [5, 10], got {self.at_epochs}.")
        if not degree > 0:
            raise ValueError(f"degree must be above 0, got {degree!r}.")
        check_probe(probe)
        self.share, self.degree, self.probe = share, degree, probe
        self._forget()

    def __repr__(self) -> str:
        """How it is written, such as ``NeuronPruning(at_epochs=[5, 10])``."""
        return written(self, KeyedCallback, f"at_epochs={self.at_epochs}")

    def _forget(self) -> None:
        self.masks: dict[str, Tensor] = {}
        self._drawn: Probe | None = None
        self._layers: dict[str, list[str]] = {}

    # Hooks ---------------------------------------------------------------------------------------

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start afresh, unless this continues a fit; come after callbacks that change weights."""
        super().setup(trainer, pl_module, stage)
        if stage == "fit":
            put_in_order(trainer)
            if trainer.global_step == 0:
                self._forget()

    def identity(self) -> dict[str, Any]:
        """What tells several apart."""
        return {"at_epochs": self.at_epochs}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Find out what can be pruned, and prune what a checkpoint says, before the first step."""
        if self._drawn is not None:
            return
        drawn = copied(training_probe(self.probe, trainer, pl_module, batch), pl_module.device)
        with double_precision(trainer):
            self._drawn = Probe(drawn, find_task(pl_module, drawn.batches[0], Task()))
            self._layers = _prunable(pl_module, self._drawn)
        if not self._layers:
            raise ValueError(
                "NeuronPruning needs a network with activations whose inputs come from one linear layer or convolution "
                "alone; this one has none. Residual sums, shared and parametrized weights cannot be pruned so."
            )
        self._check_masks(pl_module)
        self._hold(pl_module)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Undo what the optimizer did to pruned units."""
        self._hold(pl_module)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune the averaged weights too, with which ``StochasticWeightAveraging`` starts its last epoch."""
        self._hold(pl_module)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune the averaged weights too, which ``WeightAveraging`` validates."""
        if trainer.state.fn == "fit":
            self._hold(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune the averaged weights too, which weight averaging leaves."""
        self._hold(pl_module)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune what the module itself did to its weights at the end."""
        self._hold(pl_module)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Prune."""
        if trainer.current_epoch + 1 not in self.at_epochs or self._drawn is None:
            return
        with double_precision(trainer):
            self._prune(pl_module, self._drawn)
        # Ranks may have seen different samples.
        self.masks = trainer.strategy.broadcast(self.masks)
        self._hold(pl_module)
        log_scalars(trainer, {"pruning/pruned_share": self.pruned_share}, completed_batches(trainer))

    def state_dict(self) -> dict[str, Any]:
        """What was pruned."""
        return {**super().state_dict(), "masks": dict(self.masks)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue from a checkpoint."""
        self.masks = dict(state_dict["masks"])

    # Pruning -------------------------------------------------------------------------------------

    @property
    def pruned_share(self) -> float:
        """Share of the units that can be pruned which are."""
        masks = [self.masks[names[0]] for names in self._layers.values() if names[0] in self.masks]
        return float(torch.cat(masks).double().mean()) if masks else 0.0

    def _prune(self, pl_module: LightningModule, probe: Probe) -> None:
        parameters = dict(pl_module.named_parameters())
        weights = {name: parameters[names[0]].detach().cpu() for name, names in self._layers.items()}
        units = pieces_by_unit(Snapshot(pl_module, probe.batches, task=probe.task), self.degree)
        kept = {name: ~self._mask(self._layers[name][0], len(w)) for name, w in weights.items()}
        remaining = torch.cat(list(kept.values()))
        chosen = _fewest(
            torch.cat([units[name].cpu() for name in weights]),
            torch.cat([w.flatten(1).abs().sum(1) for w in weights.values()]),
            torch.cat([torch.full((len(w),), i) for i, w in enumerate(weights.values())]),
            remaining,
            round(self.share * int(remaining.sum())),
        )
        pruned = ~remaining
        pruned[chosen] = True
        for names, mask in zip(self._layers.values(), pruned.split([len(w) for w in weights.values()]), strict=True):
            self.masks.update(dict.fromkeys(names, mask.clone()))

    def _mask(self, name: str, units: int) -> Tensor:
        return self.masks.get(name, torch.zeros(units, dtype=torch.bool))

    @torch.no_grad()
    def _hold(self, pl_module: LightningModule) -> None:
        if self._drawn is None:  # it is not known yet whether the masks are of this network
            return
        for name, parameter in pl_module.named_parameters():
            if name in self.masks:
                parameter[self.masks[name].to(parameter.device)] = 0

    def _check_masks(self, pl_module: LightningModule) -> None:
        sizes = {name: len(p) for name, p in pl_module.named_parameters() if p.ndim}
        wrong = [name for name, mask in self.masks.items() if sizes.get(name) != len(mask)]
        if wrong:
            raise ValueError(f"the checkpoint pruned {wrong[0]!r}, which this network does not have in that size.")
