"""What a visit's summary says: gathered from the record of the visit, section by section."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from services.sessions.alarming import alarms_in
from services.sessions.events import period_of
from services.sessions.gathering import answers_of
from services.sessions.lots import lot_of
from services.sessions.names import name_of
from services.sessions.rules.answers import Asked
from services.sessions.rules.leaving import aldrete_of, disposition_of
from services.sessions.rules.monitoring import minutes_from
from services.sessions.rules.readings import COUNTING, Reading, readings_of, with_code
from services.sessions.rules.summary import MEDICATIONS, VITALS, Section
from services.sessions.setting import Setting
from services.sessions.what_was_given import doses_of
from shared.fhir.codes import (
    BACK_WITHIN,
    DIASTOLIC,
    DISCHARGE_QUESTIONNAIRE,
    HEART_RATE,
    ID_TASK,
    ID_THERAPY,
    MOAA_S,
    OXYGEN_SATURATION,
    OXYGEN_SATURATION_ANY,
    RESPIRATORY_RATE,
    SESSION_CHECK_IN,
    SYSTOLIC,
)
from shared.fhir.dates import MAX_INSTANT, interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import effective_start, has_code, patient_of
from shared.runtime.medications import medication_of
from shared.runtime.raising import find
from shared.runtime.record import Record

COLUMNS = {
    "Systolic": (SYSTOLIC.code,),
    "Diastolic": (DIASTOLIC.code,),
    "Heart rate": (HEART_RATE.code,),
    "SpO2": (OXYGEN_SATURATION.code, OXYGEN_SATURATION_ANY.code),
    "Breathing": (RESPIRATORY_RATE.code,),
    "Sedation": (MOAA_S.code,),
}
"""Of the table of vital signs: the codes of each column; pressures in mmHg, rates a minute, SpO2 in %."""
_TOLD: Final = COUNTING | {"preliminary"}
"""Statuses of the Observations that a summary tells of: what is not final yet is said to be that."""


async def sections_of(record: Record, visit: Resource, setting: Setting) -> tuple[list[Section], list[str]]:
    """Return the sections of a visit's summary, and what the record does not say, in words."""
    about = {"encounter": f"Encounter/{visit['id']}"}
    doses = await doses_of(record, visit["id"], setting)
    first = min((one.start for one in doses if one.start is not None), default=None)
    held = await record.search("Observation", about)
    readings = [one for one in held if one.get("status") in _TOLD]
    lacking: list[str] = []
    found = [
        await _visit(record, visit),
        await _given(record, visit, first, lacking),
        _vitals(readings, first, lacking, dosed=bool(doses)),
        _scores(readings, first, visit),
        await _alarms(record, visit, lacking),
        await _events(record, visit, lacking),
        await _therapy(record, visit, held),
        await _leaving(record, visit, lacking, setting, dosed=bool(doses)),
    ]
    empty = ("Alarms", "Adverse events")  # these say that there were none
    told = [one for one in found if one.rows or one.title in empty]
    if lacking:
        told.append(Section("Not recorded", ("What",), [(one,) for one in lacking]))
    return told, lacking


async def _visit(record: Record, visit: Resource) -> Section:
    period = visit.get("period", {})
    rows = [("Began", _time(period.get("start"))), ("Ended", _time(period.get("end")))]
    for one in visit.get("participant", []):
        part = ", ".join(dict.fromkeys(_words(kind) for kind in one.get("type", []))) or "participant"
        rows.append((part, await name_of(record, one.get("individual"))))
    return Section("Visit", ("What", "Said"), rows, [f"Encounter/{visit['id']}"])


