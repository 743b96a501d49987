"""Telling people: a Communication in the record, and a notice that goes out after the commit.

    letter = Letter(REMINDER, subject="Your appointment", text="...")
    told = await tell(record, ("reminder", appointment_id, "24h"), letter, to=patient, patient=patient["id"], now=now)

The Communication says what became of it: `preparation` (queued), `completed` with `sent` (a server took it), `not-done`
with `statusReason` (it failed: no address, refused, too late). `told_of` tells a caller such as an escalation ladder.
Telling again under the same name changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

from shared.fhir.codes import ID_COMMUNICATION, Code
from shared.fhir.dates import period_interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import reference
from shared.fhir.raised import identifier
from shared.runtime.raising import content_of, find, is_own_work, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change
from shared.store.notices import Channel, Notice, queue, withdraw

Category: TypeAlias = Literal["alert", "notification", "reminder", "instruction"]
State: TypeAlias = Literal["queued", "sent", "failed", "withdrawn"]

CATEGORY_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/communication-category"
MODE_SYSTEM: Final = "http://terminology.hl7.org/CodeSystem/v3-ParticipationMode"
MODES: Final[Mapping[Channel, Code]] = {
    "email": Code(MODE_SYSTEM, "EMAILWRIT", "email"),
    "sms": Code(MODE_SYSTEM, "WRITTEN", "written"),
    "pager": Code(MODE_SYSTEM, "ELECTRONIC", "electronic data"),
}
STATES: Final[Mapping[str, State]] = {
    "preparation": "queued",
    "in-progress": "queued",
    "on-hold": "queued",
    "completed": "sent",
    "stopped": "withdrawn",
    "entered-in-error": "withdrawn",
    "not-done": "failed",
}
PREFERRED: Final[tuple[Channel, ...]] = ("sms", "email")
ATTEMPTS: Final = 8
"""How often a notice is tried, with growing pauses, before it has failed."""

NO_ADDRESS: Final = "No address for it is on record"
_TELECOM: Final[Mapping[str, Channel]] = {"email": "email", "sms": "sms", "phone": "sms", "pager": "pager"}


@dataclass(frozen=True, slots=True)
class Letter:
    """What is said.

    Attributes:
        topic: the code of what it is about.
        subject, text: plain text; it leaves the record, so no more than the recipient needs.
        category: FHIR's.
        about: references ``Type/id``.
        encounter: logical id.
        channels: in order of preference.
        urgent: goes before others, with short pauses between attempts.
        expires: not sent any more after it.
        attempts: how often it is tried at most.

    """

    topic: Code
    subject: str
    text: str
    category: Category = "notification"
    about: Sequence[str] = ()
    encounter: str | None = None
    channels: Sequence[Channel] = PREFERRED
    urgent: bool = False
    expires: datetime | None = None
    attempts: int = ATTEMPTS


@dataclass(frozen=True, slots=True)
class Told:
    """What became of telling somebody: the Communication's id, its state, and why it failed."""

    communication: str
    state: State
    why: str | None = None


def addresses_of(who: Resource, when: datetime) -> dict[Channel, str]:
    """Return the address of a person on each channel at a time: by `telecom.rank`, then as listed; no `old` one.

    A telephone number is taken for text messages; one that says ``sms`` goes before it.
    """
    found: dict[Channel, tuple[tuple[int, int], str]] = {}
    for point in who.get("telecom", []):
        channel = _TELECOM.get(point.get("system", ""))
        value = str(point.get("value", "")).strip()
        period = period_interval(point.get("period", {}))
        valid = period is None or period[0] <= when < period[1]
        if channel is None or not value or point.get("use") == "old" or not valid:
            continue
        place = (0 if point["system"] != "phone" else 1, int(point.get("rank", 1000)))
        if channel not in found or place < found[channel][0]:
            found[channel] = (place, value)
    return {channel: value for channel, (_, value) in found.items()}


