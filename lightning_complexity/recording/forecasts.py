"""What measuring will take, from what it took before, and at first from small pieces of the probe."""

from __future__ import annotations

import copy
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import partial
from typing import Any

import torch
from torch import nn

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.metrics.base import Cost as CostClass
from lightning_complexity.metrics.base import ProbedMetric, WeightMetric
from lightning_complexity.network import Snapshot
from lightning_complexity.recording.budget import Price
from lightning_complexity.recording.costs import MOMENT, Costs, Watch
from lightning_complexity.recording.memory import activation_bytes

_SIZES = (1, 4, 16, 64)
_PART_FOR_PIECES = 4  # of what may be spent, a quarter
_FEWEST_PROBES = 2  # that have a standard error
_SECONDS_PER_PARAMETER = 3e-8
_SIZE_OF_TRIAL = 96  # rows and columns of the matrix that tells how fast a decomposition is
_CERTAIN = 4.0  # times the guess are affordable: no piece is needed
# Forward passes over the whole probe, and seconds beside them, that what is not known yet takes at most.
_GUESSES: dict[CostClass, tuple[float, float]] = {
    "weights": (0.0, 0.001),
    "forward": (8.0, 0.002),
    "backward": (60.0, 0.01),
    "hessian": (150.0, 0.01),
    "sampling": (300.0, 0.02),
}
# In what one forward pass keeps of the samples that are computed at once.
_MEMORY: dict[CostClass, float] = {"weights": 0.0, "forward": 1.0, "backward": 2.0, "hessian": 4.0, "sampling": 2.0}
_AT_ONCE = 256
_SECONDS_OF_A_START = 0.05  # that a first call may take for itself, such as loading code; a second one tells


class Forecasts:
    """Prices of metrics and of the losses on the probes.

    Args:
        metrics: By name.

    Attributes:
        costs: What was seen so far.
        num_samples: Of the whole probe; 0 without one.
        forward_seconds: Of a forward pass over the whole probe; ``None`` before it is known.
        bytes_per_sample: Of all that a forward pass computes.
    """

    def __init__(self, metrics: Mapping[str, ComplexityMetric]) -> None:
        self.metrics = metrics
        self.costs = Costs()
        self.num_samples = 0
        self.forward_seconds: float | None = None
        self.bytes_per_sample = 0.0
        self._piece_sizes: list[int] = []
        self._pieces: dict[str, dict[int, float]] = {}  # seconds by name and size
        self._decompositions = self._num_parameters = 0.0

    # Prices --------------------------------------------------------------------------------------

    def price(self, name: str, there: Collection[str] = ()) -> Price:
        """What a quantity takes, where some of what it shares with others is there already."""
        metric = self.metrics.get(name)
        least = min(1.0, _FEWEST_PROBES / metric.num_probes) if isinstance(metric, ProbedMetric) else 1.0
        own = self.costs.own(name) if name in self.costs.table else self._guess(metric, there)
        return Price(own, self.costs.shared(name, there), least)

    def in_order(self, names: Iterable[str]) -> dict[str, Price]:
        """Prices from the cheapest to the dearest, each without what those before it have in common with it.

        Losses are measured before or after all metrics, and share nothing.
        """
        alone = {name: self.price(name).full for name in names}
        prices: dict[str, Price] = {}
        there: set[str] = set()
        for name in sorted(alone, key=lambda name: alone[name]):
            prices[name] = self.price(name, there if name in self.metrics else {MOMENT} & there)
            there |= {MOMENT, *self.costs.needed(name)}
        return prices

    def _guess(self, metric: ComplexityMetric | None, there: Collection[str]) -> float:
        forward = self.forward_seconds or 0.0
        if metric is None:  # a loss
            return 1.5 * forward
        passes, seconds = _GUESSES["forward" if metric.cost == "weights" and "inputs" in metric.needs else metric.cost]
        seconds += passes * forward + _SECONDS_PER_PARAMETER * self._num_parameters
        if isinstance(metric, WeightMetric) and not any(item.startswith("_spectrum(") for item in there):
            seconds += self._decompositions
        return seconds

    def memory(self, name: str) -> float:
        """Bytes that measuring a quantity takes at once, roughly: by what a forward pass computes."""
        metric = self.metrics.get(name)
        kept = self.bytes_per_sample * min(self.num_samples, _AT_ONCE)
        return kept * (_MEMORY[metric.cost] if metric else 1.0)

    # Pieces --------------------------------------------------------------------------------------

    def next_piece(self, name: str, room: float) -> int | None:
        """The number of samples to try a quantity on before it is measured for the first time; ``None`` for none.

        Pieces grow from one sample on, as long as the next one is affordable and the whole is not yet known to be.

        Args:
            name: Of the quantity.
            room: Seconds that may be spent on it.
        """
        metric = self.metrics.get(name)
        cost = self.costs.table.get(name)
        if metric is None or "inputs" not in metric.needs or (cost is not None and cost.measured):
            return None
        tried = self._pieces.get(name, {})
        if not tried and _CERTAIN * self._guess(metric, ()) <= room and _is_ours(metric):
            return None
        if cost is not None and self.price(name).full <= room:
            return None
        sizes = [size for size in self._piece_sizes if size > max(tried, default=0)]
        if not sizes or self._seconds_of_piece(name, sizes[0]) > room / _PART_FOR_PIECES:
            return None
        return sizes[0]

    def _seconds_of_piece(self, name: str, size: int) -> float:
        tried = self._pieces.get(name, {})
        if tried:
            return tried[max(tried)] * size / max(tried)
        return self._guess(self.metrics[name], ()) * size / self.num_samples

    def try_piece(self, name: str, size: int, snapshot: Snapshot) -> None:
        """Measure a quantity on a piece of the probe, and forget the value.

        Some quantities need more samples than a piece has; they are taken for as dear as guessed.
        """
        piece = snapshot.first(size)
        seen, seconds = self._measured_on(piece, name)
        if seconds < _SECONDS_OF_A_START:
            seen, seconds = self._measured_on(piece, name)
        tried = self._pieces.setdefault(name, {})
        tried[size] = seconds
        metric = self.metrics[name]
        used, of = metric.samples_used(piece.num_samples), metric.samples_used(self.num_samples)
        self.costs.forecast(seen, _scale(tried, used, of))

    def _measured_on(self, piece: Snapshot, name: str) -> tuple[Costs, float]:
        """What a quantity takes on a piece, and the seconds of all; no value is kept."""
        metric = copy.deepcopy(self.metrics[name])
        scale = 1.0
        if isinstance(metric, ProbedMetric):
            metric.num_probes, scale = 1, float(metric.num_probes)
        piece, seen = piece.first(piece.num_samples), Costs()
        watch = Watch(seen)
        started = time.perf_counter()
        with warnings.catch_warnings(), watch.on(piece), piece.opened():
            warnings.simplefilter("ignore")
            try:
                with watch.timed(name, scale=scale):
                    metric.update(piece)
            except Exception:
                seen = Costs()
        return seen, time.perf_counter() - started

    # What is looked at first -----------------------------------------------------------------------

    def see(self, snapshot: Snapshot) -> None:
        """Take in how large network and probe are, and how long a forward pass takes, from one to four samples."""
        self._num_parameters = sum(parameter.numel() for parameter in snapshot.model.parameters())
        self._decompositions = seconds_of_decompositions(snapshot.model)
        self.forward_seconds = 0.0
        if not snapshot.has("inputs"):
            return
        self.num_samples = snapshot.num_samples
        is_apart = snapshot.batches is None or len(snapshot.batches.batches) == 1
        smallest = snapshot.first(1).num_samples
        self._piece_sizes = [s for s in _SIZES if 2 * s <= self.num_samples] if smallest == 1 else [smallest]
        if smallest == self.num_samples or not (is_apart or smallest > 1):
            self._piece_sizes = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._look(snapshot)

    def _look(self, snapshot: Snapshot) -> None:
        one = snapshot.first(1)
        try:
            some = snapshot.first(4)
            of_one, of_some = (activation_bytes(partial(_forward, piece)) for piece in (one, some))  # and warm up
            more = some.num_samples - one.num_samples
            self.bytes_per_sample = (of_some - of_one) / more if more else of_one / one.num_samples
            seconds = {piece.num_samples: _forward(piece) for piece in (one, some)}
        except Exception:  # whoever measures says why
            return
        self.forward_seconds = seconds[some.num_samples] * _scale(seconds, some.num_samples, self.num_samples)

    def state(self) -> dict[str, Any]:
        """Plain values, for a checkpoint."""
        return {"costs": self.costs.state()}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.costs.restore(state["costs"])


