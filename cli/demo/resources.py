"""The FHIR resources of a KAP course, made from a generated patient. Pure: no clock, no network.

Every resource carries a business identifier of the run's own, ``<seed>-<patient>-<what>``, under which it is created at
most once however often the demo is run. The course is charted after the fact: it began four weeks before the run.
"""

from __future__ import annotations

import base64
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from cli.demo.patients import Person, Reading, Session, Staff
from shared.fhir.codes import (
    BASE,
    BLOOD_PRESSURE,
    CONSENT_TREATMENT,
    DIASTOLIC,
    HEART_RATE,
    INTAKE_MEASUREMENT,
    LOINC,
    OBSERVATION_CATEGORY,
    OXYGEN_SATURATION,
    OXYGEN_SATURATION_ANY,
    PHQ9_QUESTIONNAIRE,
    PROCEDURE_CONSENT,
    REFERRAL,
    RXNORM,
    SCREENING_QUESTIONNAIRE,
    SNOMED,
    SYSTOLIC,
    TREATMENT_CONSENT,
    UCUM,
    VISITS,
    WEIGHT,
    Code,
)
from shared.fhir.json import Resource

IDENTIFIER = f"{BASE}/identifier/demo"
CLINIC = "Four Rivers KAP Clinic"
TREATMENT_RESISTANT = Code(SNOMED, "1153570009", "Treatment resistant depression")
PATIENTS_PER_TEAM = 4

PHQ9_ITEMS = ("44250-9", "44255-8", "44259-0", "44254-1", "44251-7", "44258-2", "44252-5", "44253-3", "44260-8")
PHQ9_ANSWERS = (
    Code(LOINC, "LA6568-5", "Not at all"),
    Code(LOINC, "LA6569-3", "Several days"),
    Code(LOINC, "LA6570-1", "More than half the days"),
    Code(LOINC, "LA6571-9", "Nearly every day"),
)
QUESTIONS = tuple(f"E{number:02d}" for number in (*range(1, 11), 12, *range(14, 23), 26))
"""Items of the screening questionnaire where "yes" speaks against the treatment."""

_CLINICAL_STATUS = "http://terminology.hl7.org/CodeSystem/condition-clinical"
_VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/condition-category"
_ASSESS_PLAN = Code("http://hl7.org/fhir/us/core/CodeSystem/careplan-category", "assess-plan")
_PROCEDURE_NOTE = Code(LOINC, "78472-8", "Mental health Procedure note")
_VITAL_SIGNS = Code(OBSERVATION_CATEGORY, "vital-signs", "Vital Signs")
_TO_PSYCHIATRIST = Code(SNOMED, "308477009", "Referral to psychiatrist")
_VISIT_HOURS = (8, 10.5, 13, 15.5)
VISIT_MINUTES = {"kap-prep": 50, "kap-dosing": 145, "kap-integration": 50}
DAYS = {"kap-prep": (3,), "kap-dosing": (7, 14), "kap-integration": (8, 15)}
"""The day of the course on which each visit of a kind is; the course's last day is 28."""
PHQ9_DAYS = (0, 13, 21)
COURSE_DAYS = 28


@dataclass(frozen=True, slots=True)
class Calendar:
    """When things of a patient's course happen; `first` is the day of the referral."""

    first: date
    number: int

    def at(self, day: int, hour: float = 9.0) -> datetime:
        """Return a time of a day of the course, UTC."""
        return datetime.combine(self.first, time(), UTC) + timedelta(days=day, hours=hour)

    def visit(self, kind: str, index: int) -> datetime:
        """Return when a visit begins: the patients of one team take turns, so that nobody is booked twice."""
        return self.at(DAYS[kind][index], _VISIT_HOURS[(self.number - 1) % PATIENTS_PER_TEAM])


@dataclass(frozen=True, slots=True)
class Team:
    """Who treats: references to the practitioners, the room and the clinic on the server."""

    prescriber: str
    therapist: str
    nurse: str
    room: str
    clinic: str


def identifier(key: str) -> dict[str, str]:
    """Return the business identifier of ``key``."""
    return {"system": IDENTIFIER, "value": key}


