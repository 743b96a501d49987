"""What a caller may not see is not there: not for reads, searches, totals, chains, `_has`, includes, pages.

The naive model is another world: a copy that holds only what the caller may see, filtered in Python, which somebody
asks who may see everything. Both worlds have to answer every question alike. Random records with their labels and
consents (`worlds.py`), random callers: of the clinic, narrowed by scopes; outside of it, whom the consents let know.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from datetime import timedelta

import httpx
import pytest

from services.gateway import everything
from services.gateway.forward import GatewayBackend
from shared.fhir.history import HistoryQuery
from shared.fhir.outcome import FhirError
from shared.fhir.outcome import Gone as Deleted
from shared.fhir.query import parse_search
from shared.store import compartment as compartments
from shared.store import conditions, exports, history, includes, queries, search, visibility
from shared.store.access import EVERYTHING, Access
from shared.store.store import Store
from shared.testing.writes import write_of
from tests.integration.security.asking import BASE, asking
from tests.integration.security.worlds import (
    PATIENTS,
    TYPES,
    Caller,
    Gone,
    World,
    add_documents,
    aside,
    bearer,
    caller,
    record,
)  # fmt: skip

WORLDS, WORLDS_IN_FULL = 125, 1250
FORBIDDEN = 403
CALLERS, ASKED = 4, 5
"""Callers of each world: 500 cases at each merge, 5,000 in full."""

# Questions

QUESTIONS = (
    "Patient?_total=accurate",
    "Patient?_count=0",
    "Observation?_count=0",
    "Observation?code=a&_count=0",
    "Observation?_count=2&_total=accurate",
    "Observation?_sort=-date&_count=2",
    "Observation?_sort=status,-date&_count=2",
    "Observation?patient=Patient/ada",
    "Observation?subject=Patient/bob&code=a",
    "Observation?patient.name=byron",
    "Observation?patient.gender=female&_count=0",
    "Observation?encounter.status=finished",
    "Observation?encounter.participant.family=doc",
    "Observation?performer:Practitioner.family=dan",
    "Observation?performer:Patient.gender=male",
    "Observation?has-member.code=a",
    "Observation?has-member.patient.gender=male",
    "Observation?status:not=final",
    "Observation?encounter:missing=true",
    "Observation?_has:Provenance:target:agent=Practitioner/doc",
    "Patient?_has:Observation:patient:code=a",
    "Patient?_has:Observation:patient:status=final&_count=0",
    "Patient?_has:Observation:performer:code=a",
    "Patient?_has:Encounter:patient:_has:Observation:encounter:code=b",
    "Patient?_has:Condition:subject:code=a",
    "Patient?_has:Appointment:patient:status=booked",
    "Patient?general-practitioner.family=doc",
    "Patient?_sort=family&_count=1",
    "Encounter?_has:Observation:encounter:code=a",
    "Practitioner?_has:Patient:general-practitioner:gender=female",
    "Practitioner?_has:Observation:performer:code=a",
    "Observation?_include=Observation:patient&_include=Observation:encounter",
    "Observation?_include=*",
    "Observation?_include=Observation:has-member&_include:iterate=Observation:patient",
    "Observation?_include=Observation:encounter&_include:iterate=Encounter:participant",
    "Patient?_revinclude=Observation:patient&_revinclude=Condition:patient",
    "Patient?_revinclude=*",
    "Patient?_revinclude=Observation:patient&_revinclude:iterate=Provenance:target",
    "Encounter?_revinclude=Observation:encounter",
    "Practitioner?_revinclude=Appointment:actor",
    "Appointment?patient=Patient/ada",
    "Appointment?patient=Patient/bob&_count=0",
    "Appointment?actor=Practitioner/doc&_total=accurate",
    "Condition?code=a,b&_total=accurate",
    "?_type=Observation,Condition,Patient&_count=3",
    "?_type=Patient,Appointment,Practitioner&_total=accurate",
    "Observation?_security=SUD&_total=accurate",
    "Condition?_security:not=SUD&_count=0",
    "Patient?_has:Condition:patient:_security=SUD",
    "Observation?patient._has:Condition:patient:_security=SUD&_count=0",
    "Consent?_total=accurate",
    "Patient?_has:Consent:patient:status=active",
    "Consent?_include=Consent:patient",
    "?_type=Consent,Condition,Observation&_count=5",
)


async def asked(store: Store, access: Access, question: str) -> tuple[list[tuple], list[int | None]]:
    """Return matches and what was included, page by page, and the totals."""
    type_, _, rest = question.partition("?")
    query = parse_search(type_ or None, [tuple(one.split("=", 1)) for one in rest.split("&")], strict=True)
    pages, totals, cursor = [], [], None
    while True:
        page = await store.search(access, query, cursor=cursor)
        pages.append(
            (
                [(one.type, one.id, one.version) for one in page.entries],
                sorted((one.type, one.id, one.version) for one in page.included),
            )
        )
        totals.append(page.total)
        cursor = page.next
        if cursor is None:
            return pages, totals


async def read(store: Store, access: Access, type_: str, id_: str) -> object:
    try:
        return (await store.read(access, type_, id_)).version
    except FhirError as error:
        return type(error), [issue.diagnostics for issue in error.issues]


async def versions(store: Store, access: Access, type_: str | None, id_: str | None) -> list[tuple[str, str, int]]:
    found, cursor = [], None
    while True:
        try:
            page = await store.history(access, HistoryQuery(type_, id_, count=3), cursor=cursor)
        except FhirError:
            return []
        found += [(one.type, one.id, one.version) for one in page.entries]
        cursor = page.next
        if cursor is None:
            return found


class Leak(Exception):
    """The two worlds answer differently."""


def same(one: object, other: object, what: str) -> None:
    """Pass what both worlds answer alike; not by `assert`: pytest would spend minutes on describing the difference."""
    if one != other:
        raise Leak(f"{what}: {one} is not {other}"[:2000])


async def write_all(store: Store, access: Access, log: list[tuple[int, dict]], *, apart: float = 0.0) -> None:
    """Write versions in order, so many seconds apart."""
    writes = [
        write_of(one, "delete" if isinstance(one, Gone) else "create" if version == 1 else "update")
        for version, one in log
    ]
    async with store.transaction(keys=sorted({one.key for one in writes}), tenant=access.tenant) as transaction:
        for one in writes:
            await transaction.write(access, one)
            await asyncio.sleep(apart)


async def compare(store: Store, seed: int, callers: int = CALLERS) -> None:
    """Make a world and some callers of it; have each ask, in it and in the world of what he may see.

    Raises:
        Leak: they answer differently.

    """
    chance = random.Random(seed)
    world = record(chance)
    add_documents(world, aside(chance))
    whole = Access.unrestricted(f"whole{seed}")
    await write_all(store, whole, world.log)
    drawn = [(caller(chance), chance.sample(QUESTIONS, ASKED)) for _ in range(callers)]

    async def asks(number: int) -> None:
        who, questions = drawn[number]
        told, seen = f"seed {seed}, caller {number}", Access.unrestricted(f"seen{seed}-{number}")
        now = [(version, one, world.latest[one["resourceType"], one["id"]]) for version, one in world.log]
        mine = [
            (version, one if isinstance(one, Gone) else dict(last))
            for version, one, last in now
            if who.sees(world, last)
        ]
        await write_all(store, seen, mine)
        restricted = replace(who.access, tenant=whole.tenant)
        for question in questions:
            same(await asked(store, restricted, question), await asked(store, seen, question), f"{told}: {question}")
        for type_, id_ in world.latest:
            same(
                await read(store, restricted, type_, id_), await read(store, seen, type_, id_), f"{told}: {type_}/{id_}"
            )
        await compare_versions(store, restricted, world, who, told)
        await compare_compartments(store, restricted, world, who, told)
        await compare_operation(store, restricted, seen, seed + number, told)
        if number == seed % callers:
            await compare_exports(store, restricted, world, who, told)

    await asyncio.gather(*map(asks, range(callers)))


async def compare_versions(store: Store, access: Access, world: World, who: Caller, told: str) -> None:
    """Compare histories and versions with what the log says."""
    expected = [
        (one["resourceType"], one["id"], version)
        for version, one in reversed(world.log)
        if who.sees(world, one, now=one is world.latest[one["resourceType"], one["id"]])
    ]
    same(sorted(await versions(store, access, None, None)), sorted(expected), f"{told}: history")
    for type_, id_ in world.latest:
        of_one = [one for one in expected if one[:2] == (type_, id_)]
        same(await versions(store, access, type_, id_), of_one, f"{told}: history of {type_}/{id_}")
        written = sum((one["resourceType"], one["id"]) == (type_, id_) for _, one in world.log)
        for version in range(1, max(written, 2) + 1):
            try:
                await store.read_version(access, type_, id_, version)
                shown = True
            except FhirError as error:
                shown = error.__class__ is Deleted
            same(shown, (type_, id_, version) in of_one, f"{told}: {type_}/{id_}/_history/{version}")


async def compare_compartments(store: Store, access: Access, world: World, who: Caller, told: str) -> None:
    """Compare what `$everything` reads with what the world says."""
    for patient in PATIENTS:
        async with store.transaction(keys=(), tenant=access.tenant) as transaction:
            page = await compartments.compartment(
                transaction, access, patient, types=None, since=None, count=100, cursor=None
            )
        mine = {place for place, held in world.current.items() if bearer(held) == patient and who.sees(world, held)}
        same({(one.type, one.id) for one in page.entries}, mine, f"{told}: everything of {patient}")


async def compare_exports(store: Store, access: Access, world: World, who: Caller, told: str) -> None:
    """Compare what an export lists, and what its files then hold, with what the world says."""
    kept = timedelta(hours=1)
    job = await store.exports.ask(told, access.tenant, "a caller", "{}", kept=kept, most=1)
    assert job is not None
    async with exports.snapshot(store, access.tenant) as transaction:
        listing = exports.Listing(transaction, job)
        assert await listing.begin()
        for type_ in TYPES:
            try:
                await listing.add(exports.Wanted(type_, (access,)))
            except exports.Miscounted:
                raise Leak(f"{told}: $export lists other than a search counts") from None
        await listing.finish(job.asked_at, ())
    files = await store.exports.files(job)
    lists = {name for one in files async for some in store.exports.bodies(job, one, (access,)) for name, _ in some}
    mine = {f"{type_}/{id_}" for (type_, id_), held in world.current.items() if who.sees(world, held)}
    same(lists, mine, f"{told}: $export")
    for one in files:
        await store.exports.look(job, one, (access,))


OPERATIONS = (
    "Patient/{}/$summary",
    "Patient/{}/$everything?_count=100",
    "Observation/$lastn?patient=Patient/{}&max=2",
    "DocumentReference/$docref?patient=Patient/{}",
)
"""What the gateway alone answers: one of them for each caller, of another patient each time."""


async def compare_operation(store: Store, access: Access, seen: Access, number: int, told: str) -> None:
    """Compare what an operation of the gateway tells with what it tells somebody of the world of what may be seen."""
    path = OPERATIONS[number % len(OPERATIONS)].format(PATIENTS[number // len(OPERATIONS) % len(PATIENTS)])
    answers = []
    for one in (access, seen):
        async with asking(store, one, gateway=True) as client:
            answers.append(await client.get(f"{BASE}/{path}"))
    if answers[0].status_code == FORBIDDEN:
        return  # by scope: of the type he may see nothing, whatever there is
    same(*map(held, answers), f"{told}: {path}")


def held(answer: httpx.Response) -> tuple[int, object, list[tuple[str, str]], list[str]]:
    """Return status, total, the versions in a Bundle that are kept, and what the sections of a document refer to."""
    said = answer.json()
    entries = [one["resource"] for one in said.get("entry", ()) if "resource" in one]
    kept = [(f"{one['resourceType']}/{one['id']}", one["meta"]["versionId"]) for one in entries if "meta" in one]
    sections = [one for entry in entries for one in entry.get("section", ())]
    referred = [each["reference"] for one in sections for each in one.get("entry", ())]
    return answer.status_code, said.get("total"), kept, referred


@pytest.mark.timeout(550)
async def test_every_answer_is_that_of_a_world_without_what_may_not_be_seen(store: Store) -> None:
    for seed in range(WORLDS):
        await compare(store, seed)


@pytest.mark.slow
@pytest.mark.timeout(6000)
async def test_every_answer_is_that_of_a_world_without_what_may_not_be_seen_in_many_more_worlds(store: Store) -> None:
    for seed in range(WORLDS, WORLDS_IN_FULL):
        await compare(store, seed)


@pytest.mark.parametrize("module", [includes, conditions, search, queries, history, compartments, exports])
async def test_a_leak_in_any_part_of_the_store_is_found(store: Store, monkeypatch, module) -> None:
    """Planted: one module at a time forgets to ask what is visible (an include filtered after the query, a total)."""
    monkeypatch.setattr(module, "visible", lambda *_, **__: [])

    async def compare_all() -> None:
        for seed in range(WORLDS):
            await compare(store, seed)

    with pytest.raises(Leak):
        await compare_all()


def everything_of_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """`$everything` asks for the compartment as somebody who sees all of it."""

    async def leaking(transaction, access, patient, **more):
        return await compartments.compartment(transaction, Access.unrestricted(access.tenant), patient, **more)

    monkeypatch.setattr(everything, "compartment", leaking)


def gathered_for_everybody(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is searched for at the gateway, by `$summary`, `$lastn`, `$docref`, is searched for with all rights."""
    right = GatewayBackend.search

    async def leaking(self, context, query, *, cursor):
        return await right(
            self, replace(context, access=Access.unrestricted(context.access.tenant)), query, cursor=cursor
        )

    monkeypatch.setattr(GatewayBackend, "search", leaking)


