"""What a caller may not see is not there: not for reads, searches, totals, chains, `_has`, includes, pages.

The naive model is another world: a copy that holds only what the caller may see, filtered in Python, which somebody
asks who may see everything. Both worlds have to answer every question alike. Random records, random callers.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from shared.fhir.history import HistoryQuery
from shared.fhir.outcome import FhirError
from shared.fhir.query import parse_search
from shared.store import compartment as compartments
from shared.store import conditions, history, includes, queries, search
from shared.store.access import EVERYTHING, Access, Grant
from shared.store.store import Store
from shared.testing.writes import write_of

PATIENTS = ("ada", "bob", "cyd")
TYPES = ("Patient", "Encounter", "Observation", "Condition", "Appointment", "Practitioner", "Provenance")
WORLDS, WORLDS_IN_FULL = 25, 1275
CALLERS, ASKED = 4, 14

Resource = dict[str, Any]
Naive = Callable[["World", Resource], bool]


@dataclass
class World:
    """A full copy, as Python sees it: the current resources, and every version in the order it was written in."""

    current: dict[tuple[str, str], Resource] = field(default_factory=dict)
    log: list[tuple[int, Resource]] = field(default_factory=list)

    def keep(self, resource: Resource) -> None:
        place = (resource["resourceType"], resource["id"])
        version = 1 + sum((one["resourceType"], one["id"]) == place for _, one in self.log)
        self.current[place] = resource
        self.log.append((version, resource))


# Records


def record(chance: random.Random) -> World:
    world = World()
    doctors = ["doc", "dan"]
    for id_ in doctors:
        world.keep({"resourceType": "Practitioner", "id": id_, "name": [{"family": id_}]})
    for id_ in PATIENTS:
        world.keep(
            {
                "resourceType": "Patient",
                "id": id_,
                "gender": chance.choice(["female", "male"]),
                "name": [{"family": chance.choice(["Byron", "Babbage"])}],
                "generalPractitioner": [reference("Practitioner", chance.choice(doctors))],
            }
        )
    for number in range(chance.randint(1, 3)):
        world.keep(encounter(f"e{number}", chance))
    for number in range(chance.randint(2, 6)):
        world.keep(observation(f"o{number}", chance))
    for number in range(chance.randint(0, 2)):
        world.keep(condition(f"c{number}", chance))
    for number in range(chance.randint(1, 3)):
        world.keep(appointment(f"a{number}", chance))
    world.keep(
        {
            "resourceType": "Provenance",
            "id": "p0",
            "recorded": "2026-11-22T10:00:00Z",
            "target": [reference("Observation", "o0")],
            "agent": [{"who": reference("Practitioner", "doc")}],
        }
    )
    for (type_, id_), held in list(world.current.items()):
        if chance.random() < 0.4:
            again = {"Observation": observation, "Appointment": appointment, "Encounter": encounter}.get(type_)
            changed = dict(held) if again is None else again(id_, chance)
            for name in ("subject", "patient"):  # whose it is never changes
                if name in held:
                    changed = {**changed, name: held[name]}
            if type_ == "Appointment":
                changed["participant"][0] = held["participant"][0]
            world.keep(changed)
    return world


def reference(type_: str, id_: str) -> Resource:
    return {"reference": f"{type_}/{id_}"}


def encounter(id_: str, chance: random.Random) -> Resource:
    return {
        "resourceType": "Encounter",
        "id": id_,
        "status": chance.choice(["planned", "finished"]),
        "class": {"code": "AMB"},
        "subject": reference("Patient", chance.choice(PATIENTS)),
        "participant": [{"individual": reference("Practitioner", chance.choice(["doc", "dan"]))}],
    }


def observation(id_: str, chance: random.Random) -> Resource:
    performer = chance.choice([("Practitioner", "doc"), ("Practitioner", "dan"), ("Patient", chance.choice(PATIENTS))])
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": chance.choice(["final", "amended"]),
        "category": [{"coding": [{"system": "s", "code": chance.choice(["vital-signs", "survey"])}]}],
        "code": {"coding": [{"system": "s", "code": chance.choice("ab")}]},
        "subject": reference("Patient", chance.choice(PATIENTS)),
        "encounter": reference("Encounter", "e0"),
        "performer": [reference(*performer)],
        "effectiveDateTime": f"2026-11-{chance.randint(1, 20):02}",
        "hasMember": [reference("Observation", chance.choice(["o0", "o1"]))],
    }


def condition(id_: str, chance: random.Random) -> Resource:
    return {
        "resourceType": "Condition",
        "id": id_,
        "code": {"coding": [{"system": "s", "code": chance.choice("ab")}]},
        "subject": reference("Patient", chance.choice(PATIENTS)),
        "encounter": reference("Encounter", "e0"),
    }


def appointment(id_: str, chance: random.Random) -> Resource:
    """Sometimes a group's, where one patient would see who else is there."""
    who = chance.sample(PATIENTS, chance.choice([1, 1, 2]))
    return {
        "resourceType": "Appointment",
        "id": id_,
        "status": chance.choice(["booked", "proposed"]),
        "participant": [
            *({"actor": reference("Patient", one), "status": "accepted"} for one in who),
            {"actor": reference("Practitioner", "doc"), "status": "accepted"},
        ],
    }


