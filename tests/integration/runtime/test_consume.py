"""Taking events in on PostgreSQL: each once, in order along a key, with all that follows from it or nothing."""

from __future__ import annotations

import asyncio
import re
from dataclasses import replace

import pytest

from shared.events import codec
from shared.events.codec import UnreadableEvent, decode, encode, unreadable
from shared.events.handler import Outcome, Position
from shared.fhir.extraction import extract
from shared.fhir.history import HistoryQuery
from shared.fhir.ids import subject_uuid
from shared.fhir.json import parse
from shared.fhir.outcome import NotFound
from shared.runtime.consume import ServiceEvents
from shared.runtime.record import open_record
from shared.runtime.service import Service
from shared.store.access import Access
from shared.store.store import Store

ALL = Access.unrestricted()
AT = Position("kap.intake.v1", 3, 17)
INTAKE = Service(name="intake", title="Intake", types=frozenset(("Patient", "Goal", "Organization")))


class Broken(Exception):
    """What a reaction with a fault raises."""


seen = []


async def see(event, patient, record):
    """Note what is held when the event is reacted to."""
    held = await record.get("Patient", event.resource_id)
    seen.append((event.version, held["meta"]["versionId"]))


async def task_for_goal(event, goal, record):
    """Every goal becomes a Task here; one that says so makes the reaction fail."""
    if goal.get("description", {}).get("text") == "break":
        raise Broken("this goal")
    if event.interaction == "create":
        await record.create(
            {
                "resourceType": "Task",
                "status": "requested",
                "intent": "order",
                "focus": {"reference": f"Goal/{goal['id']}"},
                "for": goal["subject"],
            }
        )


SESSIONS = Service(
    name="sessions",
    title="Sessions",
    types=frozenset(("Task",)),
    consumes=("intake",),
    holds=frozenset(("Patient", "Goal")),
    reactions={"Goal": (task_for_goal,)},
)


@pytest.fixture
async def sessions(make_database):
    store = await Store.connect(make_database("sessions"), service="sessions")
    yield store
    await store.close()


@pytest.fixture
def events(sessions):
    return ServiceEvents(SESSIONS, sessions)


async def committed(store):
    return [event async for event in store.replay.events_since()]


async def patient_with_goals(store, *texts):
    """Commit a patient and goals at intake, and return the events of it."""
    async with open_record(INTAKE, store, ALL, keys=()) as record:
        patient = (await record.create({"resourceType": "Patient", "active": True})).stored.id
        for text in texts:
            await record.create(
                {
                    "resourceType": "Goal",
                    "lifecycleStatus": "active",
                    "description": {"text": text},
                    "subject": {"reference": f"Patient/{patient}"},
                }
            )
    return await committed(store)


async def tasks(store):
    async with open_record(SESSIONS, store, ALL, keys=()) as record:
        return await record.search("Task", {})


async def test_an_event_becomes_a_copy_and_what_follows_from_it(store, sessions, events):
    patient, goal = await patient_with_goals(store, "sleep")
    assert [await events.handle(event, AT) for event in (patient, goal)] == [Outcome.APPLIED] * 2
    copy = await sessions.read(ALL, "Goal", goal.resource_id)
    assert copy.body == goal.body
    assert copy.origin == "intake"
    (task,) = await tasks(sessions)
    assert task["focus"]["reference"] == f"Goal/{goal.resource_id}"
    (own,) = await committed(sessions)
    assert (own.source, own.type, own.key) == ("sessions", "Task", patient.key)


async def test_a_repeat_does_nothing(store, sessions, events):
    patient, goal = await patient_with_goals(store, "sleep")
    for event in (patient, goal):
        await events.handle(event, AT)
    assert [await events.handle(event, AT) for event in (patient, goal)] == [Outcome.DUPLICATE] * 2
    assert len(await tasks(sessions)) == 1


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
async def test_who_waits_for_an_event_is_told_when_it_is_taken_in_here(store, sessions, events, together, monkeypatch):
    monkeypatch.setattr("shared.store.inbox._POLL_SECONDS", 60.0)  # longer than the test may take
    made = await patient_with_goals(store, "sleep")
    place = ("sessions", "intake", made[-1].tenant, made[-1].key)
    waiting = [asyncio.create_task(sessions.inbox.await_position(*place, one.sequence, timeout=30)) for one in made]
    await asyncio.sleep(0)
    if together:
        await events.handle_many(made, [AT] * len(made))
    else:
        for event in made:
            await events.handle(event, AT)
    async with asyncio.timeout(10):
        assert await asyncio.gather(*waiting) == [True, True]


