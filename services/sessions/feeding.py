"""A device's feed at work: whose clock is wrong, and one that sees nothing any more.

Samples of a device whose clock is wrong are news as they come, and kept with the time at which they came: by how much
its clock was off is said in each Observation (`device-clock`), and once in a DetectedIssue, with a Task to set it.
"""

from __future__ import annotations

import math
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from services.sessions.calling import Finding, call, have_reviewed
from services.sessions.charted import charted_between
from services.sessions.rules.alarms import is_late
from services.sessions.rules.feeds import MINUTE, continues, minute_of, sees_nothing
from services.sessions.rules.readings import taken_at
from services.sessions.rules.visits import OVER
from services.sessions.setting import Setting
from services.sessions.what_was_given import doses_of
from shared.fhir.codes import DEVICE_CLOCK, EXT_DEVICE_CLOCK, ID_FEED, ID_FINDING, ID_TASK, LOINC, VITALS_MISSED
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, id_in, patient_of
from shared.fhir.raised import identifier
from shared.runtime.raising import close_task, content_of, find, is_own_work, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change

_SECOND: Final = timedelta(seconds=1)
_SILENT: Final = "silent"
_AGAIN: Final = {"text": "It measures again."}
_OPEN: Final = "requested,received,accepted,in-progress,on-hold,ready,draft"


def feed_name(visit: str, code: str, period: Decimal, device: str | None, minute: datetime, ahead: int) -> Resource:
    """Return what names the Observation of a signal's minute; `ahead`: seconds by which the device's clock is off."""
    by = () if device is None else (device,)
    off = (str(ahead),) if ahead else ()
    return identifier(ID_FEED, visit, code, f"{period:f}", *by, *off, zulu(minute))


def clock_extension(ahead: int) -> Resource:
    """Return the extension that says by how many seconds a device's clock is ahead."""
    return {"url": EXT_DEVICE_CLOCK, "valueInteger": ahead}


async def seconds_ahead(
    record: Record, visit: Resource, code: str, period: Decimal, device: str | None, end: datetime, setting: Setting
) -> int:
    """Return by how many seconds a device's clock is ahead where samples come that it says ended at `end`.

    0: its clock is right, or the samples were kept back for a while; then they come late.
    """
    now = setting.clock()
    if not _is_off(end, now, setting):
        return 0
    name = ("clock", str(visit["id"]), device or "device")
    held = await find(record, "DetectedIssue", identifier(ID_FINDING, *name))
    known = next((one["valueInteger"] for one in _extensions(held) if one.get("url") == EXT_DEVICE_CLOCK), 0)
    if known and not _is_off(end - known * _SECOND, now, setting):
        return int(known)
    if end > now or await _as_measured(record, visit, code, period, device, end, known, setting):
        ahead = math.ceil((end - now).total_seconds())
        await _ask(record, name, visit, device, ahead, setting)
        return ahead
    return int(known) if known and end - known * _SECOND <= now else 0


def _is_off(end: datetime, now: datetime, setting: Setting) -> bool:
    late, ahead = timedelta(minutes=setting.alarms.late.minutes), timedelta(minutes=setting.gate.ahead.minutes)
    return not now - late <= end <= now + ahead


def _extensions(resource: Resource | None) -> list[Resource]:
    found: list[Resource] = (resource or {}).get("extension", [])
    return found


async def _as_measured(
    record: Record,
    visit: Resource,
    code: str,
    period: Decimal,
    device: str | None,
    end: datetime,
    known: int,
    setting: Setting,
) -> bool:
    """Tell whether samples follow on what came before them as they were measured."""
    for ahead in {0, known}:
        corrected = end - ahead * _SECOND
        for minute in (minute_of(corrected), minute_of(corrected) - MINUTE):
            held = await find(record, "Observation", feed_name(str(visit["id"]), code, period, device, minute, ahead))
            if held is None or "issued" not in held:
                continue
            places = len(str(held["valueSampledData"]["data"]).split())
            ended = minute + (places - 1) * timedelta(milliseconds=float(period))
            arrived = interval(held["issued"])[0]
            if continues(ended, arrived, corrected, setting.clock(), setting.monitoring.clock):
                return True
    return False


