"""A prescriber's decision past a finding: DetectedIssue.mitigation with the action ``proceed``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from services.intake.chart import prescriber_of, proceeding, rule_of
from services.intake.rules.forms import deciders
from services.intake.screening import screened_for
from services.intake.setting import Setting
from shared.fhir.json import Resource
from shared.fhir.kap import latest_eligibility, patient_of
from shared.fhir.outcome import Issue, Unprocessable
from shared.runtime.raising import is_own_work
from shared.runtime.record import Record
from shared.runtime.service import Change


async def require_decision(change: Change, record: Record, setting: Setting) -> None:
    """Refuse a decision to proceed without prescriber, reason and time, and one past what nobody may decide.

    Raises:
        Unprocessable: E-OVERRIDE, with every lack.

    """
    after = change.after
    patient = None if after is None else patient_of(after)
    rule = None if after is None or patient is None else rule_of(after, patient)
    if is_own_work() or after is None or patient is None or rule is None:
        return
    known = [] if change.before is None else proceeding(change.before)
    new = [(number, one) for number, one in enumerate(after.get("mitigation", [])) if one in proceeding(after)]
    new = [(number, one) for number, one in new if one not in known]
    issues = []
    for number, mitigation in new:
        lacking = await _lacking(record, mitigation)
        if lacking:
            issues.append(
                _issue(f"A decision to proceed needs {', '.join(lacking)}. Give it with the decision.", number, setting)
            )
    if new and await _is_absolute(record, after, patient, rule, setting):
        number = new[0][0]
        issues.append(
            _issue(
                f"{rule} is absolute: nobody may decide past it. Leave the decision out. {after.get('detail', '')}",
                number,
                setting,
            )
        )
    if issues:
        raise Unprocessable(issues)


async def _lacking(record: Record, mitigation: Mapping[str, Any]) -> list[str]:
    lacking = []
    if await prescriber_of(record, mitigation) is None:
        lacking.append("its prescriber (mitigation.author: Practitioner or PractitionerRole)")
    if not str(mitigation.get("action", {}).get("text", "")).strip():
        lacking.append("its reason (mitigation.action.text)")
    if "date" not in mitigation:
        lacking.append("its time (mitigation.date)")
    return lacking


async def _is_absolute(record: Record, issue: Resource, patient: str, rule: str, setting: Setting) -> bool:
    if issue.get("severity") != "high":
        return False
    rules = setting.rules
    policy = rules.eligibility.rules.get(rule) or rules.interactions.get(rule)
    newest = latest_eligibility(await record.search("RiskAssessment", {"patient": f"Patient/{patient}"}))
    drug, route = (None, None) if newest is None else screened_for(newest)
    return policy is None or deciders(policy.override, drug, route) == 0


def _issue(said: str, number: int, setting: Setting) -> Issue:
    return Issue(
        said,
        code="business-rule",
        expression=(f"DetectedIssue.mitigation[{number}]",),
        rule="E-OVERRIDE",
        source=setting.rules.eligibility.prescribers.source,
    )
