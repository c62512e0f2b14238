"""Compare what measuring and penalising cost with an earlier checkout: both in turn, in one run.

``python -m benchmarks.compare CHECKOUT`` writes ``compared.md`` beside this file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
RESULTS = Path(__file__).with_name("compared.md")
WORKLOADS = ("mlp", "resnet18", "transformer")
ROUNDS = 12
RENAMED = {
    "OrthogonalityDefect": "SoftOrthogonality",
    "BoundaryDistance": "RegionBoundaryDistance",
    "FeatureVariation": "LabelVariation",
    "RobustMeasure": "GeneralizationMeasure",
    "GroupNormBound": "MixedNormBound",
}
"""Names of earlier checkouts, and what they are now."""


def actions_of(workload: str) -> dict[str, Callable[[], object]]:
    """Every metric, and a step with every penalty, of the checkout that is imported, by today's names."""
    import torch

    from benchmarks import models
    from benchmarks.actions import group_actions, metric_actions, penalized_steps, training_step

    torch.set_num_threads(1)
    network = getattr(models, workload)()
    found: dict[str, Callable[[], object]] = {"training step": training_step(network)}
    groups: dict[str, Mapping[str, Any]] = {
        "shared": group_actions(network),
        "metric": metric_actions(network),
        "step with": penalized_steps(network),
    }
    for kind, actions in groups.items():
        found |= {f"{kind}: {_renamed(name)}": action for name, action in actions.items()}
    return found


def _renamed(name: str) -> str:
    head, separator, rest = name.partition("(")
    return RENAMED.get(head, head) + separator + rest


def serve(workload: str) -> None:
    """Tell the names of all actions, then run those that are asked for, line by line, and tell how long each took."""
    actions = actions_of(workload)
    print("\t".join(actions), flush=True)
    for line in sys.stdin:
        started = time.perf_counter()
        try:
            actions[line.rstrip("\n")]()
        except Exception as error:
            print(f"failed {type(error).__name__}", flush=True)
            continue
        print(time.perf_counter() - started, flush=True)


class Checkout:
    """A process that runs the actions of one checkout."""

    def __init__(self, path: Path, workload: str) -> None:
        command = [sys.executable, "-W", "ignore", str(Path(__file__)), "--serve", workload]
        environment = {**os.environ, "PYTHONPATH": str(path), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, cwd=path, env=environment, stdin=pipe, stdout=pipe, text=True)
        self.names = self._answer().split("\t")

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().rstrip("\n")

    def seconds(self, name: str) -> float | None:
        """How long an action took, ``None`` if it failed."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        answer = self._answer()
        return None if answer.startswith("failed") else float(answer)

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()


def rounds(before: Checkout, now: Checkout, name: str, seconds: float) -> list[tuple[float, float]]:
    """Times of an action in both checkouts, one after the other; empty if it fails in one."""
    times: list[tuple[float, float]] = []
    if before.seconds(name) is None or now.seconds(name) is None:
        return times
    while len(times) < ROUNDS and (len(times) < 2 or sum(map(sum, times)) < 2 * seconds):
        pair = before.seconds(name), now.seconds(name)
        times.append((pair[0] or 0.0, pair[1] or 0.0))
    return times


def section(workload: str, before: Path, seconds: float) -> Iterator[str]:
    """The table of one workload, row by row."""
    from benchmarks.report import spread
    from benchmarks.timing import Spread

    old, new = Checkout(before, workload), Checkout(ROOT, workload)
    yield f"## {workload}\n\n| action | now / before | rounds |\n|---|---:|---:|"
    for name in new.names:
        if name in old.names and (times := rounds(old, new, name, seconds)):
            ratio = Spread.of([now / then for then, now in times])
            yield f"| {name} | {spread(ratio)} | {ratio.rounds} |"
    old.close()
    new.close()


def main() -> None:
    """Compare with the checkout that the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.compare", description=__doc__)
    parser.add_argument("checkout", type=Path, nargs="?", help="another checkout of this repository")
    parser.add_argument("--workloads", nargs="+", default=WORKLOADS, choices=WORKLOADS)
    parser.add_argument(
        "--seconds", type=float, default=3.0, help="at most for an action and checkout, after two rounds"
    )
    parser.add_argument("--serve", choices=WORKLOADS, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve)
        return
    if arguments.checkout is None:
        parser.error("needs the checkout to compare with")
    lines = [
        "# What changed in cost",
        "Both checkouts in turn, one thread; medians and quartiles of the ratios of pairs.",
    ]
    for workload in arguments.workloads:
        rows = []
        for row in section(workload, arguments.checkout.resolve(), arguments.seconds):
            print(row, flush=True)
            rows.append(row)
        lines.append("\n".join(rows))
    RESULTS.write_text("\n\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
