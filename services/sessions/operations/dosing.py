"""Before and at the dose: `Encounter/$pre-dose-gate` and `Encounter/$start-dose`."""

from __future__ import annotations

from collections.abc import Container, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from services.sessions.deciding import ask_for_decisions, confirm_news
from services.sessions.dose import known_of
from services.sessions.operations.parameters import given_in, moment_in
from services.sessions.rules.checks import Check, issues_of
from services.sessions.rules.claims import COUNTED, begins_ahead, is_sent_again, is_the_same
from services.sessions.rules.gate import news_check
from services.sessions.rules.visits import VIRTUAL_CLASS
from services.sessions.setting import Setting
from services.sessions.times import is_possible
from shared.fhir.codes import UCUM, Code
from shared.fhir.dates import MIN_INSTANT, zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import Drug, drug_of, effective_start, id_in, patient_of, quantity_in, reference
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from shared.fhir.profiles import own
from shared.runtime.medications import medication_of, substances_of
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

CATEGORY = "http://terminology.hl7.org/CodeSystem/medication-admin-category"
OUTPATIENT = Code(CATEGORY, "outpatient", "Outpatient")
INPATIENT = Code(CATEGORY, "inpatient", "Inpatient")
COMMUNITY = Code(CATEGORY, "community", "Community")
FUNCTION = "http://terminology.hl7.org/CodeSystem/med-admin-perform-function"
PERFORMER = Code(FUNCTION, "performer", "Performer")
WITNESSED = Code(FUNCTION, "witness", "Witness")


