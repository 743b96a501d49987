"""Whoever asks for process notes is answered as if there were those alone that are his own or were opened to him.

The naive model is Python over all notes and all consents: a note is there for its author, and for whom the consents of
its patient, as they are now, open it by name. Reads, searches and histories answer by that; who was answered what is
kept, and nothing of a note is at any other place.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import pytest_asyncio

from services.sessions import process_notes
from services.sessions.process_notes import PLACE, ProcessNotes
from services.sessions.sealing import Sealing
from services.sessions.service import sessions
from services.sessions.setting import Setting
from shared.events.handler import Position
from shared.fhir.codes import ACT_CODE, CONSENT_PRIVACY, PARTICIPATION
from shared.fhir.json import parse
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.consume import ServiceEvents
from shared.runtime.policy import load_policy
from shared.security import caller as security
from shared.security.audit import Auditing
from shared.security.envelope import Keyring, new_key
from shared.security.scopes import PROCESS_NOTES, parse_scopes
from shared.store.migrate import migrate
from shared.store.notes import SCHEMA, NoteStore
from shared.store.store import Store
from shared.testing.knowledge import all_is_heard
from tests.integration.security.asking import SETTINGS
from tests.integration.security.test_nothing_leaks import Leak, same
from tests.integration.security.test_process_notes import everything_in, note
from tests.integration.security.test_what_is_delivered import event_of

WORLDS, WORLDS_IN_FULL, WORLDS_WITH_A_LEAK = 8, 160, 8
ASKED = 16
"""Questions of each world, in each of its two rounds: between them consents change."""

POLICY = load_policy()
THERAPISTS = ("Practitioner/t1", "Practitioner/t2", "Practitioner/t3")
PATIENTS = ("ann", "bea")
NOWHERE = "01a203d5-9dcb-75aa-9324-3a3d22239d05"
PSYTHPN, BEARS = "PSYTHPN", {"PSYTHPN", "PSY", "MH", "BH", "R"}
Resource = dict[str, Any]


# Consents, and what they open


def provision(chance: random.Random, type_: str) -> Resource:
    to = chance.sample(THERAPISTS, chance.choice([0, 1, 1, 2, 3]))
    labels = chance.choice([*[[PSYTHPN]] * 6, [], ["SUD"], [PSYTHPN, "SUD"], ["R"]])
    period = chance.choice([*[{}] * 6, {"end": "2025"}, {"start": "2025"}, {"start": "2090"}])
    role = {"coding": [{"system": PARTICIPATION, "code": "IRCP"}]}
    made: Resource = {"type": type_}
    if to:
        made["actor"] = [{"role": role, "reference": {"reference": one}} for one in to]
    if labels:
        made["securityLabel"] = [{"system": ACT_CODE, "code": one} for one in labels]
    return {**made, "period": period} if period else made


def consent(id_: str, patient: str, chance: random.Random) -> Resource:
    rule = provision(chance, chance.choice(["permit"] * 4 + ["deny"]))
    inner = [provision(chance, chance.choice(["permit", "deny"])) for _ in range(chance.choice([0, 1]))]
    return {
        "resourceType": "Consent",
        "id": id_,
        "status": chance.choice(["active", "active", "active", "inactive"]),
        "scope": CONSENT_PRIVACY.concept(),
        "dateTime": "2026-11-01T00:00:00Z",
        "patient": {"reference": f"Patient/{patient}"},
        "performer": [{"reference": chance.choice([f"Patient/{patient}"] * 8 + [THERAPISTS[0]])}],
        "provision": {**rule, "provision": inner} if inner else rule,
    }


def _holds(rule: Resource) -> bool:
    period = rule.get("period", {})
    return str(period.get("start", "0")) <= "2026" <= str(period.get("end", "9"))


def _names(rule: Resource) -> set[str]:
    return {one["reference"]["reference"] for one in rule.get("actor", ())}


def _labels(rule: Resource) -> set[str]:
    return {one["code"] for one in rule.get("securityLabel", ())}


def _is_about(rule: Resource, reader: str) -> bool:
    return (
        _holds(rule)
        and (not _names(rule) or reader in _names(rule))
        and (not _labels(rule) or bool(_labels(rule) & BEARS))
    )


def says(one: Resource, reader: str) -> bool | None:
    """Tell whether a Consent opens process notes to a reader, closes them, or says nothing of it."""
    rule, inner = one["provision"], one["provision"].get("provision", [])
    if one["status"] != "active":
        return None
    opens = (
        one["performer"] == [one["patient"]]
        and _holds(rule)
        and any(
            each["type"] == "permit" and _holds(each) and reader in _names(each) and _labels(each) == {PSYTHPN}
            for each in (rule, *inner)
        )
    )
    if _is_about(rule, reader):
        if any(each["type"] == "deny" and _is_about(each, reader) for each in inner):
            return False
        if rule["type"] == "deny" and not opens:
            return False
    return True if opens else None


# The world


@dataclass
class Notes:
    """What therapists wrote, and what consents say: by id."""

    notes: dict[str, tuple[str, str, int]] = field(default_factory=dict)
    """Its author, its patient, its newest version."""

    consents: dict[str, Resource] = field(default_factory=dict)

    def is_open(self, patient: str, reader: str) -> bool:
        of = [one for one in self.consents.values() if one["patient"]["reference"] == f"Patient/{patient}"]
        said = [says(one, reader) for one in of]
        return False not in said and True in said

    def has(self, id_: str, reader: str) -> bool:
        author, patient, _ = self.notes.get(id_, ("", "", 0))
        return reader != "" and (author == reader or (author != "" and self.is_open(patient, reader)))


@dataclass
class Bench:
    store: Store
    notes: NoteStore
    events: ServiceEvents
    client: httpx.AsyncClient
    callers: dict[str, security.Caller] = field(default_factory=dict)
    sequence: int = 0

    async def authenticate(self, headers: Mapping[str, str]) -> security.Caller:
        return self.callers[headers["authorization"]]

    async def hear(self, tenant: str, version: int, one: Resource) -> None:
        self.sequence += 1
        event = event_of(tenant, self.sequence, version, one, source="intake")
        await self.events.handle(event, Position("kap.intake.v1", 0, self.sequence))

    async def by(self, tenant: str, user: str, method: str, path: str, body: Any = None, **headers: str) -> Any:
        who = security.Caller(
            tenant, client="c", user=user, role="therapist", scopes=parse_scopes(""), others=frozenset([PROCESS_NOTES])
        )
        self.callers[f"{tenant} {user}"] = who
        sent = {"Authorization": f"{tenant} {user}", "Content-Type": "application/fhir+json", **headers}
        return await self.client.request(method, f"http://sessions{PLACE}/DocumentReference{path}", json=body,
                                         headers=sent)  # fmt: skip


@pytest_asyncio.fixture
async def bench(make_database, postgres):
    service = sessions(POLICY)
    store = await Store.connect(make_database("sessions"), service="sessions", max_size=4)
    dsn = postgres.cluster.create_database("notes_of_many", owner="kap_notes")
    await migrate(dsn, SCHEMA)
    notes = NoteStore(dsn)
    made = Bench(store, notes, ServiceEvents(service, store), httpx.AsyncClient())
    vault = Sealing(notes, Keyring("one", {"one": new_key()}))
    endpoint = ProcessNotes(service, store, vault, made.authenticate, Setting.of(POLICY), f"http://sessions{PLACE}")
    app = create_fhir_app(
        service, LocalBackend(service, store), SETTINGS, authenticate=made.authenticate, before=[endpoint.routes()],
        auditing=Auditing(store.audit, "sessions"),
    )  # fmt: skip
    made.client = httpx.AsyncClient(transport=httpx.ASGITransport(app))
    yield made
    await notes.close()
    await store.close()
    postgres.cluster.drop_database("notes_of_many")


async def write(bench: Bench, tenant: str, world: Notes, chance: random.Random) -> None:
    """Have therapists write and amend notes, and patients sign."""
    for patient in PATIENTS:
        await bench.hear(tenant, 1, {"resourceType": "Patient", "id": patient})
        for number in range(chance.choice([1, 2, 2])):
            one = consent(f"{patient}-{number}", patient, chance)
            world.consents[one["id"]] = one
            await bench.hear(tenant, 1, one)
    for author in THERAPISTS:
        for _ in range(chance.choice([0, 1, 2])):
            patient = chance.choice(PATIENTS)
            answer = await bench.by(tenant, author, "POST", "", note(patient))
            same(answer.status_code, 201, tenant)
            id_ = parse(answer.content)["id"]
            world.notes[id_] = (author, patient, 1)
            if chance.random() < 0.3:
                body = note(patient, "said otherwise", id=id_)
                answer = await bench.by(tenant, author, "PUT", f"/{id_}", body, **{"If-Match": 'W/"1"'})
                same(answer.status_code, 200, tenant)
                world.notes[id_] = (author, patient, 2)


async def ask(bench: Bench, tenant: str, world: Notes, chance: random.Random) -> list[tuple[str, str, str, bool]]:
    """Ask something; compare; return the accesses that have to be kept: reader, action, note, by a consent.

    Raises:
        Leak: the answer is another one than the model's.

    """
    reader, patient = chance.choice([*THERAPISTS, "Practitioner/other"]), chance.choice(PATIENTS)
    id_ = chance.choice([*sorted(world.notes), NOWHERE])
    kind = chance.choice(["search", "read", "history"])
    where = f"{tenant}: {reader} {kind} {patient if kind == 'search' else id_}"
    if kind == "search":
        answer = await bench.by(tenant, reader, "GET", f"?patient={patient}")
        expected = {one for one, (_, of, _) in world.notes.items() if of == patient and world.has(one, reader)}
        same(answer.status_code, 200, where)
        entries = parse(answer.content).get("entry", ())
        same({one["resource"]["id"] for one in entries}, expected, where)
        opened = world.is_open(patient, reader)
        return [(reader, kind, one, opened) for one in expected]
    answer = await bench.by(tenant, reader, "GET", f"/{id_}{'/_history' if kind == 'history' else ''}")
    if not world.has(id_, reader):
        nothing = await bench.by(tenant, reader, "GET", f"/{NOWHERE}{'/_history' if kind == 'history' else ''}")
        same((answer.status_code, answer.content), (404, nothing.content), where)
        return []
    author, _, version = world.notes[id_]
    same(answer.status_code, 200, where)
    said = parse(answer.content)
    if kind == "read":
        same((said["id"], said["meta"]["versionId"]), (id_, str(version)), where)
        return [(reader, kind, id_, author != reader)]
    same([one["resource"]["meta"]["versionId"] for one in said["entry"]], [str(one) for one in range(version, 0, -1)],
         where)  # fmt: skip
    return [(reader, kind, id_, author != reader)] * version


async def compare(bench: Bench, seed: int) -> int:
    """Make a world, have therapists ask; change consents, and have them ask again. Returns what consents opened.

    Raises:
        Leak: an answer, or what is kept of it, is another one than the model's.

    """
    chance, tenant, world = random.Random(seed), f"notes{seed}", Notes()
    await all_is_heard(bench.store, sessions(POLICY))
    await write(bench, tenant, world, chance)
    told: list[tuple[str, str, str, bool]] = []
    for _ in range(2):
        for _ in range(ASKED):
            told += await ask(bench, tenant, world, chance)
        for id_, one in list(world.consents.items()):
            if chance.random() < 0.5:
                world.consents[id_] = {**consent(id_, str(one["patient"]["reference"])[8:], chance)}
                await bench.hear(tenant, 2, world.consents[id_])
    kept = [
        (each.reader, each.action, str(each.note), each.consent is not None)
        for patient in PATIENTS
        for each in await bench.notes.accesses(tenant, patient)
        if each.action not in ("create", "update")
    ]
    same(sorted(kept), sorted(told), f"{tenant}: who was answered what")
    return sum(one[3] for one in told)


async def compare_all(bench: Bench, worlds: Iterable[int]) -> None:
    seeds = list(worlds)
    assert sum([await compare(bench, seed) for seed in seeds]) > len(seeds)


@pytest.mark.timeout(300)
async def test_a_process_note_is_there_for_its_author_and_for_whom_its_patient_opened_it_and_nowhere_else(bench):
    await compare_all(bench, range(WORLDS))
    elsewhere = await everything_in(bench.store._clinics)
    in_the_notes = await everything_in(await bench.notes._pool())
    ids = {str(each.note) for each in await bench.notes.accesses("notes0", PATIENTS[0])}
    assert all(one in in_the_notes and one not in elsewhere for one in ids)


@pytest.mark.slow
@pytest.mark.timeout(6000)
async def test_a_process_note_is_there_for_whom_it_is_in_many_more_worlds(bench):
    await compare_all(bench, range(WORLDS, WORLDS_IN_FULL))


def misread(change: Callable[[list[Resource]], Iterable[Resource]]) -> Callable[[pytest.MonkeyPatch], None]:
    """Return a plant by which consents are judged after a change of them."""
    right = process_notes.authorising

    def plant(monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(
            process_notes, "authorising", lambda found, reader, when: right(list(change(list(found))), reader, when)
        )

    return plant


def without_denials(found: list[Resource]) -> Iterable[Resource]:
    return [one for one in found if one["provision"]["type"] == "permit"]


def without_exceptions(found: list[Resource]) -> Iterable[Resource]:
    return [{**one, "provision": {**one["provision"], "provision": []}} for one in found]


def whatever_they_are_of(found: list[Resource]) -> Iterable[Resource]:
    label = [{"system": ACT_CODE, "code": PSYTHPN}]
    return [{**one, "provision": {**one["provision"], "securityLabel": label}} for one in found]


def to_anybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever knows the id of a note reads it."""

    async def versions(self: ProcessNotes, asking: Any, id_: str) -> Any:
        found = await asking.vault.notes.versions(asking.tenant, id_)
        if not found:
            raise process_notes.NotFound(process_notes._NOT_THERE)
        return found, None

    monkeypatch.setattr(ProcessNotes, "_open_to", versions)


def all_of_the_patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A search finds others' notes, too."""
    right = NoteStore.of_patient

    async def of_patient(self: NoteStore, tenant: str, patient: str, **more: Any) -> Any:
        return await right(self, tenant, patient, **{**more, "author": None})

    monkeypatch.setattr(NoteStore, "of_patient", of_patient)


def unseen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is answered what is not kept."""

    async def accessed(*_: Any) -> None:
        return None

    monkeypatch.setattr(NoteStore, "accessed", accessed)


@pytest.mark.parametrize(
    "plant",
    [misread(without_denials), misread(without_exceptions), misread(whatever_they_are_of), to_anybody,
     all_of_the_patient, unseen],
    ids=["denials", "exceptions", "labels", "to anybody", "of the patient", "unseen"],
)  # fmt: skip
@pytest.mark.timeout(300)
async def test_a_leak_of_process_notes_that_is_planted_is_found(bench, monkeypatch, plant):
    plant(monkeypatch)
    with pytest.raises(Leak):
        await compare_all(bench, range(WORLDS_WITH_A_LEAK))
