"""What a visit stands on: each prerequisite met or not, with what to do. The numbers are policy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, TypeAlias

from services.scheduling.rules.policy import Prerequisite, Required, SchedulingPolicy
from shared.fhir.dates import zulu
from shared.fhir.outcome import Issue


@dataclass(frozen=True, slots=True)
class Near:
    """Another dosing session or a dose of the patient: its reference, when, and by which routes (not known: none)."""

    reference: str
    start: datetime
    routes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Ground:
    """What is held about the patient of a visit.

    Attributes:
        patient: reference of the Patient; None: the visit names none.
        outcome: of the newest eligibility decision; None: there is none. outcome_then: at the visit's start.
        assessment: its reference.
        assessed: when it was made.
        screened_drug, screened_route: for which it was made; None: for any.
        episode_status: of the patient's course; None: there is none.
        courses, consents, plans: references of those held, in force or not.
        order: reference of the order the appointment names; None: it names none. other_orders: further ones of the two
            drugs.
        order_active: whether that order is held, active, of this clinic, and this patient's.
        order_sessions: for how many dosing sessions it is. order_used: the visits and doses on it.
        drug: that it orders; None: neither ketamine nor esketamine, or not known.
        routes: of the order.
        consented: routes consented to at the start, by a consent signed before.
        planned: whether there is an active plan of the course.
        site_certified, patient_enrolled: of the REMS. inpatient: whether the order is for an inpatient.
        sites: references of the Locations of the visit.
        preparations: sessions that are over; `preparing`: that are booked before the visit; `prepared`: of both.
        escort: whether one is named.
        weighed: when the patient last was; `weight`: the reference of that.
        near: his other dosing sessions and doses.
        days_apart: days from session to session by his plan, for the order's drug and route; 0: it does not say.
        planned_by: references of the plans that say so.
        zone: the clinic's, whose days count.

    """

    patient: str | None = None
    outcome: str | None = None
    outcome_then: str | None = None
    assessment: str | None = None
    assessed: datetime | None = None
    screened_drug: str | None = None
    screened_route: str | None = None
    episode_status: str | None = None
    courses: tuple[str, ...] = ()
    consents: tuple[str, ...] = ()
    plans: tuple[str, ...] = ()
    order: str | None = None
    other_orders: tuple[str, ...] = ()
    order_active: bool = False
    order_sessions: int = 1
    order_used: tuple[str, ...] = ()
    drug: str | None = None
    routes: tuple[str, ...] = ()
    consented: frozenset[str] = frozenset()
    planned: bool = False
    site_certified: bool = False
    sites: tuple[str, ...] = ()
    patient_enrolled: bool = False
    inpatient: bool = False
    preparations: int = 0
    preparing: int = 0
    prepared: tuple[str, ...] = ()
    escort: bool = False
    weighed: datetime | None = None
    weight: str | None = None
    near: tuple[Near, ...] = ()
    days_apart: int = 0
    planned_by: tuple[str, ...] = ()
    zone: tzinfo = UTC


@dataclass(frozen=True, slots=True)
class Found:
    """A prerequisite as it stands.

    Attributes:
        name: as policy names it.
        rule: ``S-CONSENT``.
        met: whether it is there.
        by: when it has to be: ``booking`` or ``visit``.
        what: what was found.
        advice: what to do; empty where it is met.
        source: of the rule.
        evidence: references of what was looked at; where nothing was found, the patient, whose record lacks it.

    """

    name: str
    rule: str
    met: bool
    by: str
    what: str
    advice: str
    source: str
    evidence: tuple[str, ...] = ()

    def as_issue(self) -> Issue:
        """Return the refusal."""
        return Issue(
            f"The visit cannot be booked: {self.what}. {self.advice}",
            code="business-rule",
            expression=("Appointment",),
            rule=self.rule,
            source=self.source,
            evidence=self.evidence,
        )


Answer: TypeAlias = tuple[bool, str, str, tuple[str, ...]]
"""Met or not; what was found; what to do; evidence."""

RULES: Final[Mapping[Prerequisite, str]] = {
    "eligible": "S-ELIGIBLE",
    "course": "S-EPISODE",
    "order": "S-ORDER",
    "consent": "S-CONSENT",
    "plan": "S-PLAN",
    "rems": "S-REMS",
    "spacing": "S-SPACING",
    "preparation": "S-PREPARED",
    "escort": "S-ESCORT",
    "weight": "S-WEIGHT",
}


def prerequisites(visit: str, ground: Ground, start: datetime | None, policy: SchedulingPolicy) -> list[Found]:
    """Return what a visit of a kind needs, each met or not, in the order in which it is best settled."""
    required = policy.prerequisites.get(visit, {})
    found = []
    for name, rule in RULES.items():
        one = required.get(name)
        if one is None or (one.routes is not None and not set(one.routes) & set(ground.routes)):
            continue
        met, what, advice, evidence = _ANSWERS[name](ground, start, one, policy)
        if not evidence and ground.patient is not None:
            evidence = (ground.patient,)
        found.append(Found(name, rule, met, one.by, what, "" if met else advice, one.source, evidence))
    return found


def unmet(visit: str, ground: Ground, start: datetime | None, policy: SchedulingPolicy) -> list[Issue]:
    """Return why a visit may not be booked; nothing where it may."""
    return [
        one.as_issue() for one in prerequisites(visit, ground, start, policy) if not one.met and one.by == "booking"
    ]


def lost(visit: str, ground: Ground, start: datetime | None, now: datetime, policy: SchedulingPolicy) -> list[Found]:
    """Return what a booked visit lacks now: its ground, and shortly before it what is to be met by then."""
    soon = start is not None and start - now <= timedelta(hours=policy.watch.hours)
    return [one for one in prerequisites(visit, ground, start, policy) if not one.met and (one.by == "booking" or soon)]


def _eligible(ground: Ground, start: datetime | None, rule: Required, _: SchedulingPolicy) -> Answer:
    evidence = (ground.assessment,) if ground.assessment else ()
    if ground.outcome is None:
        return False, "there is no eligibility decision", "Screen the patient (Patient/<id>/$screen).", evidence
    said = f"the newest eligibility decision is {ground.outcome} ({ground.assessment})"
    if ground.outcome != "eligible":
        return False, said, "See its findings, settle them and screen again.", evidence
    other = _screened_for_another(ground)
    if other is not None:
        advice = (
            "Screen the patient for the drug and route of the order (Patient/<id>/$screen), or for any: without them."
        )
        return False, f"{said}, for {other}, and not for what is ordered", advice, evidence
    if ground.outcome_then not in (None, "eligible"):
        what = f"{said}, and the answers it stands on are too old by the day of the visit"
        return False, what, "Have the screening questions answered again and screen (Patient/<id>/$screen).", evidence
    if _too_old(ground.assessed, start, rule):
        what = f"{said}, and will be older than {rule.days} days on the day of the visit"
        return False, what, "Screen the patient again (Patient/<id>/$screen).", evidence
    return True, said, "", evidence


def _screened_for_another(ground: Ground) -> str | None:
    """Return the drug or route that the patient was screened for where the order's is another; None where it is not."""
    if ground.screened_drug is not None and ground.drug is not None and ground.screened_drug != ground.drug:
        return ground.screened_drug
    route = ground.screened_route
    return route if route is not None and any(one != route for one in ground.routes) else None


