"""Who referred hears how far his referral is: a Task that follows the course, a message at each turn, and never why."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.fhir.json import dump
from shared.fhir.kap import stage_of, with_stage, with_status
from tests.integration.security import consents as privacy
from tests.integration.services.at_intake import EventOf, taking, the_course
from tests.integration.services.course import (
    about,
    care_plan,
    consent,
    order,
    patient,
    referral,
    screening,
    weight,
)

MAIL = [{"system": "email", "value": "partner@example.org"}]


async def referred(intake, *, permits=True, **more):
    """Return a patient whom a partner physician referred, and the referral; `permits`: that he is told of it."""
    partner = await intake.create({"resourceType": "Practitioner", "name": [{"family": "Partner"}], "telecom": MAIL})
    who = await intake.create(patient())
    if permits:
        to = [f"Practitioner/{partner['id']}"]
        await intake.create(privacy.consent(who["id"], privacy.provision("permit", to=to, why=["TREAT"])))
    named = {"requester": about(partner), "identifier": [{"system": "urn:partner", "value": "R-7"}], **more}
    return who, await intake.create(referral(who, authoredOn="2026-11-20", **named))


async def report(intake, asked):
    """Return the Task that reports of a referral: its status, and how far the course is."""
    tasks = await intake.search("Task", focus=f"ServiceRequest/{asked['id']}")
    (task,) = [one for one in tasks if one["code"] == codes.FULFILL.concept()]
    assert task["requester"] == asked["requester"]
    return task["status"], task["businessStatus"]["text"]


async def messages(intake, asked):
    found = [
        one
        for one in await intake.search("Communication")
        if one["topic"]["coding"][0]["code"] == codes.REFERRAL_STATUS.code
    ]
    assert all(one["about"] == [about(asked)] and one["recipient"] == [asked["requester"]] for one in found)
    return [one["payload"][0]["contentString"] for one in found]


async def visit(intake, who, kind):
    react = intake.service.reactions["Encounter"][0]
    began = {"resourceType": "Encounter", "status": "in-progress", "type": [kind.concept()], "subject": about(who)}
    async with intake.record(f"Patient/{who['id']}") as record:
        await react(EventOf("update"), began, record)


async def test_the_referrer_hears_how_far_it_is_from_the_referral_to_the_end(intake, clock):
    who, asked = await referred(intake)
    assert await report(intake, asked) == ("received", "referred")
    await intake.create(screening(who))
    assert await report(intake, asked) == ("received", "screening")
    await intake.call("screen", who)
    assert await report(intake, asked) == ("accepted", "eligible")
    await intake.create(consent(who))
    await intake.create(weight(who))
    await intake.create(care_plan(who))
    ordered = await intake.create(order(who))
    assert await report(intake, asked) == ("accepted", "planned")
    for kind, stage in ((codes.VISIT_PREP, "preparing"), (codes.VISIT_DOSING, "dosing")):
        clock.forward(hours=1)
        await visit(intake, who, kind)
        assert await report(intake, asked) == ("in-progress", stage)
    await intake.update({**ordered, "status": "completed"})
    course = await the_course(intake, who)
    await intake.update(with_status(with_stage(course, "finished", clock.now), "finished", clock.now))
    assert await report(intake, asked) == ("completed", "finished")
    assert (await intake.get("ServiceRequest", asked["id"]))["status"] == "completed"
    told = await messages(intake, asked)
    assert [one.split("psychotherapy ")[1] for one in told] == [
        "was received.",
        "was accepted: the patient may be treated.",
        "is planned: the patient has consented, and treatment is ordered.",
        "is completed: the course of treatment is over.",
    ]
    assert all("R-7 of 2026-11-20" in one and "Moss" not in one for one in told)


async def test_the_referrer_hears_that_it_was_not_accepted_and_never_why(intake):
    who, asked = await referred(intake)
    await intake.create(taking(who, "10438"))
    await intake.create(screening(who))
    await intake.call("screen", who)
    assert await report(intake, asked) == ("rejected", "not-eligible")
    assert (await intake.get("ServiceRequest", asked["id"]))["status"] == "active", "the referrer decides on that"
    said = "".join(await messages(intake, asked))
    tasks = await intake.search("Task", focus=f"ServiceRequest/{asked['id']}")
    for secret in ("heophylline", "I-THEO", "10438", "seizure"):
        assert secret not in said
        assert secret.encode() not in dump(tasks[0])
    assert "was not accepted" in said


async def test_a_course_on_hold_is_reported_as_on_hold_and_a_stopped_one_as_cancelled(intake, clock):
    who, asked = await referred(intake)
    await intake.create(screening(who))
    await intake.call("screen", who)
    signed = await intake.create(consent(who))
    await intake.update({**signed, "status": "inactive"})
    assert await report(intake, asked) == ("on-hold", "consented")
    course = await the_course(intake, who)
    stopped = with_stage(course, "stopped", clock.now, "Prefers another treatment.")
    await intake.update({**stopped, "status": "cancelled"})
    assert await report(intake, asked) == ("cancelled", "stopped")
    assert "another treatment" not in "".join(await messages(intake, asked))


@pytest.mark.parametrize("requester", [None, {"reference": "Practitioner/of-elsewhere"}, "the patient"])
async def test_a_referral_of_nobody_who_can_be_told_opens_a_course_all_the_same(intake, requester):
    who = await intake.create(patient())
    by = about(who) if requester == "the patient" else requester
    await intake.create(referral(who, **({} if by is None else {"requester": by})))
    assert stage_of(await the_course(intake, who)) == "referred"
    assert await intake.search("Communication") == []


async def test_of_two_records_that_are_joined_the_referral_of_either_counts(intake):
    who, asked = await referred(intake)
    twin = await intake.create(patient())
    await intake.create(screening(twin))
    await intake.call("screen", twin)
    assert await the_course(intake, twin) is None
    names = {"source-patient": who, "target-patient": twin}
    await intake.ask("merge", "Patient", *({"name": name, "valueReference": about(one)} for name, one in names.items()))
    course = await the_course(intake, twin)
    assert (stage_of(course), course["referralRequest"]) == ("eligible", [about(asked)])


async def disclosed(intake):
    """Return what the audit says was told to somebody outside."""
    await intake.store.audit.seal()
    return [one.row for one in await intake.store.audit.rows() if one.row.kind == "disclose"]


async def test_without_the_patients_consent_the_message_says_that_there_is_news_and_nothing_of_the_course(intake):
    who, asked = await referred(intake, permits=False)
    await intake.create(taking(who, "10438"))
    await intake.create(screening(who))
    await intake.call("screen", who)
    told = await messages(intake, asked)
    assert told == ["There is news of your referral R-7 of 2026-11-20: log in to read it."] * 2
    assert await disclosed(intake) == []


async def test_what_a_message_tells_the_referrer_is_a_disclosure_until_the_consent_is_withdrawn(intake):
    who, asked = await referred(intake)
    [row] = await disclosed(intake)
    assert (row.recipient, row.patients) == (asked["requester"]["reference"], (who["id"],))
    [permit] = [one for one in await intake.search("Consent") if one["scope"]["coding"][0]["code"] == "patient-privacy"]
    assert row.authorisation == f"Consent/{permit['id']}/_history/1"
    await intake.update({**permit, "status": "inactive"})
    await intake.create(screening(who))
    await intake.call("screen", who)
    assert "was received" in (await messages(intake, asked))[0]
    assert "There is news" in (await messages(intake, asked))[1]
    assert len(await disclosed(intake)) == 1
