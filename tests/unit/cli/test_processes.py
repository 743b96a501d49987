from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from cli.stack import processes
from cli.stack.problem import StackProblem
from cli.stack.processes import Plan
from cli.stack.state import Process

SLEEP = [sys.executable, "-I", "-c", "import time; print('awake', flush=True); time.sleep(60)"]
DEAF = [
    sys.executable,
    "-I",
    "-c",
    "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('awake', flush=True); time.sleep(60)",
]


def plan(command: list[str], **environment: str) -> Plan:
    return Plan("sleeper", command, environment, {"sleeper": 9999})


@pytest.fixture
def started() -> Iterator[list[Process]]:
    all_: list[Process] = []
    yield all_
    processes.stop(all_, timeout=0.0)


def start(started: list[Process], tmp_path: Path, command: list[str], **environment: str) -> Process:
    process = processes.start(plan(command, **environment), log=tmp_path / "logs" / "sleeper.log", stack=tmp_path)
    started.append(process)
    deadline = time.monotonic() + 10
    while "awake" not in Path(process.log).read_text() and time.monotonic() < deadline:
        time.sleep(0.01)
    return process


def test_a_started_process_lives_in_a_session_of_its_own_and_ends_when_told(started, tmp_path: Path) -> None:
    process = start(started, tmp_path, SLEEP)
    assert processes.alive(process)
    assert psutil.Process(process.pid).parent() == psutil.Process()
    assert processes.memory(process.pid)
    assert processes.stop([process], timeout=10.0) == []
    assert not processes.alive(process)
    assert processes.memory(process.pid) is None


@pytest.mark.parametrize("gives_way", [True, False])
def test_what_pushes_records_out_gives_way_to_the_others(started, tmp_path: Path, gives_way: bool) -> None:
    one = replace(plan(SLEEP), gives_way=gives_way)
    started.append(processes.start(one, log=tmp_path / "sleeper.log", stack=tmp_path))
    assert (psutil.Process(started[0].pid).nice() > psutil.Process().nice()) == gives_way


def test_one_that_does_not_listen_is_killed_and_named(started, tmp_path: Path) -> None:
    process = start(started, tmp_path, DEAF)
    assert processes.stop([process], timeout=0.2) == ["sleeper"]
    assert not processes.alive(process)


def test_a_pid_that_is_anothers_by_now_is_not_ours_and_is_left_alone(started, tmp_path: Path) -> None:
    process = start(started, tmp_path, SLEEP)
    for other in (replace(process, command=["something", "else"]), replace(process, created=process.created - 60)):
        assert not processes.alive(other)
        assert processes.stop([other], timeout=1.0) == []
    assert processes.alive(process)


def test_a_process_that_nobody_wrote_down_is_found_again(started, tmp_path: Path) -> None:
    process = start(started, tmp_path, SLEEP, KAP_COLOUR="blue")
    log = Path(process.log)
    assert processes.find(plan(SLEEP, KAP_COLOUR="blue"), log=log, stack=tmp_path) == process
    assert processes.find(plan(SLEEP, KAP_COLOUR="red"), log=log, stack=tmp_path) is None
    assert processes.find(plan(SLEEP, KAP_COLOUR="blue"), log=log, stack=tmp_path / "other") is None


def test_a_program_that_is_not_there_is_a_problem_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(StackProblem, match="sleeper does not start: /no/such/program"):
        processes.start(plan(["/no/such/program"]), log=tmp_path / "log", stack=tmp_path)


def test_the_last_words_are_the_end_of_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    assert processes.last_words(log) == ""
    log.write_text("".join(f"line {number}\n" for number in range(5000)))
    assert processes.last_words(log).splitlines()[-1] == "line 4999"
    assert len(processes.last_words(log).splitlines()) == 12
