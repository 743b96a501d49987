"""What a service raises when a rule calls for a person: DetectedIssue, Flag and Task, built from plain values.

Each has a business identifier that says what it is about, so that raising it again finds it instead of doubling it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from shared.fhir.codes import EXT_POLICY, FLAG_SAFETY, ID_FINDING, ID_FLAG, ID_TASK, Code, rule_code
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import reference

Priority = Literal["routine", "urgent", "asap", "stat"]
IssueSeverity = Literal["high", "moderate", "low"]


def identifier(system: str, *parts: str) -> dict[str, str]:
    """Return the business identifier made of `parts`."""
    return {"system": system, "value": ":".join(parts)}


def policy_extension(version: str) -> dict[str, str]:
    """Return the extension that says which policy decided."""
    return {"url": EXT_POLICY, "valueString": version}


def detected_issue(
    name: Sequence[str],
    *,
    patient: str,
    code: Code,
    severity: IssueSeverity,
    detail: str,
    now: datetime,
    rules: Sequence[str] = (),
    implicated: Sequence[str] = (),
    policy: str | None = None,
) -> Resource:
    """Return a DetectedIssue.

    Args:
        name: what it is about; makes its identifier.
        patient: logical id.
        code: what is wrong.
        severity: FHIR's.
        detail: the sentence for people.
        now: when it was found.
        rules: the rules of the house, as further codings.
        implicated: references ``Type/id`` of the evidence.
        policy: version that decided.

    """
    issue: dict[str, Any] = {
        "resourceType": "DetectedIssue",
        "extension": [policy_extension(policy)] if policy else None,
        "identifier": [identifier(ID_FINDING, *name)],
        "status": "final",
        "code": code.concept(*(rule_code(rule) for rule in rules)),
        "severity": severity,
        "patient": reference("Patient", patient),
        "identifiedDateTime": zulu(now),
        "implicated": [{"reference": one} for one in implicated] or None,
        "detail": detail,
    }
    return {key: value for key, value in issue.items() if value is not None}


def flag(
    name: Sequence[str], *, patient: str, code: Code, text: str, now: datetime, encounter: str | None = None
) -> Resource:
    """Return an active safety Flag on a patient."""
    made: dict[str, Any] = {
        "resourceType": "Flag",
        "identifier": [identifier(ID_FLAG, *name)],
        "status": "active",
        "category": [FLAG_SAFETY.concept()],
        "code": code.concept(text=text),
        "subject": reference("Patient", patient),
        "period": {"start": zulu(now)},
    }
    return made if encounter is None else {**made, "encounter": reference("Encounter", encounter)}


def task(
    name: Sequence[str],
    *,
    patient: str,
    code: Code,
    description: str,
    now: datetime,
    priority: Priority = "routine",
    focus: str | None = None,
    encounter: str | None = None,
    due: datetime | None = None,
) -> Resource:
    """Return a requested Task; `focus` is a reference ``Type/id``, `due` the end of its restriction period."""
    when = zulu(now)
    made: dict[str, Any] = {
        "resourceType": "Task",
        "identifier": [identifier(ID_TASK, *name)],
        "status": "requested",
        "intent": "order",
        "priority": priority,
        "code": code.concept(),
        "description": description,
        "focus": None if focus is None else {"reference": focus},
        "for": reference("Patient", patient),
        "encounter": None if encounter is None else reference("Encounter", encounter),
        "authoredOn": when,
        "lastModified": when,
        "restriction": None if due is None else {"period": {"end": zulu(due)}},
    }
    return {key: value for key, value in made.items() if value is not None}
