"""Every rule at the dose has a positive, a negative, a boundary and a "not known" case, in one table.

The gate, a dose as one of a series and its amount, leaving for home, alarms and what is due, visits, values that can
hardly be, the ledger. A rule of the policy, or one that the service's source names, without all four fails the first
test.
"""

from __future__ import annotations

import ast
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import pytest

import services.sessions as service
from services.intake.planning import activities
from services.intake.rules.plans import Template
from services.sessions.rules.alarms import alarms_of, is_not_understood, is_sustained, symptoms_in
from services.sessions.rules.amounts import Dose
from services.sessions.rules.answers import NOT_ENROLLED, Asked
from services.sessions.rules.checks import Decision, issues_of
from services.sessions.rules.claims import begins_ahead, is_sent_again
from services.sessions.rules.decisions import Decider, against_deciding, lacks_to_decide
from services.sessions.rules.gate import Batch, gate, news_check
from services.sessions.rules.leaving import Leaving, against_going_home
from services.sessions.rules.monitoring import implausible, is_missed
from services.sessions.rules.psychotherapy import code_of, has_begun, is_unmade, lacking, technique_concept
from services.sessions.rules.series import SERIES_RULES, Before, series_checks
from services.sessions.rules.substances import against
from services.sessions.rules.summary import is_tampered_with
from services.sessions.rules.visits import is_of_another
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import PlannedDose
from tests.unit.sessions.situations import (
    ENROLLED,
    NOW,
    OPEN,
    OTHERS,
    POLICY,
    SETTING,
    VISIT,
    asked,
    pressures,
    reading,
)
from tests.unit.sessions.test_alarms import POLICY as ALARMS
from tests.unit.sessions.test_alarms import pressure
from tests.unit.sessions.test_amounts import IM, IV, NASAL, closing, dose
from tests.unit.sessions.test_limits import vital

KINDS = {"positive", "negative", "boundary", "not known"}
CODES = ("G-", "L-", "A-", "M-", "C-", "V-", "E")
MISSING: Any = object()


class Case(NamedTuple):
    """One case: what it is about, the rules that speak up, and whether this one does."""

    kind: str
    what: str
    judged: Callable[[], set[str]]
    speaks: bool


# -- the gate ---------------------------------------------------------------------------------------------------------


def at_gate(**more: Any) -> Callable[[], set[str]]:
    """Return which rules do not say that all is in order."""

    def judged() -> set[str]:
        found = gate(replace(OPEN, **more), POLICY)
        assert all(one.source and one.text for one in found)
        return {one.rule for one in found if one.verdict not in ("open", "decided")}

    return judged


def measured(*readings: Any) -> dict[str, Any]:
    """Return readings in the place of those of the same kind."""
    held = {code for one in readings for code in one.codes}
    both = {"59408-5", "2708-6"}
    others = [
        one for one in (*pressures(), *OTHERS) if not held & {*one.codes, *(both if both & set(one.codes) else ())}
    ]
    return {"readings": (*others, *readings)}


def of_pressure(*values: Any, **more: Any) -> Callable[[], set[str]]:
    return at_gate(**measured(*pressures(*values)), **more)


CHAPERONE = {"type": [codes.CHAPERONE.concept()], "individual": {"display": "Her brother"}}
HOME = {**VISIT, "class": {"code": "VR"}, "participant": [CHAPERONE]}
INPATIENT = {**VISIT, "class": {"code": "IMP"}}
NASAL_ROUTE = {"drug": "esketamine", "route": NASAL, "consented": frozenset({NASAL})}
VEIN = {"route": IV, "consented": frozenset({IV})}
TODAY = NOW.date()


def spray(**more: Any) -> dict[str, Any]:
    return {**NASAL_ROUTE, **more}


def sniffed(**more: Any) -> dict[str, Any]:
    """Return ketamine as a nasal spray that a pharmacy made."""
    return {"route": NASAL, "consented": frozenset({NASAL}), **more}


def product(**more: Any) -> dict[str, Any]:
    return {"batch": Batch("L7", date(2030, 1, 1), **more)}


def ended(seconds: int) -> dict[str, Any]:
    """Return a visit whose last second began so many seconds after now."""
    period = {"start": "2026-11-22T08:00:00Z", "end": zulu(NOW + timedelta(seconds=seconds))}
    return {"visit": {**VISIT, "status": "finished", "period": period}}


def decided(rule: str, minutes: float) -> tuple[Decision, ...]:
    return (Decision(rule, NOW + timedelta(minutes=minutes), "DetectedIssue/1"),)


def by_answer(link: str, *, bad: Any, fine: Any, **more: Any) -> list[Case]:
    """Return the cases that every question before a dose has."""
    return [
        Case("positive", f"{link} {bad}", at_gate(asked=asked(**{link: bad}), **more), True),
        Case("negative", f"{link} {fine}", at_gate(asked=asked(**{link: fine}), **more), False),
        Case("not known", f"{link} not answered", at_gate(asked=asked(**{link: None}), **more), True),
        Case("not known", f"{link} answered in no form", at_gate(asked=asked(**{link: "perhaps"}), **more), True),
    ]


def news(unheard: str, minutes: float | None = None) -> Callable[[], set[str]]:
    made = () if minutes is None else decided("G-NEWS", minutes)
    situation = replace(OPEN, unheard=unheard, decisions=made)
    return lambda: {"G-NEWS"} if news_check(situation, SETTING.knowledge).closes else set()


def begins(minutes: float) -> Callable[[], set[str]]:
    return lambda: {str(one.rule) for one in begins_ahead(NOW + timedelta(minutes=minutes), NOW, POLICY)}


def sent(seconds: float | None = 0, amount: float = 70, **more: Any) -> Callable[[], set[str]]:
    """Begin a dose so many seconds after one that was begun; None: when that began is not said."""
    milligrams = {"value": 70, "system": codes.UCUM, "code": "mg"}
    asked_for = {"effectivePeriod": {"start": zulu(NOW)}, "dosage": {"dose": {**milligrams, "value": amount}}}
    began = {} if seconds is None else {"effectiveDateTime": zulu(NOW - timedelta(seconds=seconds))}
    begun = {"status": "in-progress", **began, "dosage": {"dose": milligrams}, **more}
    again = is_sent_again(begun, asked_for, POLICY)
    return lambda: {"G-AGAIN"} if again else set()


def decides(
    author: str | None, user: str | None, why: str = "Weighed.", client: str | None = None, date: str | None = "2026"
) -> Callable[[], set[str]]:
    made = {"action": {"text": why}, **({} if date is None else {"date": date})}
    found = [str(one.rule) for one in against_deciding(made, author, user, client, "")]
    return lambda: set(found)


def may_decide(until: str | None = "2026-11-22", role: str = "prescriber", **person: Any) -> Callable[[], set[str]]:
    """Let somebody decide at NOW whose licence ends on a day; None: the licence does not say from when to when."""
    licence = {} if until is None else {"period": {"start": "2020-01-01", "end": until}}
    roles = [{"code": [codes.Code(codes.KAP, role).concept()], "period": {"start": "2020-01-01"}}]
    who = Decider("Practitioner/d", {"qualification": [licence], **person}, roles)
    lacking = lacks_to_decide(who, SETTING.series.prescriber.roles, NOW)
    return lambda: {"E-OVERRIDE"} if lacking else set()


