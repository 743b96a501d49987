"""The FHIR resources of a course before the dose: the patient, his record, screening, consent, plan, order, booking."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from functools import cache
from typing import Any

from cli.demo.patients import ADEQUATE_MG, Person
from cli.demo.resources import (
    VISIT_MINUTES,
    Team,
    answer,
    identifier,
    instant,
    parameters,
    quantity,
    reference,
    response,
)
from shared.fhir.codes import (
    ACT_CODE,
    ACT_REASON,
    CONSENT_PRIVACY,
    CONSENT_TREATMENT,
    ESCORT,
    EXT_CONSENT_ELEMENT,
    EXT_TELEHEALTH,
    ID_PRESCRIPTION,
    ID_REMS_PATIENT,
    INTAKE_MEASUREMENT,
    LOINC,
    MEDICATION_COMMUNITY,
    MONITOR,
    OBSERVATION_CATEGORY,
    PDMP_QUERY,
    PREGNANCY,
    PRESCRIBER,
    PROCEDURE_CONSENT,
    REFERRAL,
    RXNORM,
    SCREENING_QUESTIONNAIRE,
    SNOMED,
    THERAPIST,
    TREATMENT_CONSENT,
    VIRTUAL,
    VISITS,
    WEIGHT,
    Code,
)
from shared.fhir.json import Resource
from shared.fhir.kap import Drug
from shared.runtime.policy import load_policy

TREATMENT_RESISTANT = Code(SNOMED, "1153570009", "Treatment resistant depression")
QUESTIONS = tuple(f"E{number:02d}" for number in (*range(1, 11), 12, *range(14, 23), 26))
"""Items of the screening questionnaire where "yes" speaks against the treatment."""

_CLINICAL_STATUS = "http://terminology.hl7.org/CodeSystem/condition-clinical"
_VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
_CATEGORY = "http://terminology.hl7.org/CodeSystem/condition-category"
_ASSESS_PLAN = Code("http://hl7.org/fhir/us/core/CodeSystem/careplan-category", "assess-plan")
_VITAL_SIGNS = Code(OBSERVATION_CATEGORY, "vital-signs", "Vital Signs")
_TO_PSYCHIATRIST = Code(SNOMED, "308477009", "Referral to psychiatrist")
_OUTPATIENT = Code("http://terminology.hl7.org/CodeSystem/medicationrequest-category", "outpatient", "Outpatient")


# -- The patient and what is known of him ---------------------------------------------------------------------------


def patient(person: Person, organization: str, physician: str = "") -> Resource:
    """Return the Patient; `physician`: who treats him elsewhere (``Practitioner/<id>``)."""
    return {
        "resourceType": "Patient",
        "identifier": [
            {
                "use": "usual",
                "type": Code("http://terminology.hl7.org/CodeSystem/v2-0203", "MR", "Medical record number").concept(),
                **identifier(person.key),
            },
            *([{"system": ID_REMS_PATIENT, "value": f"REMS-P-{person.key}"}] if person.story == "esketamine" else []),
        ],
        "active": True,
        "name": [{"use": "official", "family": person.family, "given": [person.given]}],
        "telecom": [{"system": "phone", "value": person.phone, "use": "mobile"}],
        "gender": person.gender,
        "birthDate": person.birth_date.isoformat(),
        "address": [{"use": "home", "city": person.city, "country": "US"}],
        **({"generalPractitioner": [reference(physician)]} if physician else {}),
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
    stopped = [
        (medicine, "completed", "Adequate dose and duration, no sufficient relief") for medicine in person.failed
    ]
    current = [(medicine, "active", "Taken as prescribed") for medicine in person.current]
    return [
        {
            "resourceType": "MedicationStatement",
            "identifier": [identifier(f"{person.key}-medicine-{medicine.code}")],
            "status": status,
            "medicationCodeableConcept": medicine.concept(text=medicine.display),
            "subject": reference(subject),
            "effectivePeriod": _trial_period(number, status, on),
            "dateAsserted": instant(on),
            "note": [{"text": note}],
            "dosage": [
                {
                    "timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}},
                    "doseAndRate": [{"doseQuantity": quantity(ADEQUATE_MG[medicine.code], "mg")}],
                }
            ],
        }
        for number, (medicine, status, note) in enumerate((*stopped, *current), start=1)
    ]


def _trial_period(number: int, status: str, on: datetime) -> dict[str, str]:
    """Ten weeks for each that was stopped, the last of them twelve weeks ago; what is taken now began then."""
    start = on - timedelta(weeks=12 * (4 - number))
    begun = {"start": start.date().isoformat()}
    return begun if status == "active" else {**begun, "end": (start + timedelta(weeks=10)).date().isoformat()}


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


def referral(key: str, subject: str, on: datetime, reasons: list[Code], requester: str = "") -> Resource:
    """Return the referral for KAP; `requester` is who refers, where it is not the clinic itself."""
    return {
        "resourceType": "ServiceRequest",
        "identifier": [identifier(f"{key}-referral")],
        "status": "active",
        "intent": "order",
        "code": REFERRAL.concept(_TO_PSYCHIATRIST, text=REFERRAL.display),
        "subject": reference(subject),
        "authoredOn": instant(on),
        **({"requester": reference(requester)} if requester else {}),
        **({"reasonCode": [reason.concept() for reason in reasons]} if reasons else {}),
    }


def reasons(person: Person) -> list[Code]:
    """Return why the patient is referred."""
    return (
        [TREATMENT_RESISTANT, person.indication.snomed] if person.indication.resistant else [person.indication.snomed]
    )


def screening_answers(person: Person, subject: str, on: datetime) -> Resource:
    """Return the answered screening questionnaire."""
    items: list[dict[str, Any]] = [answer(question, valueBoolean=question in person.hits) for question in QUESTIONS]
    items.append(answer("E23", valueBoolean=True))
    items.append(answer("E24", valueInteger=len(person.failed)))
    items.append(answer("MED", valueBoolean=True))
    return response(f"{person.key}-screening", SCREENING_QUESTIONNAIRE, subject, on, items)


# -- Consent, plan, order -------------------------------------------------------------------------------------------


def consent(person: Person, subject: str, on: datetime, organization: str) -> Resource:
    """Return the patient's consent to the treatment by the route of his order."""
    return {
        "resourceType": "Consent",
        "extension": [_explained(name, version, subject, on) for name, version in _elements(person.drug)],
        "identifier": [identifier(f"{person.key}-consent")],
        "status": "active",
        "scope": CONSENT_TREATMENT.concept(),
        "category": [
            PROCEDURE_CONSENT.concept(TREATMENT_CONSENT),
            person.route.concept.concept(),
            *([drug(person)] if person.drug == "esketamine" else []),
        ],
        "patient": reference(subject),
        "dateTime": instant(on),
        "performer": [reference(subject)],
        "organization": [reference(organization)],
        "policyRule": {"text": "Informed consent to ketamine-assisted psychotherapy"},
        "provision": {"type": "permit"},
    }


