from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from cli import parked as module
from cli.main import app
from cli.ops import Ops
from cli.stack.stack import Stack
from cli.stack.state import Options, State, StateFile

runner = CliRunner()


class Services:
    """Answers as the /ops endpoints do: the gateway holds two parked events of one patient, and one of another."""

    def __init__(self) -> None:
        self.parked = [self.event(1, "Patient/a"), self.event(2, "Patient/a"), self.event(3, "Patient/b")]
        self.retried: list[int] = []

    @staticmethod
    def event(number: int, key: str) -> dict[str, object]:
        return {
            "number": number, "consumer": "gateway", "source": "intake", "event_id": f"Condition/{number}/1",
            "tenant": "default", "key": key, "topic": "kap.intake.v1", "partition": 3, "offset": 40 + number,
            "error": "NotFound: no such type", "attempts": 5, "parked_at": "2026-11-22T09:00:00Z",
        }  # fmt: skip

    def __call__(self, request: httpx.Request) -> httpx.Response:
        of_gateway = request.url.port == Stack(Path("/nowhere")).ports().base
        held = self.parked if of_gateway else []
        if request.method == "GET":
            return httpx.Response(200, json={"service": "any", "parked": held})
        number, what = int(request.url.path.split("/")[3]), request.url.path.split("/")[4]
        found = [event for event in held if event["number"] == number]
        if not found:
            return httpx.Response(404, json={"resourceType": "OperationOutcome"})
        if what == "retry":
            self.retried.append(number)
            return httpx.Response(200, json={"due": len([one for one in held if one["key"] == found[0]["key"]])})
        self.parked.remove(found[0])
        return httpx.Response(200, json={"dropped": found[0]})


@pytest.fixture
def services(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Services:
    answering = Services()
    monkeypatch.setenv("KAP_DATA", str(tmp_path))
    StateFile(tmp_path).write(State(options=Options(auth=False)))
    monkeypatch.setattr(Stack, "any_lives", lambda self: True)
    monkeypatch.setattr(module, "Ops", partial(Ops, transport=httpx.MockTransport(answering)))
    return answering


def test_list_names_what_is_parked_of_every_service_and_fails(services: Services) -> None:
    result = runner.invoke(app, ["parked", "list", "--json"])
    assert result.exit_code == 1
    assert [(each["service"], each["number"]) for each in json.loads(result.stdout)] == [
        ("gateway", 1), ("gateway", 2), ("gateway", 3),
    ]  # fmt: skip
    assert "Condition/3/1" in runner.invoke(app, ["parked", "list"]).stdout


def test_list_of_nothing_says_so_and_succeeds(services: Services) -> None:
    services.parked.clear()
    result = runner.invoke(app, ["parked", "list"])
    assert (result.exit_code, result.stdout.strip()) == (0, "Nothing is parked.")


def test_show_tells_why_and_what_waits_behind(services: Services) -> None:
    said = runner.invoke(app, ["parked", "show", "gateway", "1"]).stdout
    assert "NotFound: no such type" in said
    assert "1 later events of Patient/a wait behind it." in said


def test_retry_and_drop_act_on_one_key_only(services: Services) -> None:
    assert "2 events" in runner.invoke(app, ["parked", "retry", "gateway", "1"]).stdout
    assert services.retried == [1]
    assert "Dropped Condition/3/1 of intake" in runner.invoke(app, ["parked", "drop", "gateway", "3", "--yes"]).stdout
    assert [event["number"] for event in services.parked] == [1, 2]


def test_nothing_is_dropped_without_a_yes(services: Services) -> None:
    assert runner.invoke(app, ["parked", "drop", "gateway", "3"], input="n\n").exit_code != 0
    assert len(services.parked) == 3


@pytest.mark.parametrize(
    "arguments",
    [("show", "gateway", "9"), ("retry", "gateway", "9"), ("show", "laundry", "1"), ("retry", "intake", "1")],
)
def test_a_number_or_service_that_is_not_there_is_a_plain_sentence(
    services: Services, arguments: tuple[str, ...]
) -> None:
    result = runner.invoke(app, ["parked", *arguments])
    assert result.exit_code != 0
    assert "parked event" in str(result.exception) or "There is no service" in str(result.exception)
