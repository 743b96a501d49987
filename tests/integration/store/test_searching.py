from __future__ import annotations

import asyncio
import re

import pytest

from shared.fhir.definitions import search_parameters, type_table
from shared.fhir.extraction import compartment_key
from shared.fhir.outcome import BadRequest
from shared.fhir.query import parse_search
from shared.store.access import Access
from shared.store.predicates import SINGLE_SUBJECT, SUBJECT_PARAMETERS
from shared.store.store import Store
from shared.testing.writes import write_of

ALL = Access.unrestricted()


def observation(id_: str, patient: str = "p1", **more):
    return {
        "resourceType": "Observation",
        "id": id_,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]},
        "subject": {"reference": f"Patient/{patient}"},
        **more,
    }


async def found(store: Store, type_: str, *pairs: tuple[str, str], access: Access = ALL) -> list[str]:
    page = await store.search(access, parse_search(type_, pairs, strict=True))
    return [entry.id for entry in page.entries]


async def fill(store: Store, number: int, **more) -> None:
    for n in range(number):
        day = {"effectiveDateTime": f"2026-11-{1 + n % 9:02}"} if n % 5 else {}
        await store.write(ALL, write_of(observation(f"o{n:03}", f"p{n % 3}", **day, **more)))


@pytest.mark.parametrize("sort", [None, "date", "-date", "_id", "-_lastUpdated", "-date,_id"])
async def test_paging_repeats_and_skips_nothing_while_others_write(store: Store, sort):
    """What exists throughout comes once, forth and back, while other resources come, change and go."""
    await fill(store, 60)
    stays = {f"o{n:03}" for n in range(60) if n % 4}
    pairs = [("code", "8480-6"), ("_count", "7")] + ([("_sort", sort)] if sort else [])
    query = parse_search("Observation", pairs, strict=True)
    number = 0

    async def disturb() -> None:
        nonlocal number
        for _ in range(3):
            id_, number = f"o{number * 4 % 60:03}", number + 1
            resource = observation(id_, "p1", effectiveDateTime=f"2026-11-{1 + number % 28:02}")
            gone = (await store.find(ALL, "Observation", id_)).deleted
            await store.write(ALL, write_of(resource, "update" if gone or number % 2 else "delete"))
            await store.write(ALL, write_of(observation(f"new{number}", effectiveDateTime="2026-11-05")))

    async def walk(page, step: str) -> tuple[list[str], object]:
        seen = [entry.id for entry in page.entries]
        while getattr(page, step) is not None:
            last = page
            await disturb()
            page = await store.search(ALL, query, cursor=getattr(page, step))
            part = [entry.id for entry in page.entries]
            seen = seen + part if step == "next" else part + seen
            page = page if page.entries else last
            if not part:
                break
        return seen, page

    forth, last = await walk(await store.search(ALL, query), "next")
    assert [id_ for id_ in forth if id_ in stays] == list(dict.fromkeys(id_ for id_ in forth if id_ in stays))
    assert stays <= set(forth)
    back, _ = await walk(last, "previous")
    assert [id_ for id_ in back if id_ in stays] == [id_ for id_ in forth if id_ in stays]


async def test_a_search_sees_only_what_its_access_allows(store: Store):
    label = {"meta": {"security": [{"code": "ETH"}]}}
    await store.write(ALL, write_of(observation("o1", "p1")))
    await store.write(ALL, write_of(observation("o2", "p2")))
    await store.write(ALL, write_of(observation("o3", "p1", **label)))
    one_patient = Access("default", None, frozenset({"p1"}), frozenset(), None)
    unlabelled = Access("default", None, None, frozenset({"ETH"}), None)
    assert await found(store, "Observation") == ["o1", "o2", "o3"]
    assert await found(store, "Observation", access=one_patient) == ["o1", "o3"]
    assert await found(store, "Observation", ("patient", "p2"), access=one_patient) == []
    assert await found(store, "Observation", ("patient", "p1"), access=unlabelled) == ["o1"]
    assert await found(store, "Observation", access=Access.unrestricted(origin="sessions")) == []
    assert await found(store, "Observation", access=Access.unrestricted("elsewhere")) == []
    query = parse_search("Observation", [("_total", "accurate"), ("_count", "0")], strict=True)
    assert (await store.search(unlabelled, query)).total == 2
    assert (await store.search(one_patient, query)).total == 2


async def test_a_patient_that_is_one_of_several_is_found_all_the_same(store: Store):
    """An Appointment of two patients bears one of them in its index rows, and is found by both."""
    participants = [{"actor": {"reference": f"Patient/{id_}"}, "status": "accepted"} for id_ in ("p1", "p2")]
    group = {"resourceType": "Appointment", "id": "a1", "status": "booked", "participant": participants}
    await store.write(ALL, write_of(group))
    for id_ in ("p1", "p2"):
        assert await found(store, "Appointment", ("patient", id_)) == ["a1"]


