"""The FHIR resources at the dose: what is asked before it, vital signs, the dose, what went wrong, the vial."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from decimal import Decimal

from cli.demo.before import drug
from cli.demo.patients import Person, Reading
from cli.demo.resources import answer, identifier, instant, parameters, quantity, reference, response
from shared.fhir.codes import (
    BLOOD_PRESSURE,
    CHAPERONE_CHECK,
    DIASTOLIC,
    EXT_EVENT_PERIOD,
    HEART_RATE,
    MOAA_S,
    OBSERVATION_CATEGORY,
    OXYGEN_SATURATION,
    OXYGEN_SATURATION_ANY,
    PRE_DOSE_QUESTIONNAIRE,
    ROUTE_IM,
    RXNORM,
    SNOMED,
    SYMPTOM,
    SYSTOLIC,
    Code,
)
from shared.fhir.json import Resource

NAUSEA = Code(SNOMED, "422587007", "Nausea")
DILUTED = 1
"""mg/mL of ketamine in the bag of an infusion."""
_EVENT = "http://terminology.hl7.org/CodeSystem/adverse-event"
_OUTPATIENT = Code("http://terminology.hl7.org/CodeSystem/medication-admin-category", "outpatient", "Outpatient")
_VITAL_SIGNS = Code(OBSERVATION_CATEGORY, "vital-signs", "Vital Signs")


def pre_dose(key: str, subject: str, encounter: str, on: datetime, nurse: str, escort: str) -> Resource:
    """Return what is asked before a dose, all in order."""
    items = [answer("escort", valueBoolean=True), answer("escort-name", valueString=escort)]
    items.extend(
        answer(link, valueBoolean=False)
        for link in ("intoxicated", "pregnant", "breastfeeding", "suicidality", "nasal", "substances", "benzodiazepine")
    )
    items.extend((answer("food-hours", valueDecimal=Decimal(4)), answer("drink-minutes", valueInteger=60)))
    made = response(f"{key}-asked", PRE_DOSE_QUESTIONNAIRE, subject, on, items)
    return {**made, "encounter": reference(encounter), "author": reference(nurse)}


def vitals(
    key: str,
    subject: str,
    encounter: str,
    reading: Reading,
    on: datetime,
    by: str,
    *,
    late: timedelta | None = None,
    note: str = "",
) -> list[Resource]:
    """Return blood pressure, heart rate and oxygen saturation of one time point, `late`: charted so long after."""
    charted = on + (timedelta(minutes=1) if late is None else late)
    said = note if late is None else "Missed at the time; charted from the monitor's print-out."
    noted = {"note": [{"text": said}]} if said else {}
    pressure = {
        "code": BLOOD_PRESSURE.concept(),
        "component": [
            {"code": SYSTOLIC.concept(), "valueQuantity": quantity(reading.systolic, "mm[Hg]")},
            {"code": DIASTOLIC.concept(), "valueQuantity": quantity(reading.diastolic, "mm[Hg]")},
        ],
    }
    rate = {"code": HEART_RATE.concept(), "valueQuantity": quantity(reading.heart_rate, "/min")}
    saturation = {
        "code": OXYGEN_SATURATION.concept(OXYGEN_SATURATION_ANY),
        "valueQuantity": quantity(reading.saturation, "%"),
    }
    return [
        {
            "resourceType": "Observation",
            "identifier": [identifier(f"{key}-{what}-{reading.minute}")],
            "status": "final",
            "category": [_VITAL_SIGNS.concept()],
            "subject": reference(subject),
            "encounter": reference(encounter),
            "effectiveDateTime": instant(on),
            "issued": instant(charted),
            "performer": [reference(by)],
            **noted,
            **measured,
        }
        for what, measured in (("bp", pressure), ("hr", rate), ("spo2", saturation))
    ]


def diluted(person: Person) -> dict[str, Resource]:
    """Return, as a parameter, the strength of what goes into a vein: of any other route nobody asks."""
    return {"strength_valueQuantity": quantity(DILUTED, "mg/mL")} if person.route.key == "iv" else {}


def start_parameters(
    person: Person, order_: str, dose_mg: int, on: datetime, performer: str, witness: str | None = None
) -> Resource:
    """Return the Parameters of ``Encounter/$start-dose``; what a patient takes himself has a witness."""
    return parameters(
        **diluted(person),
        medicationRequest_valueReference=reference(order_),
        dose_valueQuantity=quantity(dose_mg, "mg"),
        performer_valueReference=reference(performer),
        witness_valueReference=reference(witness) if witness else None,
        effective_valueDateTime=instant(on),
    )


def given_dose(
    person: Person, index: int, subject: str, encounter: str, order_: str, nurse: str, on: datetime
) -> Resource:
    """Return a dose as it was given, recorded afterwards."""
    session = person.sessions[index]
    return {
        "resourceType": "MedicationAdministration",
        "identifier": [identifier(f"{person.key}-dose-{index + 1}")],
        "status": "completed",
        "category": Code(
            "http://terminology.hl7.org/CodeSystem/medication-admin-category", "outpatient", "Outpatient"
        ).concept(),
        "medicationCodeableConcept": drug(person),
        "subject": reference(subject),
        "context": reference(encounter),
        "effectivePeriod": {"start": instant(on), "end": instant(on + timedelta(minutes=1))},
        "performer": [{"actor": reference(nurse)}],
        "request": reference(order_),
        "note": [{"text": "Given before the pressure was looked at again; recorded after the fact."}],
        "dosage": {"route": person.route.concept.concept(), "dose": quantity(session.dose_mg, "mg")},
    }


def rescue(key: str, subject: str, encounter: str, nurse: str, on: datetime) -> Resource:
    """Return the ondansetron that was given against nausea: never gated."""
    return {
        "resourceType": "MedicationAdministration",
        "identifier": [identifier(f"{key}-ondansetron")],
        "status": "completed",
        "category": _OUTPATIENT.concept(),
        "medicationCodeableConcept": Code(RXNORM, "26225", "ondansetron").concept(),
        "subject": reference(subject),
        "context": reference(encounter),
        "effectiveDateTime": instant(on),
        "performer": [{"actor": reference(nurse)}],
        "reasonCode": [NAUSEA.concept()],
        "dosage": {"route": ROUTE_IM.concept(), "dose": quantity(4, "mg")},
    }


def nausea(key: str, subject: str, encounter: str, dose: str, by: str, on: datetime) -> Resource:
    """Return the adverse event: nausea, not serious, mild, probably of the dose, over within the session."""
    return {
        "resourceType": "AdverseEvent",
        "extension": [
            {
                "url": EXT_EVENT_PERIOD,
                "valuePeriod": {"start": instant(on), "end": instant(on + timedelta(minutes=40))},
            }
        ],
        "identifier": identifier(f"{key}-nausea"),
        "actuality": "actual",
        "event": NAUSEA.concept(),
        "subject": reference(subject),
        "encounter": reference(encounter),
        "date": instant(on),
        "detected": instant(on),
        "recordedDate": instant(on + timedelta(minutes=5)),
        "seriousness": Code(f"{_EVENT}-seriousness", "Non-serious", "Non-serious").concept(),
        "severity": Code(f"{_EVENT}-severity", "mild", "Mild").concept(),
        "outcome": Code(f"{_EVENT}-outcome", "resolved", "Resolved").concept(),
        "recorder": reference(by),
        "suspectEntity": [
            {
                "instance": reference(dose),
                "causality": [{"assessment": Code(f"{_EVENT}-causality-assess", "Probably-Likely").concept()}],
            }
        ],
    }


def vial(person: Person, index: str) -> dict[str, str]:
    """Return what names the vial of a dose in the ledger, as parameters."""
    return {
        "ndc_valueString": "0409-2051-05",
        "lot_valueString": f"LOT-{person.key}",
        "vial_valueString": f"{person.key}-{index}",
    }


def looked(key: str, subject: str, encounter: str, by: str, minute: int, on: datetime) -> Resource:
    """Return that the chaperone looked at a patient at home."""
    made = _seen(f"{key}-looked-{minute}", CHAPERONE_CHECK, subject, encounter, by, on)
    return {**made, "valueString": "Lies quietly, eye mask on, answers when spoken to"}


def sedation(key: str, subject: str, encounter: str, by: str, minute: int, score: int, on: datetime) -> Resource:
    """Return the sedation that was rated (MOAA/S, 5 responds readily)."""
    return {**_seen(f"{key}-moaas-{minute}", MOAA_S, subject, encounter, by, on), "valueInteger": score}


def headache(key: str, subject: str, encounter: str, by: str, on: datetime) -> Resource:
    """Return that the patient told of a headache."""
    made = _seen(key, SYMPTOM, subject, encounter, by, on)
    return {**made, "valueCodeableConcept": Code(SNOMED, "25064002", "Headache").concept(text="Headache")}


def _seen(key: str, code: Code, subject: str, encounter: str, by: str, on: datetime) -> Resource:
    return {
        "resourceType": "Observation",
        "identifier": [identifier(key)],
        "status": "final",
        "category": [Code(OBSERVATION_CATEGORY, "exam", "Exam").concept()],
        "code": code.concept(),
        "subject": reference(subject),
        "encounter": reference(encounter),
        "effectiveDateTime": instant(on),
        "issued": instant(on + timedelta(minutes=1)),
        "performer": [reference(by)],
    }


def therapy(by: str, on: datetime, **said: str | bool | Sequence[str]) -> Resource:
    """Return the Parameters of ``Encounter/$record-psychotherapy``: texts, yes or no, and techniques by their code."""
    made = parameters(performer_valueReference=reference(by), occurred_valueDateTime=instant(on))
    for name, value in said.items():
        form = "valueCode" if name == "technique" else "valueBoolean" if isinstance(value, bool) else "valueString"
        for one in [value] if isinstance(value, (str, bool)) else value:
            made["parameter"].append({"name": name.replace("_", "-"), form: one})
    return made


CONTENT: dict[str, dict[str, str | bool | Sequence[str]]] = {
    "kap-prep": {
        "technique": ("talk",),
        "intention": "To meet what has been kept away",
        "expectation": "Relief that may be gradual; no cure in a day",
        "worry": "Losing control",
        "touch": True,
    },
    "kap-dosing": {
        "room": "Quiet room, lying down",
        "music": "Soft, without words",
        "eye_mask": True,
        "technique": ("talk", "breathwork"),
        "theme": "Loss, and being held",
    },
    "kap-integration": {
        "technique": ("talk", "somatic"),
        "discussed": "The images of the session, and what they ask for",
        "emotion": "Grief",
        "strategy": "A walk each morning; writing before sleep",
    },
}
"""What is recorded of the psychotherapy, by the kind of visit: no process note."""