def _course(ground: Ground, _start: datetime | None, _rule: Required, _: SchedulingPolicy) -> Answer:
    status = ground.episode_status
    what = "there is no course of somebody found eligible" if status is None else f"the course is {status}"
    advice = "Refer and screen the patient (Patient/<id>/$screen); a hold is lifted by a person (EpisodeOfCare.status)."
    return status in ("planned", "active"), what, advice, ground.courses


def _order(ground: Ground, _start: datetime | None, _rule: Required, _: SchedulingPolicy) -> Answer:
    if ground.order is None:
        advice = "Name the MedicationRequest in Appointment.supportingInformation."
        return False, "no order is named", advice, ()
    if not ground.order_active or not ground.routes:
        what = f"{ground.order} is not known here as an active order of this patient with a route"
        return False, what, "Order the drug first, or book again in a moment.", (ground.order,)
    if ground.drug is None:
        what = f"{ground.order} orders neither ketamine nor esketamine, as far as its medicine is known here"
        return False, what, "Name the order of the drug; code its medicine in RxNorm.", (ground.order,)
    if ground.other_orders:
        what = f"{ground.order} is not the only order that is named: {', '.join(ground.other_orders)}"
        return False, what, "Name the one that this session is on.", (ground.order, *ground.other_orders)
    if len(ground.order_used) >= ground.order_sessions:
        what = f"{ground.order} is for {ground.order_sessions} dosing sessions, and as many are on it already"
        return (
            False,
            what,
            "Order the drug for this session, too, and name that order.",
            (ground.order, *ground.order_used),
        )
    return True, f"{ground.order} is active", "", (ground.order,)


def _consent(ground: Ground, _start: datetime | None, _rule: Required, _: SchedulingPolicy) -> Answer:
    lacking = [route for route in ground.routes if route not in ground.consented]
    if lacking or (not ground.routes and not ground.consented):
        what = f"no consent signed before is in force at that time for route {', '.join(lacking) or 'of the order'}"
        return False, what, "Obtain the patient's consent for the route.", ground.consents
    return True, "there is consent for the route", "", ground.consents


def _plan(ground: Ground, _start: datetime | None, _rule: Required, _: SchedulingPolicy) -> Answer:
    if ground.planned:
        return True, "there is a plan of the course", "", ground.plans
    advice = "Make the treatment plan first (category kap-plan)."
    return False, "there is no active CarePlan of the course", advice, ground.plans


