"""The REMS form: filled from the session, what is missing named, due seven days after, kept when filled again."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.sessions.rules.rems import REQUIRED
from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.fhir.validation import validate
from shared.runtime.timers import run_once
from tests.integration.services.bedside import Bedside, rules_of, vital
from tests.integration.services.course import about, milligrams

SPRAY = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray").concept()
FUNCTION = "http://terminology.hl7.org/CodeSystem/med-admin-perform-function"
LEFT_TO_A_PERSON = {"hypnotic", "psychostimulant", "maoi", "ready-minutes", "serious-event"}
AT_THE_END = {"monitoring-minutes", "systolic-end", "diastolic-end", "vitals-end", "respiratory-depression"}
RATED = {"sedation", "dissociation"}
"""Of what the ratings show nothing is said before they are there; of what did not occur not before the end."""


ROOM = {
    "resourceType": "Location",
    "id": "room",
    "name": "Quiet room",
    "identifier": [{"system": codes.ID_REMS_SITE, "value": "S-1"}],
    "managingOrganization": {"reference": "Organization/clinic"},
}
CLINIC = {
    "resourceType": "Organization",
    "id": "clinic",
    "name": "Clinic",
    "address": [{"line": ["4 River Street"], "city": "Riverton", "postalCode": "00004"}],
}
NURSE = {
    "resourceType": "Practitioner",
    "id": "nurse",
    "name": [{"use": "old", "family": "Before"}, {"use": "official", "family": "Reyes", "given": ["Ana"]}],
    "telecom": [{"system": "phone", "value": "+1-555-0100"}],
}
DUTY = {
    "resourceType": "PractitionerRole",
    "id": "duty",
    "practitioner": {"reference": "Practitioner/nurse"},
    "telecom": [{"system": "email", "value": "nurse@clinic.example"}],
}


@pytest.fixture
async def session(bench, clock):
    """Return a session of esketamine with a dose of a known lot and readings before, at 40 minutes and at the end."""
    at = Bedside(await bench.open(sessions_service), clock)
    await at.begin(codes.ROUTE_NASAL, 56, medicationCodeableConcept=SPRAY)
    for one in (ROOM, CLINIC, NURSE, DUTY):
        await at.tell("intake", one)
    who = [*at.who["identifier"], {"system": codes.ID_REMS_PATIENT, "value": "P-1"}]
    names = [{"use": "maiden", "family": "Reed"}, {"use": "official", "family": "Moss", "given": ["Ada", "B."]}]
    await at.tell("intake", {**at.who, "identifier": who, "name": names})
    await at.chart(118, 76)
    given = await at.sessions.create(spray(at))
    await at.sessions.update({**given, "status": "completed"})
    clock.forward(minutes=42)
    await at.chart(131, 84)
    clock.forward(minutes=38)
    await at.chart(124, 80)
    clock.forward(minutes=45)
    await at.chart(121, 79)
    return at


def spray(at, status="in-progress", **more):
    """Return a dose of a known lot, taken under the eyes of the nurse."""
    product = {"resourceType": "Medication", "id": "m", "code": SPRAY, "batch": {"lotNumber": "LOT-9"}}
    dose = at.dose(56, status, contained=[product], medicationReference={"reference": "#m"}, **more)
    del dose["medicationCodeableConcept"]
    himself = {"function": function("performer"), "actor": about(at.who)}
    dose["performer"] = [himself, {"function": function("witness"), "actor": {"reference": "Practitioner/nurse"}}]
    return dose


def function(code):
    return {"coding": [{"system": FUNCTION, "code": code}]}


async def rate(at, scale, *scores, before=125):
    """Chart ratings: pairs of a minute from the first device and a score; now it is minute `before`."""
    for minute, score in scores:
        value = {"value": score, "unit": "{score}", "system": codes.UCUM, "code": "{score}"}
        more = {"code": codes.Code(codes.KAP, scale).concept(), "valueQuantity": value}
        rated = {**at.reading(minutes=before - minute), **more}
        await at.sessions.create({name: one for name, one in rated.items() if name != "component"})


async def fill(at):
    """Return the form's answers, its status, what is missing, and its Task."""
    answer = await at.sessions.call("rems-form", at.visit)
    said = {one["name"]: one for one in answer["parameter"]}
    form = await at.sessions.get("QuestionnaireResponse", said["form"]["valueReference"]["reference"].partition("/")[2])
    task = await at.sessions.get("Task", said["task"]["valueReference"]["reference"].partition("/")[2])
    answers = {one["linkId"]: next(iter(one["answer"][0].values())) for one in form["item"]}
    return form, answers, {one["valueCode"] for one in answer["parameter"] if one["name"] == "missing"}, task


