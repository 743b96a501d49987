"""Sessions' rules: a visit's states, the gate before a dose, what a dose claims to be, and alarms. Pure functions.

The limits come from `policies/gate.yaml` and `policies/alarms.yaml`. A reading that is missing or not understood is not
known, and what is not known keeps the gate closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, TypeAlias

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.codes import ACT_CODE, KAP, LOINC, VIRTUAL, VISITS, Code
from shared.fhir.dates import MIN_INSTANT, period_interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import (
    RUNNING_EPISODE,
    codes_of,
    effective_start,
    has_code,
    id_in,
    quantity_in,
    reference,
    visit_of,
)
from shared.fhir.outcome import Issue

# -- the form of the policy -------------------------------------------------------------------------------------------


class Minutes(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of minutes."""

    minutes: int


class Limit(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit on a vital sign: the LOINC codes and UCUM units it is read in, and what is beyond it."""

    rule: str
    codes: tuple[str, ...]
    units: tuple[str, ...]
    advice: str
    at_least: Decimal | None = None
    above: Decimal | None = None
    below: Decimal | None = None

    def is_beyond(self, value: Decimal) -> bool:
        """Tell whether `value` is beyond the limit."""
        return (
            (self.at_least is not None and value >= self.at_least)
            or (self.above is not None and value > self.above)
            or (self.below is not None and value < self.below)
        )


class GateLimit(Limit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit of the gate; `required`: without a reading the gate is closed."""

    required: bool


class Alarm(Limit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit that calls a person at once."""

    title: str


class GatePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `gate`."""

    visit: Cited
    course: Cited
    consent: Cited
    order: Cited
    baseline_age: Minutes
    live: Minutes
    ahead: Minutes
    readings: dict[str, GateLimit]


# -- readings ---------------------------------------------------------------------------------------------------------

COUNTING: Final = frozenset(("preliminary", "final", "amended", "corrected"))


@dataclass(frozen=True, slots=True)
class Reading:
    """A measured value: the Observation it is in, its LOINC codes, the Quantity as it stands, and when it was taken."""

    reference: str
    codes: tuple[str, ...]
    quantity: Mapping[str, Any] | None
    when: datetime | None

    def value_in(self, units: Sequence[str]) -> Decimal | None:
        """Return the number in one of `units`; None where it is not understood."""
        value = quantity_in(self.quantity, units)
        return None if value is None else Decimal(value)


def readings_of(observation: Resource) -> list[Reading]:
    """Return what an Observation measured: its value and its components; nothing of one that does not count."""
    if observation.get("status") not in COUNTING:
        return []
    name = f"Observation/{observation['id']}"
    when = effective_start(observation)
    return [
        Reading(name, tuple(codes_of(part.get("code"), LOINC)), part.get("valueQuantity"), when)
        for part in (observation, *observation.get("component", []))
        if any(key.startswith("value") for key in part)
    ]


def alarms_of(observation: Resource, alarms: Iterable[Alarm]) -> list[tuple[Alarm, Decimal]]:
    """Return the alarm limits that an Observation is beyond, and its value."""
    found = []
    for alarm in alarms:
        for reading in readings_of(observation):
            value = reading.value_in(alarm.units) if set(reading.codes).intersection(alarm.codes) else None
            if value is not None and alarm.is_beyond(value):
                found.append((alarm, value))
    return found


def alarm_texts(observation: Resource, alarms: Iterable[Alarm]) -> dict[str, str]:
    """Return what an Observation alarms about, by rule: every value beyond a limit, and what to do."""
    texts: dict[str, str] = {}
    for alarm, value in alarms_of(observation, alarms):
        text = f"{alarm.title}: {value:f} {alarm.units[0]}. {alarm.advice} Source: {alarm.source}."
        texts[alarm.rule] = f"{texts[alarm.rule]} {text}" if alarm.rule in texts else text
    return texts


def is_not_understood(observation: Resource, alarms: Iterable[Alarm]) -> bool:
    """Tell whether an Observation gives a vital sign that has an alarm limit in a form that cannot be judged."""
    return any(
        set(reading.codes).intersection(alarm.codes) and reading.value_in(alarm.units) is None
        for alarm in alarms
        for reading in readings_of(observation)
    )


# -- the gate ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known where a dose begins.

    Attributes:
        visit: the Encounter it names; None: none is held.
        start: when it begins.
        route: SNOMED CT; None: it is not said.
        consented: routes consented to at that time.
        ordered: whether an active order of the patient for the drug is held.
        readings: those of this Encounter.
        course: status at that time of the patient's course, of one that runs first; None: all that are held are over.

    """

    visit: Resource | None
    start: datetime
    route: str | None
    consented: frozenset[str]
    ordered: bool
    readings: Sequence[Reading]
    course: str | None = None


def gate(situation: Situation, policy: GatePolicy) -> list[Issue]:
    """Return what keeps the gate closed; nothing when the dose may be started."""
    return [
        *_visit_issues(situation, policy),
        *_course_issues(situation, policy),
        *_reading_issues(situation, policy),
        *_consent_issues(situation, policy),
    ]


def _closed(rule: str, what: str, source: str, *, where: str = "MedicationAdministration") -> Issue:
    return Issue(
        f"The gate before the dose is closed: {what}",
        code="business-rule",
        expression=(where,),
        rule=rule,
        source=source,
    )


def _visit_issues(situation: Situation, policy: GatePolicy) -> Iterator[Issue]:
    visit = situation.visit
    if visit is None or visit_of(visit) != "kap-dosing" or not is_under_way(visit, situation.start):
        said = "no such visit is known here" if visit is None else f"Encounter/{visit['id']} is {visit.get('status')}"
        yield _closed(
            "G-VISIT",
            f"{said}; a dose is given in a dosing session (type kap-dosing) that is in progress at that time.",
            policy.visit.source,
            where="MedicationAdministration.context",
        )


def _course_issues(situation: Situation, policy: GatePolicy) -> Iterator[Issue]:
    if situation.course is not None and situation.course not in RUNNING_EPISODE:
        yield _closed(
            "G-COURSE",
            f"the patient's course is {situation.course}. See why, settle it, and have a person lift the hold.",
            policy.course.source,
        )


def is_under_way(visit: Resource, when: datetime) -> bool:
    """Tell whether an Encounter is in progress, or was at `when`, charted after its end."""
    period = period_interval(visit.get("period", {}))
    if visit.get("status") == "in-progress":
        return period is None or period[0] <= when
    ended = visit.get("status") == "finished" and "end" in visit.get("period", {})
    return ended and period is not None and period[0] <= when < period[1]


def _reading_issues(situation: Situation, policy: GatePolicy) -> Iterator[Issue]:
    earliest = situation.start - timedelta(minutes=policy.baseline_age.minutes)
    missing: list[str] = []
    for limit in policy.readings.values():
        taken = [
            reading
            for reading in situation.readings
            if set(reading.codes).intersection(limit.codes)
            and reading.when is not None
            and earliest <= reading.when <= situation.start
        ]
        if not taken:
            missing.extend(limit.codes if limit.required else ())
            continue
        newest = max(reversed(taken), key=lambda reading: reading.when or MIN_INSTANT)
        value = newest.value_in(limit.units)
        if value is None:
            missing.extend(limit.codes)
        elif limit.is_beyond(value):
            yield _closed(
                limit.rule,
                f"{newest.reference} reads {value:f} {limit.units[0]} ({'/'.join(limit.codes)}). {limit.advice}",
                limit.source,
            )
    if missing:
        yield _closed(
            "G-BP",
            f"no reading of {', '.join(dict.fromkeys(missing))} that can be understood was taken in this visit within "
            f"{policy.baseline_age.minutes} minutes before the dose. Measure and record it with this Encounter.",
            policy.baseline_age.source,
        )


def _consent_issues(situation: Situation, policy: GatePolicy) -> Iterator[Issue]:
    if situation.route is None or situation.route not in situation.consented:
        route = "the route is not said (dosage.route)" if situation.route is None else f"route {situation.route}"
        yield _closed("G-CONSENT", f"no consent is in force for it: {route}.", policy.consent.source)
    if not situation.ordered:
        yield _closed(
            "G-ORDER", "no active order of this patient for the drug by this route is known here.", policy.order.source
        )


Claim: TypeAlias = Literal["nothing", "start", "given"]

LIVE: Final = frozenset(("in-progress", "on-hold"))
GIVEN: Final = frozenset(("completed", "stopped"))


def claim_of(
    before: Resource | None,
    after: Resource | None,
    *,
    was_gated: bool,
    is_gated: bool,
    now: datetime,
    policy: GatePolicy,
) -> Claim:
    """Return what a change of a MedicationAdministration claims.

    start: a gated drug is about to be given: it is put in progress, and begins no longer ago than `live` minutes; or a
    dose that was on hold or had ended goes on. given: it was given: completed or stopped, or in progress since longer
    ago. nothing: no dose of a gated drug, or one whose claim was judged when it was first made.
    """
    if after is None or not is_gated or after.get("status") not in LIVE | GIVEN:
        return "nothing"
    if before is not None and was_gated and before.get("status") in LIVE | GIVEN:
        if resumes(before, after):
            return "start"
        return "nothing" if effective_start(before) == effective_start(after) else "given"
    began = effective_start(after)
    if after.get("status") in GIVEN or (began is not None and began < now - timedelta(minutes=policy.live.minutes)):
        return "given"
    return "start"


def resumes(before: Resource | None, after: Resource | None) -> bool:
    """Tell whether a dose that was on hold, stopped or completed is put in progress again."""
    paused = GIVEN | {"on-hold"}
    return (before or {}).get("status") in paused and (after or {}).get("status") == "in-progress"


def begins_ahead(start: datetime, now: datetime, policy: GatePolicy) -> list[Issue]:
    """Return the refusal of a dose in progress that begins in the future."""
    if start <= now + timedelta(minutes=policy.ahead.minutes):
        return []
    return [_closed("G-TIME", f"it would begin at {zulu(start)}, which is still to come.", policy.ahead.source)]


# -- visits -----------------------------------------------------------------------------------------------------------

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