async def tell(
    record: Record, name: Sequence[str], letter: Letter, *, to: Resource, now: datetime, patient: str | None = None
) -> Told:
    """Write a Communication and queue it for the first of the letter's channels on which `to` has an address.

    Args:
        record: the transaction; what is told is committed with it.
        name: what is told, to whom; the idempotency key. One name is told once.
        letter: what is said.
        to: the recipient's resource (Patient, Practitioner, RelatedPerson ...), with `telecom`.
        now: when it is queued.
        patient: logical id of the patient whose record it belongs to.

    """
    named = identifier(ID_COMMUNICATION, *name)
    existing = await find(record, "Communication", named)
    if existing is not None:
        return _told(existing)
    addresses = addresses_of(to, now)
    channel = next((one for one in letter.channels if one in addresses), None)
    made: dict[str, Any] = {
        "resourceType": "Communication",
        "identifier": [named],
        "status": "preparation" if channel else "not-done",
        "statusReason": None if channel else {"text": f"{NO_ADDRESS} ({', '.join(letter.channels)})."},
        "category": [Code(CATEGORY_SYSTEM, letter.category).concept()],
        "priority": "urgent" if letter.urgent else "routine",
        "medium": [MODES[channel].concept(text=channel)] if channel else None,
        "subject": None if patient is None else reference("Patient", patient),
        "topic": letter.topic.concept(text=letter.subject),
        "about": [{"reference": one} for one in letter.about] or None,
        "encounter": None if letter.encounter is None else reference("Encounter", letter.encounter),
        "recipient": [reference(str(to["resourceType"]), str(to["id"]))],
        "payload": [{"contentString": letter.text}],
    }
    with own_work():
        written = await record.create({key: value for key, value in made.items() if value is not None})
    if channel is None:
        return Told(written.stored.id, "failed", NO_ADDRESS)
    await queue(
        record.transaction,
        Notice(
            number=0,
            tenant=record.access.tenant,
            key=f"{record.service.name}:{named['value']}",
            channel=channel,
            address=addresses[channel],
            subject=letter.subject,
            text=letter.text,
            urgent=letter.urgent,
            communication=written.stored.id,
            record=written.key,
            state="queued",
            attempts=0,
            most_attempts=letter.attempts,
            queued_at=now,
            expires_at=letter.expires,
        ),
    )
    return Told(written.stored.id, "queued")


async def told_of(record: Record, name: Sequence[str]) -> Told | None:
    """Return what became of telling something, None where it was never told."""
    existing = await find(record, "Communication", identifier(ID_COMMUNICATION, *name))
    return None if existing is None else _told(existing)


async def take_back(record: Record, name: Sequence[str], now: datetime, *, why: str) -> bool:
    """Stop a Communication that was not sent yet; tell whether it was stopped."""
    existing = await find(record, "Communication", identifier(ID_COMMUNICATION, *name))
    if existing is None or existing["status"] != "preparation":
        return False
    await withdraw(record.transaction, existing["id"], now)
    with own_work():
        await record.update(content_of({**existing, "status": "stopped", "statusReason": {"text": why}}))
    return True


async def tell_no_more(record: Record, to: str, now: datetime, *, why: str) -> None:
    """Stop every Communication to a recipient (``Patient/<id>``) that was not sent yet."""
    for one in await record.search("Communication", {"recipient": to, "status": "preparation"}):
        await withdraw(record.transaction, one["id"], now)
        with own_work():
            await record.update(content_of({**one, "status": "stopped", "statusReason": {"text": why}}))


async def tell_no_more_about(record: Record, about: str, patient: str, now: datetime, *, why: str) -> None:
    """Stop every Communication of a patient's record about something (``Appointment/<id>``) that was not sent yet."""
    for one in await record.search("Communication", {"patient": f"Patient/{patient}", "status": "preparation"}):
        if any(each.get("reference") == about for each in one.get("about", [])):
            await withdraw(record.transaction, one["id"], now)
            with own_work():
                await record.update(content_of({**one, "status": "stopped", "statusReason": {"text": why}}))


async def withdraw_when_stopped(change: Change, record: Record) -> None:
    """Guard of Communication: what a person stops, or takes for an error, or deletes, is not sent any more."""
    state = None if change.after is None else STATES.get(change.after.get("status", ""))
    if change.before is not None and not is_own_work() and state not in ("queued", "sent"):
        await withdraw(record.transaction, change.id, datetime.now(UTC))


def sent(communication: Resource, now: datetime, receipt: str) -> Resource:
    """Return a Communication as sent, with the receipt as a note."""
    note = {"time": zulu(now), "text": f"Receipt: {receipt}"}
    kept = {key: value for key, value in communication.items() if key != "statusReason"}
    return {**kept, "status": "completed", "sent": zulu(now), "note": [*communication.get("note", []), note]}


def failed(communication: Resource, why: str) -> Resource:
    """Return a Communication as not done."""
    return {**communication, "status": "not-done", "statusReason": {"text": why}}


def _told(communication: Resource) -> Told:
    state = STATES.get(communication["status"], "queued")
    why = communication.get("statusReason", {}).get("text")
    return Told(str(communication["id"]), state, why)
