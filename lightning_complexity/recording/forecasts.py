"""What measuring will take, from small pieces of the probe and from what it took before."""

from __future__ import annotations

import copy
import math
import time
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from lightning_complexity.metrics import ComplexityMetric
from lightning_complexity.metrics.base import Cost, ProbedMetric
from lightning_complexity.network import Snapshot
from lightning_complexity.recording.budget import Offer
from lightning_complexity.recording.durations import Durations, Watch

MOMENT = "moment"
"""What every measurement takes beside its quantities: opening, logging, writing."""

_FORWARD = "forward"
_SMALLEST, _STEP = 2, 4  # sizes of pieces: 2, 8, 32, ... samples
_PART_FOR_PIECES = 0.25  # of the credit
_OF_UNITS = 0.25  # of what is sampled; most of it does not depend on the number of samples
_CLEARLY_CHEAP = 0.02  # of the credit
_EASILY_DISTURBED = 0.02  # seconds
_CLEAR = 0.003  # seconds that can be told from noise
_HOPED = 0.25  # of a guess or of the first time, which is often slower than those that follow
_PIECES_OF_EARNED, _PIECES_OF_CREDIT = 0.15, 0.05  # whichever is more
_WORTH_PIECES = 0.05  # seconds of a forward pass, below which what takes forward passes alone is measured at once
_FEWEST_PROBES = 2  # that have a standard error
_SECONDS_PER_PARAMETER = 3e-8
# Forward passes over the whole probe, seconds beside them, and how far off that may be.
_GUESSES: dict[Cost, tuple[float, float, float]] = {
    "weights": (0.0, 0.0, 1.0),
    "forward": (4.0, 0.002, 2.0),
    "backward": (20.0, 0.005, 5.0),
    "hessian": (100.0, 0.005, 3.0),
    "sampling": (150.0, 0.01, 5.0),
}
# In what one forward pass keeps of the samples that are computed at once.
_MEMORY: dict[Cost, float] = {"weights": 0.0, "forward": 1.0, "backward": 2.0, "hessian": 4.0, "sampling": 2.0}
_AT_ONCE = 256


@dataclass(frozen=True)
class Piece:
    """A quantity, and how many samples to try it on."""

    name: str
    size: int


