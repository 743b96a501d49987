"""The gate at work: what is known where a dose begins, and what follows from a dose past a closed gate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from services.sessions.rules import Situation, begins_ahead, claim_of, gate, readings_of, resumes
from services.sessions.setting import Setting
from shared.fhir.codes import DRUG_NOT_KNOWN, GATE_PASSED_CLOSED, REVIEW, SNOMED
from shared.fhir.json import Resource
from shared.fhir.kap import (
    Drug,
    codes_of,
    course_status,
    drug_of,
    effective_start,
    id_in,
    is_course,
    is_order_in_force,
    patient_of,
    routes_consented,
    routes_of_order,
)
from shared.fhir.outcome import Issue, Unprocessable
from shared.fhir.raised import detected_issue, flag, task
from shared.runtime.medications import medication_of
from shared.runtime.raising import raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change


async def situation_of(record: Record, dose: Resource, start: datetime, drug: Drug, setting: Setting) -> Situation:
    """Return what is held about the start of a dose."""
    patient = patient_of(dose)
    about = {"patient": f"Patient/{patient}"}
    visit_id = id_in(dose.get("context"), "Encounter")
    visit = None if visit_id is None else await record.get("Encounter", visit_id)
    orders = await _orders(record, dose, drug, setting)
    said = codes_of(dose.get("dosage", {}).get("route"), SNOMED)
    ordered_routes = [route for order in orders for route in routes_of_order(order)]
    route = said[0] if said else (ordered_routes[0] if ordered_routes else None)
    readings = [] if visit_id is None else await record.search("Observation", {"encounter": f"Encounter/{visit_id}"})
    return Situation(
        visit=visit if visit is not None and patient_of(visit) == patient else None,
        course=course_status([one for one in await record.search("EpisodeOfCare", about) if is_course(one)], start),
        start=start,
        route=route,
        consented=routes_consented(await record.search("Consent", about), start),
        ordered=route is not None and route in ordered_routes,
        readings=[reading for one in readings if patient_of(one) == patient for reading in readings_of(one)],
    )


async def _orders(record: Record, dose: Resource, drug: Drug, setting: Setting) -> list[Resource]:
    """Return the active orders of the patient for the drug: the one the dose names, else all."""
    patient = patient_of(dose)
    named = id_in(dose.get("request"), "MedicationRequest")
    if named is not None:
        order = await record.get("MedicationRequest", named)
        found = [] if order is None or patient_of(order) != patient else [order]
    else:
        found = await record.search("MedicationRequest", {"patient": f"Patient/{patient}"})
    return [
        one
        for one in found
        if is_order_in_force(one) and drug_of(await medication_of(record, one), setting.sets) == drug
    ]


async def gated_drug(record: Record, dose: Resource, setting: Setting) -> Drug | None:
    """Return the gated drug a MedicationAdministration is about; None for every other, rescue drugs among them."""
    drug = drug_of(await medication_of(record, dose), setting.sets)
    if drug is not None:
        return drug
    named = id_in(dose.get("request"), "MedicationRequest")
    order = None if named is None else await record.get("MedicationRequest", named)
    return None if order is None else drug_of(await medication_of(record, order), setting.sets)


async def guard_dose(change: Change, record: Record, setting: Setting) -> None:
    """Refuse the start of a dose past a closed gate; record one that was given, and raise what follows."""
    after, now = change.after, setting.clock()
    if after is None:
        await _refuse_deletion(change, record, setting)
        return
    drug = await gated_drug(record, after, setting)
    was = None if change.before is None else await gated_drug(record, change.before, setting)
    claim = claim_of(
        change.before, after, was_gated=was is not None, is_gated=drug is not None, now=now, policy=setting.gate
    )
    if drug is None:
        await _raise_unknown(change, record, after, now)
    if claim == "nothing" or drug is None:
        return
    if claim == "start":
        record.require_current()
    resumed = claim == "start" and resumes(change.before, after)
    start = now if resumed else effective_start(after) or now
    issues = gate(await situation_of(record, after, start, drug, setting), setting.gate)
    if claim == "start":
        issues.extend(begins_ahead(start, now, setting.gate))
        if issues:
            raise Unprocessable(issues)
    elif issues:
        await _raise_past_gate(change, record, after, issues, now, setting)


async def _refuse_deletion(change: Change, record: Record, setting: Setting) -> None:
    if change.before is not None and await gated_drug(record, change.before, setting) is not None:
        raise Unprocessable(
            "The record of a dose of ketamine is not deleted. If it is wrong, mark it entered-in-error.",
            rule="D-KEEP",
            source="21 CFR 1304.21: a complete record of each substance administered",
        )


async def _raise_past_gate(
    change: Change, record: Record, dose: Resource, issues: Sequence[Issue], now: datetime, setting: Setting
) -> None:
    patient = str(patient_of(dose))
    what = " ".join(f"{issue.rule}: {issue.diagnostics}" for issue in issues)
    text = f"A dose was given past a closed gate. {what}"
    name = ("dose", change.id, "gate")
    about = f"MedicationAdministration/{change.id}"
    visit = id_in(dose.get("context"), "Encounter")
    await raise_once(
        record,
        detected_issue(
            name,
            patient=patient,
            code=GATE_PASSED_CLOSED,
            rules=list(dict.fromkeys(str(issue.rule) for issue in issues)),
            severity="high",
            detail=text,
            now=now,
            implicated=[about],
            policy=setting.version,
        ),
    )
    await raise_once(record, flag(name, patient=patient, code=GATE_PASSED_CLOSED, text=text, now=now, encounter=visit))
    await raise_once(
        record,
        task(
            name,
            patient=patient,
            code=REVIEW,
            description=f"{text} A prescriber looks at it now.",
            now=now,
            priority="stat",
            focus=about,
            encounter=visit,
        ),
    )


async def _raise_unknown(change: Change, record: Record, dose: Resource, now: datetime) -> None:
    """A drug that cannot be named is given all the same, and a person finds out which it was."""
    patient = patient_of(dose)
    if patient is None or dose.get("status") in ("not-done", "entered-in-error"):
        return
    if await medication_of(record, dose) is None:
        name = ("dose", change.id, "drug")
        text = "The record does not say which drug this dose was: its Medication is not known here."
        about = f"MedicationAdministration/{change.id}"
        issue = detected_issue(
            name, patient=patient, code=DRUG_NOT_KNOWN, severity="moderate", detail=text, now=now, implicated=[about]
        )
        await raise_once(record, issue)
        review = task(name, patient=patient, code=REVIEW, description=text, now=now, priority="urgent", focus=about)
        await raise_once(record, review)
