"""Measure all costs, print them and write them to ``results.md`` beside this file."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks.actions import (
    Action,
    metric_actions,
    penalized_steps,
    reason_for_failure,
    suite_actions,
    training_step,
)
from benchmarks.memory import peak_bytes
from benchmarks.models import Workload, mlp, resnet18, transformer
from benchmarks.peers import missing_packages, peer_actions
from benchmarks.report import introduction, number, spread, table
from benchmarks.timing import Limits, Spread, exponent, interleaved

RESULTS = Path(__file__).with_name("results.md")
QUICK = Limits(rounds=2, seconds=0.2, seconds_at_most=2.0)
SUITES = ("standard", "full")


def costs(workload: Workload, title: str, actions: dict[str, Action], limits: Limits) -> str:
    """A table of what each action costs in training steps."""
    step = training_step(workload)
    failures = {name: reason_for_failure(action) for name, action in actions.items()}
    groups = {name: (step, action) for name, action in actions.items() if failures[name] is None}
    times = {name: Spread.of_ratio(rounds) for name, rounds in interleaved(groups, limits).items()}
    step_bytes = peak_bytes(step)

    def row(name: str) -> list[str]:
        if name not in times:
            return [name, failures[name] or "", "", ""]
        memory = number(peak_bytes(actions[name]) / step_bytes)
        return [name, spread(times[name]), memory, str(times[name].rounds)]

    return table([title, "time", "memory", "rounds"], [row(name) for name in actions])


def sharing(workload: Workload, limits: Limits) -> str:
    """A table of what a suite on one snapshot costs, beside its metrics on a snapshot each."""
    step = training_step(workload)

    def row(suite: str) -> list[str]:
        apart, together = suite_actions(workload, suite)
        rounds = interleaved({suite: (step, apart, together)}, limits)[suite]
        alone, shared = (Spread.of([times[i] / times[0] for times in rounds]) for i in (1, 2))
        ratio = Spread.of_ratio([times[1:] for times in rounds])
        return [suite, spread(alone), spread(shared), spread(ratio), str(ratio.rounds)]

    header = ["suite", "a snapshot each", "one snapshot", "one / each", "rounds"]
    return table(header, [row(suite) for suite in SUITES])


def growth(build: Callable[[float], Workload], widths: Sequence[float], limits: Limits) -> str:
    """A table of how times grow with the width of a network."""
    workloads = [build(width) for width in widths]
    by_width = [{"training step": training_step(w), **metric_actions(w)} for w in workloads]
    groups = {name: [actions[name] for actions in by_width] for name in by_width[0]}
    groups = {name: group for name, group in groups.items() if not any(map(reason_for_failure, group))}

    def row(name: str, rounds: list[list[float]]) -> list[str]:
        return [name, spread(Spread.of_ratio(rounds)), f"{exponent(widths, rounds):.2f}", str(len(rounds))]

    times = interleaved(groups, limits)
    header = [workloads[0].name, f"time at width x{widths[-1] / widths[0]:g}", "exponent", "rounds"]
    return table(header, [row(name, rounds) for name, rounds in times.items()])


def sections(quick: bool) -> list[tuple[str, Callable[[], str]]]:
    """Titles, and what gives the tables under them."""
    limits = QUICK if quick else Limits()
    found: list[tuple[str, Callable[[], str]]] = []
    for workload in [mlp()] if quick else [mlp(), resnet18(), transformer()]:
        actions = {
            "metric": metric_actions(workload),
            "step with penalty": penalized_steps(workload),
            "peer": peer_actions(workload),
        }
        for title, some in actions.items():
            if some:
                found.append((workload.name, lambda w=workload, t=title, a=some: costs(w, t, a, limits)))
        found.append((workload.name, lambda w=workload: sharing(w, limits)))
    title = "Growth with width"
    found.append((title, lambda: growth(lambda width: mlp(int(width)), (256, 512, 1024), limits)))
    if not quick:
        found.append((title, lambda: growth(lambda width: resnet18(width, batch=16), (0.25, 0.5, 1.0), limits)))
    return found


def main() -> None:
    """Run the benchmarks that the command line asks for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="only the MLP, few rounds, print but write nothing")
    quick = parser.parse_args().quick
    parts = [introduction()]
    parts += [f"Not compared, because not installed: {package}.\n" for package in missing_packages()]
    print("\n".join(parts), flush=True)
    previous = ""
    for title, give in sections(quick):
        heading = f"## {title}\n\n" if title != previous else ""
        previous = title
        parts.append(f"{heading}{give()}\n")
        print(parts[-1], flush=True)
    if not quick:
        RESULTS.write_text("\n".join(parts), encoding="utf-8")


if __name__ == "__main__":
    main()
