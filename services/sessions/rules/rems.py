"""The monitoring form of the Spravato REMS, filled from the session; what is missing is named. Pure functions.

Source: Spravato REMS Patient Monitoring Form. An answer that only a person can give is left to him, and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec

from services.sessions.rules.gate import Minutes
from services.sessions.rules.readings import Reading, with_code
from shared.fhir.cited import Cited
from shared.fhir.codes import DIASTOLIC, SYSTOLIC

REQUIRED: Final = (
    "patient-name",
    "birth-date",
    "sex",
    "first-treatment",
    "enrolled",
    "setting",
    "professional",
    "treatment-date",
    "dose-mg",
    "lot",
    "monitoring-minutes",
    "systolic-before",
    "diastolic-before",
    "systolic-40",
    "diastolic-40",
    "systolic-end",
    "diastolic-end",
    "benzodiazepine",
    "hypnotic",
    "psychostimulant",
    "maoi",
    "sedation",
    "dissociation",
    "serious-event",
)
"""linkIds of the form's required items."""


class Submit(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Within how many days the form is to be sent, and how."""

    days: int
    advice: str


class RemsPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `rems`."""

    submit: Submit
    report: Submit
    pressure_at: Minutes


@dataclass(frozen=True, slots=True)
class Session:
    """What a session says of itself: first device, end of monitoring, and the readings."""

    first: datetime
    end: datetime | None
    readings: Sequence[Reading]


def pressures(session: Session, near: timedelta, at: timedelta, leaving: timedelta) -> dict[str, Decimal]:
    """Return the blood pressures before, about `at` after the first device (within `near`), and before completion.

    Before completion is not longer before the end than `leaving`, and not known while the session goes on.
    """
    found: dict[str, Decimal] = {}
    for name, code in (("systolic", SYSTOLIC.code), ("diastolic", DIASTOLIC.code)):
        charted = sorted(
            (one.when, value.number)
            for one in with_code(session.readings, [code])
            if one.timed and one.trusted and not one.sampled and one.when is not None
            if (value := one.value_in(("mm[Hg]",))) is not None and value.comparator is None
        )
        before = [value for when, value in charted if when <= session.first]
        middle = [(abs(when - session.first - at), value) for when, value in charted if when > session.first]
        end = session.end or session.first
        after = [value for when, value in charted if when > session.first and end - leaving <= when <= end]
        if before:
            found[f"{name}-before"] = before[-1]
        if middle and min(middle)[0] <= near:
            found[f"{name}-40"] = min(middle)[1]
        if after:
            found[f"{name}-end"] = after[-1]
    return found


def minutes_watched(session: Session, minute: timedelta) -> int | None:
    """Return the whole minutes from the first device to the end of monitoring; None: it has not ended."""
    return None if session.end is None else (session.end - session.first) // minute


def missing(answers: Mapping[str, Any]) -> list[str]:
    """Return the required items that have no answer."""
    return [link for link in REQUIRED if answers.get(link) is None]
