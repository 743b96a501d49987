"""Time passes: holds end, who waits is offered what is free, patients are told, missing things are seen in time."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.intake.service import intake as intake_service
from services.scheduling.service import scheduling as scheduling_service
from shared.fhir import codes
from shared.fhir.dates import interval, zulu
from shared.fhir.kap import moment
from shared.fhir.outcome import Unprocessable
from shared.notify.sending import Sending
from shared.runtime.timers import run_once
from tests.integration.services.at_intake import taking
from tests.integration.services.at_scheduling import code, found, ref, schedule, span
from tests.integration.services.course import START, about, appointment, consent, milligrams, planned

DAY = timedelta(days=1)
TELECOM = [{"system": "email", "value": "ada@example.org"}]


@pytest.fixture
async def intake(bench):
    return await bench.open(intake_service)


@pytest.fixture
async def scheduling(bench):
    return await bench.open(scheduling_service)


async def pass_time(scheduling, clock, name, **by):
    clock.forward(**by)
    timer = next(one for one in scheduling.service.timers if one.name == name)
    await run_once(timer, scheduling.service, scheduling.store, clock.now, lambda: None)


async def patient(bench, intake, scheduling):
    who = await intake.create({"resourceType": "Patient", "name": [{"family": "Moss"}], "telecom": TELECOM})
    await bench.deliver(intake, scheduling)
    return who


def prep(who, start, **more):
    made = appointment(who, None, start, visit=codes.VISIT_PREP, **more)
    return {**made, "end": zulu(start + timedelta(hours=1))}


async def therapist(scheduling):
    await scheduling.create(schedule("Practitioner/therapist", "therapist", hours=(("09:00:00", "11:00:00"),)))


async def test_a_hold_ends_after_its_time_and_is_free_again(scheduling, clock):
    await therapist(scheduling)
    find = (*span(0, 3), code("visit-type", "kap-prep"))
    first = found(await scheduling.ask("find", "Appointment", *find))[0]
    (held,) = found(
        await scheduling.ask(
            "hold", "Appointment", {"name": "resource", "resource": first}, ref("patient", "Patient/p")
        )
    )
    await pass_time(scheduling, clock, "holds", minutes=9)
    assert (await scheduling.get("Appointment", held["id"]))["status"] == "pending"
    assert found(await scheduling.ask("find", "Appointment", *find))[0]["start"] > first["start"]
    await pass_time(scheduling, clock, "holds", minutes=1)
    assert (await scheduling.get("Appointment", held["id"]))["status"] == "cancelled"
    assert found(await scheduling.ask("find", "Appointment", *find))[0]["start"] == first["start"]


async def test_a_time_that_is_freed_is_offered_to_who_waits_kept_for_him_and_booked(bench, intake, scheduling, clock):
    await therapist(scheduling)
    monday = interval("2026-11-23")[0] + timedelta(hours=9)
    taken = await scheduling.create(prep({"resourceType": "Patient", "id": "other"}, monday))
    later = await scheduling.create(prep({"resourceType": "Patient", "id": "third"}, monday + timedelta(hours=1)))
    who = await patient(bench, intake, scheduling)
    waiting = await scheduling.create(
        {
            "resourceType": "Appointment",
            "status": "waitlist",
            "serviceType": [codes.VISIT_PREP.concept()],
            "requestedPeriod": [{"start": "2026-11-23", "end": "2026-11-23"}],
            "participant": [{"actor": {"reference": f"Patient/{who['id']}"}, "status": "accepted"}],
        }
    )
    await pass_time(scheduling, clock, "waiting-list", minutes=1)
    assert (await scheduling.get("Appointment", waiting["id"]))["status"] == "waitlist", "nothing is free on that day"

    await scheduling.call("cancel", taken, code("reason", "pat"))
    await pass_time(scheduling, clock, "waiting-list", minutes=1)
    offered = await scheduling.get("Appointment", waiting["id"])
    assert (offered["status"], offered["start"]) == ("pending", zulu(monday))
    (told,) = await scheduling.search("Communication", patient=who["id"])
    assert "Monday, 23 November 2026 at 09:00 (UTC) is free" in told["payload"][0]["contentString"]

    (booked,) = found(await scheduling.ask("book", "Appointment", ref("appt-id", f"Appointment/{waiting['id']}")))
    assert booked["status"] == "booked"
    assert later["status"] == "booked"


async def test_an_offer_that_is_not_taken_goes_to_the_next_who_waits(bench, intake, scheduling, clock):
    await therapist(scheduling)
    first, second = [await patient(bench, intake, scheduling) for _ in range(2)]
    waiting = [
        await scheduling.create(
            {
                "resourceType": "Appointment",
                "status": "waitlist",
                "priority": priority,
                "serviceType": [codes.VISIT_PREP.concept()],
                "requestedPeriod": [{"start": "2026-11-23T10:00:00Z", "end": "2026-11-23T11:00:00Z"}],
                "participant": [{"actor": {"reference": f"Patient/{who['id']}"}, "status": "accepted"}],
            }
        )
        for priority, who in ((5, first), (1, second))
    ]

    async def statuses():
        return [(await scheduling.get("Appointment", one["id"]))["status"] for one in waiting]

    await pass_time(scheduling, clock, "waiting-list", minutes=1)
    assert await statuses() == ["waitlist", "pending"], "the higher priority goes first"
    await pass_time(scheduling, clock, "holds", hours=4)
    assert await statuses() == ["waitlist", "waitlist"]
    await pass_time(scheduling, clock, "waiting-list", minutes=1)
    assert await statuses() == ["pending", "waitlist"]


async def messages(scheduling, who):
    return [
        one["category"][0]["coding"][0]["code"] for one in await scheduling.search("Communication", patient=who["id"])
    ]


async def test_a_patient_is_reminded_a_week_and_a_day_before_each_once(bench, intake, scheduling, clock):
    who = await patient(bench, intake, scheduling)
    booked = await scheduling.create(prep(who, START + 10 * DAY))
    await pass_time(scheduling, clock, "messages", days=2)
    assert await messages(scheduling, who) == []
    await pass_time(scheduling, clock, "messages", days=1)
    await pass_time(scheduling, clock, "messages", hours=1)
    assert await messages(scheduling, who) == ["reminder"]
    await pass_time(scheduling, clock, "messages", days=6)
    assert await messages(scheduling, who) == ["reminder", "reminder"]
    sent = (await scheduling.search("Communication", patient=who["id"]))[-1]
    assert sent["about"] == [{"reference": f"Appointment/{booked['id']}"}]
    assert sent["payload"][0]["contentString"] == "Your visit is on Wednesday, 2 December 2026 at 09:00 (UTC)."


async def test_a_visit_booked_for_tomorrow_is_told_once_and_a_cancelled_one_not_at_all(
    bench, intake, scheduling, clock
):
    who = await patient(bench, intake, scheduling)
    booked = await scheduling.create(prep(who, START + DAY))
    off = await scheduling.create(prep(who, START + 2 * DAY))
    await scheduling.call("cancel", off, code("reason", "pat"))
    await pass_time(scheduling, clock, "messages", hours=1)
    assert await messages(scheduling, who) == ["reminder"]
    assert booked["status"] == "booked"


async def told(scheduling, who):
    found = await scheduling.search("Communication", patient=who["id"])
    return [(one["status"], one["topic"]["text"], one["payload"][0]["contentString"]) for one in found]


async def test_a_cancelled_or_moved_visit_is_told_and_its_reminders_go_out_no_more(bench, intake, scheduling, clock):
    who = await patient(bench, intake, scheduling)
    at = START + timedelta(hours=8)
    booked = await scheduling.create(prep(who, at))
    await pass_time(scheduling, clock, "messages", minutes=1)
    then = "on Sunday, 22 November 2026 at 17:00"
    reminder = (f"Your visit {then}", f"Your visit is {then} (UTC).")
    assert await told(scheduling, who) == [("preparation", *reminder)]
    later = {"name": "start", "valueDateTime": zulu(at + DAY)}
    moved = await scheduling.call("reschedule", booked, later)
    now = f"Your visit {then} (UTC) was moved. It is now on Monday, 23 November 2026 at 17:00 (UTC)."
    news = ("A visit is at another time", f"{now} Please call us if you cannot come then.")
    assert await told(scheduling, who) == [("stopped", *reminder), ("preparation", *news)]
    clock.forward(minutes=1)
    await scheduling.call("cancel", moved, code("reason", "prov"))
    off = "Your visit on Monday, 23 November 2026 at 17:00 (UTC) is cancelled. Please call us if you have questions."
    assert (await told(scheduling, who))[1:] == [("stopped", *news), ("preparation", "A visit is cancelled", off)]


async def test_who_is_put_on_a_visit_and_who_is_taken_off_it_are_told_and_the_patient_that_it_is_another(
    bench, intake, scheduling, clock
):
    who = await patient(bench, intake, scheduling)
    ann, ben, dee = [
        await intake.create(
            {"resourceType": "Practitioner", "telecom": [{"system": "email", "value": f"{one}@kap.org"}]}
        )
        for one in ("ann", "ben", "dee")
    ]
    acts = await intake.create({"resourceType": "PractitionerRole", "practitioner": about(ben)})
    await bench.deliver(intake, scheduling)
    booked = await scheduling.create(prep(who, START + DAY))

    def of(*staff):
        patients = [one for one in booked["participant"] if one["actor"] == about(who)]
        return [*patients, *({"actor": about(one), "status": "accepted"} for one in staff)]

    async def told_since(count):
        found = (await scheduling.search("Communication", patient=who["id"]))[count:]
        names = {who["id"]: "patient", ann["id"]: "ann", ben["id"]: "ben", dee["id"]: "dee"}
        to = (one["recipient"][0]["reference"].rpartition("/")[2] for one in found)
        return {names[id_]: one["payload"][0]["contentString"] for id_, one in zip(to, found, strict=True)}

    booked = await scheduling.update({**booked, "participant": of(ann, dee)})
    count = len(await scheduling.search("Communication", patient=who["id"]))
    booked = await scheduling.update({**booked, "participant": of(acts, dee)})
    then = "on Monday, 23 November 2026 at 09:00 (UTC)"
    assert await told_since(count) == {
        "ann": f"You are not in the visit {then} any more.",
        "ben": f"You are in a visit {then}.",
        "patient": f"Somebody who was to see you at your visit {then} will not be there. "
        "Please call us if you have questions.",
    }
    named_so = await scheduling.update({**booked, "participant": of(ben, dee)})
    assert len(await told_since(count)) == 3, "he is the same, whatever he is called"
    later = {name: zulu(moment(named_so[name]) + DAY) for name in ("start", "end")}
    moved = await scheduling.update({**named_so, **later, "participant": of(ann, dee)})
    now = "on Tuesday, 24 November 2026 at 09:00 (UTC)"
    news = await told_since(count + 3)
    assert news["ann"] == f"You are in a visit {now}."
    assert news["ben"] == f"You are not in the visit {then} any more."
    assert news["dee"] == f"The visit {then} was moved. It is now {now}."
    assert f"It is now {now}." in news["patient"]
    count += 3 + len(news)
    await scheduling.update({**moved, "participant": of(ann, ben, dee)})
    assert await told_since(count) == {"ben": f"You are in a visit {now}."}, "the patient sees whom he expects"


async def test_who_cannot_be_told_of_a_cancelled_visit_is_called(bench, intake, scheduling, clock):
    who = await intake.create({"resourceType": "Patient", "name": [{"family": "Moss"}]})
    await bench.deliver(intake, scheduling)
    booked = await scheduling.create(prep(who, START + DAY))
    await scheduling.call("cancel", booked, code("reason", "prov"))
    (task,) = await scheduling.search("Task", code=codes.TELL_IN_PERSON.token())
    assert (task["status"], task["priority"]) == ("requested", "urgent")


async def test_a_failed_message_shows_in_the_record(bench, intake, scheduling, clock):
    who = await patient(bench, intake, scheduling)
    await scheduling.create(prep(who, START + DAY))
    await pass_time(scheduling, clock, "messages", hours=1)
    await Sending(scheduling.service, scheduling.store, [], clock).once()
    (told,) = await scheduling.search("Communication", patient=who["id"])
    assert told["status"] == "not-done"
    assert "No server for the channel email" in told["statusReason"]["text"]


@pytest.mark.parametrize(("days", "priority"), [(1, "routine"), (3, "urgent")])
async def test_who_could_not_be_told_by_message_is_called_by_a_person(bench, intake, scheduling, clock, days, priority):
    who, booked = await (told_to_nobody if days == 1 else instructed)(bench, intake, scheduling, clock)
    await pass_time(scheduling, clock, "messages", hours=1)
    assert await scheduling.search("Task", code="tell-in-person") == []
    await Sending(scheduling.service, scheduling.store, [], clock).once()
    calls = await scheduling.search("Task", code="tell-in-person")
    assert [(one["for"], one["focus"]) for one in calls] == [(about(who), about(booked))] * len(calls)
    assert priority in [one["priority"] for one in calls]
    assert all("No server for the channel email" in one["description"] for one in calls)
    assert all(one["restriction"]["period"]["end"] == booked["start"] for one in calls)


async def told_to_nobody(bench, intake, scheduling, clock):
    who = await patient(bench, intake, scheduling)
    return who, await scheduling.create(prep(who, START + DAY))


async def instructed(bench, intake, scheduling, clock):
    who, _, booked = await dosing(bench, intake, scheduling, clock, 3 * DAY)
    return who, booked


async def dosing(bench, intake, scheduling, clock, after):
    who, signed, ordered = await planned(intake, clock)
    await intake.update({**who, "telecom": TELECOM})
    therapist_ = await intake.create(
        {
            "resourceType": "Practitioner",
            "name": [{"family": "Reed"}],
            "telecom": [{"system": "email", "value": "t@x.org"}],
        }
    )
    await bench.deliver(intake, scheduling)
    made = appointment(who, ordered, START + after)
    made["participant"][1]["actor"]["reference"] = f"Practitioner/{therapist_['id']}"
    return who, signed, await scheduling.create(made)


async def test_before_a_dosing_session_instructions_are_told_too(bench, intake, scheduling, clock):
    who, _, _ = await dosing(bench, intake, scheduling, clock, 3 * DAY)
    await pass_time(scheduling, clock, "messages", hours=1)
    assert sorted(await messages(scheduling, who)) == ["instruction", "reminder"]


async def test_what_a_visit_needs_by_then_is_flagged_two_days_before_and_cleared(bench, intake, scheduling, clock):
    who, _, booked = await dosing(bench, intake, scheduling, clock, 10 * DAY)
    await pass_time(scheduling, clock, "coming-visits", days=7)
    assert await scheduling.search("Flag", patient=who["id"]) == []
    await pass_time(scheduling, clock, "coming-visits", days=1, minutes=1)
    (flag,) = await scheduling.search("Flag", patient=who["id"])
    assert "S-PREPARED" in flag["code"]["text"]
    assert "S-ESCORT" in flag["code"]["text"]
    held = await scheduling.create(prep(who, START + 5 * DAY, status="fulfilled"))
    escort = {"type": [codes.ESCORT.concept()], "actor": {"display": "his sister"}, "status": "accepted"}
    await scheduling.update({**booked, "participant": [*booked["participant"], escort]})
    await pass_time(scheduling, clock, "coming-visits", minutes=5)
    assert (await scheduling.get("Flag", flag["id"]))["status"] == "inactive"
    assert held["status"] == "fulfilled"


async def test_when_the_ground_is_lost_patient_and_staff_are_told_once(bench, intake, scheduling, clock):
    who, signed, booked = await dosing(bench, intake, scheduling, clock, 10 * DAY)
    await intake.update({**signed, "status": "inactive"})
    await bench.deliver(intake, scheduling)
    told = await scheduling.search("Communication", patient=who["id"])
    assert sorted(one["recipient"][0]["reference"].partition("/")[0] for one in told) == ["Patient", "Practitioner"]
    assert not any("consent" in one["payload"][0]["contentString"].lower() for one in told)
    await bench.react_again(intake, scheduling)
    assert len(await scheduling.search("Communication", patient=who["id"])) == 2

    await intake.create(consent(who))
    await scheduling.call("cancel", booked, code("reason", "prov"))
    assert [one["status"] for one in await scheduling.search("Flag", patient=who["id"])] == ["inactive"]
    assert [one["status"] for one in await scheduling.search("Task", patient=who["id"])] == ["completed"]


@pytest.mark.parametrize(("hours", "asked"), [(0.9, 0), (1.1, 1), (30, 0)])
async def test_a_visit_that_nobody_came_to_is_asked_about_in_time(bench, intake, scheduling, clock, hours, asked):
    who = await patient(bench, intake, scheduling)
    booked = await scheduling.create(prep(who, START))
    await pass_time(scheduling, clock, "missed-visits", hours=hours)
    tasks = await scheduling.search("Task", patient=who["id"], code="nobody-came")
    assert len(tasks) == asked
    if asked:
        await scheduling.call("no-show", booked)
        assert (await scheduling.get("Task", tasks[0]["id"]))["status"] == "completed"


async def test_a_visit_booked_before_bookings_were_kept_holds_its_people_after_the_timer(scheduling, clock):
    first = await scheduling.create(prep({"resourceType": "Patient", "id": "a"}, START + DAY))
    async with scheduling.store.transaction(keys=(), tenant="default") as transaction:
        await transaction.connection.execute("DELETE FROM booking")
    twice = await scheduling.create(prep({"resourceType": "Patient", "id": "b"}, START + DAY))
    await pass_time(scheduling, clock, "bookings", minutes=1)
    (task,) = await scheduling.search("Task", code="double-booked")
    assert task["focus"]["reference"] == f"Appointment/{first['id']}"
    assert twice["status"] == "booked"
    await scheduling.call("cancel", twice, code("reason", "prov"))
    await pass_time(scheduling, clock, "bookings", minutes=1)
    found_ = await attempt(scheduling, prep({"resourceType": "Patient", "id": "c"}, START + DAY))
    assert found_ == {"S-DOUBLE"}


async def attempt(scheduling, resource):
    try:
        await scheduling.create(resource)
    except Unprocessable as error:
        return {issue.rule for issue in error.issues}
    return set()


async def test_who_is_to_hold_a_medicine_is_told_for_how_long_and_never_which(bench, intake, scheduling, clock):
    who, _, _ = await dosing(bench, intake, scheduling, clock, 3 * DAY)
    daily = {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}}
    dosage = [{"timing": daily, "doseAndRate": [{"doseQuantity": milligrams(1)}]}]  # no more than is let pass
    await intake.create(taking(who, "6470", "Lorazepam", dosage=dosage))
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    held = [one["valueDuration"] for one in issue["extension"] if one["url"] == codes.EXT_HOLD_BEFORE]
    assert [(one["value"], one["code"]) for one in held] == [(24, "h")]
    await bench.deliver(intake, scheduling)
    await pass_time(scheduling, clock, "messages", hours=1)
    said = [
        one["payload"][0]["contentString"]
        for one in await scheduling.search("Communication", patient=who["id"])
        if one["category"][0]["coding"][0]["code"] == "instruction"
    ]
    assert len(said) == 1
    assert "held for 24 hours" in said[0]
    assert "orazepam" not in said[0]
    assert "enzo" not in said[0]


async def test_who_waits_with_a_wish_for_somebody_of_a_role_is_offered_a_time(scheduling, clock):
    await therapist(scheduling)
    made = prep({"resourceType": "Patient", "id": "ada"}, START + DAY, status="waitlist")
    waiting = {name: value for name, value in made.items() if name not in ("start", "end")}
    wish = {"type": [codes.ROLES["monitor"].concept()], "status": "needs-action"}
    waiting["participant"] = [wish, made["participant"][0]]
    waiting = await scheduling.create(waiting)
    await pass_time(scheduling, clock, "waiting-list", minutes=1)
    offered = await scheduling.get("Appointment", waiting["id"])
    assert offered["status"] == "pending"
    await pass_time(scheduling, clock, "holds", hours=5)
    assert (await scheduling.get("Appointment", waiting["id"]))["status"] == "waitlist"


async def test_a_visit_that_nobody_held_is_kept_until_it_is_confirmed_for_days_and_then_a_person_is_told(
    scheduling, clock
):
    made = await scheduling.create(prep({"resourceType": "Patient", "id": "a"}, START + 9 * DAY, status="pending"))
    clock.now = moment(made["meta"]["lastUpdated"])
    await pass_time(scheduling, clock, "holds", hours=71)
    assert (await scheduling.get("Appointment", made["id"]))["status"] == "pending"
    assert await scheduling.search("Task", code="tell-in-person") == []
    await pass_time(scheduling, clock, "holds", hours=2)
    assert (await scheduling.get("Appointment", made["id"]))["status"] == "cancelled"
    [task] = await scheduling.search("Task", code="tell-in-person")
    assert task["focus"]["reference"] == f"Appointment/{made['id']}"
    assert "not confirmed in 72 hours" in task["description"]
