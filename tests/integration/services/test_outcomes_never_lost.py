"""What a wrong form, a wrong clock, an old amendment or somebody else's Task must not do to an alarm or a score."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.outcomes.service import outcomes as outcomes_service
from shared.fhir import codes
from shared.fhir.codes import KAP, LOINC, Code
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from tests.integration.services.course import START, about
from tests.integration.services.test_outcomes_schedule import dose, heard, visit
from tests.integration.services.test_outcomes_schedule import phq9 as dated_phq9
from tests.integration.services.test_outcomes_suicidality import (
    ANNA,
    CSSRS,
    PHQ9,
    WHO,
    cssrs,
    phq9,
    raised,
    response,
)

GAD7 = ["69725-0", "68509-9", "69733-4", "69734-2", "69735-9", "69689-8", "69736-7"]


@pytest.fixture
async def outcomes(bench):
    return await bench.open(outcomes_service)


@pytest.mark.parametrize(
    ("name", "items", "task"),
    [
        ("gad-7", {PHQ9[8]: {"valueInteger": 1}, **{link: {"valueInteger": 0} for link in GAD7}}, "run-c-ssrs"),
        ("phq-2", {PHQ9[0]: {"valueInteger": 0}, PHQ9[8]: {"valueString": "sometimes"}}, "run-c-ssrs"),
        ("phq-9", {PHQ9[8]: {"valueInteger": 0}, CSSRS[3]: {"valueBoolean": True}}, "evaluate-suicide-risk"),
    ],
)
async def test_an_answer_about_suicide_counts_whichever_instrument_the_form_is_said_to_be(outcomes, name, items, task):
    made = await outcomes.create(response(name, items))
    (one,) = await raised(outcomes, task)
    assert (one["priority"], one["focus"]) == ("stat", about(made))
    assert len(await outcomes.search("Flag", patient="ada")) == 1
    assert len(await outcomes.search("Communication", subject="Patient/ada")) == 1
    count = await outcomes.count()
    await outcomes.update({**response(name, items), "id": made["id"], "status": "amended"})
    assert await outcomes.count() - count <= 1


async def test_a_plain_form_without_such_an_answer_raises_nothing(outcomes):
    await outcomes.create(response("gad-7", {link: {"valueInteger": 3} for link in GAD7}))
    assert await outcomes.search("Flag") == await outcomes.search("Communication") == []


@pytest.mark.parametrize("authored", ["2026-11-21T09:00:00Z", None])
async def test_a_screener_from_before_the_answer_does_not_end_what_asks_for_a_new_one_by_being_amended(
    outcomes, authored
):
    old = {key: value for key, value in cssrs(author=ANNA, authored=authored).items() if value is not None}
    before = await outcomes.create(old)
    await outcomes.create(phq9({"valueInteger": 2}))
    await outcomes.update({**old, "id": before["id"], "status": "amended"})
    (task,) = await raised(outcomes, "run-c-ssrs")
    (flag,) = await outcomes.search("Flag", patient="ada")
    assert (task["status"], flag["status"]) == ("requested", "active")
    await outcomes.create(cssrs(author=ANNA, authored="2026-11-22T09:01:00Z"))
    (task,) = await raised(outcomes, "run-c-ssrs")
    assert task["status"] == "completed"


async def test_no_level_is_said_while_a_missing_answer_could_make_it_graver(outcomes):
    partial = cssrs(1, 2)
    partial["item"] = [one for one in partial["item"] if one["linkId"] != CSSRS[3]]
    made = await outcomes.create(partial)
    assert await outcomes.search("Observation", patient="ada") == []
    assert len(await raised(outcomes, "refer-behavioral-health")) == 1
    (asked,) = await raised(outcomes, "complete-questionnaire")
    assert asked["priority"] == "urgent"
    await outcomes.update({**cssrs(1, 2), "id": made["id"], "status": "amended"})
    (said,) = await outcomes.search("Observation", patient="ada", code=f"{LOINC}|93374-7")
    assert said["valueCodeableConcept"]["coding"][0]["code"] == "LA9194-7"


async def test_answers_that_are_being_changed_have_no_score_until_they_are_finished_again(outcomes):
    made = await outcomes.create(phq9({"valueInteger": 0}))
    await outcomes.update({**phq9({"valueInteger": 0}), "id": made["id"], "status": "in-progress"})
    (score,) = await outcomes.search("Observation", patient="ada")
    assert score["status"] == "entered-in-error"
    await outcomes.update({**phq9({"valueInteger": 0}), "id": made["id"], "status": "amended"})
    (score,) = await outcomes.search("Observation", patient="ada")
    assert (score["status"], score["valueQuantity"]["value"]) == ("amended", 0)


async def test_a_clients_task_cannot_stand_in_the_place_of_an_alarm(outcomes):
    begun = await outcomes.create(phq9({"valueInteger": 0}, status="in-progress"))
    other = await outcomes.create(phq9({"valueInteger": 1}))
    (held,) = await raised(outcomes, "run-c-ssrs")
    name = {**held["identifier"][0], "value": held["identifier"][0]["value"].replace(other["id"], begun["id"])}
    posted = {
        "resourceType": "Task",
        "identifier": [name],
        "status": "requested",
        "intent": "order",
        "code": Code(KAP, "water-the-plants").concept(),
        "for": about(WHO),
        "focus": about(begun),
    }
    code = Code(KAP, "suicidality-item-positive").concept()
    flagged = {"resourceType": "Flag", "status": "inactive", "code": code, "subject": about(WHO)}
    flag_name = {**name, "system": codes.ID_FLAG}
    for made in (posted, {**flagged, "identifier": [flag_name]}):
        with pytest.raises(Unprocessable) as refused:
            await outcomes.create(made)
        assert {issue.rule for issue in refused.value.issues} == {"T-NAME"}
    await outcomes.create({**posted, "identifier": [{"system": "urn:mine", "value": name["value"]}]})
    await outcomes.update({**held, "note": [{"text": "I am looking at it."}]})
    await outcomes.update({**phq9({"valueInteger": 3}), "id": begun["id"]})
    assert {one["focus"]["reference"] for one in await raised(outcomes, "run-c-ssrs")} >= {about(begun)["reference"]}


async def test_a_score_of_a_wrong_clock_does_not_keep_a_later_worsening_quiet(outcomes):
    await outcomes.create(dated_phq9(300, 8))
    await outcomes.create(dated_phq9(-14, 8))
    await outcomes.create(dated_phq9(0, 20))
    assert len(await outcomes.search("Task", patient="ada", code=codes.PRESCRIBER_REVIEW.token())) == 1


async def test_a_visit_without_a_dose_does_not_move_the_baseline(outcomes):
    await heard(outcomes, "sessions", visit("held", "finished", day=-10))
    for day, total in ((-20, 24), (-5, 12)):
        await outcomes.create(dated_phq9(day, total))
    await heard(outcomes, "sessions", visit("given", "in-progress"))
    await heard(outcomes, "sessions", dose("m", "given", 10))
    await heard(outcomes, "sessions", visit("given", "finished"), 2)
    await outcomes.create(dated_phq9(14, 12))
    found = {one["effectiveDateTime"]: one for one in await outcomes.search("Observation", patient="ada")}
    at = {day: found[zulu(START + timedelta(days=day))] for day in (-20, -5, 14)}
    assert at[14]["derivedFrom"][1] == about(at[-5])
    assert len(at[-5]["derivedFrom"]) == 1


async def test_the_screener_since_last_contact_raises_and_ends_as_the_screener_does(outcomes):
    def since(*positive, **more):
        return response(
            "c-ssrs-since-last-contact",
            {f"cssrs-slc-{number}": {"valueBoolean": number in positive} for number in range(1, 7)},
            **more,
        )

    await outcomes.create(phq9({"valueInteger": 1}))
    await outcomes.create(since(author=about(WHO)))
    (task,) = await raised(outcomes, "run-c-ssrs")
    assert task["status"] == "requested"
    await outcomes.create(since(6, author=ANNA))
    (task,) = await raised(outcomes, "run-c-ssrs")
    assert task["status"] == "completed"
    (high,) = await raised(outcomes, "evaluate-suicide-risk")
    assert high["priority"] == "stat"
    levels = await outcomes.search("Observation", patient="ada", code=f"{LOINC}|93374-7")
    assert {one["valueCodeableConcept"]["coding"][0]["code"] for one in levels} == {
        "no-suicide-risk-identified",
        "LA9193-9",
    }


async def test_the_screener_also_answers_what_is_expected_since_the_last_contact(outcomes):
    await heard(outcomes, "sessions", visit("v", "arrived"))
    await outcomes.create(cssrs(author=ANNA, encounter={"reference": "Encounter/v"}))
    (done,) = await outcomes.search("Task", patient="ada", status="completed")
    assert [one["valueCanonical"].rpartition("/")[2] for one in done["input"]] == [
        "c-ssrs-since-last-contact",
        "c-ssrs-screener",
    ]