def _scale(tried: Mapping[int, float], used: int, of: int) -> float:
    """How many times as long as the largest piece all takes, whatever part does not depend on the number of samples.

    Args:
        tried: Seconds by number of samples.
        used: Samples of the largest piece that are looked at.
        of: Of how many.
    """
    plain = of / max(used, 1)
    sizes = sorted(tried)
    if len(sizes) < 2 or tried[sizes[-1]] <= 0:
        return plain
    small, large = sizes[-2:]
    slope = max(tried[large] - tried[small], 0.0) / (large - small)
    return min(plain, 1 + slope * large * (plain - 1) / tried[large])


def _is_ours(metric: ComplexityMetric) -> bool:
    """Whether guesses by its class of costs can be relied on."""
    return type(metric).__module__.startswith(f"{__package__.partition('.')[0]}.")


def _forward(snapshot: Snapshot) -> float:
    """Seconds of a forward pass."""
    with snapshot.opened(), torch.no_grad():
        return _seconds_of(lambda: list(snapshot.run_chunks(lambda model, inputs: model(inputs))))


def seconds_of_decompositions(model: nn.Module) -> float:
    """What the singular values of all weight matrices take: as the product of both sizes and the smaller one."""
    matrices = [p for p in model.parameters() if p.ndim > 1 and p.numel()]
    if not matrices:
        return 0.0
    trial = torch.arange(_SIZE_OF_TRIAL**2, device=matrices[0].device, dtype=torch.float32).sin()
    trial = trial.reshape(_SIZE_OF_TRIAL, _SIZE_OF_TRIAL)
    seconds = min(_seconds_of(lambda: torch.linalg.svdvals(trial)[0].item()) for _ in range(2))
    shapes = [(p.shape[0], p.numel() // p.shape[0]) for p in matrices]
    work = sum(m * n * min(m, n) for m, n in shapes)
    return seconds * (work / _SIZE_OF_TRIAL**3 + len(shapes) / _SIZE_OF_TRIAL)


def _seconds_of(run: Callable[[], object]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
