"""Suicidality: Flag, Communication, Task with its ladder and safety plan are written with the answer itself."""

from __future__ import annotations

import pytest

from services.outcomes.service import outcomes as outcomes_service
from shared.events.envelope import Event
from shared.events.handler import Position
from shared.fhir.codes import KAP, LOINC, Code
from shared.fhir.extraction import extract
from shared.fhir.json import dump
from shared.fhir.outcome import Unprocessable
from shared.fhir.validation import validate
from shared.runtime.consume import ServiceEvents
from shared.runtime.ownership import INTAKE, OUTCOMES, owner_of
from shared.runtime.timers import run_once
from tests.integration.services.course import START, about

WHO = {"resourceType": "Patient", "id": "ada"}
ANNA = {"reference": "Practitioner/anna"}
PHQ9 = ["44250-9", "44255-8", "44259-0", "44254-1", "44251-7", "44258-2", "44252-5", "44253-3", "44260-8"]
CSSRS = ["93246-7", "93247-5", "93248-3", "93249-1", "93250-9", "93267-3", "93269-9"]


@pytest.fixture
async def outcomes(bench):
    return await bench.open(outcomes_service)


def response(name, answers, **more):
    return {
        "resourceType": "QuestionnaireResponse",
        "questionnaire": f"https://kap-exchange.org/fhir/Questionnaire/{name}",
        "status": "completed",
        "subject": about(WHO),
        "authored": "2026-11-22T09:00:00Z",
        "author": about(WHO),
        "item": [{"linkId": link, "answer": [answer]} for link, answer in answers.items()],
        **more,
    }


def phq9(last, **more):
    return response("phq-9", {**{link: {"valueInteger": 0} for link in PHQ9[:8]}, PHQ9[8]: last}, **more)


def cssrs(*positive, **more):
    code = {True: "LA33-6", False: "LA32-8"}
    answers = {
        link: {"valueCoding": {"system": LOINC, "code": code[number in positive]}}
        for number, link in enumerate(CSSRS, 1)
    }
    return response("c-ssrs-screener", answers, **more)


async def raised(outcomes, code):
    return await outcomes.search("Task", patient="ada", code=Code(KAP, code).token())


@pytest.mark.parametrize(
    ("positive", "level", "task", "priority", "told"),
    [
        ((1, 2, 4), "LA9193-9", "evaluate-suicide-risk", "stat", True),
        ((5,), "LA9193-9", "evaluate-suicide-risk", "stat", True),
        ((6, 7), "LA9193-9", "evaluate-suicide-risk", "stat", True),
        ((6,), "LA6751-7", "review-suicide-risk", "urgent", True),
        ((1, 2, 3), "LA6751-7", "review-suicide-risk", "urgent", True),
        ((1,), "LA9194-7", "refer-behavioral-health", "asap", False),
    ],
)
async def test_each_level_of_the_screener_raises_what_it_calls_for(outcomes, positive, level, task, priority, told):
    answered = await outcomes.create(cssrs(*positive))
    (one,) = await raised(outcomes, task)
    assert (one["priority"], one["focus"]) == (priority, about(answered))
    assert len(await outcomes.search("Flag", patient="ada")) == 1
    assert len(await raised(outcomes, "safety-plan")) == 1
    assert len(await outcomes.search("Communication", subject="Patient/ada")) == (1 if told else 0)
    (observed,) = await outcomes.search("Observation", patient="ada", code=f"{LOINC}|93374-7")
    assert observed["valueCodeableConcept"]["coding"][0]["code"] == level
    for made in (one, observed, *await outcomes.search("Flag"), *await outcomes.search("Communication")):
        assert validate(made) == []


async def test_a_negative_screener_raises_nothing_and_says_so(outcomes):
    await outcomes.create(cssrs())
    assert (
        await outcomes.search("Flag") == await outcomes.search("Task") == await outcomes.search("Communication") == []
    )
    (observed,) = await outcomes.search("Observation", patient="ada")
    assert observed["valueCodeableConcept"]["coding"][0]["code"] == "no-suicide-risk-identified"