def instant(moment: datetime) -> str:
    """Return a FHIR dateTime in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reference(to: str) -> dict[str, str]:
    """Return a literal reference."""
    return {"reference": to}


# -- The clinic ---------------------------------------------------------------------------------------------------


def clinic() -> Resource:
    """Return the clinic."""
    return {
        "resourceType": "Organization",
        "identifier": [identifier("clinic")],
        "active": True,
        "type": [
            Code("http://terminology.hl7.org/CodeSystem/organization-type", "prov", "Healthcare Provider").concept()
        ],
        "name": CLINIC,
    }


def room(team: str, organization: str) -> Resource:
    """Return the dosing room of a team."""
    return {
        "resourceType": "Location",
        "identifier": [identifier(f"room-{team}")],
        "status": "active",
        "name": f"Quiet room {team}",
        "mode": "instance",
        "managingOrganization": reference(organization),
    }


def practitioner(team: str, staff: Staff) -> Resource:
    """Return one of a team's practitioners."""
    return {
        "resourceType": "Practitioner",
        "identifier": [identifier(f"{staff.role}-{team}")],
        "active": True,
        "name": [{"use": "official", "family": staff.family, "given": [staff.given], "suffix": [staff.suffix]}],
        "qualification": [{"code": staff.qualification.concept()}],
    }


# -- The patient and what is known of him ---------------------------------------------------------------------------


def patient(person: Person, organization: str) -> Resource:
    """Return the Patient."""
    return {
        "resourceType": "Patient",
        "identifier": [
            {
                "use": "usual",
                "type": Code("http://terminology.hl7.org/CodeSystem/v2-0203", "MR", "Medical record number").concept(),
                **identifier(person.key),
            }
        ],
        "active": True,
        "name": [{"use": "official", "family": person.family, "given": [person.given]}],
        "telecom": [{"system": "phone", "value": person.phone, "use": "mobile"}],
        "gender": person.gender,
        "birthDate": person.birth_date.isoformat(),
        "address": [{"use": "home", "city": person.city, "country": "US"}],
        "managingOrganization": reference(organization),
    }


def conditions(person: Person, subject: str) -> list[Resource]:
    """Return the indication, treatment resistance where it has been shown, and what else the patient has."""
    found = [_condition(person, subject, "indication", person.indication.snomed, person.indication.icd10)]
    if person.indication.resistant:
        found.append(_condition(person, subject, "resistance", TREATMENT_RESISTANT))
    found.extend(_condition(person, subject, f"other-{other.code}", other) for other in person.others)
    return found


def _condition(person: Person, subject: str, what: str, *codes: Code) -> Resource:
    return {
        "resourceType": "Condition",
        "identifier": [identifier(f"{person.key}-{what}")],
        "clinicalStatus": Code(_CLINICAL_STATUS, "active").concept(),
        "verificationStatus": Code(_VERIFICATION, "confirmed").concept(),
        "category": [Code(_CATEGORY, "problem-list-item", "Problem List Item").concept()],
        "code": codes[0].concept(*codes[1:], text=codes[-1].display),
        "subject": reference(subject),
        "onsetDateTime": person.onset.isoformat(),
    }


def medications(person: Person, subject: str, on: datetime) -> list[Resource]:
    """Return what the patient takes, and what did not help him in this episode."""
    stopped = [(medicine, "stopped", "Adequate dose and duration, no sufficient relief") for medicine in person.failed]
    current = [(medicine, "active", "Taken as prescribed") for medicine in person.current]
    return [
        {
            "resourceType": "MedicationStatement",
            "identifier": [identifier(f"{person.key}-medicine-{medicine.code}")],
            "status": "completed" if status == "stopped" else status,
            "medicationCodeableConcept": medicine.concept(text=medicine.display),
            "subject": reference(subject),
            "dateAsserted": instant(on),
            "note": [{"text": note}],
        }
        for medicine, status, note in (*stopped, *current)
    ]


def weight(person: Person, subject: str, on: datetime) -> Resource:
    """Return the weight measured at intake, outside a visit."""
    return {
        "resourceType": "Observation",
        "meta": {"tag": [INTAKE_MEASUREMENT.coding()]},
        "identifier": [identifier(f"{person.key}-weight")],
        "status": "final",
        "category": [_VITAL_SIGNS.concept()],
        "code": WEIGHT.concept(),
        "subject": reference(subject),
        "effectiveDateTime": instant(on),
        "valueQuantity": quantity(Decimal(str(person.weight_kg)), "kg"),
    }


def referral(key: str, subject: str, on: datetime, reasons: list[Code]) -> Resource:
    """Return the referral for KAP."""
    return {
        "resourceType": "ServiceRequest",
        "identifier": [identifier(f"{key}-referral")],
        "status": "active",
        "intent": "order",
        "code": REFERRAL.concept(_TO_PSYCHIATRIST, text=REFERRAL.display),
        "subject": reference(subject),
        "authoredOn": instant(on),
        **({"reasonCode": [reason.concept() for reason in reasons]} if reasons else {}),
    }


