"""Whom breaking the glass opens a record to, what the audit says of everybody's reads, and who is told that.

The naive model is Python over a full copy (`worlds.py`) and over the answers themselves: what a request may tell by the
Task that it names, whom its answer told of, and which of these rows an auditor, a patient or somebody else finds as
AuditEvents, each with the patients, entities and query that are his to know.
"""

from __future__ import annotations

import random
import re
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from services.gateway.forward import GatewayBackend
from services.gateway.owners import Owners
from services.gateway.service import SERVICE as GATEWAY
from shared.fhir.codes import BREAK_GLASS
from shared.fhir.dates import zulu
from shared.fhir.json import parse
from shared.http import audit_events
from shared.http.app import create_fhir_app
from shared.security import audit as auditing
from shared.security import caller as security
from shared.security import gate, glass
from shared.security.audit import Auditing
from shared.security.glass import HEADER, requester
from shared.security.scopes import parse_scopes
from shared.store import audit as kept
from shared.store.access import Access
from shared.store.store import Store
from shared.testing.writes import write_of
from tests.integration.security.asking import BASE, SETTINGS
from tests.integration.security.test_nothing_leaks import Leak, same, write_all
from tests.integration.security.worlds import (
    PATIENTS,
    ROLES,
    TYPES,
    Caller,
    Resource,
    World,
    add_documents,
    aside,
    record,
)

WORLDS, WORLDS_IN_FULL, WORLDS_WITH_A_LEAK = 12, 250, 12
ASKERS, REQUESTS = 4, 5
OK, FORBIDDEN, NOT_FOUND, GONE = 200, 403, 404, 410
REASON = "Found unconscious"
LETTERS = " ".join(f"{{0}}/{one}.rs" for one in TYPES)
OUTSIDE = f"{LETTERS.format('system')} system/Patient.${glass.OPERATION}"
HOSPITALS = ("Organization/h1", "Organization/h2")


def bearer(tenant: str, role: str, user: str, scopes: str, client: str = "c1", patient: str | None = None) -> Any:
    told = security.disclosure_of(ROLES, role, user)
    return security.Caller(
        tenant, client=client, user=user, role=role, patient=patient, scopes=parse_scopes(scopes), disclosure=told
    )


# Who asks, by which Task


def asker(tenant: str, chance: random.Random) -> security.Caller:
    role, user, scopes = chance.choice(
        [
            *(("hospital-system", one, OUTSIDE) for one in HOSPITALS * 2),
            ("hospital-system", HOSPITALS[0], LETTERS.format("system")),
            ("clinic-admin", "Practitioner/dan", f"{LETTERS.format('user')} user/Patient.${glass.OPERATION}"),
        ]
    )
    return bearer(tenant, role, user, scopes, chance.choice(["c1", "c1", "c2"]))


def tasks(chance: random.Random) -> dict[str, Resource]:
    """Return Tasks by which the glass is broken, was, or never was, by their ids."""
    now = datetime.now(UTC)
    found = {}
    for number in range(12):
        code = BREAK_GLASS.concept() if chance.random() < 0.9 else {"coding": [{"system": "s", "code": "another"}]}
        begins = now + timedelta(hours=chance.choice([-1, -1, -1, -1, -3, 1]))
        found[f"t{number}"] = {
            "resourceType": "Task",
            "id": f"t{number}",
            "status": chance.choice(["requested", "in-progress", "completed", "requested", "cancelled"]),
            "intent": "order",
            "code": code,
            "for": {"reference": f"Patient/{chance.choice(PATIENTS)}"},
            "requester": requester(chance.choice(HOSPITALS), chance.choice(["c1", "c1", "c2"])),
            "reasonCode": {"text": REASON},
            "executionPeriod": {"start": zulu(begins), "end": zulu(begins + timedelta(hours=2))},
        }
    return found


