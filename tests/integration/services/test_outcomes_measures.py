"""Measures on the record: of whom they count, by which evidence, and for whom they name patients."""

from __future__ import annotations

import base64
import csv
import io
from dataclasses import replace
from datetime import timedelta

import pytest

from services.outcomes.rules.measures import measure_url
from services.outcomes.service import outcomes as outcomes_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, Forbidden, NotFound
from shared.fhir.validation import validate
from shared.runtime.policy import Policy, load_policy
from shared.runtime.record import open_record
from shared.runtime.service import OperationCall
from shared.runtime.timers import run_once
from tests.integration.services.course import ACCESS, START
from tests.integration.services.test_outcomes_schedule import dose, heard, phq9, tick, visit, with_lot

YEAR = {"periodStart": "2026", "periodEnd": "2027"}
RESPONSE = "https://kap-exchange.org/fhir/Measure/phq-9-response"


def policy(**superbill):
    shipped = load_policy()
    measures = {**shipped.sections["measures"], "superbill": superbill}
    measures["small_cells"] = {**measures["small_cells"], "below": 2}
    return Policy(shipped.version, {**shipped.sections, "measures": measures})


@pytest.fixture
async def outcomes(bench):
    bench.policy = policy(**{"kap-dosing": [{"system": "urn:clinic", "code": "X1", "display": "=a dose"}]})
    return await bench.open(outcomes_service)


async def call(outcomes, name, type_="Measure", level="type", id_=None, access=ACCESS, **parameters):
    (operation,) = [
        one for one in outcomes.service.operations if (one.name, one.type, one.level) == (name, type_, level)
    ]
    body = {
        "resourceType": "Parameters",
        "parameter": [{"name": key, "valueString": value} for key, value in {**YEAR, **parameters}.items()],
    }
    async with open_record(outcomes.service, outcomes.store, access, keys=["none"]) as record:
        return outcomes.answered(await operation.handler(OperationCall(name, type_, id_, body), record))


def counts(report):
    return {one["code"]["coding"][0]["code"]: one.get("count") for one in report["group"][0]["population"]}


async def treated(outcomes, patient, before, after, route=codes.ROUTE_IM, drug=codes.KETAMINE):
    """A patient with a score before and after one dosing visit."""
    who = {"reference": f"Patient/{patient}"}
    for day, total in ((-3, before), (40, after)):
        await outcomes.create(phq9(day, total, subject=who, author=who))
    at = {"subject": who, "episodeOfCare": [{"reference": f"EpisodeOfCare/{patient}"}]}
    await heard(outcomes, "sessions", {**visit(f"v-{patient}", "in-progress"), **at})
    given = {**dose(f"m-{patient}", f"v-{patient}", 10, drug), "subject": who, "dosage": {"route": route.concept()}}
    await heard(outcomes, "sessions", given)
    await heard(outcomes, "sessions", {**visit(f"v-{patient}", "finished"), **at}, 2)


async def condition(outcomes, patient, icd10):
    resource = {
        "resourceType": "Condition",
        "id": f"c-{patient}",
        "code": codes.Code(codes.ICD10CM, icd10).concept(),
        "subject": {"reference": f"Patient/{patient}"},
    }
    await heard(outcomes, "intake", resource)


async def test_response_is_of_the_patients_with_a_baseline_and_a_score_since_by_route_and_condition(outcomes):
    await treated(outcomes, "ada", 20, 9)
    await treated(outcomes, "ben", 20, 8)
    await treated(outcomes, "cy", 20, 18, route=codes.ROUTE_IV)
    await treated(outcomes, "di", 20, 19, route=codes.ROUTE_IV)
    await heard(outcomes, "sessions", {**visit("v-none", "finished"), "subject": {"reference": "Patient/none"}})
    for patient in ("ada", "ben", "cy"):
        await condition(outcomes, patient, "F33.2")
    made = await call(outcomes, "evaluate-measure", measure=RESPONSE)
    assert validate(made) == []
    assert counts(made) == {"denominator": 4, "numerator": 2}
    by = {one["code"][0]["coding"][0]["code"]: one["stratum"] for one in made["group"][0]["stratifier"]}
    assert {one["value"]["text"]: [each.get("count") for each in one["population"]] for one in by["by-route"]} == {
        "Intramuscular route": [2, 2],
        "Intravenous route": [2, 0],
    }
    assert {one["value"]["text"] for one in by["by-condition"]} == {"depression", "other"}