def told_to(person: Person, subject: str, on: datetime, organization: str) -> Resource | None:
    """Return what the patient signed on telling others of him; None for who signed nothing, of whom nothing leaves.

    Most permit it to all who treat them (IHE PCF, pattern P1: treatment, payment, operations). Who is treated for
    trauma leaves out the use of substances (P3).
    """
    if person.story == "aneurysm":
        return None
    without = ("SUD", "ETH") if person.story == "im" else ()
    return privacy(person.key, subject, on, reference(organization), without=without)


def privacy(
    name: str, subject: str, on: datetime, organization: dict[str, Any], *, without: tuple[str, ...] = ()
) -> Resource:
    """Return a patient's consent that all who treat him are told, but for what bears one of the labels `without`."""
    besides = {"type": "deny", "securityLabel": [Code(ACT_CODE, one).coding() for one in without]}
    return {
        "resourceType": "Consent",
        "identifier": [identifier(f"{name}-privacy")],
        "status": "active",
        "scope": CONSENT_PRIVACY.concept(),
        "category": [Code(LOINC, "59284-0", "Consent Document").concept()],
        "patient": reference(subject),
        "dateTime": instant(on),
        "performer": [reference(subject)],
        "organization": [organization],
        "sourceAttachment": {"contentType": "text/plain", "title": "Consent to tell those who treat me, signed"},
        "policy": [{"uri": "http://terminology.hl7.org/CodeSystem/consentpolicycodes#hipaa-auth"}],
        "provision": {
            "type": "permit",
            "purpose": [Code(ACT_REASON, one).coding() for one in ("TREAT", "HPAYMT", "HOPERAT")],
            **({"provision": [besides]} if without else {}),
        },
    }


