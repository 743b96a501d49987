"""What scheduling tells people: Communications to the patient and the staff of a visit, sent by `shared/notify`.

A text leaves the record, so it names no drug, no diagnosis and, to the staff, no patient.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from services.scheduling.ground import patient_in, start_of
from services.scheduling.rules.booking import REASONS_SYSTEM
from services.scheduling.setting import Setting
from shared.fhir.codes import BOOKING_CHANGED, INSTRUCTION, TELL_IN_PERSON, TIME_OFFERED
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import actors, codes_of, has_code, has_died, id_in
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
    record: Record, name: Sequence[str], letter: Letter, appointment: Resource, *, patient: str, setting: Setting
) -> None:
    """Tell the staff of a visit, each of those who are known here."""
    for id_ in actors(appointment, "Practitioner"):
        to = await record.get("Practitioner", id_)
        if to is not None:
            await tell(record, (*name, id_), letter, to=to, now=setting.clock(), patient=patient)


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
    await tell_staff(record, ("lost", appointment["id"], at), to_staff, appointment, patient=patient, setting=setting)
    to_patient = Letter(
        BOOKING_CHANGED,
        "Please call us about your visit",
        "Please call us before your visit on {date} at {time} ({zone}).".format(**said),
        about=about,
        expires=start,
    )
    await tell_patient(record, ("lost", appointment["id"], at, "patient"), to_patient, patient=patient, setting=setting)


async def tell_of_change(id_: str, before: Resource, after: Resource | None, record: Record, setting: Setting) -> None:
    """Tell the people of a booked visit that it is cancelled or at another time; what was told of it goes out no more.

    A patient who cancelled himself is not told so.
    """
    patient, now = patient_in(before), setting.clock()
    was, start = start_of(before), None if after is None else start_of(after)
    status = None if after is None else after.get("status")
    off = status in (None, *OFF)
    if patient is None or was is None or not (off or was != start):
        return
    about = f"Appointment/{id_}"
    why = "The visit is cancelled." if off else "The visit is at another time."
    await tell_no_more_about(record, about, patient, now, why=why)
    until = was if off else start
    if before.get("status") != "booked" or until is None or until <= now or (not off and status != "booked"):
        return
    said = when_text(was, setting.zone)
    text = "Your visit on {date} at {time} ({zone}) is cancelled. Please call us if you have questions.".format(**said)
    staff = "The visit on {date} at {time} ({zone}) is cancelled.".format(**said)
    if not off:
        new = " It is now on {date} at {time} ({zone}).".format(**when_text(until, setting.zone))
        moved = "visit on {date} at {time} ({zone}) was moved.".format(**said) + new
        text, staff = f"Your {moved} Please call us if you cannot come then.", f"The {moved}"
    name = ("changed", id_, zulu(now))
    subject = "A visit is cancelled" if off else "A visit is at another time"
    letter = Letter(BOOKING_CHANGED, subject, text, about=(about,), expires=until)
    reasons = codes_of((after or {}).get("cancelationReason"), REASONS_SYSTEM)
    if not (off and BY_PATIENT.intersection(reasons)):
        await tell_patient(record, (*name, "patient"), letter, patient=patient, setting=setting)
    to_staff = replace(letter, text=staff, channels=STAFF_CHANNELS)
    await tell_staff(record, name, to_staff, before, patient=patient, setting=setting)


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
