"""What all FHIR resources of the demo are made with: names, times, quantities, answers; and the clinic. Pure.

Every resource carries a business identifier of the run's own, ``<seed>-<patient>-<what>``, under which it is created at
most once however often the demo is run. The course is charted after the fact: it began some weeks before the run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any

from cli.demo.patients import Staff
from shared.fhir.codes import (
    BASE,
    DEA,
    EXT_AVAILABLE_TIME,
    ID_REMS_SITE,
    KAP,
    ROLES,
    UCUM,
    Code,
)
from shared.fhir.json import Resource

IDENTIFIER = f"{BASE}/identifier/demo"
CLINIC = "Four Rivers KAP Clinic"
PATIENTS_PER_TEAM = 4

_VISIT_HOURS = (7.0, 10.5, 14.0, 17.5)
VISIT_MINUTES = {"kap-consult": 60, "kap-prep": 50, "kap-dosing": 170, "kap-integration": 50}
DAYS = {"kap-consult": (1,), "kap-prep": (3,), "kap-dosing": (7, 14), "kap-integration": (9, 16)}
"""The day of the course on which each visit of a kind is; the course's last day is 45."""
PHQ9_DAYS = (0, 13, 21)
PCL5_DAYS = (0, 35)
COURSE_DAYS = 45
AFTER_ARRIVAL = timedelta(minutes=30)
"""The dose begins so long after the patient has come."""


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
    referrer: str = ""


def identifier(key: str) -> dict[str, str]:
    """Return the business identifier of ``key``."""
    return {"system": IDENTIFIER, "value": key}


def instant(moment: datetime) -> str:
    """Return a FHIR dateTime in UTC, to the second."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def reference(to: str) -> dict[str, str]:
    """Return a literal reference."""
    return {"reference": to}


def parameters(**given: Any) -> Resource:
    """Return a Parameters resource: ``parameters(dose_valueQuantity=...)`` has a parameter ``dose``; None is left out.

    A name ends with its form; of the rest, a ``_`` is a ``-``.
    """
    found = []
    for name, value in given.items():
        said, _, form = name.rpartition("_")
        if value is not None:
            found.append({"name": said.replace("_", "-"), form: value})
    return {"resourceType": "Parameters", "parameter": found}


_UNITS = {
    "kg": "kg",
    "mg": "mg",
    "mg/mL": "mg/mL",
    "mg/kg": "mg/kg",
    "mm[Hg]": "mmHg",
    "/min": "/min",
    "%": "%",
    "d": "d",
}


def quantity(value: Decimal | int, unit: str) -> dict[str, Any]:
    """Return a UCUM quantity."""
    return {"value": value, "unit": _UNITS[unit], "system": UCUM, "code": unit}


def answer(link: str, **value: Any) -> dict[str, Any]:
    """Return an item of a QuestionnaireResponse: ``answer("E01", valueBoolean=True)``."""
    return {"linkId": link, "answer": [value]}


def response(key: str, questionnaire: str, subject: str, on: datetime, items: list[dict[str, Any]]) -> Resource:
    """Return a completed QuestionnaireResponse, by the patient himself."""
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


# -- The clinic ---------------------------------------------------------------------------------------------------


def clinic() -> Resource:
    """Return the clinic."""
    return {
        "resourceType": "Organization",
        "active": True,
        "type": [
            Code("http://terminology.hl7.org/CodeSystem/organization-type", "prov", "Healthcare Provider").concept()
        ],
        "identifier": [identifier("clinic"), {"system": DEA, "value": dea_number(CLINIC)}],
        "name": CLINIC,
        "telecom": [{"system": "phone", "value": "+1-555-0100", "use": "work"}],
        "address": [{"line": ["4 River Street"], "city": "Riverton", "postalCode": "00004"}],
    }


def room(team: str, organization: str) -> Resource:
    """Return the dosing room of a team, certified under the REMS of esketamine."""
    return {
        "resourceType": "Location",
        "identifier": [identifier(f"room-{team}"), {"system": ID_REMS_SITE, "value": f"REMS-{team}"}],
        "status": "active",
        "name": f"Quiet room {team}",
        "mode": "instance",
        "managingOrganization": reference(organization),
    }


def practitioner(team: str, staff: Staff) -> Resource:
    """Return one of a team's practitioners."""
    return {
        "resourceType": "Practitioner",
        "identifier": [
            identifier(f"{staff.role}-{team}"),
            *([{"system": DEA, "value": dea_number(staff.family)}] if staff.role == "prescriber" else []),
        ],
        "active": True,
        "name": [{"use": "official", "family": staff.family, "given": [staff.given], "suffix": [staff.suffix]}],
        "telecom": [{"system": "phone", "value": "+1-555-0100", "use": "work"}],
        "qualification": [{"code": staff.qualification.concept(), "period": {"start": "2020-01-01"}}],
    }