AHEAD = POLICY.ahead.minutes
AGAIN = POLICY.again.seconds
CONFIRMED = SETTING.knowledge.confirmation.minutes
HOLDS = ("DetectedIssue/1",)
GATE: dict[str, list[Case]] = {
    "E-OVERRIDE": [
        Case("positive", "a nurse for a prescriber", decides("Practitioner/doctor", "Practitioner/nurse"), True),
        Case("positive", "without a reason", decides("Practitioner/doctor", "Practitioner/doctor", ""), True),
        Case("negative", "his own", decides("Practitioner/doctor", "Practitioner/doctor"), False),
        Case("positive", "without its time", decides("Practitioner/doctor", "Practitioner/doctor", date=None), True),
        Case("positive", "a program by its token", decides("Practitioner/doctor", None, client="a-program"), True),
        Case("positive", "whose licence ended yesterday", may_decide("2026-11-21"), True),
        Case("positive", "who is a nurse", may_decide(role="monitor-nurse"), True),
        Case("positive", "who left the clinic", may_decide(active=False), True),
        Case("negative", "a prescriber with his licence", may_decide("2035-12-31"), False),
        Case("boundary", "on the last day of his licence", may_decide("2026-11-22"), False),
        Case("not known", "until when his licence is valid", may_decide(None), True),
        Case("boundary", "where no token is asked for", decides("Practitioner/doctor", None), False),
        Case("boundary", "a reason of blanks", decides("Practitioner/doctor", None, "  "), True),
        Case("not known", "whose it is: it opens nothing", decides(None, "Practitioner/nurse"), False),
    ],
    "G-AGAIN": [
        Case("positive", "the same dose at once", sent(), True),
        Case("positive", "over by now", sent(30, status="completed"), True),
        Case("negative", "of another amount", sent(amount=35), False),
        Case("negative", "by another nurse", sent(performer=[{"actor": {"reference": "Practitioner/other"}}]), False),
        Case("negative", "the first was entered in error", sent(status="entered-in-error"), False),
        Case("boundary", "after as long as the policy says", sent(AGAIN), True),
        Case("boundary", "a second longer", sent(AGAIN + 1), False),
        Case("not known", "when the first began", sent(None), False),
    ],
    "G-VISIT": [
        Case("positive", "it has not begun", at_gate(visit={**VISIT, "status": "arrived"}), True),
        Case("negative", "it goes on", at_gate(), False),
        Case("boundary", "it ended in that second", at_gate(**ended(0)), False),
        Case("boundary", "it ended the second before", at_gate(**ended(-1)), True),
        Case("not known", "no visit is held", at_gate(visit=None), True),
    ],
    "G-COURSE": [
        Case("positive", "on hold", at_gate(course="onhold"), True),
        Case("negative", "it runs", at_gate(course="active"), False),
        Case("boundary", "planned, and not begun", at_gate(course="planned"), False),
        Case("not known", "none is held", at_gate(course=None), True),
    ],
    "G-CONSENT": [
        Case("positive", "to another route", at_gate(consented=frozenset({IV})), True),
        Case("negative", "to this one", at_gate(), False),
        Case("boundary", "to this one among others", at_gate(consented=frozenset({IV, IM})), False),
        Case("not known", "the route is not said", at_gate(route=None), True),
        Case("not known", "none is held", at_gate(consented=frozenset()), True),
    ],
    "G-ORDER": [
        Case("positive", "none in force", at_gate(ordered=False), True),
        Case("negative", "one in force", at_gate(ordered=True), False),
        Case("boundary", "none, though all else is there", at_gate(ordered=False, course="active"), True),
        Case("not known", "none is known here", at_gate(ordered=False, consented=frozenset()), True),
    ],
    "G-TIME": [
        Case("positive", "in an hour", begins(60), True),
        Case("negative", "now", begins(0), False),
        Case("boundary", "a moment ahead of the clock", begins(AHEAD), False),
        Case("boundary", "a second more", begins(AHEAD + 1 / 60), True),
        Case("not known", "a time that was not said is now", begins(0), False),
    ],
    "G-LOT": [
        Case("positive", "expired", at_gate(batch=Batch("L7", TODAY - timedelta(days=1))), True),
        Case("negative", "good for years", at_gate(**product()), False),
        Case("boundary", "its last day", at_gate(batch=Batch("L7", TODAY)), False),
        Case("not known", "nothing is said", at_gate(batch=Batch()), True),
    ],
    "G-DILUTED": [
        Case("positive", "100 mg/mL and more", at_gate(**VEIN, **product(strength=Decimal(150))), True),
        Case("negative", "1 mg/mL", at_gate(**VEIN, **product(strength=Decimal(1))), False),
        Case("negative", "into a muscle", at_gate(**product(strength=Decimal(150))), False),
        Case("boundary", "100 mg/mL", at_gate(**VEIN, **product(strength=Decimal(100))), True),
        Case("boundary", "a little less", at_gate(**VEIN, **product(strength=Decimal("99.9"))), False),
        Case("not known", "the strength is not said", at_gate(**VEIN, **product()), True),
    ],
    "G-CHAPERONE": [
        Case("positive", "nobody at home", at_gate(visit={**HOME, "participant": []}), True),
        Case("negative", "somebody", at_gate(visit=HOME), False),
        Case("negative", "in the clinic", at_gate(), False),
        Case(
            "boundary",
            "somebody of another part",
            at_gate(visit={**HOME, "participant": [{**CHAPERONE, "type": [{"text": "friend"}]}]}),
            True,
        ),
        Case("not known", "not said who", at_gate(visit={**HOME, "participant": [{"type": CHAPERONE["type"]}]}), True),
    ],
    "G-BP": [
        Case("positive", "none of today", at_gate(**measured(*pressures(minutes=120))), True),
        Case("negative", "a minute ago", at_gate(**measured(*pressures(minutes=1))), False),
        Case("boundary", "30 minutes ago", at_gate(**measured(*pressures(minutes=30))), False),
        Case("boundary", "31 minutes ago", at_gate(**measured(*pressures(minutes=31))), True),
        Case("not known", "none", at_gate(readings=OTHERS), True),
        Case("not known", "in another unit", at_gate(**measured(*pressures(16, 10, unit="kPa"))), True),
    ],
    "G-BP-STOP": [
        Case("positive", "200/120", of_pressure(200, 120), True),
        Case("negative", "120/80", of_pressure(120, 80), False),
        Case("boundary", "180", of_pressure(180, 80), True),
        Case("boundary", "110", of_pressure(120, 110), True),
        Case("boundary", "179/109", of_pressure(179, 109), False),
        Case("boundary", "a decision does not open it", of_pressure(180, 80, decisions=decided("G-BP-STOP", 0)), True),
        Case("not known", "none: G-BP says so", at_gate(readings=OTHERS), False),
    ],
    "G-BP-HOLD": [
        Case("positive", "170/105", of_pressure(170, 105), True),
        Case("negative", "120/80", of_pressure(120, 80), False),
        Case("boundary", "160", of_pressure(160, 80), True),
        Case("boundary", "100", of_pressure(120, 100), True),
        Case("boundary", "159/99", of_pressure(159, 99), False),
        Case("positive", "70/35", of_pressure(70, 35), True),
        Case("boundary", "90/50", of_pressure(90, 50), False),
        Case("boundary", "89", of_pressure(89, 50), True),
        Case("boundary", "49", of_pressure(90, 49), True),
        Case("not known", "none: G-BP says so", at_gate(readings=OTHERS), False),
    ],
    "G-BP-RISK": [
        Case("positive", "150/95", of_pressure(150, 95, **spray()), True),
        Case("negative", "120/80", of_pressure(120, 80, **spray()), False),
        Case("negative", "ketamine has none", of_pressure(150, 95), False),
        Case("boundary", "140/90", of_pressure(140, 90, **spray()), False),
        Case("boundary", "141", of_pressure(141, 90, **spray()), True),
        Case("boundary", "91", of_pressure(140, 91, **spray()), True),
        Case("not known", "none: G-BP says so", at_gate(readings=OTHERS, **spray()), False),
    ],
    "G-BP-HOME": [
        Case("positive", "155/95", of_pressure(155, 95, visit=HOME), True),
        Case("negative", "120/80", of_pressure(120, 80, visit=HOME), False),
        Case("negative", "in the clinic", of_pressure(155, 95), False),
        Case("boundary", "150", of_pressure(150, 80, visit=HOME), True),
        Case("boundary", "90", of_pressure(120, 90, visit=HOME), True),
        Case("boundary", "149/89", of_pressure(149, 89, visit=HOME), False),
        Case("not known", "none: G-BP says so", at_gate(readings=OTHERS, visit=HOME), False),
    ],
    "G-SPO2": [
        Case("positive", "91 %", at_gate(**measured(reading("59408-5", 91, "%"))), True),
        Case("negative", "98 %", at_gate(**measured(reading("59408-5", 98, "%"))), False),
        Case("boundary", "94 %", at_gate(**measured(reading("59408-5", 94, "%"))), False),
        Case("boundary", "93.9 %", at_gate(**measured(reading("59408-5", Decimal("93.9"), "%"))), True),
        Case("not known", "none in the clinic", at_gate(readings=(*pressures(), OTHERS[0])), True),
    ],
    "G-SPO2-STOP": [
        Case("positive", "85 %", at_gate(**measured(reading("2708-6", 85, "%"))), True),
        Case("negative", "98 %", at_gate(**measured(reading("2708-6", 98, "%"))), False),
        Case("boundary", "90 %", at_gate(**measured(reading("2708-6", 90, "%"))), False),
        Case("boundary", "89.9 %", at_gate(**measured(reading("2708-6", Decimal("89.9"), "%"))), True),
        Case("not known", "none: G-SPO2 says so", at_gate(readings=(*pressures(), OTHERS[0])), False),
    ],
    "G-HR": [
        Case("positive", "130", at_gate(**measured(reading("8867-4", 130, "/min"))), True),
        Case("negative", "72", at_gate(**measured(reading("8867-4", 72, "/min"))), False),
        Case("boundary", "50", at_gate(**measured(reading("8867-4", 50, "/min"))), False),
        Case("boundary", "49", at_gate(**measured(reading("8867-4", 49, "/min"))), True),
        Case("boundary", "110", at_gate(**measured(reading("8867-4", 110, "/min"))), False),
        Case("boundary", "111", at_gate(**measured(reading("8867-4", 111, "/min"))), True),
        Case("not known", "none in the clinic", at_gate(readings=(*pressures(), OTHERS[1])), True),
    ],
    "E25": [
        *by_answer("escort", bad=False, fine=True),
        Case("boundary", "one without a name", at_gate(asked=asked(escort_name=" ")), True),
    ],
    "E11": [
        *by_answer("intoxicated", bad=True, fine=False),
        Case("boundary", "nothing was asked today", at_gate(asked=None), True),
    ],
    "E12": [
        *by_answer("pregnant", bad=True, fine=False),
        *by_answer("breastfeeding", bad=True, fine=False),
        Case("boundary", "not asked of a man", at_gate(asked=asked(pregnant=None), gender="male"), False),
        Case("boundary", "asked of somebody of unknown gender", at_gate(asked=asked(pregnant=None)), True),
    ],
    "G-SUICIDE": [
        *by_answer("suicidality", bad=True, fine=False),
        Case("positive", "a flag is up", at_gate(flags=(("Flag/1", NOW),)), True),
        Case("boundary", "decided since", at_gate(flags=(("Flag/1", NOW),), decisions=decided("G-SUICIDE", 0)), False),
        Case("boundary", "decided before", at_gate(flags=(("Flag/1", NOW),), decisions=decided("G-SUICIDE", -1)), True),
    ],
    "G-FAST": [
        *by_answer("food_hours", bad=Decimal(1), fine=Decimal(3), **spray()),
        *by_answer("drink_minutes", bad=10, fine=45, **spray()),
        Case("boundary", "two hours", at_gate(asked=asked(food_hours=Decimal(2)), **spray()), False),
        Case("boundary", "a little less", at_gate(asked=asked(food_hours=Decimal("1.9")), **spray()), True),
        Case("boundary", "30 minutes", at_gate(asked=asked(drink_minutes=30), **spray()), False),
        Case("boundary", "29 minutes", at_gate(asked=asked(drink_minutes=29), **spray()), True),
        Case("boundary", "a spray an hour ago", at_gate(asked=asked(nasal=True, nasal_minutes=60), **spray()), False),
        Case("boundary", "a minute less", at_gate(asked=asked(nasal=True, nasal_minutes=59), **spray()), True),
        Case("negative", "ketamine asks no fast", at_gate(asked=asked(food_hours=Decimal(0))), False),
    ],
    "G-SUBSTANCE": [
        *by_answer("substances", bad=True, fine=False),
        Case("boundary", "nothing was asked today", at_gate(asked=None), True),
    ],
    "G-BENZODIAZEPINE": [
        *by_answer("benzodiazepine", bad=True, fine=False),
        Case("boundary", "nothing was asked today", at_gate(asked=None), True),
    ],
    "G-HOLD": [
        Case("positive", "it was not", at_gate(holds=HOLDS, asked=asked(held=False)), True),
        Case("negative", "it was", at_gate(holds=HOLDS, asked=asked(held=True)), False),
        Case("negative", "nothing is to be held", at_gate(asked=asked(held=False)), False),
        Case(
            "boundary",
            "a prescriber decided since",
            at_gate(holds=HOLDS, asked=asked(held=False), decisions=decided("G-HOLD", 0)),
            False,
        ),
        Case("not known", "nobody asked", at_gate(holds=HOLDS, asked=asked(held=None)), True),
    ],
    "G-REMS-SITE": [
        Case("positive", "not certified", at_gate(enrolment=replace(ENROLLED, site=False), **spray()), True),
        Case("negative", "certified", at_gate(**spray()), False),
        Case("boundary", "ketamine needs none", at_gate(enrolment=replace(ENROLLED, site=False)), False),
        Case("not known", "no place is held", at_gate(enrolment=replace(ENROLLED, site=False), **spray()), True),
    ],
    "G-REMS-PATIENT": [
        Case("positive", "not enrolled", at_gate(enrolment=replace(ENROLLED, patient=False), **spray()), True),
        Case("negative", "enrolled", at_gate(**spray()), False),
        Case(
            "boundary",
            "an inpatient is not",
            at_gate(enrolment=replace(ENROLLED, patient=False), visit=INPATIENT, **spray()),
            False,
        ),
        Case("not known", "no visit", at_gate(enrolment=replace(ENROLLED, patient=False), visit=None, **spray()), True),
    ],
    "G-REMS-WITNESS": [
        Case("positive", "nobody", at_gate(enrolment=replace(ENROLLED, witness=False), **spray()), True),
        Case("negative", "somebody", at_gate(**spray()), False),
        Case("boundary", "somebody, by video", at_gate(visit=HOME, **spray()), True),
        Case("not known", "not said", at_gate(enrolment=replace(ENROLLED, witness=False), **spray()), True),
    ],
    "G-WITNESS": [
        Case("positive", "nobody", at_gate(enrolment=replace(ENROLLED, witness=False), **sniffed()), True),
        Case("negative", "somebody", at_gate(**sniffed()), False),
        Case("negative", "into a muscle", at_gate(enrolment=replace(ENROLLED, witness=False)), False),
        Case("boundary", "somebody, by video", at_gate(visit=HOME, **sniffed()), True),
        Case(
            "boundary", "esketamine has its own", at_gate(enrolment=replace(ENROLLED, witness=False), **spray()), False
        ),
        Case("not known", "no visit is held", at_gate(visit=None, enrolment=NOT_ENROLLED, **sniffed()), True),
    ],
    "G-NEWS": [
        Case("positive", "too old", news("intake for 3 min"), True),
        Case("negative", "all is known", news(""), False),
        Case("boundary", "confirmed as long ago as counts", news("intake for 3 min", -CONFIRMED), False),
        Case("boundary", "confirmed longer ago", news("intake for 3 min", -CONFIRMED - 1), True),
        Case("not known", "never heard", news("intake, never"), True),
    ],
}

