"""A prescriber's decision past a finding: DetectedIssue.mitigation with the action ``proceed``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from services.intake.chart import prescriber_of, proceeding, rule_of
from services.intake.order_facts import prescriber_named
from services.intake.rules.forms import deciders
from services.intake.rules.prescribers import check_decider, not_his_own
from services.intake.setting import Setting
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import latest_eligibility, patient_of, screened_for
from shared.fhir.outcome import Issue, Unprocessable
from shared.runtime.raising import is_own_work
from shared.runtime.record import Record
from shared.runtime.service import Change


async def require_decision(change: Change, record: Record, setting: Setting) -> None:
    """Refuse a decision to proceed without licensed prescriber, reason and time, and one past what nobody may decide.

    Who is logged in decides for himself alone: where two are needed, each writes his own. A program decides nothing.

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
        lacking = _lacking(mitigation)
        if lacking:
            issues.append(
                _issue(f"A decision to proceed needs {', '.join(lacking)}. Give it with the decision.", number, setting)
            )
        issues.extend(await _may_not_decide(mitigation, number, record, setting))
    if new and await _is_absolute(record, after, patient, rule, setting):
        number = new[0][0]
        issues.append(
            _issue(
                f"{rule} is absolute: nobody may decide past it. Leave the decision out. {after.get('detail', '')}",
                number,
                setting,
                tuple(str(one.get("reference")) for one in after.get("implicated", [])),
            )
        )
    if issues:
        raise Unprocessable(issues)


async def _may_not_decide(mitigation: Mapping[str, Any], number: int, record: Record, setting: Setting) -> list[Issue]:
    """Return why its author may not decide: he is a prescriber, with role and licence in force when he decided."""
    at = interval(mitigation["date"])[0] if "date" in mitigation else setting.clock()
    who = await prescriber_named(mitigation.get("author"), record, at)
    where = (f"DetectedIssue.mitigation[{number}].author",)
    found = check_decider(who, setting.orders.prescriber, setting.orders.licence)
    issues = [replace(one, expression=where) for one in found]
    author = await prescriber_of(record, mitigation)
    why = not_his_own(author, record.user, record.client)
    if why is not None and author is not None:
        said = f"A decision is its prescriber's own: {why}."
        issues.append(replace(_issue(said, number, setting, (author,)), expression=where))
    return issues


def _lacking(mitigation: Mapping[str, Any]) -> list[str]:
    lacking = []
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


def _issue(said: str, number: int, setting: Setting, evidence: tuple[str, ...] = ()) -> Issue:
    return Issue(
        said,
        code="business-rule",
        expression=(f"DetectedIssue.mitigation[{number}]",),
        rule="E-OVERRIDE",
        source=setting.rules.eligibility.prescribers.source,
        evidence=evidence,
    )
