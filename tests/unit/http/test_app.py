"""The HTTP layer over a backend of a few lines: what it does itself, without a database."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import UTC, datetime

import httpx
import pytest
import structlog
from pydantic import SecretStr
from starlette.middleware import Middleware
from starlette.responses import PlainTextResponse
from starlette.routing import Route

from shared.fhir.history import HistoryQuery
from shared.fhir.json import dump
from shared.fhir.outcome import Gone, NotFound, Unavailable
from shared.http.app import create_fhir_app
from shared.http.backend import ALL_INTERACTIONS, OperationResult, Position, WriteResult
from shared.runtime.service import Operation, Service
from shared.runtime.settings import Settings
from shared.store.types import Page, Stored

BASE = "http://kap.example/fhir"
WHEN = datetime(2026, 11, 22, 10, 30, 15, 7_000, tzinfo=UTC)
SECRET = "Featherstonehaugh"


def stored(type_="Patient", id_="p1", version=1, body=None) -> Stored:
    body = body or dump({"resourceType": type_, "id": id_, "name": [{"family": SECRET}]})
    return Stored(type_, id_, version, WHEN, False, body, "intake", "create")


@dataclass
class FewLines:
    """A backend that answers from a table and remembers what it was asked."""

    asked: list = field(default_factory=list)
    fault: Exception | None = None

    async def read(self, context, type_, id_):
        self.asked.append((context, type_, id_))
        if self.fault is not None:
            raise self.fault
        if id_ != "p1":
            raise NotFound(f"There is no {type_}/{id_} here.")
        return stored(type_, id_)

    async def vread(self, context, type_, id_, version):
        self.asked.append((type_, id_, version))
        raise Gone("That version is the deletion.")

    async def history(self, context, query, *, cursor):
        self.asked.append((query, cursor))
        return Page([stored(query.type or "Patient", query.id or "p1")], next="older")

    async def search(self, context, query, *, cursor):
        self.asked.append((query, cursor))
        return Page([stored(query.type)], next="c2" if cursor is None else None, total=7)

    async def create(self, context, resource, *, if_none_exist):
        self.asked.append((context, resource, if_none_exist))
        positions = (Position("intake", "default", "Patient/p1", 42), Position("intake", "default", "Patient/p2", 43))
        return WriteResult(stored(resource["resourceType"]), created=True, positions=positions)

    async def update(self, context, resource, *, expected):
        self.asked.append((resource, expected))
        return WriteResult(stored(version=2), created=False)

    async def delete(self, context, type_, id_, *, expected):
        self.asked.append((type_, id_, expected))

    async def operation(self, context, operation, call):
        self.asked.append(call)
        return OperationResult(dump(call.parameters))


async def never(call, record):
    raise AssertionError


SERVICE = Service(
    name="intake",
    title="KAP intake",
    types=frozenset(("Patient", "Coverage")),
    operations=(
        Operation("match", "Patient", "type", never, affects_state=False),
        Operation("merge", "Patient", "instance", never, documentation="Joins two records of one person."),
    ),
)


def settings(**more) -> Settings:
    return Settings(
        service="intake", database_url=SecretStr("postgresql://nowhere"), public_base=BASE, no_auth=True, **more
    )


def client(backend, **more) -> httpx.AsyncClient:
    app = create_fhir_app(SERVICE, backend, more.pop("settings", settings()), **more)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://anything")


@pytest.fixture
def backend():
    return FewLines()


def outcome_of(answer, status):
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"].startswith("application/fhir+json")
    outcome = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    return outcome["issue"][0]


async def test_a_read_answers_the_stored_bytes_with_etag_and_date(backend):
    async with client(backend) as http:
        answer = await http.get("/fhir/Patient/p1")
    assert answer.content == stored().body
    assert answer.headers["etag"] == 'W/"1"'
    assert answer.headers["last-modified"] == "Sun, 22 Nov 2026 10:30:15 GMT"
    assert answer.headers["content-type"] == "application/fhir+json; fhirVersion=4.0"


async def test_head_is_a_read_and_a_conditional_read_may_find_nothing_new(backend):
    async with client(backend) as http:
        assert (await http.head("/fhir/Patient/p1")).status_code == 200
        unchanged = await http.get("/fhir/Patient/p1", headers={"If-None-Match": 'W/"1"'})
    assert unchanged.status_code == 304
    assert unchanged.content == b""


async def test_pretty_changes_white_space_only(backend):
    async with client(backend) as http:
        answer = await http.get("/fhir/Patient/p1?_pretty=true")
    assert b"\n  " in answer.content
    assert answer.json() == json.loads(stored().body)


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/fhir/Nonsense/1", 404, "not-supported"),
        ("GET", "/fhir/Observation/1", 404, "not-supported"),
        ("GET", "/fhir/Patient/unknown", 404, "not-found"),
        ("GET", "/fhir/Patient/not%20an%20id", 404, "not-found"),
        ("GET", "/fhir/Patient/p1/_history/x", 404, "not-found"),
        ("GET", "/fhir/Patient/p1/_history/3", 410, "deleted"),
        ("GET", "/fhir/Patient/p1/$nothing", 404, "not-supported"),
        ("GET", "/elsewhere", 404, "not-found"),
        ("PATCH", "/fhir/Patient/p1", 415, "not-supported"),
        ("PATCH", "/fhir/metadata", 405, "not-supported"),
        ("POST", "/fhir/Patient/p1", 405, "not-supported"),
        ("DELETE", "/fhir/Patient", 400, "required"),
        ("PUT", "/fhir/Patient", 400, "required"),
        ("POST", "/fhir", 415, "not-supported"),
        ("GET", "/fhir/Patient/p1/$merge", 405, "not-supported"),
        ("GET", "/fhir/Patient/p1/_history?_sort=date", 400, "not-supported"),
        ("GET", "/fhir/Patient/_history?_since=yesterday", 400, "value"),
        ("GET", "/fhir/_history?_at=now", 400, "value"),
        ("GET", "/fhir/_history?_count=0", 400, "value"),
        ("GET", "/fhir/Nonsense/_history", 404, "not-supported"),
        ("GET", "/fhir/Patient/p1?_summary=count", 400, "value"),
        ("GET", "/fhir/Patient/p1?_summary=some", 400, "value"),
        ("GET", "/fhir/Patient/p1?_elements=name,shoe", 400, "value"),
        ("GET", "/fhir/Patient/p1/_history?_count=0", 400, "value"),
        ("GET", "/fhir/Patient?_page=made-up", 400, "value"),
        ("GET", "/fhir/Patient?name=%FF", 400, "structure"),
        ("GET", "/fhir/Patient?_format=xml", 406, "not-supported"),
    ],
)
async def test_every_refusal_is_an_operation_outcome(backend, method, path, status, code):
    async with client(backend) as http:
        answer = await http.request(method, path)
    assert outcome_of(answer, status)["code"] == code
    if status == 405:
        assert "allow" in answer.headers


async def test_unavailable_says_when_to_try_again(backend):
    backend.fault = Unavailable("The database does not answer.", retry_after=3)
    async with client(backend) as http:
        answer = await http.get("/fhir/Patient/p1")
    outcome_of(answer, 503)
    assert answer.headers["retry-after"] == "3"


async def test_a_fault_is_answered_500_with_the_request_id_and_without_a_word_of_what_it_was(backend):
    backend.fault = RuntimeError(f"duplicate key: {SECRET}")
    with structlog.testing.capture_logs() as logs:
        async with client(backend) as http:
            answer = await http.get("/fhir/Patient/p1", headers={"X-Request-Id": "abc-1"})
    issue = outcome_of(answer, 500)
    assert "abc-1" in issue["diagnostics"]
    assert answer.headers["x-request-id"] == "abc-1"
    fault = next(entry for entry in logs if entry["event"] == "fault")
    assert fault["error"] == "builtins.RuntimeError"
    assert any("test_app.py" in frame for frame in fault["raised_at"])
    assert SECRET not in repr(logs) + answer.text


async def test_the_log_names_the_route_and_never_the_patient(backend):
    with structlog.testing.capture_logs() as logs:
        async with client(backend) as http:
            await http.get("/fhir/Patient/p1")
            await http.get(f"/fhir/Patient?family={SECRET}")
            await http.get(f"/fhir/Patient/{SECRET}")
    assert [(entry["method"], entry["route"], entry["status"]) for entry in logs] == [
        ("GET", "/fhir/{type}/{id}", 200),
        ("GET", "/fhir/{type}", 200),
        ("GET", "/fhir/{type}/{id}", 404),
    ]
    assert set(logs[0]) == {"event", "log_level", "service", "method", "route", "status", "ms", "request_id", "trace"}
    assert SECRET not in repr(logs)
    assert "p1" not in repr([entry["route"] for entry in logs])


@pytest.mark.parametrize("given", ["", "x" * 65, 'a"b', "a b"])
async def test_a_request_id_that_is_none_is_replaced(backend, given):
    async with client(backend) as http:
        answer = await http.get("/fhir/Patient/p1", headers={"X-Request-Id": given})
    assert answer.headers["x-request-id"] != given
    assert backend.asked[0][0].request_id == answer.headers["x-request-id"]


TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


async def test_a_create_tells_location_version_and_position(backend):
    async with client(backend) as http:
        answer = await http.post(
            "/fhir/Patient",
            json={"resourceType": "Patient"},
            headers={"X-Kap-Await": "outcomes Patient/p1 7, sessions Patient/p1 9", "traceparent": TRACE},
        )
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{BASE}/Patient/p1/_history/1"
    assert answer.headers["etag"] == 'W/"1"'
    assert answer.headers["x-kap-position"] == "intake default Patient/p1 42, intake default Patient/p2 43"
    context = backend.asked[0][0]
    assert context.awaits == (
        Position("outcomes", "default", "Patient/p1", 7),
        Position("sessions", "default", "Patient/p1", 9),
    )
    assert context.traceparent.split("-")[1] == TRACE.split("-")[1]
    assert context.access.origin == "intake"


@pytest.mark.parametrize("header", ["outcomes Patient/p1", "outcomes Patient/p1 x", "a b c 4", ","])
async def test_an_await_that_cannot_be_understood_is_refused(backend, header):
    async with client(backend) as http:
        answer = await http.get("/fhir/Patient/p1", headers={"X-Kap-Await": header})
    outcome_of(answer, 400)


@pytest.mark.parametrize(
    ("prefer", "body"),
    [
        ("return=minimal", b""),
        ("return=representation", stored().body),
    ],
)
async def test_the_answer_to_a_write_is_what_was_preferred(backend, prefer, body):
    async with client(backend) as http:
        answer = await http.post("/fhir/Patient", json={"resourceType": "Patient"}, headers={"Prefer": prefer})
    assert answer.content == body


async def test_an_operation_outcome_may_be_preferred(backend):
    async with client(backend) as http:
        headers = {"Prefer": "return=OperationOutcome"}
        answer = await http.post("/fhir/Patient", json={"resourceType": "Patient"}, headers=headers)
        assert outcome_of(answer, 201)["severity"] == "information"
        answer = await http.delete("/fhir/Patient/p1", headers=headers)
        assert outcome_of(answer, 200)["severity"] == "information"
        assert (await http.delete("/fhir/Patient/p1")).status_code == 204


@pytest.mark.parametrize(
    ("method", "path", "body", "expression"),
    [
        ("POST", "/fhir/Patient", {"resourceType": "Coverage"}, "Patient"),
        ("POST", "/fhir/Patient", {"active": True}, "Patient"),
        ("POST", "/fhir/Patient", [1], "http.body"),
        ("PUT", "/fhir/Patient/p1", {"resourceType": "Patient", "id": "p2"}, "Patient.id"),
        ("PUT", "/fhir/Patient/p1", {"resourceType": "Patient"}, "Patient.id"),
    ],
)
async def test_a_body_that_is_not_of_the_url_is_refused(backend, method, path, body, expression):
    async with client(backend) as http:
        answer = await http.request(method, path, json=body)
    assert outcome_of(answer, 400)["expression"] == [expression]
    assert backend.asked == []


async def test_if_match_is_handed_on(backend):
    async with client(backend) as http:
        body = {"resourceType": "Patient", "id": "p1"}
        await http.put("/fhir/Patient/p1", json=body, headers={"If-Match": 'W/"3"'})
        await http.delete("/fhir/Patient/p1", headers={"If-Match": '"4"'})
        await http.put("/fhir/Patient/p1", json=body)
        wrong = await http.put("/fhir/Patient/p1", json=body, headers={"If-Match": "three"})
    assert [asked[-1] for asked in backend.asked] == [3, 4, None]
    outcome_of(wrong, 400)


async def test_if_none_exist_is_a_search(backend):
    async with client(backend) as http:
        body = {"resourceType": "Patient"}
        await http.post("/fhir/Patient", json=body, headers={"If-None-Exist": "identifier=urn:x|1"})
        empty = await http.post("/fhir/Patient", json=body, headers={"If-None-Exist": ""})
        unknown = await http.post("/fhir/Patient", json=body, headers={"If-None-Exist": "colour=blue"})
    assert backend.asked[0][2].given == (("identifier", "urn:x|1"),)
    outcome_of(empty, 400)
    outcome_of(unknown, 400)
    assert len(backend.asked) == 1


async def test_pages_are_linked_by_opaque_links_that_hold_the_search(backend):
    async with client(backend) as http:
        first = (await http.get(f"/fhir/Patient?family={SECRET}&_count=1&_total=accurate&_pretty=true")).json()
        links = {link["relation"]: link["url"] for link in first["link"]}
        assert links["self"] == f"{BASE}/Patient?family={SECRET}&_count=1&_total=accurate&_pretty=true"
        assert links["next"].startswith(f"{BASE}/Patient?_page=")
        assert SECRET not in links["next"]
        second = (await http.get(links["next"].replace("kap.example", "anything"))).json()
    assert backend.asked[1][1] == "c2"
    assert backend.asked[1][0].given == backend.asked[0][0].given
    links = {link["relation"]: link["url"] for link in second["link"]}
    assert set(links) == {"self", "first"}


async def test_a_search_by_post_is_the_same_search(backend):
    async with client(backend) as http:
        answer = await http.post("/fhir/Patient/_search?_count=3", data={"family": "Höhn", "_format": "json"})
        assert answer.status_code == 200
        refused = await http.post("/fhir/Patient/_search", json={})
    assert backend.asked[0][0].given == (("_count", "3"), ("family", "Höhn"))
    outcome_of(refused, 415)


async def test_an_unknown_parameter_is_refused_or_named(backend):
    async with client(backend) as http:
        refused = await http.get("/fhir/Patient?colour=blue&family=x")
        lenient = await http.get("/fhir/Patient?colour=blue&family=x", headers={"Prefer": "handling=lenient"})
    assert "colour" in outcome_of(refused, 400)["diagnostics"]
    entry = lenient.json()["entry"][-1]
    assert entry["search"]["mode"] == "outcome"
    assert "colour" in entry["resource"]["issue"][0]["diagnostics"]
    assert "colour" not in lenient.json()["link"][0]["url"]


async def test_a_count_alone_has_no_entries(backend):
    async with client(backend) as http:
        bundle = (await http.get("/fhir/Patient?_summary=count")).json()
    assert bundle["total"] == 7
    assert "entry" not in bundle
    assert [link["relation"] for link in bundle["link"]] == ["self"]


async def test_a_history_is_paged(backend):
    async with client(backend) as http:
        first = (await http.get("/fhir/Patient/p1/_history?_count=1")).json()
        following = next(link["url"] for link in first["link"] if link["relation"] == "next")
        assert following.startswith(f"{BASE}/Patient/p1/_history?_page=")
        await http.get(following.replace("kap.example", "anything"))
        elsewhere = await http.get(following.replace("kap.example", "anything").replace("/p1/", "/p2/"))
    query = HistoryQuery("Patient", "p1", 1, given=(("_count", "1"),))
    assert backend.asked == [(query, None), (query, "older")]
    outcome_of(elsewhere, 400)


@pytest.mark.parametrize(
    ("send", "parameters"),
    [
        (
            {"json": {"resourceType": "Parameters", "parameter": [{"name": "a", "valueCode": "b"}]}},
            [("a", "valueCode")],
        ),
        ({"json": {"resourceType": "Patient"}}, [("resource", "resource")]),
        ({}, []),
        ({"params": {"count": "3"}}, [("count", "valueString")]),
    ],
)
async def test_an_operation_gets_its_parameters(backend, send, parameters):
    async with client(backend) as http:
        answer = await http.post("/fhir/Patient/$match", **send)
    assert answer.status_code == 200, answer.text
    call = backend.asked[0]
    assert (call.name, call.type, call.id) == ("match", "Patient", None)
    found = [(one["name"], next(key for key in one if key != "name")) for one in call.parameters["parameter"]]
    assert found == parameters


async def test_an_operation_that_changes_nothing_may_be_called_by_get(backend):
    async with client(backend) as http:
        assert (await http.get("/fhir/Patient/$match?family=x")).status_code == 200
        assert (await http.post("/fhir/Patient/p1/$merge")).status_code == 200
    assert backend.asked[1].id == "p1"


async def test_what_is_not_offered_is_405_and_not_in_the_metadata(backend):
    only_create = {"Patient": frozenset({"create", "read"})}
    async with client(backend, interactions=only_create) as http:
        refused = await http.put("/fhir/Patient/p1", json={"resourceType": "Patient", "id": "p1"})
        outcome_of(refused, 405)
        assert refused.headers["allow"] == "GET, POST"
        statement = (await http.get("/fhir/metadata")).json()
    by_type = {one["type"]: one for one in statement["rest"][0]["resource"]}
    assert [one["code"] for one in by_type["Patient"]["interaction"]] == ["read", "create"]
    assert "searchParam" not in by_type["Patient"]
    assert {one["code"] for one in by_type["Coverage"]["interaction"]} == ALL_INTERACTIONS


async def test_middleware_stands_around_the_fhir_routes_only_and_there_is_one_of_it(backend):
    made = []

    class Fault:
        def __init__(self, app, status):
            self.app, self.status, self.seen = app, status, 0
            made.append(self)

        async def __call__(self, scope, receive, send):
            self.seen += 1
            if self.seen > 2:
                await PlainTextResponse("down", self.status)(scope, receive, send)
            else:
                await self.app(scope, receive, send)

    def here(request):
        return PlainTextResponse("here")

    extra = [Route("/elsewhere", here)]
    async with client(backend, middleware=[Middleware(Fault, status=418)], routes=extra) as http:
        assert (await http.get("/fhir/Coverage/p1")).status_code == 200
        outcome_of(await http.get("/fhir/Nonsense"), 404)
        assert (await http.get("/fhir/Patient/p1/_history")).status_code == 418
        assert (await http.get("/elsewhere")).status_code == 200
        assert (await http.get("/fhir/Patient/p1")).status_code == 418
    assert len(made) == 1


async def test_a_route_may_go_before_those_of_fhir(backend):
    def here(request):
        return PlainTextResponse("of its own")

    async with client(backend, before=[Route("/fhir/Patient/p1", here)]) as http:
        assert (await http.get("/fhir/Patient/p1")).text == "of its own"
        assert (await http.get("/fhir/Coverage/p1")).status_code == 200


async def test_openapi_lists_what_is_offered(backend):
    async with client(backend) as http:
        document = (await http.get("/openapi.json")).json()
    assert document["servers"] == [{"url": BASE}]
    assert set(document["paths"]["/Patient/{id}"]) == {"get", "put", "patch", "delete"}
    assert "/Patient/{id}/$merge" in document["paths"]


async def test_a_process_without_the_api_role_serves_no_fhir():
    async with client(None) as http:
        outcome_of(await http.get("/fhir/Patient/p1"), 404)
