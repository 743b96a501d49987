"""A course of the demo through a gateway that shows late what comes by event: it waits, and tells what was done."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import Any

import httpx
import pytest
from rich.console import Console

from cli.demo import acting
from cli.demo.client import DemoError, FhirClient
from cli.demo.course import Course
from cli.demo.patients import generate
from cli.demo.progress import Bars
from cli.demo.resources import Calendar, Team
from shared.fhir.codes import COURSE, ELIGIBILITY, EXT_FINDING, REVIEW, rule_code
from shared.fhir.kap import stage_extension

TEAM = Team("Practitioner/p", "Practitioner/t", "Practitioner/n", "Location/r", "Organization/c")
LOOKS = 3
"""So many searches find nothing of what comes by event."""


class Gateway:
    """What a course asks of the gateway. What is `late` shows after so many searches of its type."""

    def __init__(self) -> None:
        self.held: dict[str, dict[str, Any]] = {}
        self.late: dict[str, dict[str, Any]] = {}
        self.looks: Counter[str] = Counter()
        self.operations: list[str] = []

    def put(self, resource: dict[str, Any], *, late: bool = False) -> None:
        name = f"{resource['resourceType']}/{resource['id']}"
        (self.late if late else self.held)[name] = {"meta": {"versionId": "1"}, **resource}

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/fhir/")
        if "$" in path:
            self.operations.append(path)
            return httpx.Response(200, json=self.operation(path))
        if request.method == "PUT":
            self.held[path] = json.loads(request.content)
            return httpx.Response(200, json=self.held[path])
        if "/" in path:
            found = self.held.get(path)
            return httpx.Response(404, json={}) if found is None else httpx.Response(200, json=found)
        return httpx.Response(200, json=self.search(path, dict(request.url.params)))

    def search(self, type_: str, query: dict[str, str]) -> dict[str, Any]:
        self.looks[type_] += 1
        if self.looks[type_] > LOOKS:
            self.held.update({name: self.late.pop(name) for name in list(self.late) if name.startswith(f"{type_}/")})
        code = query.get("code", "").rpartition("|")[2]
        found = [one for name, one in self.held.items() if name.startswith(f"{type_}/")]
        if code:
            found = [one for one in found if any(each["code"] == code for each in one["code"]["coding"])]
        return {"resourceType": "Bundle", "entry": [{"resource": one} for one in found]}

    def operation(self, path: str) -> dict[str, Any]:
        """Answer `$screen`: a decision is needed while a finding has none. And `$book-series`: two visits."""
        if path.endswith("$book-series"):
            for one in (visit("a"), visit("b")):
                self.put(one, late=True)
            return {"resourceType": "Bundle", "entry": [{"resource": visit("a")}, {"resource": visit("b")}]}
        issues = [one for one in (self.held | self.late).values() if one["resourceType"] == "DetectedIssue"]
        open_ = [one["code"]["coding"][0]["code"] for one in issues if not one.get("mitigation")]
        outcome = "needs-decision" if open_ else "eligible"
        return {
            "resourceType": "RiskAssessment",
            "code": ELIGIBILITY.concept(),
            "status": "final",
            "prediction": [{"outcome": {"coding": [{"system": ELIGIBILITY.system, "code": outcome}]}}],
            "extension": [finding(rule) for rule in open_],
        }


def finding(rule: str) -> dict[str, Any]:
    said = {"rule": rule, "verdict": "hit", "severity": "R"}
    return {"url": EXT_FINDING, "extension": [{"url": name, "valueCode": value} for name, value in said.items()]}


def issue(rule: str) -> dict[str, Any]:
    return {"resourceType": "DetectedIssue", "id": rule, "status": "final", "code": rule_code(rule).concept()}


def visit(id_: str) -> dict[str, Any]:
    return {"resourceType": "Appointment", "id": id_, "status": "booked"}


def review(id_: str) -> dict[str, Any]:
    return {"resourceType": "Task", "id": id_, "status": "requested", "code": REVIEW.concept()}


def episode(*stages: str) -> dict[str, Any]:
    return {
        "resourceType": "EpisodeOfCare",
        "id": "e",
        "status": "active",
        "type": [COURSE.concept()],
        "extension": [stage_extension(stage, "2026-11-01T10:00:00Z", None) for stage in stages],
    }


@pytest.fixture
def gateway() -> Gateway:
    return Gateway()


@pytest.fixture
async def course(gateway: Gateway) -> Any:
    person = next(one for one in generate(1, 7) if one.story == "iv")
    async with FhirClient("http://gateway/fhir", transport=httpx.MockTransport(gateway)) as client:
        bar = Bars(Console(quiet=True)).bar(person.name, 0)
        made = Course(person, client, TEAM, Calendar(date(2026, 10, 8), person.number), bar)
        made.subject = "Patient/x"
        yield made


async def test_a_prescriber_decides_on_each_finding_once_the_event_has_brought_it(
    gateway: Gateway, course: Course
) -> None:
    for rule in ("E08", "E09"):
        gateway.put(issue(rule), late=True)

    assert await course._screen() == "eligible"

    assert all(gateway.held[f"DetectedIssue/{rule}"]["mitigation"] for rule in ("E08", "E09"))
    assert course.told.steps == ["prescriber decided on E08, E09", "eligible"]
    assert not course.told.faults


async def test_what_nobody_decided_is_not_told_as_decided(
    gateway: Gateway, course: Course, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(acting, "PATIENCE", 0.0)
    gateway.put(issue("E08"), late=True)

    with pytest.raises(DemoError, match=f"The finding E08 of {course.person.name} did not come"):
        await course._screen()

    assert course.told.steps == []


async def test_every_review_is_done_also_that_which_comes_after_the_first(gateway: Gateway, course: Course) -> None:
    gateway.put(review("first"))
    gateway.put({"resourceType": "Procedure", "id": "talk"}, late=True)
    search = gateway.search

    def in_order(type_: str, query: dict[str, str]) -> dict[str, Any]:
        answer = search(type_, query)
        if "Procedure/talk" in gateway.held:  # sessions wrote it after the review, and it comes after it
            gateway.held.setdefault("Task/second", {"meta": {"versionId": "1"}, **review("second")})
        return answer

    gateway.search = in_order  # type: ignore[method-assign]

    await course._review("Encounter/v")

    assert [gateway.held[f"Task/{name}"]["status"] for name in ("first", "second")] == ["completed", "completed"]


async def test_the_visits_of_a_series_are_counted_when_all_have_come(gateway: Gateway, course: Course) -> None:
    made = gateway.operation("Appointment/$book-series")

    assert await course._laid(made) == 2


async def test_a_course_ends_finished_though_the_news_of_its_dose_comes_late(gateway: Gateway, course: Course) -> None:
    gateway.put(episode("planned"))
    told: Iterator[dict[str, Any]] = iter([episode("planned"), episode("planned"), episode("planned", "dosing")])
    search = gateway.search

    def later(type_: str, query: dict[str, str]) -> dict[str, Any]:
        if type_ == "EpisodeOfCare" and (newer := next(told, None)) is not None:
            gateway.put(newer)
        return search(type_, query)

    gateway.search = later  # type: ignore[method-assign]

    await course._end("stopped", 1)

    assert gateway.held["EpisodeOfCare/e"]["status"] == "finished"