async def organizations(store, *names):
    """Commit Organizations, which sessions does not hold, and return their events."""
    for name in names:
        async with open_record(INTAKE, store, ALL, keys=()) as record:
            await record.create({"resourceType": "Organization", "name": name})
    return await committed(store)


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
async def test_a_type_that_is_not_held_passes_by_once_and_its_position_is_known(store, sessions, events, together):
    made = await organizations(store, "St Elsewhere", "Seattle Grace")

    async def take_in(some):
        if together:
            return await events.handle_many(some, [AT] * len(some))
        return [await events.handle(event, AT) for event in some]

    assert await take_in([made[0], *made]) == [Outcome.APPLIED, Outcome.DUPLICATE, Outcome.APPLIED]
    for event in made:
        with pytest.raises(NotFound):
            await sessions.read(ALL, "Organization", event.resource_id)
        assert await sessions.inbox.position("sessions", "intake", event.tenant, event.key) == event.sequence
    assert await take_in(made) == [Outcome.DUPLICATE] * 2


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
async def test_what_passes_by_waits_behind_a_parked_event_of_its_key_all_the_same(store, sessions, events, together):
    made = await organizations(store, "St Elsewhere", "Seattle Grace")
    await events.park(made[0], AT, "Broken: this organization")
    async with open_record(INTAKE, store, ALL, keys=()) as record:
        await record.update({"resourceType": "Organization", "id": made[0].resource_id, "name": "St Eligius"})
    later = (await committed(store))[1:]
    if together:
        outcomes = await events.handle_many(later, [AT] * 2)
    else:
        outcomes = [await events.handle(event, AT) for event in later]
    assert outcomes == [Outcome.APPLIED, Outcome.WAITING]
    assert await sessions.inbox.position("sessions", "intake", made[0].tenant, made[0].key) == 0


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "together"])
async def test_what_is_left_is_not_kept_nor_reacted_to_until_it_is_what_is_held(store, sessions, together):
    leaving = replace(SESSIONS, leaves={"Goal": lambda goal: goal["description"]["text"] == "walk"})
    taking = ServiceEvents(leaving, sessions)
    made = await patient_with_goals(store, "walk", "sleep")
    walk = parse(made[1].body)

    async def take_in(some):
        if together:
            return await taking.handle_many(some, [AT] * len(some))
        return [await taking.handle(event, AT) for event in some]

    assert await take_in(made) == [Outcome.APPLIED] * 3
    with pytest.raises(NotFound):
        await sessions.read(ALL, "Goal", made[1].resource_id)
    assert (await sessions.read(ALL, "Goal", made[2].resource_id)).body == made[2].body
    assert len(await tasks(sessions)) == 1
    assert await sessions.inbox.position("sessions", "intake", made[0].tenant, made[0].key) == made[2].sequence

    async with open_record(INTAKE, store, ALL, keys=()) as record:
        for text in ("rest", "walk"):  # held from the first of these on, and so to its end
            await record.update({**walk, "description": {"text": text}})
    assert await take_in((await committed(store))[3:]) == [Outcome.APPLIED] * 2
    held = await sessions.read(ALL, "Goal", made[1].resource_id)
    assert (held.version, parse(held.body)["description"]["text"]) == (3, "walk")
    assert await take_in(made) == [Outcome.DUPLICATE] * 3


@pytest.mark.parametrize(("searched", "found"), [(True, 1), (False, 0)])
async def test_copies_that_are_not_searched_are_kept_and_reacted_to_without_index_rows(
    store, sessions, searched, found
):
    taking = ServiceEvents(replace(SESSIONS, searches_copies=searched), sessions)
    patient, goal = await patient_with_goals(store, "sleep")
    assert [await taking.handle(event, AT) for event in (patient, goal)] == [Outcome.APPLIED] * 2
    assert (await sessions.read(ALL, "Goal", goal.resource_id)).body == goal.body
    assert len(await tasks(sessions)) == 1
    async with open_record(SESSIONS, sessions, ALL, keys=()) as record:
        assert len(await record.search("Goal", {"lifecycle-status": "active"})) == found


async def test_a_reaction_that_fails_leaves_nothing_behind(store, sessions, events):
    patient, goal = await patient_with_goals(store, "break")
    await events.handle(patient, AT)
    with pytest.raises(Broken):
        await events.handle(goal, AT)
    with pytest.raises(NotFound):
        await sessions.read(ALL, "Goal", goal.resource_id)
    assert await sessions.inbox.position("sessions", "intake", patient.tenant, patient.key) == patient.sequence