# -- a dose as one of a series ----------------------------------------------------------------------------------------


def other(days: float, *, order: str | None = "o", visit: str | None = "before", **more: Any) -> Dose:
    made = Dose(f"MedicationAdministration/{days}", NOW - timedelta(days=days), order, visit, Decimal(70))
    return replace(made, **more)


def plan(sessions: int, *, days: int = 7, created: float = 30, **more: Any) -> dict[str, Any]:
    """Return the plan of a course as `$plan` writes it, made so many days ago."""
    template = Template(
        title="Plan",
        drug="ketamine",
        route=IM,
        doses=(),
        sessions=sessions,
        days_between=days,
        preparation=1,
        integration=1,
        followup=1,
        team=(),
        source="",
        verified=False,
    )
    dose = PlannedDose("ketamine", IM, 1, sessions, {"value": 70, "unit": "mg"}, Decimal(days))
    made = {
        "resourceType": "CarePlan",
        "id": "p",
        "status": "active",
        "category": [codes.PLAN.concept()],
        "created": zulu(NOW - timedelta(days=created)),
        "activity": [{"detail": one} for one in activities(template, [dose])],
    }
    return {**made, **more}


def sessions_ordered(count: int | None) -> dict[str, Any]:
    repeat = {} if count is None else {"timing": {"repeat": {"count": count}}}
    return {"id": "o", "authoredOn": "2026-10-01", "dosageInstruction": [{"route": {}, **repeat}]}