async def test_the_form_is_filled_from_the_session_and_what_is_missing_is_named(session):
    form, answers, lacking, task = await fill(session)
    assert form["status"] == "in-progress"
    assert lacking == LEFT_TO_A_PERSON | RATED | AT_THE_END
    assert answers["patient-name"] == "Ada B. Moss"
    assert (answers["professional"], answers["professional-phone"]) == ("Ana Reyes", "+1-555-0100")
    assert answers["professional-email"] == "nurse@clinic.example"
    assert (answers["setting-name"], answers["setting-address"]) == ("Quiet room", "4 River Street, Riverton, 00004")
    assert (answers["vitals-before"], answers["oximetry"]) == (True, True)
    assert (answers["dose-mg"], answers["lot"], answers["first-treatment"]) == (56, "LOT-9", True)
    assert (answers["systolic-before"], answers["systolic-40"]) == (118, 131)
    assert task["restriction"]["period"]["end"] == "2026-11-29T23:59:59.000Z"


async def test_what_a_person_answered_stays_and_the_form_is_completed_once(session):
    form, _, _, first = await fill(session)
    told = [said(link, valueBoolean=False) for link in sorted((LEFT_TO_A_PERSON | RATED) - {"ready-minutes"})]
    told.append(said("ready-minutes", valueInteger=95))
    await session.sessions.update({**form, "item": [*form["item"], *told]})
    end = {**session.visit["period"], "end": zulu(session.clock.now)}
    await session.sessions.update({**session.visit, "status": "finished", "period": end})
    form, answers, lacking, task = await fill(session)
    assert (form["status"], lacking) == ("completed", set())
    assert (answers["monitoring-minutes"], answers["systolic-end"], answers["diastolic-end"]) == (125, 121, 79)
    assert (answers["vitals-end"], answers["respiratory-depression"], answers["ready-minutes"]) == (True, False, 95)
    assert set(answers) == set(REQUIRED)
    assert task["id"] == first["id"]
    sent = await session.sessions.update({**task, "status": "completed", "note": [{"text": "By web, number 77"}]})
    assert sent["status"] == "completed"


def said(link, **answer):
    return {"linkId": link, "answer": [answer]}


async def test_sedation_and_dissociation_are_said_with_onset_and_resolution_as_they_were_rated(session):
    await rate(session, "moaa-s", (20, 5), (40, 3), (80, 4), (120, 5))
    await rate(session, "cadss-6-total", (40, 7), (120, 0))
    _, answers, lacking, _ = await fill(session)
    assert not lacking & RATED
    assert [answers[link] for link in ("sedation", "sedation-onset", "sedation-resolution")] == [True, 40, 120]
    assert [answers[link] for link in ("dissociation", "dissociation-onset", "dissociation-resolution")] == [
        True,
        40,
        120,
    ]


async def test_what_has_not_gone_yet_lacks_its_resolution(session):
    await rate(session, "moaa-s", (40, 3), (80, 4))
    _, answers, lacking, _ = await fill(session)
    assert (answers["sedation"], answers["sedation-onset"]) == (True, 40)
    assert "sedation-resolution" in lacking


@pytest.mark.parametrize(("minutes", "known"), [((40, 80, 120), True), ((40, 120), False), ((), False)])
async def test_that_there_was_no_sedation_is_said_where_it_was_rated_each_time(session, minutes, known):
    await rate(session, "moaa-s", *((minute, 5) for minute in minutes))
    await finish(session)
    _, answers, lacking, _ = await fill(session)
    assert (answers.get("sedation"), "sedation" in lacking) == ((False, False) if known else (None, True))
    assert "sedation-onset" not in lacking


