"""Processes that outlive the command that started them: start, find again, ask, stop.

A process id is given to another process in time. So a process counts as ours only while it also has the arguments we
started it with, and the time it began.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

from cli.stack.problem import StackProblem
from cli.stack.state import Process

MARK = "KAP_STACK"
"""Environment variable that names the data folder a process belongs to."""

_CLOCK_STEP = 5.0  # seconds: the kernel's idea of when a process began moves with the clock
_LAST_WORDS = 12
_GIVES_WAY = 5  # added to its niceness
_handles: list[subprocess.Popen[bytes]] = []  # children of this process; they are reaped by `reap`


@dataclass(frozen=True, slots=True)
class Plan:
    """A process that should run.

    Attributes:
        name: its name.
        command: program and arguments.
        environment: what it is told beside what this process inherited; KAP_* of this wins.
        serves: port by service name.
        gives_way: whether the others have the processors first.

    """

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    serves: Mapping[str, int]
    gives_way: bool = False

    @property
    def told(self) -> str:
        """A digest of the command and the environment: two plans with the same digest are the same process."""
        text = json.dumps([list(self.command), sorted(self.environment.items())])
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def start(plan: Plan, *, log: Path, stack: Path) -> Process:
    """Start a process in a session of its own, its output appended to `log`.

    Raises:
        StackProblem: the program does not start.

    """
    log.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | dict(plan.environment) | {MARK: str(stack)}
    with log.open("ab") as output:
        try:
            handle = subprocess.Popen(
                plan.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        except OSError as error:
            raise StackProblem(f"{plan.name} does not start: {plan.command[0]}: {error.strerror}.") from error
    _handles.append(handle)
    if plan.gives_way:
        with suppress(psutil.Error):
            started = psutil.Process(handle.pid)
            started.nice(started.nice() + _GIVES_WAY)
    return _record(plan, handle.pid, log)


def _record(plan: Plan, pid: int, log: Path) -> Process:
    try:
        created = psutil.Process(pid).create_time()
    except psutil.NoSuchProcess:  # ended at once, and reaped; `alive` says so
        created = 0.0
    return Process(
        name=plan.name,
        pid=pid,
        created=created,
        command=list(plan.command),
        told=plan.told,
        serves=dict(plan.serves),
        log=str(log),
    )


def find(plan: Plan, *, log: Path, stack: Path) -> Process | None:
    """Return the process that runs this plan for this stack though no state file tells of it.

    It is left by a command that was killed between starting it and writing that down.
    """
    for candidate in psutil.process_iter():
        with suppress(psutil.Error):
            same = candidate.cmdline() == list(plan.command)
            if same and candidate.status() != psutil.STATUS_ZOMBIE and candidate.environ().get(MARK) == str(stack):
                environment = candidate.environ()
                if all(environment.get(name) == value for name, value in plan.environment.items()):
                    return _record(plan, candidate.pid, log)
    return None


def any_marked(stack: Path) -> bool:
    """Return whether a process of this stack lives, whether or not a state file tells of it."""
    for candidate in psutil.process_iter():
        with suppress(psutil.Error):
            if candidate.status() != psutil.STATUS_ZOMBIE and candidate.environ().get(MARK) == str(stack):
                return True
    return False


def alive(process: Process) -> bool:
    """Return whether this very process still runs."""
    return _found(process) is not None


def _found(process: Process) -> psutil.Process | None:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        found = psutil.Process(process.pid)
        if (
            found.status() != psutil.STATUS_ZOMBIE
            and found.cmdline() == process.command
            and abs(found.create_time() - process.created) < _CLOCK_STEP
        ):
            return found
    return None


def reap() -> None:
    """Take note of the children of this process that have ended; otherwise they stay as zombies."""
    _handles[:] = [handle for handle in _handles if handle.poll() is None]


def reap_all() -> None:
    """Take note of every child that has ended, whoever started it in this process: for one that only watches."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0] != 0:
            pass
    reap()


def stop(processes: Iterable[Process], *, timeout: float) -> list[str]:
    """Ask processes to end (SIGTERM), all at once; end those by SIGKILL that have not after `timeout` seconds.

    Returns:
        The names of those that had to be killed.

    """
    waiting = [process for process in processes if _signal(process, signal.SIGTERM)]
    waiting = _wait(waiting, timeout)
    killed = [process.name for process in waiting if _signal(process, signal.SIGKILL)]
    _wait(waiting, 10.0)
    return killed


def _signal(process: Process, number: signal.Signals) -> bool:
    found = _found(process)
    if found is None:
        return False
    try:
        found.send_signal(number)
    except psutil.NoSuchProcess:
        return False
    return True


def _wait(processes: list[Process], timeout: float) -> list[Process]:
    deadline = time.monotonic() + timeout
    while True:
        processes = [process for process in processes if alive(process)]
        reap()
        if not processes or time.monotonic() > deadline:
            return processes
        time.sleep(0.05)


def memory(pid: int) -> int | None:
    """Return the resident memory of a process and its children in bytes; None where there is no such process.

    What PostgreSQL's processes share is counted once, where the system tells it (Linux).
    """
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        found = psutil.Process(pid)
        return sum(map(_resident, [found, *found.children(recursive=True)])) or None
    return None


def _resident(process: psutil.Process) -> int:
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        told = process.memory_full_info()
        return int(getattr(told, "pss", told.rss))
    with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
        return int(process.memory_info().rss)
    return 0


def ready(client: httpx.Client, url: str) -> str | None:
    """Return None where ``<url>/readyz`` answers 200, else what it says or what is in the way."""
    try:
        answer = client.get(f"{url}/readyz")
    except httpx.TimeoutException:
        return "it does not answer"
    except httpx.TransportError:
        return "it does not listen yet"
    if answer.status_code == httpx.codes.OK:
        return None
    return f"it answers {answer.status_code}: {_sentence(answer)}"


def _sentence(answer: httpx.Response) -> str:
    with suppress(ValueError, KeyError, TypeError):
        return str(answer.json()["why"])
    return " ".join(answer.text.split())[:200] or answer.reason_phrase


def last_words(log: Path) -> str:
    """Return the last lines of a log, for an error message; empty where there are none."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - 16384))
            lines = file.read().decode(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join(line[:400] for line in lines[-_LAST_WORDS:])
