"""Peak memory, counted by torch's own allocator and therefore the same in every run."""

from __future__ import annotations

from itertools import accumulate

from torch.profiler import ProfilerActivity, profile

from benchmarks.actions import Action


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
