"""The largest box around a network's parameters that it bears, by the worst points of boxes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import chain, islice
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from lightning_complexity.functional.loss_surface.flatness import (
    BoxPoint,
    ToleratedBox,
    find_tolerated_box,
    maximize_in_box,
)
from lightning_complexity.functional.loss_surface.pac_bayes import find_scale
from lightning_complexity.functional.margins import positions_as_samples, signed_margins
from lightning_complexity.network.derivatives import gradients
from lightning_complexity.network.landscape.perturbations import error_or_loss, folded_parameters
from lightning_complexity.network.losses import mean_loss
from lightning_complexity.network.outputs import checked_predictions, model_outputs
from lightning_complexity.network.running.task import Task, main_tensor
from lightning_complexity.network.sharing import shared
from lightning_complexity.network.snapshot import Snapshot

Box = Literal["keskar", "magnitude", "plain"]


def box_width(weight: Tensor, box: Box) -> Tensor:
    """Half the width of a box of scale one, for each entry."""
    return torch.ones_like(weight) if box == "plain" else weight.abs() + (box == "keskar")


@dataclass(frozen=True)
class BoxSearch:
    """How the largest box is searched for.

    Attributes:
        box: Its shape, see :func:`box_width`.
        drop: Of the accuracy that is within the tolerance.
        rise: Of the loss, where there are no classes.
        num_starts: From how many points each box is searched.
        max_steps: From each, at most.
    """

    box: Box = "plain"
    drop: float = 0.1
    rise: float = 0.5
    num_starts: int = 5
    max_steps: int = 10


@shared
def tolerated_box(snapshot: Snapshot, search: BoxSearch) -> ToleratedBox:
    """The largest box in which no parameters were found that lower the accuracy, or raise the loss, by too much.

    Args:
        snapshot: With targets.
        search: The box, and how it is searched.
    """
    cases = _WorstCases(snapshot, search)
    if not cases.can_be_searched:
        return ToleratedBox(math.nan, math.nan, False)
    return find_tolerated_box(cases.worst, cases.tolerance)


# Where there are classes ---------------------------------------------------------------------------------


class _Judged(NamedTuple):
    """Of all samples, or positions, that count: margins, classes, and whether the largest output is the class's."""

    margins: Tensor
    classes: Tensor
    is_right: Tensor


class _Margins:
    """Margins from outputs and targets, counted as :func:`lightning_complexity.network.accuracy` counts."""

    def __init__(self, task: Task) -> None:
        self._class_dim, self._threshold, self.ignore_index = task.class_dim, task.threshold, task.ignore_index

    def judge(self, outputs: Any, targets: Tensor) -> _Judged:
        predicted = checked_predictions(main_tensor(outputs), None)
        if self._threshold is not None:
            above = predicted.squeeze(1) - self._threshold
            is_one = targets.reshape(above.shape) == 1
            margins = torch.where(is_one, above, -above).flatten()
            return _Judged(margins, is_one.long().flatten(), ((above > 0) == is_one).flatten())
        logits, classes, _ = positions_as_samples(
            predicted, targets, class_dim=self._class_dim, ignore_index=self.ignore_index
        )
        return _Judged(signed_margins(logits, classes), classes, logits.argmax(1) == classes)


class _Hinges(_Margins):
    """Minus the sum of margins of samples that are right, as a loss.

    It has the same slope however sure the network is, and none for samples that are wrong already.

    Args:
        task: Of the network.
        chosen: Which of the margins count.

    Attributes:
        error: Share of samples that are wrong, at the last outputs that it was given; ``nan`` if those are not finite.
    """

    def __init__(self, task: Task, chosen: Callable[[Tensor], Tensor] = lambda margins: margins) -> None:
        super().__init__(task)
        self._chosen, self.error = chosen, math.nan

    def __call__(self, outputs: Any, targets: Any) -> Tensor:
        margins, _, is_right = self.judge(outputs, targets)
        self.error = 1 - is_right.double().mean().item() if margins.isfinite().all() else math.nan
        return -self._chosen(margins).clamp(min=0).sum()


def _nearest(judged: _Judged, count: int) -> list[int]:
    """Samples that are right by the smallest margins, one of each class before a second one of any."""
    order = judged.margins.argsort(stable=True)
    order = order[judged.is_right[order]]
    classes = judged.classes[order]
    firsts = sorted(int((classes == c).nonzero()[0]) for c in classes.unique())
    others = (place for place in range(len(order)) if place not in firsts)
    return [int(order[place]) for place in islice(chain(firsts, others), count)]


# The search ----------------------------------------------------------------------------------------------


