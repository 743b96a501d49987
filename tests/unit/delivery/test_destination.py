"""What a destination's answers, and their absence, are taken for."""

from __future__ import annotations

import httpx
import pytest

from services.delivery.destination import DestinationServer, NoAnswer
from shared.fhir.validation import require_valid
from shared.http.outbound import Outbound, Outside

PATIENT = {"resourceType": "Patient", "active": True}


def server(answer):
    asked = []

    def handle(request):
        asked.append(request)
        if isinstance(answer, Exception):
            raise answer
        return answer

    client = httpx.AsyncClient(transport=httpx.MockTransport(handle))
    return DestinationServer(client, "http://hospital/fhir/"), asked


@pytest.mark.parametrize(
    ("location", "body"),
    [
        ("http://hospital/fhir/Patient/77/_history/1", b""),
        ("http://hospital/fhir/Patient/77", b""),
        ("Patient/77/_history/1", b""),
        ("", b'{"resourceType":"Patient","id":"77"}'),
    ],
)
async def test_the_id_there_is_read_wherever_the_destination_says_it(location, body):
    headers = {"Location": location} if location else {}
    to, asked = server(httpx.Response(201, headers=headers, content=body))
    assert (await to.create(PATIENT)).server_id == "77"
    assert str(asked[0].url) == "http://hospital/fhir/Patient"
    assert asked[0].headers["content-type"].startswith("application/fhir+json")


async def test_a_refusal_is_kept_with_its_reasons_however_badly_it_is_written():
    said = {
        "resourceType": "OperationOutcome",
        "meta": {"nonsense": 1},
        "issue": [{"severity": "bad", "code": "59141", "details": {"text": "duplicate"}, "expression": ["Patient"]}, 7],
    }
    to, _ = server(httpx.Response(422, json=said, headers={"Retry-After": "9"}))
    answer = await to.create(PATIENT)
    require_valid(answer.outcome)
    assert answer.outcome["issue"][0]["diagnostics"] == "duplicate"
    assert answer.retry_after == 9
    to, _ = server(httpx.Response(500, content=b"<html>"))
    answer = await to.create(PATIENT)
    require_valid(answer.outcome)
    assert "500" in answer.outcome["issue"][0]["diagnostics"]


@pytest.mark.parametrize(
    ("error", "uncertain"),
    [
        (httpx.ConnectError("refused"), False),
        (httpx.ConnectTimeout("slow"), False),
        (httpx.ReadTimeout("slow"), True),
        (httpx.RemoteProtocolError("cut"), True),
        (httpx.ReadError("cut"), True),
        (httpx.WriteTimeout("slow"), True),
    ],
)
async def test_a_lost_answer_is_uncertain_and_a_closed_door_is_not(error, uncertain):
    to, _ = server(error)
    with pytest.raises(NoAnswer) as lost:
        await to.create(PATIENT)
    assert lost.value.uncertain is uncertain
    require_valid(lost.value.outcome)


async def test_it_is_asked_by_our_identifier():
    found = {"resourceType": "Bundle", "type": "searchset", "entry": [{"resource": {**PATIENT, "id": "7"}}]}
    to, asked = server(httpx.Response(200, json=found))
    assert [one["id"] for one in await to.find("Patient", {"system": "urn:x", "value": "a|b"})] == ["7"]
    assert asked[0].url.params["identifier"] == r"urn:x|a\|b"
    to, _ = server(httpx.Response(200, content=b"not json"))
    with pytest.raises(NoAnswer):
        await to.find("Patient", {"value": "x"})


async def test_what_is_not_a_fhir_server_is_no_destination():
    for answer in (httpx.Response(200, json={"resourceType": "Patient"}), httpx.Response(404), httpx.Response(200)):
        to, _ = server(answer)
        with pytest.raises(NoAnswer):
            await to.capabilities()


async def test_a_destination_whose_name_leads_inside_of_the_network_is_sent_nothing_and_says_why():
    async def inside(_host, _port):
        return ["10.0.0.5"]

    async with httpx.AsyncClient(transport=Outbound(Outside(), inside)) as client:
        with pytest.raises(NoAnswer, match="inside of the network") as refused:
            await DestinationServer(client, "https://hospital.example/fhir").create(PATIENT)
    assert not refused.value.uncertain
    require_valid(refused.value.outcome)
