"""What scheduling tells people: Communications to the patient and the staff of a visit, sent by `shared/notify`.

A text leaves the record, so it names no drug, no diagnosis and, to the staff, no patient.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final, Literal, NamedTuple
from zoneinfo import ZoneInfo

from services.scheduling.booking import one_name
from services.scheduling.ground import patient_in, start_of
from services.scheduling.rules.booking import REASONS_SYSTEM, booked_actors
from services.scheduling.setting import Setting
from shared.fhir.codes import BOOKING_CHANGED, INSTRUCTION, TELL_IN_PERSON, TIME_OFFERED
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, has_code, has_died, id_in
from shared.fhir.raised import task
from shared.notify.telling import Letter, tell, tell_no_more_about
from shared.runtime.raising import raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change
from shared.store.notices import Channel

OFF: Final = ("cancelled", "entered-in-error")
"""Statuses of a visit that will not be."""

BY_PATIENT: Final = frozenset(("pat", "pat-crs", "pat-cpp"))
"""The codes of `REASONS_SYSTEM` that say that the patient cancelled it himself."""

STAFF_CHANNELS: Final[tuple[Channel, ...]] = ("email", "sms")


def when_text(start: datetime, zone: ZoneInfo) -> dict[str, str]:
    """Return date, time and zone of a visit as its people read them."""
    local = start.astimezone(zone)
    return {
        "date": f"{local:%A}, {local.day} {local:%B %Y}",
        "time": f"{local:%H:%M}",
        "zone": local.tzname() or str(zone),
    }


async def tell_patient(record: Record, name: Sequence[str], letter: Letter, *, patient: str, setting: Setting) -> None:
    """Tell a patient, where he is known here and has not died; without an address the Communication says so."""
    to = await record.get("Patient", patient)
    if to is not None and not has_died(to):
        await tell(record, name, letter, to=to, now=setting.clock(), patient=patient)


async def tell_staff(
    record: Record, name: Sequence[str], letter: Letter, staff: Iterable[str], *, patient: str, setting: Setting
) -> None:
    """Tell each of the staff (``Practitioner/<id>``) who is known here."""
    for one in staff:
        id_ = one.partition("/")[2]
        to = await record.get("Practitioner", id_)
        if to is not None:
            await tell(record, (*name, id_), letter, to=to, now=setting.clock(), patient=patient)


async def staff_of(record: Record, appointment: Resource) -> list[str]:
    """Return the Practitioners of a visit who have not declined, those named by a role or a number, too."""
    names = [await one_name(record, one) for one in booked_actors(appointment)]
    return [one for one in dict.fromkeys(names) if one.startswith("Practitioner/")]


async def call_who_is_not_told(change: Change, record: Record, setting: Setting) -> None:
    """Guard of Communication: where a patient could not be told of a visit that is still to come, a person tells him.

    How to prepare, and that a visit is in doubt, cannot wait.
    """
    after = change.after
    if after is None or after.get("status") != "not-done" or (change.before or {}).get("status") == "not-done":
        return
    about = next((id_ for one in after.get("about", []) if (id_ := id_in(one, "Appointment"))), None)
    patient = next((id_ for one in after.get("recipient", []) if (id_ := id_in(one, "Patient"))), None)
    visit = None if about is None else await record.get("Appointment", about)
    start = None if visit is None else start_of(visit)
    if patient is None or visit is None or start is None or start < setting.clock():
        return
    what = after.get("topic", {}).get("text", "A message")
    why = after.get("statusReason", {}).get("text", "it is not said why")
    urgent = any(has_code(after.get("topic"), one) for one in (INSTRUCTION, BOOKING_CHANGED))
    due = task(
        ("untold", change.id),
        patient=patient,
        code=TELL_IN_PERSON,
        description=f"'{what}' could not be sent to the patient ({why}). Call the patient about the visit at "
        f"{visit['start']}, and complete this Task.",
        now=setting.clock(),
        priority="urgent" if urgent else "routine",
        focus=f"Appointment/{about}",
        due=start,
    )
    await raise_once(record, due)


async def call_who_asked(appointment: Resource, record: Record, setting: Setting) -> None:
    """Have a person tell the patient that a visit that was asked for was not confirmed, and is not kept any more."""
    patient, start = patient_in(appointment), start_of(appointment)
    if patient is None or start is None or start < setting.clock():
        return
    due = task(
        ("unconfirmed", str(appointment["id"])),
        patient=patient,
        code=TELL_IN_PERSON,
        description=f"A visit at {appointment['start']} was asked for, and not confirmed in "
        f"{setting.policy.confirm.hours} hours: its time is free again. Book it or another, call the patient, and "
        "complete this Task.",
        now=setting.clock(),
        focus=f"Appointment/{appointment['id']}",
        due=start,
    )
    await raise_once(record, due)


async def tell_of_loss(appointment: Resource, patient: str, record: Record, setting: Setting) -> None:
    """Tell the people of a visit that it cannot take place as it stands."""
    start = start_of(appointment)
    if start is None or start < setting.clock():
        return
    said = when_text(start, setting.zone)
    about = (f"Appointment/{appointment['id']}",)
    at = zulu(setting.clock())
    to_staff = Letter(
        BOOKING_CHANGED,
        "A visit needs attention",
        "Something is missing for the visit on {date} at {time} ({zone}). See its Task in the record.".format(**said),
        category="alert",
        about=about,
        channels=STAFF_CHANNELS,
        urgent=True,
        expires=start,
    )
    staff = await staff_of(record, appointment)
    await tell_staff(record, ("lost", appointment["id"], at), to_staff, staff, patient=patient, setting=setting)
    to_patient = Letter(
        BOOKING_CHANGED,
        "Please call us about your visit",
        "Please call us before your visit on {date} at {time} ({zone}).".format(**said),
        about=about,
        expires=start,
    )
    await tell_patient(record, ("lost", appointment["id"], at, "patient"), to_patient, patient=patient, setting=setting)


async def tell_of_change(id_: str, before: Resource, after: Resource | None, record: Record, setting: Setting) -> None:
    """Tell the people of a booked visit that it is cancelled, at another time, or with others.

    What was told of a time that is not its time any more goes out no more. A patient who cancelled himself is not told,
    nor one to whose visit somebody only comes besides.
    """
    patient, now = patient_in(before), setting.clock()
    was, start = start_of(before), None if after is None else start_of(after)
    status = None if after is None else after.get("status")
    off = status in (None, *OFF)
    staff = await staff_of(record, before)
    there = staff if off or after is None else await staff_of(record, after)
    moved, others = not off and was != start, set(staff) != set(there)
    if patient is None or was is None or not (off or moved or others):
        return
    about = f"Appointment/{id_}"
    if off or moved:
        why = "The visit is cancelled." if off else "The visit is at another time."
        await tell_no_more_about(record, about, patient, now, why=why)
    until = was if off else start
    if before.get("status") != "booked" or until is None or until <= now or (not off and status != "booked"):
        return
    news = _News.of("off" if off else "moved" if moved else "others", was, until, setting.zone)
    name = ("changed", id_, str(before["meta"]["versionId"]))
    letter = Letter(BOOKING_CHANGED, news.subject, news.to_patient, about=(about,), expires=until)
    reasons = codes_of((after or {}).get("cancelationReason"), REASONS_SYSTEM)
    gone, come = [one for one in staff if one not in there], [one for one in there if one not in staff]
    if not (off and BY_PATIENT.intersection(reasons)) and (off or moved or gone):
        await tell_patient(record, (*name, "patient"), letter, patient=patient, setting=setting)
    stay = [one for one in staff if one in there]
    for who, text in ((stay, news.to_staff), (gone, news.taken_off), (come, news.put_on)):
        to_staff = replace(letter, text=text or "", channels=STAFF_CHANNELS)
        await tell_staff(record, name, to_staff, who if text else (), patient=patient, setting=setting)


class _News(NamedTuple):
    """What people are told of a change of a visit; None: nothing, it is as it was for them."""

    subject: str
    to_patient: str
    to_staff: str | None
    taken_off: str
    put_on: str

    @classmethod
    def of(cls, what: Literal["off", "moved", "others"], was: datetime, until: datetime, zone: ZoneInfo) -> _News:
        """Return the news of a visit that was at one time and is at another, or the same."""
        then = "on {date} at {time} ({zone})".format(**when_text(was, zone))
        now = "on {date} at {time} ({zone})".format(**when_text(until, zone))
        taken_off, put_on = f"You are not in the visit {then} any more.", f"You are in a visit {now}."
        if what == "off":
            text = f"Your visit {then} is cancelled. Please call us if you have questions."
            return cls("A visit is cancelled", text, f"The visit {then} is cancelled.", taken_off, put_on)
        if what == "moved":
            said = f"visit {then} was moved. It is now {now}."
            text = f"Your {said} Please call us if you cannot come then."
            return cls("A visit is at another time", text, f"The {said}", taken_off, put_on)
        stays_away = f"Somebody who was to see you at your visit {now} will not be there."
        text = f"{stays_away} Please call us if you have questions."
        return cls("A visit is with others", text, None, taken_off, put_on)


async def tell_of_offer(appointment: Resource, until: datetime, patient: str, record: Record, setting: Setting) -> None:
    """Tell a patient that a time is free for which he waited, and until when it is kept."""
    start = start_of(appointment)
    if start is None:
        return
    said, kept = when_text(start, setting.zone), when_text(until, setting.zone)
    letter = Letter(
        TIME_OFFERED,
        "A time for your visit is free",
        "{date} at {time} ({zone}) is free for your visit. ".format(**said)
        + "We keep it for you until {date} at {time}: please tell us.".format(**kept),
        about=(f"Appointment/{appointment['id']}",),
        expires=until,
    )
    name = ("offer", str(appointment["id"]), zulu(start))
    await tell_patient(record, name, letter, patient=patient, setting=setting)
