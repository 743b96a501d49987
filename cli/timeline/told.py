"""A record told as text: a line for each thing, under its day. Pure.

What the services found by rule stands with what it is about (its reading, its dose, its answers), not where it was
written: a course that is charted after the fact reads as it happened.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from cli.timeline.lines import LINES, Known, Line, vital_signs
from shared.fhir.codes import BOOK_SUBSTANCE, CHECK_IN, DUE_AT_BEDSIDE, EXPECT_QUESTIONNAIRE, EXT_STAGE, KAP
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, has_code

_WAITING = (EXPECT_QUESTIONNAIRE, BOOK_SUBSTANCE, CHECK_IN, *DUE_AT_BEDSIDE)
_QUIET = frozenset((*(one.code for one in _WAITING), "deliver"))


def timeline(record: Iterable[Resource]) -> list[str]:
    """Return the lines of a record: who, what is known of him, then day by day what happened.

    Raises:
        ValueError: there is no Patient in it.

    """
    known = Known({f"{one['resourceType']}/{one['id']}": one for one in record})
    patient = next((one for one in known.held.values() if one["resourceType"] == "Patient"), None)
    if patient is None:
        raise ValueError("A timeline is of a patient, and there is none.")
    lines = [line for one in known.held.values() for line in _lines(one, known)]
    lines.extend(vital_signs(known))
    days: dict[str, list[str]] = defaultdict(list)
    for line in sorted(lines, key=lambda one: (one.when, one.rank, one.text)):
        days[f"{line.when:%A %Y-%m-%d}"].append(f"  {line.when:%H:%M}  {line.text}")
    told = [*_head(patient, known)]
    for day, of_day in days.items():
        told.extend(("", day, *dict.fromkeys(of_day)))
    return [*told, *_foot(known)]


def _lines(resource: Resource, known: Known) -> Iterable[Line]:
    make = LINES.get(resource["resourceType"])
    if make is None or (resource["resourceType"] == "Task" and _is_waiting(resource)):
        return ()
    return make(resource, known)


def _is_waiting(resource: Resource) -> bool:
    """Tell whether a Task is one of the many that only wait for their day, or carry the record to a hospital."""
    return bool(_QUIET.intersection(codes_of(resource.get("code"), KAP)))


def _head(patient: Resource, known: Known) -> list[str]:
    name = patient["name"][0]
    who = f"{' '.join(name.get('given', []))} {name.get('family', '')}"
    told = [f"{who}, {patient.get('gender', 'sex not known')}, born {patient.get('birthDate', 'on a day not known')}"]
    told.extend(f"  Diagnosis: {one}" for one in sorted(known.said(each["code"]) for each in known.of("Condition")))
    medicines = sorted(_medicine(each, known) for each in known.of("MedicationStatement"))
    told.extend(f"  Medicine: {one}" for one in medicines)
    for course in known.of("EpisodeOfCare"):
        stages = [_stage(one) for one in course.get("extension", []) if one["url"] == EXT_STAGE]
        told.append(f"  Course: {course['status']} ({', '.join(stages)})")
    return told


def _medicine(statement: Resource, known: Known) -> str:
    period = statement.get("effectivePeriod", {})
    dose = next(
        (each["doseQuantity"] for one in statement.get("dosage", []) for each in one.get("doseAndRate", [])), None
    )
    amount = f" {dose['value']} {dose['unit']} a day" if dose else ""
    until = f" to {period['end']}" if "end" in period else ", still taken"
    return f"{known.said(statement['medicationCodeableConcept'])}{amount}, from {period.get('start', '?')}{until}"


def _stage(extension: Mapping[str, Any]) -> str:
    return next(str(one["valueCode"]) for one in extension["extension"] if one["url"] == "stage")


def _answered(task: Resource) -> str:
    """Tell where a questionnaire stands that was asked for."""
    if task["status"] == "completed":
        return "answered"
    if task["status"] == "cancelled":
        return "called off"
    return "late" if "businessStatus" in task else "ahead"


def _foot(known: Known) -> list[str]:
    asked = [one for one in known.of("Task") if has_code(one.get("code"), EXPECT_QUESTIONNAIRE)]
    standing = Counter(_answered(one) for one in asked)
    answered, late, ahead = (standing[each] for each in ("answered", "late", "ahead"))
    said = f"{answered} answered, {late} overdue or not answered in time, {ahead} still to come"
    told = ["", f"Questionnaires asked for: {said}."]
    flags = [one for one in known.of("Flag") if one["status"] == "active"]
    told.extend(f"Flag up: {', '.join(codes_of(one['code'], KAP)) or known.said(one['code'])}" for one in flags)
    return told