async def test_a_screener_with_answers_missing_and_no_sign_says_nothing_of_the_risk(outcomes):
    partial = cssrs()
    del partial["item"][1]
    await outcomes.create(partial)
    assert await outcomes.search("Observation") == []
    (task,) = await outcomes.search("Task")
    assert task["priority"] == "urgent"
    assert CSSRS[1] in task["description"]


async def test_a_risk_that_is_not_known_any_more_is_not_said_any_more(outcomes):
    made = await outcomes.create(cssrs(4))
    partial = cssrs()
    del partial["item"][0]
    await outcomes.update({**partial, "id": made["id"], "status": "amended"})
    (observed,) = await outcomes.search("Observation", patient="ada")
    assert observed["status"] == "cancelled"
    assert "valueCodeableConcept" not in observed
    assert validate(observed) == []


@pytest.mark.parametrize("status", ["in-progress", "completed", "amended", "stopped"])
async def test_a_positive_answer_counts_at_every_status_with_whatever_else_is_missing(outcomes, status):
    one = cssrs(4, status=status)
    one["item"] = [item for item in one["item"] if item["linkId"] == CSSRS[3]]
    await outcomes.create(one)
    (task,) = await raised(outcomes, "evaluate-suicide-risk")
    (told,) = await outcomes.search("Communication", subject="Patient/ada")
    assert told["about"] == [about(task)]


@pytest.mark.parametrize(
    "answer",
    [
        {"valueString": "Nearly every day"},
        {"valueInteger": 9},
        {"valueCoding": {"system": "urn:clinic", "code": "x"}},
        {"valueCoding": {"display": "Several days"}},
        {"valueBoolean": True},
    ],
)
async def test_an_item_9_of_an_odd_form_is_never_only_a_routine_task(outcomes, answer):
    await outcomes.create(phq9(answer))
    (task,) = await raised(outcomes, "run-c-ssrs")
    assert task["priority"] == "stat"
    assert "not understood" in task["description"]
    assert len(await outcomes.search("Communication")) == 1
    assert {one["priority"] for one in await outcomes.search("Task", patient="ada")} == {"stat", "urgent"}


async def test_an_item_9_in_nested_groups_is_raised(outcomes):
    flat = phq9({"valueInteger": 2})
    await outcomes.create({**flat, "item": [{"linkId": "a", "item": [{"linkId": "b", "item": flat["item"]}]}]})
    assert len(await raised(outcomes, "run-c-ssrs")) == 1


@pytest.mark.parametrize("questionnaire", ["https://clinic.example/Questionnaire/our-phq", None])
async def test_an_answer_about_suicide_to_a_questionnaire_that_nobody_knows_is_raised_all_the_same(
    outcomes, questionnaire
):
    one = phq9({"valueInteger": 1})
    one = {key: value for key, value in {**one, "questionnaire": questionnaire}.items() if value}
    assert owner_of(one, origin_of=lambda *_: None) == OUTCOMES
    await outcomes.create(one)
    assert len(await raised(outcomes, "run-c-ssrs")) == 1
    other = {**one, "item": one["item"][:8]}
    assert owner_of(other, origin_of=lambda *_: None) == INTAKE


async def test_nothing_is_raised_twice_by_the_same_answers(outcomes):
    made = await outcomes.create(cssrs(4))
    before = await outcomes.count()
    await outcomes.update({**cssrs(4), "id": made["id"], "status": "amended"})
    assert await outcomes.count() == before + 1


async def test_answers_that_show_a_graver_level_raise_that_too(outcomes):
    made = await outcomes.create(cssrs(1))
    await outcomes.update({**cssrs(1, 2, 4), "id": made["id"], "status": "amended"})
    assert len(await raised(outcomes, "evaluate-suicide-risk")) == 1
    (observed,) = await outcomes.search("Observation", patient="ada")
    assert (observed["status"], observed["valueCodeableConcept"]["coding"][0]["code"]) == ("amended", "LA9193-9")


