"""The command line, driven as a person drives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from cli.stack.ports import HOSPITAL, OFFSETS, Ports, is_free
from cli.stack.stack import Stack

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Kap:
    """The command line with one data folder; `ports` are the stack's."""

    data: Path
    ports: Ports

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-P", "-m", "cli.main", *arguments, "--data", str(self.data)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "COLUMNS": "160"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, timeout: float = 300) -> tuple[int, str]:
        """Run a command to its end; return its exit code and what it printed."""
        process = self.start(*arguments)
        try:
            printed, _ = process.communicate(timeout=timeout)
        except subprocess.TimeoutExpired:
            process.kill()
            printed, _ = process.communicate()
            pytest.fail(f"./kap {' '.join(arguments)} did not end within {timeout:.0f} s. It printed:\n{printed}")
        return process.returncode, printed

    def must(self, *arguments: str, timeout: float = 300) -> str:
        """Run a command that must succeed."""
        code, printed = self.run(*arguments, timeout=timeout)
        assert code == 0, f"./kap {' '.join(arguments)} ended with {code}:\n{printed}\n{self.logs()}"
        return printed

    def pid(self, name: str) -> int:
        _, printed = self.run("status", "--json")
        rows = {row["name"]: row for row in json.loads(printed)["processes"]}
        return int(rows[name]["pid"])

    def get(self, service: str, path: str) -> Any:
        auth = None if service == HOSPITAL else self.auth()
        url = f"{self.ports.url(service)}/{path}"
        return httpx.get(url, auth=auth, trust_env=False, timeout=30).raise_for_status().json()

    def auth(self) -> httpx.Auth | None:
        """Return what sends the token of who runs the stack; None where it runs without."""
        return Stack(self.data).auth()

    def written(self, service: str) -> int:
        """Return how many events a service ever wrote."""
        return int(self.get(service, "ops/flow")["outbox"]["written"])

    def logs(self) -> str:
        """Return the end of every log, for the message of a failed test."""
        return "\n".join(
            f"--- {log.name}\n{log.read_text(errors='replace')[-2000:]}" for log in sorted(self.data.glob("logs/*.log"))
        )


def free_base() -> int:
    """Return a port base above which everything is free."""
    for base in range(20000 + os.getpid() % 500 * 20, 50000, 20):
        if all(is_free(base + offset) for offset in OFFSETS.values()):
            return base
    raise AssertionError("There are no free ports.")
