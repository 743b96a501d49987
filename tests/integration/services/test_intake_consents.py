"""Consent to the treatment, element by element, and privacy consents."""

from __future__ import annotations

import pytest

from services.intake.service import intake as intake_service
from shared.fhir import codes
from shared.fhir.kap import stage_of
from shared.fhir.outcome import Unprocessable
from shared.runtime.policy import load_policy
from shared.runtime.timers import run_once
from tests.integration.services.at_intake import (
    rules_of,
    the_course,
)
from tests.integration.services.course import (
    Opened,
    about,
    consent,
    eligible,
    patient,
    planned,
)


@pytest.mark.parametrize("missing", ["dateTime", "performer"])
async def test_a_consent_without_time_or_signer_is_refused(intake, clock, missing):
    who = await eligible(intake, clock)
    lacking = consent(who)
    del lacking[missing]
    with pytest.raises(Unprocessable) as error:
        await intake.create(lacking)
    assert "C-CONSENT" in rules_of(error)
    await intake.create({**lacking, "status": "draft"})


async def test_a_consent_without_a_route_is_refused(intake, clock):
    who = await eligible(intake, clock)
    signed = consent(who)
    with pytest.raises(Unprocessable):
        await intake.create({**signed, "category": signed["category"][:1]})


async def test_a_withdrawn_consent_puts_the_course_on_hold_and_a_person_lifts_it(intake, clock):
    who, signed, _ = await planned(intake, clock)
    await intake.update({**signed, "status": "inactive"})
    course = await the_course(intake, who)
    assert (stage_of(course), course["status"]) == ("planned", "onhold")
    with pytest.raises(Unprocessable) as error:
        await intake.update({**course, "status": "active"})
    assert rules_of(error) == {"K-HOLD"}
    await intake.create(consent(who))
    assert (await the_course(intake, who))["status"] == "onhold"
    await intake.update({**(await the_course(intake, who)), "status": "active"})


async def test_a_consent_in_which_an_element_is_missing_is_refused_by_its_name(intake, clock):
    who = await eligible(intake, clock)
    whole = consent(who)
    lacking = {**whole, "extension": [one for one in whole["extension"] if one["extension"][0]["valueCode"] != "touch"]}
    with pytest.raises(Unprocessable, match="'touch' is missing") as error:
        await intake.create(lacking)
    assert rules_of(error) == {"C-ELEMENT"}
    held = await intake.create({**lacking, "status": "proposed"})
    assert stage_of(await the_course(intake, who)) == "eligible"
    await intake.update({**held, "status": "inactive"})
    refusal = {name: value for name, value in whole.items() if name != "extension"}
    await intake.create({**refusal, "provision": {"type": "deny"}})


async def test_when_the_text_changes_whoever_signed_the_old_one_is_asked_again(intake, clock, tmp_path):
    who, signed, _ = await planned(intake, clock)
    file = tmp_path / "own.yaml"
    file.write_text(
        'version: "1"\nclinic: example\nsections: {consent: {elements: {cost: {version: "2"}}}}\n', encoding="utf-8"
    )
    newer = Opened(intake_service(load_policy(file), clock), intake.store)
    (timer,) = [one for one in newer.service.timers if one.name == "consent-renewal"]
    for _ in range(2):
        await run_once(timer, newer.service, newer.store, clock.now, lambda: None)
    (asked,) = await newer.search("Task", patient=who["id"], code=codes.RENEW_CONSENT.token())
    assert "cost" in asked["description"]
    assert (await the_course(newer, who))["status"] == "active", "the old one counts until then"
    await newer.update({**signed, "status": "inactive"})
    (asked,) = await newer.search("Task", patient=who["id"], code=codes.RENEW_CONSENT.token())
    assert asked["status"] == "completed"


def privacy(who):
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": codes.CONSENT_PRIVACY.concept(),
        "category": [codes.Code(codes.LOINC, "59284-0").concept()],
        "patient": about(who),
        "dateTime": "2026-11-20",
        "performer": [about(who)],
        "organization": [{"display": "Clinic"}],
        "sourceAttachment": {"title": "signed form"},
        "policy": [{"uri": "http://terminology.hl7.org/CodeSystem/consentpolicycodes#hipaa-auth"}],
        "provision": {"type": "permit", "purpose": [{"system": codes.ACT_REASON, "code": "TREAT"}]},
    }


async def test_a_privacy_consent_is_held_to_pcf_and_one_from_elsewhere_is_kept(intake):
    who = await intake.create(patient())
    await intake.create(privacy(who))
    loose = {**privacy(who), "provision": {"type": "permit", "action": [{"text": "read"}]}}
    with pytest.raises(Unprocessable) as error:
        await intake.create(loose)
    assert rules_of(error) == {"P-PCF"}
    await intake.create({**loose, "meta": {"source": "urn:hospital"}})
    await intake.create({**loose, "status": "inactive"})


async def test_nobody_writes_himself_the_consent_to_read_process_notes(intake):
    who, colleague = await intake.create(patient()), "Practitioner/colleague"
    actor = {"role": codes.Code(codes.PARTICIPATION, "IRCP").concept(), "reference": {"reference": colleague}}
    notes = {
        "type": "permit",
        "purpose": [{"system": codes.ACT_REASON, "code": "TREAT"}],
        "actor": [actor],
        "securityLabel": [codes.Code(codes.ACT_CODE, "PSYTHPN").coding()],
    }
    given = {**privacy(who), "provision": {**notes, "provision": [notes]}}

    async def written_by(user):
        async with intake.record(f"Patient/{who['id']}") as record:
            record.user = user
            await record.create(given)

    await written_by("Practitioner/desk")
    with pytest.raises(Unprocessable) as error:
        await written_by(colleague)
    assert rules_of(error) == {"P-PCF"}