async def test_an_item_9_that_is_amended_to_worse_calls_anew_where_somebody_has_taken_the_call(outcomes):
    async def amended(value):
        await outcomes.update({**phq9({"valueInteger": value}), "id": made["id"], "status": "amended"})
        return [(one["status"], one["identifier"][0]["value"]) for one in await raised(outcomes, "run-c-ssrs")]

    made = await outcomes.create(phq9({"valueInteger": 1}))
    name = f"risk:{made['id']}"
    assert await amended(2) == [("requested", name)]  # nobody has taken it: it climbs
    (task,) = await raised(outcomes, "run-c-ssrs")
    await outcomes.update({**task, "status": "accepted", "owner": ANNA})
    assert await amended(1) == [("accepted", name)]
    assert await amended(3) == [("accepted", name), ("requested", f"{name}:2")]
    assert len([one for one in await outcomes.search("Flag", patient="ada") if one["status"] == "active"]) == 2
    await outcomes.create(cssrs(author=ANNA))
    assert {one["status"] for one in await raised(outcomes, "run-c-ssrs")} == {"completed"}
    assert {one["status"] for one in await outcomes.search("Flag", patient="ada")} == {"inactive"}


async def test_what_was_raised_stays_open_when_the_answers_are_taken_back(outcomes):
    made = await outcomes.create(phq9({"valueInteger": 3}))
    await outcomes.update({**phq9({"valueInteger": 3}), "id": made["id"], "status": "entered-in-error"})
    (task,) = await raised(outcomes, "run-c-ssrs")
    (flag,) = await outcomes.search("Flag", patient="ada")
    assert (task["status"], flag["status"]) == ("requested", "active")


@pytest.mark.parametrize(("author", "ended"), [(ANNA, True), (about(WHO), False)])
async def test_a_clinician_who_runs_the_screener_has_done_what_item_9_asked_for_and_a_patient_has_not(
    outcomes, author, ended
):
    await outcomes.create(phq9({"valueInteger": 1}))
    run = await outcomes.create(cssrs(author=author))
    (task,) = await raised(outcomes, "run-c-ssrs")
    assert task["status"] == ("completed" if ended else "requested")
    (flag,) = await outcomes.search("Flag", patient="ada")
    assert flag["status"] == ("inactive" if ended else "active")
    if ended:
        assert (task["owner"], task["output"][0]["valueReference"]) == (ANNA, about(run))


async def test_a_clinician_who_finds_risk_leaves_the_flag_of_item_9_up(outcomes):
    await outcomes.create(phq9({"valueInteger": 1}))
    await outcomes.create(cssrs(3, author=ANNA))
    flags = [one for one in await outcomes.search("Flag", patient="ada") if one["status"] == "active"]
    said = [{coding["code"] for coding in one["code"]["coding"]} for one in flags]
    assert said == [{"suicidality-item-positive"}, {"suicidality-item-positive", "suicide-risk-moderate"}]


async def test_a_flag_of_high_risk_comes_down_by_a_second_measurement_after_its_evaluation(bench, outcomes):
    """By a clinician's, later, without risk, and not while what the first called for is open."""

    async def up():
        return [one["status"] for one in await outcomes.search("Flag", patient="ada")]

    first = await outcomes.create(cssrs(2, 4, author=ANNA))
    bench.clock.forward(days=1)
    later = {"authored": "2026-11-23T09:00:00Z"}
    await outcomes.create(cssrs(author=ANNA, **later))
    assert await up() == ["active"]  # nobody has evaluated it yet
    (task,) = await raised(outcomes, "evaluate-suicide-risk")
    await outcomes.update({**task, "status": "completed", "owner": ANNA})
    assert await up() == ["active"]  # an evaluation is no measurement
    await outcomes.create(cssrs(author=about(WHO), **later))  # the patient's own
    await outcomes.create(cssrs(author=ANNA, authored=first["authored"]))  # no later than the first
    partial = cssrs(author=ANNA, **later)
    del partial["item"][2]
    await outcomes.create({**partial, "item": partial["item"][1:]})  # not complete
    assert await up() == ["active"]
    await outcomes.create(cssrs(author=ANNA, **later))
    assert await up() == ["inactive"]


