"""The gate before any backend: which Access each interaction is given, and what never reaches the backend at all."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import httpx
import pytest
from pydantic import SecretStr

from shared.fhir.json import dump
from shared.fhir.outcome import NotFound
from shared.http.app import create_fhir_app
from shared.http.backend import OperationResult, Transacted, WriteResult
from shared.runtime.service import Operation, Service
from shared.runtime.settings import Settings
from shared.security.caller import Caller
from shared.security.scopes import parse_scopes
from shared.store.access import EVERYTHING, Grant
from shared.store.types import Page, Stored

WHEN = datetime(2026, 11, 22, 10, 30, 15, 7_000, tzinfo=UTC)
ADA = (Grant(frozenset({"ada"})),)


def stored(type_, id_):
    return Stored(type_, id_, 1, WHEN, False, dump({"resourceType": type_, "id": id_}), "intake", "create")


@dataclass
class Backend:
    """Remembers with which Access it was asked, and what it was asked for."""

    seen: list = field(default_factory=list)

    def note(self, context, what):
        self.seen.append((what, context.access))

    async def read(self, context, type_, id_):
        self.note(context, "read")
        return stored(type_, id_)

    async def vread(self, context, type_, id_, version):
        self.note(context, "vread")
        return stored(type_, id_)

    async def history(self, context, query, *, cursor):
        self.note(context, "history")
        return Page([])

    async def search(self, context, query, *, cursor):
        self.note(context, "search")
        return Page([])

    async def create(self, context, resource, *, if_none_exist):
        self.note(context, "create")
        return WriteResult(stored(resource["resourceType"], "new"), created=True)

    async def update(self, context, resource, *, expected):
        self.note(context, "update")
        return WriteResult(stored(resource["resourceType"], resource["id"]), created=False)

    async def patch(self, context, type_, id_, patch, *, expected):
        self.note(context, "patch")
        return WriteResult(stored(type_, id_), created=False)

    async def delete(self, context, type_, id_, *, expected):
        self.note(context, "delete")

    async def change(self, context, change):
        self.note(context, "change")
        return WriteResult(stored(change.type, "found"), created=False)

    async def transact(self, context, requests, changes, read):
        self.note(context, "transact")
        gets = [request for request in requests if request.method == "GET"]
        return Transacted({}, {request.index: await read(self, request) for request in gets})

    async def operation(self, context, operation, call):
        self.note(context, f"${operation.name}")
        return OperationResult(b"{}")


async def nothing(call, record):
    raise AssertionError


SERVICE = Service(
    "intake",
    "Intake",
    frozenset(("Patient", "Observation", "Group", "Provenance")),
    operations=(
        Operation("screen", "Patient", "instance", nothing),
        Operation("everything", "Patient", "instance", nothing, affects_state=False),
        Operation("report", "Group", "type", nothing, affects_state=False),
    ),
)


@pytest.fixture
def backend():
    return Backend()


def client(backend, scope, service=SERVICE, **more):
    who = Caller("default", client="app", scopes=parse_scopes(scope), **more)

    async def authenticate(_headers):
        return who

    settings = Settings(service="intake", database_url=SecretStr("postgresql://x"), issuer="https://issuer.example")
    app = create_fhir_app(service, backend, settings, authenticate=authenticate)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://kap.example/fhir/")


def observation(**more):
    return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, **more}


ASKED = {
    "r": [("GET", "Observation/1", None), ("GET", "Observation/1/_history/1", None),
          ("GET", "Observation/1/_history", None)],
    "s": [("GET", "Observation?code=x", None), ("GET", "Observation/_history", None), ("GET", "_history", None),
          ("GET", "?_type=Observation", None)],
    "c": [("POST", "Observation", observation())],
    "u": [("PUT", "Observation/1", observation(id="1"))],
    "d": [("DELETE", "Observation/1", None)],
}  # fmt: skip


@pytest.mark.parametrize("letter", ASKED)
async def test_each_interaction_is_given_the_access_of_its_own_letter_and_no_other(backend, letter):
    async with client(backend, f"patient/Observation.{letter}", patient="ada") as http:
        for having, asked in ASKED.items():
            for method, path, body in asked:
                answer = await http.request(method, path, json=body, headers={"Content-Type": "application/fhir+json"})
                expected = having == letter
                assert answer.is_success == expected, f"{letter}: {method} {path} {answer.text}"
                if not expected:
                    assert answer.status_code == 403
    assert {access.grants.get("Observation") for _, access in backend.seen} == {ADA}
    assert len(backend.seen) == len(ASKED[letter])


async def test_a_write_in_full_is_given_nothing_of_other_types(backend):
    async with client(backend, "system/Observation.c") as http:
        await http.post("Observation", json=observation(), headers={"Content-Type": "application/fhir+json"})
    [(_, access)] = backend.seen
    assert access.grants == {"Observation": EVERYTHING}


async def test_a_reference_is_looked_up_as_the_caller_may_read_before_anything_is_written(backend):
    scope = "patient/Observation.c patient/Group.r"
    body = observation(subject={"reference": "Patient/ada"}, focus=[{"reference": "Group/g"}])
    async with client(backend, scope, patient="ada") as http:
        answer = await http.post("Observation", json=body, headers={"Content-Type": "application/fhir+json"})
    assert answer.status_code == 201
    assert [what for what, _ in backend.seen] == ["read", "create"]
    assert backend.seen[0][1].grants == {"Group": ADA}


BATCH = [
    {"request": {"method": "GET", "url": "Observation/1"}},
    {"request": {"method": "GET", "url": "Patient/1"}},
    {"request": {"method": "POST", "url": "Observation"}, "resource": observation()},
]


async def test_each_entry_of_a_batch_is_judged_alone(backend):
    bundle = {"resourceType": "Bundle", "type": "batch", "entry": BATCH}
    async with client(backend, "system/Observation.r") as http:
        answer = await http.post("", json=bundle, headers={"Content-Type": "application/fhir+json"})
    assert [one["response"]["status"][:3] for one in answer.json()["entry"]] == ["200", "403", "403"]
    assert [what for what, _ in backend.seen] == ["read"]


async def test_a_get_in_a_transaction_comes_by_the_gate(backend):
    entry = [{"request": {"method": "GET", "url": "Observation/1"}}]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entry}
    async with client(backend, "patient/Observation.r", patient="ada") as http:
        await http.post("", json=bundle, headers={"Content-Type": "application/fhir+json"})
    assert backend.seen[-1][0] == "read"
    assert backend.seen[-1][1].grants == {"Observation": ADA}


async def test_a_transaction_is_refused_with_every_entry_that_the_token_does_not_allow(backend):
    entry = [
        {"request": {"method": "POST", "url": "Observation"}, "resource": observation()},
        {"request": {"method": "DELETE", "url": "Patient/1"}},
        {"request": {"method": "PUT", "url": "Observation/1"}, "resource": observation(id="1")},
    ]
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": entry}
    async with client(backend, "system/Observation.c") as http:
        answer = await http.post("", json=bundle, headers={"Content-Type": "application/fhir+json"})
    assert answer.status_code == 403
    places = [issue["expression"][0] for issue in answer.json()["issue"]]
    assert [place.split(".entry[")[1][0] for place in places] == ["1", "2"]
    assert backend.seen == []


async def test_an_operation_that_reads_by_access_is_given_it_and_another_has_to_be_named(backend):
    async with client(backend, "patient/*.rs", patient="ada") as http:
        assert (await http.get("Patient/ada/$everything")).is_success
        assert (await http.post("Patient/ada/$screen")).status_code == 403
    assert backend.seen[-1][1].grants["Observation"] == ADA
    async with client(backend, "user/Patient.$screen") as http:
        assert (await http.post("Patient/ada/$screen")).is_success
        assert (await http.get("Patient/ada/$everything")).status_code == 403
    assert backend.seen[-1][1].grants is None


@pytest.mark.parametrize(("scope", "patients"), [("", frozenset()), ("user/Patient.r", None)])
async def test_a_report_is_told_whether_it_may_name_patients(backend, scope, patients):
    async with client(backend, f"user/Group.$report {scope}") as http:
        assert (await http.get("Group/$report")).is_success
    assert backend.seen[-1][1].patients == patients


def provenance():
    who = {"type": {"text": "author"}, "who": {"reference": "Practitioner/1"}}
    return json.dumps({"resourceType": "Provenance", "recorded": "2026-11-22T10:00:00Z", "agent": [who]})


@pytest.mark.parametrize(
    ("scope", "status"),
    [
        ("system/Observation.c", 403),
        ("system/Observation.c system/Provenance.rs", 403),
        ("system/Observation.c system/Provenance.c?agent=Practitioner/1", 403),
        ("system/Observation.c system/Provenance.c", 201),
    ],
)
async def test_a_provenance_that_comes_with_a_write_is_one_that_is_created(backend, scope, status):
    headers = {"Content-Type": "application/fhir+json", "X-Provenance": provenance()}
    async with client(backend, scope) as http:
        answer = await http.post("Observation", json=observation(), headers=headers)
    assert answer.status_code == status, answer.text
    assert len(backend.seen) == (status == 201)


async def test_where_clients_choose_ids_a_put_makes_nothing_new_for_who_may_only_change(backend):
    headers = {"Content-Type": "application/fhir+json"}
    fixed = replace(SERVICE, fixed_ids=True)
    for scope, asked in (
        ("system/Observation.u", ["read", "update"]),
        ("system/Observation.cu", ["update"]),
        ("system/Observation.cu?status=final", ["read", "update"]),
    ):
        backend.seen.clear()
        async with client(backend, scope, service=fixed) as http:
            await http.put("Observation/1", json=observation(id="1"), headers=headers)
        assert [what for what, _ in backend.seen] == asked, scope


async def test_a_put_in_a_transaction_that_would_create_needs_the_scope_for_that(backend, monkeypatch):
    def put(url):
        one = {"request": {"method": "PUT", "url": url}, "resource": observation(id="1")}
        return {"resourceType": "Bundle", "type": "transaction", "entry": [one]}

    async def sent(scope, url, service):
        backend.seen.clear()
        async with client(backend, scope, service=service) as http:
            return await http.post("", json=put(url), headers={"Content-Type": "application/fhir+json"})

    fixed = replace(SERVICE, fixed_ids=True)
    refused = await sent("system/Observation.rus", "Observation?code=x", SERVICE)
    assert (refused.status_code, backend.seen) == (403, [])
    assert "creates" in refused.text
    assert "the scope system/Observation.c" in refused.text
    await sent("system/Observation.crus", "Observation?code=x", SERVICE)
    assert [what for what, _ in backend.seen] == ["transact"]
    await sent("system/Observation.u", "Observation/1", fixed)
    assert [what for what, _ in backend.seen] == ["read", "transact"]

    async def nothing(*_):
        raise NotFound("There is none.")

    monkeypatch.setattr(backend, "read", nothing)
    assert (await sent("system/Observation.u", "Observation/1", fixed)).status_code == 403
    assert backend.seen == []
    await sent("system/Observation.cu", "Observation/1", fixed)
    assert [what for what, _ in backend.seen] == ["transact"]


async def test_nobody_reaches_the_backend_without_a_token(backend):
    async def authenticate(_headers):
        return Caller("default")

    settings = Settings(service="intake", database_url=SecretStr("postgresql://x"), issuer="https://issuer.example")
    app = create_fhir_app(SERVICE, backend, settings, authenticate=authenticate)
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://kap.example/fhir/") as http:
        asked = [one for several in ASKED.values() for one in several]
        asked += [
            ("PATCH", "Observation/1", {"status": "final"}),
            ("POST", "Patient/1/$screen", None),
            ("GET", "Patient/1/$everything", None),
            ("PUT", "Observation?code=x", observation()),
            ("DELETE", "Observation?code=x", None),
            ("POST", "Observation/_search", None),
        ]
        for method, path, body in asked:
            form = path.endswith("_search")
            media = "application/x-www-form-urlencoded" if form else "application/fhir+json"
            answer = await http.request(method, path, json=body, headers={"Content-Type": media})
            assert answer.status_code == 401, f"{method} {path}: {answer.text}"
        assert (await http.get("metadata")).status_code == 200
    assert backend.seen == []
