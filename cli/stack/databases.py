"""Where the services keep their data: PostgreSQL of the stack's own, or one that is given by address."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import SplitResult, unquote, urlsplit

from cli.stack.problem import StackProblem
from cli.stack.state import EMBEDDED
from shared.local.postgres import PostgresCluster, PostgresError, binaries

NOTES: Final = "kap_notes"
"""The database of process notes, and its role in a PostgreSQL of the stack's own: no other role may connect to it."""


class Databases(Protocol):
    """A PostgreSQL with one database per service; `own`: the stack runs it."""

    own: bool

    def start(self) -> None:
        """Have it running; nothing to do where it runs."""
        ...

    def stop(self) -> None:
        """Stop it, where it is the stack's own."""
        ...

    def pid(self) -> int | None:
        """Return its process id; None where it does not run, or is not the stack's own."""
        ...

    def provide(self, names: Sequence[str]) -> dict[str, str]:
        """Create these databases where they are missing; return their addresses by name."""
        ...


def databases(where: str, data: Path, port: int) -> Databases:
    """Return the PostgreSQL that `--postgres` names."""
    return Embedded(data / "postgres", port) if where == EMBEDDED else Given(where)


class Embedded:
    """PostgreSQL of the stack's own, from the wheel."""

    own = True

    def __init__(self, data: Path, port: int) -> None:
        self.cluster = PostgresCluster(data, port=port)

    def start(self) -> None:
        """Have it running; recovers a killed one."""
        try:
            self.cluster.start()
        except PostgresError as error:
            raise StackProblem(str(error)) from error

    def stop(self) -> None:
        """Stop it in good order."""
        try:
            self.cluster.stop()
        except PostgresError as error:
            raise StackProblem(str(error)) from error

    def pid(self) -> int | None:
        """Return the postmaster's process id."""
        return self.cluster.pid()

    def provide(self, names: Sequence[str]) -> dict[str, str]:
        """Create the databases that are missing."""
        try:
            there = set(self.cluster.databases())
            return {name: self._address(name, exists=name in there) for name in names}
        except PostgresError as error:
            raise StackProblem(str(error)) from error

    def _address(self, name: str, *, exists: bool) -> str:
        if name == NOTES:
            return self.cluster.create_database(name, owner=NOTES)
        return self.cluster.url(name) if exists else self.cluster.create_database(name)


class Given:
    """A PostgreSQL that others run: ``postgresql://user:password@host:port/database``.

    The user may create databases, or they are there already.
    """

    own = False

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        if parts.scheme not in {"postgresql", "postgres"} or not parts.username:
            raise StackProblem(
                "--postgres takes 'embedded' or an address of the form postgresql://user:password@host:port/database."
            )
        self._parts = parts

    def start(self) -> None:
        """See that it answers.

        Raises:
            StackProblem: it does not.

        """
        self._ask("SELECT 1")

    def stop(self) -> None:
        """Leave it alone: others run it."""

    def pid(self) -> int | None:
        """Return None: its process is none of ours."""
        return None

    def provide(self, names: Sequence[str]) -> dict[str, str]:
        """Create the databases that are missing.

        Raises:
            StackProblem: one is missing and the user may not create it.

        """
        there = set(self._ask("SELECT datname FROM pg_database").splitlines())
        for name in names:
            if name not in there:
                self._ask(f"CREATE DATABASE {name}")
        return {name: self._parts._replace(path=f"/{name}").geturl() for name in names}

    def _ask(self, sql: str) -> str:
        password = unquote(self._parts.password or "")
        # Not on the command line, where every user of the machine could read it.
        environment = os.environ | {"PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10"}
        command = [str(binaries() / "psql"), "-X", "-q", "-A", "-t", "-w", "-v", "ON_ERROR_STOP=1"]
        command += ["-d", self._public, "-c", sql]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
        if done.returncode != 0:
            raise StackProblem(f"PostgreSQL at {self._public} says: {done.stderr.strip()}")
        return done.stdout.strip()

    @property
    def _public(self) -> str:
        parts: SplitResult = self._parts
        host = parts.netloc.rpartition("@")[2]
        return parts._replace(netloc=f"{parts.username}@{host}").geturl()
