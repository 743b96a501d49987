"""How an answer is written: parts of resources, indented, packed, without a body; at every way of reading."""

from __future__ import annotations

import gzip
from decimal import Decimal

import httpx
import pytest

from shared.fhir.json import dump, parse
from shared.http.app import create_fhir_app
from shared.http.server import listening

PATIENT = {
    "resourceType": "Patient",
    "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">Ann</div>'},
    "active": True,
    "name": [{"family": "Kerr"}],
    "contact": [{"name": {"text": "Bob"}}],
    "birthDate": "1980-05-01",
}
SUBSETTED = "SUBSETTED"


def tags(resource) -> list[str]:
    return [tag["code"] for tag in resource["meta"].get("tag", ())]


def local(url: str) -> str:
    return url.replace("http://kap.example", "")


async def shown(fhir, url) -> list[dict]:
    """Return the resources of an answer: of a page its entries."""
    answer = await fhir.http.get(local(url))
    assert answer.status_code == 200, answer.text
    body = parse(answer.content)
    return [entry["resource"] for entry in body["entry"]] if body["resourceType"] == "Bundle" else [body]


@pytest.mark.parametrize("place", ["{id}", "{id}/_history/1", "{id}/_history", "_history", "?_id={id}"])
async def test_every_way_of_reading_shows_the_part_that_was_asked_for(fhir, place):
    patient = await fhir.create(PATIENT)
    url = f"/fhir/Patient/{place.format(id=patient['id'])}".replace("/?", "?")
    join = "&" if "?" in url else "?"
    for asked, members in (
        ("_elements=birthDate", {"resourceType", "id", "meta", "active", "birthDate"}),
        ("_summary=text", {"resourceType", "id", "meta", "active", "text"}),
        ("_summary=true", {"resourceType", "id", "meta", "active", "name", "birthDate"}),
        ("_summary=data", set(patient) - {"text"}),
    ):
        (resource,) = await shown(fhir, f"{url}{join}{asked}")
        assert set(resource) == members, asked
        assert tags(resource) == [SUBSETTED]
    (whole,) = await shown(fhir, f"{url}{join}_summary=false")
    assert whole == patient


async def test_a_page_shows_the_same_part_as_the_one_before_it(fhir):
    for _ in range(3):
        await fhir.create(PATIENT)
    url, pages = "/fhir/Patient?_count=1&_elements=name&_pretty=true", 0
    while url:
        bundle = (await fhir.http.get(local(url))).json()
        assert set(bundle["entry"][0]["resource"]) == {"resourceType", "id", "meta", "active", "name"}
        url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), None)
        pages += 1
    assert pages == 3


async def test_a_search_by_form_may_ask_for_a_part_too(fhir):
    await fhir.create(PATIENT)
    answer = await fhir.http.post("/fhir/Patient/_search?_elements=name", data={"_count": "1", "_summary": "false"})
    assert "birthDate" not in answer.json()["entry"][0]["resource"]


async def test_a_part_keeps_its_digits_and_an_indented_answer_too(fhir):
    body = '{"resourceType":"Observation","status":"final","code":{"text":"x"},"valueQuantity":{"value":70.500}}'
    made = await fhir.http.post("/fhir/Observation", content=body, headers={"Content-Type": "application/fhir+json"})
    for asked in ("_summary=true", "_pretty=true", "_elements=value&_pretty=true"):
        answer = await fhir.http.get(f"/fhir/Observation/{made.json()['id']}?{asked}")
        assert parse(answer.content)["valueQuantity"]["value"].as_tuple() == Decimal("70.500").as_tuple()
        assert (b"\n" in answer.content) is ("_pretty" in asked)


async def test_the_metadata_has_a_summary(fhir):
    statement = (await fhir.http.get("/fhir/metadata?_summary=true")).json()
    assert statement["fhirVersion"] == "4.0.1"
    assert "interaction" not in statement["rest"][0]["resource"][0]
    assert tags(statement) == [SUBSETTED]


async def test_a_packed_request_is_read_and_an_answer_is_packed_for_who_accepts_it(fhir):
    packed = gzip.compress(dump({**PATIENT, "name": [{"family": f"Kerr{number}"} for number in range(200)]}))
    headers = {"Content-Type": "application/fhir+json", "Content-Encoding": "gzip"}
    made = await fhir.http.post("/fhir/Patient", content=packed, headers=headers)
    assert made.status_code == 201, made.text
    assert made.headers["content-encoding"] == "gzip"
    plain = await fhir.http.get(f"/fhir/Patient/{made.json()['id']}", headers={"Accept-Encoding": "identity"})
    assert "content-encoding" not in plain.headers
    assert plain.json() == made.json()
    small = await fhir.create({"resourceType": "Patient", "active": True})
    assert "content-encoding" not in (await fhir.http.get(f"/fhir/Patient/{small['id']}")).headers


async def test_head_tells_what_get_would_without_the_body(fhir, settings):
    patient = await fhir.create(PATIENT)
    app = create_fhir_app(fhir.backend.service, fhir.backend, settings)
    places = ("metadata", f"Patient/{patient['id']}", f"Patient/{patient['id']}/_history/1", "Patient", "_history")
    async with listening(app, settings) as port, httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}/fhir") as http:
        for place in places:
            head, get = await http.head(place), await http.get(place)
            assert head.status_code == get.status_code == 200
            assert head.content == b""
            assert head.headers.get("etag") == get.headers.get("etag")
            assert head.headers["content-type"] == get.headers["content-type"]
        missing = await http.head("Patient/nobody")
        assert (missing.status_code, missing.content) == (404, b"")


async def test_a_conditional_read_answers_304_where_nothing_is_new(fhir):
    patient = await fhir.create(PATIENT)
    place = f"/fhir/Patient/{patient['id']}"
    first = await fhir.http.get(place)
    for url in (place, f"{place}/_history/1"):
        for headers in (
            {"If-None-Match": first.headers["etag"]},
            {"If-None-Match": f'"x", {first.headers["etag"]}'},
            {"If-Modified-Since": first.headers["last-modified"]},
        ):
            answer = await fhir.http.get(url, headers=headers)
            assert (answer.status_code, answer.content) == (304, b"")
            assert answer.headers["etag"] == first.headers["etag"]
    await fhir.http.put(place, json={**patient, "active": False})
    assert (await fhir.http.get(place, headers={"If-None-Match": first.headers["etag"]})).status_code == 200
    both = {"If-None-Match": 'W/"1"', "If-Modified-Since": "Fri, 01 Jan 2100 00:00:00 GMT"}
    assert (await fhir.http.get(place, headers=both)).status_code == 200