async def test_what_a_person_saw_stands_beside_ratings_that_do_not_show_it(session):
    await rate(session, "moaa-s", (40, 5), (80, 5), (120, 5))
    form, *_ = await fill(session)
    told = [said("sedation", valueBoolean=True), said("sedation-onset", valueInteger=50)]
    await session.sessions.update({**form, "item": [*form["item"], *told]})
    await finish(session)
    _, answers, lacking, _ = await fill(session)
    assert (answers["sedation"], answers["sedation-onset"]) == (True, 50)
    assert "sedation-resolution" in lacking


async def test_a_breath_too_few_or_a_saturation_too_low_is_respiratory_depression(session):
    slow = vital(codes.Code(codes.LOINC, "9279-1"), 7, "/min")
    await session.sessions.create(session.reading(slow, minutes=60))
    _, answers, _, _ = await fill(session)
    assert answers["respiratory-depression"] is True


async def test_a_dip_of_a_device_alone_is_for_a_person_to_say_what_it_was(session):
    start = zulu(session.clock.now - timedelta(minutes=60))
    data = {"origin": {"value": 0, "unit": "%", "system": codes.UCUM, "code": "%"}, "period": 1000, "dimensions": 1}
    feed = session.reading(code=codes.OXYGEN_SATURATION.concept(), effectivePeriod={"start": start, "end": start})
    del feed["component"], feed["effectiveDateTime"]
    await session.sessions.create({**feed, "valueSampledData": {**data, "data": "97 97 60 97"}})
    await finish(session)
    _, answers, lacking, _ = await fill(session)
    assert "respiratory-depression" in lacking
    assert "respiratory-depression" not in answers


async def test_vital_signs_beyond_the_limits_of_leaving_are_not_acceptable_before_completion(session):
    await session.chart(168, 101)
    await finish(session)
    _, answers, lacking, _ = await fill(session)
    assert (answers["vitals-before"], answers["vitals-end"]) == (True, False)
    assert "vitals-end" not in lacking


async def test_a_dose_past_a_closed_gate_had_no_acceptable_vital_signs(session):
    (dose,) = await session.sessions.search("MedicationAdministration", patient=session.who["id"])
    before = session.reading(vital(codes.SYSTOLIC, 182, "mm[Hg]"), vital(codes.DIASTOLIC, 104, "mm[Hg]"), minutes=126)
    await session.sessions.create(before)
    _, answers, lacking, _ = await fill(session)
    assert dose["status"] == "completed"
    assert answers["vitals-before"] is False
    assert "vitals-before" not in lacking


async def test_where_nobody_says_who_watched_or_where_the_form_lacks_it(session):
    (dose,) = await session.sessions.search("MedicationAdministration", patient=session.who["id"])
    himself, _ = dose["performer"]
    await session.sessions.update({**dose, "performer": [himself]})
    await session.tell("intake", {**ROOM, "name": None, "managingOrganization": None})
    _, answers, lacking, _ = await fill(session)
    lacks = {"professional", "professional-phone", "professional-email", "setting-address"}
    assert lacks <= lacking
    assert not lacks & set(answers)


async def test_a_dose_charted_after_the_visit_was_finished_has_its_form_and_its_task(session):
    (dose,) = await session.sessions.search("MedicationAdministration", patient=session.who["id"])
    await session.sessions.update({**dose, "status": "entered-in-error"})
    await finish(session)
    assert await tasks(session, codes.SUBMIT_REMS) == []
    session.clock.forward(days=1)
    given = {**spray(session, "completed"), "effectivePeriod": dose["effectivePeriod"]}
    late = await session.sessions.create(given)
    (task,) = await tasks(session, codes.SUBMIT_REMS)
    assert task["restriction"]["period"]["end"] == "2026-11-29T23:59:59.000Z"
    form = await session.sessions.get("QuestionnaireResponse", task["focus"]["reference"].partition("/")[2])
    answers = {one["linkId"]: one["answer"][0] for one in form["item"]}
    assert answers["lot"] == {"valueString": "LOT-9"}
    assert answers["monitoring-minutes"] == {"valueInteger": 125}
    await session.sessions.update({**late, "status": "entered-in-error"})
    form = await session.sessions.get("QuestionnaireResponse", form["id"])
    (task,) = await tasks(session, codes.SUBMIT_REMS)
    assert (form["status"], task["status"]) == ("entered-in-error", "cancelled")