async def test_a_report_can_be_traced_to_its_patients_by_those_who_see_all_and_by_no_other(outcomes):
    await treated(outcomes, "ada", 20, 9)
    made = await call(outcomes, "evaluate-measure", measure=RESPONSE, reportType="subject-list")
    assert {one["id"]: one["entry"] for one in made["contained"]} == {
        "numerator": [{"item": {"reference": "Patient/ada"}}],
        "denominator": [{"item": {"reference": "Patient/ada"}}],
    }
    scores = [one["reference"] for one in made["evaluatedResource"]]
    assert len(scores) == 2
    for reference in scores:
        assert (await outcomes.get(*reference.split("/")))["subject"]["reference"] == "Patient/ada"
    some = replace(ACCESS, patients=frozenset(("ada",)))
    with pytest.raises(Forbidden):
        await call(outcomes, "evaluate-measure", measure=RESPONSE, reportType="subject-list", access=some)
    with pytest.raises(Forbidden):
        await call(outcomes, "superbill", "MeasureReport", access=some)


async def test_a_report_of_one_patient_is_of_that_patient(outcomes):
    await treated(outcomes, "ada", 20, 9)
    await treated(outcomes, "ben", 20, 19)
    made = await call(outcomes, "evaluate-measure", measure=RESPONSE, reportType="subject", subject="Patient/ben")
    assert validate(made) == []
    assert (made["type"], made["subject"]) == ("individual", {"reference": "Patient/ben"})
    assert counts(made) == {"denominator": 1, "numerator": 0}


async def test_a_single_patient_is_hidden_in_a_summary(outcomes):
    await treated(outcomes, "ada", 20, 9)
    assert counts(await call(outcomes, "evaluate-measure", measure=RESPONSE)) == {
        "denominator": None,
        "numerator": None,
    }


async def test_a_measure_that_was_posted_is_evaluated_by_its_id(outcomes):
    posted = await outcomes.create({"resourceType": "Measure", "url": f"{RESPONSE}", "status": "active"})
    made = await call(outcomes, "evaluate-measure", level="instance", id_=posted["id"])
    assert made["measure"] == RESPONSE
    with pytest.raises(NotFound, match="There are"):
        await call(outcomes, "evaluate-measure", measure="urn:x")
    with pytest.raises(NotFound):
        await call(outcomes, "evaluate-measure", level="instance", id_="none")


async def test_the_clinics_measures_are_in_the_record_and_each_can_be_evaluated(bench, outcomes):
    theirs = await outcomes.create({"resourceType": "Measure", "url": RESPONSE, "status": "draft"})
    for _ in range(2):
        await tick(bench, outcomes, "measures")
    held = {one["url"]: one for one in await outcomes.search("Measure")}
    assert set(held) == {measure_url(name) for name in policy().sections["measures"]["measures"]}
    assert held[RESPONSE] == await outcomes.get("Measure", theirs["id"])
    for url, one in held.items():
        assert validate(one) == []
        assert one["meta"]["versionId"] == "1"
        made = await call(outcomes, "evaluate-measure", level="instance", id_=one["id"])
        assert made["measure"] == url


@pytest.mark.parametrize(
    "wrong",
    [
        {"periodStart": "soon"},
        {"periodStart": "2028"},
        {"reportType": "all"},
        {"reportType": "subject"},
        {"subject": "Patient/a"},
        {"reportType": "subject", "subject": "Group/a"},
    ],
)
async def test_what_cannot_be_evaluated_is_refused_in_words(outcomes, wrong):
    with pytest.raises(BadRequest):
        await call(outcomes, "evaluate-measure", measure=RESPONSE, **wrong)


async def test_durability_is_of_those_who_responded_at_the_end_of_the_series(outcomes):
    durable = "https://kap-exchange.org/fhir/Measure/phq-9-durability"
    for patient, late in (("ada", 8), ("ben", 15)):
        await treated(outcomes, patient, 20, 9)
        who = {"reference": f"Patient/{patient}"}
        await outcomes.create(phq9(70, late, subject=who, author=who))
    await treated(outcomes, "cy", 20, 19)
    made = await call(outcomes, "evaluate-measure", measure=durable, reportType="subject-list")
    assert counts(made) == {"denominator": 2, "numerator": 1}


def submitted(due, sent):
    said = [{"url": "due", "valueInstant": due}, *([{"url": "sent", "valueDateTime": sent}] if sent else [])]
    return {"url": codes.EXT_REMS, "extension": said}