@pytest.mark.parametrize("type_", sorted(SINGLE_SUBJECT))
def test_types_searched_by_patient_column_name_one_subject(type_):
    elements = type_table(type_).elements[""]
    for code in SUBJECT_PARAMETERS & set(search_parameters(type_)):
        expression = search_parameters(type_)[code].expression.split(".where(")[0]
        _, element = expression.split(".")
        [definition] = [one for one in elements if re.match(rf"{element}\b", one)]
        assert "*" not in definition, definition
        resource = {"resourceType": type_, "id": "x", element: {"reference": "Patient/p9"}}
        assert compartment_key(resource, type_, "x") == "Patient/p9"


async def test_last_updated_compares_to_the_millisecond(store: Store):
    written = []
    for n in range(3):
        written.append(await store.write(ALL, write_of(observation(f"o{n}"))))
        await asyncio.sleep(0.002)  # each in a millisecond of its own
    moment = written[1].stored.last_updated.strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"
    ids = ["o0", "o1", "o2"]
    expected = {"eq": ids[1:2], "ne": ["o0", "o2"], "gt": ids[2:], "ge": ids[1:], "lt": ids[:1], "le": ids[:2]}
    expected |= {"sa": ids[2:], "eb": ids[:1]}
    for prefix, wanted in expected.items():
        assert await found(store, "Observation", ("_lastUpdated", f"{prefix}{moment}")) == wanted, prefix
    day = moment[:10]
    assert await found(store, "Observation", ("_lastUpdated", day)) == ids
    assert await found(store, "Observation", ("_lastUpdated", f"gt{day}")) == []
    assert await found(store, "Observation", ("_lastUpdated", f"ge{day}")) == ids
    assert "o1" in await found(store, "Observation", ("_lastUpdated", f"ap{moment}"))


async def test_two_dates_may_be_met_by_two_intervals_of_one_resource(store: Store):
    """Each criterion stands alone: a Timing with an early and a late event satisfies "before" and "after" at once."""
    timing = {"event": ["2026-01-01", "2026-12-01"]}
    medication = {
        "resourceType": "Observation",
        "id": "o1",
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": "Patient/p1"},
        "effectiveTiming": timing,
    }
    await store.write(ALL, write_of(medication))
    await store.write(ALL, write_of(observation("o2", effectiveDateTime="2026-06-01")))
    await store.write(ALL, write_of(observation("o3", effectivePeriod={"start": "2026-02-01"})))
    assert await found(store, "Observation", ("date", "lt2026-03-01"), ("date", "gt2026-10-01")) == ["o1", "o3"]
    assert await found(store, "Observation", ("date", "ge2026-06-01"), ("date", "lt2026-06-02")) == ["o1", "o2", "o3"]


@pytest.mark.parametrize("text", ["a\x00b", "\ud800"])
async def test_a_text_that_postgresql_cannot_hold_is_the_callers_error(store: Store, text):
    with pytest.raises(BadRequest):
        await found(store, "Patient", ("identifier", text))
    person = {"resourceType": "Patient", "id": "p1", "identifier": [{"value": text}]}
    with pytest.raises((BadRequest, UnicodeEncodeError)):
        await store.write(ALL, write_of(person))


@pytest.mark.parametrize("cursor", ["", "nonsense", "WzEsMiwzXQ", "é"])
async def test_a_cursor_that_is_none_is_refused(store: Store, cursor):
    with pytest.raises(BadRequest):
        await store.search(ALL, parse_search("Observation", [], strict=True), cursor=cursor)


async def test_a_cursor_of_another_sort_is_refused(store: Store):
    await fill(store, 3)
    page = await store.search(ALL, parse_search("Observation", [("_count", "1"), ("_sort", "date")], strict=True))
    with pytest.raises(BadRequest):
        await store.search(ALL, parse_search("Observation", [("_count", "1")], strict=True), cursor=page.next)


async def test_searches_at_once_on_few_connections_all_answer(store: Store):
    await fill(store, 10)
    results = await asyncio.gather(
        *(found(store, "Observation", *([("patient", "p1")] if n % 2 else [("status", "final")])) for n in range(60))
    )
    assert {len(result) for result in results} == {3, 10}


async def test_a_search_tells_which_index_answered_it_where_it_is_asked(store: Store):
    await store.write(ALL, write_of(observation("o1")))
    plain = await store.search(ALL, parse_search("Observation", [("code", "8480-6")], strict=True))
    assert plain.explained is None
    for code in ("8480-6", "none"):
        query = parse_search("Observation", [("code", code), ("_explain", "true")], strict=True)
        explained = (await store.search(ALL, query)).explained
        assert explained is not None
        assert re.fullmatch(r"Answered in [0-9.]+ ms by ((, )?(index|the whole table) \w+)+\.", explained), explained
        assert "idx_token" in explained
        assert "8480" not in explained