def dosing_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return the operations before and at the dose."""

    async def start(call: OperationCall, record: Record) -> Resource:
        return await _start_dose(call, record, setting)

    async def look(call: OperationCall, record: Record) -> Resource:
        return await _pre_dose_gate(call, record, setting)

    return (
        Operation(
            name="pre-dose-gate",
            type="Encounter",
            level="instance",
            handler=look,
            documentation=(
                "Returns every check before a dose of ketamine or esketamine: Parameters with `open` (boolean) and a "
                "`check` each, with rule, title, verdict (open, closed, not-known, decided, warned, ask), closes, "
                "value, limit, text, source, evidence and, where a prescriber may decide, `decision`: the "
                "DetectedIssue to which he adds a mitigation (action proceed, date, author). Parameters as of "
                "$start-dose; dose and performer may be left out."
            ),
        ),
        Operation(
            name="start-dose",
            type="Encounter",
            level="instance",
            handler=start,
            documentation=(
                "Opens a dose of ketamine or esketamine in a dosing session that is in progress, when the gate before "
                "the dose is open; else 422 with all that keeps it closed. Parameters: medicationRequest (Reference), "
                "dose (Quantity, mg), rate (Quantity, such as mg/h, of an infusion), performer (Reference), "
                "witness (Reference; a nasal spray needs one), lot (string), "
                "expires (date) and strength (Quantity, mg/mL, as it is given) of the product, effective "
                "(dateTime, not in the future; default now), confirmedBy (Reference to the prescriber or nurse "
                "who confirms that consent and order stand, where the check G-NEWS asks; kept as a DetectedIssue with "
                "that mitigation), identifier (Identifier of the request, which the dose keeps: a call that "
                "is sent again with it begins no second dose and returns the first as it stands; without one the same "
                "dose within moments is refused, G-AGAIN). Returns the MedicationAdministration, in progress."
            ),
        ),
    )


@dataclass(frozen=True, slots=True)
class Planned:
    """A dose that is to be given: the MedicationAdministration as it would be written, its drug and its start.

    `confirmed_by` is who says that consent and order stand although what is known of them may be too old.
    """

    dose: Resource
    drug: Drug
    start: datetime
    confirmed_by: Resource | None


async def _planned(call: OperationCall, record: Record, setting: Setting, needed: Sequence[str]) -> Planned:
    visit_id = str(call.id)
    visit = await record.get("Encounter", visit_id)
    if visit is None:
        raise NotFound(f"There is no Encounter/{visit_id} here.")
    given = _parameters(call, needed)
    order_id = id_in(given["medicationRequest"], "MedicationRequest")
    order = None if order_id is None else await record.get("MedicationRequest", order_id)
    if order is None:
        raise _refused(
            "medicationRequest", "names an order that is not known here. Order first, or try again in a moment."
        )
    medication = await medication_of(record, order)
    drug = drug_of(await substances_of(record, order), setting.sets)
    if drug is None or medication is None:
        raise _refused("medicationRequest", "is not an order of ketamine or esketamine; other drugs need no gate.")
    start = moment_in("effective", given["effective"], setting.clock())
    if not is_possible(start, setting.clock()):
        raise BadRequest(
            f"{given['effective']} is no time at which a dose is given: look at the year of the parameter effective.",
            code="value",
            expression=["Parameters.parameter"],
        )
    dose = _administration(visit, order, medication, given, start, setting.gate.rems.inpatient)
    return Planned(dose, drug, start, given["confirmedBy"])


async def _start_dose(call: OperationCall, record: Record, setting: Setting) -> Resource:
    planned = await _planned(call, record, setting, ("medicationRequest", "dose", "performer"))
    begun = await _begun(record, planned, setting)
    if begun is not None:
        return begun
    if planned.confirmed_by is not None:
        await confirm_news(record, str(call.id), str(patient_of(planned.dose)), planned.confirmed_by, setting)
    known = await known_of(record, planned.dose, planned.start, planned.drug, setting)
    issues = issues_of([*known.checks(setting), news_check(known.situation, setting.knowledge)])
    issues.extend(begins_ahead(planned.start, setting.clock(), setting.gate))
    if issues:
        raise Unprocessable(issues)
    written = await record.create(planned.dose)
    administration: Resource = parse(written.stored.body)
    return administration


async def _begun(record: Record, planned: Planned, setting: Setting) -> Resource | None:
    """Return the dose that an earlier call with the same identifier began, None where none did.

    Raises:
        Unprocessable: G-AGAIN, by that identifier another dose was begun; or, without one, the same dose a moment ago.

    """
    dose, again = planned.dose, setting.gate.again
    for named in dose.get("identifier", []):
        token = f"{named.get('system', '')}|{named['value']}"
        for one in await record.search("MedicationAdministration", {"identifier": token}):
            if one["status"] not in COUNTED:
                continue
            if is_the_same(one, dose):
                return one
            raise _again(
                f"MedicationAdministration/{one['id']} has this identifier, and is another dose. Say one of "
                "its own for each dose (parameter identifier).",
                again.source,
            )
    if "identifier" in dose:
        return None
    for one in await record.search("MedicationAdministration", {"context": dose["context"]["reference"]}):
        if is_sent_again(one, dose, setting.gate):
            raise _again(
                f"MedicationAdministration/{one['id']} was begun at {zulu(effective_start(one) or planned.start)} by "
                "the same call. If that was this dose, it stands: read it. For a further one say an identifier of its "
                "own (parameter identifier).",
                again.source,
            )
    return None


def _again(what: str, source: str) -> Unprocessable:
    return Unprocessable(what, code="duplicate", expression=["Parameters.parameter"], rule="G-AGAIN", source=source)


async def _pre_dose_gate(call: OperationCall, record: Record, setting: Setting) -> Resource:
    planned = await _planned(call, record, setting, ("medicationRequest",))
    known = await known_of(record, planned.dose, planned.start, planned.drug, setting)
    amount = "dose" in planned.dose["dosage"]
    checks = known.checks(setting) if amount else known.ground(setting)
    checks.append(news_check(known.situation, setting.knowledge))
    now = setting.clock()
    patient = str(patient_of(planned.dose))
    decisions = await ask_for_decisions(record, str(call.id), patient, checks, now, setting)
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "open", "valueBoolean": not any(check.closes for check in checks)},
            {"name": "effective", "valueDateTime": zulu(planned.start)},
            {"name": "policy", "valueString": setting.version},
            *(_told(check, decisions.get(check.rule)) for check in checks),
        ],
    }


def _told(check: Check, decision: str | None) -> dict[str, Any]:
    said: list[dict[str, Any]] = [
        {"name": "rule", "valueCode": check.rule},
        {"name": "title", "valueString": check.title},
        {"name": "verdict", "valueCode": check.verdict},
        {"name": "closes", "valueBoolean": check.closes},
        {"name": "text", "valueString": check.text},
        {"name": "source", "valueString": check.source},
    ]
    if check.value is not None:
        said.append({"name": "value", "valueString": check.value})
    if check.limit is not None:
        said.append({"name": "limit", "valueString": check.limit})
    said.extend({"name": "evidence", "valueReference": {"reference": one}} for one in check.evidence)
    if decision is not None and check.closes and check.decidable:
        said.append({"name": "decision", "valueReference": {"reference": decision}})
    return {"name": "check", "part": said}


def _refused(parameter: str, what: str) -> Unprocessable:
    return Unprocessable(
        f"The parameter {parameter} {what}",
        expression=["Parameters.parameter"],
        rule="G-ORDER",
        source="KAP Exchange",
    )


FORMS: Final = {
    "medicationRequest": "valueReference",
    "dose": "valueQuantity",
    "rate": "valueQuantity",
    "performer": "valueReference",
    "witness": "valueReference",
    "lot": "valueString",
    "expires": "valueDate",
    "strength": "valueQuantity",
    "effective": "valueDateTime",
    "confirmedBy": "valueReference",
    "identifier": "valueIdentifier",
}


def _parameters(call: OperationCall, needed: Sequence[str]) -> dict[str, Any]:
    given = given_in(call, FORMS, needed)
    if given["dose"] is not None and quantity_in(given["dose"], ("mg",)) is None:
        raise BadRequest("The dose is a Quantity in mg (UCUM).", code="value", expression=["Parameters.parameter"])
    strength = given["strength"]
    if strength is not None and not quantity_in(strength, ("mg/mL",)):
        raise BadRequest(
            "The strength, as it is given, is a Quantity in mg/mL (UCUM) above 0.",
            code="value",
            expression=["Parameters.parameter"],
        )
    if given["expires"] is not None:
        moment_in("expires", given["expires"], MIN_INSTANT)
    named = given["identifier"]
    if named is not None and not (isinstance(named, dict) and named.get("system") and named.get("value")):
        raise BadRequest(
            "The identifier of a request says its system and its value.",
            code="value",
            expression=["Parameters.parameter"],
        )
    return given


def _administration(
    visit: Resource,
    order: Resource,
    medication: Resource,
    given: dict[str, Any],
    start: datetime,
    inpatient: Container[str],
) -> Resource:
    dosage = order["dosageInstruction"][0] if order.get("dosageInstruction") else {}
    kind = visit.get("class", {}).get("code")
    category = COMMUNITY if kind == VIRTUAL_CLASS.code else INPATIENT if kind in inpatient else OUTPATIENT
    whole = "route" in dosage and given["dose"] is not None
    return {
        "resourceType": "MedicationAdministration",
        **({"meta": own.claiming(own.DOSE)} if whole else {}),
        **({"identifier": [given["identifier"]]} if given["identifier"] is not None else {}),
        "status": "in-progress",
        "category": category.concept(),
        **_product(medication, given),
        "subject": reference("Patient", str(patient_of(visit))),
        "context": reference("Encounter", str(visit["id"])),
        "effectivePeriod": {"start": zulu(start)},
        "performer": [
            {"function": function.concept(), "actor": given[name]}
            for name, function in (("performer", PERFORMER), ("witness", WITNESSED))
            if given[name] is not None
        ],
        "request": reference("MedicationRequest", order["id"]),
        "dosage": {
            **({"route": dosage["route"]} if "route" in dosage else {}),
            **({"dose": given["dose"]} if given["dose"] is not None else {}),
            **({"rateQuantity": given["rate"]} if given["rate"] is not None else {}),
        },
    }


def _product(medication: Resource, given: dict[str, Any]) -> dict[str, Any]:
    """Return the medication of a dose: by its code, with lot, expiry and strength where they are said."""
    batch = {"lotNumber": given["lot"], "expirationDate": given["expires"]}
    said = {name: value for name, value in batch.items() if value is not None}
    strength = given["strength"]
    if not said and strength is None:
        return {"medicationCodeableConcept": medication}
    inside: Resource = {"resourceType": "Medication", "id": "product", "code": medication}
    if said:
        inside["batch"] = said
    if strength is not None:
        milligrams = {"value": strength["value"], "unit": "mg", "system": UCUM, "code": "mg"}
        millilitre = {"value": 1, "unit": "mL", "system": UCUM, "code": "mL"}
        per = {"numerator": milligrams, "denominator": millilitre}
        inside["ingredient"] = [{"itemCodeableConcept": medication, "strength": per}]
    return {"contained": [inside], "medicationReference": {"reference": "#product"}}
