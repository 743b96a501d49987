"""What a referrer hears of his referral: a Task that follows its course, and a message at each turn of it.

The Task (code ``fulfill``, focus the ServiceRequest) goes out as an event like all else. It says how far the course is
and never why: findings are the patient's, and reach a referrer by his consent alone. A message leaves the record: it
says how far the course is where the patient's consents let the referrer be told, and is a disclosure in the audit then;
else it says that there is news, which he reads with a token of his own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from services.intake.course import courses_of
from services.intake.setting import Setting
from shared.fhir.codes import FULFILL, ID_TASK, REFERRAL_STATUS
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, is_course, patient_of, stage_of, stages_of
from shared.fhir.raised import identifier, task
from shared.notify.telling import Letter, tell
from shared.runtime.raising import content_of, find, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change
from shared.security.audit import row_of
from shared.security.roles import TREATMENT
from shared.store.access import Access, Disclosure
from shared.store.behind import behind

STATUS_OF_STAGE: Final[Mapping[str, str]] = {
    "referred": "received",
    "screening": "received",
    "eligible": "accepted",
    "consented": "accepted",
    "planned": "accepted",
    "preparing": "in-progress",
    "dosing": "in-progress",
    "integrating": "in-progress",
    "follow-up": "in-progress",
    "not-eligible": "rejected",
    "finished": "completed",
    "stopped": "cancelled",
}
"""By stage of the course the Task's status, in the order of FHIR's state machine of Task."""

TOLD: Final[Mapping[str, str]] = {
    "referred": "was received",
    "eligible": "was accepted: the patient may be treated",
    "not-eligible": "was not accepted: the patient may not be treated now",
    "planned": "is planned: the patient has consented, and treatment is ordered",
    "finished": "is completed: the course of treatment is over",
    "stopped": "was ended before its course of treatment was complete",
}
"""Of which stages the referrer gets a message, and what it says."""

REFERRERS: Final = ("Practitioner", "PractitionerRole", "Organization")


async def follow_referral(change: Change, record: Record, setting: Setting) -> None:
    """Bring the referral of a course that is about to change to where the course is, and tell who referred.

    A referral that is itself about to be written is followed by `acknowledge`.
    """
    course = change.after
    if course is None or not is_course(course) or course["status"] == "entered-in-error":
        return
    for one in course.get("referralRequest", []):
        id_ = id_in(one, "ServiceRequest")
        referral = None if id_ is None else await record.get("ServiceRequest", id_)
        if referral is not None:
            await _follow(referral, {**course, "id": change.id}, change.before, record, setting.clock())
        if referral is not None and stage_of(course) == "finished" and referral["status"] == "active":
            with own_work():
                await record.update(content_of({**referral, "status": "completed"}))


async def acknowledge(change: Change, record: Record, setting: Setting) -> None:
    """Report of the course that a new referral, which is about to be written, has opened."""
    if change.before is not None or change.after is None:
        return
    for course in await courses_of(record, str(patient_of(change.after))):
        if any(id_in(one, "ServiceRequest") == change.id for one in course.get("referralRequest", [])):
            await _follow({**change.after, "id": change.id}, course, None, record, setting.clock())


async def _follow(referral: Resource, course: Resource, before: Resource | None, record: Record, now: datetime) -> None:
    if "requester" in referral and not _by_patient(referral):
        await _report(referral, course, record, now)
        await _tell(referral, course, before, record, now)


def _by_patient(referral: Resource) -> bool:
    return id_in(referral["requester"], "Patient") is not None


async def _report(referral: Resource, course: Resource, record: Record, now: datetime) -> None:
    """Write how far it is: the Task that fulfils the referral."""
    stage = stage_of(course) or ""
    name = ("referral", str(referral["id"]))
    made: dict[str, Any] = task(
        name,
        patient=str(patient_of(course)),
        code=FULFILL,
        description="Assess and treat the patient with ketamine-assisted psychotherapy, as referred.",
        now=now,
        focus=f"ServiceRequest/{referral['id']}",
    )
    status = "on-hold" if course["status"] == "onhold" else STATUS_OF_STAGE[stage]
    begun = [one for one in course.get("statusHistory", []) if one.get("status") == "active"]
    wanted = {
        **made,
        "status": status,
        "businessStatus": {"text": stage},
        "requester": referral["requester"],
        **({"executionPeriod": {"start": begun[0]["period"]["start"]}} if begun and status == "in-progress" else {}),
    }
    held = await find(record, "Task", identifier(ID_TASK, *name))
    with own_work():
        if held is None:
            await record.create(wanted)
        elif (held["status"], held.get("businessStatus")) != (status, wanted["businessStatus"]):
            kept = {**{name: held[name] for name in ("id", "authoredOn", "for")}, "lastModified": zulu(now)}
            await record.update({**wanted, **kept})


async def _tell(referral: Resource, course: Resource, before: Resource | None, record: Record, now: datetime) -> None:
    """Send a message of each stage that the course has come to with this change."""
    to = await _referrer(referral, record)
    if to is None:
        return
    reader = Disclosure(frozenset((f"{to['resourceType']}/{to['id']}",)), frozenset((TREATMENT,)))
    places = [("EpisodeOfCare", str(course["id"])), ("ServiceRequest", str(referral["id"]))]
    may = await _may_tell(reader, places, record)
    known = [] if before is None else stages_of(before)
    for stage in stages_of(course)[len(known) :]:
        if stage not in TOLD:
            continue
        news = f"There is news of your referral {_called(referral)}: log in to read it."
        if may:
            news = f"Your referral {_called(referral)} for ketamine-assisted psychotherapy {TOLD[stage]}."
            await _account(reader, places, course, record)
        letter = Letter(
            REFERRAL_STATUS,
            subject="Your referral",
            text=news,
            about=(f"ServiceRequest/{referral['id']}",),
            channels=("email", "sms"),
        )
        await tell(record, ("referral", course["id"], stage), letter, to=to, now=now, patient=patient_of(course))


async def _may_tell(reader: Disclosure, places: Sequence[tuple[str, str]], record: Record) -> bool:
    """Tell whether the patient's consents let what is held of a course and its referral be told to somebody.

    One of the two may be what is about to be written; the other is held, and both are where they are.
    """
    found = [(type_, id_) for type_, id_ in places if await record.stored(type_, id_) is not None]
    outside = Access.outside(record.transaction.tenant, reader)
    return bool(found) and all([await record.transaction.find(outside, *place) is not None for place in found])


async def _account(reader: Disclosure, places: Sequence[tuple[str, str]], course: Resource, record: Record) -> None:
    """Note in the audit that somebody outside is told, and by which consents."""
    tenant = record.transaction.tenant
    permitting = await behind(record.transaction.connection, reader, tenant, places)
    consents = sorted({one.consent for several in permitting.values() for one in several})
    row = row_of(
        record.service.name,
        "disclose",
        "message",
        "E",
        tenant=tenant,
        recipient=next(iter(reader.recipients)),
        authorisation=", ".join(consents) or None,
        purpose=tuple(reader.purposes),
        patients=tuple(filter(None, (patient_of(course),))),
        what=(f"EpisodeOfCare/{course['id']}",),
    )
    await record.transaction.note(row)


async def _referrer(referral: Resource, record: Record) -> Resource | None:
    """Return who referred, None where he is not in the directory."""
    for type_ in REFERRERS:
        id_ = id_in(referral["requester"], type_)
        if id_ is not None:
            return await record.get(type_, id_)
    return None


def _called(referral: Resource) -> str:
    """Return what the referrer calls his referral: its number and day, nothing of the patient."""
    number = next((str(one["value"]) for one in referral.get("identifier", []) if one.get("value")), referral["id"])
    day = str(referral.get("authoredOn", ""))[:10]
    return f"{number} of {day}" if day else number