async def test_the_full_version_raises_and_ends_as_the_screener_does(outcomes):
    full = [*(f"cssrs-full-{when}-{n}" for when in ("month", "life") for n in range(1, 6))]
    full += [
        f"cssrs-full-{one}{when}"
        for one in ("attempt", "interrupted", "aborted", "preparatory")
        for when in ("", "-recent")
    ]

    def run(*positive, **more):
        code = {True: "LA33-6", False: "LA32-8"}
        given = {one: {"valueCoding": {"system": LOINC, "code": code[one in positive]}} for one in full}
        return response("c-ssrs-full", given, **more)

    await outcomes.create(phq9({"valueInteger": 1}))
    await outcomes.create(run(author=ANNA))
    (task,) = await raised(outcomes, "run-c-ssrs")
    assert task["status"] == "completed"
    await outcomes.create(run("cssrs-full-attempt", "cssrs-full-attempt-recent"))
    (task,) = await raised(outcomes, "evaluate-suicide-risk")
    assert task["priority"] == "stat"


async def test_an_unfinished_screener_does_not_end_what_asked_for_it(outcomes):
    await outcomes.create(phq9({"valueInteger": 1}))
    partial = cssrs(author=ANNA)
    del partial["item"][0]
    await outcomes.create(partial)
    (task,) = await raised(outcomes, "run-c-ssrs")
    assert task["status"] == "requested"


async def test_the_ladder_of_item_9_climbs_until_a_person_takes_it(bench, outcomes):
    for role in ("clinician-on-call", "prescriber-on-call"):
        async with outcomes.record("none") as record:
            copy = {
                "resourceType": "PractitionerRole",
                "code": [Code(KAP, role).concept()],
                "telecom": [{"system": "sms", "value": "+1555"}],
            }
            await _copied(record, copy, role)
    await outcomes.create(phq9({"valueInteger": 1}))
    climb = outcomes.service.timers[0]
    bench.clock.forward(minutes=5)
    await run_once(climb, outcomes.service, outcomes.store, bench.clock(), lambda: None)
    told = await outcomes.search("Communication", subject="Patient/ada")
    assert [one["recipient"][0]["reference"] for one in told] == [
        "PractitionerRole/clinician-on-call",
        "PractitionerRole/prescriber-on-call",
    ]
    (task,) = await raised(outcomes, "run-c-ssrs")
    with pytest.raises(Unprocessable, match="Say who"):
        await outcomes.update({**task, "status": "accepted"})
    await outcomes.update({**task, "status": "accepted", "owner": ANNA})
    bench.clock.forward(days=1)
    await run_once(climb, outcomes.service, outcomes.store, bench.clock(), lambda: None)
    assert len(await outcomes.search("Communication", subject="Patient/ada")) == 2


# -- answers that others keep ------------------------------------------------------------------------------------------


def form(name, link, answer, **more):
    return response(f"kap-{name}", {link: answer}, **more)


async def heard(outcomes, answered, version=1, source="sessions"):
    """Take in what another service committed."""
    held = {**answered, "id": "answers", "meta": {**answered.get("meta", {}), "versionId": str(version)}}
    event = Event(
        id=f"QuestionnaireResponse/answers/{version}", source=source,
        interaction="create" if version == 1 else "update", type="QuestionnaireResponse", resource_id="answers",
        version=version, time=START, tenant="default", key="Patient/ada", shard=0, sequence=version, body=dump(held),
        labels=(), request_id=None, traceparent=None,
    )  # fmt: skip
    await ServiceEvents(outcomes.service, outcomes.store).handle(event, Position(f"kap.{source}.v1", 0, version))