def reasons(person: Person) -> list[Code]:
    """Return why the patient is referred."""
    return (
        [TREATMENT_RESISTANT, person.indication.snomed] if person.indication.resistant else [person.indication.snomed]
    )


def screening_answers(person: Person, subject: str, on: datetime) -> Resource:
    """Return the answered screening questionnaire."""
    items: list[dict[str, Any]] = [_answer(question, valueBoolean=question in person.hits) for question in QUESTIONS]
    items.append(_answer("E23", valueBoolean=True))
    items.append(_answer("E24", valueInteger=len(person.failed)))
    items.append(_answer("MED", valueBoolean=True))
    return _response(f"{person.key}-screening", SCREENING_QUESTIONNAIRE, subject, on, items)


def phq9(person: Person, index: int, subject: str, on: datetime) -> Resource:
    """Return the PHQ-9 of one moment of the course."""
    items = [
        _answer(link, valueCoding=PHQ9_ANSWERS[value].coding())
        for link, value in zip(PHQ9_ITEMS, person.phq9[index], strict=True)
    ]
    return _response(f"{person.key}-phq9-{index}", PHQ9_QUESTIONNAIRE, subject, on, items)


def _answer(link: str, **value: Any) -> dict[str, Any]:
    return {"linkId": link, "answer": [value]}


def _response(key: str, questionnaire: str, subject: str, on: datetime, items: list[dict[str, Any]]) -> Resource:
    return {
        "resourceType": "QuestionnaireResponse",
        "identifier": identifier(key),
        "questionnaire": questionnaire,
        "status": "completed",
        "subject": reference(subject),
        "authored": instant(on),
        "author": reference(subject),
        "item": items,
    }


# -- Consent, plan, order -------------------------------------------------------------------------------------------


def consent(person: Person, subject: str, on: datetime, organization: str) -> Resource:
    """Return the patient's consent to the treatment by the route of his order."""
    return {
        "resourceType": "Consent",
        "identifier": [identifier(f"{person.key}-consent")],
        "status": "active",
        "scope": CONSENT_TREATMENT.concept(),
        "category": [PROCEDURE_CONSENT.concept(TREATMENT_CONSENT), person.route.concept.concept()],
        "patient": reference(subject),
        "dateTime": instant(on),
        "performer": [reference(subject)],
        "organization": [reference(organization)],
        "policyRule": {"text": "Informed consent to ketamine-assisted psychotherapy, off-label use explained"},
        "provision": {"type": "permit"},
    }


def plan(person: Person, subject: str, on: datetime) -> Resource:
    """Return the treatment plan."""
    sessions = len(person.sessions)
    return {
        "resourceType": "CarePlan",
        "identifier": [identifier(f"{person.key}-plan")],
        "text": {
            "status": "generated",
            "div": '<div xmlns="http://www.w3.org/1999/xhtml">'
            f"One preparation, {sessions} dosing sessions ({person.route.concept.display}), integration after each."
            "</div>",
        },
        "status": "active",
        "intent": "plan",
        "category": [_ASSESS_PLAN.concept()],
        "title": "Course of ketamine-assisted psychotherapy",
        "subject": reference(subject),
        "created": instant(on),
    }


def order(person: Person, subject: str, on: datetime, team: Team, session: int) -> Resource:
    """Return the prescriber's order of ketamine for one dosing session."""
    dose = person.sessions[session].dose_mg
    route = person.route
    return {
        "resourceType": "MedicationRequest",
        "identifier": [identifier(f"{person.key}-order-{session + 1}")],
        "status": "active",
        "intent": "order",
        "category": [
            Code(
                "http://terminology.hl7.org/CodeSystem/medicationrequest-category", "outpatient", "Outpatient"
            ).concept()
        ],
        "medicationCodeableConcept": drug(person),
        "subject": reference(subject),
        "authoredOn": instant(on),
        "requester": reference(team.prescriber),
        "dosageInstruction": [
            {
                "text": f"Ketamine {dose} mg, {route.concept.display.lower()}, once, in the clinic under supervision",
                "route": route.concept.concept(),
                "doseAndRate": [{"doseQuantity": quantity(dose, "mg")}],
            }
        ],
    }