def decided_before(*doses: Dose, rule: str, minutes: float) -> Any:
    """Return which rules close the gate where somebody decided on a rule so many minutes before a dose was known."""
    before = Before(NOW, "ketamine", IM, doses=doses, visit="v", order=sessions_ordered(99), plans=[plan(1)])
    made = [Decision(one, NOW, "DetectedIssue/1", NOW - timedelta(minutes=minutes)) for one in SERIES_RULES]
    return lambda: {one.rule for one in series_checks(before, SETTING.series, made) if one.closes and one.rule == rule}


def in_series(*doses: Dose, order: Any = None, plans: Any = (), minutes: float | None = None, **more: Any) -> Any:
    """Return which rules close the gate to a dose into a muscle after others; `minutes`: since somebody decided."""
    ordered = sessions_ordered(99) if order is None else order
    before = replace(Before(NOW, "ketamine", IM, doses=doses, visit="v", order=ordered, plans=plans), **more)
    made = () if minutes is None else (*decided("G-SERIES", -minutes), *decided("G-SPACING", -minutes))
    return lambda: {one.rule for one in series_checks(before, SETTING.series, made) if one.closes}


def at_home(drug: str = "ketamine", route: str | None = "37839007", *, home: bool = True) -> Any:
    return in_series(drug=drug, route=route, at_home=home)


LATE = datetime(2026, 11, 23, 4, tzinfo=UTC)
"""A Monday in UTC, and still the Sunday in New York."""
NEW_YORK = ZoneInfo("America/New_York")
KNOWN = replace(other(1), known=NOW)
"""A dose of yesterday that is put on record now."""
AFTER = replace(KNOWN, when=NOW + timedelta(hours=1))
SERIES: dict[str, list[Case]] = {
    "G-SERIES": [
        Case("positive", "a second session on an order for one", in_series(other(7), order=sessions_ordered(1)), True),
        Case("positive", "more than the plan has", in_series(other(7), other(14, visit="b"), plans=[plan(2)]), True),
        Case("negative", "the first", in_series(order=sessions_ordered(1), plans=[plan(2)]), False),
        Case("negative", "on another order", in_series(other(7, order="x"), order=sessions_ordered(1)), False),
        Case("negative", "a further dose of this session", in_series(other(0, visit="v"), plans=[plan(1)]), False),
        Case("boundary", "the last of an order", in_series(other(7), order=sessions_ordered(2)), False),
        Case("boundary", "the last of the plan", in_series(other(7), plans=[plan(2)]), False),
        Case("boundary", "two doses of one session", in_series(other(7), other(7), plans=[plan(2)]), False),
        Case("boundary", "held before the plan was made", in_series(other(40), plans=[plan(1)]), False),
        Case("boundary", "a prescriber decided on the plan", in_series(other(8), plans=[plan(1)], minutes=1), False),
        Case("positive", "decided before another was known", decided_before(KNOWN, rule="G-SERIES", minutes=1), True),
        Case("boundary", "decided when it was known", decided_before(KNOWN, rule="G-SERIES", minutes=0), False),
        Case("boundary", "he orders, rather", in_series(other(8), order=sessions_ordered(1), minutes=1), True),
        Case(
            "not known", "an order without a number is for one", in_series(other(7), order=sessions_ordered(None)), True
        ),
        Case(
            "not known", "on which order it was given", in_series(other(7, order=None), order=sessions_ordered(1)), True
        ),
        Case("not known", "when it was given", in_series(other(7, when=None), plans=[plan(1)]), True),
    ],
    "G-HOME": [
        Case("positive", "into a muscle", at_home(route=IM), True),
        Case("positive", "esketamine", at_home("esketamine", NASAL), True),
        Case("negative", "a lozenge", at_home(), False),
        Case("negative", "into a muscle, in the clinic", at_home(route=IM, home=False), False),
        Case("boundary", "a tablet", at_home(route="26643006"), False),
        Case("boundary", "ketamine as a spray", at_home(route=NASAL), True),
        Case("not known", "the route", at_home(route=None), True),
    ],
    "G-SPACING": [
        Case("positive", "yesterday", in_series(other(1)), True),
        Case("positive", "sooner than planned", in_series(other(6), plans=[plan(9)]), True),
        Case("negative", "a week ago", in_series(other(7), plans=[plan(9)]), False),
        Case("negative", "the first", in_series(), False),
        Case("boundary", "two days ago, an hour less", in_series(other(2 - 1 / 24)), False),
        Case(
            "boundary",
            "two days by the clinic's days, one by UTC's",
            in_series(other(0, when=LATE - timedelta(hours=25)), start=LATE + timedelta(hours=2), zone=NEW_YORK),
            False,
        ),
        Case(
            "boundary",
            "a day by the clinic's days, two by UTC's",
            in_series(other(0, when=LATE - timedelta(hours=29)), start=LATE, zone=NEW_YORK),
            True,
        ),
        Case("boundary", "a prescriber decided", in_series(other(1), minutes=1), False),
        Case("positive", "decided before another was known", decided_before(KNOWN, rule="G-SPACING", minutes=1), True),
        Case("boundary", "decided when it was known", decided_before(KNOWN, rule="G-SPACING", minutes=0), False),
        Case("boundary", "one after it", decided_before(AFTER, rule="G-SPACING", minutes=1), False),
        Case("not known", "when the last was", in_series(other(1, when=None)), True),
        Case("not known", "whose session it was", in_series(other(0, visit=None)), True),
    ],
}

