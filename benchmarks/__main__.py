"""Measure all costs, print them and write them to ``results.md`` beside this file; with options, print them only."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import torch

from benchmarks.actions import (
    Action,
    group_actions,
    metric_actions,
    penalized_steps,
    region_actions,
    suite_actions,
    training_step,
)
from benchmarks.memory import first_runs
from benchmarks.models import Workload, mlp, resnet18, transformer
from benchmarks.peers import missing_packages, peer_actions
from benchmarks.report import introduction, number, spread, table
from benchmarks.timing import Limits, Spread, exponent, interleaved

RESULTS = Path(__file__).with_name("results.md")
QUICK = Limits(rounds=2, rounds_at_most=20, seconds=4.0, seconds_at_most=1.0)
SUITES = ("fast", "standard")
STEP = "training step"


def costs(workload: Workload, title: str, actions: Mapping[str, Action], limits: Limits) -> tuple[str, Collection[str]]:
    """What each action costs in training steps.

    Returns:
        A table, and the names of the actions that cannot be run on this network.
    """
    step = training_step(workload)
    peaks, reasons = first_runs({STEP: step, **actions})
    rounds = interleaved({name: (step, actions[name]) for name in peaks if name != STEP}, limits)

    def row(name: str) -> list[str]:
        time = Spread.of_ratio(rounds[name])
        return [name, spread(time), number(peaks[name] / peaks[STEP]), str(time.rounds)]

    left_out = [f"\nLeft out: {name}. {reason}" for name, reason in reasons.items()]
    text = table([title, "time", "memory", "rounds"], [row(name) for name in rounds])
    return "\n".join([text, *left_out]), reasons.keys()


def sharing(workload: Workload, left_out: Collection[str], limits: Limits) -> str:
    """A table of what a suite on one snapshot costs, beside its metrics on a snapshot each."""
    step = training_step(workload)

    def row(suite: str) -> list[str]:
        apart, together = suite_actions(workload, suite, left_out)
        rounds = interleaved({suite: (step, apart, together)}, limits)[suite]
        alone, shared = (Spread.of([times[i] / times[0] for times in rounds]) for i in (1, 2))
        ratio = Spread.of_ratio([times[1:] for times in rounds])
        return [suite, spread(alone), spread(shared), spread(ratio), str(ratio.rounds)]

    header = ["suite", "a snapshot each", "one snapshot", "one / each", "rounds"]
    return table(header, [row(suite) for suite in SUITES])


def growth(
    build: Callable[[float], Workload],
    sizes: Sequence[float],
    of: str,
    limits: Limits,
    actions: Callable[[Workload], Mapping[str, Action]] | None = None,
) -> str:
    """A table of how times grow with the width or depth of a network, by default those of all metrics."""
    workloads = [build(size) for size in sizes]
    by_size = [{STEP: training_step(w), **(actions or metric_actions)(replace(w, small=False))} for w in workloads]
    works, _ = first_runs(by_size[0])

    def group(name: str) -> list[Action]:
        # What is cheap takes as long as its data are far away: after a step at every size, as in training.
        return [action for actions in by_size for action in (actions[STEP], actions[name])]

    def row(name: str, rounds: Sequence[Sequence[float]]) -> list[str]:
        ratio = Spread.of_ratio(rounds)
        return [name, spread(ratio), f"{exponent(sizes, rounds):.2f}", str(ratio.rounds)]

    times = interleaved({name: group(name) for name in works}, limits)
    header = [workloads[0].name, f"time at {of} x{sizes[-1] / sizes[0]:g}", "exponent", "rounds"]
    return table(header, [row(name, [seconds[1::2] for seconds in rounds]) for name, rounds in times.items()])


def sections(quick: bool) -> Iterator[str]:
    """The report, part by part."""
    limits = QUICK if quick else Limits()
    yield introduction()
    yield from (f"Not compared, because it is not installed: {package}." for package in missing_packages())
    for workload in [mlp(64, batch=64)] if quick else [mlp(), resnet18(), transformer()]:
        yield f"## {workload.name}"
        yield costs(workload, "shared", group_actions(workload), limits)[0]
        text, left_out = costs(workload, "metric", metric_actions(workload), limits)
        yield text
        yield sharing(workload, left_out, limits)
        yield costs(workload, "step with penalty", penalized_steps(workload), limits)[0]
        if peers := peer_actions(workload):
            yield costs(workload, "peer", peers, limits)[0]
    if quick:
        return
    yield "## Growth with width"
    yield growth(lambda width: mlp(int(width)), (256, 512, 1024), "width", limits)
    yield growth(lambda width: resnet18(width, batch=16), (0.25, 0.5, 1.0), "width", limits)
    yield growth(lambda width: mlp(int(width)), (32, 64, 128), "width", limits, region_actions)
    yield "## Growth with depth"
    yield growth(lambda depth: mlp(256, depth=int(depth)), (2, 4, 8), "depth", limits)
    yield growth(lambda blocks: resnet18(0.25, batch=16, blocks=int(blocks)), (1, 2, 4), "depth", limits)


def chosen(pattern: re.Pattern[str]) -> Iterator[str]:
    """What has a name that fits, on each network, peers among them."""
    yield introduction()
    for workload in (mlp(), resnet18(), transformer()):
        everything = {
            **group_actions(workload),
            **metric_actions(workload),
            **{f"step with {name}": action for name, action in penalized_steps(workload).items()},
            **peer_actions(workload),
        }
        fitting = {name: action for name, action in everything.items() if pattern.search(name)}
        if fitting:
            yield f"## {workload.name}"
            yield costs(workload, "measured", fitting, Limits())[0]


def main() -> None:
    """Run the benchmarks that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only a small MLP, few rounds")
    parser.add_argument("--only", metavar="REGEX", type=re.compile, help="only rows whose name has a part that fits")
    # Threads that wait for each other on shared cores make times jump.
    parser.add_argument("--threads", metavar="N", type=int, default=1, help="threads that torch uses (%(default)s)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    parts = []
    for part in chosen(options.only) if options.only else sections(options.quick):
        print(part, end="\n\n", flush=True)
        parts.append(part)
    if not (options.quick or options.only or options.threads > 1):
        RESULTS.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