def opened(one: security.Caller, task: Resource | None) -> str | None:
    """Return the patient whom a Task opens to its requester now."""
    may = one.disclosure is not None and any(each.operation == glass.OPERATION for each in one.scopes)
    if task is None or not may or task["requester"] != requester(str(one.user), str(one.client)):
        return None
    period = [datetime.fromisoformat(task["executionPeriod"][name]) for name in ("start", "end")]
    in_time = period[0] <= datetime.now(UTC) < period[1]
    if task["code"] != BREAK_GLASS.concept() or not in_time or task["status"] == "cancelled":
        return None
    return str(task["for"]["reference"].removeprefix("Patient/"))


# What was asked, and what its row has to say


@dataclass(frozen=True)
class Done:
    """One request as it was answered: what the audit has to know of it."""

    by: security.Caller
    does: str
    outcome: str
    patients: frozenset[str]
    query: str | None
    what: tuple[str, ...]
    task: str | None

    def seen(self, reader: str | None) -> tuple[object, ...]:
        """Return what an auditor (None), or a patient, is told of it."""
        shown = self.patients if reader is None else self.patients & {reader}
        whole = shown == self.patients
        return (
            self.does,
            self.outcome,
            self.by.user,
            tuple(sorted(shown)),
            self.query if whole else None,
            () if self.query is not None and whole else tuple(one for one in self.what if whole or one in _own(shown)),
            self.task if whole or self.task is None else None,
            self.task is not None,
        )


def _own(patients: frozenset[str]) -> set[str]:
    return {f"Patient/{one}" for one in patients}


def told(event: Resource) -> tuple[object, ...]:
    """Return the same of an AuditEvent."""
    entities = event.get("entity", [])
    of = [one["what"]["reference"] for one in entities if one["type"]["code"] == "1"]
    queries = [b64decode(one["query"]).decode() for one in entities if "query" in one]
    objects = [one["what"]["reference"] for one in entities if one.get("role", {}).get("code") == "4"]
    by = [one["what"]["reference"] for one in entities if one.get("role", {}).get("code") == "13" and
          one["what"].get("reference", "").startswith("Task/")]  # fmt: skip
    purposes = {each["code"] for one in event.get("purposeOfEvent", []) for each in one["coding"]}
    users = [one["who"]["reference"] for one in event["agent"] if "role" in one]
    return (
        event["subtype"][0]["code"],
        event["outcome"],
        users[0] if users else None,
        tuple(sorted(one.removeprefix("Patient/") for one in of)),
        queries[0] if queries else None,
        tuple(one.partition("/_history/")[0] for one in objects),
        by[0] if by else None,
        purposes == set(glass.PURPOSES),
    )


_PATIENT = re.compile(r"Patient/([A-Za-z0-9\-.]{1,64})")


def patients_told(body: Resource) -> set[str]:
    """Return whom the resources of an answer name."""
    resources = (
        [one["resource"] for one in body.get("entry", ()) if "resource" in one]
        if body["resourceType"] == "Bundle"
        else [body]
    )
    found = {one["id"] for one in resources if one["resourceType"] == "Patient"}
    return found | {each for one in resources for each in _PATIENT.findall(str(one))}


class Clinic:
    """A gateway whose callers are known by a number."""

    def __init__(self, store: Store) -> None:
        self.callers: dict[str, security.Caller] = {}
        backend = GatewayBackend(GATEWAY, store, Owners(httpx.AsyncClient(), {}))
        app = create_fhir_app(
            GATEWAY, backend, SETTINGS, authenticate=self.authenticate, auditing=Auditing(store.audit, "intake", "1")
        )
        self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)

    async def authenticate(self, headers: Mapping[str, str]) -> security.Caller:
        return self.callers[headers["authorization"]]

    async def get(self, who: security.Caller, path: str, task: str | None = None) -> tuple[int, Resource]:
        name = f"Bearer {len(self.callers)}"
        self.callers[name] = who
        headers = {"Authorization": name, **({} if task is None else {HEADER: f"Task/{task}"})}
        answer = await self.client.get(f"{BASE}/{path}", headers=headers)
        return answer.status_code, parse(answer.content)


