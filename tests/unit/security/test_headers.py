from __future__ import annotations

import httpx
import pytest
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.routing import Route

from shared.security.headers import ALWAYS, OF_DATA, SafeHeaders


async def answer(_request):
    return JSONResponse({}, headers={"Referrer-Policy": "same-origin"})


@pytest.fixture
async def http():
    routes = [Route(path, answer) for path in ("/fhir/Patient", "/ops/flow", "/docs", "/fhirish")]
    transport = httpx.ASGITransport(SafeHeaders(Starlette(routes=routes)))
    async with httpx.AsyncClient(transport=transport, base_url="http://kap.example") as client:
        yield client


@pytest.mark.parametrize("path", ["/fhir/Patient", "/ops/flow", "/fhir/nothing/at/all/here"])
async def test_every_answer_of_data_is_to_be_taken_for_nothing_else(http, path):
    headers = (await http.get(path)).headers
    assert {name: headers[name] for name in OF_DATA} == OF_DATA
    assert headers["X-Content-Type-Options"] == ALWAYS["X-Content-Type-Options"]


@pytest.mark.parametrize("path", ["/docs", "/fhirish"])
async def test_a_page_for_people_may_load_what_it_needs(http, path):
    assert "Content-Security-Policy" not in (await http.get(path)).headers


async def test_what_an_answer_says_itself_stays(http):
    assert (await http.get("/fhir/Patient")).headers["Referrer-Policy"] == "same-origin"
