"""Attacks on the way in: what is sent to be run, to reach a file, to be read twice, or to keep the server busy."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest
from starlette.responses import PlainTextResponse

from shared.fhir.json import parse
from shared.http.app import create_fhir_app
from shared.http.heads import MOST_BYTES, BoundedHeads
from shared.http.server import listening
from shared.runtime.settings import SettingsError

SQL = "x' OR '1'='1'; DROP TABLE resource; --"
XML = b"""<?xml version="1.0"?><!DOCTYPE p [<!ENTITY file SYSTEM "file:///etc/passwd">]>
<Patient xmlns="http://hl7.org/fhir"><name><family value="&file;"/></name></Patient>"""
PATIENT = {"resourceType": "Patient", "name": [{"family": "Da"}], "birthDate": "1990-01-02"}


@pytest.fixture
async def held(fhir):
    patient = await fhir.create(PATIENT)
    await fhir.create(
        {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]},
            "subject": {"reference": f"Patient/{patient['id']}"},
            "valueQuantity": {"value": 120, "unit": "mmHg"},
        }
    )
    return await fhir.held()


@pytest.mark.parametrize(
    ("kind", "search"),
    [
        ("string", "Patient?family={}"),
        ("string modifier", "Patient?family:contains={}"),
        ("token", "Observation?code={}"),
        ("token system", "Observation?code={}|8480-6"),
        ("date", "Patient?birthdate={}"),
        ("quantity", "Observation?value-quantity={}"),
        ("quantity unit", "Observation?value-quantity=120|http://unitsofmeasure.org|{}"),
        ("reference", "Observation?patient={}"),
        ("composite", "Observation?code-value-quantity=8480-6${}"),
        ("uri", "Patient?_profile={}"),
        ("special", "Patient?_id={}"),
        ("last updated", "Patient?_lastUpdated={}"),
        ("chain", "Observation?patient.family={}"),
        ("reverse chain", "Patient?_has:Observation:patient:code={}"),
        ("include", "Observation?_include={}"),
        ("sort", "Patient?_sort={}"),
        ("count", "Patient?_count={}"),
        ("elements", "Patient?_elements={}"),
        ("page link", "Patient?_cursor={}"),
        ("name of a parameter", "Patient?{}=1"),
        ("modifier", "Patient?family:{}=1"),
        ("id in a path", "Patient/{}"),
        ("version in a path", "Patient/1/_history/{}"),
        ("since of a history", "Patient/_history?_since={}"),
    ],
)
async def test_sql_in_any_kind_of_parameter_is_a_value_and_nothing_else(fhir, held, kind, search):
    answer = await fhir.http.get("/fhir/" + search.format(quote(SQL)))
    assert answer.status_code in {200, 400, 404}, (kind, answer.text)
    if answer.status_code == 200:
        assert not [one for one in answer.json().get("entry", []) if one["search"]["mode"] == "match"], kind
    else:
        assert answer.json()["resourceType"] == "OperationOutcome"
    assert await fhir.held() == held


async def test_sql_in_a_body_is_kept_as_it_was_sent(fhir, held):
    made = await fhir.create({**PATIENT, "name": [{"family": SQL}]})
    assert (await fhir.http.get(f"/fhir/Patient/{made['id']}")).json()["name"] == [{"family": SQL}]
    assert (await fhir.http.get("/fhir/Patient", params={"family": SQL})).json()["entry"][0]["resource"] == made
    assert await fhir.held() == held + 1


@pytest.mark.parametrize("media", ["application/fhir+xml", "application/xml", "text/xml"])
async def test_xml_is_refused_and_no_entity_of_it_is_looked_up(fhir, issues, media):
    answer = await fhir.http.post("/fhir/Patient", content=XML, headers={"Content-Type": media})
    issues(answer, 415)
    assert "root:" not in answer.text
    answer = await fhir.http.post("/fhir/Patient", content=XML, headers={"Content-Type": "application/fhir+json"})
    issues(answer, 400)
    assert await fhir.held() == 0


@pytest.mark.parametrize(
    "up",
    [
        "../../../../etc/passwd",
        "..%2f..%2f..%2fetc%2fpasswd",
        "%2e%2e/%2e%2e/etc/passwd",
        "....//etc/passwd",
        "%00",
        "..%5c..%5cetc%5cpasswd",
        "%c0%ae%c0%ae/etc/passwd",
    ],
)
async def test_no_path_leads_to_a_file(fhir, settings, up):
    app = create_fhir_app(fhir.backend.service, fhir.backend, settings)
    async with listening(app, settings) as port:  # as it is sent: a client library would tidy it up
        for before in ("/", "/fhir/", "/fhir/Patient/", "/docs/"):
            said = await raw(port, f"GET {before}{up} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert said.split(b" ")[1] in {b"400", b"404"}, said
            assert b"root:" not in said


async def raw(port: int, request: str) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request.encode("latin-1"))
    await writer.drain()
    async with asyncio.timeout(20):
        said = await reader.read()
    writer.close()
    return said


HIDDEN = "GET /fhir/smuggled HTTP/1.1\r\nHost: x\r\n\r\n"
TWICE = {
    "both lengths": f"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN}",
    "two lengths": f"Content-Length: 0\r\nContent-Length: {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "a length that is no number": f"Content-Length: +0\r\n\r\n{HIDDEN}",
    "an encoding in disguise": f"Transfer-Encoding: xchunked\r\nContent-Length: 0\r\n\r\n{HIDDEN}",
    "a space before the colon": f"Content-Length : {len(HIDDEN)}\r\n\r\n{HIDDEN}",
    "a folded header": f"X-A: b\r\n Content-Length: 0\r\n\r\n{HIDDEN}",
}


@pytest.mark.parametrize("way", TWICE)
async def test_a_request_whose_end_two_servers_would_see_differently_is_refused(fhir, settings, way):
    app = create_fhir_app(fhir.backend.service, fhir.backend, settings)
    head = "POST /fhir/Patient HTTP/1.1\r\nHost: x\r\nContent-Type: application/fhir+json\r\nConnection: close\r\n"
    async with listening(app, settings) as port:
        said = await raw(port, head + TWICE[way])
    assert said.startswith(b"HTTP/1.1 4"), said
    assert said.count(b"HTTP/1.1 ") == 1
    assert b"smuggled" not in said


async def test_no_header_of_a_request_comes_back_as_another_header(fhir, settings):
    app = create_fhir_app(fhir.backend.service, fhir.backend, settings)
    for value in ("a\r\nSet-Cookie: b=c", "a\nSet-Cookie: b=c", "a\rSet-Cookie: b=c", "a%0d%0aSet-Cookie: b=c"):
        async with listening(app, settings) as port:
            said = await raw(
                port, f"GET /fhir/metadata HTTP/1.1\r\nHost: x\r\nX-Request-Id: {value}\r\nConnection: close\r\n\r\n"
            )
        assert b"set-cookie" not in said.split(b"\r\n\r\n", 1)[0].lower()


LONG = "x" * (2 * MOST_BYTES)
TOO_LARGE = {
    "one header": (f"GET /fhir/metadata HTTP/1.1\r\nHost: x\r\nX-A: {LONG}\r\n\r\n", 431),
    "one header without an end": (f"GET /fhir/metadata HTTP/1.1\r\nHost: x\r\nX-A: {LONG}", 431),
    "many headers": ("GET /fhir/metadata HTTP/1.1\r\nHost: x\r\n" + "A: b\r\n" * (MOST_BYTES // 5), 431),
    "an address": (f"GET /fhir/Patient?family={LONG} HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "an address without an end": (f"GET /fhir/Patient?family={LONG}", 414),
    "what trails a body": (
        f"POST /fhir/Patient HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{{}}\r\n0\r\nX-A: {LONG}",
        431,
    ),
}


@pytest.mark.parametrize("way", TOO_LARGE)
async def test_a_head_that_is_too_large_is_refused_and_the_connection_closed(fhir, settings, way):
    request, status = TOO_LARGE[way]
    app = create_fhir_app(fhir.backend.service, fhir.backend, settings)
    async with listening(app, settings) as port:
        said = await raw(port, request)
        assert (await raw(port, "GET /fhir/metadata HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"))[9:12] == b"200"
    head, _, body = said.partition(b"\r\n\r\n")
    assert head.startswith(f"HTTP/1.1 {status} ".encode()), said[:200]
    assert b"connection: close" in head
    assert parse(body)["issue"][0]["code"] == "too-long"


async def test_a_head_that_does_not_come_to_its_end_is_given_up(fhir, settings, monkeypatch):
    monkeypatch.setattr(BoundedHeads, "seconds", 0.3)
    app = create_fhir_app(fhir.backend.service, fhir.backend, settings)
    async with listening(app, settings) as port:
        for begun in ("", "GET /fhir/metadata HTTP/1.1\r\nHost: x\r\nX-A: b"):
            assert (await raw(port, begun)).startswith(b"HTTP/1.1 408 ")
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for _ in range(2):  # a connection that is kept between requests is not slow
            writer.write(b"GET /fhir/metadata HTTP/1.1\r\nHost: x\r\n\r\n")
            head = await reader.readuntil(b"\r\n\r\n")
            length = next(int(one[15:]) for one in head.lower().split(b"\r\n") if one.startswith(b"content-length:"))
            await reader.readexactly(length)
            assert head.startswith(b"HTTP/1.1 200 ")
            await asyncio.sleep(0.5)
        writer.close()


async def test_who_connects_is_believed_of_a_proxy_that_is_trusted_and_of_nobody_else(fhir, settings):
    async def address(**more):
        seen = []

        async def app(scope, receive, send):
            seen.append(scope["client"][0])
            await PlainTextResponse("")(scope, receive, send)

        forged = "GET / HTTP/1.1\r\nHost: x\r\nX-Forwarded-For: 1.2.3.4, 198.51.100.7\r\nConnection: close\r\n\r\n"
        async with listening(app, settings.model_copy(update=more)) as port:
            await raw(port, forged)
        return seen[0]

    assert await address() == "127.0.0.1"
    assert await address(trusted_proxies="10.0.0.0/8") == "127.0.0.1"
    assert await address(trusted_proxies="127.0.0.1") == "198.51.100.7"  # and not what the client put before it
    for wrong in ("*", "proxy.example", "10.0.0.0/99"):
        with pytest.raises(SettingsError, match="KAP_TRUSTED_PROXIES"):
            await address(trusted_proxies=wrong)
