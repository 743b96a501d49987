"""Group sessions are found by their free places, within what their staff may watch over, and booked."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.scheduling.service import scheduling as scheduling_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from tests.integration.services.at_scheduling import code, found, ref, span
from tests.integration.services.course import START

DAY = START + timedelta(days=2)


@pytest.fixture
async def scheduling(bench):
    return await bench.open(scheduling_service)


async def session(scheduling, places, *actors, start=DAY, visit=codes.VISIT_PREP):
    held = await scheduling.create({"resourceType": "Schedule", "actor": [{"reference": one} for one in actors]})
    return await scheduling.create(
        {
            "resourceType": "Slot",
            "extension": [{"url": codes.EXT_GROUP_PLACES, "valuePositiveInt": places}],
            "serviceType": [codes.GROUP_SESSION.concept(), visit.concept()],
            "schedule": {"reference": f"Schedule/{held['id']}"},
            "status": "free",
            "start": zulu(start),
            "end": zulu(start + timedelta(hours=2)),
        }
    )


def asked(patient, places=1, visit="kap-prep"):
    return (
        *span(0, 9),
        code("visit-type", visit),
        ref("patient", f"Patient/{patient}"),
        {"name": "group", "valueBoolean": True},
        {"name": "places", "valuePositiveInt": places},
    )


async def places(scheduling, patient, count=1):
    return [
        one["slot"][0]["reference"].rpartition("/")[2]
        for one in found(await scheduling.ask("find", "Appointment", *asked(patient, count)))
    ]


async def join(scheduling, patient, number=0):
    offered = found(await scheduling.ask("find", "Appointment", *asked(patient)))[number]
    return await scheduling.ask("book", "Appointment", {"name": "appointment-resource", "resource": offered})


async def test_a_group_is_offered_earliest_first_as_long_as_it_has_places_and_never_twice_to_one(scheduling):
    late = await session(scheduling, 2, "Practitioner/t", "Location/r", start=DAY + timedelta(days=1))
    soon = await session(scheduling, 2, "Practitioner/u", "Location/s")
    assert await places(scheduling, "ada") == [soon["id"], late["id"]]
    await join(scheduling, "ada")
    assert await places(scheduling, "ada") == [late["id"]], "her own time counts"
    assert await places(scheduling, "bo", 2) == [late["id"]], "two have no room in the first"
    await join(scheduling, "bo")
    assert await places(scheduling, "cy") == [late["id"]]
    for name in ("cy", "dee"):
        await join(scheduling, name)
    told = await scheduling.ask("find", "Appointment", *asked("eli"))
    assert found(told) == []
    assert "places free" in told["entry"][0]["resource"]["issue"][0]["diagnostics"]


async def test_no_more_are_offered_a_place_than_the_staff_may_watch_over(scheduling):
    dosing = codes.VISIT_DOSING
    with pytest.raises(Unprocessable) as error:
        await session(scheduling, 3, "Practitioner/t", "Location/r", visit=dosing)
    assert {issue.rule for issue in error.value.issues} == {"S-GROUP"}
    held = await session(scheduling, 4, "Practitioner/t", "Practitioner/m", "Location/r", visit=dosing)
    find = asked("ada", 4, "kap-dosing")
    assert len(found(await scheduling.ask("find", "Appointment", *find))) == 1
    schedule = await scheduling.get("Schedule", held["schedule"]["reference"].rpartition("/")[2])
    await scheduling.update({**schedule, "actor": [one for one in schedule["actor"] if "m" not in one["reference"]]})
    assert found(await scheduling.ask("find", "Appointment", *find)) == [], "one of the two who watch is gone"
    assert len(found(await scheduling.ask("find", "Appointment", *asked("ada", 2, "kap-dosing")))) == 1


async def test_a_visit_that_is_not_held_in_groups_is_refused_and_says_why(scheduling):
    with pytest.raises(Unprocessable) as error:
        await scheduling.ask("find", "Appointment", *asked("ada", 1, "kap-consult"))
    (issue,) = error.value.issues
    assert (issue.rule, bool(issue.source)) == ("S-GROUP", True)


async def test_a_place_in_a_closed_session_is_not_offered(scheduling):
    held = await session(scheduling, 2, "Practitioner/t", "Location/r")
    await scheduling.update({**held, "status": "busy-unavailable"})
    assert await places(scheduling, "ada") == []


def visit(patient, start, *others, **more):
    actors = [f"Patient/{patient}", *others]
    return {
        "resourceType": "Appointment",
        "status": "booked",
        "serviceType": [codes.VISIT_PREP.concept()],
        "start": zulu(start),
        "end": zulu(start + timedelta(hours=1)),
        "participant": [{"actor": {"reference": one}, "status": "accepted"} for one in actors],
        **more,
    }


async def test_a_place_in_a_group_is_of_its_kind_and_time_and_takes_who_is_not_of_the_group(scheduling):
    group = await session(scheduling, 2, "Practitioner/t", "Location/r")
    slot = [{"reference": f"Slot/{group['id']}"}]
    dosing = {"serviceType": [codes.VISIT_CONSULT.concept()]}
    for wrong in (visit("ada", DAY + timedelta(days=4), slot=slot), visit("ada", DAY, slot=slot, **dosing)):
        with pytest.raises(Unprocessable) as error:
            await scheduling.create(wrong)
        assert {issue.rule for issue in error.value.issues} == {"S-GROUP"}
    await scheduling.create(visit("ada", DAY, "Practitioner/t", "Practitioner/x", slot=slot))
    with pytest.raises(Unprocessable, match="Practitioner/x") as error:
        await scheduling.create(visit("bo", DAY, "Practitioner/t", "Practitioner/x", slot=slot))
    assert {issue.rule for issue in error.value.issues} == {"S-DOUBLE"}
    await scheduling.create(visit("bo", DAY, "Practitioner/t", slot=slot))


async def test_who_has_a_place_in_a_group_that_is_off_or_at_another_time_is_called_about(scheduling):
    later = zulu(DAY + timedelta(hours=4))
    changes = (
        {"status": "busy-unavailable"},
        {"status": "entered-in-error"},
        {"start": later, "end": zulu(DAY + timedelta(hours=6))},
        None,
    )
    for number, change in enumerate(changes):
        group = await session(scheduling, 2, f"Practitioner/t{number}", f"Location/r{number}")
        made = visit(f"ada{number}", DAY, slot=[{"reference": f"Slot/{group['id']}"}])
        member = await scheduling.create(made)
        await (scheduling.delete(group) if change is None else scheduling.update({**group, **change}))
        tasks = await scheduling.search(
            "Task", focus=f"Appointment/{member['id']}", code=codes.CLOSED_AND_BOOKED.token()
        )
        assert [one["status"] for one in tasks] == ["requested"], change


async def test_who_is_moved_out_of_his_groups_time_leaves_it_and_takes_his_own_people(scheduling):
    group = await session(scheduling, 1, "Practitioner/t", "Location/r")
    slot = [{"reference": f"Slot/{group['id']}"}]
    member = await scheduling.create(visit("ada", DAY, "Practitioner/t", slot=slot))
    other = DAY + timedelta(days=4)
    moved = await scheduling.call("reschedule", member, {"name": "start", "valueDateTime": zulu(other)})
    assert "slot" not in found(moved)[0] if moved["resourceType"] == "Bundle" else "slot" not in moved
    with pytest.raises(Unprocessable, match="Practitioner/t is taken"):
        await scheduling.create(visit("bo", other, "Practitioner/t"))
    await scheduling.create(visit("cy", DAY, slot=slot))
