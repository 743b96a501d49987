"""Breaking the glass: what has to be said, and the Task that says it; pure.

Source: 42 CFR 2.51(c): the name and the facility of the medical personnel to whom it was disclosed, who disclosed it,
date and time, the nature of the emergency; in the patient's records, immediately.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.codes import BREAK_GLASS
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.raised import policy_extension, task

SAID: Final[Mapping[str, str]] = {
    "reason": "why the record has to be open, past what the patient consented to",
    "emergency": "the nature of the emergency",
    "personnel": "the name of the medical personnel who are to read",
    "facility": "the health care facility they are of",
}
"""What has to be said, each as a valueString."""

KEPT: Final = ("code", "for", "requester", "executionPeriod", "reasonCode", "input", "authoredOn", "identifier")
"""Elements of the Task that stay as they were written."""


class Opening(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """For how long the record is open."""

    minutes: int


class Review(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By when it has to have been reviewed."""

    hours: int


class GlassPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `break-glass`."""

    opening: Opening
    review: Review


def said_in(parameters: Resource) -> tuple[dict[str, str], list[str]]:
    """Return what was said, by name, and in sentences what is missing or not understood."""
    said: dict[str, str] = {}
    wrong = []
    for one in parameters.get("parameter", []):
        name, value = str(one.get("name")), one.get("valueString")
        if name not in SAID:
            wrong.append(f"'{name}' is no parameter of it")
        elif isinstance(value, str) and any(map(str.isalpha, value)):
            said[name] = value.strip()
    wrong += [f"{name} is not said in words ({what})" for name, what in SAID.items() if name not in said]
    return said, wrong


def task_of(
    name: str,
    patient: str,
    said: Mapping[str, str],
    requester: Resource,
    now: datetime,
    policy: GlassPolicy,
    version: str,
) -> Resource:
    """Return the Task: the record of it, what opens the record, and what the privacy officer is to review."""
    due = now + timedelta(hours=policy.review.hours)
    made = task(
        (BREAK_GLASS.code, patient, name),
        patient=patient,
        code=BREAK_GLASS,
        description=(
            f"{requester['reference']} reads the record of Patient/{patient} past the patient's consents, by the "
            "clinic's own server, for an emergency. Review whether it was one: the AuditEvents of this patient with "
            "the purpose BTG show what was read. Cancel this Task to end it at once."
        ),
        now=now,
        priority="urgent",
        focus=f"Patient/{patient}",
        due=due,
    )
    inputs: list[Any] = [{"type": {"text": SAID[one]}, "valueString": said[one]} for one in SAID if one != "reason"]
    return {
        **made,
        "extension": [policy_extension(version)],
        "requester": requester,
        "reasonCode": {"text": said["reason"]},
        "executionPeriod": {"start": zulu(now), "end": zulu(now + timedelta(minutes=policy.opening.minutes))},
        "input": inputs,
    }
