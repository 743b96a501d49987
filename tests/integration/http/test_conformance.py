"""The CapabilityStatement says what answers, and nothing answers that it does not say."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest

from services.gateway.catalog import TYPES as SERVED
from shared.fhir.definitions import RESOURCE_TYPES, search_parameters
from shared.fhir.profiles import own
from shared.fhir.validation import validate
from shared.http.app import create_fhir_app
from shared.http.conformance import TYPES_OF
from shared.http.local import LocalBackend
from shared.runtime.service import Service

EVERYTHING = Service(name="intake", title="All types", types=SERVED)

ASKS = {
    "token": "a",
    "string": "a",
    "uri": "http://a",
    "reference": "nobody",
    "date": "2026",
    "number": "1",
    "quantity": "1",
}
"""By kind, a value that can be searched by."""


def asked(type_: str, parameter: dict[str, Any]) -> str:
    """Return a value for a parameter; for a composite, one for each of its parts."""
    if parameter["type"] != "composite":
        return ASKS[parameter["type"]]
    known = search_parameters(type_)
    return "$".join(ASKS[known[code].kind] for code, _ in known[parameter["name"]].components)


@pytest.fixture
async def http(store, settings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_fhir_app(EVERYTHING, LocalBackend(EVERYTHING, store), settings)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kap.example") as client:
        yield client


@pytest.fixture
async def rest(http) -> dict[str, Any]:
    statement = (await http.get("/fhir/metadata")).json()
    assert validate(statement) == []
    return statement["rest"][0]


def codes(described: dict[str, Any]) -> set[str]:
    return {one["code"] for one in described["interaction"]}


async def test_every_interaction_of_every_type_that_is_listed_answers(http, rest):
    done = 0
    for described in rest["resource"]:
        type_, listed = described["type"], codes(described)
        ways = {
            "search-type": ("GET", f"{type_}?_count=1", {200}),
            "history-type": ("GET", f"{type_}/_history", {200}),
            "read": ("GET", f"{type_}/nobody", {404}),
            "vread": ("GET", f"{type_}/nobody/_history/1", {404}),
            "history-instance": ("GET", f"{type_}/nobody/_history", {404}),
            "create": ("POST", type_, {400}),
            "update": ("PUT", f"{type_}/nobody", {400}),
            "patch": ("PATCH", f"{type_}/nobody", {400, 404, 415}),
            "delete": ("DELETE", f"{type_}/nobody", {204, 404}),
        }
        for code, (method, path, expected) in ways.items():
            answer = await http.request(method, f"/fhir/{path}", json={} if method in {"POST", "PUT"} else None)
            if code in listed:
                assert answer.status_code in expected, (code, type_, answer.text)
            else:
                assert answer.status_code in {404, 405}, (code, type_, answer.text)
            done += 1
        assert listed <= set(ways), type_
    assert done == 9 * len(rest["resource"])


async def test_every_search_parameter_that_is_listed_can_be_searched_by(http, rest):
    done = 0
    for described in rest["resource"]:
        for one in described.get("searchParam", ()):
            value = asked(described["type"], one)
            answer = await http.get(f"/fhir/{described['type']}", params={one["name"]: value, "_count": "1"})
            assert answer.status_code == 200, (described["type"], one, answer.text)
            done += 1
    assert done > 10 * len(rest["resource"])


async def test_a_search_parameter_that_is_not_listed_is_refused_by_name(http, rest):
    for described in rest["resource"]:
        answer = await http.get(f"/fhir/{described['type']}", params={"no-such-parameter": "a"})
        assert answer.status_code == 400, described["type"]
        assert "no-such-parameter" in answer.text
        listed = {one["name"] for one in described["searchParam"]}
        for name in {"code", "patient", "date", "url"} - listed:
            answer = await http.get(f"/fhir/{described['type']}", params={name: "a"})
            assert answer.status_code == 400, (described["type"], name)


async def test_every_include_that_is_listed_is_taken_and_others_are_not(http, rest):
    for described in rest["resource"]:
        type_ = described["type"]
        for name, listed in (("_include", "searchInclude"), ("_revinclude", "searchRevInclude")):
            for one in described.get(listed, ()):
                answer = await http.get(f"/fhir/{type_}", params={name: one, "_count": "1"})
                assert answer.status_code == 200, (type_, name, one, answer.text)
            answer = await http.get(f"/fhir/{type_}", params={name: f"{type_}:no-such"})
            assert answer.status_code == 400, (type_, name, answer.text)


def unknown_operation(answer: httpx.Response) -> bool:
    return answer.status_code == 404 and answer.json()["issue"][0]["code"] == "not-supported"


async def test_every_operation_that_is_listed_answers_at_its_levels_and_has_its_definition(http, rest):
    done = 0
    for described in rest["resource"]:
        type_ = described["type"]
        for one in [*described.get("operation", ()), {"name": "no-such", "definition": None}]:
            [definition] = [
                entry["resource"]
                for entry in (
                    await http.get("/fhir/OperationDefinition", params={"url": one["definition"] or "urn:no"})
                )
                .json()
                .get("entry", ())
            ] or [{"type": False, "instance": False, "resource": [type_]}]
            assert type_ in definition["resource"]
            for level, path in (("type", type_), ("instance", f"{type_}/nobody")):
                answer = await http.post(f"/fhir/{path}/${one['name']}", json={"resourceType": "Parameters"})
                assert answer.status_code < 500, answer.text
                assert unknown_operation(answer) is not definition[level], (path, one, answer.text)
                done += 1
    assert done > 2 * len(rest["resource"])


async def test_every_profile_of_the_project_that_is_listed_can_be_read(http, rest):
    listed = {
        url
        for described in rest["resource"]
        for url in described.get("supportedProfile", ())
        if url.startswith("https://kap-exchange.org")
    }
    types = {described["type"] for described in rest["resource"]}
    assert listed == {url for url, one in own.definitions().items() if one["type"] in types}
    for url in listed:
        [entry] = (await http.get("/fhir/StructureDefinition", params={"url": url})).json()["entry"]
        read = await http.get(f"/fhir/StructureDefinition/{entry['resource']['id']}")
        assert read.json() == entry["resource"]


async def test_every_interaction_of_the_system_that_is_listed_answers(http, rest):
    # AuditEvents are rows of their own, asked for at their own type.
    searched = next(one["type"] for one in rest["resource"] if one["type"] not in {*TYPES_OF, "AuditEvent"})
    entry = [{"request": {"method": "GET", "url": f"{searched}?_count=1"}}]
    for_each = {
        "batch": ("POST", "", {"resourceType": "Bundle", "type": "batch", "entry": entry}),
        "transaction": ("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entry}),
        "history-system": ("GET", "/_history", None),
        "search-system": ("GET", f"?_type={searched}", None),
    }
    assert {one["code"] for one in rest["interaction"]} == set(for_each)
    for method, path, body in for_each.values():
        answer = await http.request(method, f"/fhir{path}", json=body)
        assert answer.status_code == 200, (path, answer.text)


async def test_openapi_lists_what_the_capability_statement_does(http, rest):
    paths = (await http.get("/openapi.json")).json()["paths"]
    ways = {
        "search-type": ("", "get"), "create": ("", "post"), "read": ("/{id}", "get"), "update": ("/{id}", "put"),
        "patch": ("/{id}", "patch"), "delete": ("/{id}", "delete"), "history-type": ("/_history", "get"),
        "history-instance": ("/{id}/_history", "get"), "vread": ("/{id}/_history/{version}", "get"),
    }  # fmt: skip
    for described in rest["resource"]:
        type_, listed = described["type"], codes(described)
        for code, (place, method) in ways.items():
            assert (method in paths.get(f"/{type_}{place}", {})) is (code in listed), (type_, code)
        for one in described.get("operation", ()):
            assert {f"/{type_}/${one['name']}", f"/{type_}/{{id}}/${one['name']}"} & set(paths), one
    assert set(paths["/"]) == {"get", "post"}


async def test_a_type_that_is_not_listed_is_not_served(http, rest):
    listed = {described["type"] for described in rest["resource"]}
    for type_ in sorted(RESOURCE_TYPES - listed):
        assert (await http.get(f"/fhir/{type_}")).status_code == 404, type_
        assert (await http.get(f"/fhir/{type_}/1")).status_code == 404, type_


@pytest.mark.parametrize(
    "type_", ["StructureDefinition", "SearchParameter", "OperationDefinition", "CodeSystem", "ValueSet"]
)
async def test_all_that_describes_the_server_is_fhir_and_is_paged_whole(http, type_):
    url: str | None = f"/fhir/{type_}?_count=97"
    seen: dict[str, str] = {}
    total = -1
    while url is not None:
        page = (await http.get(url)).json()
        total = page["total"]
        for entry in page.get("entry", ()):
            resource = entry["resource"]
            assert validate(resource) == [], resource["url"]
            assert resource["id"] not in seen
            seen[resource["id"]] = resource["url"]
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), None)
    assert len(seen) == total > 0
    assert len(set(seen.values())) == total