@pytest.mark.parametrize(
    ("answered", "source"),
    [
        (form("pre-dose", "suicidality", {"valueBoolean": True}, meta={"source": "urn:hospital"}), "intake"),
        (form("screening", "E22", {"valueBoolean": True}, status="in-progress"), "intake"),
        (form("screening", "E22", {"valueString": "sometimes"}), "intake"),
        (form("pre-dose", PHQ9[8], {"valueInteger": 1}), "sessions"),
        (phq9({"valueInteger": 3}, meta={"source": "urn:hospital"}), "intake"),
        (cssrs(4, meta={"source": "urn:hospital"}), "intake"),
    ],
    ids=["another's form", "at screening", "in words", "item 9 in a form", "item 9 elsewhere", "a screener elsewhere"],
)
async def test_a_yes_about_suicide_calls_somebody_wherever_it_was_answered(outcomes, answered, source):
    await heard(outcomes, answered, source=source)
    (flag,) = await outcomes.search("Flag", patient="ada")
    (task,) = [*await raised(outcomes, "run-c-ssrs"), *await raised(outcomes, "evaluate-suicide-risk")]
    assert (task["priority"], task["status"]) == ("stat", "requested")
    assert flag["status"] == "active"
    assert len(await outcomes.search("Communication", subject="Patient/ada")) == 1
    assert validate(task) == validate(flag) == []


@pytest.mark.parametrize(
    "answered",
    [
        form("pre-dose", "suicidality", {"valueBoolean": True}),
        form("discharge", "safe", {"valueBoolean": False}),
        form("pre-dose", "suicidality", {"valueBoolean": False}),
        form("discharge", "safe", {"valueBoolean": True}),
        form("screening", "E22", {"valueBoolean": True}, status="entered-in-error"),
        form("screening", "E22", {"valueBoolean": True}, authored="2025-11-22T09:00:00Z"),
        response("others", {"safe": {"valueBoolean": False}}),
        phq9({"valueInteger": 0}, meta={"source": "urn:hospital"}),
        phq9({"valueInteger": 3}, meta={"source": "urn:hospital"}, authored="2025-11-22T09:00:00Z"),
    ],
    ids=[
        "raised before a dose",
        "raised before leaving",
        "no",
        "safe",
        "in error",
        "long ago",
        "another form",
        "no from elsewhere",
        "history from elsewhere",
    ],
)
async def test_a_no_history_and_another_form_call_nobody(outcomes, answered):
    await heard(outcomes, answered)
    assert await outcomes.search("Flag") == await outcomes.search("Task") == []


async def test_what_was_closed_opens_again_by_an_amended_answer_and_not_by_a_repeat(outcomes):
    yes, no = (form("screening", "E22", {"valueBoolean": one}) for one in (True, False))
    await heard(outcomes, yes, source="intake")
    (task,) = await raised(outcomes, "run-c-ssrs")
    await outcomes.update({**task, "status": "completed", "owner": ANNA})
    await heard(outcomes, {**yes, "status": "amended"}, 2, "intake")
    assert [one["status"] for one in await raised(outcomes, "run-c-ssrs")] == ["completed"], "it says the same"
    await heard(outcomes, {**no, "status": "amended"}, 3, "intake")
    await heard(outcomes, {**yes, "status": "amended"}, 4, "intake")
    (again,) = await raised(outcomes, "run-c-ssrs")
    assert (again["id"], again["status"]) == (task["id"], "requested")


