"""`./kap test`: run the tests."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from cli.stack.stack import ROOT

FAST = ["tests/unit", "tests/architecture"]
EVERY_CORE = ["-n", "auto"]
"""Unit tests share nothing, so each core takes a part of them."""

TWO_AT_ONCE = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
"""Everything: two processes, each with a PostgreSQL and a Kafka of its own, take one file after another."""

FEWER_EXAMPLES = ["--hypothesis-profile=fast"]
"""Of each property a quarter of the examples that are tried at a merge (`tests/conftest.py`)."""


def run_tests(
    context: typer.Context,
    *,
    fast: Annotated[bool, typer.Option("--fast", help="Unit and architecture tests only: about a minute.")] = False,
    full: Annotated[bool, typer.Option("--full", help="Everything, the slow ones too.")] = False,
) -> None:
    """Run the tests: all but the slow ones, unless told otherwise. Further arguments are pytest's.

    The first and the last lines tell which broker and database they ran on. A missing Apache Kafka skips what needs it;
    KAP_REQUIRE_KAFKA=1 makes it an error.
    """
    if fast and full:
        raise typer.BadParameter("--fast and --full exclude each other.")
    command = [sys.executable, "-P", "-m", "pytest", *arguments(context.args, fast=fast, full=full)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    raise typer.Exit(subprocess.run(command, cwd=ROOT, env=environment, check=False).returncode)


def arguments(given: Sequence[str], *, fast: bool, full: bool) -> list[str]:
    """Return pytest's arguments: the choice of the options, then what was given, which so has the last word.

    A choice of markers (``-m chaos``) means the short form of what it chooses, unless it speaks of slow tests itself.
    """
    given = list(given)
    if not full and "-m" in given[:-1]:
        place = given.index("-m") + 1
        if "slow" not in given[place]:
            given[place] = f"({given[place]}) and not slow"
    chosen = [] if full or "-m" in given else ["-m", "not slow"]
    named = any(not argument.startswith("-") and (ROOT / argument.partition("::")[0]).exists() for argument in given)
    if fast:
        return [*chosen, *EVERY_CORE, *FEWER_EXAMPLES, *given, *([] if named else FAST)]
    return [*chosen, *([] if named else TWO_AT_ONCE), *given]