@dataclass
class Forecasts:
    """Forecasts for metrics and for the losses on the probes.

    Before a quantity is measured for the first time it is tried on a few samples, where these are affordable; until
    then there is a guess by its class of costs and by what a forward pass takes.

    Attributes:
        metrics: By name.
        durations: What was seen so far.
        num_samples: Of the whole probe; 0 without one.
        num_parameters: Of the network.
        bytes_per_sample: Of all that a forward pass computes.
        does_not_run: Whether a forward pass failed.
        tried: Pieces that were tried.
        failed: By name, on how many pieces.
        spent_on_pieces: Seconds.
    """

    metrics: dict[str, ComplexityMetric]
    durations: Durations = field(default_factory=Durations)
    num_samples: int = 0
    num_parameters: int = 0
    bytes_per_sample: float = 0.0
    does_not_run: bool = False
    tried: set[Piece] = field(default_factory=set)
    failed: dict[str, int] = field(default_factory=dict)
    spent_on_pieces: float = 0.0
    _bytes_of_smallest: int = 0

    @property
    def forward_seconds(self) -> float:
        """Of a forward pass over the whole probe."""
        return self.durations.own(_FORWARD)

    @property
    def forward_is_known(self) -> bool:
        """Whether a forward pass was timed."""
        return _FORWARD in self.durations

    def guess(self, name: str) -> float:
        """Seconds of a quantity of which nothing was seen yet."""
        metric = self.metrics.get(name)
        if metric is None:  # a loss
            return 1.5 * self.forward_seconds
        if metric.cost == "weights" and "inputs" not in metric.needs:
            return _SECONDS_PER_PARAMETER * self.num_parameters
        passes, seconds, _ = _GUESSES[metric.cost if metric.cost != "weights" else "forward"]
        return passes * self.forward_seconds + seconds

    def _unsure(self, name: str) -> float:
        """How many times its guess a quantity may take."""
        return _GUESSES[self.metrics[name].cost][2] if name in self.metrics else 1.0

    def offer(self, name: str) -> Offer:
        """What a quantity would take, on the safe side."""
        least = self._least(name)
        if name in self.durations:
            shared = {item: self.durations.own(item) for item in self.durations.needed(name)}
            shared[MOMENT] = self._moment
            offer = Offer(name, self.durations.own(name), shared, least)
            is_new = self.durations[name].measured == 1
            return replace(offer, hoped=_HOPED * offer.alone) if is_new else offer
        guess, moment = self.guess(name), self._moment
        return Offer(name, self._unsure(name) * guess, {MOMENT: moment}, least, hoped=_HOPED * (guess + moment))

    @property
    def _moment(self) -> float:
        known = self.durations.get(MOMENT)
        return 0.0 if known is None else known.seconds * (_HOPED if known.measured == 1 else 1.0)

    def is_possible(self, name: str) -> bool:
        """Whether there is a forecast, so that it may be measured."""
        metric = self.metrics.get(name)
        if name in self.durations or self.does_not_run or (metric is not None and "inputs" not in metric.needs):
            return True
        is_untried = metric is not None and self._is_tried_first(metric) and self.failed.get(name, 0) < 2
        return self.forward_is_known and not is_untried

    def _least(self, name: str) -> float:
        metric = self.metrics.get(name)
        return min(1.0, _FEWEST_PROBES / metric.num_probes) if isinstance(metric, ProbedMetric) else 1.0

    def seconds(self, name: str) -> float:
        """Of one quantity measured by itself."""
        offer = self.offer(name)
        return offer.own + sum(offer.shared.values())

    def memory(self, name: str) -> float:
        """Bytes that measuring a quantity takes at once, roughly: by what a forward pass computes."""
        metric = self.metrics.get(name)
        kept = self.bytes_per_sample * min(self.num_samples, _AT_ONCE)
        return kept * (_MEMORY[metric.cost] if metric else 1.0)

    # Pieces --------------------------------------------------------------------------------------

    def next_piece(self, names: Iterable[str], credit: float, earned: float) -> Piece | None:
        """The piece to try now: the cheapest that tells something new; ``None`` if there is none.

        Args:
            names: Quantities that may be measured.
            credit: Seconds that may be spent; a quarter of them at most goes into a piece.
            earned: Seconds that may have been spent by now; a part of them at most goes into all pieces.
        """
        if not self.forward_is_known:  # all guesses lean on it
            return None
        left = max(_PIECES_OF_EARNED * earned - self.spent_on_pieces, _PIECES_OF_CREDIT * credit)
        at_most = min(_PART_FOR_PIECES * credit, left)
        if at_most <= 0:
            return None
        wanted = [(self._piece_seconds(piece), piece) for name in names for piece in self._pieces(name, credit)]
        affordable = [(s, p) for s, p in wanted if s <= at_most and p not in self.tried]
        return min(affordable, key=lambda pair: (pair[0], pair[1].name))[1] if affordable else None

    def _pieces(self, name: str, credit: float) -> Sequence[Piece]:
        known = self.durations.get(name)
        needs_none = name not in self.metrics or not self._is_tried_first(self.metrics[name])
        if needs_none or (known is not None and known.measured) or self.failed.get(name, 0) > 1:
            return []
        largest = max(known.pieces, default=0) if known else 0
        if known and (known.seconds < _CLEARLY_CHEAP * credit or len(known.pieces) > 1):
            return []
        return [Piece(name, size) for size in self._sizes() if size > largest]

    def _is_tried_first(self, metric: ComplexityMetric) -> bool:
        """Whether a piece decides before the whole probe: not for the cheap ones that are known here."""
        if "inputs" not in metric.needs or not self._sizes():
            return False
        is_ours = type(metric).__module__.startswith(f"{__package__.partition('.')[0]}.")
        is_cheap = metric.cost in ("weights", "forward") and self.forward_seconds < _WORTH_PIECES
        return not (is_ours and is_cheap)

    def _sizes(self) -> list[int]:
        """Of pieces: from the second one on, where the first takes nearly as long."""
        looks = self.durations[_FORWARD].pieces if self.forward_is_known else {}
        size = _SMALLEST
        if looks.get(_STEP * size, math.inf) < 2 * looks.get(size, 0.0):
            size *= _STEP
        sizes = []
        while 2 * size <= self.num_samples:
            sizes.append(size)
            size *= _STEP
        return sizes

    def _piece_seconds(self, piece: Piece) -> float:
        metric = self.metrics[piece.name]
        probes = metric.num_probes if isinstance(metric, ProbedMetric) else 1
        used, of = metric.samples_used(piece.size), metric.samples_used(self.num_samples)
        known = self.durations.get(piece.name)
        if known is None:
            part = max(used / of, _OF_UNITS) if metric.cost == "sampling" else used / of
            return self._unsure(piece.name) * self.guess(piece.name) * part / probes
        largest = max(known.pieces)
        shared = sum(self.durations.own(item) for item in self.durations.needed(piece.name))
        return known.pieces[largest] / probes * used / largest + shared * piece.size / self.num_samples

    def try_piece(self, piece: Piece, snapshot: Snapshot | None) -> None:
        """Measure a quantity on a piece of the probe, and forget the value.

        Some quantities need more samples than a piece has. Where two pieces fail it is taken that all will; the whole
        probe will tell the reason.
        """
        self.tried.add(piece)
        if snapshot is not None:
            started = time.perf_counter()
            self._try(piece, snapshot)
            self.spent_on_pieces += time.perf_counter() - started

    def _try(self, piece: Piece, snapshot: Snapshot) -> None:
        metric = copy.deepcopy(self.metrics[piece.name])
        scale = 1.0
        if isinstance(metric, ProbedMetric):
            metric.num_probes, scale = 1, float(metric.num_probes)
        sizes = (metric.samples_used(piece.size), metric.samples_used(self.num_samples))
        part = snapshot.first(piece.size)
        watch = Watch(self.durations, (piece.size, self.num_samples))
        started = time.perf_counter()
        with warnings.catch_warnings(), watch.on(part), part.opened():
            warnings.simplefilter("ignore")
            try:
                with watch.timed(piece.name, scale=scale, piece=sizes, parts=[MOMENT]):
                    metric.update(part)
            except Exception:
                self.failed[piece.name] = self.failed.get(piece.name, 0) + 1
                if self.failed[piece.name] > 1:
                    self.durations.learn_from_piece(piece.name, *sizes, time.perf_counter() - started)

    def next_look(self, credit: float) -> int | None:
        """On how many samples to time a forward pass now; ``None`` if it is known well enough."""
        if not self.num_samples or self.does_not_run:
            return None
        if not self.forward_is_known:
            return min(_SMALLEST, self.num_samples)
        pieces = self.durations[_FORWARD].pieces
        largest = max(pieces, default=self.num_samples)
        if largest == self.num_samples or pieces[largest] > _CLEAR or _STEP * pieces[largest] > 0.1 * credit:
            return None
        return min(_STEP * largest, self.num_samples)

    def look(self, size: int, snapshot: Snapshot | None) -> None:
        """Time a forward pass on some samples."""
        if snapshot is None:
            self.does_not_run = True
            return
        started = time.perf_counter()
        part = snapshot.first(size)
        if size <= _SMALLEST * _STEP:
            with _Bytes() as computed:  # which also warms up
                self.does_not_run = not math.isfinite(_seconds_of_forward(part))
            self.bytes_per_sample = max(computed.total - self._bytes_of_smallest, 0) / size
            self._bytes_of_smallest = computed.total
        if not self.does_not_run:
            seconds = _seconds_of_forward(part)
            if seconds < _EASILY_DISTURBED:
                seconds = min(seconds, _seconds_of_forward(part))
            self.durations.learn_from_piece(_FORWARD, size, self.num_samples, seconds)
        self.spent_on_pieces += time.perf_counter() - started

    def see(self, snapshot: Snapshot) -> None:
        """Take in how large network and probe are."""
        self.num_samples = snapshot.num_samples if snapshot.has("inputs") else 0
        self.num_parameters = sum(parameter.numel() for parameter in snapshot.model.parameters())

    def state(self) -> dict[str, Any]:
        """Plain numbers, for a checkpoint."""
        return {
            "durations": self.durations.state(),
            "bytes_per_sample": self.bytes_per_sample,
            "pieces": self.spent_on_pieces,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from :meth:`state`."""
        self.durations.restore(state["durations"])
        self.bytes_per_sample, self.spent_on_pieces = state["bytes_per_sample"], state["pieces"]


class _Bytes(TorchDispatchMode):
    """Adds up the sizes of all results of operations."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        self.total += sum(t.numel() * t.element_size() for t in tree_leaves(result) if isinstance(t, Tensor))
        return result


def _seconds_of_forward(piece: Snapshot) -> float:
    """Seconds, infinite where the network does not run."""
    with warnings.catch_warnings(), piece.opened(), torch.no_grad():
        warnings.simplefilter("ignore")
        started = time.perf_counter()
        try:
            for _ in piece.run_chunks(lambda model, inputs: model(inputs)):
                pass
        except Exception:
            return math.inf
        return time.perf_counter() - started