def schedule(team: str, role: str, actor: str) -> Resource:
    """Return when somebody or a room of a team can be booked: every day."""
    hours = [
        {"url": "availableStartTime", "valueTime": "07:00:00"},
        {"url": "availableEndTime", "valueTime": "21:00:00"},
    ]
    days = [{"url": "daysOfWeek", "valueCode": day} for day in ("mon", "tue", "wed", "thu", "fri", "sat", "sun")]
    return {
        "resourceType": "Schedule",
        "identifier": [identifier(f"schedule-{role}-{team}")],
        "active": True,
        "extension": [{"url": EXT_AVAILABLE_TIME, "extension": [*days, *hours]}],
        "specialty": [ROLES[role].concept()],
        "actor": [reference(actor)],
    }


def duty(team: str, role: str, practitioner_: str, organization: str, room_: str) -> Resource:
    """Return that a practitioner of a team works in its room, and is on duty when something cannot wait."""
    return {
        "resourceType": "PractitionerRole",
        "identifier": [identifier(f"duty-{role}-{team}")],
        "active": True,
        "practitioner": reference(practitioner_),
        "organization": reference(organization),
        "location": [reference(room_)],
        "period": {"start": "2020-01-01"},
        "code": [Code(KAP, role).concept()],
        "telecom": [{"system": "email", "value": f"{role}.{team}@four-rivers.example"}],
    }


def dea_number(name: str) -> str:
    """Return a registration number with its check digit, the same one for the same name. It is nobody's."""
    digits = [(sum(name.encode()) * 7919 + position * 31) // 7**position % 10 for position in range(6)]
    check = (sum(digits[0::2]) + 2 * sum(digits[1::2])) % 10
    return f"BX{''.join(str(digit) for digit in digits)}{check}"


def practice() -> Resource:
    """Return the partner's practice."""
    return {
        "resourceType": "Organization",
        "identifier": [identifier("partner")],
        "active": True,
        "name": "Riverside Family Medicine",
    }


def hospital() -> Resource:
    """Return the hospital that exports what its patients let it know."""
    return {
        "resourceType": "Organization",
        "identifier": [identifier("hospital")],
        "active": True,
        "name": "Lakeside Hospital",
    }


def patients_of(name: str, hospital_: str, patients: Sequence[str]) -> Resource:
    """Return the Group of a hospital's patients, which it may export."""
    return {
        "resourceType": "Group",
        "identifier": [identifier(f"{name}-hospital")],
        "active": True,
        "type": "person",
        "actual": True,
        "name": "Patients of Lakeside Hospital",
        "managingEntity": reference(hospital_),
        "member": [{"entity": reference(one)} for one in patients],
    }


def partner(team: str) -> Resource:
    """Return the partner physician who refers."""
    return {
        "resourceType": "Practitioner",
        "identifier": [identifier(f"partner-{team}")],
        "active": True,
        "name": [{"use": "official", "family": "Halloran", "given": ["Maeve"], "suffix": ["MD"]}],
    }


def works_at(team: str, practitioner_: str, organization: str) -> Resource:
    """Return where the partner physician works."""
    return {
        "resourceType": "PractitionerRole",
        "identifier": [identifier(f"partner-role-{team}")],
        "active": True,
        "practitioner": reference(practitioner_),
        "organization": reference(organization),
    }