@pytest.mark.parametrize(
    "answered",
    [form("screening", "E22", {"valueBoolean": True}), phq9({"valueInteger": 3}, meta={"source": "urn:hospital"})],
    ids=["at screening", "item 9 elsewhere"],
)
async def test_late_news_of_what_a_clinicians_screener_has_settled_calls_nobody_until_that_is_taken_back(
    outcomes, answered
):
    run = await outcomes.create(cssrs(author=ANNA, authored="2026-11-22T10:00:00Z"))
    await heard(outcomes, answered, source="intake")
    assert await standing(outcomes) == ("completed", "inactive")
    assert await outcomes.search("Communication", subject="Patient/ada") == []
    await in_error(outcomes, run)
    assert await standing(outcomes) == ("requested", "active")
    assert len(await outcomes.search("Communication", subject="Patient/ada")) == 1


async def test_late_news_of_a_yes_is_a_call_where_the_screener_was_run_before_it_or_found_risk(outcomes):
    await outcomes.create(cssrs(author=ANNA, authored="2026-11-22T08:00:00Z"))
    await outcomes.create(cssrs(author=about(WHO), authored="2026-11-22T10:00:00Z"))
    await heard(outcomes, form("screening", "E22", {"valueBoolean": True}), source="intake")
    assert await standing(outcomes) == ("requested", "active")
    await outcomes.create(cssrs(3, author=ANNA, authored="2026-11-22T11:00:00Z"))
    flags = await outcomes.search("Flag", patient="ada")
    assert [one["status"] for one in flags] == ["active", "active"]


async def test_an_item_9_from_elsewhere_that_is_amended_is_a_call_whatever_screener_was_run_before(bench, outcomes):
    no, yes = (phq9({"valueInteger": one}, meta={"source": "urn:hospital"}) for one in (0, 3))
    await heard(outcomes, no, source="intake")
    await outcomes.create(cssrs(author=ANNA))
    bench.clock.forward(minutes=60)
    await heard(outcomes, {**yes, "status": "amended"}, 2, "intake")
    assert await standing(outcomes) == ("requested", "active")


async def _copied(record, resource, id_):
    """Hold a copy, as an event from intake leaves it."""
    held = {**resource, "id": id_, "meta": {"versionId": "1", "lastUpdated": "2026-11-22T09:00:00Z"}}
    event = Event(
        id=f"PractitionerRole/{id_}/1", source="intake", interaction="create", type="PractitionerRole", resource_id=id_,
        version=1, time=START, tenant="default", key=f"PractitionerRole/{id_}", shard=0, sequence=1, body=dump(held),
        labels=(), request_id=None, traceparent=None,
    )  # fmt: skip
    await record.transaction.apply_copy(event, extract(held), None)


# -- answers that are taken back ---------------------------------------------------------------------------------------


async def standing(outcomes):
    """Return how the call for a screener stands, and the Flag of item 9."""
    (task,) = await raised(outcomes, "run-c-ssrs")
    (flag,) = await outcomes.search("Flag", patient="ada")
    return task["status"], flag["status"]


async def in_error(outcomes, run):
    await outcomes.update({**run, "status": "entered-in-error"})


async def deleted(outcomes, run):
    await outcomes.delete(run)


async def by_the_patient(outcomes, run):
    await outcomes.update({**run, "status": "amended", "author": about(WHO)})


async def of_the_day_before(outcomes, run):
    await outcomes.update({**run, "status": "amended", "authored": "2026-11-21T09:00:00Z"})


async def with_an_answer_left_out(outcomes, run):
    await outcomes.update({**run, "status": "amended", "item": run["item"][1:]})


@pytest.mark.parametrize("taken_back", [in_error, deleted, by_the_patient, of_the_day_before, with_an_answer_left_out])
async def test_a_screener_that_is_taken_back_lets_the_call_it_ended_climb_again(outcomes, taken_back):
    await outcomes.create(phq9({"valueInteger": 2}))
    run = await outcomes.create(cssrs(author=ANNA))
    assert await standing(outcomes) == ("completed", "inactive")
    told = len(await outcomes.search("Communication", subject="Patient/ada"))
    await taken_back(outcomes, run)
    assert await standing(outcomes) == ("requested", "active")
    (task,) = await raised(outcomes, "run-c-ssrs")
    assert "owner" not in task
    assert "output" not in task
    assert len(await outcomes.search("Communication", subject="Patient/ada")) == told + 1
    assert validate(task) == []