async def test_adverse_events_are_of_the_visits_and_the_rems_form_of_those_of_esketamine_in_seven_days(bench, outcomes):
    for patient in ("ada", "ben", "cy"):
        await treated(outcomes, patient, 20, 9, codes.ROUTE_NASAL, codes.Code(codes.RXNORM, "2119365"))
    await treated(outcomes, "di", 20, 9)
    event = {
        "resourceType": "AdverseEvent",
        "id": "e1",
        "actuality": "actual",
        "subject": {"reference": "Patient/ada"},
        "encounter": {"reference": "Encounter/v-ada"},
    }
    await heard(outcomes, "sessions", event)
    other = {"id": "e2", "actuality": "potential", "subject": {"reference": "Patient/di"}}
    await heard(outcomes, "sessions", {**event, **other, "encounter": {"reference": "Encounter/v-di"}})
    due = zulu(START + timedelta(days=8))
    for patient, sent in (("ada", 7), ("ben", 9)):
        form = {
            "resourceType": "QuestionnaireResponse",
            "id": f"f-{patient}",
            "questionnaire": codes.REMS_QUESTIONNAIRE,
            "status": "completed",
            "encounter": {"reference": f"Encounter/v-{patient}"},
            "subject": {"reference": f"Patient/{patient}"},
            "authored": zulu(START + timedelta(days=1)),
            "extension": [submitted(due, zulu(START + timedelta(days=sent)))],
        }
        await heard(outcomes, "sessions", form)
    bench.clock.forward(days=30)
    base = "https://kap-exchange.org/fhir/Measure/"
    events = await call(outcomes, "evaluate-measure", measure=f"{base}adverse-events", reportType="subject-list")
    assert counts(events) == {"denominator": 4, "numerator": 1}
    assert {"reference": "AdverseEvent/e1"} in events["evaluatedResource"]
    rems = await call(outcomes, "evaluate-measure", measure=f"{base}rems-timeliness", reportType="subject-list")
    assert counts(rems) == {"denominator": 3, "numerator": 1}


async def test_a_rems_form_is_looked_for_whichever_way_the_dose_names_its_drug(bench, outcomes):
    spray = codes.Code(codes.RXNORM, "2119365")
    await heard(outcomes, "sessions", visit("v1", "in-progress"))
    await heard(outcomes, "sessions", with_lot(dose("m1", "v1", 5), spray))
    await heard(outcomes, "sessions", visit("v1", "finished"), 2)
    await heard(outcomes, "sessions", visit("v2", "in-progress"))
    await heard(outcomes, "sessions", with_lot(dose("m2", "v2", 5), codes.KETAMINE))
    await heard(outcomes, "sessions", visit("v2", "finished"), 2)
    measure = "https://kap-exchange.org/fhir/Measure/rems-timeliness"
    bench.clock.forward(days=30)
    rems = await call(outcomes, "evaluate-measure", measure=measure, reportType="subject-list")
    assert counts(rems) == {"denominator": 1, "numerator": 0}


async def test_a_rems_form_counts_by_its_submission_and_not_before_it_is_due_and_of_outpatients_only(bench, outcomes):
    spray = codes.Code(codes.RXNORM, "2119365")

    async def counted():
        measure = "https://kap-exchange.org/fhir/Measure/rems-timeliness"
        return counts(await call(outcomes, "evaluate-measure", measure=measure, reportType="subject-list"))

    for name, kind in (("v1", "AMB"), ("v2", "IMP")):
        one = visit(name, "finished")
        await heard(outcomes, "sessions", {**one, "class": {**one["class"], "code": kind}})
        await heard(outcomes, "sessions", with_lot(dose(f"m-{name}", name, 5), spray))
    form = {"resourceType": "QuestionnaireResponse", "id": "f", "questionnaire": codes.REMS_QUESTIONNAIRE}
    form |= {"status": "completed", "encounter": {"reference": "Encounter/v1"}, "subject": {"reference": "Patient/ada"}}
    due = zulu(START + timedelta(days=7))
    await heard(outcomes, "sessions", {**form, "authored": zulu(START), "extension": [submitted(due, None)]})
    assert await counted() == {"denominator": 0, "numerator": 0}, "it may still be sent in time"
    bench.clock.forward(days=8)
    assert await counted() == {"denominator": 1, "numerator": 0}, "complete, and not sent"
    sent = {**form, "authored": zulu(START + timedelta(days=20)), "extension": [submitted(due, zulu(START))]}
    await heard(outcomes, "sessions", sent, 2)
    assert await counted() == {"denominator": 1, "numerator": 1}, "filled again later, and sent in time"


