"""Workers on this machine, and waiting for a study that workers anywhere finish."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lightning_complexity.studies.sweeping.worker import last_attempts

if TYPE_CHECKING:
    from optuna import Study

_POLL = 0.5


def worker_command(storage: str, study: str, output: Path, heartbeat: float | None = None) -> list[str]:
    """The command of a worker, to be started anywhere.

    Args:
        storage: Its URL.
        study: Name of the study.
        output: Folder for what trials write.
        heartbeat: Seconds between signs of life; the usual ones if not given.
    """
    command = [sys.executable, "-m", "lightning_complexity", "worker", "--storage", storage, "--study", study]
    command += ["--output", str(output)]
    return command if heartbeat is None else [*command, "--heartbeat", f"{heartbeat:g}"]


def finish(study: Study, command: list[str], num_workers: int, output: Path) -> None:
    """Start workers and wait, with a progress bar, until none of the trials that were queued is left.

    Args:
        study: With its queue.
        command: Of a worker.
        num_workers: How many to start here; with none those of others are waited for.
        output: Folder for what workers say.

    Raises:
        OSError: If all workers ended before that.
    """
    total, done, left = _counted(study)
    if not left:
        return
    workers = [_start(command, output / "workers" / f"{i}.log") for i in range(min(num_workers, left))]
    try:
        with tqdm(total=total, initial=done, desc=study.study_name, unit="network", smoothing=0) as bar:
            while left:
                ended = bool(workers) and all(worker.poll() is not None for worker in workers)
                total, done, left = _counted(study)
                bar.total = total
                bar.update(done - bar.n)
                if ended and left:
                    codes = ", ".join(str(worker.returncode) for worker in workers)
                    raise OSError(
                        f"all workers ended (exit codes {codes}) and {left} networks are left; what they said is in "
                        f"{output / 'workers'}. The same command goes on with them."
                    )
                if left:
                    time.sleep(_POLL)
        for worker in workers:
            worker.wait()
    finally:
        for worker in workers:
            worker.terminate()


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def _counted(study: Study) -> tuple[int, int, int]:
    """How many trials there are, are finished, and are left."""
    from optuna.trial import TrialState

    states = [trial.state for trial in last_attempts(study) if trial.state != TrialState.PRUNED]
    done = sum(state.is_finished() for state in states)
    return len(states), done, len(states) - done
