"""Peak memory, counted by torch's own allocator and therefore the same in every run."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import accumulate

from torch.profiler import ProfilerActivity, profile

from benchmarks.actions import Action

LONGEST_REASON = 100


def peak_bytes(action: Action) -> int:
    """The most memory that ``action`` holds at once on the CPU.

    Counted is what torch allocates while the action runs, work space of operations included. What was there
    before, parameters and the optimizer's state, is not.

    Args:
        action: Anything that allocates tensors.

    Example:
        >>> import torch
        >>> peak_bytes(lambda: torch.zeros(1000))  # single precision
        4000
        >>> peak_bytes(lambda: [torch.zeros(1000).sum() for _ in range(10)])  # one after another, ten sums kept
        4040
    """
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        action()
    # The tables of the public interface add up what each operation keeps, from which no peak can be told.
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    changes = [e.nbytes() for e in sorted(events, key=lambda e: e.start_ns())]
    return max(accumulate(changes, initial=0))


def first_runs(actions: Mapping[str, Action]) -> tuple[dict[str, int], dict[str, str]]:
    """Run each action once, which also warms it up.

    Returns:
        By name, the peak memory of the actions that work, and in one line why the others do not.
    """
    peaks: dict[str, int] = {}
    reasons: dict[str, str] = {}
    for name, action in actions.items():
        try:
            peaks[name] = peak_bytes(action)
        except Exception as error:
            reasons[name] = f"{type(error).__name__}: {str(error).splitlines()[0]}"[:LONGEST_REASON]
    return peaks, reasons