async def test_a_spray_that_becomes_known_after_the_visit_has_its_form(session):
    (dose,) = await session.sessions.search("MedicationAdministration", patient=session.who["id"])
    await session.sessions.update({**dose, "status": "entered-in-error"})
    unknown = {name: one for name, one in spray(session, "completed").items() if name != "contained"}
    named = {"medicationReference": {"reference": "Medication/later"}, "effectivePeriod": dose["effectivePeriod"]}
    await session.sessions.create({**unknown, **named})
    await finish(session)
    assert await tasks(session, codes.SUBMIT_REMS) == []
    await session.tell("intake", {"resourceType": "Medication", "id": "later", "code": SPRAY})
    (task,) = await tasks(session, codes.SUBMIT_REMS)
    assert task["status"] == "requested"


async def test_what_changes_after_the_form_was_sent_is_told_to_the_programme(session):
    await finish(session)
    await submit(session)
    (dose,) = await session.sessions.search("MedicationAdministration", patient=session.who["id"])
    more = {**dose, "dosage": {**dose["dosage"], "dose": milligrams(84)}}
    await session.sessions.update(more)
    (asked,) = [one for one in await tasks(session, codes.REVIEW) if "another thing" in one["description"]]
    assert "telephone" in asked["description"]
    (task,) = await tasks(session, codes.SUBMIT_REMS)
    assert task["status"] == "completed"


async def told(session):
    """Return how often somebody is asked to tell the programme what changed since the form was sent."""
    return len([one for one in await tasks(session, codes.REVIEW) if "another thing" in one["description"]])


async def test_an_event_found_serious_or_a_reading_corrected_after_the_form_was_sent_is_told_to_the_programme(
    session,
):
    event = await session.sessions.create({**serious(session), "seriousness": {"text": "not serious"}})
    await finish(session)
    await submit(session)
    assert await told(session) == 0
    await session.sessions.update({**serious(session), "id": event["id"]})
    assert await told(session) == 1
    _, answers, _, _ = await fill(session)
    assert answers["serious-event"] is True
    (asked,) = [one for one in await tasks(session, codes.REVIEW) if "another thing" in one["description"]]
    await session.sessions.update({**asked, "status": "completed", "owner": {"reference": "Practitioner/nurse"}})
    read = await session.sessions.search("Observation", encounter=f"Encounter/{session.visit['id']}")
    (last, *_) = sorted(read, key=lambda one: one["effectiveDateTime"], reverse=True)
    higher = [{**one, "valueQuantity": {**one["valueQuantity"], "value": 131}} for one in last["component"][:1]]
    await session.sessions.update({**last, "status": "corrected", "component": [*higher, *last["component"][1:]]})
    (asked,) = [one for one in await tasks(session, codes.REVIEW) if "another thing" in one["description"]]
    assert asked["status"] == "requested"
    _, now, _, _ = await fill(session)
    assert (now["systolic-end"], answers["systolic-end"]) == (131, 121)


async def test_how_the_form_was_sent_is_recorded_after_its_task_was_ticked_off_by_hand_and_once(session):
    await finish(session)
    (task,) = await tasks(session, codes.SUBMIT_REMS)
    session.clock.forward(days=1)
    await session.sessions.update({**task, "status": "completed", "owner": {"reference": "Practitioner/other"}})
    await submit(session, sent=zulu(session.clock.now - timedelta(hours=3)))
    (task,) = await tasks(session, codes.SUBMIT_REMS)
    assert (task["status"], task["owner"]["reference"]) == ("completed", "Practitioner/nurse")
    assert [one.get("valueCode", one.get("valueString")) for one in task["output"]][1:] == ["fax", "77-1"]
    form, _, _, _ = await fill(session)
    assert submission(form)["sent"] == zulu(session.clock.now - timedelta(hours=3))
    with pytest.raises(Unprocessable) as refused:
        await submit(session)
    assert rules_of(refused) == {"G-REMS-FORM"}


