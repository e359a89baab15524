"""A PostgreSQL server of the test's own, from the programs of the distribution's packages."""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.clusters import free_ports

DEBIAN = Path("/usr/lib/postgresql")
"""Debian and Ubuntu keep the server's programs there by version, and not on the PATH."""


class PostgreSQL:
    """A server on a free port of this machine that asks for a password, made here, by SCRAM.

    Args:
        programs: folder of `initdb` and `postgres`.
        folder: an empty one, for everything the server writes; it is given to the user that the server runs as.
    """

    def __init__(self, programs: Path, folder: Path) -> None:
        self._programs = programs
        self._folder = folder
        self.password = secrets.token_urlsafe(24)
        self._runs_as = _unprivileged()
        if self._runs_as:
            os.chown(folder, self._runs_as["user"], self._runs_as["group"])
        (self.port,) = free_ports(1)
        self._make_cluster()
        self._process = self._start()
        self._wait()

    def uri(self, database: str) -> str:
        """Of a database, as SQLAlchemy and psycopg take it, without the password: that is ``PGPASSWORD``."""
        return f"postgresql://rsrnet@127.0.0.1:{self.port}/{database}"

    def create(self, database: str) -> str:
        """Make an empty database; its URI."""
        self.query("postgres", f'CREATE DATABASE "{database}"')
        return self.uri(database)

    def query(self, database: str, statement: Any) -> list[tuple[Any, ...]]:
        """Rows that a statement returns; none where it returns nothing."""
        with psycopg.connect(self.uri(database), password=self.password, autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def end(self) -> None:
        """Stop the server, whoever is connected."""
        self._process.send_signal(signal.SIGINT)  # PostgreSQL's fast shutdown
        self._process.wait(60)

    def _make_cluster(self) -> None:
        password = self._folder / "password"
        password.touch(mode=0o600)
        password.write_text(self.password)
        if self._runs_as:
            os.chown(password, self._runs_as["user"], self._runs_as["group"])
        made = subprocess.run(
            [
                *(self._programs / "initdb", "--pgdata", self._folder / "data", "--username", "rsrnet"),
                *("--auth", "scram-sha-256", "--pwfile", password, "--encoding", "UTF8", "--no-locale"),
                "--no-sync",
            ],
            cwd=self._folder,
            capture_output=True,
            text=True,
            **self._runs_as,
        )
        assert made.returncode == 0, made.stderr
        password.unlink()

    def _start(self) -> subprocess.Popen[bytes]:
        settings = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": ""}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("w") as log:
            return subprocess.Popen(
                [self._programs / "postgres", "-D", self._folder / "data", *options],
                cwd=self._folder,
                stdout=log,
                stderr=log,
                **self._runs_as,
            )

    def _wait(self) -> None:
        deadline = time.monotonic() + 60
        while True:
            try:
                self.query("postgres", "SELECT 1")
            except psycopg.OperationalError:
                assert self._process.poll() is None, (self._folder / "log").read_text()
                assert time.monotonic() < deadline, (self._folder / "log").read_text()
                time.sleep(0.1)
            else:
                return


@contextmanager
def running() -> Iterator[PostgreSQL]:
    """Context: a server of its own; the test is skipped, with the reason, where there is none to start."""
    programs = _programs()
    if programs is None:
        pytest.skip("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    # Not in pytest's folder, into which nobody but its user can look.
    folder = Path(tempfile.mkdtemp(prefix="rsrnet-postgresql-"))
    try:
        server = PostgreSQL(programs, folder)
        try:
            yield server
        finally:
            server.end()
    finally:
        shutil.rmtree(folder)


def _programs() -> Path | None:
    """The folder of the server's programs, of the newest version there is."""
    if found := shutil.which("initdb"):
        return Path(found).resolve().parent
    versions = [each.parent for each in DEBIAN.glob("*/bin/initdb") if each.parts[-3].isdecimal()]
    return max(versions, key=lambda folder: int(folder.parent.name), default=None)


def _unprivileged() -> dict[str, Any]:
    """Whom the server runs as, as arguments of `Popen`: it refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    pytest.skip("PostgreSQL does not run as root, and there is neither a user postgres nor nobody")