async def test_a_call_that_a_second_screener_ended_too_stays_ended_when_the_first_is_taken_back(outcomes):
    await outcomes.create(phq9({"valueInteger": 2}))
    wrong = await outcomes.create(cssrs(author=ANNA))
    right = await outcomes.create(cssrs(author=ANNA, authored="2026-11-22T10:00:00Z"))
    await in_error(outcomes, wrong)
    assert await standing(outcomes) == ("completed", "inactive")
    await in_error(outcomes, right)
    assert await standing(outcomes) == ("requested", "active")


async def test_a_screener_that_is_amended_to_a_risk_puts_the_flag_of_item_9_up_again(outcomes):
    await outcomes.create(phq9({"valueInteger": 2}))
    run = await outcomes.create(cssrs(author=ANNA))
    await outcomes.update({**cssrs(3, author=ANNA), "id": run["id"], "status": "amended"})
    flags = await outcomes.search("Flag", patient="ada")
    assert [one["status"] for one in flags] == ["active", "active"]
    (task,) = await raised(outcomes, "run-c-ssrs")
    assert task["status"] == "completed"  # it was run


async def test_a_flag_that_a_second_measurement_took_down_is_up_again_when_that_is_taken_back(bench, outcomes):
    await outcomes.create(cssrs(2, 4, author=ANNA))
    (task,) = await raised(outcomes, "evaluate-suicide-risk")
    await outcomes.update({**task, "status": "completed", "owner": ANNA})
    bench.clock.forward(days=1)
    second = await outcomes.create(cssrs(author=ANNA, authored="2026-11-23T09:00:00Z"))
    assert [one["status"] for one in await outcomes.search("Flag", patient="ada")] == ["inactive"]
    await in_error(outcomes, second)
    (flag,) = await outcomes.search("Flag", patient="ada")
    (task,) = await raised(outcomes, "evaluate-suicide-risk")
    assert (flag["status"], task["status"]) == ("active", "completed")  # it was evaluated all the same
    assert "end" not in flag["period"]


async def test_a_screener_that_is_dated_ahead_settles_nothing_that_is_answered_after_it_was_written(outcomes):
    ahead = await outcomes.create(cssrs(author=ANNA, authored="2200-11-22T09:00:00Z"))
    await outcomes.create(phq9({"valueInteger": 2}, authored="2199-11-22T09:00:00Z"))
    await outcomes.update({**ahead, "status": "amended"})
    assert await standing(outcomes) == ("requested", "active")
    await heard(
        outcomes, form("screening", "E22", {"valueBoolean": True}, authored="2199-11-22T09:00:00Z"), source="intake"
    )
    assert {one["status"] for one in await raised(outcomes, "run-c-ssrs")} == {"requested"}


@pytest.mark.parametrize(
    "change",
    [
        {"status": "inactive"},
        {"status": "entered-in-error"},
        {"code": {"text": "Nothing"}},
        {"identifier": [{"value": "x"}]},
    ],
)
async def test_a_flag_of_suicidality_is_taken_down_by_no_hand(outcomes, change):
    await outcomes.create(cssrs(1, 2, 4))
    (up,) = await outcomes.search("Flag", patient="ada")
    with pytest.raises(Unprocessable, match="C-SSRS") as refused:
        await outcomes.update({**up, **change})
    assert [one.rule for one in refused.value.issues] == ["T-KEEP"]
    with pytest.raises(Unprocessable):
        await outcomes.delete(up)
    await outcomes.update({**up, "author": ANNA})
