"""What a dose stood on is withdrawn while it runs: it is judged again and raised, and nothing is undone."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.fhir.outcome import Unprocessable
from tests.integration.services.bedside import rules_of, vital
from tests.integration.services.course import consent
from tests.integration.services.test_sessions_watching import tasks


async def calls(bedside, status="requested"):
    return await tasks(bedside, codes.GATE_PASSED_CLOSED, status)


async def withdraw_baseline(bedside, base):
    await bedside.sessions.update({**base, "status": "entered-in-error"})


async def move_baseline(bedside, base):
    await bedside.sessions.update({**base, "effectiveDateTime": "2026-11-02T06:00:00Z"})


async def delete_baseline(bedside, base):
    await bedside.sessions.delete(base)


async def amend_answers(bedside, base):
    (asked,) = await bedside.sessions.search("QuestionnaireResponse", patient=bedside.who["id"])
    item = [one for one in asked["item"] if one["linkId"] != "suicidality"]
    said = {"linkId": "suicidality", "answer": [{"valueBoolean": True}]}
    await bedside.sessions.update({**asked, "status": "amended", "item": [*item, said]})


async def withdraw_consent(bedside, base, status="entered-in-error"):
    (signed,) = await bedside.sessions.search("Consent", patient=bedside.who["id"])
    await bedside.tell("intake", {**signed, "status": status})


async def withdraw_order(bedside, base):
    await bedside.tell("intake", {**bedside.ordered, "status": "entered-in-error"})


async def stop_order(bedside, base):
    await bedside.tell("intake", {**bedside.ordered, "status": "stopped"})


async def chart_late(bedside, base):
    await bedside.sessions.create(bedside.vitals(165, 90, minutes=1))


WITHDRAWALS = {
    withdraw_baseline: "G-BP",
    move_baseline: "G-BP",
    delete_baseline: "G-BP",
    amend_answers: "G-SUICIDE",
    withdraw_consent: "G-CONSENT",
    withdraw_order: "G-ORDER",
    stop_order: "G-ORDER",
    chart_late: "G-BP-HOLD",
}


@pytest.mark.parametrize("withdraw", WITHDRAWALS)
async def test_a_dose_whose_ground_is_withdrawn_while_it_runs_calls_and_stays_as_it_is(bedside, withdraw):
    base = await bedside.chart(minutes=3)
    dose = await bedside.start(70)
    bedside.clock.forward(minutes=4 if withdraw is not chart_late else 0)
    assert await calls(bedside) == []
    await withdraw(bedside, base)
    (call,) = await calls(bedside)
    assert WITHDRAWALS[withdraw] in call["description"]
    assert WITHDRAWALS[withdraw] in await bedside.rules()
    held = await bedside.sessions.get("MedicationAdministration", dose["id"])
    assert (held["status"], held["meta"]["versionId"]) == ("in-progress", "1")


async def test_what_was_raised_is_taken_back_where_the_ground_is_there_again(bedside):
    base = await bedside.chart(minutes=3)
    await bedside.start(70)
    bedside.clock.forward(minutes=4)
    await withdraw_baseline(bedside, base)
    again = {key: one for key, one in base.items() if key not in ("id", "meta", "extension")}
    await bedside.sessions.create(again)
    (call,) = await calls(bedside, "completed")
    assert call["statusReason"]["text"] == "What the dose stood on is there again."
    (issue,) = await bedside.sessions.search("DetectedIssue", patient=bedside.who["id"])
    assert issue["status"] == "entered-in-error"


async def test_a_consent_that_ends_speaks_of_the_dose_that_runs_and_not_of_the_one_that_is_over(bedside):
    await bedside.chart(minutes=3)
    dose = await bedside.start(70)
    bedside.clock.forward(minutes=20)
    await bedside.sessions.update({**dose, "status": "completed"})
    await withdraw_consent(bedside, None, "inactive")
    assert await bedside.raised() == [0, 0, 0]
    await withdraw_consent(bedside, None)
    assert await calls(bedside) == []
    (asked,) = await tasks(bedside, codes.REVIEW)
    assert (asked["priority"], "G-CONSENT" in asked["description"]) == ("stat", True)


async def test_readings_after_the_dose_and_a_new_consent_beside_the_old_raise_nothing(bedside):
    await bedside.chart(minutes=3)
    await bedside.start(70)
    bedside.clock.forward(minutes=15)
    later = await bedside.chart()
    await bedside.sessions.update({**later, "status": "entered-in-error"})
    await bedside.sessions.create(bedside.reading(vital(codes.SYSTOLIC, 165, "mm[Hg]")))
    await bedside.tell("intake", consent(bedside.who))
    await withdraw_consent_of(bedside, oldest=True)
    assert await calls(bedside) == []


async def withdraw_consent_of(bedside, *, oldest):
    signed = await bedside.sessions.search("Consent", patient=bedside.who["id"])
    await bedside.tell("intake", {**signed[0 if oldest else -1], "status": "inactive"})


async def test_a_second_ground_that_falls_calls_anew_where_somebody_has_taken_the_first(bedside):
    base = await bedside.chart(minutes=3)
    await bedside.start(70)
    bedside.clock.forward(minutes=4)
    await withdraw_baseline(bedside, base)
    (first,) = await calls(bedside)
    taken = {"status": "accepted", "owner": {"reference": "Practitioner/nurse"}}
    await bedside.sessions.update({**first, **taken})
    await amend_answers(bedside, base)
    (second,) = await calls(bedside)
    assert "G-SUICIDE" in second["description"]
    assert len(await calls(bedside, "accepted")) == 1
    await bedside.sessions.create({key: one for key, one in base.items() if key not in ("id", "meta", "extension")})
    assert [one["id"] for one in await calls(bedside)] == [second["id"]]
    assert await calls(bedside, "accepted") == []


async def test_an_order_that_the_dose_does_not_name_and_a_consent_to_something_else_close_nothing(bedside):
    await bedside.chart(minutes=3)
    dose = await bedside.start(70)
    bedside.clock.forward(minutes=20)
    await bedside.sessions.update({**dose, "status": "completed"})
    await withdraw_consent(bedside, None, "inactive")
    await bedside.tell("intake", {**bedside.ordered, "status": "completed"})
    other = {key: one for key, one in bedside.ordered.items() if key not in ("id", "meta")}
    await bedside.tell("intake", {**other, "status": "entered-in-error"})
    privacy = {"scope": codes.CONSENT_PRIVACY.concept(), "category": [{"text": "Disclosure"}]}
    await bedside.tell("intake", {**consent(bedside.who), **privacy, "status": "entered-in-error"})
    assert await bedside.raised() == [0, 0, 0]


async def test_a_consent_that_was_called_for_and_seen_to_does_not_call_again_by_the_news_of_another(bedside):
    await bedside.chart(minutes=3)
    await bedside.start(70)
    bedside.clock.forward(minutes=4)
    await withdraw_consent(bedside, None, "inactive")
    (call,) = await calls(bedside)
    nurse = {"reference": "Practitioner/nurse"}
    await bedside.sessions.update({**call, "status": "completed", "owner": nurse})
    await bedside.tell("intake", consent(bedside.who, status="entered-in-error"))
    assert await calls(bedside) == []


async def test_a_flag_stays_up_as_long_as_its_task_is_open_and_comes_down_by_hand_where_that_is_gone(bedside):
    await bedside.chart(minutes=3)
    dose = await bedside.start(70)
    bedside.clock.forward(minutes=20)
    await bedside.sessions.update({**dose, "status": "completed"})
    await withdraw_consent(bedside, None)
    (asked,), (up,) = (
        await tasks(bedside, codes.REVIEW),
        await bedside.sessions.search("Flag", patient=bedside.who["id"]),
    )
    with pytest.raises(Unprocessable) as refused:
        await bedside.sessions.update({**up, "status": "inactive"})
    assert rules_of(refused) == {"T-KEEP"}
    await bedside.sessions.delete(asked)
    down = await bedside.sessions.update({**up, "status": "inactive"})
    assert down["status"] == "inactive"
