"""Places in group sessions: which of them are free for a patient, no more than their staff may watch over."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from services.scheduling.booking import actors_of_schedule, is_group, one_name, places_of
from services.scheduling.finding import Asked, visit_asked
from services.scheduling.rules.booking import no_groups, watched_over
from services.scheduling.setting import Setting
from shared.fhir.codes import EXT_RANK, VISITS
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of
from shared.fhir.outcome import Unprocessable
from shared.runtime.record import Record
from shared.store.bookings import busy


async def group_places(
    record: Record, asked: Asked, order: str | None, places: int, setting: Setting
) -> list[Resource]:
    """Return proposed Appointments in the group sessions of a kind that have so many places free, earliest first.

    Raises:
        Unprocessable: visits of that kind are not held in groups.

    """
    kind = visit_asked(asked.visit, setting)
    if not kind.group:
        raise Unprocessable([no_groups(asked.visit, kind)])
    span = [("start", f"ge{zulu(asked.low)}"), ("start", f"lt{zulu(asked.high)}")]
    sessions = [
        one
        for one in await record.search("Slot", span)
        if is_group(one)
        and one["status"] not in ("busy-unavailable", "entered-in-error")
        and asked.visit in codes_of(one.get("serviceType"), VISITS[asked.visit][0].system)
    ]
    sessions.sort(key=lambda one: (interval(one["start"])[0], str(one["id"])))
    names = [f"Slot/{one['id']}" for one in sessions]
    taken = await busy(record.transaction, [*names, *([asked.patient] if asked.patient else [])], asked.low, asked.high)
    only = {await one_name(record, name) for name in asked.only}
    found: list[Resource] = []
    for session in sessions:
        start, end = interval(session["start"])[0], interval(session["end"])[0]
        staff = await actors_of_schedule(record, session)
        used = len({one.lane for one in taken if one.resource == f"Slot/{session['id']}"})
        away = any(one.resource == asked.patient and one.start < end and start < one.end for one in taken)
        wished = only <= set(staff)
        if wished and not away and used + places <= min(places_of(session), watched_over(staff, kind)):
            found.append(_proposal(session, staff, asked, order, rank=len(found) + 1))
    return found


def _proposal(session: Resource, staff: Sequence[str], asked: Asked, order: str | None, *, rank: int) -> Resource:
    actors = [*([asked.patient] if asked.patient else []), *staff]
    made: dict[str, Any] = {
        "resourceType": "Appointment",
        "extension": [{"url": EXT_RANK, "valuePositiveInt": rank}],
        "status": "proposed",
        "serviceType": [VISITS[asked.visit][0].concept()],
        "supportingInformation": [{"reference": order}] if order else None,
        "start": session["start"],
        "end": session["end"],
        "slot": [{"reference": f"Slot/{session['id']}"}],
        "participant": [
            {"actor": {"reference": one}, "required": "required", "status": "needs-action"} for one in actors
        ],
    }
    return {name: value for name, value in made.items() if value is not None}
