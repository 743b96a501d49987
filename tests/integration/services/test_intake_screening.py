"""Screening: what blocks, what a prescriber decides, what is below a code, and what is filled in."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest

from services.intake.service import intake as intake_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.json import dump, parse
from shared.fhir.kap import stage_of
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.runtime.policy import FOLDER, load_policy
from shared.runtime.timers import run_once
from shared.store.store import Store
from shared.store.terminology import Loading
from shared.terminology.release import CodeSystemRelease, LoadedCode
from tests.integration.services.at_intake import (
    SUBLINGUAL,
    condition,
    latest,
    outcome,
    proceeding,
    replayed,
    rules_of,
    the_course,
)
from tests.integration.services.course import (
    Opened,
    about,
    eligible,
    patient,
    practitioner,
    referral,
    role_of,
    screening,
)


async def test_an_aneurysm_blocks_esketamine_with_its_evidence_and_source(intake):
    who = await intake.create(patient())
    await intake.create(referral(who))
    found = await intake.create(condition(who, "67362008"))
    await intake.create(screening(who))
    result = await intake.call("screen", who, {"name": "drug", "valueCode": "esketamine"})
    assert outcome(result) == "not-eligible"
    assert {"reference": f"Condition/{found['id']}"} in result["basis"]
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    assert issue["code"]["coding"][0]["code"] == "E01"
    assert issue["severity"] == "high"
    assert issue["implicated"] == [{"reference": f"Condition/{found['id']}"}]
    assert "label" in issue["detail"]
    assert stage_of(await the_course(intake, who)) == "not-eligible"


async def test_a_prescribers_decision_on_a_relative_finding_lets_the_course_open(intake):
    who = await intake.create(patient())
    await intake.create(referral(who))
    await intake.create(condition(who, "67362008"))
    await intake.create(screening(who))
    assert outcome(await intake.call("screen", who, *SUBLINGUAL)) == "needs-decision"
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    await intake.update({**issue, "mitigation": [proceeding(await intake.prescriber())]})
    assert outcome(await latest(intake, who)) == "eligible"
    assert stage_of(await the_course(intake, who)) == "eligible"
    await intake.create(condition(who, "I71.4", codes.ICD10CM))
    assert outcome(await latest(intake, who)) == "needs-decision", "new evidence asks for a new decision"


async def test_past_an_absolute_finding_that_two_may_decide_on_one_is_not_enough(intake):
    who = await intake.create(patient())
    await intake.create(condition(who, "67362008"))
    await intake.create(screening(who))
    planned_ = ({"name": "drug", "valueCode": "ketamine"}, {"name": "route", "valueCode": "47625008"})
    assert outcome(await intake.call("screen", who, *planned_)) == "not-eligible"
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    first, second = await intake.prescriber("one"), await intake.prescriber("other")
    twice = [proceeding(first), proceeding(first, "Said again")]
    issue = await intake.update({**issue, "mitigation": twice})
    assert outcome(await latest(intake, who)) == "not-eligible"
    await intake.update({**issue, "mitigation": [*twice, proceeding(second)]})
    assert outcome(await latest(intake, who)) == "eligible"


@pytest.mark.parametrize(
    "lacking",
    [
        {"author": None},
        {"action": codes.PROCEED.concept()},
        {"action": codes.PROCEED.concept(text=" ")},
        {"date": None},
    ],
)
async def test_a_decision_without_prescriber_reason_or_time_is_refused(intake, lacking):
    who = await intake.create(patient())
    await intake.create(screening(who, E08=True))
    await intake.call("screen", who)
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    decision = {
        name: value for name, value in {**proceeding(await intake.prescriber()), **lacking}.items() if value is not None
    }
    with pytest.raises(Unprocessable) as error:
        await intake.update({**issue, "mitigation": [decision]})
    assert rules_of(error) == {"E-OVERRIDE"}


THEN = {"period": {"start": "2020-01-01", "end": "2026-11-22"}}
BEFORE = {"period": {"start": "2020-01-01", "end": "2026-11-21"}}


@pytest.mark.parametrize(
    ("role", "licence", "may"),
    [
        (THEN, THEN, True),
        (BEFORE, THEN, False),
        (THEN, BEFORE, False),
        ({**THEN, "code": "therapist"}, THEN, False),
        ({**THEN, "active": False}, THEN, False),
        (None, THEN, False),
        (THEN, {}, False),
    ],
)
@pytest.mark.parametrize("as_role", [True, False])
async def test_only_a_licensed_prescriber_of_the_directory_decides_past_a_finding(intake, role, licence, may, as_role):
    who = await intake.create(patient())
    await intake.create(screening(who, E08=True))
    await intake.call("screen", who)
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    doctor = await intake.create(practitioner(qualification=[{"code": {"text": "MD"}, **licence}]))
    held = None if role is None else await intake.create(role_of(doctor, **role))
    decided = proceeding(f"PractitionerRole/{held['id']}" if as_role and held else f"Practitioner/{doctor['id']}")
    if may:
        await intake.update({**issue, "mitigation": [decided]})
        assert outcome(await latest(intake, who)) == "eligible"
        return
    with pytest.raises(Unprocessable) as error:
        await intake.update({**issue, "mitigation": [decided]})
    assert rules_of(error) == {"E-OVERRIDE"}
    assert all(one.evidence for one in error.value.issues)


async def test_nobody_decides_past_what_is_absolute(intake):
    who = await intake.create(patient())
    await intake.create(screening(who, E12=True))
    await intake.call("screen", who)
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    with pytest.raises(Unprocessable, match="E12 is absolute"):
        await intake.update({**issue, "mitigation": [proceeding(await intake.prescriber())]})
    await intake.update({**issue, "mitigation": [{"action": {"text": "Told the patient"}}]})


async def test_screening_again_neither_doubles_nor_keeps_what_no_longer_applies(intake, clock):
    who = await intake.create(patient())
    await intake.create(screening(who, E04=True))
    await intake.call("screen", who)
    await intake.call("screen", who)
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    assert (issue["status"], issue["meta"]["versionId"]) == ("final", "1")
    clock.forward(days=1)
    await intake.create(screening(who, clock.now))
    assert outcome(await intake.call("screen", who)) == "eligible"
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    assert issue["status"] == "cancelled"


async def test_eligibility_cannot_be_posted(intake, clock):
    who = await eligible(intake, clock)
    (assessment,) = await intake.search("RiskAssessment", patient=who["id"])
    del assessment["id"]
    with pytest.raises(Unprocessable) as error:
        await intake.create(assessment)
    assert rules_of(error) == {"E-SCREEN"}


async def test_answers_without_a_date_do_not_outlive_newer_ones(intake, clock):
    who = await eligible(intake, clock)
    undated = screening(who, clock.now)
    del undated["authored"]
    await intake.create(undated)
    clock.now = max(clock.now, datetime.now(UTC)) + timedelta(minutes=1)
    await intake.create(screening(who, clock.now, E12=True))
    result = await intake.call("screen", who)
    assert result["prediction"][0]["outcome"]["coding"][0]["code"] != "eligible"


async def labelled_years_later(intake, made, by):
    """Let a resource be one of two years ago, from before the rules of labels, and label it."""
    written = datetime.now(UTC) - timedelta(days=730)
    bare = {**made, "meta": {"versionId": "1", "lastUpdated": zulu(written)}}
    async with intake.store.transaction(keys=(), tenant="default") as transaction:
        await transaction.connection.execute(
            "UPDATE history h SET last_updated = $2, body = $3, labels = '{}' FROM resource r "
            "WHERE r.rid = h.rid AND r.id = $1",
            made["id"], written, dump(bare),
        )  # fmt: skip
        await transaction.connection.execute(
            "UPDATE resource SET last_updated = $2, labels = '{}' WHERE id = $1", made["id"], written
        )
    async with intake.record(f"Patient/{by['id']}", None, None) as record:
        labelled = parse((await record.label(made["resourceType"], made["id"])).stored.body)
    assert labelled["meta"]["versionId"] == "2"
    assert labelled["meta"]["lastUpdated"] > zulu(written + timedelta(days=700))
    return labelled


async def test_answers_without_a_date_are_no_newer_for_a_label_that_they_were_given_since(intake, clock):
    who = await intake.create(patient())
    await intake.create(referral(who))
    undated = screening(who)
    del undated["authored"]
    made = await intake.create(undated)
    clock.now = max(clock.now, datetime.now(UTC)) + timedelta(minutes=1)
    assert outcome(await intake.call("screen", who)) == "eligible"
    labelled = await labelled_years_later(intake, made, who)
    result = await intake.call("screen", who)
    assert outcome(result) == "needs-answers"
    assert any("older than" in note["text"] for note in result["note"])
    assert (await replayed(intake, result))["same"] is True
    await intake.update({**labelled, "item": labelled["item"][::-1]})  # somebody wrote it anew
    assert outcome(await intake.call("screen", who)) == "eligible"


async def test_answers_that_are_labelled_anew_do_not_go_before_newer_ones(intake, clock):
    who = await eligible(intake, clock)
    undated = screening(who, E12=True)
    del undated["authored"]
    await labelled_years_later(intake, await intake.create(undated), who)
    assert outcome(await intake.call("screen", who)) == "eligible"


async def test_a_question_answered_both_ways_is_not_known(intake, clock):
    who = await eligible(intake, clock)
    both = screening(who, clock.now, E12=True)
    both["item"].append({"linkId": "E12", "answer": [{"valueBoolean": False}]})
    clock.forward(minutes=1)
    await intake.create({**both, "authored": zulu(clock.now)})
    result = await intake.call("screen", who)
    assert result["prediction"][0]["outcome"]["coding"][0]["code"] == "needs-answers"


async def test_the_decision_names_the_policy_that_made_it(intake, clock):
    who = await eligible(intake, clock)
    (assessment,) = await intake.search("RiskAssessment", patient=who["id"])
    assert {"url": codes.EXT_POLICY, "valueString": "2026.11.1"} in assessment["extension"]


async def test_screening_asks_for_a_known_patient_and_known_parameters(intake):
    with pytest.raises(NotFound):
        await intake.call("screen", {"resourceType": "Patient", "id": "nobody"})
    who = await intake.create(patient())
    with pytest.raises(BadRequest):
        await intake.call("screen", who, {"name": "drug", "valueCode": "aspirin"})
    with pytest.raises(BadRequest):
        await intake.call("screen", who, {"name": "route", "valueCode": "iv"})
    with pytest.raises(BadRequest):
        await intake.call("screen", who, {"name": "mood", "valueCode": "low"})


async def loaded(dsn, url, below):
    """Load a terminology in which each code of `below` is directly below another."""
    names = {*below, *below.values()}
    loading = await Loading.open(dsn)
    try:
        concepts = {name: LoadedCode(name) for name in names}
        await loading.load_system(CodeSystemRelease(url, "1", "test", "0" * 64, concepts, frozenset(below.items())))
    finally:
        await loading.close()


async def test_what_is_below_a_code_of_a_rule_is_found_by_the_terminology_the_clinic_loaded(make_database, clock):
    dsn = make_database("intake")
    store = await Store.connect(dsn, service="intake")
    intake = Opened(intake_service(load_policy(), clock), store)
    try:
        who = await intake.create(patient())
        await intake.create(screening(who))
        assert outcome(await intake.call("screen", who)) == "eligible"
        found = await intake.create(condition(who, "900000000000001"))
        assert outcome(await latest(intake, who)) == "needs-decision", "a code that nothing here knows asks a person"
        (issue,) = await intake.search("DetectedIssue", patient=who["id"])
        assert issue["code"]["coding"][0]["code"] == "UNCODED"
        assert issue["implicated"] == [about(found)]
        await loaded(dsn, codes.SNOMED, {"900000000000001": "900000000000002"})
        assessment = await intake.call("screen", who)
        assert outcome(assessment) == "eligible", "it is known now, and speaks for no rule"
        again = await replayed(intake, assessment)
        assert (again["same"], again["outcome"]) == (True, "eligible"), again
        await loaded(dsn, codes.SNOMED, {"900000000000001": "900000000000002", "900000000000002": "67362008"})
        assessment = await intake.call("screen", who)
        assert outcome(assessment) == "not-eligible"
        assert {"reference": f"Condition/{found['id']}"} in assessment["basis"]
        await loaded(dsn, codes.SNOMED, {"900000000000001": "900000000000003"})
        again = await replayed(intake, assessment)
        assert (again["same"], again["outcome"]) == (True, "not-eligible")
    finally:
        await store.close()


async def test_who_has_a_course_is_judged_by_a_terminology_that_is_loaded_though_nobody_asks(make_database, clock):
    dsn = make_database("intake")
    store = await Store.connect(dsn, service="intake")
    intake = Opened(intake_service(load_policy(), clock), store)
    (timer,) = [one for one in intake.service.timers if one.name == "judged-anew"]
    try:
        await loaded(dsn, codes.SNOMED, {"900000000000001": "900000000000002"})
        who = await eligible(intake, clock)
        found = await intake.create(condition(who, "900000000000001"))
        before = await intake.count()
        await run_once(timer, intake.service, store, clock.now, lambda: None)
        assert await intake.count() == before, "nothing is written where nothing is new"
        await loaded(dsn, codes.SNOMED, {"900000000000001": "67362008"})
        clock.forward(hours=1)
        await run_once(timer, intake.service, store, clock.now, lambda: None)
        assessment = await latest(intake, who)
        assert outcome(assessment) == "not-eligible"
        assert {"reference": f"Condition/{found['id']}"} in assessment["basis"]
        assert (await the_course(intake, who))["status"] == "onhold"
        await loaded(dsn, codes.SNOMED, {"900000000000001": "900000000000002"})
        await run_once(timer, intake.service, store, clock.now, lambda: None)
        assert outcome(await latest(intake, who)) == "eligible"
        assert (await the_course(intake, who))["status"] == "onhold", "a person lifts the hold"
    finally:
        await store.close()


async def test_the_screening_is_filled_with_what_is_known_and_never_with_a_no(intake):
    questionnaire = await intake.create(
        json.loads((FOLDER / "questionnaires" / "kap-screening.json").read_text(encoding="utf-8"))
    )
    who = await intake.create(patient())
    subject = {"name": "subject", "valueReference": about(who)}

    async def filled():
        said = await intake.call("populate", questionnaire, subject)
        response = said["parameter"][0]["resource"]
        assert response["status"] == "in-progress"
        answered = [one for one in response["item"] if "answer" in one]
        return {one["linkId"]: next(iter(one["answer"][0].values())) for one in answered}

    assert await filled() == {}
    found = await intake.create(condition(who, "67362008"))
    assert await filled() == {"E01": True, "E01-DETAIL": f"On record: Condition/{found['id']}"}


async def test_each_of_two_prescribers_writes_his_own_decision(intake, clock):
    who = await intake.create(patient())
    await intake.create(referral(who))
    await intake.create(screening(who, clock.now, E01=True))
    by_muscle = {"name": "route", "valueCode": "78421000"}
    await intake.call("screen", who, {"name": "drug", "valueCode": "ketamine"}, by_muscle)
    one, other = await intake.prescriber(), await intake.prescriber("another")
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    with pytest.raises(Unprocessable) as refused:
        await intake.update({**issue, "mitigation": [proceeding(one), proceeding(other)]}, user=one)
    assert rules_of(refused) == {"E-OVERRIDE"}
    decided = await intake.update({**issue, "mitigation": [proceeding(one)]}, user=one)
    assert outcome(await latest(intake, who)) == "not-eligible"
    await intake.update({**decided, "mitigation": [*decided["mitigation"], proceeding(other)]}, user=other)
    assert outcome(await latest(intake, who)) == "eligible"