async def test_a_treatment_elsewhere_makes_this_one_not_the_first(session):
    _, answers, _, _ = await fill(session)
    assert answers["first-treatment"] is True
    elsewhere = {**spray(session, "completed"), "meta": {"source": "https://other.example/fhir"}}
    elsewhere["effectivePeriod"] = {"start": zulu(session.clock.now - timedelta(days=30))}
    del elsewhere["context"]
    await session.tell("intake", elsewhere)
    _, answers, _, _ = await fill(session)
    assert answers["first-treatment"] is False


@pytest.mark.parametrize(("minutes", "known"), [(0, True), (30, True), (31, False)])
async def test_a_pressure_before_completion_is_one_of_before_completion_and_is_missing_where_none_was_taken(
    session, minutes, known
):
    session.clock.forward(minutes=minutes)
    await finish(session)
    _, answers, lacking, _ = await fill(session)
    assert (answers.get("systolic-end"), "systolic-end" in lacking) == ((121, False) if known else (None, True))


@pytest.mark.parametrize("actor", ["Patient/ada", "RelatedPerson/mother"])
async def test_who_is_no_professional_is_no_witness_of_esketamine(session, actor):
    dose = {**session.dose(28), "medicationCodeableConcept": SPRAY}
    dose["performer"] = [{"function": function("witness"), "actor": {"reference": actor}}]
    with pytest.raises(Unprocessable) as refused:
        await session.sessions.create(dose)
    assert "G-REMS-WITNESS" in rules_of(refused)


async def tasks(session, code):
    return await session.sessions.search("Task", patient=session.who["id"], code=code.token())


async def run(session, name):
    service = session.sessions.service
    (timer,) = [one for one in service.timers if one.name == name]
    await run_once(timer, service, session.sessions.store, session.clock.now, lambda: None)


async def finish(session):
    end = {**session.visit["period"], "end": zulu(session.clock.now)}
    return await session.sessions.update({**session.visit, "status": "finished", "period": end})


async def submit(session, **given):
    forms = {"sent": "valueDateTime", "channel": "valueCode", "confirmation": "valueString"}
    said = {"channel": "fax", "confirmation": "77-1", **given}
    parameters = [{"name": name, forms[name]: value} for name, value in said.items()]
    by = {"name": "by", "valueReference": {"reference": "Practitioner/nurse"}}
    return await session.sessions.call("rems-submitted", session.visit, by, *parameters)


async def test_at_the_end_of_the_session_the_form_is_filled_and_due_without_being_asked_for(session):
    await finish(session)
    (task,) = await tasks(session, codes.SUBMIT_REMS)
    assert task["restriction"]["period"]["end"] == "2026-11-29T23:59:59.000Z"
    form = await session.sessions.get("QuestionnaireResponse", task["focus"]["reference"].partition("/")[2])
    answers = {one["linkId"]: one["answer"][0] for one in form["item"]}
    assert answers["monitoring-minutes"] == {"valueInteger": 125}


async def test_for_inpatients_there_is_no_form_and_a_serious_event_is_reported_all_the_same(session):
    session.visit = await session.sessions.update({**session.visit, "class": {**session.visit["class"], "code": "IMP"}})
    await session.sessions.create(serious(session))
    await finish(session)
    assert await tasks(session, codes.SUBMIT_REMS) == []
    (report,) = await tasks(session, codes.REPORT_EVENT)
    assert "MedWatch" in report["description"]


@pytest.mark.parametrize(("days", "late"), [(7, "in time"), (8, "late")])
async def test_that_the_form_was_sent_is_recorded_with_when_how_and_the_answer(session, days, late):
    await finish(session)
    session.clock.forward(days=days)
    await submit(session)
    (task,) = await tasks(session, codes.SUBMIT_REMS)
    assert (task["status"], task["businessStatus"]["text"]) == ("completed", late)
    assert [one.get("valueCode", one.get("valueString")) for one in task["output"]][1:] == ["fax", "77-1"]
    (asked,) = [one for one in await tasks(session, codes.REVIEW) if "lacks" in one["description"]]
    assert "ready-minutes" in asked["description"]
    with pytest.raises(Unprocessable) as error:
        await submit(session)
    assert rules_of(error) == {"G-REMS-FORM"}


@pytest.mark.parametrize("given", [{"channel": "pigeon"}, {"sent": "2027-01-01T00:00:00Z"}, {"sent": "soon"}])
async def test_what_cannot_have_been_sent_so_is_refused(session, given):
    await finish(session)
    with pytest.raises(BadRequest):
        await submit(session, **given)


