"""The REMS form: filled from the session, what is missing named, due seven days after, kept when filled again."""

from __future__ import annotations

import pytest

from services.sessions.rules.rems import REQUIRED
from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.fhir.validation import validate
from shared.runtime.timers import run_once
from tests.integration.services.bedside import Bedside, rules_of
from tests.integration.services.course import about

SPRAY = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray").concept()
FUNCTION = "http://terminology.hl7.org/CodeSystem/med-admin-perform-function"
LEFT_TO_A_PERSON = {"hypnotic", "psychostimulant", "maoi", "sedation", "dissociation", "serious-event"}


@pytest.fixture
async def session(bench, clock):
    """Return a session of esketamine with a dose of a known lot and readings before, at 40 minutes and at the end."""
    at = Bedside(await bench.open(sessions_service), clock)
    await at.begin(codes.ROUTE_NASAL, 56, medicationCodeableConcept=SPRAY)
    room = {"resourceType": "Location", "id": "room", "identifier": [{"system": codes.ID_REMS_SITE, "value": "S-1"}]}
    await at.tell("intake", room)
    who = [*at.who["identifier"], {"system": codes.ID_REMS_PATIENT, "value": "P-1"}]
    await at.tell("intake", {**at.who, "identifier": who})
    await at.chart(118, 76)
    product = {"resourceType": "Medication", "id": "m", "code": SPRAY, "batch": {"lotNumber": "LOT-9"}}
    witness = {
        "coding": [{"system": "http://terminology.hl7.org/CodeSystem/med-admin-perform-function", "code": "witness"}]
    }
    dose = at.dose(56, contained=[product], medicationReference={"reference": "#m"})
    del dose["medicationCodeableConcept"]
    dose["performer"] = [{"function": witness, "actor": {"reference": "Practitioner/nurse"}}]
    given = await at.sessions.create(dose)
    await at.sessions.update({**given, "status": "completed"})
    clock.forward(minutes=42)
    await at.chart(131, 84)
    clock.forward(minutes=83)
    await at.chart(121, 79)
    return at


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
    assert lacking == LEFT_TO_A_PERSON | {"monitoring-minutes", "systolic-end", "diastolic-end"}
    assert answers["patient-name"] == "Ada Moss"
    assert (answers["dose-mg"], answers["lot"], answers["first-treatment"]) == (56, "LOT-9", True)
    assert (answers["systolic-before"], answers["systolic-40"]) == (118, 131)
    assert task["restriction"]["period"]["end"] == "2026-11-29T23:59:59.000Z"


async def test_what_a_person_answered_stays_and_the_form_is_completed_once(session):
    form, _, _, first = await fill(session)
    told = [{"linkId": link, "answer": [{"valueBoolean": False}]} for link in sorted(LEFT_TO_A_PERSON)]
    await session.sessions.update({**form, "item": [*form["item"], *told]})
    end = {**session.visit["period"], "end": zulu(session.clock.now)}
    await session.sessions.update({**session.visit, "status": "finished", "period": end})
    form, answers, lacking, task = await fill(session)
    assert (form["status"], lacking) == ("completed", set())
    assert (answers["monitoring-minutes"], answers["systolic-end"], answers["diastolic-end"]) == (125, 121, 79)
    assert set(answers) == set(REQUIRED)
    assert task["id"] == first["id"]
    sent = await session.sessions.update({**task, "status": "completed", "note": [{"text": "By web, number 77"}]})
    assert sent["status"] == "completed"


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
    witness = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/med-admin-perform-function"}]}
    witness["coding"][0]["code"] = "witness"
    dose = {**session.dose(28), "medicationCodeableConcept": SPRAY}
    dose["performer"] = [{"function": witness, "actor": {"reference": actor}}]
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
    assert "sedation" in asked["description"]
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
    room = {"resourceType": "Location", "id": "room", "identifier": [{"system": codes.ID_REMS_SITE, "value": "S-1"}]}
    await session.tell("intake", {**room, "extension": [zone]})
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
