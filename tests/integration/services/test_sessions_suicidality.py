"""What is answered about suicide before a dose and before leaving: raised by sessions itself, settled by a screener."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.outcomes.service import outcomes as outcomes_service
from shared.fhir import codes
from shared.fhir.codes import ASK_CSSRS, ID_SCORE, KAP, LOINC, Code
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from shared.fhir.validation import validate
from tests.integration.services.bedside import pre_dose
from tests.integration.services.course import about
from tests.integration.services.test_suicidality_before_the_dose import cssrs

ANNA = {"reference": "Practitioner/anna"}
NONE = Code(KAP, "no-suicide-risk-identified")
HIGH = Code(LOINC, "LA9193-9", "High")


async def ask(bedside, **answers):
    """Record the form before a dose; `answers` as in `pre_dose`."""
    return await bedside.sessions.create(pre_dose(bedside.who, bedside.visit, zulu(bedside.clock.now), **answers))


async def screened(bedside, level, *, minutes=0, by=ANNA, id_="level", status="final"):
    """Tell sessions of the level of risk that a screener came to, as outcomes keeps it."""
    return await bedside.tell(
        "outcomes",
        {
            "resourceType": "Observation",
            "id": id_,
            "identifier": [{"system": ID_SCORE, "value": f"{id_}:c-ssrs-screener"}],
            "status": status,
            "code": Code(LOINC, "93374-7", "Suicide risk level").concept(),
            "subject": about(bedside.who),
            "effectiveDateTime": zulu(bedside.clock.now + timedelta(minutes=minutes)),
            "performer": [by],
            "derivedFrom": [{"reference": f"QuestionnaireResponse/{id_}"}],
            "valueCodeableConcept": level.concept(),
        },
    )


async def call_of(opened):
    return await opened.search("Task", code=ASK_CSSRS.token())


async def standing(bedside):
    """Return how the call stands, how its Flag does, and how many were told."""
    (task,), (flag,) = await call_of(bedside.sessions), await bedside.sessions.search("Flag")
    return task["status"], flag["status"], len(await bedside.sessions.search("Communication"))


@pytest.mark.parametrize(
    ("form", "link", "answer"),
    [
        ("pre-dose", "suicidality", {"valueBoolean": True}),
        ("pre-dose", "suicidality", {"valueString": "sometimes"}),
        ("discharge", "safe", {"valueBoolean": False}),
    ],
)
@pytest.mark.parametrize("status", ["completed", "in-progress"])
async def test_a_yes_before_a_dose_or_leaving_calls_somebody_in_its_own_transaction(
    bedside, form, link, answer, status
):
    answers = {
        "resourceType": "QuestionnaireResponse",
        "questionnaire": f"https://kap-exchange.org/fhir/Questionnaire/kap-{form}",
        "status": status,
        "encounter": about(bedside.visit),
        "authored": zulu(bedside.clock.now),
        "item": [{"linkId": "group", "item": [{"linkId": link, "answer": [answer]}]}],
    }
    made = await bedside.sessions.create(answers)
    assert await standing(bedside) == ("requested", "active", 1)
    (task,) = await call_of(bedside.sessions)
    assert (task["priority"], task["focus"], task["for"]) == ("stat", about(made), about(bedside.who))
    assert [one["url"] for one in task["extension"]] == [codes.EXT_ESCALATION]
    assert validate(task) == []
    await bedside.sessions.update({**made, "status": "amended"})
    assert await standing(bedside) == ("requested", "active", 1), "it says the same"


async def test_answers_in_order_and_old_ones_call_nobody(bedside):
    await ask(bedside)
    old = pre_dose(bedside.who, bedside.visit, zulu(bedside.clock.now - timedelta(days=31)), suicidality=True)
    await bedside.sessions.create(old)
    assert await call_of(bedside.sessions) == await bedside.sessions.search("Flag") == []


@pytest.mark.parametrize(
    ("level", "more", "after"),
    [
        (NONE, {}, ("completed", "inactive", 1)),
        (HIGH, {}, ("completed", "active", 1)),
        (NONE, {"minutes": -1}, ("requested", "active", 1)),
        (NONE, {"by": {"reference": "Patient/ada"}}, ("requested", "active", 1)),
    ],
    ids=["no risk", "risk", "run before", "by the patient"],
)
async def test_a_clinicians_screener_ends_the_call_and_where_it_finds_none_the_flag(bedside, level, more, after):
    await ask(bedside, suicidality=True)
    await screened(bedside, level, **more)
    assert await standing(bedside) == after
    (task,) = await call_of(bedside.sessions)
    if after[0] == "completed":
        assert task["owner"] == ANNA
        assert task["output"][0]["valueReference"] == {"reference": "QuestionnaireResponse/level"}
        assert validate(task) == []
    else:
        assert "output" not in task


@pytest.mark.parametrize("status", ["entered-in-error", "cancelled"])
async def test_a_screener_that_is_taken_back_lets_call_and_flag_stand_again(bedside, status):
    await ask(bedside, suicidality=True)
    await screened(bedside, NONE)
    await screened(bedside, NONE, id_="second", minutes=5)
    await screened(bedside, NONE, status=status)
    assert await standing(bedside) == ("completed", "inactive", 1), "the second stands"
    await screened(bedside, NONE, id_="second", minutes=5, status=status)
    assert await standing(bedside) == ("requested", "active", 2)
    (task,) = await call_of(bedside.sessions)
    assert "owner" not in task
    assert "output" not in task


async def test_a_screener_that_is_amended_to_a_risk_puts_the_flag_up_again(bedside):
    await ask(bedside, suicidality=True)
    await screened(bedside, NONE)
    await screened(bedside, HIGH, status="amended")
    assert await standing(bedside) == ("completed", "active", 1)


async def test_answers_that_are_charted_after_the_screener_that_settled_them_call_nobody(bedside):
    asked = zulu(bedside.clock.now - timedelta(minutes=2))
    await screened(bedside, NONE)
    made = await bedside.sessions.create(pre_dose(bedside.who, bedside.visit, asked, suicidality=True))
    assert await standing(bedside) == ("completed", "inactive", 0)
    await screened(bedside, NONE, status="entered-in-error")
    assert await standing(bedside) == ("requested", "active", 1), "it is on record, and stands again"
    (task,) = await call_of(bedside.sessions)
    assert task["focus"] == about(made)


async def test_who_ends_the_call_by_hand_leaves_its_flag_up_until_a_screener_finds_no_risk(bedside):
    await ask(bedside, suicidality=True)
    (task,) = await call_of(bedside.sessions)
    await bedside.sessions.update({**task, "status": "completed", "owner": ANNA})
    assert await standing(bedside) == ("completed", "active", 1)
    await screened(bedside, NONE)
    assert await standing(bedside) == ("completed", "inactive", 1)
    await screened(bedside, NONE, status="entered-in-error")
    assert await standing(bedside) == ("completed", "active", 1), "it was ended by a person all the same"


async def test_an_answer_is_one_call_of_both_services_and_a_screener_at_outcomes_ends_it(bench, bedside):
    outcomes = await bench.open(outcomes_service)
    await ask(bedside, suicidality=True)
    await bench.deliver(bedside.sessions, outcomes)
    assert await call_of(outcomes) == await outcomes.search("Flag") == await outcomes.search("Communication") == []
    bedside.clock.forward(minutes=5)
    run = await outcomes.create(cssrs(bedside.who, bedside.clock.now, author=ANNA))
    await bench.deliver(outcomes, bedside.sessions)
    assert await standing(bedside) == ("completed", "inactive", 1)
    await outcomes.update({**run, "status": "entered-in-error"})
    await bench.deliver(outcomes, bedside.sessions)
    assert await standing(bedside) == ("requested", "active", 2)


async def test_the_flag_that_answers_raised_is_taken_down_by_no_hand(bedside):
    await ask(bedside, suicidality=True)
    (up,) = await bedside.sessions.search("Flag")
    with pytest.raises(Unprocessable, match="C-SSRS"):
        await bedside.sessions.update({**up, "status": "inactive"})


async def test_an_answer_that_is_amended_to_yes_calls_whatever_screener_was_run_before_it_was_amended(bedside):
    made = await ask(bedside)
    await screened(bedside, NONE, minutes=5)
    bedside.clock.forward(minutes=60)
    yes = pre_dose(bedside.who, bedside.visit, made["authored"], suicidality=True)
    await bedside.sessions.update({**yes, "id": made["id"], "status": "amended"})
    assert await standing(bedside) == ("requested", "active", 1)
    await screened(bedside, NONE, minutes=-55, status="amended")
    assert await standing(bedside) == ("requested", "active", 1), "it was run before it"
    (task,) = await call_of(bedside.sessions)
    assert validate(task) == []
    await screened(bedside, NONE, minutes=1, id_="later")
    assert await standing(bedside) == ("completed", "inactive", 1)


async def test_answers_of_a_day_call_whatever_screener_was_run_that_day_and_the_next_ends_it(bedside):
    await screened(bedside, NONE, minutes=-1)
    day = zulu(bedside.clock.now)[:10]
    await bedside.sessions.create(pre_dose(bedside.who, bedside.visit, day, suicidality=True))
    assert await standing(bedside) == ("requested", "active", 1)
    await screened(bedside, NONE, minutes=-1, status="amended")
    assert await standing(bedside) == ("requested", "active", 1)
    await screened(bedside, NONE, minutes=1, id_="later")
    assert await standing(bedside) == ("completed", "inactive", 1)