async def test_a_form_or_a_report_that_is_not_sent_in_its_time_is_looked_at_once(session):
    await session.sessions.create(serious(session))
    await finish(session)
    session.clock.forward(days=6)
    await run(session, "late-reports")
    assert [one for one in await tasks(session, codes.REVIEW) if "Not sent" in one["description"]] == []
    session.clock.forward(days=1.7)
    for _ in range(2):
        await run(session, "late-reports")
        late = [one for one in await tasks(session, codes.REVIEW) if "Not sent" in one["description"]]
        assert len(late) == 2


def serious(session):
    serious = "http://terminology.hl7.org/CodeSystem/adverse-event-seriousness"
    return {
        "resourceType": "AdverseEvent",
        "actuality": "actual",
        "subject": about(session.who),
        "encounter": about(session.visit),
        "date": zulu(session.clock.now),
        "seriousness": {"coding": [{"system": serious, "code": "serious"}]},
    }


async def test_a_serious_event_is_on_the_form(session):
    await session.sessions.create(serious(session))
    _, answers, lacking, _ = await fill(session)
    assert answers["serious-event"] is True
    assert "serious-event" not in lacking


async def test_without_esketamine_and_for_inpatients_there_is_no_form(bedside, session):
    with pytest.raises(Unprocessable) as error:
        await bedside.sessions.call("rems-form", bedside.visit)
    assert rules_of(error) == {"G-REMS-FORM"}
    with pytest.raises(NotFound):
        await bedside.sessions.call("rems-form", {"resourceType": "Encounter", "id": "none"})
    inpatient = {**session.visit, "class": {**session.visit["class"], "code": "IMP"}}
    await session.sessions.update(inpatient)
    with pytest.raises(Unprocessable) as error:
        await session.sessions.call("rems-form", session.visit)
    assert rules_of(error) == {"G-REMS-FORM"}


async def test_a_session_in_the_evening_is_of_its_own_day_and_its_form_due_at_the_end_of_the_seventh_after(session):
    zone = {"url": codes.EXT_TIMEZONE, "valueCode": "America/Los_Angeles"}
    await session.tell("intake", {**ROOM, "extension": [zone]})
    (dose,) = await session.sessions.search("MedicationAdministration", patient=session.who["id"])
    evening = {**dose, "effectivePeriod": {"start": "2026-11-23T01:10:00Z"}}  # ten past five in the afternoon there
    session.clock.forward(days=1)
    await session.sessions.update(evening)
    _, answers, _, task = await fill(session)
    assert answers["treatment-date"] == "2026-11-22"
    assert task["restriction"]["period"]["end"] == "2026-11-30T07:59:59.000Z"


def submission(form):
    """Return what a form says of its submission: due, and when it was sent."""
    return {
        part["url"]: part.get("valueInstant") or part["valueDateTime"] for part in form["extension"][0]["extension"]
    }


async def test_a_form_keeps_when_it_was_sent_however_often_it_is_filled_again(session):
    await finish(session)
    form, _, _, _ = await fill(session)
    assert submission(form) == {"due": "2026-11-29T23:59:59.000Z"}
    sent = zulu(session.clock.now)
    await submit(session)
    session.clock.forward(days=10)
    form, _, _, _ = await fill(session)
    assert submission(form) == {"due": "2026-11-29T23:59:59.000Z", "sent": sent}
    assert validate(form) == []


async def test_who_completes_the_task_to_send_the_form_by_hand_says_that_it_was_sent(session):
    await finish(session)
    (task,) = await tasks(session, codes.SUBMIT_REMS)
    session.clock.forward(days=1)
    await session.sessions.update({**task, "status": "completed"})
    form, _, _, _ = await fill(session)
    assert submission(form)["sent"] == zulu(session.clock.now)


async def test_a_person_who_writes_the_form_without_when_it_was_sent_leaves_that_in_it(session):
    await finish(session)
    await submit(session)
    form, _, _, _ = await fill(session)
    written = {key: one for key, one in form.items() if key not in ("extension", "meta")}
    kept = await session.sessions.update({**written, "status": "amended"})
    assert submission(kept) == submission(form)
    assert "sent" in submission(form)