class _WorstCases:
    """Points of boxes around a network's parameters.

    Where there are classes, ascents lower the margins of as many samples as have to be wrong, those with the smallest;
    those from the centre lower all margins first. Which samples have the smallest ones decides the way, so that other
    ascents start where the margin of one sample of each class falls fastest.
    """

    def __init__(self, snapshot: Snapshot, search: BoxSearch) -> None:
        self._search = search
        self._base, self._parameters = folded_parameters(snapshot)
        self._width = torch.cat([box_width(p, search.box).flatten() for p in self._parameters.values()])
        self._error_of, target = error_or_loss(snapshot, search.drop, search.rise)
        self.tolerance = target * (1 + 1e-9)  # shares of samples are rounded
        self._before = float(self._error_of(snapshot))
        self._way_to_beyond: Tensor | None = None
        self._objectives: list[_Hinges | None] = [None]
        self._nearest: list[int] = []
        if self._error_of is not mean_loss:
            self._look_at_margins(snapshot)

    def _look_at_margins(self, snapshot: Snapshot) -> None:
        judged = _Margins(snapshot.task).judge(model_outputs(snapshot), snapshot.targets)
        share = self._before + self.tolerance
        if not share < 1:  # nan included
            self._objectives = []
            return
        count = math.floor(share * len(judged.margins)) + 1
        smallest = _Hinges(snapshot.task, lambda margins: margins.topk(count, largest=False).values)
        self._objectives = [_Hinges(snapshot.task), smallest]
        self._nearest = _nearest(judged, self._search.num_starts - 1)

    @property
    def can_be_searched(self) -> bool:
        """Whether numbers are finite, and a box can be beyond the tolerance at all."""
        are_finite = all(p.isfinite().all() for p in self._parameters.values())
        return are_finite and math.isfinite(self._before) and bool(self._objectives)

    def worst(self, scale: float) -> BoxPoint:
        """The worst point that ascents in a box find; the first one that is beyond the tolerance ends them."""
        worst, beyond = BoxPoint(0.0, -math.inf), None

        def value_at(way: Tensor, objective: _Hinges | None) -> tuple[Tensor, Tensor]:
            nonlocal worst, beyond
            value, gradient, rise = self._judged(scale, way, objective)
            if rise > worst.rise:
                worst = BoxPoint(scale * self._reach(way), rise)
            if rise > self.tolerance:
                beyond = way
                value = torch.full_like(value, torch.inf)
            return value, gradient

        for start, objectives in self._plans():
            for objective in objectives:
                function = partial(value_at, objective=objective)
                found = maximize_in_box(
                    function, torch.ones_like(start), starts=[start], max_steps=self._search.max_steps
                )
                if beyond is not None:
                    self._way_to_beyond = beyond
                    return self._nearest_beyond(scale, beyond)
                start = found.at
        return worst

    def _judged(self, scale: float, way: Tensor, objective: _Hinges | None) -> tuple[Tensor, Tensor, float]:
        """What is maximized, its gradient for the way, and by how much the error or the loss has risen."""
        there = self._moved(scale, way)
        if objective is not None:
            there.task = there.task.updated(loss=objective)
        with torch.no_grad():
            found, value = gradients(there), mean_loss(there)
        gradient = torch.cat([found[name].flatten() for name in self._parameters]).nan_to_num() * self._width * scale
        # Of slopes that are rounding the sign is chance.
        is_rounding = gradient.abs() <= 64 * torch.finfo(gradient.dtype).eps * gradient.abs().max()
        return (
            value,
            gradient.masked_fill(is_rounding, 0),
            self._rise(float(value) if objective is None else objective.error),
        )

    def _moved(self, scale: float, way: Tensor) -> Snapshot:
        steps = (scale * self._width * way).split([p.numel() for p in self._parameters.values()])
        pairs = zip(self._parameters.items(), steps, strict=True)
        return self._base.with_tensors({name: p + step.view(p.shape) for (name, p), step in pairs})

    def _rise(self, error: float) -> float:
        return math.inf if math.isnan(error) else error - self._before

    def _reach(self, way: Tensor) -> float:
        """The scale, relative to the box, of the smallest box that a point is in."""
        return float((way.abs() * (self._width > 0)).max())

    def _nearest_beyond(self, scale: float, way: Tensor) -> BoxPoint:
        """The first point found beyond the tolerance on the straight way to one that is."""

        def rise_at(share: float) -> float:
            return self._rise(float(self._error_of(self._moved(scale * share, way))))

        found = find_scale(rise_at, math.nextafter(self.tolerance, math.inf), start=1.0, precision=0.01)
        share = found.scale if found.converged else 1.0
        return BoxPoint(scale * share * self._reach(way), found.reached if found.converged else math.inf)

    def _plans(self) -> Iterator[tuple[Tensor, list[_Hinges | None]]]:
        """Where ascents start, in units of the box, and what they go on with; the last way beyond is the first."""
        if self._way_to_beyond is not None:
            yield self._way_to_beyond, self._objectives[-1:]
        yield torch.zeros_like(self._width), self._objectives
        for at in self._starts:
            yield at, self._objectives[-1:]

    @cached_property
    def _starts(self) -> list[Tensor]:
        """Corners towards which one sample's margin falls fastest; without classes, random points."""
        if self._nearest:
            return [self._towards_error_of(sample) for sample in self._nearest]
        generator = torch.Generator().manual_seed(0)
        drawn = [
            torch.rand(self._width.shape, generator=generator, dtype=self._width.dtype)
            for _ in range(self._search.num_starts - 1)
        ]
        return [(2 * d - 1).to(self._width.device) for d in drawn]

    def _towards_error_of(self, sample: int) -> Tensor:
        hinge = _Hinges(self._base.task, lambda margins: margins[sample])
        return self._judged(1.0, torch.zeros_like(self._width), hinge)[1].sign()
