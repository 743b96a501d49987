"""What a reading of a visit says of itself: its minutes from the first dose, and that it was charted late."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from services.sessions.calling import Finding, have_reviewed
from services.sessions.rules.monitoring import is_watched, minutes_from
from services.sessions.rules.readings import taken_at
from services.sessions.setting import Setting
from services.sessions.what_was_given import doses_of
from shared.fhir.codes import EXT_CHARTED_LATE, EXT_MINUTES, ID_FINDING, ID_TASK, LATE_READING, VISIT_DOSING
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import has_code, id_in, patient_of, reference
from shared.fhir.raised import identifier
from shared.runtime.raising import OPEN_TASK, content_of, find, is_own_work, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change

_MINUTE: Final = timedelta(minutes=1)
_NAMED: Final = 20
"""So many readings that were charted late a review names at most: a visit that is charted afterwards has hundreds."""


async def with_stamps(change: Change, record: Record, setting: Setting) -> Resource | None:
    """Return a reading of a visit with its minutes from the first dose, and how late it was charted; None: as it is."""
    after = change.after
    visit = None if after is None else id_in(after.get("encounter"), "Encounter")
    if after is None or visit is None or is_own_work() or not is_watched(after, setting.monitoring):
        return None
    before = change.before
    if before is not None and _has_only_grown(before, after):  # whoever moves the first dose brings it to all readings
        return _with(after, EXT_MINUTES, _said(before, EXT_MINUTES))
    minutes = _minutes(after, await _first_dose(record, visit, setting))
    late = _with(after, EXT_CHARTED_LATE, _minutes_late(change, setting))
    return _with(late or after, EXT_MINUTES, minutes) or late


async def with_patient(change: Change, record: Record) -> Resource | None:
    """Return a reading that names its visit alone with the visit's patient; None: as it is.

    So it is in his record, and judged with that locked. A later version of it that names none is of the same patient.
    """
    after, before = change.after, change.before
    visit = None if after is None else id_in(after.get("encounter"), "Encounter")
    if after is None or visit is None or "subject" in after:
        return None
    patient = patient_of((await record.get("Encounter", visit) or {}) if before is None else before)
    if patient is None:
        return None
    await record.lock(f"Patient/{patient}")
    return {**after, "subject": reference("Patient", patient)}


async def restamp(record: Record, visit: str, first: datetime | None, setting: Setting) -> None:
    """Bring the readings of a visit to the time of its first dose, which is about to be written; None: none stands."""
    for one in await record.search("Observation", {"encounter": f"Encounter/{visit}"}):
        stored = await record.stored("Observation", one["id"])
        stamped = _with(one, EXT_MINUTES, _minutes(one, first)) if is_watched(one, setting.monitoring) else None
        if stamped is not None and stored is not None and stored.origin == record.service.name:
            with own_work():
                await record.update(content_of(stamped))


def _minutes(reading: Resource, first: datetime | None) -> int | None:
    when, timed = taken_at(reading)
    return None if first is None or when is None or not timed else minutes_from(first, when)


def _minutes_late(change: Change, setting: Setting) -> int | None:
    """Return after how many minutes a reading was charted, None where that was in time, or it is of a device's feed.

    It was charted when it says so (`issued`), else when it came here first: what is corrected later is not later by it.
    """
    before, after = change.before, change.after or {}
    when, timed = taken_at(after)
    if when is None or not timed or "valueSampledData" in after:
        return None
    charted = setting.clock()
    was = None if before is None else taken_at(before)[0]
    if before is not None and was is not None:
        charted = was + (_said(before, EXT_CHARTED_LATE) or 0) * _MINUTE
    elif "issued" in after and interval(after["issued"])[0] >= when:
        charted = min(interval(after["issued"])[0], charted)
    late = minutes_from(when, charted)
    return late if late > setting.alarms.late.minutes else None


def _with(reading: Resource, url: str, value: int | None) -> Resource | None:
    """Return a reading whose extension has a value, without it for None; None where it is so already."""
    if value == _said(reading, url):
        return None
    others = [one for one in reading.get("extension", []) if one.get("url") != url]
    extension = [*others, *([] if value is None else [{"url": url, "valueInteger": value}])]
    rest = {key: one for key, one in reading.items() if key != "extension"}
    return {**rest, "extension": extension} if extension else rest


def _said(reading: Resource, url: str) -> int | None:
    found: Iterable[int] = (one["valueInteger"] for one in reading.get("extension", []) if one.get("url") == url)
    return next(iter(found), None)


def _has_only_grown(before: Resource, after: Resource) -> bool:
    """Tell whether a minute of a device's feed that was stamped has only grown."""
    same = ("encounter", "effectiveDateTime", "effectivePeriod")
    sampled = "valueSampledData" in before and "valueSampledData" in after
    stamped = _said(before, EXT_MINUTES) is not None
    return sampled and stamped and all(before.get(name) == after.get(name) for name in same)


async def _first_dose(record: Record, visit: str, setting: Setting) -> datetime | None:
    starts = (one.start for one in await doses_of(record, visit, setting))
    return min((one for one in starts if one is not None), default=None)


async def review_late(change: Change, record: Record, patient: str, setting: Setting) -> None:
    """Have a person look at a reading that was charted late: of one visit, together with the others that were."""
    after = change.after or {}
    visit = id_in(after.get("encounter"), "Encounter")
    if visit is None or _said(after, EXT_CHARTED_LATE) is None or _said(change.before or {}, EXT_CHARTED_LATE):
        return
    if not has_code((await record.get("Encounter", visit) or {}).get("type"), VISIT_DOSING):
        return  # nobody is watched in it
    about, name = f"Observation/{change.id}", ("late", visit)
    task = await find(record, "Task", identifier(ID_TASK, *name))
    issue = await find(record, "DetectedIssue", identifier(ID_FINDING, *name))
    if task is not None and issue is not None and task["status"] in OPEN_TASK:
        if len(issue["implicated"]) < _NAMED:
            with own_work():
                await record.update(content_of({**issue, "implicated": [*issue["implicated"], {"reference": about}]}))
        return
    text = (
        f"Charted more than {setting.alarms.late.minutes} minutes after it was taken: nobody was called by it. Look at "
        "it, and at what else of this visit was charted late (DetectedIssue.implicated has the first)."
    )
    finding = Finding(name, patient, LATE_READING, text, (about,), visit=visit)
    await have_reviewed(record, finding, setting, again=True)