async def ask(clinic: Clinic, world: World, who: security.Caller, named: Mapping[str, Resource],
              chance: random.Random, where: str) -> Done:  # fmt: skip
    """Ask something, by a Task or without; compare the answer with the world; return what the audit has to say.

    Raises:
        Leak: it is another answer.

    """
    task = chance.choice([None, *(chance.choice(sorted(named) or ["none"]) for _ in range(2))])
    mine = opened(who, named.get(task or ""))
    opens = who if mine is None or who.disclosure is None else replace(
        who, disclosure=replace(who.disclosure, opened=mine)
    )  # fmt: skip
    seen = Caller(opens.access("r"), {type_: [(None, None)] for type_ in TYPES})
    type_ = chance.choice([one for one in TYPES if one != "Practitioner"])
    places = sorted(one for one in world.latest if one[0] == type_) or [(type_, "none")]
    id_ = chance.choice(places)[1]
    patient = chance.choice([mine or "ada", *PATIENTS])
    by_type = [f"{type_}?_count=50"] if type_ == "Patient" else [f"{type_}?_count=50", f"{type_}?patient={patient}"]
    path = chance.choice([*by_type, f"{type_}/{id_}", f"{type_}/{id_}/_history"])
    where = f"{where} {who.user} {who.client} GET {path} by {task}"
    status, body = await clinic.get(who, path, task)
    asked = {id_} if path.startswith(f"Patient/{id_}") else {patient} if "patient=" in path else set[str]()
    refused = task is not None and mine is None
    does = "search-type" if "?" in path else "history-instance" if path.endswith("_history") else "read"
    shown = set() if refused else _shown(world, seen, path, patient)
    if refused:
        same((status, body.get("entry")), (FORBIDDEN, None), where)
    elif does == "search-type":
        same({(one["resource"]["resourceType"], one["resource"]["id"]) for one in body.get("entry", ())}, shown, where)
    elif does == "read":
        living = (type_, id_) in world.current
        same(status, (OK if living else GONE) if shown else NOT_FOUND, where)
    else:
        same(status, OK if shown else NOT_FOUND, where)
    done = status == OK
    query = path if "?" in path else f"{path}?" if does == "history-instance" else None
    return Done(
        by=who,
        does=does,
        outcome="0" if done else "4",
        patients=frozenset(asked | (patients_told(body) if done else set())),
        query=query,
        what=(type_,) if "?" in path else (f"{type_}/{id_}",),
        task=None if mine is None else f"Task/{task}",
    )


def _shown(world: World, seen: Caller, path: str, patient: str) -> set[tuple[str, str]]:
    type_, _, rest = path.replace("?", "/?").partition("/")
    id_ = rest.partition("/")[0]
    if rest.startswith("?"):
        held = {place: one for place, one in world.current.items() if place[0] == type_ and seen.sees(world, one)}
        return {place for place, one in held.items() if "patient=" not in path or patient in _of(one)}
    if rest.endswith("_history"):
        log = [one for _, one in world.log if (one["resourceType"], one["id"]) == (type_, id_)]
        return {(type_, id_) for one in log if seen.sees(world, one, now=one is world.latest[type_, id_])}
    one = world.latest.get((type_, id_))
    return {(type_, id_)} if one is not None and seen.sees(world, one) else set()


def _of(one: Resource) -> set[str]:
    """Return whom the search parameter `patient` finds a resource by."""
    named = [one.get("subject"), one.get("patient"), *(each.get("actor") for each in one.get("participant", ()))]
    if one["resourceType"] == "Provenance":
        named = one["target"]
    return {each["reference"].removeprefix("Patient/") for each in named if each and "Patient/" in each["reference"]}


# Who reads the audit