@cache
def _elements(drug_: Drug) -> list[tuple[str, str]]:
    """Return each element of the informed consent to a drug, and the version of its text."""
    elements = load_policy().sections["consent"]["elements"]
    return [
        (name, str(element["version"]))
        for name, element in elements.items()
        if drug_ in element.get("drugs", [drug_]) and drug_ not in element.get("not_drugs", [])
    ]


def _explained(name: str, version: str, subject: str, on: datetime) -> dict[str, Any]:
    return {
        "url": EXT_CONSENT_ELEMENT,
        "extension": [
            {"url": "element", "valueCode": name},
            {"url": "at", "valueDateTime": instant(on)},
            {"url": "version", "valueString": version},
            {"url": "language", "valueCode": "en"},
            {"url": "signer", "valueReference": reference(subject)},
        ],
    }


GOALS = {
    "iv": "To get out of bed in the morning and want to.",
    "im": "To ride a bus again without looking at the doors.",
    "home": "To worry less at night.",
    "esketamine": "To work again, half the day at least.",
    "pregnancy": "To feel something when my children laugh.",
    "withdrawn": "To have one good hour a day.",
}
"""What patients say that they want of the course, by story."""


def plan(person: Person, team: Team, on: datetime) -> Resource:
    """Return the parameters of `$plan`: the drug and route, the doses of the sessions, the goal, and who does what."""
    made = parameters(
        drug_valueCode=person.drug,
        route_valueCode=person.route.concept.code,
        status_valueCode="active",
        date_valueDateTime=instant(on),
        goal_valueString=GOALS.get(person.story, "To feel like myself again."),
        sessions_valuePositiveInt=max(len(person.sessions), 2),
    )
    by_weight = person.route.key in ("iv", "im")
    kilograms = Decimal(str(person.weight_kg))
    for number, session in enumerate(person.sessions, start=1):
        if number == 1 or session.dose_mg != person.sessions[number - 2].dose_mg:
            mg = Decimal(session.dose_mg)
            dose = quantity(round(mg / kilograms, 2), "mg/kg") if by_weight else quantity(session.dose_mg, "mg")
            parts = [{"name": "session", "valuePositiveInt": number}, {"name": "dose", "valueQuantity": dose}]
            made["parameter"].append({"name": "step", "part": parts})
    for role, who in (("prescriber", team.prescriber), ("therapist", team.therapist), ("monitor", team.nurse)):
        parts = [{"name": "role", "valueCode": role}, {"name": "reference", "valueReference": reference(who)}]
        made["parameter"].append({"name": "member", "part": parts})
    return made


def order(person: Person, subject: str, on: datetime, team: Team, session: int) -> Resource:
    """Return the prescriber's order for one dosing session; at home with what Schedule III asks for."""
    dose = person.sessions[session].dose_mg
    route = person.route
    home = person.story == "home"
    where = "at home, with a chaperone and by video" if home else "in the clinic under supervision"
    prescribed = [{"system": ID_PRESCRIPTION, "value": f"RX-{person.key}-{session + 1}"}] if home else []
    dispensed = {
        "performer": reference(team.clinic),
        "dispenseRequest": {
            "quantity": {"value": 1, "unit": "tablet"},
            "numberOfRepeatsAllowed": 0,
            "expectedSupplyDuration": quantity(7, "d"),
        },
    }
    return {
        "resourceType": "MedicationRequest",
        "identifier": [identifier(f"{person.key}-order-{session + 1}"), *prescribed],
        "status": "active",
        "intent": "order",
        "category": [(MEDICATION_COMMUNITY if home else _OUTPATIENT).concept()],
        "medicationCodeableConcept": drug(person),
        "subject": reference(subject),
        "authoredOn": instant(on),
        "requester": reference(team.prescriber),
        **(dispensed if home else {}),
        "dosageInstruction": [
            {
                "text": f"{person.drug.capitalize()} {dose} mg, {route.concept.display.lower()}, once, {where}",
                "route": route.concept.concept(),
                "doseAndRate": [{"doseQuantity": quantity(dose, "mg")}],
            }
        ],
    }


