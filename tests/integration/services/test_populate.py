"""Questionnaire/$populate where the Questionnaires are: by id, by canonical, with the Questionnaire itself."""

from __future__ import annotations

import json

import pytest

from services.intake.service import intake as intake_service
from shared.fhir.outcome import BadRequest, NotFound
from shared.fhir.validation import validate
from shared.runtime.policy import FOLDER
from shared.runtime.service import OperationCall
from tests.integration.services.course import about, patient

PHQ9 = json.loads((FOLDER / "questionnaires" / "phq-9.json").read_text(encoding="utf-8"))


async def call(intake, level, id_, **parameters):
    (operation,) = [one for one in intake.service.operations if (one.name, one.level) == ("populate", level)]
    given = [{"name": name, **value} for name, value in parameters.items()]
    async with intake.record("none") as record:
        body = {"resourceType": "Parameters", "parameter": given}
        answer = await operation.handler(OperationCall("populate", "Questionnaire", id_, body), record)
    assert validate(answer) == []
    return answer["parameter"][0]["resource"]


async def test_a_questionnaire_is_populated_by_its_id_its_canonical_or_as_it_is_sent(bench):
    intake = await bench.open(intake_service)
    who = await intake.create(patient())
    held = await intake.create(PHQ9)
    subject = {"valueReference": about(who)}
    before = await intake.count()
    by_id = await call(intake, "instance", held["id"], subject=subject)
    by_url = await call(
        intake, "type", None, canonical={"valueUri": PHQ9["url"]}, subject={"valueString": about(who)["reference"]}
    )
    as_sent = await call(intake, "type", None, questionnaire={"resource": PHQ9}, subject=subject)
    for made in (by_id, by_url, as_sent):
        assert (made["questionnaire"], made["subject"]) == (f"{PHQ9['url']}|{PHQ9['version']}", about(who))
        assert len(made["item"]) == 10
    assert await intake.count() == before


async def test_without_a_patient_or_a_questionnaire_of_the_record_it_is_refused_in_words(bench):
    intake = await bench.open(intake_service)
    who = await intake.create(patient())
    held = await intake.create(PHQ9)
    subject = {"valueReference": about(who)}
    with pytest.raises(BadRequest, match="subject"):
        await call(intake, "instance", held["id"])
    with pytest.raises(BadRequest, match="subject"):
        await call(intake, "instance", held["id"], subject={"valueReference": {"reference": "Patient/none"}})
    with pytest.raises(NotFound):
        await call(intake, "instance", "none", subject=subject)
    with pytest.raises(NotFound):
        await call(intake, "type", None, subject=subject, canonical={"valueUri": "urn:none"})
    with pytest.raises(BadRequest, match="which"):
        await call(intake, "type", None, subject=subject)
    with pytest.raises(BadRequest):
        await call(intake, "type", None, subject=subject, questionnaire={"resource": who})