# -- the amount of a dose ---------------------------------------------------------------------------------------------


def amount(value: Any, **more: Any) -> Callable[[], set[str]]:
    return lambda: set(closing(value, **more))


def devices(minutes: float | None, decisions: tuple[Decision, ...] = ()) -> Callable[[], set[str]]:
    other = dose(28, 0 if minutes is None else minutes)
    if minutes is None:
        other = replace(other, when=None)
    return amount(28, drug="esketamine", route=NASAL, others=[other], decisions=decisions)


AMOUNTS: dict[str, list[Case]] = {
    "G-DOSE": [
        Case("positive", "less than nothing", amount(-1), True),
        Case("negative", "as ordered", amount(70), False),
        Case("boundary", "nothing", amount(0), True),
        Case("boundary", "a thousandth of a milligram", amount(Decimal("0.001")), False),
        Case("not known", "not said", amount(None), True),
        Case("not known", "how much was given before", amount(10, others=[dose(None)]), True),
    ],
    "G-DOSE-ORDER": [
        Case("positive", "twice what is ordered", amount(140), True),
        Case("negative", "half of it", amount(35), False),
        Case("boundary", "rounded up", amount(Decimal("73.5")), False),
        Case("boundary", "a little more", amount(Decimal("73.6")), True),
        Case("boundary", "the rest of it", amount(30, others=[dose(40)]), False),
        Case("not known", "how much was given before: G-DOSE says so", amount(10, others=[dose(None)]), False),
    ],
    "G-DOSE-MAX": [
        Case("positive", "5 g", amount(5000), True),
        Case("negative", "70 mg", amount(70), False),
        Case("boundary", "2 mg a kg into a muscle", amount(140), False),
        Case("boundary", "more than that and its rounding", amount(148), True),
        Case("not known", "a route for which the policy has none", amount(1, route="34206005"), True),
        Case("not known", "how much was given before: G-DOSE says so", amount(10, others=[dose(None)]), False),
    ],
    "G-WEIGHT": [
        Case("positive", "he weighs half of what he did", amount(35, kilograms=35, kilograms_ordered=70), True),
        Case("negative", "he weighs the same", amount(70, kilograms=70, kilograms_ordered=70), False),
        Case("negative", "a tablet for everybody alike", amount(70, route="37839007", kilograms_ordered=30), False),
        Case("boundary", "a tenth less", amount(63, kilograms=63, kilograms_ordered=70), False),
        Case("boundary", "a tenth more", amount(70, kilograms=77, kilograms_ordered=70), False),
        Case("boundary", "a little less than that", amount(62, kilograms="62.9", kilograms_ordered=70), True),
        Case("boundary", "a little more than that", amount(70, kilograms="77.1", kilograms_ordered=70), True),
        Case(
            "boundary",
            "a prescriber decided",
            amount(35, kilograms=35, kilograms_ordered=70, decisions=decided("G-WEIGHT", 0)),
            False,
        ),
        Case("not known", "what he weighed then", amount(70, kilograms_ordered=None), True),
        Case("positive", "no weight of the last days", amount(70, kilograms=None), True),
        Case("negative", "weighed", amount(70), False),
        Case("boundary", "a lozenge needs none", amount(70, kilograms=None, route="37839007"), False),
        Case("not known", "by weight, of somebody not weighed", amount(1, kilograms=None), True),
    ],
    "G-DEVICE": [
        Case("positive", "a minute apart", devices(1), True),
        Case("negative", "ten minutes apart", devices(10), False),
        Case("positive", "long after the first", devices(110), True),
        Case("boundary", "half an hour after the first", devices(30), False),
        Case("boundary", "a second more", devices(30 + 1 / 60), True),
        Case(
            "boundary", "long after it, and a prescriber decided since", devices(110, decided("G-DEVICE", -60)), False
        ),
        Case("boundary", "he decided before it", devices(110, decided("G-DEVICE", -111)), True),
        Case("boundary", "five minutes", devices(5), False),
        Case("boundary", "a second less", devices(5 - 1 / 60), True),
        Case("not known", "when the other was", devices(None), True),
    ],
}

# -- leaving for home -------------------------------------------------------------------------------------------------

GONE = NOW + timedelta(minutes=180)
READY = {
    **dict.fromkeys(("aldrete-activity", "aldrete-respiration", "aldrete-circulation"), 2),
    **dict.fromkeys(("aldrete-consciousness", "aldrete-saturation"), 2),
    "sedation": False,
    **dict.fromkeys(("oriented", "gait", "fluids", "escort-present", "taught-driving", "taught-alcohol", "safe"), True),
    "escort-name": "Her brother",
    "escort-identity": "Driving licence",
}


def leaves(minutes_asked: float = 0, *, at: Any = GONE, until: Any = GONE, now: Any = GONE, **more: Any) -> Any:
    """Return what speaks against going home three hours after the dose; `more`: readings, or other answers."""
    bp = more.pop("bp", (120, 80))
    before = more.pop("before", (120, 80))
    unsure = [replace(one, trusted=False) for one in more.pop("unsure", ())]
    known = {name: more.pop(name) for name in ("alarms", "baseline", "flags") if name in more}
    answers = {**READY, **{name.replace("_", "-"): value for name, value in more.items()}}
    said = {name: value for name, value in answers.items() if value is not None}

    def judged() -> set[str]:
        after = [] if bp is None else pressures(*bp, minutes=-175)
        leaving = Leaving(
            when=at,
            now=now,
            until=until,
            asked=Asked("QuestionnaireResponse/1", at - timedelta(minutes=minutes_asked), said),
            readings=[*pressures(*before, minutes=5), *after, *unsure],
            first=NOW,
            **known,
        )
        return {str(one.rule) for one in against_going_home(leaving, SETTING.discharge, SETTING.alarms)}

    return judged


