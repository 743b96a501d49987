"""Holds `docs/feature-map.md`, and the attacks of `docs/security.md`, to it: every test named there ran and passed.

A complete run is one of everything (`./kap test`, `./kap test --full`): no path, no ``-k``, not cut short by ``-x``.
"""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAP = ROOT / "docs" / "feature-map.md"
ATTACKS = ROOT / "docs" / "security.md"
NODE = re.compile(r"`(tests/[\w/.-]+\.py)::(\w+)`")
COMPLETE = frozenset(("", "not slow"))


def rows(text: str) -> dict[str, str]:
    """Return the map's table rows: the first cell, and the whole row."""
    lines = text.splitlines()
    found: dict[str, str] = {}
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if not line.startswith("| ") or line.startswith("| --") or following.startswith("| --"):
            continue
        name = line.split("|")[1].strip()
        if name in found:
            message = f"{MAP.name} has two rows '{name}'"
            raise ValueError(message)
        found[name] = line
    return found


def named(text: str) -> set[tuple[str, str]]:
    """Return file and function of every test that the map names."""
    return set(NODE.findall(text))


@cache
def functions(path: Path) -> frozenset[str]:
    """Return the names of the test functions of a file, in classes too."""
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


class MapInRun:
    """Notes what passed, and at the end of a complete run fails it for a named test that did not."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.passed: set[tuple[str, str]] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            path, _, name = report.nodeid.partition("::")
            self.passed.add((path, name.rpartition("::")[2].partition("[")[0]))

    def is_complete(self, session: pytest.Session) -> bool:
        option = self.config.option
        return (
            self.config.args_source is pytest.Config.ArgsSource.TESTPATHS
            and option.markexpr in COMPLETE
            and not option.keyword
            and not option.collectonly
            and not getattr(option, "lf", False)
            and not getattr(option, "deselect", None)
            and not session.shouldstop
            and not session.shouldfail
        )

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        if not self.is_complete(session):
            return
        for page in (MAP, ATTACKS):
            lacking = sorted(named(page.read_text(encoding="utf-8")) - self.passed)
            if not lacking:
                continue
            said = "".join(f"\n  {path}::{name}" for path, name in lacking)
            reporter = self.config.pluginmanager.get_plugin("terminalreporter")
            if reporter is not None:
                reporter.write_line(f"\n{page.name} names tests that did not pass in this run:{said}", red=True)
            if session.exitstatus == pytest.ExitCode.OK:
                session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_configure(config: pytest.Config) -> None:
    """Watch the run, once: in the process that hears of every test."""
    if not hasattr(config, "workerinput"):
        config.pluginmanager.register(MapInRun(config), "feature-map")
