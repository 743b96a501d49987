"""Sessions' operations: `Encounter/$start-dose`."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from services.sessions.dose import situation_of
from services.sessions.rules import VIRTUAL_CLASS, begins_ahead, gate
from services.sessions.setting import Setting
from shared.fhir.codes import Code
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import drug_of, id_in, patient_of, quantity_in, reference
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.runtime.medications import medication_of
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

CATEGORY = "http://terminology.hl7.org/CodeSystem/medication-admin-category"
OUTPATIENT = Code(CATEGORY, "outpatient", "Outpatient")
COMMUNITY = Code(CATEGORY, "community", "Community")
PERFORMER = Code("http://terminology.hl7.org/CodeSystem/med-admin-perform-function", "performer", "Performer")


def operations(setting: Setting) -> tuple[Operation, ...]:
    """Return sessions' operations under a policy."""

    async def run(call: OperationCall, record: Record) -> Resource:
        return await _start_dose(call, record, setting)

    return (
        Operation(
            name="start-dose",
            type="Encounter",
            level="instance",
            handler=run,
            documentation=(
                "Opens a dose of ketamine or esketamine in a dosing session that is in progress, when the gate before "
                "the dose is open; else 422 with all that keeps it closed. Parameters: medicationRequest (Reference), "
                "dose (Quantity, mg), performer (Reference), effective (dateTime, not in the future; default now). "
                "Returns the MedicationAdministration, in progress."
            ),
        ),
    )


async def _start_dose(call: OperationCall, record: Record, setting: Setting) -> Resource:
    record.require_current()
    visit_id = str(call.id)
    visit = await record.get("Encounter", visit_id)
    if visit is None:
        raise NotFound(f"There is no Encounter/{visit_id} here.")
    given = _parameters(call.parameters)
    order_id = id_in(given["medicationRequest"], "MedicationRequest")
    order = None if order_id is None else await record.get("MedicationRequest", order_id)
    if order is None:
        raise _refused(
            "medicationRequest", "names an order that is not known here. Order first, or try again in a moment."
        )
    medication = await medication_of(record, order)
    drug = drug_of(medication, setting.sets)
    if drug is None or medication is None:
        raise _refused("medicationRequest", "is not an order of ketamine or esketamine; other drugs need no gate.")
    now = setting.clock()
    start = _moment(given["effective"], now)
    dose = _administration(visit_id, visit, order, medication, given, start)
    issues = gate(await situation_of(record, dose, start, drug, setting), setting.gate)
    issues.extend(begins_ahead(start, now, setting.gate))
    if issues:
        raise Unprocessable(issues)
    written = await record.create(dose)
    administration: Resource = parse(written.stored.body)
    return administration


def _refused(parameter: str, what: str) -> Unprocessable:
    return Unprocessable(
        f"The parameter {parameter} {what}",
        expression=["Parameters.parameter"],
        rule="G-ORDER",
        source="KAP Exchange",
    )


def _parameters(parameters: Resource) -> dict[str, Any]:
    forms = {
        "medicationRequest": "valueReference",
        "dose": "valueQuantity",
        "performer": "valueReference",
        "effective": "valueDateTime",
    }
    given: dict[str, Any] = dict.fromkeys(forms)
    for parameter in parameters.get("parameter", []):
        name = parameter.get("name")
        if name not in forms or forms[name] not in parameter:
            said = ", ".join(f"{one} ({form})" for one, form in forms.items())
            raise BadRequest(
                f"$start-dose does not understand the parameter '{name}'. It has: {said}.",
                expression=["Parameters.parameter"],
            )
        given[name] = parameter[forms[name]]
    missing = [name for name in ("medicationRequest", "dose", "performer") if given[name] is None]
    if missing:
        raise BadRequest(
            f"$start-dose needs {', '.join(missing)}.", code="required", expression=["Parameters.parameter"]
        )
    if quantity_in(given["dose"], ("mg",)) is None:
        raise BadRequest("The dose is a Quantity in mg (UCUM).", code="value", expression=["Parameters.parameter"])
    return given


def _moment(value: str | None, now: datetime) -> datetime:
    if value is None:
        return now
    try:
        return interval(value)[0]
    except ValueError:
        raise BadRequest("The parameter effective is not a dateTime.", expression=["Parameters.parameter"]) from None


def _administration(
    visit_id: str, visit: Resource, order: Resource, medication: Resource, given: dict[str, Any], start: datetime
) -> Resource:
    dosage = order["dosageInstruction"][0] if order.get("dosageInstruction") else {}
    virtual = visit.get("class", {}).get("code") == VIRTUAL_CLASS.code
    return {
        "resourceType": "MedicationAdministration",
        "status": "in-progress",
        "category": (COMMUNITY if virtual else OUTPATIENT).concept(),
        "medicationCodeableConcept": medication,
        "subject": reference("Patient", str(patient_of(visit))),
        "context": reference("Encounter", visit_id),
        "effectivePeriod": {"start": zulu(start)},
        "performer": [{"function": PERFORMER.concept(), "actor": given["performer"]}],
        "request": reference("MedicationRequest", order["id"]),
        "dosage": {**({"route": dosage["route"]} if "route" in dosage else {}), "dose": given["dose"]},
    }