def drug(person: Person) -> dict[str, Any]:
    """Return the product of the patient's route."""
    if person.route.key == "sl":
        return person.route.product.concept(text="ketamine HCl sublingual rapidly dissolving tablet (compounded)")
    if person.drug == "esketamine":
        return person.route.product.concept(text=person.route.product.display)
    return person.route.product.concept(Code(RXNORM, "6130", "ketamine"), text=person.route.product.display)


def pdmp_query(person: Person, session: int, subject: str, prescriber: str, on: datetime) -> Resource:
    """Return that the prescription drug monitoring programme was asked, and what it said."""
    return {
        "resourceType": "Observation",
        "identifier": [identifier(f"{person.key}-pdmp-{session + 1}")],
        "status": "final",
        "code": PDMP_QUERY.concept(),
        "subject": reference(subject),
        "effectiveDateTime": instant(on),
        "performer": [reference(prescriber)],
        "valueString": "No controlled substance of another prescriber",
    }


def pregnancy(person: Person, subject: str, on: datetime) -> Resource:
    """Return a pregnancy that was found."""
    return {
        "resourceType": "Observation",
        "meta": {"tag": [INTAKE_MEASUREMENT.coding()]},
        "identifier": [identifier(f"{person.key}-pregnancy")],
        "status": "final",
        "category": [Code(OBSERVATION_CATEGORY, "social-history", "Social History").concept()],
        "code": PREGNANCY.concept(),
        "subject": reference(subject),
        "effectiveDateTime": instant(on),
        "valueCodeableConcept": Code(SNOMED, "77386006", "Pregnant").concept(),
    }


def escort(person: Person, subject: str) -> Resource:
    """Return the adult who takes the patient home, or is with him at home."""
    given, _, family = person.escort.partition(" ")
    return {
        "resourceType": "RelatedPerson",
        "identifier": [identifier(f"{person.key}-escort")],
        "active": True,
        "patient": reference(subject),
        "relationship": [
            Code("http://terminology.hl7.org/CodeSystem/v3-RoleCode", "FRND", "unrelated friend").concept()
        ],
        "name": [{"family": family, "given": [given]}],
        "telecom": [{"system": "phone", "value": person.phone}],
    }


# -- Visits ---------------------------------------------------------------------------------------------------------


def appointment(
    person: Person,
    kind: str,
    index: int,
    subject: str,
    start: datetime,
    team: Team,
    order_: str | None = None,
    escort_: str | None = None,
) -> Resource:
    """Return the booking of a visit; of a dosing visit with the order it stands on, and the escort."""
    home = person.story == "home" and kind == "kap-dosing"
    staff = [(THERAPIST, team.therapist)]
    if kind == "kap-dosing":
        staff[:0] = [(PRESCRIBER, team.prescriber), (MONITOR, team.nurse)]
    if kind == "kap-consult":
        staff = [(PRESCRIBER, team.prescriber)]
    people: list[dict[str, Any]] = [{"actor": reference(subject), "status": "accepted"}]
    people += [{"type": [part.concept()], "actor": reference(who), "status": "accepted"} for part, who in staff]
    if not home:
        people.append({"actor": reference(team.room), "status": "accepted"})
    if kind == "kap-dosing" and escort_:
        people.append({"type": [ESCORT.concept()], "actor": reference(escort_), "status": "accepted"})
    return {
        "resourceType": "Appointment",
        "identifier": [identifier(f"{person.key}-{kind}-{index + 1}")],
        **({"extension": [{"url": EXT_TELEHEALTH, "valueUrl": f"https://video.example/{person.key}"}]} if home else {}),
        "status": "booked",
        "serviceType": [VISITS[kind][0].concept(*([VIRTUAL] if home else []))],
        "description": VISITS[kind][0].display + (", by video" if home else ""),
        **({"supportingInformation": [reference(order_)]} if order_ else {}),
        "start": instant(start),
        "end": instant(start + timedelta(minutes=VISIT_MINUTES[kind])),
        "participant": people,
    }
