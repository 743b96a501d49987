"""Appointments as scheduling's operations make them, and the answers they are given in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final
from uuid import NAMESPACE_URL, UUID, uuid5

from services.scheduling.rules.finding import Option
from shared.fhir.codes import EXT_HELD_UNTIL, EXT_RANK, ROLES, VIRTUAL, VISITS
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource, dump, parse
from shared.fhir.outcome import Issue, Unprocessable, operation_outcome
from shared.runtime.asking import not_held
from shared.runtime.record import Record

KEPT_OUT: Final = (EXT_RANK, EXT_HELD_UNTIL)


def proposal(
    visit: str, option: Option, *, patient: str | None, order: str | None, by_video: bool, rank: int | None = None
) -> Resource:
    """Return an Appointment that could be booked, as `$find` offers it."""
    kind, _ = VISITS[visit]
    actors = [(name, ROLES[role].concept()) for role, name in option.people.items()]
    made: dict[str, Any] = {
        "resourceType": "Appointment",
        "extension": None if rank is None else [{"url": EXT_RANK, "valuePositiveInt": rank}],
        "status": "proposed",
        "serviceType": [kind.concept(), *([VIRTUAL.concept()] if by_video else [])],
        "supportingInformation": [{"reference": order}] if order else None,
        "start": zulu(option.start),
        "end": zulu(option.end),
        "minutesDuration": int((option.end - option.start).total_seconds()) // 60,
        "participant": [
            *([{"actor": {"reference": patient}, "required": "required", "status": "needs-action"}] if patient else []),
            *(
                {"type": [role], "actor": {"reference": name}, "required": "required", "status": "needs-action"}
                for name, role in actors
            ),
        ],
    }
    return {name: value for name, value in made.items() if value is not None}


def with_patient(appointment: Resource, patient: str | None) -> Resource:
    """Return an appointment with a patient among its participants, where it had none."""
    participants = appointment.get("participant", [])
    if patient is None or any("Patient/" in one.get("actor", {}).get("reference", "") for one in participants):
        return appointment
    joined = {"actor": {"reference": patient}, "required": "required", "status": "accepted"}
    return {**appointment, "participant": [joined, *participants]}


def held(appointment: Resource, until: datetime) -> Resource:
    """Return an appointment as held until then."""
    return {
        **_plain(appointment),
        "extension": [*_others(appointment), {"url": EXT_HELD_UNTIL, "valueInstant": zulu(until)}],
        "status": "pending",
    }


def booked(appointment: Resource) -> Resource:
    """Return an appointment as booked, everybody in it having accepted who did not decline."""
    others = _others(appointment)
    return {
        **_plain(appointment),
        **({"extension": others} if others else {}),
        "status": "booked",
        "participant": [
            one if one.get("status") == "declined" else {**one, "status": "accepted"}
            for one in appointment.get("participant", [])
        ],
    }


def _plain(appointment: Resource) -> Resource:
    return {name: value for name, value in appointment.items() if name not in ("extension", "requestedPeriod")}


def _others(appointment: Resource) -> list[Any]:
    return [one for one in appointment.get("extension", []) if one.get("url") not in KEPT_OUT]


def held_until(appointment: Resource) -> datetime | None:
    """Return until when a held appointment is kept; None where it is no hold."""
    for one in appointment.get("extension", []):
        if one.get("url") == EXT_HELD_UNTIL:
            return interval(one["valueInstant"])[0]
    return None


async def appointment_of(record: Record, reference: str | None) -> Resource:
    """Return the appointment that an operation is about.

    Raises:
        NotFound: there is none here.

    """
    id_ = str(reference).rpartition("/")[2]
    found = await record.get("Appointment", id_)
    if found is None:
        raise not_held(f"Appointment/{id_}")
    return found


def require_status(appointment: Resource, allowed: Iterable[str], operation: str) -> None:
    """Refuse an operation on an appointment in another status.

    Raises:
        Unprocessable: it is in another.

    """
    statuses = sorted(allowed)
    if appointment["status"] not in statuses:
        raise Unprocessable(
            f"Appointment/{appointment['id']} is {appointment['status']}; ${operation} is for one that is "
            f"{' or '.join(statuses)}. Name another, or make a new one.",
            rule="S-STATUS",
            source="KAP Exchange",
            expression=["Appointment.status"],
            evidence=[f"Appointment/{appointment['id']}"],
        )


async def written(record: Record, resource: Resource) -> Resource:
    """Write an appointment, a new one where it has no id, and return it as it is stored."""
    done = await (record.update(resource) if "id" in resource else record.create(resource))
    stored: Resource = parse(done.stored.body)
    return stored


def answered(resources: Sequence[Resource], issues: Sequence[Issue] = ()) -> Resource:
    """Return a searchset of appointments, best first, and of what there is to say.

    One that is only proposed is kept nowhere, and has an id all the same: what a search finds is known by one. `$hold`
    and `$book` give another.
    """
    entries: list[Mapping[str, Any]] = []
    for one in resources:
        name = str(_name(one))
        known = {"resourceType": one["resourceType"], "id": name, **one}
        entries.append({"fullUrl": f"urn:uuid:{name}", "resource": known, "search": {"mode": "match"}})
    if issues:
        outcome = operation_outcome(issues)
        entries.append({"fullUrl": f"urn:uuid:{_name(outcome)}", "resource": outcome, "search": {"mode": "outcome"}})
    return {"resourceType": "Bundle", "type": "searchset", "total": len(resources), "entry": entries}


def _name(resource: Resource) -> UUID:
    return uuid5(NAMESPACE_URL, dump(resource).decode())