async def test_events_of_a_key_wait_behind_a_parked_one_and_others_go_on(store, sessions, events):
    first = await patient_with_goals(store, "break", "sleep")
    everything = await patient_with_goals(store, "walk")
    other = everything[len(first) :]
    await events.handle(first[0], AT)
    await events.park(first[1], AT, "Broken: this goal")
    assert await events.handle(first[2], AT) is Outcome.WAITING
    assert [await events.handle(event, AT) for event in other] == [Outcome.APPLIED] * 2
    assert await events.parked() == {("kap.intake.v1", 3): 2}
    assert len(await tasks(sessions)) == 1


async def test_what_was_parked_is_applied_in_order_when_a_person_says_so(store, sessions, events, monkeypatch):
    patient, broken, waiting = await patient_with_goals(store, "break", "sleep")
    await events.handle(patient, AT)
    await events.park(broken, AT, "Broken: this goal")
    await events.handle(waiting, AT)
    number = (await sessions.parking.list())[0].number

    assert await events.take_up() == 0  # nobody has said so
    await sessions.parking.retry(number)
    assert await events.take_up() == 0  # it fails again, and the one behind it keeps waiting
    parked = await sessions.parking.list()
    assert [one.event_id for one in parked] == [broken.id, waiting.id]
    assert parked[0].attempts == 2

    await sessions.parking.drop(number)
    assert await events.take_up() == 1
    assert await events.parked() == {}
    assert len(await tasks(sessions)) == 1
    assert (await sessions.read(ALL, "Goal", waiting.resource_id)).version == 1


async def test_a_repeat_of_a_parked_event_takes_neither_its_reason_nor_its_turn(store, sessions, events):
    """A relay tells it again after a person has said that it is to be tried again."""
    patient, broken, waiting = await patient_with_goals(store, "break", "sleep")
    await events.handle(patient, AT)
    await events.park(broken, AT, "Broken: this goal")
    await events.handle(waiting, AT)
    await sessions.parking.retry((await sessions.parking.list())[0].number)

    assert await events.handle(broken, AT) is Outcome.WAITING
    assert (await sessions.parking.list())[0].error == "Broken: this goal"
    assert await events.take_up() == 0  # the one behind does not overtake it
    assert [one.event_id for one in await sessions.parking.list()] == [broken.id, waiting.id]


async def test_nothing_is_taken_up_past_an_earlier_event_of_its_key(store, sessions, events):
    patient, broken, waiting = await patient_with_goals(store, "break", "sleep")
    await events.handle(patient, AT)
    await events.park(broken, AT, "Broken: this goal")
    await events.handle(waiting, AT)
    async with sessions.transaction(keys=(), tenant=patient.tenant) as transaction:
        await transaction.connection.execute("UPDATE parked SET due = true WHERE event_id = $1", waiting.id)
    assert await events.take_up() == 0
    assert len(await sessions.parking.list()) == 2


async def test_a_repeat_of_what_was_applied_is_not_parked_behind_what_came_later(store, sessions, events):
    patient, broken, waiting = await patient_with_goals(store, "break", "sleep")
    await events.handle(patient, AT)
    await events.park(broken, AT, "Broken: this goal")
    assert await events.handle(patient, AT) is Outcome.DUPLICATE
    assert await both(events, [patient, waiting]) == [Outcome.DUPLICATE, Outcome.WAITING]
    assert [one.event_id for one in await sessions.parking.list()] == [broken.id, waiting.id]


async def test_a_record_of_a_newer_version_waits_with_its_key_until_the_program_is_newer(
    store, sessions, events, monkeypatch
):
    """Relays were updated before this consumer: what it cannot read is parked whole, and read once it can."""
    patient, goal, later = await patient_with_goals(store, "sleep", "walk")
    newer = encode(goal)
    headers = [(name, text.replace(b".v1", b".v3") if name == "ce_type" else text) for name, text in newer.headers]
    await events.handle(patient, AT)
    with pytest.raises(UnreadableEvent):
        decode(newer.key, newer.value, headers)
    parked = unreadable(newer.key, newer.value, headers, topic="kap.intake.v1", partition=3, offset=18)
    await events.park(parked, AT, "UnreadableEvent: the type is not known")
    assert await events.handle(later, AT) is Outcome.WAITING

    number = (await sessions.parking.list())[0].number
    await sessions.parking.retry(number)
    assert await events.take_up() == 0  # not yet
    assert len(await sessions.parking.list()) == 2

    monkeypatch.setattr(codec, "_TYPE", re.compile(r"org\.kap-exchange\.fhir\.(\w+)\.v([123])"))
    await sessions.parking.retry(number)
    assert await events.take_up() == 2
    assert [task["focus"]["reference"] for task in await tasks(sessions)] == [
        f"Goal/{goal.resource_id}",
        f"Goal/{later.resource_id}",
    ]


