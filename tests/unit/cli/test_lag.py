"""`./kap lag` against services that tell what they are told to tell."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from cli import lag as module
from cli.main import app
from cli.ops import Ops
from cli.stack.ports import Ports
from cli.stack.stack import Stack
from cli.stack.state import Options, State, StateFile

runner = CliRunner()


class Services:
    """Answers /ops/flow: the gateway takes intake in, everybody else nothing of anybody."""

    def __init__(self) -> None:
        self.ports: Ports = Stack(Path("/nowhere")).ports()
        self.oldest: float | None = None
        self.parked = 0
        self.source: dict[str, Any] = {
            "source": "intake", "state": "taken in", "events": 4, "seconds": 1.5, "partitions": 16, "of": 16,
            "measured_seconds": 2.0,
        }  # fmt: skip

    def __call__(self, request: httpx.Request) -> httpx.Response:
        of_gateway = request.url.port == self.ports.base
        pending = 0 if self.oldest is None else 7
        return httpx.Response(
            200,
            json={
                "service": "gateway" if of_gateway else "another",
                "outbox": {"written": 9, "published": 9, "pending": pending, "oldest_seconds": self.oldest},
                "inbox": [],
                "parked": [{"topic": "t", "partition": 0, "count": self.parked if of_gateway else 0}],
                "lag": 4,
                "latencies": [],
                "sources": [self.source] if of_gateway else [],
            },
        )


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Services:
    answering = Services()
    monkeypatch.setenv("KAP_DATA", str(tmp_path))
    StateFile(tmp_path).write(State(options=Options(auth=False)))
    monkeypatch.setattr(Stack, "any_lives", lambda self: True)
    monkeypatch.setattr(module, "Ops", partial(Ops, transport=httpx.MockTransport(answering)))
    return answering


def test_events_and_seconds_are_told_for_each_source(services: Services) -> None:
    result = runner.invoke(app, ["lag"])
    assert result.exit_code == 0
    [line] = [line for line in result.stdout.splitlines() if "intake" in line]
    assert line.split() == ["intake", "4", "1.5", "s"]
    [gateway] = [one for one in json.loads(runner.invoke(app, ["lag", "--json"]).stdout) if one["service"] == "gateway"]
    assert gateway["sources"] == [services.source]


def test_a_source_that_nobody_takes_in_is_not_a_lag_of_nothing(services: Services) -> None:
    services.source |= {"state": "not assigned", "events": None, "partitions": 0, "measured_seconds": 95.0}
    result = runner.invoke(app, ["lag"])
    assert result.exit_code == 1
    [line] = [line for line in result.stdout.splitlines() if "intake" in line]
    assert line.split() == ["intake", "-", "1.5", "s", "not", "assigned"]
    assert "takes in 0 of 16 partitions of intake since 95.0 s" in result.stderr


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"seconds": None}, "never heard of all of intake"),
        ({"seconds": 300.0}, "last heard 5 min ago of intake"),
        ({"state": "partly assigned", "partitions": 9}, "takes in 9 of 16"),
    ],
)
def test_old_news_and_half_a_group_are_problems(services: Services, change: dict[str, Any], said: str) -> None:
    services.source |= change
    result = runner.invoke(app, ["lag"])
    assert result.exit_code == 1
    assert said in result.stderr


def test_an_old_outbox_and_parked_events_are_problems(services: Services) -> None:
    services.oldest, services.parked = 61.0, 2
    result = runner.invoke(app, ["lag"])
    assert result.exit_code == 1
    assert "has not published 7 events" in result.stderr
    assert "gateway has parked 2 events" in result.stderr
