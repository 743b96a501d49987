"""The three services of a dosing session on one bench: what a booked and begun visit is made of."""

from __future__ import annotations

from datetime import timedelta

from shared.fhir import codes
from shared.fhir.dates import zulu
from tests.integration.services.bedside import TO_DO
from tests.integration.services.course import about, appointment, milligrams, planned


async def booked(bench, clock, intake, scheduling, sessions):
    """Return patient, consent, order, appointment and the visit that was planned."""
    who, signed, ordered = await planned(intake, clock)
    await bench.deliver(intake, scheduling)
    made = await scheduling.create(appointment(who, ordered, clock.now + timedelta(minutes=30)))
    await bench.deliver(intake, sessions)
    await bench.deliver(scheduling, sessions)
    (visit,) = await sessions.search("Encounter", appointment=f"Appointment/{made['id']}")
    return who, signed, ordered, made, visit


def pressure(who, visit, when, systolic=120, diastolic=80, unit="mm[Hg]"):
    def component(code, value, unit=unit):
        quantity = {"value": value, "unit": unit, "system": codes.UCUM, "code": unit}
        return {"code": code.concept(), "valueQuantity": quantity}

    return {
        "resourceType": "Observation",
        "status": "final",
        "category": [codes.Code(codes.OBSERVATION_CATEGORY, "vital-signs").concept()],
        "code": codes.BLOOD_PRESSURE.concept(),
        "subject": about(who),
        "encounter": about(visit),
        "effectiveDateTime": zulu(when),
        "component": [
            component(codes.SYSTOLIC, systolic),
            component(codes.DIASTOLIC, diastolic),
            component(codes.HEART_RATE, 72, "/min"),
            component(codes.OXYGEN_SATURATION, 98, "%"),
        ],
    }


def saturation(who, visit, when, value):
    made = pressure(who, visit, when)
    del made["component"]
    quantity = {"value": value, "unit": "%", "system": codes.UCUM, "code": "%"}
    return {**made, "code": codes.OXYGEN_SATURATION.concept(codes.OXYGEN_SATURATION_ANY), "valueQuantity": quantity}


def start_parameters(ordered, **more):
    given = [
        {"name": "medicationRequest", "valueReference": about(ordered)},
        {"name": "dose", "valueQuantity": milligrams(70)},
        {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
    ]
    return [*given, *({"name": name, "valueDateTime": value} for name, value in more.items())]


def dose(who, visit, status, start, **more):
    return {
        "resourceType": "MedicationAdministration",
        "status": status,
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(who),
        "context": about(visit),
        "effectivePeriod": {"start": zulu(start)},
        "dosage": {"route": codes.ROUTE_IM.concept(), "dose": milligrams(70)},
        **more,
    }


async def raised(sessions, who):
    """Return how many DetectedIssues, Flags and Tasks stand for the patient, besides what is to be done."""
    found = {type_: await sessions.search(type_, patient=who["id"]) for type_ in ("DetectedIssue", "Flag", "Task")}
    quiet = {code.code for code in TO_DO}
    due = [one for one in found["Task"] if one["code"]["coding"][0]["code"] in quiet]
    return [len(found["DetectedIssue"]), len(found["Flag"]), len(found["Task"]) - len(due)]
