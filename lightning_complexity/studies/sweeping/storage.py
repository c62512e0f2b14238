"""Optuna storages that several workers share, and which of these workers still live."""

from __future__ import annotations

import copy
import os
import socket
import sys
import threading
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from optuna import Study
    from optuna.storages import BaseStorage
    from optuna.trial import FrozenTrial

HEARTBEAT = 60.0
MOST_RETRIES = 3
WORKER = "worker"
_ALIVE_HERE: set[str] = set()


@contextmanager
def quiet_optuna() -> Iterator[None]:
    """Hold back Optuna's word on each trial, and on interfaces that are new to it."""
    import optuna

    level = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(level)


def is_journal(url: str) -> bool:
    """Whether a storage is a journal file, given by its path."""
    return "://" not in url


def open_storage(url: str, *, create: bool = False, heartbeat: float = HEARTBEAT) -> BaseStorage:
    """The storage at a URL.

    Args:
        url: The path of a journal file; or the URL of a database such as ``postgresql://user@host/name``.
        create: Whether a journal file that is not there is begun.
        heartbeat: Seconds between signs of life of a worker, in a database. One that is silent for twice as long
            counts as dead.

    Raises:
        ImportError: Without Optuna.
        ValueError: If it cannot be reached, or is something else.
    """
    try:
        import optuna
    except ImportError as error:
        raise ImportError("sweeps need Optuna: pip install lightning-complexity[studies]") from error
    if not heartbeat > 0:
        raise ValueError(f"heartbeat must be a positive number of seconds, got {heartbeat}.")
    if is_journal(url):
        return _open_journal(Path(url), create)
    try:
        with quiet_optuna():
            return optuna.storages.RDBStorage(
                with_driver(url),
                heartbeat_interval=max(round(heartbeat), 1),
                grace_period=max(round(2 * heartbeat), 2),
                heartbeat_stale_trial_callback=requeue,
            )
    except Exception as error:  # of SQLAlchemy, of the driver, or of its absence
        raise ValueError(f"storage {without_password(url)} cannot be reached: {first_line(error)}") from error


def _open_journal(path: Path, create: bool) -> BaseStorage:
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    if not create and not path.is_file():
        raise ValueError(
            f"there is no journal {path}: give the storage of a study that exists, a file or a URL such as "
            "postgresql://user@host/name."
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return JournalStorage(JournalFileBackend(str(path)))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} cannot be read as a journal of Optuna: {first_line(error)}") from error


def with_driver(url: str) -> str:
    """A PostgreSQL URL that names the driver which is there, where it names none.

    Without a name SQLAlchemy takes psycopg2, the one before psycopg.

    >>> with_driver("sqlite:///s.db")
    'sqlite:///s.db'
    """
    kind, separator, rest = url.partition("://")
    has_new, has_old = (find_spec(name) is not None for name in ("psycopg", "psycopg2"))
    if kind in ("postgresql", "postgres"):
        kind = "postgresql+psycopg" if has_new and not has_old else "postgresql"
    return f"{kind}{separator}{rest}"


def without_password(url: str) -> str:
    """A URL as it may be shown."""
    from sqlalchemy.engine import make_url
    from sqlalchemy.exc import ArgumentError

    try:
        return make_url(url).render_as_string(hide_password=True)
    except (ArgumentError, ValueError):
        return url.split("://")[0] + "://..."


def first_line(error: BaseException) -> str:
    """What an error says, in one line."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"


def of_database(error: BaseException) -> BaseException | None:
    """What a database, or the way to it, said, among an error and those that led to it; ``None`` if it is of none.

    Args:
        error: As it was caught. Optuna raises others over it, one of them by a slip of its own.
    """
    found: BaseException | None = None
    seen: BaseException | None = error
    while seen is not None:
        if type(seen).__module__.partition(".")[0] in ("optuna", "sqlalchemy"):
            found = seen
        seen = seen.__cause__ or seen.__context__
    return found


class Claims:
    """Which worker has a trial of a journal; a database has Optuna's own heartbeat for that.

    Each worker holds a lock on a file of its own, which the system releases when the process ends, however it ends.
    Where a shared folder knows no locks between machines, the file's age decides: its worker renews it.

    Args:
        journal: The journal file; the files are in a folder beside it.
        heartbeat: Seconds between renewals.
    """

    def __init__(self, journal: Path, heartbeat: float = HEARTBEAT) -> None:
        self._folder = journal.with_name(journal.name + ".workers")
        self._folder.mkdir(exist_ok=True)
        self.name = f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path, self._heartbeat = self._folder / self.name, heartbeat
        self._file = self._path.open("w")
        _lock(self._file)
        _ALIVE_HERE.add(self.name)
        self._is_over = threading.Event()
        threading.Thread(target=self._renew, daemon=True).start()

    def _renew(self) -> None:
        while not self._is_over.wait(self._heartbeat):
            if self._path.exists():
                os.utime(self._path)

    def close(self) -> None:
        """Give all up."""
        self._is_over.set()
        self._path.unlink(missing_ok=True)
        self._file.close()
        _ALIVE_HERE.discard(self.name)

    def is_alive(self, name: str) -> bool:
        """Whether the worker of a name still lives."""
        if name in _ALIVE_HERE:
            return True
        try:
            file = (self._folder / name).open("r+")
        except FileNotFoundError:
            return False
        with file:
            try:
                _lock(file)
            except OSError:
                return True
            if name.rsplit("-", 2)[0] == socket.gethostname():
                return False
            age = os.fstat(self._file.fileno()).st_mtime - os.fstat(file.fileno()).st_mtime
            return age < 3 * self._heartbeat


def _lock(file: Any) -> None:
    if sys.platform == "win32":
        raise OSError("journals need locks that Windows does not have: give a database as the storage.")
    import fcntl

    fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def requeue_lost(study: Study, claims: Claims | None, heartbeat: float = HEARTBEAT) -> None:
    """Queue the trials of dead workers again, each once however many workers look.

    Args:
        study: Whose trials.
        claims: Of this worker, for a journal; a database has heartbeats.
        heartbeat: Seconds between signs of life.
    """
    import optuna
    from optuna.trial import TrialState

    if claims is None:
        optuna.storages.fail_stale_trials(study)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        worker = trial.user_attrs.get(WORKER)
        if worker is None:  # it died right after it took the trial, or takes it now
            started = trial.datetime_start or datetime.now()
            lost = datetime.now(started.tzinfo) - started > timedelta(seconds=2 * heartbeat)
        else:
            lost = claims is not None and not claims.is_alive(worker)
        if lost and _fail(study, trial):
            requeue(study, trial)


def _fail(study: Study, trial: FrozenTrial) -> bool:
    """End a trial as failed; false if another worker was first."""
    from optuna.exceptions import UpdateFinishedTrialError
    from optuna.trial import TrialState

    try:
        study.tell(trial.number, state=TrialState.FAIL)
    except (ValueError, UpdateFinishedTrialError):
        return False
    return True


def requeue(study: Study, trial: FrozenTrial) -> None:
    """Queue a failed trial again, without what it has of its worker; three times at most.

    Args:
        study: That it is of.
        trial: The one that failed.
    """
    from optuna.storages import RetryHeartbeatStaleTrialCallback

    again = copy.deepcopy(trial)
    again.user_attrs = {name: value for name, value in again.user_attrs.items() if name != WORKER}
    RetryHeartbeatStaleTrialCallback(max_retry=MOST_RETRIES)(study, again)