async def test_a_deletion_is_taken_in(store, sessions, events):
    patient, goal = await patient_with_goals(store, "sleep")
    async with open_record(INTAKE, store, ALL, keys=(patient.key,)) as record:
        await record.delete("Goal", goal.resource_id)
    for event in await committed(store):
        await events.handle(event, AT)
    assert (await sessions.find(ALL, "Goal", goal.resource_id)).deleted
    assert len(await tasks(sessions)) == 1


# Several together


async def both(events, several):
    return await events.handle_many(several, [AT] * len(several))


async def test_several_events_become_copies_and_what_follows_from_them_in_one_transaction(store, sessions, events):
    first = await patient_with_goals(store, "sleep", "walk")
    everything = await patient_with_goals(store, "eat")
    async with open_record(INTAKE, store, ALL, keys=()) as record:
        await record.create({"resourceType": "Organization", "name": "St Elsewhere"})
    everything = await committed(store)
    await events.handle(first[1], AT)
    outcomes = await both(events, [*everything, everything[0]])
    expected = dict.fromkeys((event.id for event in everything), Outcome.APPLIED) | {first[1].id: Outcome.DUPLICATE}
    assert outcomes == [*expected.values(), Outcome.DUPLICATE]
    for event in everything:
        if event.type != "Organization":
            assert (await sessions.read(ALL, event.type, event.resource_id)).body == event.body
        position = await sessions.inbox.position("sessions", "intake", event.tenant, event.key)
        assert position == max(one.sequence for one in everything if one.key == event.key)
    goals = [event.resource_id for event in everything if event.type == "Goal"]
    assert {task["focus"]["reference"] for task in await tasks(sessions)} == {f"Goal/{goal}" for goal in goals}
    assert await both(events, everything) == [Outcome.DUPLICATE] * len(everything)
    assert len(await tasks(sessions)) == len(goals)


async def test_where_one_of_several_fails_none_has_left_anything(store, sessions, events):
    several = await patient_with_goals(store, "sleep", "break")
    with pytest.raises(Broken):
        await both(events, several)
    for event in several:
        with pytest.raises(NotFound):
            await sessions.read(ALL, event.type, event.resource_id)
    assert await sessions.inbox.position("sessions", "intake", several[0].tenant, several[0].key) == 0
    assert await tasks(sessions) == []
    assert await both(events, several[:2]) == [Outcome.APPLIED] * 2


async def test_of_several_those_of_a_parked_key_wait_in_order_and_the_others_are_applied(store, sessions, events):
    first = await patient_with_goals(store, "break", "sleep", "walk")
    everything = await patient_with_goals(store, "eat")
    await events.handle(first[0], AT)
    await events.park(first[1], AT, "Broken: this goal")
    assert await both(events, everything[2:]) == [Outcome.WAITING] * 2 + [Outcome.APPLIED] * 2
    assert [one.event_id for one in await sessions.parking.list()] == [event.id for event in first[1:]]
    assert await sessions.inbox.position("sessions", "intake", first[0].tenant, first[0].key) == first[0].sequence
    assert len(await tasks(sessions)) == 1


async def test_a_reaction_sees_what_came_before_it_and_nothing_that_came_after(store, sessions):
    (patient,) = await patient_with_goals(store)
    async with open_record(INTAKE, store, ALL, keys=(patient.key,)) as record:
        for active in (False, True):
            await record.update({"resourceType": "Patient", "id": patient.resource_id, "active": active})
    events = ServiceEvents(replace(SESSIONS, reactions={"Patient": (see,)}), sessions)
    seen.clear()
    assert await both(events, await committed(store)) == [Outcome.APPLIED] * 3
    assert seen == [(1, "1"), (2, "2"), (3, "3")]


async def test_a_version_that_is_held_already_is_a_repeat_that_counts_as_applied(store, sessions, events):
    """The gateway holds what it forwarded before the event of it comes."""
    several = await patient_with_goals(store)
    patient = several[0]
    async with sessions.transaction(keys=[patient.key], tenant=patient.tenant) as transaction:
        await transaction.apply_copy(patient, extract(parse(patient.body)), subject_uuid(patient.resource_id))
    async with open_record(INTAKE, store, ALL, keys=(patient.key,)) as record:
        await record.update({"resourceType": "Patient", "id": patient.resource_id, "active": False})
    several = await committed(store)
    assert await sessions.held(patient.tenant, several) == {("intake", patient.id)}
    assert await sessions.held(patient.tenant, [replace(patient, source="outcomes")]) == set()
    assert await both(events, several) == [Outcome.APPLIED] * 2
    assert (await sessions.read(ALL, "Patient", patient.resource_id)).version == 2
    page = await sessions.history(ALL, HistoryQuery("Patient", patient.resource_id))
    assert [entry.body for entry in page.entries] == [event.body for event in reversed(several)]