# Callers: what a grant means, said once for the store and once in Python


def _of_female(world: World, resource: Resource) -> bool:
    subject = bearer(resource)
    held = world.current.get(("Patient", subject or ""))
    return held is not None and held["gender"] == "female"


RESTRICTIONS: dict[str, list[tuple[str, Naive]]] = {
    "Patient": [
        ("gender=female", lambda _, one: one["gender"] == "female"),
        (
            "general-practitioner=Practitioner/doc",
            lambda _, one: one["generalPractitioner"][0] == reference("Practitioner", "doc"),
        ),
        (
            "_has:Condition:patient:code=a",
            lambda world, one: any(
                held["resourceType"] == "Condition"
                and bearer(held) == one["id"]
                and held["code"]["coding"][0]["code"] == "a"
                for held in world.current.values()
            ),
        ),
    ],
    "Observation": [
        ("category=vital-signs", lambda _, one: one["category"][0]["coding"][0]["code"] == "vital-signs"),
        ("status:not=final", lambda _, one: one["status"] != "final"),
        ("patient.gender=female", _of_female),
        ("date=ge2026-11-10", lambda _, one: one["effectiveDateTime"] >= "2026-11-10"),
    ],
    "Encounter": [
        ("status=finished", lambda _, one: one["status"] == "finished"),
        ("patient.gender=female", _of_female),
    ],
    "Condition": [("code=a&patient.gender=female", lambda world, one: _of_female(world, one) and _code(one) == "a")],
}


def _code(resource: Resource) -> str:
    return str(resource["code"]["coding"][0]["code"])


def bearer(resource: Resource) -> str | None:
    """Return whose record a resource belongs to."""
    if resource["resourceType"] == "Patient":
        return str(resource["id"])
    named = [resource.get("subject"), *(one["actor"] for one in resource.get("participant", ()) if "actor" in one)]
    of = [one["reference"] for one in named if one is not None and one["reference"].startswith("Patient/")]
    return of[0].removeprefix("Patient/") if of else None


def patients_in(node: Any) -> set[str]:
    """Return the patients whom any reference at any depth names."""
    if isinstance(node, dict):
        literal = node.get("reference")
        own = (
            {literal.removeprefix("Patient/")} if isinstance(literal, str) and literal.startswith("Patient/") else set()
        )
        return own.union(*map(patients_in, node.values()))
    return set().union(*map(patients_in, node)) if isinstance(node, list) else set()


@dataclass
class Caller:
    """Grants for the store, and the same as a Python predicate of a resource (`now`: as it is now)."""

    access: Access
    naive: dict[str, list[tuple[frozenset[str] | None, Naive | None]]]

    def sees(self, world: World, resource: Resource, *, now: bool = True) -> bool:
        for patients, restriction in self.naive.get(resource["resourceType"], ()):
            mine = patients is None or (
                bearer(resource) in patients
                and (resource["resourceType"] == "Patient" or patients_in(resource) <= patients)
            )
            if mine and (restriction is None or (now and restriction(world, resource))):
                return True
        return False


