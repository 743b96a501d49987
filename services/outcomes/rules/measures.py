"""The clinic's measures: of whom or what, how many; by route, condition or instrument; small numbers are not shown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any, Final, Literal, TypeAlias

import msgspec

from shared.fhir.cited import Cited, ValueSet
from shared.fhir.codes import BASE, KAP, Code
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.raised import identifier, policy_extension

Kind: TypeAlias = Literal["response", "remission", "durability", "adverse-events", "rems", "completion"]
POPULATION: Final = "http://terminology.hl7.org/CodeSystem/measure-population"
MASKED: Final = {
    "url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason",
    "valueCode": "masked",
}
ID_MEASURE: Final = f"{BASE}/identifier/measure"
SCORING: Final = "http://terminology.hl7.org/CodeSystem/measure-scoring"
NOTATION: Final = "http://terminology.hl7.org/CodeSystem/measure-improvement-notation"
_COURSES: Final = (
    "Patients with a dosing visit in the period, a score since their first dose, and a baseline before it."
)
_COUNTED: Final[dict[Kind, tuple[str, str]]] = {
    "response": (_COURSES, "Those whose last score of the period is a response."),
    "remission": (_COURSES, "Those whose last score of the period is a remission."),
    "durability": ("Those who responded at the end of the series and have a later score.", "Those who still respond."),
    "adverse-events": ("Finished visits of the period in which a dose was given.", "Those with an adverse event."),
    "rems": (
        "Finished outpatient visits of the period with esketamine, whose form was sent or is due.",
        "Those whose form was sent in time.",
    ),
    "completion": ("Questionnaires that were due in the period and were answered or late.", "Those answered."),
}
_PLACES: Final = Decimal("0.001")


class SmallCells(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number that 1 or more patients, but fewer than `below`, stand behind is not shown."""

    below: int