async def _given(record: Record, visit: Resource, first: datetime | None, lacking: list[str]) -> Section:
    held = await record.search("MedicationAdministration", {"context": f"Encounter/{visit['id']}"})
    rows, entries = [], []
    for one in sorted(held, key=_start):
        if one["status"] == "entered-in-error":
            continue
        start, dosage = effective_start(one), one.get("dosage", {})
        end = one.get("effectivePeriod", {}).get("end")
        what = _words(await medication_of(record, one) or {}) or "drug not named"
        if one["status"] == "not-done":
            reasons = "; ".join(_words(reason) for reason in one.get("statusReason", [])) or "no reason given"
            amount = f"not given: {reasons}"
        else:
            amount = _quantity(dosage.get("dose")) or _quantity(dosage.get("rateQuantity")) or "not said"
        people = [await name_of(record, person.get("actor")) for person in one.get("performer", [])]
        reference = f"MedicationAdministration/{one['id']}"
        rows.append(
            (
                _minute(start, first),
                zulu(start) if start else "not said",
                "" if end is None else zulu(interval(end)[0]),
                what if not one.get("partOf") else f"{what} (step of an infusion)",
                amount,
                _words(dosage.get("route", {})),
                await lot_of(record, one) or "",
                ", ".join(people),
            )
        )
        entries.append(reference)
        if one["status"] in ("in-progress", "on-hold"):
            lacking.append(f"the end of {what} ({reference})")
    head = ("Minute", "Begun", "Ended", "Drug", "Amount", "Route", "Lot", "By")
    return Section("Drugs given", head, rows, entries, MEDICATIONS)


def _vitals(readings: list[Resource], first: datetime | None, lacking: list[str], *, dosed: bool) -> Section:
    points: dict[datetime, list[Reading]] = defaultdict(list)
    for one in readings:
        for reading in readings_of(one):
            if reading.when is not None and reading.timed and not reading.sampled:
                points[reading.when].append(reading)
    rows: list[tuple[str, ...]] = []
    entries: list[str] = []
    for when in sorted(points):
        cells = [_cell(with_code(points[when], codes)) for codes in COLUMNS.values()]
        if any(cells):
            rows.append((_minute(when, first), zulu(when), *cells))
            told = with_code(points[when], [code for codes in COLUMNS.values() for code in codes])
            entries.extend(reading.reference for reading in told)
    pressures = [when for when in points if with_code(points[when], COLUMNS["Systolic"])]
    if dosed and first is not None:
        if not any(when <= first for when in pressures):
            lacking.append("a blood pressure before the dose")
        if not any(when > first for when in pressures):
            lacking.append("a blood pressure after the dose")
    return Section("Vital signs", ("Minute", "At", *COLUMNS), rows, list(dict.fromkeys(entries)), VITALS)


def _cell(readings: Iterable[Reading]) -> str:
    said = [(one.quantity, "" if one.trusted else " (not final)") for one in readings if one.quantity is not None]
    return ", ".join(f"{one.get('comparator', '')}{one.get('value', '')}{final}" for one, final in said)


def _scores(readings: list[Resource], first: datetime | None, visit: Resource) -> Section:
    """Return the scores of the visit: what is answered about it in the days after its end is no part of it."""
    said = visit.get("period", {}).get("end")
    end = MAX_INSTANT if said is None else interval(said)[1]
    scored = [
        one
        for one in readings
        if one.get("derivedFrom")
        and ("valueInteger" in one or "valueQuantity" in one)
        and (effective_start(one) or end) <= end
    ]
    rows = []
    for one in scored:
        value = one.get("valueInteger", one.get("valueQuantity", {}).get("value"))
        when = effective_start(one)
        rows.append((_minute(when, first), "" if when is None else zulu(when), _words(one["code"]), str(value)))
    entries = [f"Observation/{one['id']}" for one in scored]
    return Section("Scores", ("Minute", "At", "Scale", "Score"), rows, entries)


async def _alarms(record: Record, visit: Resource, lacking: list[str]) -> Section:
    rows, entries = [], []
    for issue in await alarms_in(record, str(patient_of(visit)), visit["id"]):
        call = await find(record, "Task", {**issue["identifier"][0], "system": ID_TASK})
        done = [_words(one.get("action", {})) for one in issue.get("mitigation", [])]
        over = any(has_code(one.get("type"), BACK_WITHIN) for one in (call or {}).get("output", []))
        taken = await name_of(record, (call or {}).get("owner"))
        notes = [note.get("text", "") for note in (call or {}).get("note", [])]
        outcome = "; ".join([*(["back within limits"] if over else []), *notes]) or "not recorded"
        if outcome == "not recorded":
            lacking.append(f"how an alarm ended (DetectedIssue/{issue['id']})")
        rows.append(
            (_time(issue.get("identifiedDateTime")), issue["detail"], "; ".join(done) or "none", outcome, taken)
        )
        entries.append(f"DetectedIssue/{issue['id']}")
    return Section("Alarms", ("Raised", "What", "Treatment", "Outcome", "Taken by"), rows, entries)


