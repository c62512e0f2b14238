"""Workers on this machine, and waiting for a study that workers anywhere finish."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tqdm import tqdm

from lightning_complexity.studies.sweeping.worker import progress

if TYPE_CHECKING:
    from optuna import Study

_POLL = 0.5
_PATIENCE = 10.0


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


def finish(study: Study, command: list[str], num_workers: int, output: Path, *, unit: str = "network") -> None:
    """Start workers and wait, with a progress bar, until no trial is left.

    Args:
        study: With its queue; or with its sampler, and how many trials it is to have.
        command: Of a worker.
        num_workers: How many to start here; with none those of others are waited for.
        output: Folder for what workers say.
        unit: What a trial is called.

    Raises:
        OSError: If all workers ended before that.
    """
    total, done = progress(study)
    if done == total:
        return
    workers = [_start(command, output / "workers" / f"{i}.log") for i in range(min(num_workers, total - done))]
    try:
        with tqdm(total=total, initial=done, desc=study.study_name, unit=unit, smoothing=0) as bar:
            while done < total:
                ended = bool(workers) and all(worker.poll() is not None for worker in workers)
                total, done = progress(study)
                bar.total = total
                bar.update(done - bar.n)
                if ended and done < total:
                    codes = ", ".join(str(worker.returncode) for worker in workers)
                    raise OSError(
                        f"all workers ended (exit codes {codes}) and {total - done} {unit}s are left; what they said "
                        f"is in {output / 'workers'}. The same command goes on with them."
                    )
                if done < total:
                    time.sleep(_POLL)
        for worker in workers:
            worker.wait()
    finally:
        _end(workers)


def _start(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )


def _end(workers: list[subprocess.Popen[bytes]]) -> None:
    """End workers, with some time to queue their trials again."""
    for worker in workers:
        worker.terminate()
    end = time.monotonic() + _PATIENCE
    for worker in workers:
        try:
            worker.wait(max(end - time.monotonic(), 0))
        except subprocess.TimeoutExpired:
            worker.kill()
            worker.wait()
