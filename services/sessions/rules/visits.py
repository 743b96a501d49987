"""Visits: the legal moves of their status, when one is under way, and what a booking plans. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from shared.fhir.codes import ACT_CODE, KAP, VIRTUAL, VISIT_DOSING, VISITS, Code
from shared.fhir.dates import period_interval
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, has_code, id_in, reference, visit_of
from shared.fhir.profiles import own

MOVES: Final[Mapping[str, frozenset[str]]] = {
    "planned": frozenset(("arrived", "triaged", "in-progress", "cancelled")),
    "arrived": frozenset(("triaged", "in-progress", "finished", "cancelled")),
    "triaged": frozenset(("in-progress", "finished", "cancelled")),
    "in-progress": frozenset(("onleave", "finished")),
    "onleave": frozenset(("in-progress", "finished")),
    "finished": frozenset(),
    "cancelled": frozenset(),
    "entered-in-error": frozenset(),
    "unknown": frozenset(("planned", "arrived", "triaged", "in-progress", "onleave", "finished", "cancelled")),
}
"""Legal moves of Encounter.status; to entered-in-error from every one. Who came may always leave."""


OVER: Final = frozenset(("finished", "cancelled", "entered-in-error"))
"""Statuses of an Encounter in which nobody is watched any more."""


def may_become(before: str, after: str) -> bool:
    """Tell whether an Encounter may go from one status to another."""
    return after in (before, "entered-in-error") or after in MOVES.get(before, ())


COMING: Final = frozenset(("booked", "arrived", "checked-in"))
OFF: Final = frozenset(("cancelled", "noshow", "entered-in-error"))
AMBULATORY: Final = Code(ACT_CODE, "AMB", "ambulatory")
VIRTUAL_CLASS: Final = Code(ACT_CODE, "VR", "virtual")
PERFORMER: Final = Code("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "PPRF", "primary performer")


def planned_visit(appointment: Resource, patient: str, episode: str | None, name: Mapping[str, str]) -> Resource:
    """Return the Encounter that an Appointment plans.

    Args:
        appointment: of one of KAP's visits.
        patient: logical id.
        episode: logical id of the patient's course; None: not known yet.
        name: the identifier that makes it one per Appointment.

    """
    kind, general = VISITS[visit_of(appointment) or ""]
    virtual = has_code(appointment.get("serviceType"), VIRTUAL)
    made: dict[str, Any] = {
        "resourceType": "Encounter",
        "meta": own.claiming(own.VISIT, *((own.DOSING_SESSION,) if kind == VISIT_DOSING else ())),
        "identifier": [dict(name)],
        "status": "planned",
        "class": (VIRTUAL_CLASS if virtual else AMBULATORY).coding(),
        "type": [kind.concept(general)],
        "subject": reference("Patient", patient),
        "episodeOfCare": None if episode is None else [reference("EpisodeOfCare", episode)],
        "participant": list(_participants(appointment)) or None,
        "appointment": [reference("Appointment", appointment["id"])],
        "location": list(_locations(appointment)) or None,
    }
    return {key: value for key, value in made.items() if value is not None}


def _participants(appointment: Resource) -> Iterator[dict[str, Any]]:
    for participant in appointment.get("participant", []):
        actor = participant.get("actor")
        if participant.get("status") != "declined" and any(
            id_in(actor, type_) for type_ in ("Practitioner", "PractitionerRole", "RelatedPerson")
        ):
            yield {"type": participant.get("type", [PERFORMER.concept()]), "individual": actor}


def _locations(appointment: Resource) -> Iterator[dict[str, Any]]:
    for participant in appointment.get("participant", []):
        if id_in(participant.get("actor"), "Location"):
            yield {"location": participant["actor"]}


def is_kap_visit(appointment: Resource) -> bool:
    """Tell whether an Appointment is for one of KAP's visits."""
    return any(code in VISITS for code in codes_of(appointment.get("serviceType"), KAP))


def is_under_way(visit: Resource, when: datetime) -> bool:
    """Tell whether an Encounter is in progress, or was at `when`, charted after its end."""
    period = period_interval(visit.get("period", {}))
    if visit.get("status") == "in-progress":
        return period is None or period[0] <= when
    ended = visit.get("status") == "finished" and "end" in visit.get("period", {})
    return ended and period is not None and period[0] <= when < period[1]
