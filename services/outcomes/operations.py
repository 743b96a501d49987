"""Outcomes' operations: evaluating the clinic's measures, as a report or as a table, and the codes of a superbill."""

from __future__ import annotations

import base64
import csv
import io
from collections.abc import Sequence
from typing import Any, Final

from services.outcomes.measuring import Asked, cases_of, conditions_of, visits_of
from services.outcomes.rules.measures import Measured, measure_url, report, rows
from services.outcomes.setting import Setting
from shared.fhir.codes import ICD10CM
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, id_in, patient_of, visit_of
from shared.fhir.outcome import BadRequest, Forbidden, NotFound
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

EVALUATE: Final = "http://hl7.org/fhir/OperationDefinition/Measure-evaluate-measure"
_KINDS: Final = {"population": "summary", "summary": "summary", "subject-list": "subject-list", "subject": "individual"}


def operations(setting: Setting) -> tuple[Operation, ...]:
    """Return outcomes' operations, under a policy."""

    async def evaluate(call: OperationCall, record: Record) -> Resource:
        name, measure = await _measure(call, record, setting)
        kind = _text(call, "reportType") or "summary"
        if kind not in _KINDS:
            raise BadRequest(f"reportType is one of {', '.join(_KINDS)}.", expression=["reportType"])
        asked = _asked(call)
        if (kind == "subject") != (asked.patient is not None):
            raise BadRequest("A report of a subject needs `subject`, and no other takes it.", expression=["subject"])
        if kind not in ("population", "summary"):
            _require_tracing(record)
        cases = await cases_of(measure, asked, record, setting)
        return report(
            name,
            measure,
            cases,
            (asked.start, asked.end),
            setting.measures.small_cells.below,
            now=setting.clock(),
            kind=_KINDS[kind],  # type: ignore[arg-type]
        )

    async def table(call: OperationCall, record: Record) -> Resource:
        asked, below = _asked(call), setting.measures.small_cells.below
        lines = [["measure", "by", "stratum", "numerator", "denominator", "share"]]
        for name, measure in setting.measures.measures.items():
            lines.extend(rows(name, measure, await cases_of(measure, asked, record, setting), below))
        return _csv(lines)

    async def superbill(call: OperationCall, record: Record) -> Resource:
        _require_tracing(record)
        lines = [["encounter", "patient", "date", "visit", "system", "code", "display", "diagnoses"]]
        for visit in await visits_of(_asked(call), record):
            lines.extend(await _billed(visit, record, setting))
        return _csv(lines)

    asked_for = "periodStart and periodEnd (dates), from and up to and including."
    return (
        Operation(
            "evaluate-measure",
            "Measure",
            "instance",
            evaluate,
            affects_state=False,
            definition=EVALUATE,
            documentation=f"{asked_for} reportType summary (small numbers are not shown), subject-list or subject.",
        ),
        Operation(
            "evaluate-measure",
            "Measure",
            "type",
            evaluate,
            affects_state=False,
            definition=EVALUATE,
            documentation=f"As on an instance; `measure` is its canonical. {asked_for}",
        ),
        Operation(
            "csv",
            "Measure",
            "type",
            table,
            affects_state=False,
            documentation=f"Every measure of the clinic as a Binary of text/csv; small numbers are empty. {asked_for}",
        ),
        Operation(
            "superbill",
            "MeasureReport",
            "type",
            superbill,
            affects_state=False,
            documentation=f"The visits of a period with the codes that the clinic entered, as text/csv. {asked_for}",
        ),
    )


async def _measure(call: OperationCall, record: Record, setting: Setting) -> tuple[str, Measured]:
    """Return the measure that is asked for: by its canonical, or by that of the Measure it is called on."""
    url = _text(call, "measure")
    if call.id is not None:
        held = await record.get("Measure", call.id)
        if held is None:
            raise NotFound(f"There is no Measure/{call.id} here.")
        url = held.get("url")
    for name, one in setting.measures.measures.items():
        if (url or "").partition("|")[0] == measure_url(name):
            return name, one
    known = ", ".join(measure_url(name) for name in setting.measures.measures)
    raise NotFound(f"'{url}' is no measure that can be evaluated here. There are: {known}.")


def _require_tracing(record: Record) -> None:
    """Refuse to name patients to a caller who does not see all of them: a list shows who is in it."""
    if record.access.patients is not None:
        raise Forbidden("Reports that name patients are for those who may see all of them.")


def _text(call: OperationCall, name: str) -> str | None:
    for one in call.parameters.get("parameter", []):
        if one.get("name") == name:
            return next((str(value) for key, value in one.items() if key.startswith("value")), None)
    return None


def _asked(call: OperationCall) -> Asked:
    limits = []
    for name, side in (("periodStart", 0), ("periodEnd", 1)):
        value = _text(call, name)
        if value is None:
            raise BadRequest(f"Give {name}, a date such as 2026-01-01.", code="required", expression=[name])
        try:
            limits.append(interval(value)[side])
        except ValueError as error:
            raise BadRequest(f"{name}: {error}.", expression=[name]) from None
    if limits[0] >= limits[1]:
        raise BadRequest("periodEnd is before periodStart.", expression=["periodEnd"])
    subject = _text(call, "subject")
    return Asked(limits[0], limits[1], None if subject is None else _patient_in(subject))


def _patient_in(subject: str) -> str:
    found = id_in({"reference": subject}, "Patient")
    if found is None:
        raise BadRequest("subject is a reference such as Patient/123.", expression=["subject"])
    return found


async def _billed(visit: Resource, record: Record, setting: Setting) -> list[list[str]]:
    """Return a line per code that the clinic entered for the kind of visit; one without code where there is none."""
    patient, kind = str(patient_of(visit)), str(visit_of(visit))
    held = await conditions_of(patient, record)
    diagnoses = " ".join(sorted({code for one in held for code in codes_of(one.get("code"), ICD10CM)}))
    about = [f"Encounter/{visit['id']}", f"Patient/{patient}", str(visit.get("period", {}).get("start", "")), kind]
    codes: Sequence[tuple[str, str, str]] = [
        (one.system, one.code, one.display) for one in setting.measures.superbill.get(kind, ())
    ]
    return [[*about, *code, diagnoses] for code in codes or [("", "", "")]]


def _csv(lines: Sequence[Sequence[str]]) -> Resource:
    """Return a table as a Binary; a cell that a spreadsheet would take for a formula is made text."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows([_plain(cell) for cell in line] for line in lines)
    made: dict[str, Any] = {"resourceType": "Binary", "contentType": "text/csv; charset=utf-8"}
    return {**made, "data": base64.b64encode(text.getvalue().encode()).decode()}


def _plain(cell: str) -> str:
    return f"'{cell}" if cell.startswith(("=", "+", "-", "@", "\t", "\r")) else cell