def drug(person: Person) -> dict[str, Any]:
    """Return the ketamine product of the patient's route."""
    if person.route.key == "sl":
        return person.route.product.concept(text="ketamine HCl sublingual rapidly dissolving tablet (compounded)")
    return person.route.product.concept(Code(RXNORM, "6130", "ketamine"), text=person.route.product.display)


# -- Visits ---------------------------------------------------------------------------------------------------------


def appointment(
    person: Person, kind: str, index: int, subject: str, start: datetime, team: Team, order_: str | None = None
) -> Resource:
    """Return the booking of a visit; of a dosing visit with the order it stands on."""
    actors = [subject, team.therapist, team.room]
    if kind == "kap-dosing":
        actors[1:1] = [team.prescriber, team.nurse]
    return {
        "resourceType": "Appointment",
        "identifier": [identifier(f"{person.key}-{kind}-{index + 1}")],
        "status": "booked",
        "serviceType": [VISITS[kind][0].concept()],
        "description": VISITS[kind][0].display,
        **({"supportingInformation": [reference(order_)]} if order_ else {}),
        "start": instant(start),
        "end": instant(start + timedelta(minutes=VISIT_MINUTES[kind])),
        "participant": [{"actor": reference(actor), "status": "accepted"} for actor in actors],
    }


def vitals(key: str, subject: str, encounter: str, reading: Reading, on: datetime, nurse: str) -> list[Resource]:
    """Return blood pressure, heart rate and oxygen saturation of one time point."""
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
            "performer": [reference(nurse)],
            **measured,
        }
        for what, measured in (("bp", pressure), ("hr", rate), ("spo2", saturation))
    ]


def start_parameters(order_: str, session: Session, nurse: str, on: datetime) -> Resource:
    """Return the Parameters of ``Encounter/$start-dose``."""
    return {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "medicationRequest", "valueReference": reference(order_)},
            {"name": "dose", "valueQuantity": quantity(session.dose_mg, "mg")},
            {"name": "performer", "valueReference": reference(nurse)},
            {"name": "effective", "valueDateTime": instant(on)},
        ],
    }


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
        "effectivePeriod": {"start": instant(on), "end": instant(on + timedelta(minutes=40))},
        "performer": [{"actor": reference(nurse)}],
        "request": reference(order_),
        "note": [{"text": "Given before the pressure was looked at again; recorded after the fact."}],
        "dosage": {"route": person.route.concept.concept(), "dose": quantity(session.dose_mg, "mg")},
    }


def session_note(person: Person, index: int, subject: str, encounter: str, author: str, on: datetime) -> Resource:
    """Return the note of a dosing session: drug, times, vital signs, course. No process note."""
    session = person.sessions[index]
    top = max(session.readings, key=lambda reading: reading.systolic)
    last = session.readings[-1]
    text = (
        f"Dosing session {index + 1} of {len(person.sessions)}, {person.name}.\n"
        f"Ketamine {session.dose_mg} mg, {person.route.concept.display.lower()}.\n"
        f"Blood pressure before {session.baseline.systolic}/{session.baseline.diastolic}, "
        f"highest {top.systolic}/{top.diastolic} at {top.minute} min, "
        f"at leaving {last.systolic}/{last.diastolic} mmHg.\n"
        f"CADSS-6 at the peak {session.dissociation} of 24. Left with escort, no driving until tomorrow.\n"
    )
    return {
        "resourceType": "DocumentReference",
        "identifier": [identifier(f"{person.key}-note-{index + 1}")],
        "status": "current",
        "docStatus": "final",
        "type": _PROCEDURE_NOTE.concept(),
        "category": [
            Code("http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category", "clinical-note").concept()
        ],
        "subject": reference(subject),
        "date": instant(on),
        "author": [reference(author)],
        "content": [
            {
                "attachment": {
                    "contentType": "text/plain;charset=utf-8",
                    "data": base64.b64encode(text.encode()).decode(),
                    "title": f"Dosing session {index + 1}",
                }
            }
        ],
        "context": {"encounter": [reference(encounter)]},
    }


_UNITS = {"kg": "kg", "mg": "mg", "mm[Hg]": "mmHg", "/min": "/min", "%": "%"}


def quantity(value: Decimal | int, unit: str) -> dict[str, Any]:
    """Return a UCUM quantity."""
    return {"value": value, "unit": _UNITS[unit], "system": UCUM, "code": unit}


def screening_drug(person: Person) -> str:
    """Return the drug that the screening is for."""
    return "esketamine" if person.story == "aneurysm" else "ketamine"