AGE = SETTING.discharge.age.minutes
MINUTE = timedelta(minutes=1)


def checklist(link: str, *, bad: Any) -> list[Case]:
    """Return the cases that every item of the checklist has."""
    return [
        Case("positive", f"{link} {bad}", leaves(**{link: bad}), True),
        Case("negative", f"{link} as it is to be", leaves(), False),
        Case("boundary", "asked as long ago as counts", leaves(AGE), False),
        Case("boundary", "asked longer ago", leaves(AGE + 1), True),
        Case("not known", f"{link} not answered", leaves(**{link: None}), True),
    ]


def flagged(minutes: float, code: str) -> tuple[str, Any, frozenset[str]]:
    """Return a Flag for suicidality that went up so long after the checklist was answered."""
    return "Flag/1", GONE + timedelta(minutes=minutes), frozenset((code,))


LEAVING: dict[str, list[Case]] = {
    "L-STAY": [
        Case("positive", "an hour early", leaves(until=GONE + 60 * MINUTE), True),
        Case("negative", "an hour later", leaves(until=GONE - 60 * MINUTE), False),
        Case("boundary", "to the minute", leaves(until=GONE), False),
        Case("boundary", "a second early", leaves(until=GONE + MINUTE / 60), True),
        Case("not known", "a dose goes on", leaves(until=None), True),
    ],
    "L-TIME": [
        Case("positive", "tomorrow", leaves(now=NOW - timedelta(days=1)), True),
        Case("negative", "an hour ago", leaves(now=GONE + 60 * MINUTE), False),
        Case("boundary", "a minute ahead", leaves(now=GONE - MINUTE), False),
        Case("boundary", "a little more", leaves(now=GONE - MINUTE - MINUTE / 60), True),
        Case("not known", "a time that was not said is now", leaves(now=GONE), False),
    ],
    "L-ALDRETE": [
        Case("positive", "6 of 10", leaves(aldrete_activity=0, aldrete_respiration=0), True),
        Case("negative", "10 of 10", leaves(), False),
        Case("boundary", "9 of 10", leaves(aldrete_activity=1), False),
        Case("boundary", "8 of 10", leaves(aldrete_activity=0), True),
        Case("boundary", "8, which is his baseline", leaves(aldrete_activity=0, baseline=8), False),
        Case("boundary", "8, which is below his baseline", leaves(aldrete_activity=0, baseline=9), True),
        Case("not known", "a baseline that was said at leaving", leaves(aldrete_activity=0, aldrete_baseline=8), True),
        Case("not known", "an item is missing", leaves(aldrete_activity=None), True),
        Case("not known", "an item of 3", leaves(aldrete_activity=3), True),
    ],
    "L-BP": [
        Case("positive", "170/80", leaves(bp=(170, 80)), True),
        Case("negative", "120/80", leaves(), False),
        Case("boundary", "159/99", leaves(bp=(159, 99)), False),
        Case("boundary", "90/50", leaves(bp=(90, 50), before=(140, 90)), False),
        Case("boundary", "89", leaves(bp=(89, 60), before=(140, 90)), True),
        Case("boundary", "88, a fifth below 110", leaves(bp=(88, 60), before=(110, 70)), False),
        Case("boundary", "160", leaves(bp=(160, 80)), True),
        Case("boundary", "100", leaves(bp=(120, 100)), True),
        Case("boundary", "168, a fifth above 140", leaves(bp=(168, 80), before=(140, 80)), False),
        Case("boundary", "169", leaves(bp=(169, 80), before=(140, 80)), True),
        Case("positive", "170/80 since, not yet final", leaves(unsure=pressures(170, 80, -176)), True),
        Case("boundary", "170/80 before it, not final", leaves(unsure=pressures(170, 80, -174)), False),
        Case("boundary", "120/80 since, not yet final", leaves(unsure=pressures(120, 80, -176)), False),
        Case("not known", "not measured since", leaves(bp=None), True),
        Case("not known", "what it was since, not yet final", leaves(unsure=pressures(16, 11, -176, "kPa")), True),
    ],
    "L-ALARM": [
        Case("positive", "an alarm is open", leaves(alarms=("Task/1",)), True),
        Case("negative", "120/80", leaves(), False),
        Case("boundary", "179/109", leaves(bp=(179, 109), before=(170, 100)), False),
        Case("boundary", "180, near its baseline", leaves(bp=(180, 80), before=(170, 80)), True),
        Case("not known", "not measured since: L-BP says so", leaves(bp=None), False),
    ],
    "L-STATE": [
        *checklist("sedation", bad=True),
        *(Case("positive", f"{link}: no", leaves(**{link: False}), True) for link in ("oriented", "gait", "fluids")),
    ],
    "L-ESCORT": [
        *checklist("escort-present", bad=False),
        Case("boundary", "one without a name", leaves(escort_name=" "), True),
        Case("not known", "whose identity nobody saw", leaves(escort_identity=None), True),
    ],
    "L-TAUGHT": [*checklist("taught-driving", bad=False), *checklist("taught-alcohol", bad=False)],
    "L-RISK": [
        *checklist("safe", bad=False),
        Case("positive", "a Flag of high risk is up", leaves(flags=[flagged(-60, "suicide-risk-high")]), True),
        Case("negative", "the checklist knew of the Flag", leaves(flags=[flagged(-60, "suicide-risk-low")]), False),
        Case("boundary", "it went up with the checklist", leaves(flags=[flagged(0, "suicide-risk-low")]), False),
        Case("boundary", "a second later", leaves(flags=[flagged(1 / 60, "suicide-risk-low")]), True),
    ],
}

# -- alarms, what is due ----------------------------------------------------------------------------------------------


def alarm(code: str, value: Any, unit: str, **more: Any) -> Callable[[], set[str]]:
    """Return the rules that alarm; of what cannot be held against a limit, all that look at it: a person is asked."""
    observation = vital(code, value, unit)
    observation["code"]["coding"] += [{"system": codes.KAP, "code": code}]
    observation["valueQuantity"] |= more

    def judged() -> set[str]:
        asks = is_not_understood(observation, ALARMS)
        rules = {one.rule for one, _ in alarms_of(observation, ALARMS)}
        return rules | {one.rule for one in ALARMS.limits.values() if asks and code in one.codes}

    return judged


def sustained(*others: Any, of: Any = None) -> Callable[[], set[str]]:
    return lambda: {"A-BP-SUSTAINED"} if is_sustained(of or pressure(0), others, ALARMS) else set()


def tells(code: str | None, **more: Any) -> Callable[[], set[str]]:
    value = {} if code is None else {"valueCodeableConcept": codes.Code(codes.KAP, code).concept()}
    observation = {**pressure(0), "code": codes.SYMPTOM.concept(), **value, **more}
    return lambda: {"A-SYMPTOM"} if symptoms_in(observation, ALARMS) else set()


