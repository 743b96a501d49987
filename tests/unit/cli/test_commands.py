from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import click
import httpx
import pytest
from rich.console import Console
from rich.text import Text
from typer.main import get_command
from typer.testing import CliRunner

from cli.demo import command as demo_command
from cli.demo.progress import Bars
from cli.main import app
from cli.stack.operator import OperatorAuth, OperatorKey
from cli.stack.stack import ROOT, Row, Stack
from cli.stack.state import Options, State, StateFile
from cli.table import table
from cli.terminal import megabytes
from cli.test import EVERY_CORE, FEWER_EXAMPLES, TWO_AT_ONCE, arguments
from cli.times import time_of
from shared.version import VERSION

runner = CliRunner()
FAST = [*EVERY_CORE, *FEWER_EXAMPLES]


def test_the_help_names_every_command() -> None:
    said = runner.invoke(app, ["--help"]).output
    for command in ("up", "down", "status", "test", "token"):
        assert f" {command} " in said


def test_the_version_is_the_projects() -> None:
    assert runner.invoke(app, ["--version"]).output.strip() == VERSION


def test_a_stack_without_tokens_gives_none_and_says_how_to_have_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    StateFile(tmp_path).write(State(options=Options(auth=False)))
    monkeypatch.setattr(Stack, "any_lives", lambda self: True)
    result = runner.invoke(app, ["token", "prescriber", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "--auth" in result.stderr
    assert result.stdout == ""


def test_a_token_of_no_role_names_those_that_there_are(tmp_path: Path) -> None:
    result = runner.invoke(app, ["token", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "monitor-nurse" in str(result.exception)


@pytest.mark.parametrize(("role", "option"), [("patient", "--patient ID"), ("partner-physician", "--user TYPE/ID")])
def test_a_token_that_lacks_whose_it_is_names_the_option(tmp_path: Path, role: str, option: str) -> None:
    result = runner.invoke(app, ["token", role, "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert option in str(result.exception)


@pytest.mark.parametrize(("answered", "warned"), [(200, False), (404, True), (410, True)])
def test_a_token_for_a_patient_who_is_not_there_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, answered: int, warned: bool
) -> None:
    StateFile(tmp_path).write(State(options=Options(auth=True)))
    OperatorKey(tmp_path).make()
    monkeypatch.setattr(Stack, "any_lives", lambda self: True)
    monkeypatch.setattr(OperatorAuth, "token", lambda self: {"access_token": "abc"})
    asked: list[str] = []

    def get(url: str, **_: object) -> httpx.Response:
        asked.append(url)
        return httpx.Response(answered)

    monkeypatch.setattr(httpx, "get", get)
    result = runner.invoke(app, ["token", "patient", "--patient", "Patient/nope", "--data", str(tmp_path)])
    assert (result.exit_code, result.stdout) == (0, "abc\n")
    assert asked == ["http://127.0.0.1:8000/fhir/Patient/nope"]
    assert ("There is no Patient/nope in the record" in result.stderr) is warned


@pytest.mark.parametrize(
    "arguments",
    [
        ["timeline", "1-3"],
        ["lag"],
        ["parked", "list"],
        ["token", "prescriber"],
        ["replay", "intake"],
        ["rebuild"],
        ["verify"],
        ["clients", "list"],
    ],
)
def test_what_needs_a_running_stack_says_that_none_runs(tmp_path: Path, arguments: list[str]) -> None:
    result = runner.invoke(app, [*arguments, "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert str(result.exception) == f"Nothing runs from {tmp_path}. ./kap up starts it."


def every_help() -> Iterator[tuple[str, str]]:
    """Yield where each help text stands, and the text."""

    def walk(name: str, command: click.Command) -> Iterator[tuple[str, str]]:
        yield name, command.help or ""
        for parameter in command.params:
            yield f"{name} {parameter.name}", getattr(parameter, "help", None) or ""
        for inner, one in getattr(command, "commands", {}).items():
            yield from walk(f"{name} {inner}", one)

    yield from walk("kap", get_command(app))


def test_no_help_text_loses_what_stands_in_brackets() -> None:
    for where, text in every_help():
        assert Text.from_markup(text).plain == text, where


def test_usage_calls_the_program_as_it_is_called() -> None:
    said = subprocess.run(
        [sys.executable, "-P", "-m", "cli.main", "lag", "--nonsense"],
        env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert "Usage: ./kap lag" in said.stderr


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-11-22T10:30", "2026-11-22T10:30:00+00:00"),
        ("2026-11-22T10:30Z", "2026-11-22T10:30:00+00:00"),
        ("2026-11-22T10:30:15+01:00", "2026-11-22T10:30:15+01:00"),
        ("2026-11-22", "2026-11-22T00:00:00+00:00"),
    ],
)
def test_a_time_is_utc_where_no_zone_is_said(text: str, moment: str) -> None:
    assert time_of(text, "--since").isoformat() == moment


def test_what_is_no_time_is_refused_with_an_example(tmp_path: Path) -> None:
    result = runner.invoke(app, ["verify", "--since", "noon", "--data", str(tmp_path)])
    assert str(result.exception) == (
        "--since takes a time, and 'noon' is none. Write 2026-11-22, 2026-11-22T10:30 (UTC) or 2026-11-22T10:30+01:00."
    )


def test_ctrl_c_in_the_demo_says_what_stays_and_how_to_go_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Stack, "is_up", lambda self: True)
    monkeypatch.setattr(Stack, "any_lives", lambda self: True)

    async def interrupted(*_: object) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_command, "_demo", interrupted)
    result = runner.invoke(app, ["demo", "--data", str(tmp_path)])
    assert result.exit_code == 130
    said = " ".join(result.stderr.split())
    assert "What was done stays done, and the stack is still running (./kap down stops it)." in said
    assert "The same ./kap demo goes on from there." in said


def test_bars_of_what_was_broken_off_do_not_stay_on_the_screen() -> None:
    console = Console(force_terminal=True, file=io.StringIO(), width=80)
    bars = Bars(console)
    assert bars.progress is not None
    with suppress(KeyboardInterrupt), bars:
        bars.bar("Somebody", 3)
        raise KeyboardInterrupt
    assert bars.progress.live.transient


def test_status_of_a_stack_that_is_down_says_so_and_fails(tmp_path: Path) -> None:
    result = runner.invoke(app, ["status", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "Nothing runs" in result.stdout


def test_status_for_programs_lists_everything(tmp_path: Path) -> None:
    said = json.loads(runner.invoke(app, ["status", "--json", "--data", str(tmp_path)]).stdout)
    assert said["ready"] is False
    assert [row["name"] for row in said["processes"]] == [
        "postgres", "kafka", "gateway", "intake", "scheduling", "sessions", "outcomes", "delivery", "hospital",
        "identity",
    ]  # fmt: skip
    assert {row["health"] for row in said["processes"]} == {"down"}


def test_down_where_nothing_runs_is_no_error(tmp_path: Path) -> None:
    result = runner.invoke(app, ["down", "--data", str(tmp_path)])
    assert result.exit_code == 0
    assert "Nothing ran." in result.stdout


@pytest.mark.parametrize(
    ("given", "fast", "full", "expected"),
    [
        ([], False, False, ["-m", "not slow", *TWO_AT_ONCE]),
        ([], False, True, TWO_AT_ONCE),
        (["tests/e2e"], False, False, ["-m", "not slow", "tests/e2e"]),
        ([], True, False, ["-m", "not slow", *FAST, "tests/unit", "tests/architecture"]),
        (["-x", "tests/unit/cli"], True, False, ["-m", "not slow", *FAST, "-x", "tests/unit/cli"]),
        (
            ["tests/unit/cli/test_ports.py::test_x"],
            True,
            False,
            ["-m", "not slow", *FAST, "tests/unit/cli/test_ports.py::test_x"],
        ),
        (["-m", "kafka"], False, False, [*TWO_AT_ONCE, "-m", "(kafka) and not slow"]),
        (["-m", "chaos"], False, True, [*TWO_AT_ONCE, "-m", "chaos"]),
        (["-n", "0", "-m", "slow and chaos"], False, False, [*TWO_AT_ONCE, "-n", "0", "-m", "slow and chaos"]),
    ],
)
def test_pytests_arguments_come_last_and_so_win(given: list[str], fast: bool, full: bool, expected: list[str]) -> None:
    assert arguments(given, fast=fast, full=full) == expected


def test_the_table_tells_what_is_not_known_by_a_dash() -> None:
    console = Console(width=200, record=True)
    console.print(
        table([Row("intake", "service", 8001, None, "down"), Row("kafka", "broker", 8011, 5, "ready", lag=7)])
    )
    first, second = [line for line in console.export_text().splitlines() if line.strip()][1:]
    assert first.split() == ["intake", "8001", "-", "down", "-", "-"]
    assert second.split() == ["kafka", "8011", "5", "ready", "7", "-"]


def test_sizes_are_megabytes() -> None:
    assert (megabytes(97_400_000), megabytes(None)) == ("97 MB", "-")