async def test_visits_of_one_patient_are_few_however_many_they_are(outcomes):
    for number in range(12):
        await heard(outcomes, "sessions", dose(f"m{number}", f"v{number}", 5 + number * 1440))
        await heard(outcomes, "sessions", visit(f"v{number}", "finished", number))
    measure = "https://kap-exchange.org/fhir/Measure/adverse-events"
    made = await call(outcomes, "evaluate-measure", measure=measure, reportType="summary")
    assert counts(made) == {"denominator": None, "numerator": None}


def stratified(report):
    return {
        one["value"]["text"] for each in report["group"][0].get("stratifier", []) for one in each.get("stratum", [])
    }


async def test_a_session_is_of_the_routes_of_its_ketamine_and_one_without_a_dose_is_none(outcomes):
    await treated(outcomes, "ada", 20, 9)
    oral = {"route": codes.Code(codes.SNOMED, "26643006").concept()}
    other = {**dose("antiemetic", "v-ada", 30, codes.Code(codes.RXNORM, "26225", "ondansetron")), "dosage": oral}
    await heard(outcomes, "sessions", {**other, "subject": {"reference": "Patient/ada"}})
    await heard(outcomes, "sessions", {**visit("held", "finished"), "subject": {"reference": "Patient/ben"}})
    for name in ("adverse-events", "phq-9-response"):
        measure = f"https://kap-exchange.org/fhir/Measure/{name}"
        made = await call(outcomes, "evaluate-measure", measure=measure, reportType="subject-list")
        assert counts(made)["denominator"] == 1
        assert stratified(made) & {one.display for one in codes.ROUTES.values()} == {codes.ROUTE_IM.display}


@pytest.mark.parametrize("status", ["refuted", "entered-in-error"])
async def test_a_diagnosis_that_is_none_is_no_condition_of_a_measure_and_is_not_billed(outcomes, status):
    await treated(outcomes, "ada", 20, 9)
    await condition(outcomes, "ada", "F33.2")
    (held,) = await outcomes.search("Condition", patient="ada")
    system = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    await heard(outcomes, "intake", {**held, "verificationStatus": codes.Code(system, status).concept()}, 2)
    made = await call(outcomes, "evaluate-measure", measure=RESPONSE, reportType="subject-list")
    assert "depression" not in stratified(made)
    lines = table(await call(outcomes, "superbill", "MeasureReport"))
    assert [line[-1] for line in lines[1:]] == [""]


async def test_completion_counts_what_was_answered_of_what_was_due(bench, outcomes):
    await treated(outcomes, "ada", 20, 9)
    bench.clock.forward(days=60)
    (timer,) = [one for one in outcomes.service.timers if one.name == "expectations"]
    await run_once(timer, outcomes.service, outcomes.store, bench.clock(), lambda: None)
    measure = "https://kap-exchange.org/fhir/Measure/completion"
    made = await call(outcomes, "evaluate-measure", measure=measure, reportType="subject-list")
    tasks = await outcomes.search("Task", patient="ada", code=codes.EXPECT_QUESTIONNAIRE.token())
    due = [one for one in tasks if one["status"] in ("completed", "failed")]
    done = [one for one in due if one["status"] == "completed"]
    assert counts(made) == {"denominator": len(due), "numerator": len(done)}
    assert len(due) > len(done)


def table(binary):
    assert validate(binary) == []
    assert binary["contentType"].startswith("text/csv")
    return list(csv.reader(io.StringIO(base64.b64decode(binary["data"]).decode())))


async def test_every_measure_is_in_the_table_with_small_numbers_empty(outcomes):
    await treated(outcomes, "ada", 20, 9)
    lines = table(await call(outcomes, "csv"))
    assert lines[0] == ["measure", "by", "stratum", "numerator", "denominator", "share"]
    assert {line[0] for line in lines[1:]} == set(load_policy().sections["measures"]["measures"])
    assert ["phq-9-response", "", "", "", "", ""] in lines


async def test_a_superbill_has_the_codes_that_the_clinic_entered_and_says_where_there_are_none(outcomes):
    await treated(outcomes, "ada", 20, 9)
    await condition(outcomes, "ada", "F33.2")
    await heard(outcomes, "sessions", visit("v-prep", "finished", day=-7, kind=codes.VISIT_PREP))
    lines = table(await call(outcomes, "superbill", "MeasureReport"))
    assert [line[3:] for line in lines[1:]] == [
        ["kap-prep", "", "", "", "F33.2"],
        ["kap-dosing", "urn:clinic", "X1", "'=a dose", "F33.2"],
    ]


def test_no_billing_codes_are_shipped():
    assert load_policy().sections["measures"]["superbill"] == {}
