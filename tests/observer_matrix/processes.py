"""Compare trainings on two processes: ``python -m tests.observer_matrix.processes FILE JOB SHARD SHARDS SECONDS``."""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
from pathlib import Path

import torch

from tests.observer_matrix.design import Case, Setting, covering
from tests.observer_matrix.observers import compared, compared_with_penalties

ROOT = Path(__file__).parents[2]


def on_two_processes(job: str, folder: Path, shard: int = 0, shards: int = 1, seconds: int = 480) -> dict[str, str]:
    """What differed first, by rank and case, in a share of the cases of a job.

    Args:
        job: ``"penalties"``, or how many factors the cases cover all combinations of.
        folder: For files.
        shard: Which share.
        shards: How many there are.
        seconds: After so many it is given up, and says where each process was.
    """
    output = folder / f"{job}-{shard}.json"
    arguments = [str(output), job, str(shard), str(shards), str(seconds)]
    # Without the seed that another test may have left for Lightning's processes.
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("PL_")}
    result = subprocess.run(
        [sys.executable, "-m", "tests.observer_matrix.processes", *arguments],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**inherited, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        timeout=seconds + 20,
    )
    assert result.returncode == 0, result.stderr[-5000:]
    return json.loads(output.read_text())


def cases_of(strength: int) -> list[Case]:
    """Those on two processes; without workers, as one that is forked beside communicating threads may never start."""
    cases = [case for case in covering(strength) if case.processes == 2]
    return list(dict.fromkeys(case._replace(workers=0) for case in cases))


def penalised() -> list[Setting]:
    """Some trainings on two processes for penalties and constraints.

    None with reentrant checkpoints: replicas do not let a parameter be in one and in a penalty (README, limits).
    """
    return list(dict.fromkeys(case.setting for case in cases_of(2) if case.network != "checkpointed"))


def main() -> None:
    """Write what any rank saw."""
    output, job = Path(sys.argv[1]), sys.argv[2]
    shard, shards, seconds = map(int, sys.argv[3:])
    torch.set_num_threads(1)
    faulthandler.dump_traceback_later(seconds, exit=True)
    if job == "penalties":
        found = compared_with_penalties(penalised()[shard::shards])
    else:
        found = compared(cases_of(int(job))[shard::shards])
    both: list[dict[str, str]] = [{}, {}]
    torch.distributed.all_gather_object(both, found)
    if torch.distributed.get_rank() == 0:
        named = {f"rank {rank}, {case}": what for rank, own in enumerate(both) for case, what in own.items()}
        output.write_text(json.dumps(named))


if __name__ == "__main__":
    main()
