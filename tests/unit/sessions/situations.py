"""A situation in which the gate is open, to be changed by each test, and what makes one."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from services.sessions.rules.answers import Asked, Enrolment
from services.sessions.rules.checks import issues_of
from services.sessions.rules.gate import Situation, gate
from services.sessions.rules.readings import Reading
from services.sessions.setting import Setting
from shared.fhir import codes
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
POLICY = SETTING.gate
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
VISIT = {"id": "v", "status": "in-progress", "type": [codes.VISIT_DOSING.concept()]}


def reading(code, value, unit, minutes=5, reference="Observation/1"):
    quantity = {"value": value, "system": codes.UCUM, "code": unit}
    return Reading(reference, (code,), quantity, NOW - timedelta(minutes=minutes))


def pressures(systolic=120, diastolic=80, minutes=5, unit="mm[Hg]"):
    return (
        reading(codes.SYSTOLIC.code, systolic, unit, minutes),
        reading(codes.DIASTOLIC.code, diastolic, unit, minutes),
    )


OTHERS = (reading("8867-4", 72, "/min"), reading("59408-5", 98, "%"))
IN_ORDER = {
    "escort": True,
    "escort-name": "Her brother",
    "intoxicated": False,
    "pregnant": False,
    "breastfeeding": False,
    "suicidality": False,
    "food-hours": Decimal(3),
    "drink-minutes": 45,
    "nasal": False,
    "substances": False,
    "benzodiazepine": False,
}
ENROLLED = Enrolment(site=True, patient=True, witness=True)
OPEN = Situation(
    visit=VISIT,
    start=NOW,
    drug="ketamine",
    route=codes.ROUTE_IM.code,
    consented=frozenset({codes.ROUTE_IM.code}),
    ordered=True,
    readings=(*pressures(), *OTHERS),
    course="active",
    asked=Asked("QuestionnaireResponse/1", NOW, IN_ORDER),
    enrolment=ENROLLED,
)


def rules(**more):
    return sorted({str(issue.rule) for issue in issues_of(gate(replace(OPEN, **more), POLICY))})


def asked(**answers):
    given = {**IN_ORDER, **{name.replace("_", "-"): value for name, value in answers.items()}}
    return Asked("QuestionnaireResponse/1", NOW, {link: value for link, value in given.items() if value is not None})
