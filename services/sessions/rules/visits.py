"""Visits: the legal moves of their status, when one is under way, and what a booking plans. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import Any, Final

from shared.fhir.codes import (
    ACT_CODE,
    ATTENDER,
    CHAPERONE,
    ESCORT,
    EXT_TELEHEALTH,
    KAP,
    MONITOR,
    PRESCRIBER,
    SECOND_PERFORMER,
    THERAPIST,
    VIRTUAL,
    VISIT_DOSING,
    VISITS,
    Code,
)
from shared.fhir.dates import CENTURY, interval, period_interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, has_code, id_in, patient_of, reference, visit_of
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


TAKEN_BACK: Final = frozenset((("cancelled", "planned"), ("finished", "in-progress")))
"""Moves that take a mistake back: of a booking that stands again, and by `$resume`."""

OVER: Final = frozenset(("finished", "cancelled", "entered-in-error"))
"""Statuses of an Encounter in which nobody is watched any more."""


def may_become(before: str, after: str) -> bool:
    """Tell whether an Encounter may go from one status to another."""
    return after in (before, "entered-in-error") or after in MOVES.get(before, ())


def _until(period: Mapping[str, str], end: str) -> dict[str, str]:
    """Return a period that was noted by the clock, no longer than to `end`: what was charted later is said to be so."""
    last = interval(end)[0]
    return {name: said if interval(said)[0] <= last else end for name, said in period.items()}


def with_history(before: Resource | None, after: Resource, now: datetime) -> Resource | None:
    """Return an Encounter with the statuses and classes it had before; None where it says them already.

    What was is not taken out again, whatever a later version leaves out. A status ended when the change says that the
    visit began or ended, else now.
    """
    added = {}
    for element, value, member in (("statusHistory", "status", "status"), ("classHistory", "class", "class")):
        past = list((before or {}).get(element, []))
        if before is not None and before.get(value) != after.get(value):
            period = after.get("period", {})
            said = period.get("end") if after["status"] in OVER else period.get("start")
            moved = said is not None and said != before.get("period", {}).get(
                "end" if after["status"] in OVER else "start"
            )
            end = said if moved and value == "status" and interval(said)[0] <= now else zulu(now)
            past = [{**one, "period": _until(one["period"], end)} for one in past]
            since = past[-1]["period"].get("end") if past else None
            past.append({member: before[value], "period": {**({"start": since} if since else {}), "end": end}})
        if past and past != after.get(element):
            added[element] = past
    return {**after, **added} if added else None


COMING: Final = frozenset(("booked", "arrived", "checked-in"))
OFF: Final = frozenset(("cancelled", "noshow", "entered-in-error"))
AMBULATORY: Final = Code(ACT_CODE, "AMB", "ambulatory")
INPATIENT: Final = Code(ACT_CODE, "IMP", "inpatient encounter")
VIRTUAL_CLASS: Final = Code(ACT_CODE, "VR", "virtual")
PERFORMER: Final = Code("http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "PPRF", "primary performer")


def planned_visit(
    appointment: Resource, patient: str, episode: str | None, name: Mapping[str, str], *, inpatient: bool = False
) -> Resource:
    """Return the Encounter that an Appointment plans.

    Args:
        appointment: of one of KAP's visits.
        patient: logical id.
        episode: logical id of the patient's course; None: not known yet.
        name: the identifier that makes it one per Appointment.
        inpatient: whether what is booked is ordered for an inpatient.

    """
    kind, general = VISITS[visit_of(appointment) or ""]
    virtual = has_code(appointment.get("serviceType"), VIRTUAL)
    link = link_of(appointment)
    made: dict[str, Any] = {
        "resourceType": "Encounter",
        "meta": own.claiming(own.VISIT, *((own.DOSING_SESSION,) if kind == VISIT_DOSING else ())),
        "extension": None if link is None else [{"url": EXT_TELEHEALTH, "valueUrl": link}],
        "identifier": [dict(name)],
        "status": "planned",
        "class": (VIRTUAL_CLASS if virtual else INPATIENT if inpatient else AMBULATORY).coding(),
        "type": [kind.concept(general)],
        "subject": reference("Patient", patient),
        "episodeOfCare": None if episode is None else [reference("EpisodeOfCare", episode)],
        "participant": list(_participants(appointment, virtual=virtual)) or None,
        "appointment": [reference("Appointment", appointment["id"])],
        "location": list(_locations(appointment)) or None,
    }
    return {key: value for key, value in made.items() if value is not None}


PARTS: Final[Mapping[str, Code]] = {
    PRESCRIBER.code: ATTENDER,
    THERAPIST.code: PERFORMER,
    MONITOR.code: SECOND_PERFORMER,
    CHAPERONE.code: ESCORT,
}
"""By who is booked (Appointment.participant.type), what v3-ParticipationType calls him in the visit."""


def _participants(appointment: Resource, *, virtual: bool) -> Iterator[dict[str, Any]]:
    """Yield who takes part, each in his part: attending, therapist, monitor, escort, at home the chaperone, witness."""
    for participant in appointment.get("participant", []):
        actor = participant.get("actor")
        if participant.get("status") == "declined" or not any(
            id_in(actor, type_) for type_ in ("Practitioner", "PractitionerRole", "RelatedPerson")
        ):
            continue
        types = participant.get("type", [])
        if virtual and has_code(types, ESCORT) and not has_code(types, CHAPERONE):
            types = [*types, CHAPERONE.concept()]  # who would see him home is with him there
        said = [code for code in PARTS if code in codes_of(types, KAP)]
        added = [PARTS[code].concept() for code in said if not has_code(types, PARTS[code])]
        yield {"type": [*types, *added] or [PERFORMER.concept()], "individual": actor}


def is_of_another(resource: Resource, whose: str | None) -> bool:
    """Tell whether a resource that names the visit of a patient is about another; one that names nobody is not."""
    return whose is not None and patient_of(resource) not in (whose, None)


def link_of(appointment: Resource) -> str | None:
    """Return where patient and clinician meet by video, as an Appointment says it."""
    links = (one.get("valueUrl") for one in appointment.get("extension", []) if one.get("url") == EXT_TELEHEALTH)
    return next((str(one) for one in links if one), None)


def chaperoned(visit: Resource | None) -> bool:
    """Tell whether a visit names the adult who is with the patient at home."""
    people = [one for one in (visit or {}).get("participant", []) if one.get("individual")]
    return any(has_code(one.get("type"), part) for one in people for part in (CHAPERONE, ESCORT))


def _locations(appointment: Resource) -> Iterator[dict[str, Any]]:
    for participant in appointment.get("participant", []):
        if id_in(participant.get("actor"), "Location"):
            yield {"location": participant["actor"]}


def is_kap_visit(appointment: Resource) -> bool:
    """Tell whether an Appointment is for one of KAP's visits."""
    return any(code in VISITS for code in codes_of(appointment.get("serviceType"), KAP))


def reckoned(said: datetime, now: datetime) -> datetime:
    """Return a time that somebody said as it is reckoned with: a slip in its century has no day before or after it."""
    return min(max(said, now - CENTURY), now + CENTURY)


def is_under_way(visit: Resource, when: datetime) -> bool:
    """Tell whether an Encounter is in progress, or was at `when`, charted after its end."""
    period = period_interval(visit.get("period", {}))
    if visit.get("status") == "in-progress":
        return period is None or period[0] <= when
    ended = visit.get("status") == "finished" and "end" in visit.get("period", {})
    return ended and period is not None and period[0] <= when < period[1]
