"""Outcomes: a finished dose expects its questionnaires, answers are scored, and item 9 is raised with the answer."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.outcomes.service import outcomes as outcomes_service
from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import interval, zulu
from shared.fhir.outcome import Unprocessable
from tests.integration.services.course import START, about

ITEMS = ["44250-9", "44255-8", "44259-0", "44254-1", "44251-7", "44258-2", "44252-5", "44253-3", "44260-8"]
ANSWERS = ["LA6568-5", "LA6569-3", "LA6570-1", "LA6571-9"]
WHO = {"resourceType": "Patient", "id": "ada"}


@pytest.fixture
async def sessions(bench):
    return await bench.open(sessions_service)


@pytest.fixture
async def outcomes(bench):
    return await bench.open(outcomes_service)


def phq9(*scores, **more):
    items = [
        {"linkId": link, "answer": [{"valueCoding": {"system": codes.LOINC, "code": ANSWERS[value]}}]}
        for link, value in zip(ITEMS, scores, strict=False)
        if value is not None
    ]
    return {
        "resourceType": "QuestionnaireResponse",
        "questionnaire": f"{codes.PHQ9_QUESTIONNAIRE}|2026.11.1",
        "status": "completed",
        "subject": about(WHO),
        "authored": "2026-11-22T09:00:00Z",
        "author": about(WHO),
        "item": items,
        **more,
    }


MODERATE = (1, 1, 1, 2, 1, 1, 2, 1, 0)


def visit(status="in-progress", kind=codes.VISIT_DOSING, day=0):
    start = START + timedelta(days=day)
    return {
        "resourceType": "Encounter",
        "status": status,
        "class": codes.Code(codes.ACT_CODE, "AMB").coding(),
        "type": [kind.concept()],
        "subject": about(WHO),
        "episodeOfCare": [{"reference": "EpisodeOfCare/course"}],
        "period": {"start": zulu(start), "end": zulu(start + timedelta(hours=3))},
    }


async def finished(bench, sessions, outcomes, kind=codes.VISIT_DOSING, day=0):
    begun = await sessions.create(visit(kind=kind, day=day))
    done = await sessions.update({**begun, "status": "finished"})
    await bench.deliver(sessions, outcomes)
    return done


def due_of(task):
    return interval(task["restriction"]["period"]["end"])[0]


async def score(outcomes):
    (found,) = await outcomes.search("Observation", patient="ada")
    return found


async def test_a_finished_dosing_session_expects_its_questionnaires_once(bench, sessions, outcomes):
    done = await finished(bench, sessions, outcomes)
    tasks = await outcomes.search("Task", patient="ada", code=codes.EXPECT_QUESTIONNAIRE.token())
    assert {one["encounter"]["reference"] for one in tasks} == {about(done)["reference"]}
    end = START + timedelta(hours=3)
    asked = sorted((one["input"][0]["valueCanonical"].rpartition("/")[2], due_of(one) - START) for one in tasks)
    week, fortnight, hours = timedelta(days=7, hours=3), timedelta(days=14, hours=3), end - START
    assert asked == [
        ("c-ssrs-screener", week),
        ("c-ssrs-since-last-contact", timedelta(0)),
        ("c-ssrs-since-last-contact", hours + timedelta(days=1)),
        ("gad-7", fortnight),
        ("meq-30", hours + timedelta(days=1)),
        ("mood", timedelta(0)),
        ("mood", hours + timedelta(days=1)),
        ("phq-9", timedelta(0)),
        ("phq-9", fortnight),
        ("qids-sr16", week),
    ]
    before = await outcomes.count()
    await bench.deliver(sessions, outcomes, again=True)
    await bench.react_again(sessions, outcomes)
    assert await outcomes.count() == before


async def test_another_visit_expects_nothing(bench, sessions, outcomes):
    await finished(bench, sessions, outcomes, kind=codes.VISIT_PREP)
    assert await outcomes.search("Task") == []


async def test_a_session_entered_in_error_expects_nothing_any_more(bench, sessions, outcomes):
    done = await finished(bench, sessions, outcomes)
    await sessions.update({**done, "status": "entered-in-error"})
    await bench.deliver(sessions, outcomes)
    assert {one["status"] for one in await outcomes.search("Task")} == {"cancelled"}


async def test_a_phq9_is_scored_with_its_severity_and_policy(outcomes):
    answered = await outcomes.create(phq9(*MODERATE))
    found = await score(outcomes)
    assert found["code"]["coding"][0]["code"] == "44261-6"
    assert found["valueQuantity"]["value"] == 10
    assert found["derivedFrom"] == [about(answered)]
    assert found["interpretation"][0]["coding"][0]["code"] == "phq-9-moderate"
    assert found["extension"] == [{"url": codes.EXT_POLICY, "valueString": "2026.11.1"}]
    assert found["category"][0]["coding"][0]["code"] == "survey"
    assert await outcomes.search("Flag") == []


async def test_an_incomplete_response_has_no_total_and_says_what_is_missing(outcomes):
    answered = await outcomes.create(phq9(*MODERATE[:7]))
    assert await outcomes.search("Observation") == []
    (task,) = await outcomes.search("Task", code=codes.COMPLETE_QUESTIONNAIRE.token())
    assert "44253-3, 44260-8" in task["description"]
    await outcomes.update({**answered, "status": "amended", "item": phq9(*MODERATE)["item"]})
    assert (await score(outcomes))["valueQuantity"]["value"] == 10
    (task,) = await outcomes.search("Task", code=codes.COMPLETE_QUESTIONNAIRE.token())
    assert task["status"] == "completed"


async def test_amended_answers_are_scored_again_as_a_new_version(outcomes):
    answered = await outcomes.create(phq9(*MODERATE))
    first = await score(outcomes)
    amended = await outcomes.update({**answered, "status": "amended", "item": phq9(3, 3, 3, 3, 3, 3, 3, 3, 0)["item"]})
    second = await score(outcomes)
    assert second["id"] == first["id"]
    assert (second["status"], second["valueQuantity"]["value"]) == ("amended", 24)
    assert second["meta"]["versionId"] == "2"
    await outcomes.update({**amended, "item": phq9(*MODERATE[:3])["item"]})
    third = await score(outcomes)
    assert third["status"] == "cancelled"
    assert "valueQuantity" not in third


async def test_each_version_of_a_score_says_from_which_answers_it_was_made(outcomes):
    response = await outcomes.create(phq9(*MODERATE))
    await outcomes.update({**response, "status": "amended", "item": phq9(*(3,) * 8, 0)["item"]})
    made = await score(outcomes)
    origins = await outcomes.search("Provenance", target=f"Observation/{made['id']}")
    targets = {one["target"][0]["reference"] for one in origins}
    assert targets == {f"Observation/{made['id']}/_history/{version}" for version in (1, 2)}
    answers = {"reference": f"QuestionnaireResponse/{response['id']}"}
    assert [one["entity"] for one in origins] == [[{"role": "derivation", "what": answers}]] * 2


async def test_answers_entered_in_error_take_their_score_with_them(outcomes):
    answered = await outcomes.create(phq9(*MODERATE))
    await outcomes.update({**answered, "status": "entered-in-error"})
    assert (await score(outcomes))["status"] == "entered-in-error"


async def test_deleted_answers_take_their_score_with_them(outcomes):
    answered = await outcomes.create(phq9(*MODERATE))
    await outcomes.delete(answered)
    assert (await score(outcomes))["status"] == "entered-in-error"


@pytest.mark.parametrize(
    ("response", "raised"),
    [
        (phq9(0, 0, 0, 0, 0, 0, 0, 0, 1), True),
        (phq9(0, 0, 0, 0, 0, 0, 0, 0, 0), False),
        (phq9(None, None, None, None, None, None, None, None, 2), True),
        (phq9(0, 0, 0, 0, 0, 0, 0, 0, 3, status="in-progress"), True),
        (phq9(0, 0, 0, 0, 0, 0, 0, 0, 3, status="entered-in-error"), False),
    ],
)
async def test_a_positive_item_9_is_raised_with_the_answer_even_when_others_are_missing(outcomes, response, raised):
    answered = await outcomes.create(response)
    flags = await outcomes.search("Flag", patient="ada")
    tasks = await outcomes.search("Task", patient="ada", code=codes.ASK_CSSRS.token())
    assert (len(flags), len(tasks)) == ((1, 1) if raised else (0, 0))
    if raised:
        assert tasks[0]["priority"] == "stat"
        assert tasks[0]["focus"] == about(answered)
        await outcomes.update({**answered, "status": "amended"})
        assert len(await outcomes.search("Flag", patient="ada")) == 1


async def test_a_response_fulfils_the_task_that_was_due_first_and_one_only(bench, sessions, outcomes):
    for day in (0, 40):
        await finished(bench, sessions, outcomes, day=day)
    answered = await outcomes.create(phq9(*MODERATE))
    await outcomes.update({**answered, "status": "amended"})
    tasks = await outcomes.search("Task", patient="ada", code=codes.EXPECT_QUESTIONNAIRE.token())
    done = [one for one in tasks if one["status"] == "completed"]
    assert len(done) == 1
    assert done[0]["output"][0]["valueReference"] == about(answered)
    assert done[0]["input"][0]["valueCanonical"] == codes.PHQ9_QUESTIONNAIRE


async def test_a_response_that_names_its_visit_fulfils_that_visits_task(bench, sessions, outcomes):
    await finished(bench, sessions, outcomes)
    second = await finished(bench, sessions, outcomes, day=40)
    await outcomes.create(phq9(*MODERATE, encounter=about(second)))
    tasks = await outcomes.search("Task", patient="ada", status="completed")
    assert [one["encounter"] for one in tasks] == [about(second)]


async def test_a_response_given_before_the_news_of_its_visit_fulfils_the_task_when_the_news_comes(
    bench, sessions, outcomes
):
    begun = await sessions.create(visit(kind=codes.VISIT_DOSING))
    await sessions.update({**begun, "status": "finished"})
    later = zulu(START + timedelta(days=14))
    answered = await outcomes.create(phq9(*MODERATE, encounter=about(begun), authored=later))
    assert await outcomes.search("Task", patient="ada", code=codes.EXPECT_QUESTIONNAIRE.token()) == []
    await bench.deliver(sessions, outcomes)
    (done,) = await outcomes.search("Task", patient="ada", status="completed")
    assert done["output"][0]["valueReference"] == about(answered)
    before = await outcomes.count()
    await bench.react_again(sessions, outcomes)
    assert await outcomes.count() == before


async def test_a_score_is_not_posted(outcomes):
    await outcomes.create(phq9(*MODERATE))
    held = await score(outcomes)
    with pytest.raises(Unprocessable) as error:
        await outcomes.update({**held, "valueQuantity": {**held["valueQuantity"], "value": 2}})
    assert {issue.rule for issue in error.value.issues} == {"O-SCORE"}
    with pytest.raises(Unprocessable):
        await outcomes.delete(held)


async def test_answers_without_a_patient_or_to_another_questionnaire_are_refused(outcomes):
    nobodys = phq9(*MODERATE)
    del nobodys["subject"]
    with pytest.raises(Unprocessable) as error:
        await outcomes.create(nobodys)
    assert {issue.rule for issue in error.value.issues} == {"O-SUBJECT"}
    with pytest.raises(Unprocessable, match="intake"):
        await outcomes.create({**phq9(*MODERATE), "questionnaire": codes.SCREENING_QUESTIONNAIRE})


async def test_answers_given_before_the_session_ended_are_not_those_expected_after_it(bench, sessions, outcomes):
    made = await sessions.create(visit())
    before = zulu(START + timedelta(minutes=5))
    await outcomes.create(phq9(*MODERATE, authored=before, encounter=about(made)))
    await sessions.update({**made, "status": "finished"})
    await bench.deliver(sessions, outcomes)
    assert {one["status"] for one in await outcomes.search("Task", patient="ada")} == {"requested"}


async def test_an_item_answered_twice_is_not_understood_and_its_graver_answer_is_raised(outcomes):
    response = phq9(*MODERATE[:8], 3)
    response["item"].append({**phq9(*MODERATE)["item"][8]})
    await outcomes.create(response)
    assert await outcomes.search("Observation", patient="ada") == []
    assert len(await outcomes.search("Flag", patient="ada")) == 1


async def test_answers_that_got_graver_are_raised_again(outcomes):
    made = await outcomes.create(phq9(*MODERATE[:8], 1))
    (first,) = await outcomes.search("Task", patient="ada")
    await outcomes.update({**first, "status": "completed", "owner": {"reference": "Practitioner/anna"}})
    await outcomes.update({**phq9(*MODERATE[:8], 3), "id": made["id"], "status": "amended"})
    (again,) = await outcomes.search("Task", patient="ada")
    assert again["status"] == "requested"
