"""Scheduling's guard: an Appointment that is about to be booked.

Double booking: the guard claims each exclusive actor for its transaction (in sorted order), then looks for overlapping
appointments, so of two bookings of one actor the second sees the first, also when they race. That holds for every
change that goes through this service's `Record`; it is not yet a constraint of the database itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta

from services.scheduling.ground import Setting, ground_of
from services.scheduling.rules import (
    COUNTING,
    OCCUPYING,
    double_booked,
    exclusive_actors,
    is_new_intent,
    no_time,
    not_one_patient,
    overlapping,
    span_of,
    too_close,
    unmet,
)
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import actors, visit_of
from shared.fhir.outcome import Issue, Unprocessable
from shared.runtime.record import Record
from shared.runtime.service import Change, Guard


def guards(setting: Setting) -> Mapping[str, Sequence[Guard]]:
    """Return scheduling's guards by type, under a policy."""

    async def booking(change: Change, record: Record) -> None:
        after = change.after
        if after is None or not is_new_intent(change.before, after):
            return
        record.require_current()
        span = span_of(after)
        issues = [no_time()] if span is None else await _double_booked(change.id, after, span, record, setting)
        if visit_of(after) == "kap-dosing":
            issues.extend(await _dosing(change.id, after, None if span is None else span[0], record, setting))
        if issues:
            raise Unprocessable(issues)

    return {"Appointment": (booking,)}


async def _double_booked(
    id_: str, after: Resource, span: tuple[datetime, datetime], record: Record, setting: Setting
) -> list[Issue]:
    earliest = span[0] - timedelta(hours=setting.policy.longest_visit.hours)
    issues: list[Issue] = []
    booked = exclusive_actors(after)
    for actor in booked:
        await record.transaction.claim(record.access.tenant, f"Appointment of {actor}")
    for actor in booked:
        near = await record.search(
            "Appointment", [("actor", actor), ("date", f"ge{zulu(earliest)}"), ("date", f"lt{zulu(span[1])}")]
        )
        taken = [
            one
            for one in overlapping(span, near)
            if one["id"] != id_ and one["status"] in OCCUPYING and actor in exclusive_actors(one)
        ]
        issues.extend(double_booked(actor, taken))
    return issues


async def _dosing(id_: str, after: Resource, start: datetime | None, record: Record, setting: Setting) -> list[Issue]:
    ground = await ground_of(record, after)
    issues = unmet(ground, setting.policy)
    patients = actors(after, "Patient")
    if len(set(patients)) > 1:
        issues.append(not_one_patient(setting.policy))
    if start is not None and patients:
        others = [
            one
            for one in await record.search("Appointment", {"patient": f"Patient/{patients[0]}"})
            if one["id"] != id_ and one["status"] in COUNTING and visit_of(one) == "kap-dosing" and "start" in one
        ]
        issues.extend(too_close(start, others, ground.routes, setting.policy))
    return issues