@pytest.mark.parametrize("plant", [everything_of_everybody, gathered_for_everybody])
async def test_a_leak_in_an_operation_of_the_gateway_is_found(store: Store, monkeypatch, plant) -> None:
    plant(monkeypatch)

    async def compare_all() -> None:
        for seed in range(WORLDS):
            await compare(store, seed)

    with pytest.raises(Leak, match=r"\$"):
        await compare_all()


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ("bool_and(s.said = 2)", "bool_or(s.said = 2)"),
        ("max(c.weight)", "min(c.weight)"),
        ("c.part_2 OR", "true OR"),
        ("c.x_labels IS NULL", "true"),
        ("c.purposes IS NULL", "true"),
        ("h.labels", "r.labels"),
        ("NOT r.labels && '{PSYTHPN}'", "true"),
        ("NOT (n[1] =", "NOT (true OR n[1] ="),
        ("c.about IS NULL", "true"),
        (" OR r.patient = ", " OR true OR r.patient = "),
        ("kap_living(r.rid, r.version)", "r.version"),
        ("WHEN h.interaction = 'delete' THEN EXISTS", "WHEN h.interaction = 'delete' THEN false AND EXISTS"),
    ],
)
@pytest.mark.timeout(300)
async def test_a_consent_that_is_read_wrongly_anywhere_is_found(store: Store, monkeypatch, right, wrong) -> None:
    """Planted: a deny that another consent undoes, a forgotten exception, labels of now for those of then, a glass that
    is broken for everybody."""
    said = visibility.consented

    def misread(*args, **more):
        return [one.replace(right, wrong) for one in said(*args, **more)]

    monkeypatch.setattr(visibility, "consented", misread)

    async def compare_all() -> None:
        for seed in range(WORLDS):
            await compare(store, seed)

    with pytest.raises(Leak):
        await compare_all()


async def test_who_may_see_everything_pays_for_nothing(store: Store) -> None:
    """The statements of an unrestricted caller, and of one whose grants take nothing away, are the same."""
    query = parse_search("Observation", [("patient.name", "ada"), ("_has:Provenance:target:agent", "Practitioner/d")],
                         strict=True)  # fmt: skip
    full = Access("default", None, None, frozenset(), dict.fromkeys(TYPES, EVERYTHING))
    assert search.page(query, full, 1, None) == search.page(query, Access.unrestricted(), 1, None)
    assert search.count(query, full, 1) == search.count(query, Access.unrestricted(), 1)