def due(minutes: float) -> Callable[[], set[str]]:
    return lambda: {"M-MISSED"} if is_missed(NOW - timedelta(minutes=minutes), NOW, SETTING.monitoring) else set()


GRACE = SETTING.monitoring.grace.minutes
WATCH: dict[str, list[Case]] = {
    "A-BP": [
        Case("positive", "200", alarm("8480-6", 200, "mm[Hg]"), True),
        Case("negative", "120", alarm("8480-6", 120, "mm[Hg]"), False),
        Case("boundary", "180", alarm("8480-6", 180, "mm[Hg]"), True),
        Case("boundary", "179", alarm("8480-6", 179, "mm[Hg]"), False),
        Case("boundary", "110", alarm("8462-4", 110, "mm[Hg]"), True),
        Case("boundary", "109", alarm("8462-4", 109, "mm[Hg]"), False),
        Case("not known", "in kPa", alarm("8480-6", 16, "kPa"), True),
        Case("not known", "above 170", alarm("8480-6", 170, "mm[Hg]", comparator=">"), True),
    ],
    "A-BP-LOW": [
        Case("positive", "70", alarm("8480-6", 70, "mm[Hg]"), True),
        Case("negative", "120", alarm("8480-6", 120, "mm[Hg]"), False),
        Case("boundary", "85", alarm("8480-6", 85, "mm[Hg]"), False),
        Case("boundary", "84", alarm("8480-6", 84, "mm[Hg]"), True),
        Case("boundary", "45", alarm("8462-4", 45, "mm[Hg]"), False),
        Case("boundary", "44", alarm("8462-4", 44, "mm[Hg]"), True),
        Case("not known", "in kPa", alarm("8480-6", 16, "kPa"), True),
        Case("not known", "below 95", alarm("8480-6", 95, "mm[Hg]", comparator="<"), True),
    ],
    "A-SPO2": [
        Case("positive", "80 %", alarm("59408-5", 80, "%"), True),
        Case("negative", "98 %", alarm("59408-5", 98, "%"), False),
        Case("boundary", "90 %", alarm("2708-6", 90, "%"), False),
        Case("boundary", "89.9 %", alarm("2708-6", Decimal("89.9"), "%"), True),
        Case("not known", "below 95 %", alarm("59408-5", 95, "%", comparator="<"), True),
    ],
    "A-HR": [
        Case("positive", "150", alarm("8867-4", 150, "/min"), True),
        Case("negative", "72", alarm("8867-4", 72, "/min"), False),
        Case("boundary", "130", alarm("8867-4", 130, "/min"), False),
        Case("boundary", "131", alarm("8867-4", 131, "/min"), True),
        Case("boundary", "45", alarm("8867-4", 45, "/min"), False),
        Case("boundary", "44", alarm("8867-4", 44, "/min"), True),
        Case("not known", "in hertz", alarm("8867-4", 1, "Hz"), True),
    ],
    "A-RR": [
        Case("positive", "4", alarm("9279-1", 4, "/min"), True),
        Case("negative", "14", alarm("9279-1", 14, "/min"), False),
        Case("boundary", "8", alarm("9279-1", 8, "/min"), False),
        Case("boundary", "7", alarm("9279-1", 7, "/min"), True),
        Case("not known", "below 10", alarm("9279-1", 10, "/min", comparator="<"), True),
    ],
    "A-SEDATION": [
        Case("positive", "0", alarm("moaa-s", 0, "{score}"), True),
        Case("negative", "5", alarm("moaa-s", 5, "{score}"), False),
        Case("boundary", "2", alarm("moaa-s", 2, "{score}"), False),
        Case("boundary", "1", alarm("moaa-s", 1, "{score}"), True),
        Case("not known", "in another unit", alarm("moaa-s", 1, "mg"), True),
    ],
    "A-BP-SUSTAINED": [
        Case("positive", "twice", sustained(pressure(-5)), True),
        Case("negative", "once", sustained(), False),
        Case("boundary", "30 minutes apart", sustained(pressure(-30)), True),
        Case("boundary", "31 minutes apart", sustained(pressure(-31)), False),
        Case("boundary", "179 before", sustained(pressure(-5, 179)), False),
        Case(
            "not known",
            "a value between that is only perhaps",
            sustained(pressure(-10), pressure(-5, component=[])),
            True,
        ),
    ],
    "A-SYMPTOM": [
        Case("positive", "chest pain", tells("chest-pain"), True),
        Case("negative", "none of those that call", tells("tired"), False),
        Case("boundary", "chest pain, said to be false", tells("chest-pain", valueBoolean=False), False),
        Case("boundary", "not final yet", tells("chest-pain", status="preliminary"), True),
        Case("not known", "not said which: a person is asked (READING_NOT_UNDERSTOOD)", tells(None), False),
    ],
    "M-MISSED": [
        Case("positive", "an hour ago", due(60), True),
        Case("negative", "now", due(0), False),
        Case("boundary", "as long ago as is allowed", due(GRACE), False),
        Case("boundary", "a second more", due(GRACE + 1 / 60), True),
        Case("not known", "still to come", due(-10), False),
    ],
}

# -- the ledger -------------------------------------------------------------------------------------------------------


def entry(change: int, least: int | None, *, kind: str = "waste", received: bool = True, witness: Any = "b") -> Any:
    return lambda: {
        str(one.rule) for one in against(kind, change, least, received=received, performer="a", witness=witness)
    }


LEDGER: dict[str, list[Case]] = {
    "C-RECEIVED": [
        Case("positive", "received twice", entry(5, 5, kind="receive"), True),
        Case("negative", "received once", entry(5, None, kind="receive", received=False), False),
        Case("boundary", "used before it came in", entry(-1, None), True),
        Case("not known", "never received here", entry(-1, None, received=False), True),
    ],
    "C-BALANCE": [
        Case("positive", "more than it holds", entry(-11, 10), True),
        Case("negative", "less", entry(-9, 10), False),
        Case("boundary", "all of it", entry(-10, 10), False),
        Case("boundary", "a count, which is a fact", entry(-11, 10, kind="count"), False),
        Case("boundary", "more, of a vial that was booked out too much", entry(1, -5), False),
        Case("not known", "what it holds: C-RECEIVED says so", entry(-10, None), False),
    ],
    "C-WITNESS": [
        Case("positive", "his own witness", entry(-1, 10, witness="a"), True),
        Case("negative", "another", entry(-1, 10), False),
        Case("boundary", "of a name that is nearly the same", entry(-1, 10, witness="a "), False),
        Case("not known", "none: the operation asks for one", entry(-1, 10, witness=None), False),
    ],
}

# -- visits, and what can hardly be ------------------------------------------------------------------------------------


def says(rule: str, speaks: bool) -> Callable[[], set[str]]:
    return lambda: {rule} if speaks else set()


def names(patient: str | None, *, whose: str | None = "ada") -> Callable[[], set[str]]:
    subject = {} if patient is None else {"subject": {"reference": patient}}
    return says("V-SUBJECT", is_of_another({"resourceType": "Procedure", **subject}, whose))


