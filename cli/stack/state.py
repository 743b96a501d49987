"""What runs where: `state.json` in the data folder, by which every `./kap` command finds the stack again.

It holds the settings of the last `up`, so that the next one needs none of them again, and the processes it started. It
may hold the password of a database that was given by address: it is readable by its owner only.
"""

from __future__ import annotations

import fcntl
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from cli.stack.ports import DEFAULT_BASE
from cli.stack.problem import StackProblem

FORMAT = 1
APACHE = "apache"
MEMORY = "memory"
EMBEDDED = "embedded"


@dataclass(frozen=True, slots=True)
class Options:
    """How a stack is to run; None: as it ran before, else the default.

    Attributes:
        port_base: the gateway's port.
        kafka: ``apache``, ``memory``, or the ``host:port`` of a Kafka of one's own.
        postgres: ``embedded``, or the address of a PostgreSQL of one's own (``postgresql://...``).
        single: whether all services run in one process.
        auth: whether requests need tokens.

    """

    port_base: int | None = None
    kafka: str | None = None
    postgres: str | None = None
    single: bool | None = None
    auth: bool | None = None

    def over(self, remembered: Options) -> Options:
        """Return these options, with the remembered ones where these say nothing."""
        given = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(remembered, **given)


DEFAULTS = Options(port_base=DEFAULT_BASE, kafka=APACHE, postgres=EMBEDDED, single=False, auth=True)


@dataclass(frozen=True, slots=True)
class Process:
    """A process that was started.

    Attributes:
        name: of the service; ``services`` where one process runs them all.
        pid: its process id, which is another's once it has ended: see `created` and `command`.
        created: when it began, seconds since 1970.
        command: its arguments, program first.
        told: a digest of what it was told by its environment; another one needs another process.
        serves: port by service name.
        log: the file with its output.

    """

    name: str
    pid: int
    created: float
    command: list[str]
    told: str
    serves: dict[str, int]
    log: str


@dataclass(slots=True)
class State:
    """The stack of one data folder.

    Attributes:
        options: of the last `up`, complete.
        processes: by name; empty when the stack is down.
        kafka_bootstrap: ``host:port`` the processes use.
        foreground: process id of the `./kap up` that stops everything when it ends; None: nobody does.

    """

    options: Options = DEFAULTS
    processes: dict[str, Process] = field(default_factory=dict)
    kafka_bootstrap: str | None = None
    foreground: int | None = None


class StateFile:
    """The state file of a data folder, and the lock of those who change it."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self.path = data / "state.json"

    def read(self) -> State:
        """Return the state; that of a stack which never ran where there is none.

        Raises:
            StackProblem: the file is of another version of this program, or no state file.

        """
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return State()
        try:
            content = json.loads(text)
            if content.pop("format") != FORMAT:
                raise ValueError("another format")
            return State(
                options=Options(**content["options"]),
                processes={name: Process(**process) for name, process in content["processes"].items()},
                kafka_bootstrap=content["kafka_bootstrap"],
                foreground=content["foreground"],
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise StackProblem(
                f"{self.path} was not written by this version of ./kap. Stop what runs there, then remove the file."
            ) from error

    def write(self, state: State) -> None:
        """Replace the file, whole or not at all."""
        content: dict[str, Any] = {"format": FORMAT} | {one.name: getattr(state, one.name) for one in fields(state)}
        content["options"] = asdict(state.options)
        content["processes"] = {name: asdict(process) for name, process in state.processes.items()}
        self.data.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(
            "w", dir=self.data, prefix="state.", suffix=".new", delete=False, encoding="utf-8"
        ) as beside:  # mode 0600 by its making
            json.dump(content, beside, indent=2)
            beside.flush()
            os.fsync(beside.fileno())
        Path(beside.name).replace(self.path)

    @contextmanager
    def locked(self, report: Callable[[str], None], *, timeout: float = 180.0) -> Iterator[None]:
        """Let one command at a time start or stop this stack; the others wait, and say so.

        Raises:
            StackProblem: another command held the lock for `timeout` seconds.

        """
        self.data.mkdir(parents=True, exist_ok=True)
        deadline = time.monotonic() + timeout
        told = False
        with (self.data / "lock").open("w") as lock:
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > deadline:
                        raise StackProblem(
                            f"Another ./kap has been starting or stopping the stack in {self.data} for "
                            f"{timeout:.0f} s. Look what it does, or end it."
                        ) from None
                    if not told:
                        report("Another ./kap is starting or stopping this stack; waiting for it.")
                        told = True
                    time.sleep(0.1)
            yield
