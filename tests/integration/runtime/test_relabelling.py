"""What was written before a rule of labels: labelled by it, once, whoever is killed in between."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from shared.fhir.extraction import labels_of
from shared.fhir.json import parse
from shared.runtime.labelling import labels_of_policy
from shared.runtime.ownership import types_of
from shared.runtime.record import open_record
from shared.runtime.relabelling import Relabelling
from shared.runtime.service import Service
from shared.store.access import Access
from shared.store.store import Store

BEFORE = labels_of_policy(None)
UNIT = "Organization/programme"


def marked():
    """Return the rules, with a unit that was marked as a programme."""
    part_2 = msgspec.structs.replace(BEFORE.policy.part_2, units=(UNIT,))
    return replace(BEFORE, policy=msgspec.structs.replace(BEFORE.policy, part_2=part_2))


def service(labels):
    return Service("sessions", "Sessions", types_of("sessions"), labels=labels)


def condition(**more):
    return {"resourceType": "Procedure", "status": "completed", "subject": {"reference": "Patient/ada"}, **more}


@pytest.fixture
async def store(make_database):
    opened = await Store.connect(make_database("sessions"), service="sessions")
    yield opened
    await opened.close()


async def written(store, *resources, clinic="default", labels=BEFORE):
    async with open_record(service(labels), store, Access.unrestricted(clinic), keys=("Patient/ada",)) as record:
        return [parse((await record.create(one)).stored.body) for one in resources]


async def now(store, one, clinic="default"):
    return parse((await store.read(Access.unrestricted(clinic), one["resourceType"], one["id"])).body)


async def test_what_a_unit_wrote_before_it_was_marked_is_labelled_when_it_is_and_everybody_is_told(store):
    """By itself or by its Encounter, in each clinic; what others wrote, and what was deleted, stays as it is."""
    [visit] = await written(
        store,
        {
            "resourceType": "Encounter", "status": "planned", "class": {"code": "AMB"},
            "subject": {"reference": "Patient/ada"}, "serviceProvider": {"reference": UNIT},
        },
    )  # fmt: skip
    by = {"encounter": {"reference": f"Encounter/{visit['id']}"}}
    dose, other, gone = await written(store, condition(**by), condition(), condition(**by))
    [north] = await written(store, condition(performer=[{"actor": {"reference": UNIT}}]), clinic="north")
    async with open_record(service(BEFORE), store, Access.unrestricted(), keys=("Patient/ada",)) as record:
        await record.delete("Procedure", gone["id"])
    events = [one async for one in store.replay.events_since()]
    rules = marked()
    assert await labelled_by(store, rules, batch=2) == 3
    for one, clinic in ((visit, "default"), (dose, "default"), (north, "north")):
        after = await now(store, one, clinic)
        assert set(labels_of(after)) == {*labels_of(one), "42CFRPart2"}
        assert after["meta"]["versionId"] == "2"
        assert {**after, "meta": None} == {**one, "meta": None}
    assert (await now(store, other))["meta"]["versionId"] == "1"
    told = [one async for one in store.replay.events_since()][len(events) :]
    assert {(one.resource_id, one.interaction, "42CFRPart2" in one.labels) for one in told} == {
        (one["id"], "update", True) for one in (visit, dose, north)
    }
    assert await labelled_by(store, rules) == 0
    assert await labelled_by(store, BEFORE) == 0  # a label that no rule says any more stays


async def test_who_goes_on_after_a_crash_labels_the_rest(store):
    made = await written(store, *[condition(performer=[{"actor": {"reference": UNIT}}]) for _ in range(5)])
    rules = marked()
    await store.labelling.begin(rules.digest)
    first = Relabelling(service(rules), rules, store, batch=2)
    assert await first.once()
    progress = await store.labelling.progress(rules.digest)
    assert (progress.looked, progress.changed, progress.finished) == (2, 2, False)
    # A batch whose resources were written, and of which nothing was noted.
    async with store._clinics.acquire() as connection:
        await connection.execute("UPDATE labelling SET after = 0, looked = 0, changed = 0")
    assert await labelled_by(store, rules, batch=2) == 3
    assert [(await now(store, one))["meta"]["versionId"] for one in made] == ["2"] * 5


async def test_what_cannot_be_read_keeps_nothing_else_from_being_labelled(store):
    by = {"performer": [{"actor": {"reference": UNIT}}]}
    first, broken, last = await written(store, condition(**by), condition(**by), condition(**by))
    async with store._clinics.acquire() as connection:
        await connection.execute(
            "UPDATE history h SET body = substr(h.body, 1, 20) FROM resource r WHERE r.rid = h.rid AND r.id = $1",
            broken["id"],
        )
    assert await labelled_by(store, marked()) == 2
    assert [(await now(store, one))["meta"]["versionId"] for one in (first, last)] == ["2", "2"]


async def test_what_a_program_of_the_old_rules_wrote_behind_the_end_is_labelled_when_it_is_gone(store):
    """As in a rolling upgrade: once more, a quarter of an hour after the beginning, and no third time."""
    by = {"performer": [{"actor": {"reference": UNIT}}]}
    await written(store, condition())
    rules = marked()
    assert await labelled_by(store, rules) == 0
    [late] = await written(store, condition(**by))
    work = Relabelling(service(rules), rules, store)
    assert not await work.once()
    assert (await now(store, late))["meta"]["versionId"] == "1"
    async with store._clinics.acquire() as connection:
        await connection.execute(
            "UPDATE labelling SET begun_at = begun_at - interval '16 minutes', "
            "finished_at = begun_at - interval '15 minutes'"
        )
    while await work.once():
        pass
    assert (await now(store, late))["meta"]["versionId"] == "2"
    assert (await store.labelling.progress(rules.digest)).finished
    [later] = await written(store, condition(**by))
    assert not await work.once()
    assert (await now(store, later))["meta"]["versionId"] == "1"


async def test_a_new_database_is_labelled_by_the_rules_from_the_beginning(store):
    rules = marked()
    await store.labelling.begin(rules.digest)
    assert (await store.labelling.progress(rules.digest)).finished
    async with store._clinics.acquire() as connection:
        await connection.execute("UPDATE labelling SET begun_at = begun_at - interval '16 minutes'")
    assert not await Relabelling(service(rules), rules, store).once()
    assert (await store.labelling.progress(rules.digest)).finished  # nobody wrote by other rules: not once more


async def labelled_by(store, rules, **how):
    """Begin by these rules and work to the end; return how many were changed from here on."""
    await store.labelling.begin(rules.digest)
    before = (await store.labelling.progress(rules.digest)).changed
    work = Relabelling(service(rules), rules, store, **how)
    while await work.once():
        pass
    progress = await store.labelling.progress(rules.digest)
    assert progress.finished
    return progress.changed - before
