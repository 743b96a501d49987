"""`./kap replay` against a service that tells what it is told to tell."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from cli import replay as module
from cli.main import app
from cli.ops import Ops
from cli.stack.stack import Stack
from cli.stack.state import Options, State, StateFile

runner = CliRunner()


class Intake:
    """Works off a replay in two looks."""

    def __init__(self) -> None:
        self.asked: list[dict[str, str]] = []
        self.looks = 0
        self.each = 40

    def __call__(self, request: httpx.Request) -> httpx.Response:
        query = dict(request.url.params)
        if request.method == "POST":
            self.asked.append(query)
            if query.get("from") == "999":
                issue = [{"diagnostics": "Its outbox ends at 117."}]
                return httpx.Response(400, json={"resourceType": "OperationOutcome", "issue": issue})
            return httpx.Response(200, json={"number": 5, "told": 0, "ended": False})
        assert request.url.path == "/ops/replay/5"
        self.looks += 1
        return httpx.Response(200, json={"number": 5, "told": self.each * self.looks, "ended": self.looks == 2})


@pytest.fixture
def intake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Intake:
    answering = Intake()
    monkeypatch.setenv("KAP_DATA", str(tmp_path))
    StateFile(tmp_path).write(State(options=Options(auth=False)))
    monkeypatch.setattr(Stack, "any_lives", lambda self: True)
    monkeypatch.setattr(module, "Ops", partial(Ops, transport=httpx.MockTransport(answering)))
    monkeypatch.setattr(module, "_POLL", 0.0)
    return answering


def test_it_asks_for_what_was_said_and_waits_until_all_was_told(intake: Intake) -> None:
    options = ["--from", "2026-11-22T10:30Z", "--patient", "Patient/1", "--to", "kap.gateway"]
    result = runner.invoke(app, ["replay", "intake", *options])
    assert result.exit_code == 0
    assert intake.asked == [{"from": "2026-11-22T10:30:00+00:00", "patient": "Patient/1", "to": "gateway"}]
    assert "intake told 80 events again, to gateway." in result.stdout
    assert "0 events told" not in result.stderr.replace("40 events told so far.", "")
    assert "40 events told so far." in result.stderr


def test_a_time_without_a_zone_is_utc(intake: Intake) -> None:
    assert runner.invoke(app, ["replay", "intake", "--no-wait", "--from", "2026-11-22T10:30"]).exit_code == 0
    assert intake.asked == [{"from": "2026-11-22T10:30:00+00:00"}]


def test_a_place_in_the_outbox_stays_a_number(intake: Intake) -> None:
    assert runner.invoke(app, ["replay", "intake", "--no-wait", "--from", "117"]).exit_code == 0
    assert intake.asked == [{"from": "117"}]


def test_a_patient_of_whom_nothing_was_ever_told_is_named(intake: Intake) -> None:
    intake.each = 0
    result = runner.invoke(app, ["replay", "intake", "--patient", "Patient/nope"])
    assert result.exit_code == 0
    assert "intake never told anything of Patient/nope" in result.stderr


def test_it_need_not_be_waited_for(intake: Intake) -> None:
    result = runner.invoke(app, ["replay", "intake", "--no-wait"])
    assert (result.exit_code, intake.looks, intake.asked) == (0, 0, [{}])
    assert "to everybody" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["hospital"], "hospital tells no events of its own"),
        (["intake", "--from", "999"], "Its outbox ends at 117."),
        (["intake", "--to", "kap.nobody"], "There is no consumer kap.nobody"),
        (["intake", "--from", "yesterday"], "--from takes a time, and 'yesterday' is none. Write 2026-11-22"),
    ],
)
def test_what_cannot_be_is_a_sentence(intake: Intake, arguments: list[str], said: str) -> None:
    result = runner.invoke(app, ["replay", *arguments])
    assert result.exit_code == 1
    assert said in str(result.exception)
