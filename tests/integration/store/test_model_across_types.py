"""Searches that lead across types, against a model of a few lines: every modifier inside every chain and `_has`.

The model knows FHIR's words only: a chain holds where some resource that is referred to, and that the caller may see,
satisfies what stands behind the dot, negation and absence included; `_has` where some resource that refers here does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from itertools import combinations, count
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from shared.fhir.query import parse_search
from shared.store.access import Access
from shared.store.store import Store
from shared.testing.writes import write_of

PATIENTS, ENCOUNTERS, OBSERVATIONS = ("ada", "bob", "eve"), ("e0", "e1", "e2"), tuple(f"o{n}" for n in range(6))
HIDDEN = "ETH"
tenants = count()

Resource = dict[str, Any]
Rule = Callable[[Resource, dict[str, Resource]], bool]
"""Tells whether a resource matches, among all that the caller may see, by ``Type/id``."""
Asked = tuple[str, str, Rule]
"""A parameter as it stands before ``=``, its value, and the rule that it means."""
Search = tuple[str, list[Asked], int]
"""A type, the criteria, and the size of a page."""
BIRTHS, DAYS = ("1970-01-01", "1990-05-05"), ("2026-11-01", "2026-11-20")


def without_none(**members: object) -> Resource:
    return {name: value for name, value in members.items() if value is not None}


def to(type_: str, id_: str | None) -> dict[str, str] | None:
    return None if id_ is None else {"reference": f"{type_}/{id_}"}


def person(id_: str, name: str | None, gender: str | None, birth: str | None) -> Resource:
    names = None if name is None else [{"family": name}]
    return {"resourceType": "Patient", "id": id_, **without_none(name=names, gender=gender, birthDate=birth)}


def visit(id_: str, status: str, patient: str | None) -> Resource:
    return {"resourceType": "Encounter", "id": id_, **without_none(status=status, subject=to("Patient", patient))}


def finding(
    id_: str,
    status: str,
    category: str | None,
    text: str | None,
    patient: str | None,
    encounter: str | None,
    day: str | None,
    member: str | None,
) -> Resource:
    members = without_none(
        status=status,
        category=None if category is None else [{"coding": [{"system": "urn:c", "code": category}]}],
        valueString=text,
        subject=to("Patient", patient),
        encounter=to("Encounter", encounter),
        effectiveDateTime=day,
        hasMember=None if member is None else [to("Observation", member)],
    )
    return {"resourceType": "Observation", "id": id_, **members}


def maybe(values: Iterable[str]) -> st.SearchStrategy[str | None]:
    return st.none() | st.sampled_from(list(values))


@st.composite
def worlds(draw: st.DrawFn) -> list[Resource]:
    """Three patients, their encounters and observations, some of them hidden, some never written."""
    names, genders = maybe(["Ada", "Adam", "Bob"]), maybe(["male", "female"])
    made = [person(id_, draw(names), draw(genders), draw(maybe(BIRTHS))) for id_ in PATIENTS]
    statuses = st.sampled_from(["planned", "finished"])
    made += [visit(id_, draw(statuses), draw(maybe(PATIENTS))) for id_ in ENCOUNTERS]
    made += [
        finding(
            id_,
            draw(st.sampled_from(["final", "amended"])),
            draw(maybe(["exam", "survey"])),
            draw(maybe(["Low", "Lower", "High"])),
            draw(maybe(PATIENTS)),
            draw(maybe(ENCOUNTERS)),
            draw(maybe(DAYS)),
            draw(maybe(OBSERVATIONS)),
        )
        for id_ in OBSERVATIONS
    ]
    for one in made:
        if draw(st.integers(0, 6)) == 0:
            one["meta"] = {"security": [{"code": HIDDEN}]}
    return [one for one in made if draw(st.integers(0, 7))]  # what is not there is referred to all the same


CODES: dict[str, dict[str, Callable[[Resource], list[str]]]] = {
    "Patient": {"gender": lambda one: [one[n] for n in ("gender",) if n in one]},
    "Encounter": {"status": lambda one: [one["status"]]},
    "Observation": {
        "status": lambda one: [one["status"]],
        "category": lambda one: [coding["code"] for each in one.get("category", ()) for coding in each["coding"]],
    },
}
TEXTS: dict[str, dict[str, Callable[[Resource], list[str]]]] = {
    "Patient": {"family": lambda one: [each["family"] for each in one.get("name", ())]},
    "Encounter": {},
    "Observation": {"value-string": lambda one: [one[n] for n in ("valueString",) if n in one]},
}
DATES: dict[str, dict[str, Callable[[Resource], list[str]]]] = {
    "Patient": {"birthdate": lambda one: [one[n] for n in ("birthDate",) if n in one]},
    "Encounter": {},
    "Observation": {"date": lambda one: [one[n] for n in ("effectiveDateTime",) if n in one]},
}
WORDS = {
    "gender": ("male", "female"),
    "status": ("final", "amended", "planned", "finished"),
    "category": ("exam", "survey"),
}
LINKS: dict[str, dict[str, tuple[str, str]]] = {
    "Patient": {},
    "Encounter": {"patient": ("subject", "Patient"), "subject:Patient": ("subject", "Patient")},
    "Observation": {
        "patient": ("subject", "Patient"),
        "subject:Patient": ("subject", "Patient"),
        "encounter": ("encounter", "Encounter"),
        "has-member:Observation": ("hasMember", "Observation"),
    },
}
"""By type: a reference parameter as it stands in a chain, the element it reads, and the type that it leads to."""


def links(one: Resource, element: str) -> list[str]:
    held = one.get(element, [])
    return [each["reference"] for each in (held if isinstance(held, list) else [held])]


@cache
def plain(type_: str) -> list[Asked]:
    """Return each criterion on a resource itself, with each modifier that its kind has."""
    every: list[Asked] = []

    def add(name: str, text: str, holds: Callable[[Resource], bool]) -> None:
        every.append((name, text, lambda one, _: holds(one)))

    for kind in (CODES, TEXTS, DATES):
        for name, read in kind[type_].items():
            add(f"{name}:missing", "true", lambda one, read=read: not read(one))
            add(f"{name}:missing", "false", lambda one, read=read: bool(read(one)))
    for name, read in CODES[type_].items():
        for wanted in [{word} for word in WORDS[name]] + [set(WORDS[name][:2])]:
            text = ",".join(sorted(wanted))
            add(name, text, lambda one, read=read, wanted=wanted: bool(set(read(one)) & wanted))
            add(f"{name}:not", text, lambda one, read=read, wanted=wanted: not set(read(one)) & wanted)
    for name, read in TEXTS[type_].items():
        for word in ("ada", "Adam", "low", "High"):
            add(f"{name}:exact", word, lambda one, read=read, word=word: word in read(one))
            add(
                name,
                word,
                lambda one, read=read, word=word: any(value.lower().startswith(word.lower()) for value in read(one)),
            )
    for name, read in DATES[type_].items():
        for day in ("1980-01-01", "2026-11-10"):
            add(name, f"ge{day}", lambda one, read=read, day=day: any(value >= day for value in read(one)))
            add(name, f"lt{day}", lambda one, read=read, day=day: any(value < day for value in read(one)))
    return every


def chained(parameter: str, element: str, target: str, beyond: Asked) -> Asked:
    """Return the criterion that `parameter` leads to a `target` that satisfies another."""
    name, value, rule = beyond

    def leads(one: Resource, seen: dict[str, Resource]) -> bool:
        reached = (seen.get(link) for link in links(one, element) if link.startswith(f"{target}/"))
        return any(other is not None and rule(other, seen) for other in reached)

    return f"{parameter}.{name}", value, leads


def referred(type_: str, source: str, parameter: str, element: str, inner: Asked) -> Asked:
    """Return the criterion that a `source` that satisfies another refers here by `parameter`."""
    name, value, rule = inner

    def is_led_to(one: Resource, seen: dict[str, Resource]) -> bool:
        here = f"{type_}/{one['id']}"
        others = (other for other in seen.values() if other["resourceType"] == source)
        return any(here in links(other, element) and rule(other, seen) for other in others)

    return f"_has:{source}:{parameter}:{name}", value, is_led_to


@cache
def ways(type_: str) -> list[tuple[str, Callable[[Asked], Asked]]]:
    """Return each step from a type to another: that type, and what makes a criterion on it one of the first type."""
    forth = [
        (target, partial(chained, parameter, element, target))
        for parameter, (element, target) in sorted(LINKS[type_].items())
    ]
    back = [
        (source, partial(referred, type_, source, parameter.partition(":")[0], element))
        for source, known in LINKS.items()
        for parameter, (element, target) in sorted(known.items())
        if target == type_ and parameter != "subject:Patient"
    ]
    return forth + back


@st.composite
def asked(draw: st.DrawFn, type_: str, depth: int) -> Asked:
    """A criterion, or a way of `depth` steps at most to one on another resource."""
    if depth == 0 or draw(st.integers(0, 4)) == 0:
        return draw(st.sampled_from(plain(type_)))
    target, lead = draw(st.sampled_from(ways(type_)))
    return lead(draw(asked(target, depth - 1)))


@st.composite
def searches(draw: st.DrawFn) -> Search:
    type_ = draw(st.sampled_from(list(LINKS)))
    criteria = draw(st.lists(st.integers(0, 3).flatmap(partial(asked, type_)), min_size=1, max_size=3))
    return type_, criteria, draw(st.integers(1, 4))


def may_see(access: Access, one: Resource) -> bool:
    """Tell whether a caller knows of a resource: of one of his patients, and without a label that is hidden."""
    if access.hidden_labels and "meta" in one:
        return False
    if access.patients is None:
        return True
    patients = (
        [one["id"]] if one["resourceType"] == "Patient" else [link.partition("/")[2] for link in links(one, "subject")]
    )
    return bool(access.patients & set(patients))


@pytest.fixture(scope="module")
def address(postgres) -> str:
    return postgres.make_database("across")


def every_way() -> Iterator[tuple[str, list[Asked]]]:
    """Yield each criterion behind each step, and each two criteria on one resource."""
    for type_ in LINKS:
        for target, lead in ways(type_):
            yield from ((type_, [lead(one)]) for one in plain(target))
        yield from ((type_, list(two)) for two in combinations(plain(type_), 2))


def some_world(chance: random.Random) -> list[Resource]:
    """Return a larger world, of which nothing is missing."""

    def one_of(*values: str) -> str | None:
        return chance.choice((None, *values))

    people = [f"p{n}" for n in range(8)]
    visits = [f"v{n}" for n in range(12)]
    findings = [f"f{n}" for n in range(40)]
    made = [person(id_, one_of("Ada", "Adam", "Bob"), one_of("male", "female"), one_of(*BIRTHS)) for id_ in people]
    made += [visit(id_, chance.choice(("planned", "finished")), one_of(*people)) for id_ in visits]
    made += [
        finding(
            id_,
            chance.choice(("final", "amended")),
            one_of("exam", "survey"),
            one_of("Low", "Lower", "High"),
            one_of(*people),
            one_of(*visits),
            one_of(*DAYS),
            one_of(*findings),
        )
        for id_ in findings
    ]
    for one in made:
        if chance.random() < 0.15:
            one["meta"] = {"security": [{"code": HIDDEN}]}
    return made


async def test_every_criterion_behind_every_step_and_every_two_together_find_what_the_model_finds(store: Store) -> None:
    world = some_world(random.Random(11))
    every = [(type_, criteria, 100) for type_, criteria in every_way()]
    found = await compare(store, "default", world, set(), every)
    assert len(every) > 700
    assert found > 500, "most of what is asked for is there"


@settings(
    max_examples=60,
    deadline=None,
    phases=[Phase.explicit, Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(
    world=worlds(),
    deleted=st.sets(st.sampled_from([*PATIENTS, *ENCOUNTERS, *OBSERVATIONS]), max_size=2),
    looked_for=st.lists(searches(), min_size=6, max_size=10),
)
def test_every_way_across_types_finds_what_the_model_finds(
    address: str, world: list[Resource], deleted: set[str], looked_for: list[Search]
) -> None:
    asyncio.run(compare_in_a_clinic_of_its_own(address, world, deleted, looked_for))


async def compare_in_a_clinic_of_its_own(
    address: str, world: list[Resource], deleted: set[str], looked_for: list[Search]
) -> None:
    store = await Store.connect(address, service="intake", max_size=1)
    try:
        await compare(store, f"clinic {next(tenants)}", world, deleted, looked_for)
    finally:
        await store.close()


async def compare(store: Store, tenant: str, world: list[Resource], deleted: set[str], looked_for: list[Search]) -> int:
    """Ask for everything as three callers; return how often some were found and some not."""
    unrestricted = Access.unrestricted(tenant)
    of_one = Access(tenant, None, frozenset({world[0]["id"] if world else "nobody"}), frozenset(), None)
    callers = [unrestricted, Access(tenant, None, None, frozenset({HIDDEN}), None), of_one]
    telling = 0
    for one in world:
        await store.write(unrestricted, write_of(one))
    for one in world:
        if one["id"] in deleted:
            await store.write(unrestricted, write_of(one, "delete"))
    held = [one for one in world if one["id"] not in deleted]
    for type_, criteria, size in looked_for:
        pairs = [(name, value) for name, value, _ in criteria]
        for access in callers:
            seen = {f"{one['resourceType']}/{one['id']}": one for one in held if may_see(access, one)}
            among = [one for one in seen.values() if one["resourceType"] == type_]
            wanted = [one["id"] for one in among if all(rule(one, seen) for _, _, rule in criteria)]
            assert await walked(store, access, type_, pairs, size) == (wanted, len(wanted)), (type_, pairs, access)
            telling += 0 < len(wanted) < len(among)
    return telling


async def walked(
    store: Store, access: Access, type_: str, pairs: list[tuple[str, str]], size: int
) -> tuple[list[str], int | None]:
    """Return all matches, page by page, and how many the store counts."""
    query = parse_search(type_, [*pairs, ("_count", str(size)), ("_total", "accurate")], strict=True)
    page = await store.search(access, query)
    ids = [entry.id for entry in page.entries]
    total = page.total
    while page.next is not None:
        page = await store.search(access, query, cursor=page.next)
        assert page.total == total
        ids += [entry.id for entry in page.entries]
    return ids, total
