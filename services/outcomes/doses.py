"""The doses of ketamine and esketamine that outcomes knows of: the drug, a visit's first dose, the courses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

from services.outcomes.rules.change import Series
from services.outcomes.setting import Setting
from shared.fhir.codes import VISIT_DOSING
from shared.fhir.dates import interval, period_interval
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, drug_of, effective_start, id_in, is_course
from shared.runtime.medications import is_named, substances_of
from shared.runtime.record import Record

GIVEN: Final = frozenset(("in-progress", "on-hold", "completed", "stopped", "unknown"))
"""Status of what was given, or may have been."""


async def drug_given(given: Resource, record: Record, setting: Setting) -> Drug | None:
    """Return which of the two drugs a MedicationAdministration gave; None: another, or none.

    What its medication is, is read where it says so, inside, or in the Medication it refers to. One that nobody can
    name is taken for ketamine, as at the bedside.
    """
    if given.get("status") not in GIVEN:
        return None
    substances = await substances_of(record, given)
    drug = drug_of(substances, setting.drugs)
    return "ketamine" if drug is None and not is_named(substances, setting.drugs) else drug


async def first_dose(visit: str, record: Record, setting: Setting) -> datetime | None:
    """Return when the first dose of a visit was begun; None: none is known of."""
    held = await record.search("MedicationAdministration", {"context": f"Encounter/{visit}"})
    starts = [
        start for one in held if (start := effective_start(one)) and await drug_given(one, record, setting) is not None
    ]
    return min(starts, default=None)


async def courses_of(patient: str, record: Record, setting: Setting) -> list[Series]:
    """Return the patient's courses of treatment: of each, when its first dose was given and its last visit ended.

    A dosing visit in which no dose is known to have been given (held at the gate, not begun) is no part of any. One
    that names no course is of the one that ran then: the only one whose period holds it, else that dosed last before.
    """
    named: dict[str, list[tuple[datetime, datetime]]] = {}
    loose: list[tuple[datetime, datetime]] = []
    dosing = {"subject": f"Patient/{patient}", "type": VISIT_DOSING.token(), "status": "in-progress,onleave,finished"}
    for visit in await record.search("Encounter", dosing):
        period = visit.get("period", {})
        start = await first_dose(str(visit["id"]), record, setting)
        if start is None:
            continue
        end = interval(period["end"])[0] if "end" in period else start
        course = next((found for one in visit.get("episodeOfCare", []) if (found := id_in(one, "EpisodeOfCare"))), None)
        if course is None:
            loose.append((start, end))
        else:
            named.setdefault(course, []).append((start, end))
    held = await record.search("EpisodeOfCare", {"patient": f"Patient/{patient}"}) if loose else []
    for span in sorted(loose):
        before = [
            (max(start for start, _ in spans if start <= span[0]), course)
            for course, spans in named.items()
            if any(start <= span[0] for start, _ in spans)
        ]
        course = _running(held, span[0]) or (max(before)[1] if before else "")
        named.setdefault(course, []).append(span)
    return [Series(min(start for start, _ in one), max(end for _, end in one)) for one in named.values()]


def _running(courses: Sequence[Resource], when: datetime) -> str | None:
    """Return the only course whose period a moment is in; None: there is none, or more than one."""
    found = []
    for one in courses:
        period = period_interval(one.get("period", {}))
        is_void = one["status"] in ("cancelled", "entered-in-error")
        if is_course(one) and not is_void and (period is None or period[0] <= when < period[1]):
            found.append(str(one["id"]))
    return found[0] if len(found) == 1 else None