def summary(status: str = "final", *, own: bool = True, after: Any = MISSING) -> Callable[[], set[str]]:
    system = codes.ID_SUMMARY if own else "urn:other"
    before = {"resourceType": "Composition", "identifier": {"system": system, "value": "v"}, "status": status}
    changed = {**before, "title": "Another"} if after is MISSING else after
    return says("V-SIGNED", is_tampered_with(before, changed))


def said_in(kind: str, *names_: str, status: str = "final") -> Callable[[], set[str]]:
    policy = SETTING.psychotherapy
    technique = {"code": technique_concept("talk", policy), "status": "completed"}
    said = [{"code": code_of(name, policy).concept(), "status": status} for name in names_]
    return says("V-CONTENT", bool(lacking(kind, [technique, *said], policy)))


def of_visit(status: str | None) -> Callable[[], set[str]]:
    return says("V-CONTENT", not has_begun({} if status is None else {"status": status}))


def check_in(minutes: float, **more: Any) -> Callable[[], set[str]]:
    end = zulu(NOW - timedelta(minutes=minutes))
    made = {"status": "requested", "restriction": {"period": {"end": end}}, **more}
    return says("V-CHECK-IN", is_unmade(made, NOW))


VISITS: dict[str, list[Case]] = {
    "V-SUBJECT": [
        Case("positive", "about another", names("Patient/eve"), True),
        Case("negative", "about its patient", names("Patient/ada"), False),
        Case(
            "boundary", "about him, by a whole address and a version", names("https://x/Patient/ada/_history/1"), False
        ),
        Case("boundary", "of a name that is nearly the same", names("Patient/ada1"), True),
        Case("not known", "it says of nobody: its visit does", names(None), False),
        Case("not known", "whose visit it is", names("Patient/eve", whose=None), False),
    ],
    "V-SIGNED": [
        Case("positive", "a signed one is changed", summary(), True),
        Case("positive", "a signed one is deleted", summary(after=None), True),
        Case("negative", "not signed yet", summary("preliminary"), False),
        Case("negative", "a document of somebody else's", summary(own=False), False),
        Case("boundary", "said to be an error", summary(after={"status": "entered-in-error"}), False),
        Case("boundary", "amended before", summary("amended"), True),
        Case("not known", "its status", summary("unknown"), False),
    ],
    "V-CONTENT": [
        Case("positive", "a session without its room", said_in("kap-dosing"), True),
        Case("negative", "with it", said_in("kap-dosing", "room"), False),
        Case("negative", "nothing is asked of a follow-up", said_in("kap-followup"), False),
        Case("boundary", "all of a preparation but one", said_in("kap-prep", "intention", "expectation"), True),
        Case("boundary", "all of it", said_in("kap-prep", "intention", "expectation", "touch"), False),
        Case("boundary", "said in error", said_in("kap-dosing", "room", status="entered-in-error"), True),
        Case("positive", "of a visit that is planned", of_visit("planned"), True),
        Case("negative", "of one that goes on", of_visit("in-progress"), False),
        Case("boundary", "of one where somebody has come", of_visit("arrived"), False),
        Case("not known", "of one that does not say", of_visit(None), True),
    ],
    "V-CHECK-IN": [
        Case("positive", "a day late", check_in(1440), True),
        Case("negative", "an hour to go", check_in(-60), False),
        Case("boundary", "to the minute", check_in(0), False),
        Case("boundary", "a second late", check_in(1 / 60), True),
        Case("boundary", "somebody was told before", check_in(60, businessStatus={"text": "missed"}), False),
        Case("not known", "when the session ended: it is counted from when that was recorded", check_in(-1), False),
    ],
}


def measures(name: str, value: Any, **more: Any) -> Callable[[], set[str]]:
    limit = SETTING.monitoring.plausible[name]
    observation = vital(limit.codes[0], value, limit.units[0])
    observation["code"]["coding"] += [{"system": codes.KAP, "code": limit.codes[0]}]
    observation["valueQuantity"] |= more
    return lambda: {one.partition(" ")[0] for one in implausible(observation, SETTING.monitoring)}


def a_slip(name: str) -> list[Case]:
    """Return the cases of a value that can hardly be: it is asked about, and kept."""
    limit = SETTING.monitoring.plausible[name]
    return [
        Case("positive", "ten times the most", measures(name, limit.high * 10), True),
        Case("negative", "in the middle", measures(name, (limit.low + limit.high) / 2), False),
        Case("boundary", "the least", measures(name, limit.low), False),
        Case("boundary", "the most", measures(name, limit.high), False),
        Case("boundary", "a little less", measures(name, limit.low - Decimal("0.1")), True),
        Case("boundary", "a little more", measures(name, limit.high + Decimal("0.1")), True),
        Case(
            "not known",
            "in a unit nobody reads",
            measures(name, limit.high * 10, code="furlong", unit="furlong"),
            False,
        ),
    ]


SLIPS = {name: a_slip(name) for name in SETTING.monitoring.plausible}

TABLE = {**GATE, **SERIES, **VISITS, **SLIPS, **AMOUNTS, **LEAVING, **WATCH, **LEDGER}


OF_THE_RECORD = {"A-EVENT", "C-DOSE", "G-DRUG", "G-REMS-FORM", "L-AGAINST", "L-HANDOVER", "L-UNKNOWN"}
"""What is called or asked for after something was recorded, judged with the record: tests/integration/services."""


def rules_of_the_service() -> set[str]:
    """Return the rules that the policy of sessions names, and those that its pure rules name themselves."""
    folder = Path(str(service.__file__)).parent
    named = {
        node.value
        for path in (*folder.glob("rules/*.py"), *folder.glob("*.py"), *folder.glob("operations/*.py"))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith(CODES[:-1])
    }
    limits, answers = POLICY.readings.values(), POLICY.answers.values()
    named |= {one for limit in limits for one in (limit.rule, limit.unknown)} | {one.rule for one in answers}
    named |= {POLICY.risk.rule, POLICY.held.rule, ALARMS.sustained.rule} | {one.rule for one in ALARMS.limits.values()}
    named |= {one.rule for one in SETTING.discharge.answers.values()}
    found = {one for one in named if one.startswith(CODES) and " " not in one} - OF_THE_RECORD
    return found | set(SETTING.monitoring.plausible)


def test_every_rule_at_the_dose_has_all_four_kinds_of_cases() -> None:
    assert rules_of_the_service() <= set(TABLE)
    lacking = {rule: KINDS - {case.kind for case in cases} for rule, cases in TABLE.items()}
    assert {rule: kinds for rule, kinds in lacking.items() if kinds} == {}


@pytest.mark.parametrize(
    ("rule", "case"),
    [pytest.param(rule, case, id=f"{rule}-{case.what}") for rule, cases in TABLE.items() for case in cases],
)
def test_each_rule_speaks_up_in_each_of_its_cases_and_in_no_other(rule: str, case: Case) -> None:
    assert (rule in case.judged()) is case.speaks, case.what


def test_the_situation_that_all_cases_start_from_is_in_order() -> None:
    assert at_gate(**product())() == set()
    assert leaves()() == set()
    assert issues_of(gate(OPEN, POLICY)) == []