def caller(chance: random.Random) -> Caller:
    grants: dict[str, tuple[Grant, ...]] = {}
    naive: dict[str, list[tuple[frozenset[str] | None, Naive | None]]] = {}
    mine = frozenset(chance.sample(PATIENTS, chance.choice([1, 1, 2])))
    for type_ in TYPES:
        some: list[Grant] = []
        said: list[tuple[frozenset[str] | None, Naive | None]] = []
        for _ in range(chance.choice([0, 1, 1, 2])):
            patients = mine if chance.random() < 0.6 else None
            restriction = chance.choice([None, *RESTRICTIONS.get(type_, [])])
            if restriction is None:
                some.append(Grant(patients))
            else:
                pairs = [tuple(one.split("=", 1)) for one in restriction[0].split("&")]
                some.append(Grant(patients, parse_search(type_, pairs, strict=True).criteria))
            said.append((patients, None if restriction is None else restriction[1]))
        if some:
            grants[type_], naive[type_] = tuple(some), said
    return Caller(Access("whole", None, None, frozenset(), grants), naive)


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


async def compare(store: Store, seed: int) -> None:
    """Make a world and some callers of it; have each ask, in it and in the world of what he may see.

    Raises:
        Leak: they answer differently.

    """
    chance = random.Random(seed)
    world = record(chance)
    whole = Access.unrestricted(f"whole{seed}")
    for version, resource in world.log:
        await store.write(whole, write_of(resource, "create" if version == 1 else "update"))
    for number in range(CALLERS):
        who = caller(chance)
        seen = Access.unrestricted(f"seen{seed}-{number}")
        for version, resource in world.log:
            place = (resource["resourceType"], resource["id"])
            if who.sees(world, world.current[place]):
                await store.write(seen, write_of(world.current[place], "create" if version == 1 else "update"))
        restricted = Access(whole.tenant, None, None, frozenset(), who.access.grants)
        told = f"seed {seed}, caller {number}"
        for question in chance.sample(QUESTIONS, ASKED):
            same(await asked(store, restricted, question), await asked(store, seen, question), f"{told}: {question}")
        for type_, id_ in world.current:
            same(
                await read(store, restricted, type_, id_), await read(store, seen, type_, id_), f"{told}: {type_}/{id_}"
            )
        await compare_versions(store, restricted, world, who, told)
        await compare_compartments(store, restricted, world, who, told)


async def compare_versions(store: Store, access: Access, world: World, who: Caller, told: str) -> None:
    """Compare histories and versions with what the log says."""
    expected = [
        (one["resourceType"], one["id"], version)
        for version, one in reversed(world.log)
        if who.sees(world, one, now=one is world.current[one["resourceType"], one["id"]])
    ]
    same(sorted(await versions(store, access, None, None)), sorted(expected), f"{told}: history")
    for type_, id_ in world.current:
        of_one = [one for one in expected if one[:2] == (type_, id_)]
        same(await versions(store, access, type_, id_), of_one, f"{told}: history of {type_}/{id_}")
        for version in (1, 2):
            try:
                await store.read_version(access, type_, id_, version)
                shown = True
            except FhirError:
                shown = False
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


@pytest.mark.timeout(280)
async def test_every_answer_is_that_of_a_world_without_what_may_not_be_seen(store: Store) -> None:
    for seed in range(WORLDS):
        await compare(store, seed)


@pytest.mark.slow
@pytest.mark.timeout(3000)
async def test_every_answer_is_that_of_a_world_without_what_may_not_be_seen_in_many_more_worlds(store: Store) -> None:
    for seed in range(WORLDS, WORLDS_IN_FULL):
        await compare(store, seed)


@pytest.mark.parametrize("module", [includes, conditions, search, queries, history, compartments])
async def test_a_leak_in_any_part_of_the_store_is_found(store: Store, monkeypatch, module) -> None:
    """Planted: one module at a time forgets to ask what is visible."""
    monkeypatch.setattr(module, "visible", lambda *_, **__: [])

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