async def found(clinic: Clinic, who: security.Caller, path: str) -> list[Resource] | int:
    """Return AuditEvents, page by page; the status where there is none."""
    events: list[Resource] = []
    following: str | None = path
    while following is not None:
        status, body = await clinic.get(who, following)
        if status != OK:
            return status
        page = [one["resource"] for one in body.get("entry", ())]
        same(page == [] or body["total"] >= len(page), True, path)
        events += page
        links = {one["relation"]: one["url"] for one in body.get("link", ())}
        following = links.get("next", "").removeprefix(f"{BASE}/") or None
    return events


async def compare_audit(clinic: Clinic, tenant: str, log: list[Done], chance: random.Random, where: str) -> None:
    """Have an auditor, patients, and who is none of these, search the audit and read what they find.

    Raises:
        Leak: they are told other than the model says.

    """
    patient = chance.choice(PATIENTS)
    others = {
        "auditor": bearer(tenant, "auditor", "Practitioner/aud", "user/AuditEvent.rs"),
        "patient": bearer(tenant, "patient", f"Patient/{patient}", "patient/*.rs", patient=patient),
        "elsewhere": bearer(f"{tenant}-other", "auditor", "Practitioner/aud", "user/AuditEvent.rs"),
        "outside": bearer(tenant, "hospital-system", HOSPITALS[0], "system/AuditEvent.rs system/*.rs"),
        "staff": bearer(tenant, "clinic-admin", "Practitioner/dan", "user/*.rs"),
    }
    asked = chance.choice(PATIENTS)
    newest = log[::-1]
    questions = [
        ("", newest),
        (f"&patient={asked}", [one for one in newest if asked in one.patients]),
        ("&outcome=4&_count=3", [one for one in newest if one.outcome == "4"]),
        (f"&agent={HOSPITALS[0]}", [one for one in newest if one.by.user == HOSPITALS[0]]),
        ("&subtype=read,history-instance", [one for one in newest if one.does in ("read", "history-instance")]),
    ]
    everything = await found(clinic, others["auditor"], "AuditEvent?type=rest&action=R,E")
    assert isinstance(everything, list)
    for who, one in others.items():
        for more, rows in questions if who in ("auditor", "patient") else questions[:1]:
            path, told_of = f"AuditEvent?type=rest&action=R,E{more}", f"{where} {who}: {more}"
            events = await found(clinic, one, path)
            if who in ("outside", "staff"):
                same(events, FORBIDDEN, told_of)
                continue
            reader = patient if who == "patient" else asked if more.startswith("&patient=") else None
            asks_of_another = more.startswith("&patient=") and asked != patient
            mine = who == "patient" and not asks_of_another
            own = [each for each in rows if who == "auditor" or (mine and patient in each.patients)]
            expected = [each.seen(reader) for each in own]
            assert isinstance(events, list), events
            same(len(events), len(expected), told_of)
            for event, each in zip(events, expected, strict=True):
                same(told(event), each, told_of)
    for event, row in list(zip(everything, newest, strict=True))[:: max(len(log) // 4, 1)]:
        for who, one in others.items():
            status, body = await clinic.get(one, f"AuditEvent/{event['id']}")
            own = who == "auditor" or (who == "patient" and patient in row.patients)
            wanted = FORBIDDEN if who in ("outside", "staff") else OK if own else NOT_FOUND
            same(status, wanted, f"{where} {who}: reads {event['id']}")
            if own:
                same(told(body), row.seen(patient if who == "patient" else None), f"{where} {who}: {event['id']}")


async def compare(store: Store, seed: int) -> int:
    """Make a world and Tasks, have several ask, and then read what the audit says of it.

    Returns how often the glass was broken and something told.

    Raises:
        Leak: an answer is another one than the model's.

    """
    chance = random.Random(seed)
    world, tenant = record(chance), f"audited{seed}"
    add_documents(world, aside(chance))
    whole, named = Access.unrestricted(tenant), tasks(aside(chance))
    await write_all(store, whole, world.log)
    for one in named.values():
        await store.write(whole, write_of(one))
    clinic, log = Clinic(store), list[Done]()
    for number in range(ASKERS):
        who = asker(tenant, chance)
        by = requester(str(who.user), str(who.client))
        mine = {id_: one for id_, one in named.items() if one["requester"] == by}
        for _ in range(REQUESTS):
            some = mine if chance.random() < 0.7 else named
            log.append(await ask(clinic, world, who, some, chance, f"seed {seed}, {number}:"))
    await compare_audit(clinic, tenant, log, chance, f"seed {seed}")
    return sum(one.task is not None and one.outcome == "0" and bool(one.patients) for one in log)


async def compare_all(store: Store, worlds: range) -> None:
    assert sum([await compare(store, seed) for seed in worlds]) > len(worlds)


@pytest.fixture
async def store(make_database):
    """Of intake: Tasks of its own are what the glass is broken by."""
    opened_ = await Store.connect(make_database("intake"), service="intake", publishes=False, max_size=4)
    yield opened_
    await opened_.close()


@pytest.mark.timeout(300)
async def test_a_task_opens_what_it_says_to_whom_it_says_and_the_audit_tells_of_each_read_to_whom_it_is_for(store):
    await compare_all(store, range(WORLDS))


@pytest.mark.slow
@pytest.mark.timeout(6000)
async def test_a_task_opens_and_the_audit_tells_no_more_in_many_more_worlds(store):
    await compare_all(store, range(WORLDS, WORLDS_IN_FULL))


def everybodys_audit(monkeypatch: pytest.MonkeyPatch) -> None:
    """A patient reads the whole audit."""
    monkeypatch.setattr(audit_events, "reach", lambda *_: None)


def of_others_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AuditEvent shows a patient all of whom its row tells."""
    right = audit_events.as_audit_event

    def shown(sequence: int, row: Any, base: str, **_: Any) -> Resource:
        return right(sequence, row, base)

    monkeypatch.setattr(audit_events, "as_audit_event", shown)


def of_other_clinics(monkeypatch: pytest.MonkeyPatch) -> None:
    """The audit is searched in all clinics."""
    for name in ("_FIND", "_COUNT"):
        monkeypatch.setattr(kept, name, getattr(kept, name).replace("tenant = $1", "$1::text IS NOT NULL"))


def without_whom_it_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    """A row does not say whom the answer told of."""
    monkeypatch.setattr(auditing._Seen, "stored", lambda *_: None)


def without_the_glass(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read by breaking the glass is audited as any other read."""
    monkeypatch.setattr(gate, "say", lambda **_: None)


def for_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Task opens to who names it, whoever asked for it."""
    right = glass.broken

    def broken(held: Any, caller: security.Caller, now: datetime) -> glass.Broken:
        of = {} if held is None else parse(held.body).get("requester", {})
        who = replace(caller, user=of.get("reference"), client=of.get("identifier", {}).get("value"))
        return right(held, who, now)

    monkeypatch.setattr(glass, "broken", broken)


def for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Task opens before its time, and after."""
    right = glass.broken

    def broken(held: Any, caller: security.Caller, now: datetime) -> glass.Broken:
        period = {} if held is None else parse(held.body).get("executionPeriod", {})
        return right(held, caller, datetime.fromisoformat(period["start"]) if period else now)

    monkeypatch.setattr(glass, "broken", broken)


def although_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Task that the clinic cancelled goes on opening."""
    monkeypatch.setattr(glass, "_ENDED", frozenset())


def every_record(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Task opens the records of everybody."""
    monkeypatch.setattr(glass, "opened", lambda caller, _: replace(caller, disclosure=None))


@pytest.mark.parametrize(
    "plant",
    [everybodys_audit, of_others_too, of_other_clinics, without_whom_it_told_of, without_the_glass, for_anybody,
     for_good, although_ended, every_record],
)  # fmt: skip
@pytest.mark.timeout(300)
async def test_a_leak_that_is_planted_in_the_audit_or_the_glass_is_found(store, monkeypatch, plant):
    plant(monkeypatch)
    with pytest.raises(Leak):
        await compare_all(store, range(WORLDS_WITH_A_LEAK))