def _rems(ground: Ground, _start: datetime | None, _rule: Required, _: SchedulingPolicy) -> Answer:
    if ground.drug != "esketamine":
        return True, "the drug has no REMS", "", ()
    lacking = [
        what
        for what, there in (
            ("the site is not certified (Location.identifier)", ground.site_certified),
            ("the patient is not enrolled (Patient.identifier)", ground.patient_enrolled or ground.inpatient),
        )
        if not there
    ]
    if lacking:
        advice = (
            "Certify the site and enrol the patient with the Spravato REMS, and record the identifier; who is an "
            "inpatient by his order (MedicationRequest.category) is not enrolled."
        )
        return False, f"for esketamine {' and '.join(lacking)}", advice, _of_rems(ground)
    who = "an inpatient is not enrolled" if ground.inpatient else "the patient is enrolled"
    return True, f"the site is certified, and {who}", "", _of_rems(ground)


def _of_rems(ground: Ground) -> tuple[str, ...]:
    return (*ground.sites, *([ground.patient] if ground.patient else []))


def _spacing(ground: Ground, start: datetime | None, _rule: Required, policy: SchedulingPolicy) -> Answer:
    close = [] if start is None else too_close(start, ground, ground.routes, policy)
    if not close:
        return True, "no other dose is too near", "", ()
    evidence = (*(near.reference for near, _ in close), *ground.planned_by)
    what = "; ".join(f"{near.reference} is a dose at {zulu(near.start)}, and {apart}" for near, apart in close)
    return False, what, "Choose another time.", evidence


def _preparation(ground: Ground, _start: datetime | None, rule: Required, _: SchedulingPolicy) -> Answer:
    needed = rule.count or 0
    what = f"{ground.preparations} of {needed} preparation sessions were held, {ground.preparing} are booked before it"
    advice = "Hold the preparation session, and record it (Appointment fulfilled)."
    return ground.preparations >= needed, what, advice, ground.prepared


def _escort(ground: Ground, _start: datetime | None, _rule: Required, _: SchedulingPolicy) -> Answer:
    if ground.escort:
        return True, "an escort is named", "", ()
    advice = "Name the adult who takes the patient home, as a participant of type ESC."
    return False, "no escort is named", advice, ()


def _weight(ground: Ground, start: datetime | None, rule: Required, _: SchedulingPolicy) -> Answer:
    if ground.weighed is None:
        return False, "no weight is known", "Weigh the patient.", ()
    what = f"the patient was weighed at {zulu(ground.weighed)}"
    evidence = (ground.weight,) if ground.weight else ()
    if _too_old(ground.weighed, start, rule):
        return False, f"{what}, more than {rule.days} days before", "Weigh the patient again.", evidence
    return True, what, "", evidence


_ANSWERS: Final[Mapping[Prerequisite, Callable[[Ground, datetime | None, Required, SchedulingPolicy], Answer]]] = {
    "eligible": _eligible,
    "course": _course,
    "order": _order,
    "consent": _consent,
    "plan": _plan,
    "rems": _rems,
    "spacing": _spacing,
    "preparation": _preparation,
    "escort": _escort,
    "weight": _weight,
}


def _too_old(known: datetime | None, start: datetime | None, rule: Required) -> bool:
    if known is None or start is None or rule.days is None:
        return False
    return known < start - timedelta(days=rule.days)


def too_close(
    start: datetime, ground: Ground, routes: Sequence[str], policy: SchedulingPolicy
) -> list[tuple[Near, str]]:
    """Return which other doses are nearer than the least time between two, and that time in words.

    The longer of both routes' counts: of the order's and, where it is known, of the other dose's. The patient's own
    plan counts besides, where it is stricter: by days of the clinic, as at the gate.
    """
    found = []
    for other in ground.near:
        hours = [policy.spacing[route].hours for route in (*routes, *other.routes) if route in policy.spacing]
        days = abs((start.astimezone(ground.zone).date() - other.start.astimezone(ground.zone).date()).days)
        if hours and abs(start - other.start) < timedelta(hours=max(hours)):
            found.append((other, f"by route they are at least {max(hours)} hours apart"))
        elif days < ground.days_apart:
            found.append((other, f"by the plan they are at least {ground.days_apart} days apart"))
    return found


def not_living(patients: Iterable[str], policy: SchedulingPolicy) -> Issue:
    """Return the refusal of a visit that is to come, of somebody who has died."""
    who = tuple(f"Patient/{one}" for one in dict.fromkeys(patients))
    return Issue(
        f"{', '.join(who)} has died (Patient.deceased): no visit is booked. Correct Patient.deceased if it is wrong.",
        code="business-rule",
        expression=("Appointment.participant",),
        rule="S-PATIENT",
        source=policy.ground.source,
        evidence=who,
    )


def not_one_patient(patients: Iterable[str], policy: SchedulingPolicy) -> Issue:
    """Return the refusal of a dosing session for several patients: only one's ground could be looked at."""
    return Issue(
        "A visit with prerequisites is booked for one patient. Make an appointment for each; a group shares a Slot.",
        code="business-rule",
        expression=("Appointment.participant",),
        rule="S-PATIENT",
        source=policy.ground.source,
        evidence=tuple(f"Patient/{one}" for one in dict.fromkeys(patients)),
    )