async def _events(record: Record, visit: Resource, lacking: list[str]) -> Section:
    rows, entries = [], []
    for one in await record.search("AdverseEvent", {"subject": f"Patient/{patient_of(visit)}"}):
        if one.get("encounter", {}).get("reference") != f"Encounter/{visit['id']}":
            continue
        cells = [_words(one.get(name, {})) for name in ("event", "seriousness", "severity", "outcome")]
        period = period_of(one)
        times = (_time(period.get("start")), _time(period.get("end")))
        rows.append((*times, *(cell or "not said" for cell in cells)))
        entries.append(f"AdverseEvent/{one['id']}")
        if not all(cells):
            lacking.append(f"what an adverse event is to say (AdverseEvent/{one['id']})")
    return Section("Adverse events", ("Began", "Ended", "What", "Seriousness", "Severity", "Outcome"), rows, entries)


async def _therapy(record: Record, visit: Resource, held: list[Resource]) -> Section:
    procedures = await record.search("Procedure", {"encounter": f"Encounter/{visit['id']}"})
    rows, entries = [], []
    for one in (*held, *procedures):
        if (
            has_code(one.get("code"), SESSION_CHECK_IN)
            or one.get("status") == "entered-in-error"
            or not any(name.get("system") == ID_THERAPY for name in one.get("identifier", []))
        ):
            continue
        value = one.get("valueString", "yes" if one.get("valueBoolean") else "no")
        what = "Technique" if one["resourceType"] == "Procedure" else _words(one["code"])
        rows.append((what, str(value) or _words(one["code"])))
        entries.append(f"{one['resourceType']}/{one['id']}")
    return Section("Psychotherapy", ("What", "Said"), rows, entries)


async def _leaving(record: Record, visit: Resource, lacking: list[str], setting: Setting, *, dosed: bool) -> Section:
    end = visit.get("period", {}).get("end")
    when = setting.clock() if end is None else interval(end)[0]
    asked = await answers_of(record, visit["id"], DISCHARGE_QUESTIONNAIRE, None, when)
    concept = visit.get("hospitalization", {}).get("dischargeDisposition", {})
    if dosed and disposition_of(visit) is None:
        lacking.append("how the patient left")
    if dosed and asked is None:
        lacking.append("the checklist before leaving (kap-discharge)")
    rows = [] if not concept and asked is None else [("Left", f"{_words(concept) or 'not said'}, {_time(end)}")]
    rows.extend(_checklist(asked, setting))
    return Section("Leaving", ("What", "Said"), rows, [] if asked is None else [asked.reference])


def _checklist(asked: Asked | None, setting: Setting) -> list[tuple[str, str]]:
    if asked is None:
        return []
    answers: Mapping[str, Any] = asked.answers
    total = aldrete_of(dict(answers), setting.discharge.aldrete)
    rows = [("Modified Aldrete", "not known" if total is None else str(total))]
    for one in setting.discharge.answers.values():
        said = answers.get(one.link)
        rows.append((one.title, {True: "yes", False: "no", None: "not answered"}.get(said, str(said))))
    return rows


def _words(concept: Mapping[str, Any]) -> str:
    said = [coding.get("display") or coding.get("code", "") for coding in concept.get("coding", [])]
    return str(concept.get("text") or next(iter(said), ""))


def _quantity(quantity: Mapping[str, Any] | None) -> str:
    return "" if quantity is None else f"{quantity.get('value', '')} {quantity.get('unit', quantity.get('code', ''))}"


def _start(resource: Resource) -> datetime:
    return effective_start(resource) or MAX_INSTANT


def _time(value: str | None) -> str:
    return "not said" if value is None else zulu(interval(value)[0])


def _minute(when: datetime | None, first: datetime | None) -> str:
    return "" if when is None or first is None else f"{minutes_from(first, when):+d}"
