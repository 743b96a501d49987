"""Times that can be: a dose was given, and is given, within a lifetime of now, or its year is a slip."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any, Final

from services.sessions.setting import Setting
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.outcome import Unprocessable
from shared.runtime.record import Record
from shared.runtime.service import Change

LIFETIME: Final = timedelta(days=120 * 366)
"""No dose is further from now, in the past or to come."""


def is_possible(when: datetime, now: datetime) -> bool:
    """Tell whether a moment lies within a lifetime of now."""
    return abs(when - now) <= LIFETIME


def _said(dose: Resource) -> Iterator[tuple[str, Any]]:
    if "effectiveDateTime" in dose:
        yield "effectiveDateTime", dose["effectiveDateTime"]
    for end, when in dose.get("effectivePeriod", {}).items():
        if end in ("start", "end"):
            yield f"effectivePeriod.{end}", when


async def guard_times(change: Change, record: Record, setting: Setting) -> None:
    """Refuse a dose of a year that it cannot be of: nothing could be due after it, and nobody be watched.

    Raises:
        Unprocessable: a time is further from now than a lifetime.

    """
    after = change.after or {}
    if after.get("status") in ("entered-in-error", "not-done"):
        return  # it was not given then: what is held of such a year can be taken back as it stands
    for name, when in _said(after):
        if not is_possible(interval(when)[0], setting.clock()):
            raise Unprocessable(
                f"{when} is no time at which a dose was given: look at the year, and send it again.",
                code="value",
                expression=[f"{change.type}.{name}"],
                source="KAP Exchange",
            )
