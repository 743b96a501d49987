"""The gate before a dose: every check with its value, limit, source and verdict. Pure functions.

The limits come from `policies/gate.yaml`. What is missing or not understood is not known, and what must be known and is
not keeps the gate closed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta, tzinfo
from decimal import Decimal
from typing import Final

import msgspec

from services.sessions.rules.answers import (
    NOT_ENROLLED,
    Answer,
    Asked,
    Enrolment,
    Held,
    Rems,
    Risk,
    answer_checks,
    held_check,
    rems_checks,
    risk_check,
)
from services.sessions.rules.checks import Check, Decision, Needed, Verdict, simple
from services.sessions.rules.readings import Limit, Reading, Value, with_code
from services.sessions.rules.visits import VIRTUAL_CLASS, chaperoned, is_under_way
from shared.fhir.cited import Cited
from shared.fhir.dates import MIN_INSTANT, zulu
from shared.fhir.freshness import KnowledgePolicy
from shared.fhir.json import Resource
from shared.fhir.kap import RUNNING_EPISODE, Drug, visit_of
from shared.fhir.zones import day_at

# -- the form of the policy -------------------------------------------------------------------------------------------


class Minutes(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of minutes."""

    minutes: int


class Seconds(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A number of seconds."""

    seconds: int


class GateLimit(Limit, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A limit of the gate.

    Attributes:
        unknown: the rule that is named where there is no reading that can be understood.
        required: when, without a reading, the gate is closed.
        drug: only for this drug.
        home: only for a visit by video, at home.
        decidable: whether a prescriber's documented decision opens the gate.
        repeats: how many further readings must stand before he may decide.

    """

    unknown: str
    required: Needed
    drug: Drug | None = None
    home: bool = False
    decidable: bool = False
    repeats: int = 0


class Dilution(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """From which strength on, in mg per mL, a drug is given by a route only when it was diluted.

    `codes`: RxNorm codes of products of that strength.
    """

    drug: Drug
    route: str
    at_least: Decimal
    codes: tuple[str, ...]


class Witnessed(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Routes (SNOMED CT) by which a patient takes a drug himself, in the clinic and under the eyes of staff."""

    drug: Drug
    routes: tuple[str, ...]


class GatePolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `gate`."""

    visit: Cited
    course: Cited
    consent: Cited
    order: Cited
    lot: Cited
    dilution: Dilution
    held: Held
    witnessed: Witnessed
    chaperone: Cited
    baseline_age: Minutes
    repeat_after: Minutes
    live: Minutes
    answers_age: Minutes
    ahead: Minutes
    again: Seconds
    readings: dict[str, GateLimit]
    answers: dict[str, Answer]
    risk: Risk
    rems: Rems


@dataclass(frozen=True, slots=True)
class Batch:
    """A lot, the last day on which it may be used, and the strength as it is given in mg per mL; None: it is not said.

    `codes`: RxNorm codes of the product.
    """

    lot: str | None = None
    expires: date | None = None
    strength: Decimal | None = None
    codes: tuple[str, ...] = ()


NO_BATCH: Final = Batch()


@dataclass(frozen=True, slots=True)
class Situation:
    """What is known where a dose begins.

    Attributes:
        visit: the Encounter it names; None: none is held.
        start: when it begins.
        drug: what is given.
        route: SNOMED CT; None: it is not said.
        consented: routes consented to at that time.
        ordered: whether an active order of the patient for the drug is held.
        readings: those of this Encounter.
        course: status at that time of the patient's course, of one that runs first; None: none is held.
        decisions: of prescribers, in this visit.
        asked: the answers before the dose, None: none were recorded in this visit.
        gender: Patient.gender.
        flags: for suicidality that are up: reference and since when.
        enrolment: in the REMS.
        batch: lot, expiry and strength of the product, as the dose says them.
        holds: what says that a medicine is to be held before a dose: references of DetectedIssues.
        zone: whose days count: that of the place of the visit.
        unheard: the services whose latest news may be missing, as people read it; empty: all is known.

    """

    visit: Resource | None
    start: datetime
    drug: Drug
    route: str | None
    consented: frozenset[str]
    ordered: bool
    readings: Sequence[Reading]
    course: str | None = None
    decisions: Sequence[Decision] = ()
    asked: Asked | None = None
    gender: str | None = None
    flags: Sequence[tuple[str, datetime]] = ()
    enrolment: Enrolment = NOT_ENROLLED
    unheard: str = ""
    batch: Batch = NO_BATCH
    holds: Sequence[str] = ()
    zone: tzinfo = UTC

    @property
    def at_home(self) -> bool:
        """Whether the visit is by video."""
        return bool((self.visit or {}).get("class", {}).get("code") == VIRTUAL_CLASS.code)


def gate(situation: Situation, policy: GatePolicy) -> list[Check]:
    """Return every check of the gate on what does not depend on the amount of the dose."""
    return [
        _visit(situation, policy),
        _course(situation, policy),
        *_chaperone(situation, policy),
        *_witness(situation, policy.witnessed),
        _lot(situation, policy),
        *_dilution(situation, policy.dilution),
        *_readings(situation, policy),
        *_consent_and_order(situation, policy),
        *answer_checks(
            situation.asked,
            policy.answers.values(),
            situation.decisions,
            drug=situation.drug,
            gender=situation.gender,
            at_home=situation.at_home,
        ),
        held_check(situation.holds, situation.asked, policy.held, situation.decisions),
        risk_check(situation.flags, policy.risk, situation.decisions),
        *(rems_checks(situation.enrolment, situation.visit, policy.rems) if situation.drug == "esketamine" else ()),
    ]


def _visit(situation: Situation, policy: GatePolicy) -> Check:
    visit = situation.visit
    opens = visit is not None and visit_of(visit) == "kap-dosing" and is_under_way(visit, situation.start)
    said = "no such visit is known here" if visit is None else f"Encounter/{visit['id']} is {visit.get('status')}"
    return simple(
        "G-VISIT",
        "Dosing session under way",
        opens=opens,
        text=f"{said}; a dose is given in a dosing session (type kap-dosing) that is in progress at that time.",
        source=policy.visit.source,
        evidence=() if visit is None else (f"Encounter/{visit['id']}",),
    )


def _course(situation: Situation, policy: GatePolicy) -> Check:
    title = "Course under way"
    if situation.course is None:
        text = (
            "no course of the patient that is planned or runs is known here (EpisodeOfCare of type kap-course). Open "
            "one, or wait for the news of it."
        )
        return Check("G-COURSE", title, "not-known", text, policy.course.source, closes=True)
    return simple(
        "G-COURSE",
        title,
        opens=situation.course in RUNNING_EPISODE,
        text=f"the patient's course is {situation.course}. See why, settle it, and have a person lift the hold.",
        source=policy.course.source,
    )


def _lot(situation: Situation, policy: GatePolicy) -> Check:
    """Check the product: past its last day it is not given; which lot it is, the ledger may still say."""
    lot, expires = situation.batch.lot, situation.batch.expires
    if expires is not None and expires < day_at(situation.start, situation.zone):
        text = f"the product expired on {expires.isoformat()}. Take another, and put this one aside."
        return simple("G-LOT", "Lot and expiry", opens=False, text=text, source=policy.lot.source)
    said = "In order." if lot and expires else "Lot or expiry is not said. Look at the label, and book the vial."
    verdict: Verdict = "open" if lot and expires else "warned"
    return Check("G-LOT", "Lot and expiry", verdict, said, policy.lot.source, closes=False, value=lot)


def _dilution(situation: Situation, policy: Dilution) -> Iterator[Check]:
    """Yield the check of a concentrated product: into a vein it goes diluted, and with its strength said."""
    if (situation.drug, situation.route) != (policy.drug, policy.route):
        return
    strength, title = situation.batch.strength, "Diluted before intravenous use"
    known = strength is not None or bool(set(situation.batch.codes).intersection(policy.codes))
    strong = known and (strength is None or strength >= policy.at_least)
    limit = f"below {policy.at_least:f} mg/mL"
    if not known:
        text = (
            "the strength is not said. Say it as it is given (parameter strength, mg/mL); a product of "
            f"{policy.at_least:f} mg/mL or more is diluted first."
        )
        yield Check("G-DILUTED", title, "not-known", text, policy.source, closes=True, limit=limit)
        return
    said = f"{policy.at_least:f} mg/mL" if strength is None else f"{strength:f} mg/mL"
    text = f"the product holds {said}. Dilute it, and say the strength as it is given (parameter strength, mg/mL)."
    check = simple("G-DILUTED", title, opens=not strong, text=text, source=policy.source)
    yield replace(check, value=said, limit=limit)


def _chaperone(situation: Situation, policy: GatePolicy) -> Iterator[Check]:
    if situation.at_home:
        yield simple(
            "G-CHAPERONE",
            "Chaperone at home",
            opens=chaperoned(situation.visit),
            text="nobody is named who is with the patient at home (participant of type chaperone). Name him.",
            source=policy.chaperone.source,
        )


def _witness(situation: Situation, policy: Witnessed) -> Iterator[Check]:
    """Yield the check of what a patient takes himself; esketamine has its own, of the REMS."""
    if situation.drug == policy.drug and situation.route in policy.routes:
        yield simple(
            "G-WITNESS",
            "Self-administration observed",
            opens=situation.enrolment.witness and not situation.at_home,
            text="by this route the patient takes it himself, in the clinic and under the eyes of its staff: name the "
            "witness (performer with function witness, a Practitioner or PractitionerRole).",
            source=policy.source,
        )


def _consent_and_order(situation: Situation, policy: GatePolicy) -> Iterator[Check]:
    route = "the route is not said (dosage.route)" if situation.route is None else f"route {situation.route}"
    yield simple(
        "G-CONSENT",
        "Consent for this route",
        opens=situation.route is not None and situation.route in situation.consented,
        text=f"no consent is in force for it: {route}.",
        source=policy.consent.source,
    )
    yield simple(
        "G-ORDER",
        "Order for this drug and route",
        opens=situation.ordered,
        text="no active order of this patient for the drug by this route is known here.",
        source=policy.order.source,
    )


# -- readings ---------------------------------------------------------------------------------------------------------


def _readings(situation: Situation, policy: GatePolicy) -> Iterator[Check]:
    told: set[tuple[str, tuple[str, ...]]] = set()
    for limit in policy.readings.values():
        if (limit.drug is not None and limit.drug != situation.drug) or (limit.home and not situation.at_home):
            continue
        check = _reading(situation, limit, policy)
        if check.verdict == "not-known":
            if (limit.unknown, limit.codes) in told:
                continue
            told.add((limit.unknown, limit.codes))
        yield check


def _reading(situation: Situation, limit: GateLimit, policy: GatePolicy) -> Check:
    """Return the check of one limit.

    The newest reading within the age of a baseline counts; of several of one time the worst does. After one that holds
    the dose the next counts only as long after it as a repeat is to be. One whose time is not said, that is a moment
    ahead of the clock, or whose status does not count, cannot open the gate; but it is never passed over for an older
    one: it can close it.
    """
    earliest = situation.start - timedelta(minutes=policy.baseline_age.minutes)
    latest = situation.start + timedelta(minutes=policy.ahead.minutes)
    charted = [one for one in with_code(situation.readings, limit.codes) if not one.sampled]
    there = [one for one in charted if one.when is None or earliest <= one.when <= latest]
    opening = [one for one in there if _may_open(one, situation.start)]
    newest = max(opening, key=_time, default=None)
    since = MIN_INSTANT if newest is None else _time(newest)
    counted = [
        one for one in there if (_time(one) == since if _may_open(one, situation.start) else _time(one) >= since)
    ]
    values = [(one, one.value_in(limit.units)) for one in counted]
    beyond = [(one, value) for one, value in values if value is not None and limit.is_beyond(value)]
    if beyond:
        return _beyond(situation, limit, policy, *beyond[-1])
    vague = any(value is None or limit.may_be_beyond(value) for _, value in values)
    if newest is None or vague:
        required = limit.required == "always" or (limit.required == "clinic" and not situation.at_home)
        return Check(
            limit.unknown,
            limit.title,
            "not-known",
            f"{limit.title} is not known: no reading that can be understood was taken in this visit within "
            f"{policy.baseline_age.minutes} minutes before the dose. Measure and record it with this Encounter.",
            policy.baseline_age.source,
            closes=required or bool(counted),
            limit=str(limit),
            evidence=tuple(one.reference for one in counted),
        )
    early = _too_early(charted, limit, since, policy)
    if early is not None:
        return early
    value = newest.value_in(limit.units)
    return Check(
        limit.rule,
        limit.title,
        "open",
        "In order.",
        limit.source,
        closes=False,
        value=f"{value} {limit.units[0]}",
        limit=str(limit),
        evidence=(newest.reference,),
    )


def _too_early(readings: Sequence[Reading], limit: GateLimit, taken: datetime, policy: GatePolicy) -> Check | None:
    """Return that a reading within a limit was taken too soon after one that holds the dose; None where it was not."""
    if not limit.repeats:
        return None
    apart = timedelta(minutes=policy.repeat_after.minutes)
    values = [
        (one, value)
        for one in readings
        if (value := one.value_in(limit.units)) is not None
        and limit.is_beyond(value)
        and taken - apart < _time(one) <= taken
    ]
    if not values:
        return None
    held, value = max(values, key=lambda one: _time(one[0]))
    return Check(
        limit.rule,
        limit.title,
        "closed",
        f"{limit.title}: {held.reference} reads {value} {limit.units[0]}, and a repeat counts "
        f"{policy.repeat_after.minutes} minutes after it: from {zulu(_time(held) + apart)} on. Repeat it then.",
        policy.repeat_after.source,
        closes=True,
        value=f"{value} {limit.units[0]}",
        limit=str(limit),
        evidence=(held.reference,),
    )


def _may_open(reading: Reading, start: datetime) -> bool:
    return reading.timed and reading.trusted and reading.when is not None and reading.when <= start


def _time(reading: Reading) -> datetime:
    return reading.when or MIN_INSTANT


def _beyond(situation: Situation, limit: GateLimit, policy: GatePolicy, reading: Reading, value: Value) -> Check:
    repeated = repeats_of(situation.readings, limit, reading, policy)
    decidable = limit.decidable and repeated >= limit.repeats
    decided = [
        one
        for one in situation.decisions
        if decidable and one.rule == limit.rule and reading.when is not None and reading.when <= one.when
    ]
    found = f"{limit.title}: {reading.reference} reads {value} {limit.units[0]}."
    wait = f" Repeated {repeated} of {limit.repeats} times." if limit.decidable and limit.repeats else ""
    return Check(
        limit.rule,
        limit.title,
        "decided" if decided else "closed",
        f"{found} {limit.advice}{wait}" if not decided else f"{found} A prescriber decided to proceed.",
        limit.source,
        closes=not decided,
        value=f"{value} {limit.units[0]}",
        limit=str(limit),
        evidence=(reading.reference, *(one.reference for one in decided[-1:])),
        decidable=decidable,
    )


def repeats_of(readings: Sequence[Reading], limit: GateLimit, newest: Reading, policy: GatePolicy) -> int:
    """Return how many readings beyond the limit stand before `newest`, each as long apart as a repeat is to be."""
    apart = timedelta(minutes=policy.repeat_after.minutes)
    count = 0
    last = newest.when
    earlier = sorted(
        (one for one in with_code(readings, limit.codes) if one.timed and one.trusted and one.when is not None),
        key=_time,
        reverse=True,
    )
    for one in earlier:
        value = one.value_in(limit.units)
        if last is None or value is None or _time(one) > last - apart:
            continue
        if not limit.is_beyond(value):
            break
        count, last = count + 1, one.when
    return count


NEWS: Final = "G-NEWS"
"""The rule that consent, order and flags behind a dose are known as they are now."""


def news_check(situation: Situation, policy: KnowledgePolicy) -> Check:
    """Return whether what the gate stands on is known as it is now; where it may not be, a person is asked.

    A confirmation counts for as long as the policy says: it is of what stood then.
    """
    title = "Consent and order are known as they are now"
    if not situation.unheard:
        return Check(NEWS, title, "open", "In order.", policy.dose.source, closes=False)
    earliest = situation.start - timedelta(minutes=policy.confirmation.minutes)
    confirmed = [one for one in situation.decisions if one.rule == NEWS and one.when >= earliest]
    if confirmed:
        said = f"Confirmed by a person. Not heard: {situation.unheard}."
        return Check(
            NEWS, title, "decided", said, policy.dose.source, closes=False, evidence=(confirmed[-1].reference,)
        )
    return Check(
        NEWS,
        title,
        "ask",
        f"What is known of consent, order and flags may be too old ({situation.unheard}). Ask the patient and the "
        "prescriber whether consent and order still stand, and say who confirmed it: $start-dose with the parameter "
        "confirmedBy, or wait and try again.",
        policy.dose.source,
        closes=True,
        limit=f"{policy.dose.seconds} s",
        decidable=True,
    )
