"""The stack on a real PostgreSQL, with stand-ins for the services."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import httpx
import psutil
import pytest

from cli.stack import stack as stack_module
from cli.stack.ports import OFFSETS, Ports, is_free
from cli.stack.problem import StackProblem
from cli.stack.stack import Stack
from cli.stack.state import MEMORY, Options
from shared.local.postgres import SUPERUSER, PostgresCluster

FAKE = Path(__file__).with_name("fake_service.py")
ROOT = Path(__file__).parents[3]
FEW = ("intake", "gateway")


def fake(names: Sequence[str]) -> list[str]:
    return [sys.executable, str(FAKE), ",".join(names)]


def free_base() -> int:
    start = 20000 + os.getpid() % 1000 * 20
    return next(base for base in range(start, 60000, 20) if all(is_free(base + offset) for offset in OFFSETS.values()))


@pytest.fixture(scope="module")
def own_postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a PostgreSQL that is given to the stack, as `--postgres DSN`."""
    cluster = PostgresCluster(tmp_path_factory.mktemp("postgres"), port=free_base(), durable=False)
    cluster.start()
    yield cluster.url("postgres", role=SUPERUSER, tcp=True)
    cluster.stop()


@pytest.fixture(scope="module")
def own_kafka() -> Iterator[str]:
    """The address of something that listens, as `--kafka HOST:PORT`."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


@pytest.fixture
def stacks(tmp_path: Path) -> Iterator[Callable[..., Stack]]:
    made: list[Stack] = []

    def make(services: Sequence[str] = FEW, folder: str = "data") -> Stack:
        made.append(Stack(tmp_path / folder, command=fake, services=services))
        return made[-1]

    yield make
    for stack in made:
        stack.down()


@pytest.fixture
def options(own_postgres: str, own_kafka: str) -> Options:
    return Options(port_base=free_base(), kafka=own_kafka, postgres=own_postgres, auth=False)


def pids(stack: Stack) -> dict[str, int]:
    return {name: process.pid for name, process in stack.state().processes.items()}


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)
    assert has_ended(pid)


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.01)
    return False


def test_up_starts_everything_and_waits_until_it_is_ready(stacks, options: Options) -> None:
    stack = stacks()
    brought = stack.up(options)
    assert set(brought.started) == set(FEW)
    assert not brought.healed
    assert stack.is_up()
    rows = {row.name: row for row in stack.status()}
    assert rows["gateway"].port == options.port_base
    assert rows["gateway"].health == "ready"
    assert rows["gateway"].lag == 3
    assert rows["gateway"].memory
    assert rows["postgres"].health == rows["kafka"].health == "run by others"
    told = httpx.get(f"{stack.ports().url('intake')}/told").json()
    assert told["KAP_INTAKE_DATABASE_URL"].endswith("/kap_intake")


def test_a_second_up_leaves_alone_what_lives_and_needs_no_options(stacks, options: Options) -> None:
    stack = stacks()
    stack.up(options)
    before = pids(stack)
    brought = stacks().up(Options())
    assert brought.healed
    assert brought.started == {}
    assert pids(stack) == before


def test_a_killed_service_is_started_again_and_the_others_are_left_alone(stacks, options: Options) -> None:
    stack = stacks()
    stack.up(options)
    before = pids(stack)
    kill(before["intake"])
    assert not stack.is_up()
    assert stack.up(Options()).started == {"intake": "it did not run"}
    after = pids(stack)
    assert after["intake"] != before["intake"]
    assert after["gateway"] == before["gateway"]
    assert stack.is_up()


def test_down_stops_everything_and_the_next_up_remembers_how_it_ran(stacks, options: Options) -> None:
    stack = stacks()
    stack.up(options)
    before = pids(stack)
    assert stack.down()
    assert all(map(has_ended, before.values()))
    assert not stack.any_lives()
    assert not stack.down()
    assert stack.up(Options()).state.options.port_base == options.port_base


def test_one_that_does_not_stop_is_killed(stacks, options: Options, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(OFFSETS, "stubborn", 6)
    monkeypatch.setattr(stack_module, "STOP_SECONDS", 0.2)
    stack = stacks(("stubborn",))
    stack.up(options)
    (pid,) = pids(stack).values()
    stack.down()
    assert has_ended(pid)


def test_a_service_that_does_not_start_is_told_with_its_last_words_and_nothing_stays_behind(
    stacks, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_BROKEN", "gateway")
    stack = stacks()
    with pytest.raises(StackProblem, match=r"(?s)gateway ended while it started.*cannot read its settings"):
        stack.up(options)
    assert not stack.any_lives()
    assert stack.state().processes == {}
    assert stack.state().options.port_base != options.port_base, "a start that failed is not remembered"


def test_a_service_that_cannot_be_healed_leaves_the_living_alone(
    stacks, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stacks()
    stack.up(options)
    before = pids(stack)
    kill(before["gateway"])
    monkeypatch.setenv("FAKE_BROKEN", "gateway")
    with pytest.raises(StackProblem, match="gateway ended"):
        stack.up(Options())
    assert pids(stack) == {"intake": before["intake"]}
    assert psutil.pid_exists(before["intake"])


def test_a_taken_port_is_named_with_who_needs_it(stacks, options: Options) -> None:
    with (
        socket.create_server(("127.0.0.1", Ports(options.port_base).of("intake"))),
        pytest.raises(StackProblem, match=r"\(intake\): taken by another program.*--port-base"),
    ):
        stacks().up(options)


def test_all_taken_ports_are_named_at_once_before_anything_starts(stacks, options: Options) -> None:
    ports, stack = Ports(options.port_base), stacks()
    with (
        socket.create_server(("127.0.0.1", ports.of("gateway"))),
        socket.create_server(("127.0.0.1", ports.of("intake"))),
        pytest.raises(StackProblem) as refused,
    ):
        stack.up(options)
    assert f"{ports.of('gateway')} (gateway)" in str(refused.value)
    assert f"{ports.of('intake')} (intake)" in str(refused.value)
    assert not list(stack.logs.glob("*"))


def test_another_way_of_running_is_refused_while_it_is_up(stacks, options: Options) -> None:
    stack = stacks()
    stack.up(options)
    said = r"is up: one process per service; asked for: one process for all services\."
    with pytest.raises(StackProblem, match=said):
        stack.up(Options(single=True))
    assert stack.is_up()


def test_single_runs_all_services_in_one_process_with_databases_of_their_own(stacks, options: Options) -> None:
    stack = stacks()
    stack.up(Options(single=True).over(options))
    assert len(pids(stack)) == 1
    rows = {row.name: row for row in stack.status() if row.kind == "service"}
    assert {row.health for row in rows.values()} == {"ready"}
    assert len({row.pid for row in rows.values()}) == 1
    told = httpx.get(f"{stack.ports().url('gateway')}/told").json()
    assert told["KAP_GATEWAY_DATABASE_URL"] != told["KAP_INTAKE_DATABASE_URL"]


def test_a_process_started_by_a_command_that_was_killed_is_found_again(stacks, options: Options) -> None:
    stack = stacks()
    stack.up(options)
    before = pids(stack)
    (stack.data / "state.json").unlink()
    assert stack.up(options).started.keys() == set(FEW)
    assert pids(stack) == before


def test_a_service_that_makes_no_progress_is_started_again(
    stacks, options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = stacks()
    stack.up(options)
    before = pids(stack)
    intake = stack.ports().url("intake")
    monkeypatch.setattr(stack_module, "_stalled", lambda _client, url: url == intake)
    assert stack.up(Options()).started == {"intake": "it made no progress"}
    assert pids(stack)["gateway"] == before["gateway"]


def test_two_stacks_live_beside_each_other(stacks, options: Options) -> None:
    first, second = stacks(), stacks(folder="other")
    first.up(options)
    second.up(Options(port_base=free_base()).over(options))
    first.down()
    assert second.is_up()


def test_a_stack_of_its_own_database_and_broker_heals_after_any_of_them_was_killed(stacks) -> None:
    stack = stacks(("intake",))
    stack.up(Options(port_base=free_base(), kafka=MEMORY, auth=False))
    rows = {row.name: row for row in stack.status()}
    assert {row.health for row in rows.values()} == {"ready"}

    kill(rows["postgres"].pid)
    assert not stack.is_up()
    brought = stack.up(Options())
    assert brought.started == {"postgres": "it did not run"}, "the service connects again by itself"
    assert stack.is_up()

    kill(rows["kafka"].pid)
    brought = stack.up(Options())
    assert brought.started == {
        "kafka": "it did not run",
        "intake": "it was told something else",  # the in-memory broker has another address now
    }
    told = httpx.get(f"{stack.ports().url('intake')}/told").json()
    assert told["KAP_KAFKA_BOOTSTRAP"] == brought.state.kafka_bootstrap

    stack.down()
    assert {row.pid for row in stack.status()} == {None}
    assert (stack.data / "postgres").exists()


IN_FOREGROUND = """
import sys
from functools import partial
from pathlib import Path
import cli.up
from cli.stack.stack import Stack
cli.up.Stack = partial(Stack, command=lambda names: [sys.executable, {fake!r}, ",".join(names)], services={services!r})
own = dict(kafka={kafka!r}, postgres={postgres!r}, auth=False)
cli.up.up(data=Path({data!r}), port_base={base}, detach=False, single=None, **own)
"""


def test_ctrl_c_in_the_foreground_stops_everything_and_another_up_heals_meanwhile(stacks, options: Options) -> None:
    stack = stacks()
    program = IN_FOREGROUND.format(
        fake=str(FAKE), services=FEW, data=str(stack.data), base=options.port_base, kafka=options.kafka,
        postgres=options.postgres,
    )  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as foreground:
        said = ""
        while "Ctrl-C stops everything." not in said:
            line = foreground.stdout.readline()
            assert line, said
            said += line
        assert "It runs without tokens" in said
        before = pids(stack)
        kill(before["intake"])
        assert "intake (process" in foreground.stdout.readline()
        assert stack.up(Options(), foreground=True).started == {"intake": "it did not run"}
        assert stack.state().foreground == foreground.pid
        foreground.send_signal(signal.SIGINT)
        rest, _ = foreground.communicate(timeout=30)
        assert "Stopped." in rest
        assert foreground.returncode == 0
    assert not stack.any_lives()


def test_down_from_elsewhere_ends_the_foreground(stacks, options: Options) -> None:
    stack = stacks()
    program = IN_FOREGROUND.format(
        fake=str(FAKE), services=FEW, data=str(stack.data), base=options.port_base, kafka=options.kafka,
        postgres=options.postgres,
    )  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as foreground:
        while "Ctrl-C stops everything." not in foreground.stdout.readline():
            assert foreground.poll() is None
        assert stack.down()
        rest, _ = foreground.communicate(timeout=30)
        assert "stopped by another ./kap" in rest
        assert foreground.returncode == 0
