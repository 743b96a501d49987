"""Random records with their labels and consents, random callers, and in Python what of the one the other may see."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from shared.fhir.codes import ACT_CODE
from shared.fhir.extraction import labels_of
from shared.fhir.query import parse_search
from shared.runtime.policy import load_policy
from shared.security import caller as security
from shared.security.roles import AccessPolicy
from shared.security.scopes import parse_scopes
from shared.store.access import EVERYTHING, NO_ONES, Access, Disclosure, Grant
from tests.integration.security.consents import PATTERNS, consent, permits, provision

ROLES = load_policy().section("access", AccessPolicy)
PATIENTS = ("ada", "bob", "cyd")
DOCUMENTS = "DocumentReference"
TYPES = (
    "Patient", "Encounter", "Observation", "Condition", "Appointment", "Practitioner", "Provenance", "Consent",
    DOCUMENTS,
)  # fmt: skip

Resource = dict[str, Any]
Naive = Callable[["World", Resource], bool]


class Gone(dict[str, Any]):
    """A deletion, as what it deleted was at last: by that it is told of, or not."""


@dataclass
class World:
    """A full copy, as Python sees it: the current resources, and every version in the order it was written in.

    `latest` are the last versions, of what was deleted its deletion; `current` those that live.
    """

    latest: dict[tuple[str, str], Resource] = field(default_factory=dict)
    log: list[tuple[int, Resource]] = field(default_factory=list)

    @property
    def current(self) -> dict[tuple[str, str], Resource]:
        return {place: one for place, one in self.latest.items() if not isinstance(one, Gone)}

    def keep(self, resource: Resource) -> None:
        place = (resource["resourceType"], resource["id"])
        version = 1 + sum((one["resourceType"], one["id"]) == place for _, one in self.log)
        self.latest[place] = resource
        self.log.append((version, resource))


# Records


def record(chance: random.Random, *, deletes: bool = True) -> World:
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
    for number in range(chance.randint(1, 5)):
        world.keep(privacy(f"k{number}", chance))
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
            again = {
                "Observation": observation,
                "Appointment": appointment,
                "Encounter": encounter,
                "Condition": condition,
                "Consent": privacy,
            }.get(type_)
            changed = dict(held) if again is None else again(id_, chance)
            for name in ("subject", "patient"):  # whose it is never changes
                if name in held:
                    changed = {**changed, name: held[name]}
            if type_ == "Appointment":
                changed["participant"][0] = held["participant"][0]
            world.keep(changed)
    if deletes:
        delete_some(world, aside(chance))
    return world


def add_documents(world: World, chance: random.Random) -> None:
    for number in range(chance.randint(1, 4)):
        world.keep(document(f"d{number}", chance))


def delete_some(world: World, chance: random.Random) -> None:
    """Delete some of what there is; and sometimes bring it back."""
    for (type_, _), held in list(world.current.items()):
        if type_ not in ("Patient", "Practitioner") and chance.random() < 0.2:
            world.keep(Gone(held))
            if chance.random() < 0.3:
                world.keep(dict(held))


def reference(type_: str, id_: str) -> Resource:
    return {"reference": f"{type_}/{id_}"}


def aside(chance: random.Random) -> random.Random:
    """Return chance of its own, that takes nothing from `chance`: a world stays what it was but for what it is for."""
    state = chance.getstate()[1]
    return random.Random(state[-1] * 2**32 + state[state[-1] % 624])


def encounter(id_: str, chance: random.Random) -> Resource:
    return labelled(
        {
            "resourceType": "Encounter",
            "id": id_,
            "status": chance.choice(["planned", "finished"]),
            "class": {"code": "AMB"},
            "subject": reference("Patient", chance.choice(PATIENTS)),
            "participant": [{"individual": reference("Practitioner", chance.choice(["doc", "dan"]))}],
            **aside(chance).choice([{}, {"period": {"start": "2025", "end": "2026"}}, {"period": {"start": "2026"}}]),
        },
        chance,
    )


def observation(id_: str, chance: random.Random) -> Resource:
    performer = chance.choice([("Practitioner", "doc"), ("Practitioner", "dan"), ("Patient", chance.choice(PATIENTS))])
    return labelled(
        {
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
        },
        chance,
    )


def condition(id_: str, chance: random.Random) -> Resource:
    return labelled(
        {
            "resourceType": "Condition",
            "id": id_,
            "code": {"coding": [{"system": "s", "code": chance.choice("ab")}]},
            "subject": reference("Patient", chance.choice(PATIENTS)),
            "encounter": reference("Encounter", "e0"),
            **aside(chance).choice(
                [{}, {"recordedDate": "2025-06-01"}, {"recorder": reference("Practitioner", "doc")}]
            ),
        },
        chance,
    )


def document(id_: str, chance: random.Random) -> Resource:
    return labelled(
        {
            "resourceType": DOCUMENTS,
            "id": id_,
            "status": chance.choice(["current", "current", "superseded"]),
            "type": {"coding": [{"system": "s", "code": chance.choice("ab")}]},
            "subject": reference("Patient", chance.choice(PATIENTS)),
            "date": f"2026-11-{chance.randint(1, 20):02}T09:00:00Z",
            "content": [{"attachment": {"contentType": "text/plain", "data": "eA=="}}],
        },
        chance,
    )


def appointment(id_: str, chance: random.Random) -> Resource:
    """Sometimes a group's, where one patient would see who else is there."""
    who = chance.sample(PATIENTS, chance.choice([1, 1, 2]))
    return labelled(
        {
            "resourceType": "Appointment",
            "id": id_,
            "status": chance.choice(["booked", "proposed"]),
            "participant": [
                *({"actor": reference("Patient", one), "status": "accepted"} for one in who),
                {"actor": reference("Practitioner", "doc"), "status": "accepted"},
            ],
        },
        chance,
    )