async def _ask(
    record: Record, name: tuple[str, ...], visit: Resource, device: str | None, ahead: int, setting: Setting
) -> None:
    """Have a person set a device's clock, once in a visit; and keep by how much it is off."""
    said = f"{abs(ahead)} seconds {'ahead' if ahead > 0 else 'behind'}"
    text = (
        f"The clock of {device or 'a device that does not say its name'} is {said}. Its samples are kept with the time "
        "at which they came, and alarm as they come. Set its clock."
    )
    about = (f"Encounter/{visit['id']}",)
    finding = Finding(name, str(patient_of(visit)), DEVICE_CLOCK, text, about, visit=str(visit["id"]))
    await have_reviewed(record, finding, setting)
    held = await find(record, "DetectedIssue", identifier(ID_FINDING, *name))
    if held is not None:
        others = [one for one in _extensions(held) if one.get("url") != EXT_DEVICE_CLOCK]
        with own_work():
            await record.update(content_of({**held, "extension": [*others, clock_extension(ahead)]}))


async def is_first(record: Record, feed: Resource, visit: str) -> bool:
    """Tell whether a minute is of the first that a device sent in a visit which goes on.

    Of that nobody can say yet whether its clock is behind or it was kept back.
    """
    codes = codes_of(feed.get("code"), LOINC)
    held = await record.get("Encounter", visit)
    if "issued" not in feed or not codes or held is None or held["status"] in OVER:
        return False
    sent = await record.search("Observation", {"encounter": f"Encounter/{visit}", "combo-code": ",".join(codes)})
    return not any(
        "valueSampledData" in one
        and one.get("device") == feed.get("device")
        and one.get("issued", feed["issued"]) != feed["issued"]
        for one in sent
    )


async def guard_silence(change: Change, record: Record, setting: Setting) -> None:
    """Call for a feed that has seen nothing for minutes while a patient is watched after a dose."""
    after, before = change.after, change.before
    if after is None or is_own_work() or "valueSampledData" not in after:
        return
    if before is not None and not sees_nothing(_data(before)):
        return  # it saw something in this minute already
    visit, when, codes = id_in(after.get("encounter"), "Encounter"), taken_at(after)[0], codes_of(after["code"], LOINC)
    if visit is None or when is None or not codes or is_late(after, setting.clock(), setting.alarms):
        return
    name = (_SILENT, visit, codes[0])
    if not sees_nothing(_data(after)):
        await _measures_again(record, name, setting)
        return
    wait = timedelta(minutes=setting.monitoring.silent.minutes)
    fed = [
        one
        for one in await charted_between(record, visit, codes[:1], when - wait, when)
        if "valueSampledData" in one and one["id"] != change.id
    ]
    begun = [one for one in fed if (said := taken_at(one)[0]) is not None and said <= when - wait + MINUTE]
    held = await record.get("Encounter", visit)
    if not begun or not all(sees_nothing(_data(one)) for one in fed) or held is None or held["status"] in OVER:
        return
    if not await doses_of(record, visit, setting):
        return
    text = (
        f"For {setting.monitoring.silent.minutes} minutes a monitor says that it measures nothing ({codes[0]}): has a "
        "sensor come off? See to the patient, and measure by hand."
    )
    finding = Finding(name, str(patient_of(held)), VITALS_MISSED, text, (f"Observation/{change.id}",), visit=visit)
    task = await find(record, "Task", identifier(ID_TASK, *name))
    again = task is not None and (task["status"] == "cancelled" or task.get("businessStatus") == _AGAIN)
    await call(record, finding, setting, flagged=False, again=again)


async def _measures_again(record: Record, name: tuple[str, ...], setting: Setting) -> None:
    """End the call for a feed that saw nothing; of one that a person has ended, say that the next is another."""
    await close_task(record, identifier(ID_TASK, *name), setting.clock(), status="cancelled", why=_AGAIN["text"])
    task = await find(record, "Task", identifier(ID_TASK, *name))
    if task is not None and task["status"] != "cancelled" and task.get("businessStatus") != _AGAIN:
        with own_work():
            await record.update(content_of({**task, "businessStatus": _AGAIN, "lastModified": zulu(setting.clock())}))


async def end_silence(record: Record, visit: str, setting: Setting) -> None:
    """End the calls for feeds that see nothing, in a visit that is over."""
    asked = {"encounter": f"Encounter/{visit}", "code": VITALS_MISSED.token(), "status": _OPEN}
    for one in await record.search("Task", asked):
        for name in one.get("identifier", []):
            if name.get("system") == ID_TASK and name["value"].startswith(f"{_SILENT}:"):
                why = "The visit is over."
                await close_task(record, name, setting.clock(), status="cancelled", why=why)


def _data(observation: Resource) -> str:
    return str(observation.get("valueSampledData", {}).get("data", ""))