class Measured(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A measure: its kind, the instrument it looks at, and what it is broken down by."""

    title: str
    kind: Kind
    instrument: str | None = None
    days: int = 0
    by: tuple[Literal["route", "condition", "instrument"], ...] = ()

    @property
    def code(self) -> Code:
        """Its kind as a code."""
        return Code(KAP, f"measure-{self.kind}", self.title)


class BillingCode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A code of a superbill, as the clinic entered it."""

    system: str
    code: str
    display: str = ""


class MeasuresPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `measures`."""

    small_cells: SmallCells
    measures: dict[str, Measured]
    conditions: dict[str, ValueSet]
    superbill: dict[str, tuple[BillingCode, ...]] = msgspec.field(default_factory=dict)


class Classes(msgspec.Struct, frozen=True):
    """Of the section `gate`, what its part on the REMS says: classes of an Encounter in which there is no form."""

    inpatient: tuple[str, ...]


class OfTheGate(msgspec.Struct, frozen=True):
    """The section `gate`, as far as measures look at it."""

    rems: Classes


@dataclass(frozen=True, slots=True)
class Case:
    """One of what is counted: a patient's course, a visit, or a questionnaire that was due.

    Attributes:
        patient: logical id.
        counts: whether it is in the numerator.
        evidence: references of what says so.
        strata: by what it is broken down by, the values it has.

    """

    patient: str
    counts: bool
    evidence: tuple[str, ...] = ()
    strata: dict[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Cell:
    """How many of how many; None where they are not shown."""

    name: str
    numerator: int | None
    denominator: int | None

    @property
    def share(self) -> Decimal | None:
        """The share, to three decimals."""
        if self.numerator is None or not self.denominator:
            return None
        return (Decimal(self.numerator) / self.denominator).quantize(_PLACES, rounding=ROUND_HALF_UP)


def measure_url(name: str) -> str:
    """Return the canonical of a measure."""
    return f"{BASE}/Measure/{name}"


def definition(name: str, measure: Measured, version: str) -> Resource:
    """Return the Measure: what is counted of what, in words; how is in the policy of this version."""

    def said(code: str, text: str) -> dict[str, Any]:
        criteria = {"language": "text/plain", "expression": text}
        return {"code": Code(POPULATION, code).concept(), "criteria": criteria}

    whole, part = _COUNTED[measure.kind]
    group: dict[str, Any] = {
        "code": measure.code.concept(),
        "population": [said("denominator", whole), said("numerator", part)],
    }
    if measure.by:
        group["stratifier"] = [
            {
                "code": Code(KAP, f"by-{by}").concept(),
                "criteria": {"language": "text/plain", "expression": f"By {by}."},
            }
            for by in measure.by
        ]
    return {
        "resourceType": "Measure",
        "extension": [policy_extension(version)],
        "identifier": [identifier(ID_MEASURE, name)],
        "url": measure_url(name),
        "name": "".join(part.capitalize() for part in name.split("-")),
        "title": measure.title,
        "status": "active",
        "publisher": "KAP Exchange",
        "description": f"{measure.title}. Source: {measure.source}.",
        "scoring": Code(SCORING, "proportion").concept(),
        "improvementNotation": Code(NOTATION, "decrease" if measure.kind == "adverse-events" else "increase").concept(),
        "group": [group],
    }


def cell_of(name: str, cases: Sequence[Case], below: int) -> Cell:
    """Count; what few patients stand behind, on either side, is not shown: with the one the other would be known."""
    numerator, denominator = sum(case.counts for case in cases), len(cases)
    sides = ([case for case in cases if case.counts], [case for case in cases if not case.counts], cases)
    small = any(0 < len({case.patient for case in side}) < below for side in sides)
    return Cell(name, None, None) if small else Cell(name, numerator, denominator)


def broken_down(cases: Sequence[Case], by: str, below: int) -> list[Cell]:
    """Count each stratum. Where only one is not shown, a second is not, lest it be the rest of the whole."""
    names = sorted({value for case in cases for value in case.strata.get(by, ())})
    cells = [cell_of(name, [case for case in cases if name in case.strata.get(by, ())], below) for name in names]
    hidden = [cell for cell in cells if cell.denominator is None]
    shown = sorted((cell for cell in cells if cell.denominator), key=lambda cell: cell.denominator or 0)
    if len(hidden) == 1 and shown:
        return [Cell(cell.name, None, None) if cell is shown[0] else cell for cell in cells]
    return cells


def report(
    name: str,
    measure: Measured,
    cases: Sequence[Case],
    period: tuple[datetime, datetime],
    below: int,
    *,
    now: datetime,
    kind: Literal["summary", "subject-list", "individual"] = "summary",
) -> Resource:
    """Return the MeasureReport. Lists of patients, and one patient's report, hide nothing: they are for those who may.

    Args:
        name: of the measure.
        measure: as in the policy.
        cases: of the period; for an individual report, one patient's.
        period: from, to.
        below: as `SmallCells`; not used where patients are named.
        now: the present.
        kind: FHIR's `type`.

    """
    shown = below if kind == "summary" else 0
    group: dict[str, Any] = {"code": measure.code.concept(), **_populations(cell_of("", cases, shown))}
    stratifiers = [
        {
            "code": [Code(KAP, f"by-{by}").concept()],
            "stratum": [{"value": {"text": cell.name}, **_populations(cell)} for cell in cells],
        }
        for by in measure.by
        if (cells := broken_down(cases, by, shown))
    ]
    made: dict[str, Any] = {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": kind,
        "measure": measure_url(name),
        "date": zulu(now),
        "period": {"start": zulu(period[0]), "end": zulu(period[1])},
        "improvementNotation": None,
    }
    if stratifiers:
        group["stratifier"] = stratifiers
    if kind == "individual" and cases:
        made["subject"] = {"reference": f"Patient/{cases[0].patient}"}
    if kind != "summary":
        evidence = dict.fromkeys(one for case in cases for one in case.evidence)
        made["evaluatedResource"] = [{"reference": one} for one in evidence]
    if kind == "subject-list":
        made["contained"] = [_list("numerator", [case for case in cases if case.counts]), _list("denominator", cases)]
        for population in group["population"]:
            population["subjectResults"] = {"reference": f"#{population['code']['coding'][0]['code']}"}
    return {key: value for key, value in {**made, "group": [group]}.items() if value}


def _populations(cell: Cell) -> dict[str, Any]:
    counts = (("denominator", cell.denominator), ("numerator", cell.numerator))
    populations = [{"code": Code(POPULATION, code).concept(), **_count(count)} for code, count in counts]
    score = {} if cell.share is None else {"measureScore": {"value": cell.share}}
    return {"population": populations, **score}


def _count(count: int | None) -> dict[str, Any]:
    return {"_count": {"extension": [MASKED]}} if count is None else {"count": count}


def _list(id_: str, cases: Iterable[Case]) -> Resource:
    entries = [{"item": {"reference": f"Patient/{patient}"}} for patient in sorted({case.patient for case in cases})]
    made: Resource = {"resourceType": "List", "id": id_, "status": "current", "mode": "snapshot"}
    return {**made, "entry": entries} if entries else made


def rows(name: str, measure: Measured, cases: Sequence[Case], below: int) -> list[list[str]]:
    """Return rows of measure, by, stratum, numerator, denominator, share; what is not shown is empty."""
    cells = [
        ("", cell_of("", cases, below)),
        *((by, cell) for by in measure.by for cell in broken_down(cases, by, below)),
    ]
    return [
        [
            name,
            by,
            cell.name,
            *("" if one is None else str(one) for one in (cell.numerator, cell.denominator, cell.share)),
        ]
        for by, cell in cells
    ]