def labelled(resource: Resource, chance: random.Random) -> Resource:
    labels = chance.choice([[], [], ["R"], ["SUD", "R"], ["SUD", "ETHUD"], ["SUD", "42CFRPart2"], ["SDV"], ["PSYTHPN"]])
    return (
        {**resource, "meta": {"security": [{"system": ACT_CODE, "code": one} for one in labels]}}
        if labels
        else resource
    )


def privacy(id_: str, chance: random.Random) -> Resource:
    """A consent of one of the patterns, mostly in force, sometimes with one more exception."""
    name = chance.choice([*PATTERNS, "P1", "P1", "P2", "P3"])
    rule = PATTERNS[name]
    if chance.random() < 0.3:
        another = provision(
            chance.choice(["deny", "deny", "permit"]),
            to=chance.choice([[], ["Organization/h1"], ["Organization/h2"]]),
            labels=chance.choice([[], ["SUD"], ["SDV"], ["R"]]),
        )
        rule = {**rule, "provision": [*rule.get("provision", []), another]}
    rule = of_data(rule, aside(chance))
    made = consent(
        chance.choice(PATIENTS),
        rule,
        part_2=name == "P5" or chance.random() < 0.2,
        status=chance.choice(["active"] * 5 + ["inactive"]),
    )
    return {**made, "id": id_}


def of_data(rule: Resource, chance: random.Random) -> Resource:
    """Sometimes a rule about some data only, or an exception from some: of a time, or what it names."""
    if chance.random() < 0.6:
        return rule
    named = ["Observation/o0", "Observation/o1", "Encounter/e0", "Condition/c0", "http://elsewhere/Encounter/e0"]
    about = chance.choice(
        [
            {"dataPeriod": {"start": chance.choice(["2024", "2026"])}},
            {"dataPeriod": {"end": chance.choice(["2025", "2026"])}},
            {"dataPeriod": {"start": "2026", "end": "2026"}},
            {"data": [{"meaning": "authoredby", "reference": reference("Practitioner", "doc")}]},
            {
                "data": [
                    {
                        "meaning": chance.choice(["instance", "related", "dependents"]),
                        "reference": {"reference": chance.choice(named)},
                    }
                    for _ in range(chance.choice([1, 2]))
                ]
            },
        ]
    )
    if chance.random() < 0.5:
        return {**rule, **about}
    another = provision(chance.choice(["deny", "deny", "permit"]), **about)
    return {**rule, "provision": [*rule.get("provision", []), another]}


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
    named = [
        resource.get("subject"),
        resource.get("patient"),
        *(one["actor"] for one in resource.get("participant", ()) if "actor" in one),
    ]
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
        if not self._is_told(world, resource):
            return False
        now = now and not isinstance(resource, Gone)
        for patients, restriction in self.naive.get(resource["resourceType"], ()):
            if self._is_of(patients, resource) and (restriction is None or (now and restriction(world, resource))):
                return True
        return False

    def saw(self, world: World, resource: Resource) -> bool:
        """Tell whether he may know of a version as it was; what a scope searches by is asked of the present alone."""
        return self._is_told(world, resource) and any(
            self._is_of(patients, resource) for patients, _ in self.naive.get(resource["resourceType"], ())
        )

    def _is_of(self, patients: frozenset[str] | None, resource: Resource) -> bool:
        return patients is None or (
            bearer(resource) in patients
            and (resource["resourceType"] == "Patient" or patients_in(resource) <= patients)
        )

    def _is_told(self, world: World, resource: Resource) -> bool:
        """Tell whether the consents as they are now let him know of a version, as it and as the current one is."""
        told, patient = self.access.disclosure, bearer(resource)
        if told is None:
            return True
        if patient is None:
            return resource["resourceType"] in NO_ONES
        if resource["resourceType"] != "Patient" and not patients_in(resource) <= {patient}:
            return False
        said = [one for (type_, _), one in world.current.items() if type_ == "Consent" and bearer(one) == patient]
        now = world.latest[resource["resourceType"], resource["id"]]
        if told.opened == patient:
            return "PSYTHPN" not in {*labels_of(resource), *labels_of(now)}
        held = {"/".join(place): one for place, one in world.latest.items()}
        return permits(said, labels_of(resource), told, about=resource, held=held) and permits(
            said, labels_of(now), told, about=now, held=held
        )


