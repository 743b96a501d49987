from __future__ import annotations

import json
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from cli.main import app
from cli.stack.stack import Row
from cli.stack.state import Options, State, StateFile
from cli.table import table
from cli.terminal import megabytes
from cli.test import EVERY_CORE, FEWER_EXAMPLES, arguments
from shared.version import VERSION

runner = CliRunner()
FAST = [*EVERY_CORE, *FEWER_EXAMPLES]


def test_the_help_names_every_command() -> None:
    said = runner.invoke(app, ["--help"]).output
    for command in ("up", "down", "status", "test", "token"):
        assert f" {command} " in said


def test_the_version_is_the_projects() -> None:
    assert runner.invoke(app, ["--version"]).output.strip() == VERSION


def test_a_stack_without_tokens_gives_none_and_says_how_to_have_one(tmp_path: Path) -> None:
    StateFile(tmp_path).write(State(options=Options(auth=False)))
    result = runner.invoke(app, ["token", "prescriber", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "--auth" in result.stderr
    assert result.stdout == ""


def test_a_token_of_no_role_names_those_that_there_are(tmp_path: Path) -> None:
    result = runner.invoke(app, ["token", "--data", str(tmp_path)])
    assert result.exit_code == 1
    assert "monitor-nurse" in result.stderr


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
        ([], False, False, ["-m", "not slow"]),
        ([], False, True, []),
        ([], True, False, ["-m", "not slow", *FAST, "tests/unit", "tests/architecture"]),
        (["-x", "tests/unit/cli"], True, False, ["-m", "not slow", *FAST, "-x", "tests/unit/cli"]),
        (
            ["tests/unit/cli/test_ports.py::test_x"],
            True,
            False,
            ["-m", "not slow", *FAST, "tests/unit/cli/test_ports.py::test_x"],
        ),
        (["-m", "kafka"], False, False, ["-m", "(kafka) and not slow"]),
        (["-m", "chaos"], False, True, ["-m", "chaos"]),
        (["-m", "slow and chaos"], False, False, ["-m", "slow and chaos"]),
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
