"""A FHIR history as a value: whose versions, and which of them.

Source: https://hl7.org/fhir/R4/http.html#history
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from shared.fhir.dates import interval
from shared.fhir.outcome import BadRequest, Issue

DEFAULT_COUNT: Final = 50
MOST: Final = 1000


@dataclass(frozen=True, slots=True)
class HistoryQuery:
    """The versions of one resource, of a type (`id` None), or of everything (`type` None, too); newest first.

    Attributes:
        type, id: whose.
        count: entries of a page, at most.
        since: only versions made at that time or later.
        at: only versions that were current at some time in this half-open interval.
        given: the parameters as understood, in order, for the links.

    """

    type: str | None = None
    id: str | None = None
    count: int = DEFAULT_COUNT
    since: datetime | None = None
    at: tuple[datetime, datetime] | None = None
    given: tuple[tuple[str, str], ...] = ()


def parse_history(
    type_: str | None, id_: str | None, pairs: Iterable[tuple[str, str]], *, strict: bool
) -> HistoryQuery:
    """Return the history that decoded `pairs` of name and value ask for.

    A `_count` above 1000 is that. `strict`: whether what is not known is refused, or left out.

    Raises:
        BadRequest: with one issue for each parameter that cannot be understood.

    """
    issues: list[Issue] = []
    given: dict[str, str] = {}
    since, at, count = None, None, DEFAULT_COUNT
    for name, value in pairs:
        if name not in {"_count", "_since", "_at"}:
            if strict:
                said = f"A history knows _count, _since and _at, not {name}."
                issues.append(Issue(said, code="not-supported", expression=(f"http.{name}",)))
            continue
        if name in given:
            issues.append(Issue(f"{name} is given twice.", code="value", expression=(f"http.{name}",)))
        given[name] = value
        try:
            if name == "_count":
                count = _count(value)
            elif name == "_since":
                since = interval(value)[0]
            else:
                at = interval(value)
        except ValueError:
            what = "a number from 1" if name == "_count" else "a time, such as 2026-11-22T10:00:00Z"
            issues.append(Issue(f"{name} is {what}.", code="value", expression=(f"http.{name}",)))
    if issues:
        raise BadRequest(issues)
    return HistoryQuery(type_, id_, count, since, at, tuple(given.items()))


def _count(value: str) -> int:
    if not value.isdecimal() or int(value[:9]) < 1:
        raise ValueError(value)
    return min(int(value[:9]), MOST)