def caller(chance: random.Random) -> Caller:
    """Return one of the clinic whom scopes narrow, or one outside whom consents narrow, and sometimes scopes too."""
    if chance.random() < 0.5:
        return _of_scopes(chance, None)
    told = Disclosure(
        frozenset(chance.choice([["Organization/h1"], ["Organization/h1"], ["Organization/h2"], []])),
        frozenset([chance.choice(["TREAT", "TREAT", "TREAT", "HPAYMT", "HRESCH", "ETREAT"])]),
        permitted=chance.random() < 0.3,
        opened=aside(chance).choice([*PATIENTS, *(None for _ in range(12))]),
    )
    if chance.random() < 0.3:
        return _of_scopes(chance, told)
    access = Access("whole", None, None, frozenset(), dict.fromkeys(TYPES, EVERYTHING), told)
    return Caller(access, {type_: [(None, None)] for type_ in TYPES})


def bearing(chance: random.Random, *, of_one: bool = True) -> tuple[security.Caller, Caller]:
    """Return the bearer of a token with scopes of its own, of one outside or of the clinic, and the same in Python.

    `of_one`: some of the scopes may be about one patient alone.
    """
    role, user = chance.choice(
        [
            ("clinic-admin", "Practitioner/dan"),
            ("hospital-system", "Organization/h1"),
            ("hospital-system", "Organization/h1"),
            ("hospital-system", "Organization/h2"),
            ("partner-physician", "Practitioner/doc"),
        ]
    )
    mine = chance.choice(PATIENTS)
    scopes = ["system/Subscription.cruds"]
    naive: dict[str, list[tuple[frozenset[str] | None, Naive | None]]] = {}
    for type_ in TYPES:
        able = [one for one in RESTRICTIONS.get(type_, []) if not one[0].startswith("_has")]
        drawn = aside(chance) if type_ == DOCUMENTS else chance
        for _ in range(drawn.choice([0, 1, 1, 1, 2])):
            restriction = drawn.choice([None, None, *able])
            patients = frozenset((mine,)) if of_one and drawn.random() < 0.2 else None
            context, query = (
                "system" if patients is None else "patient",
                "" if restriction is None else f"?{restriction[0]}",
            )
            scopes.append(f"{context}/{type_}.rs{query}")
            to_all = None if type_ in security.DIRECTORY else patients
            naive.setdefault(type_, []).append((to_all, None if restriction is None else restriction[1]))
    told = security.disclosure_of(ROLES, role, user)
    bearer_ = security.Caller(
        "default", client="somebody", user=user, role=role, patient=mine, scopes=parse_scopes(" ".join(scopes)),
        disclosure=told,
    )  # fmt: skip
    return bearer_, Caller(bearer_.access("r"), naive)


def _of_scopes(chance: random.Random, told: Disclosure | None) -> Caller:
    grants: dict[str, tuple[Grant, ...]] = {}
    naive: dict[str, list[tuple[frozenset[str] | None, Naive | None]]] = {}
    mine = frozenset(chance.sample(PATIENTS, chance.choice([1, 1, 2])))
    for type_ in TYPES:
        some: list[Grant] = []
        said: list[tuple[frozenset[str] | None, Naive | None]] = []
        drawn = aside(chance) if type_ == DOCUMENTS else chance
        for _ in range(drawn.choice([0, 1, 1, 2])):
            patients = mine if drawn.random() < 0.6 else None
            restriction = drawn.choice([None, *RESTRICTIONS.get(type_, [])])
            if restriction is None:
                some.append(Grant(patients))
            else:
                pairs = [tuple(one.split("=", 1)) for one in restriction[0].split("&")]
                some.append(Grant(patients, parse_search(type_, pairs, strict=True).criteria))
            said.append((patients, None if restriction is None else restriction[1]))
        if some:
            grants[type_], naive[type_] = tuple(some), said
    return Caller(Access("whole", None, None, frozenset(), grants, told), naive)
