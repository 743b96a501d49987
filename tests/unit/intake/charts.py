"""Charts that rules of eligibility are judged on, built from plain values."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal

from services.intake.rules.eligibility import screen
from services.intake.rules.findings import Chart
from services.intake.rules.trials import Entry
from services.intake.setting import Setting
from shared.fhir.codes import LOINC, RXNORM, SNOMED, UCUM
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
RULES = SETTING.rules.eligibility.rules
ON_THE_DAY = {name: rule.question for name, rule in RULES.items() if rule.asked == "dose"}
ASKED = {name: rule.question for name, rule in RULES.items() if rule.question is not None and name not in ON_THE_DAY}
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)
HEALTHY = {question.link: not question.hit for question in ASKED.values()} | {"MED": True}
CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"
VERIFICATION = "http://terminology.hl7.org/CodeSystem/condition-ver-status"


def entry(type_, code=None, system=SNOMED, text=None, **more):
    concept = {"coding": [{"system": system, "code": code}]} if code else {}
    if text:
        concept["text"] = text
    name = f"{type_}/{code or text}"
    return Entry(name, concept, {"resourceType": type_, "id": str(code or text), **more})


def condition(code=None, system=SNOMED, text=None, status="active", **more):
    return entry(
        "Condition", code, system, text, clinicalStatus={"coding": [{"system": CLINICAL, "code": status}]}, **more
    )


CHART = Chart(
    patient={"resourceType": "Patient", "id": "ada", "birthDate": "1980-02-03"},
    conditions=(),
    allergies=(),
    medications=(),
    observations=(),
    reasons=(),
    answers=HEALTHY,
    answers_reference="QuestionnaireResponse/q",
    drug="ketamine",
    decisions={},
    now=NOW,
    route="37839007",
    answered=NOW,
)


def judge(**more):
    return screen(replace(CHART, **more), SETTING.rules)


def finding(result, rule):
    return next((one for one in result.findings if one.rule == rule), None)


def pregnancy(code, when, status="final"):
    value = {"coding": [{"system": SNOMED, "code": code}]}
    return Entry(
        f"Observation/{when}",
        {"coding": [{"system": LOINC, "code": "82810-3"}]},
        {"resourceType": "Observation", "status": status, "effectiveDateTime": when, "valueCodeableConcept": value},
    )


def trial(code="36437", milligrams=100, start="2025-02-01", end="2025-05-01", status="completed", text=None):
    amount = {"value": milligrams, "unit": "mg", "system": UCUM, "code": "mg"}
    daily = {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}}
    dosage = [{"timing": daily, "doseAndRate": [{"doseQuantity": amount}]}] if milligrams else [{"text": "as told"}]
    period = {name: value for name, value in (("start", start), ("end", end)) if value}
    made = entry("MedicationStatement", code, RXNORM, text, status=status, dosage=dosage)
    return replace(made, resource={**made.resource, **({"effectivePeriod": period} if period else {})})


def medication(code=None, text=None):
    return entry("MedicationStatement", code, RXNORM, text)


def daily(code, milligrams, times=1, **more):
    amount = {"value": Decimal(str(milligrams)), "unit": "mg", "system": UCUM, "code": "mg"}
    timing = {"repeat": {"frequency": times, "period": 1, "periodUnit": "d"}}
    dosage = [{"timing": timing, "doseAndRate": [{"doseQuantity": amount}], **more}]
    return entry("MedicationStatement", code, RXNORM, dosage=dosage)
