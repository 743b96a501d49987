"""The course: how it is opened, moved and ended."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.fhir.kap import stage_of, stage_reason, stages_of, with_stage
from shared.fhir.outcome import Unprocessable
from tests.integration.services.at_intake import (
    EventOf,
    outcome,
    rules_of,
    taking,
    the_course,
)
from tests.integration.services.course import (
    about,
    care_plan,
    consent,
    eligible,
    order,
    patient,
    planned,
    referral,
    screening,
    weight,
)


async def test_a_referral_opens_a_course_and_screening_carries_it_on(intake, clock):
    who = await intake.create(patient())
    asked = await intake.create(referral(who))
    course = await the_course(intake, who)
    assert (stage_of(course), course["status"]) == ("referred", "planned")
    assert course["referralRequest"] == [about(asked)]
    clock.forward(hours=1)
    await intake.create({**screening(who, clock.now), "status": "in-progress"})
    assert stage_of(await the_course(intake, who)) == "screening"
    clock.forward(hours=1)
    await intake.create(screening(who, clock.now))
    await intake.call("screen", who)
    course = await the_course(intake, who)
    assert (stage_of(course), course["status"]) == ("eligible", "planned")
    assert stages_of(course) == ["referred", "screening", "eligible"]
    ends = [one["extension"][1]["valuePeriod"].get("end") for one in course["extension"]]
    assert ends == ["2026-11-22T10:00:00.000Z", "2026-11-22T11:00:00.000Z", None]
    await intake.call("screen", who)
    assert await the_course(intake, who) == course


async def test_the_order_of_referral_and_screening_does_not_matter(intake, clock):
    who = await intake.create(patient())
    await intake.create(screening(who))
    assert outcome(await intake.call("screen", who)) == "eligible"
    assert await the_course(intake, who) is None
    asked = await intake.create(referral(who))
    course = await the_course(intake, who)
    assert course["referralRequest"] == [about(asked)]
    assert stage_of(course) == "eligible"


async def test_without_answers_it_is_not_known_and_the_course_stays_in_screening(intake):
    who = await intake.create(patient())
    await intake.create(referral(who))
    assert outcome(await intake.call("screen", who)) == "needs-answers"
    course = await the_course(intake, who)
    assert (stage_of(course), course["status"]) == ("screening", "planned")


async def test_who_is_not_eligible_has_a_cancelled_course_and_another_once_he_is(intake, clock):
    who = await intake.create(patient())
    await intake.create(referral(who))
    taken = await intake.create(taking(who, "10438"))
    await intake.create(screening(who))
    assert outcome(await intake.call("screen", who)) == "not-eligible"
    first = await the_course(intake, who)
    assert (stage_of(first), first["status"]) == ("not-eligible", "cancelled")
    assert stage_reason(first) == "Found not eligible by screening."
    assert first["period"]["end"]
    with pytest.raises(Unprocessable) as error:
        await intake.update({**with_stage(first, "eligible", clock.now), "status": "planned"})
    assert rules_of(error) == {"K-STAGE"}
    await intake.update({**taken, "status": "stopped"})
    before, after = await intake.search("EpisodeOfCare", patient=who["id"])
    assert (before, stage_of(after), after["status"]) == (first, "eligible", "planned")
    assert before["identifier"] != after["identifier"]


@pytest.mark.parametrize("status", ["revoked", "entered-in-error", None])
async def test_a_withdrawn_referral_ends_a_course_that_nobody_agreed_to_and_no_other(intake, clock, status):
    async def withdrawn(who):
        (asked,) = await intake.search("ServiceRequest", patient=who["id"])
        await (intake.delete(asked) if status is None else intake.update({**asked, "status": status}))
        return await the_course(intake, who)

    fresh = await intake.create(patient())
    await intake.create(referral(fresh))
    course = await withdrawn(fresh)
    assert (stage_of(course), course["status"]) == ("stopped", "cancelled")
    assert "referral" in stage_reason(course)
    who, _, _ = await planned(intake, clock)
    assert (await withdrawn(who))["status"] == "active"


async def test_a_stopped_course_says_why_and_its_referral_opens_no_other(intake, clock):
    who = await eligible(intake, clock)
    course = await the_course(intake, who)
    with pytest.raises(Unprocessable) as error:
        await intake.update({**with_stage(course, "stopped", clock.now), "status": "cancelled"})
    assert rules_of(error) == {"K-REASON"}
    stopped = {**with_stage(course, "stopped", clock.now, "The patient moved away."), "status": "cancelled"}
    await intake.update(stopped)
    await intake.call("screen", who)
    assert stage_reason(await the_course(intake, who)) == "The patient moved away."


async def test_what_a_course_has_been_through_stays(intake, clock):
    who, _, _ = await planned(intake, clock)
    course = await the_course(intake, who)
    for changed in (course["extension"][1:], course["extension"][-1:]):
        with pytest.raises(Unprocessable) as error:
            await intake.update({**course, "extension": changed})
        assert rules_of(error) == {"K-STAGE"}


async def test_a_decision_on_eligibility_is_only_taken_back_as_an_error_and_takes_its_course_with_it(intake, clock):
    who = await eligible(intake, clock)
    (decision,) = await intake.search("RiskAssessment", patient=who["id"])
    for status in ("cancelled", "preliminary"):
        with pytest.raises(Unprocessable, match="screen"):
            await intake.update({**decision, "status": status})
    await intake.update({**decision, "status": "entered-in-error"})
    (course,) = await intake.search("EpisodeOfCare", patient=who["id"])
    assert course["status"] == "onhold"


async def test_consent_plan_and_order_move_the_course_to_planned(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(consent(who))
    assert stage_of(await the_course(intake, who)) == "consented"
    await intake.create(care_plan(who))
    assert stage_of(await the_course(intake, who)) == "consented"
    await intake.create(weight(who))
    await intake.create(order(who))
    course = await the_course(intake, who)
    assert (stage_of(course), course["status"]) == ("planned", "active")
    stages = [one["extension"][0]["valueCode"] for one in course["extension"]]
    assert stages == ["referred", "screening", "eligible", "consented", "planned"]


async def test_a_finding_after_the_plan_puts_the_course_on_hold(intake, clock):
    who, _, _ = await planned(intake, clock)
    clock.forward(days=3)
    await intake.create(screening(who, clock.now, E12=True))
    assert outcome(await intake.call("screen", who)) == "not-eligible"
    assert (await the_course(intake, who))["status"] == "onhold"


async def test_a_course_is_not_opened_or_moved_by_hand(intake, clock):
    who = await eligible(intake, clock)
    course = await the_course(intake, who)
    with pytest.raises(Unprocessable) as error:
        await intake.create({key: value for key, value in course.items() if key != "id"})
    assert rules_of(error) == {"K-COURSE"}
    with pytest.raises(Unprocessable) as error:
        await intake.update(with_stage(course, "dosing", clock.now))
    assert rules_of(error) == {"K-STAGE"}


async def test_a_course_that_ends_before_its_first_dose_is_cancelled_and_stays_so(intake, clock):
    who = await eligible(intake, clock)
    course = await the_course(intake, who)
    stopped = with_stage(course, "stopped", clock.now, "The patient does not want it.")
    for status in ("planned", "active", "finished"):
        with pytest.raises(Unprocessable) as error:
            await intake.update({**stopped, "status": status})
        assert rules_of(error) == {"K-STATUS"}
    with pytest.raises(Unprocessable) as error:
        await intake.update({**course, "status": "cancelled"})
    assert rules_of(error) == {"K-STATUS"}
    ended = await intake.update({**stopped, "status": "cancelled"})
    with pytest.raises(Unprocessable) as error:
        await intake.update({**with_stage(ended, "eligible", clock.now), "status": "planned"})
    assert rules_of(error) == {"K-STAGE"}


async def test_a_visit_that_begins_moves_the_course_once(intake, clock):
    who, _, _ = await planned(intake, clock)
    visit = {
        "resourceType": "Encounter",
        "id": "visit",
        "status": "in-progress",
        "type": [codes.VISIT_DOSING.concept()],
        "subject": about(who),
    }
    react = intake.service.reactions["Encounter"][0]
    for _ in range(2):
        async with intake.record(f"Patient/{who['id']}") as record:
            await react(EventOf("update"), visit, record)
    course = await the_course(intake, who)
    assert stage_of(course) == "dosing"
    assert [one["extension"][0]["valueCode"] for one in course["extension"]].count("dosing") == 1


async def test_another_episode_does_not_become_a_course_nor_a_course_another_episode(intake, clock):
    who = await eligible(intake, clock)
    (course,) = await intake.search("EpisodeOfCare", patient=who["id"])
    other = {"resourceType": "EpisodeOfCare", "status": "active", "patient": about(who)}
    other = await intake.create(other)
    no_longer = {key: one for key, one in course.items() if key not in ("type", "meta")}
    for change in ({**other, "type": course["type"]}, no_longer):
        with pytest.raises(Unprocessable) as error:
            await intake.update(change)
        assert {issue.rule for issue in error.value.issues} == {"K-COURSE"}
