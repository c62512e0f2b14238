"""A PostgreSQL server of one's own, installed from Debian's packages where it is not there."""

from __future__ import annotations

import fcntl
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

INSTALL = ["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "postgresql"]


def programs() -> Path | None:
    """The folder of the server's programs; Debian has them in none of the PATH."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    if found:
        return found[-1].parent
    there = shutil.which("pg_ctl")
    return Path(there).resolve().parent if there else None


def installed() -> Path:
    """The folder of the server's programs; they are installed if that is possible, else the test is skipped."""
    folder = programs()
    if folder is not None:
        return folder
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        pytest.skip("needs PostgreSQL: it is not there, and can only be installed by root with apt-get")
    with (Path(tempfile.gettempdir()) / "lightning-complexity-postgresql.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one test at a time installs
        if programs() is None:
            environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
            for command in (["apt-get", "update", "--quiet"], INSTALL):
                done = subprocess.run(command, env=environment, capture_output=True, text=True)
                if done.returncode:
                    assert not os.environ.get("CI"), f"CI must have PostgreSQL: {done.stderr.strip()[-200:]}"
                    pytest.skip(f"needs PostgreSQL, and {' '.join(command)} failed: {done.stderr.strip()[-200:]}")
    folder = programs()
    assert folder is not None
    return folder


@contextmanager
def server() -> Iterator[str]:
    """A server on a free port, with all it has in a folder that is deleted; gives the URL of a database."""
    pytest.importorskip("psycopg", reason="needs psycopg[binary]")
    bin_folder = installed()
    with tempfile.TemporaryDirectory(prefix="pg-", dir="/tmp") as name:  # where another user comes in; a short path
        folder = Path(name)
        folder.chmod(0o755)
        data = folder / "data"
        data.mkdir()
        user = _user()
        if user is not None:
            os.chown(folder, user.pw_uid, user.pw_gid)
            os.chown(data, user.pw_uid, user.pw_gid)

        def run(program: str, *options: str) -> None:
            prefix = [] if user is None else ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}"]
            prefix += [] if user is None else ["--clear-groups"]
            command = [*prefix, str(bin_folder / program), "-D", str(data), *options]
            # The server keeps what it inherits open, so that nobody must wait for the end of its output.
            with (folder / f"{program}.log").open("w") as log:
                done = subprocess.run(command, cwd=folder, stdout=log, stderr=log, env=_plain_environment())
            assert done.returncode == 0, (folder / f"{program}.log").read_text()

        run("initdb", "--auth=trust", "--username=tester", "--encoding=UTF8", "--no-sync")
        port = _free_port()
        run("pg_ctl", "-w", "-l", str(folder / "server.log"), "-o", f"-p {port} -h 127.0.0.1 -k {folder} -F", "start")
        try:
            yield f"postgresql://tester@127.0.0.1:{port}/postgres"
        finally:
            run("pg_ctl", "-m", "immediate", "-w", "stop")


def _user() -> pwd.struct_passwd | None:
    """Whom the server runs as, where this is root, which it refuses."""
    if os.geteuid() != 0:
        return None
    try:
        return pwd.getpwnam("postgres")
    except KeyError:
        return pwd.getpwnam("nobody")


def _plain_environment() -> dict[str, str]:
    return {**{k: v for k, v in os.environ.items() if not k.startswith("PG")}, "LC_ALL": "C", "HOME": "/tmp"}


def _free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port: int = found.getsockname()[1]
        return port
