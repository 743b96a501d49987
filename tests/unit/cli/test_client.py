"""The client of the demo: it goes on through crashes, and says plainly when it cannot."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from cli.demo.client import FhirClient, Refused, Unreachable, condition

Answer = Callable[[httpx.Request], httpx.Response]


def client(answer: Answer, *, patience: float = 5.0) -> FhirClient:
    return FhirClient("http://gateway/fhir", patience=patience, transport=httpx.MockTransport(answer))


def in_turn(*answers: httpx.Response | Exception) -> Answer:
    left: Iterator[httpx.Response | Exception] = iter(answers)

    def answer(request: httpx.Request) -> httpx.Response:
        given = next(left)
        if isinstance(given, Exception):
            raise given
        return given

    return answer


def created(status: int = 201, **body: Any) -> httpx.Response:
    return httpx.Response(status, json={"resourceType": "Patient", "id": "1", **body})


async def test_a_create_is_conditional() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return created()

    async with client(answer) as gateway:
        held = await gateway.create({"resourceType": "Patient"}, unless="identifier=urn:x|1")

    assert held.reference == "Patient/1"
    assert held.created
    assert seen[0].headers["If-None-Exist"] == "identifier=urn:x|1"
    assert seen[0].headers["Content-Type"] == "application/fhir+json"


async def test_what_an_earlier_run_made_is_taken_as_it_is() -> None:
    async with client(in_turn(created(200))) as gateway:
        held = await gateway.create({"resourceType": "Patient"}, unless="identifier=urn:x|1")

    assert not held.created


async def test_the_id_is_taken_from_location_where_the_body_is_empty() -> None:
    answer = httpx.Response(201, headers={"Location": "http://gateway/fhir/Patient/7/_history/1"})
    async with client(in_turn(answer)) as gateway:
        held = await gateway.create({"resourceType": "Patient"}, unless="identifier=urn:x|1")

    assert held.id == "7"


@pytest.mark.parametrize(
    "first",
    [
        httpx.ConnectError("refused"),
        httpx.ReadError("cut off"),
        httpx.RemoteProtocolError("closed"),
        httpx.Response(503, headers={"Retry-After": "0"}),
        httpx.Response(502),
    ],
)
async def test_who_is_not_there_is_asked_again(first: httpx.Response | Exception) -> None:
    async with client(in_turn(first, created())) as gateway:
        held = await gateway.create({"resourceType": "Patient"}, unless="identifier=urn:x|1")

        assert held.created
        assert gateway.retried == 1


async def test_a_gateway_that_stays_away_is_told_in_a_plain_sentence() -> None:
    def answer(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused")

    async with client(answer, patience=0.2) as gateway:
        with pytest.raises(Unreachable, match="has not served"):
            await gateway.read("Patient/1")


async def test_a_refusal_is_not_repeated_and_names_its_rules() -> None:
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [
            {
                "severity": "error",
                "code": "business-rule",
                "details": {"coding": [{"system": "urn:rule", "code": "E01"}]},
                "diagnostics": "No consent.",
            }
        ],
    }
    async with client(in_turn(httpx.Response(422, json=outcome))) as gateway:
        with pytest.raises(Refused) as refusal:
            await gateway.create({"resourceType": "Appointment"}, unless="identifier=urn:x|1")

    assert refusal.value.status == 422
    assert refusal.value.rules == ("E01",)
    assert "No consent." in str(refusal.value)


async def test_a_refusal_without_an_outcome_is_shown_as_it_came() -> None:
    async with client(in_turn(httpx.Response(500, text="boom"))) as gateway:
        with pytest.raises(Refused, match="boom"):
            await gateway.read("Patient/1")


async def test_a_search_follows_every_page() -> None:
    def page(id_: str, following: str | None) -> httpx.Response:
        links = [{"relation": "next", "url": following}] if following else []
        entry = [{"resource": {"resourceType": "Patient", "id": id_}, "search": {"mode": "match"}}]
        return httpx.Response(200, json={"resourceType": "Bundle", "link": links, "entry": entry})

    async with client(in_turn(page("1", "http://gateway/fhir?page=x"), page("2", None))) as gateway:
        found = await gateway.search("Patient", {"identifier": "urn:x|1"})

    assert [resource["id"] for resource in found] == ["1", "2"]


def test_a_condition_is_a_search_with_what_is_special_escaped() -> None:
    assert condition(identifier="urn:x|a b&c") == "identifier=urn:x|a%20b%26c"
    assert condition(_tag="urn:x|1") == "_tag=urn:x|1"
