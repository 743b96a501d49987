"""One check of the gate before a dose, and what it says when it is closed. Pure values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, TypeAlias

from shared.fhir.dates import MAX_INSTANT
from shared.fhir.outcome import Issue

Needed: TypeAlias = Literal["always", "clinic", "never"]
"""When a check must be known: always, in the clinic but not at home by video, or never."""

Verdict: TypeAlias = Literal["open", "closed", "not-known", "decided", "warned", "ask"]


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the gate.

    Attributes:
        rule: code of the rule (``G-BP-HOLD``).
        title: what is looked at.
        verdict: how it stands; decided: a prescriber's documented decision lets it pass;
            ask: a person has to confirm what cannot be known here now.
        text: what was found, and what to do.
        source: where the rule comes from.
        closes: whether it keeps the gate closed.
        value, limit: as people write them, where there are any.
        evidence: references ``Type/id``.
        decidable: whether a prescriber may decide on it now.

    """

    rule: str
    title: str
    verdict: Verdict
    text: str
    source: str
    closes: bool
    value: str | None = None
    limit: str | None = None
    evidence: tuple[str, ...] = ()
    decidable: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """A prescriber's documented decision to proceed in this visit: on which rule, and when.

    `written`: since when it is on record.
    """

    rule: str
    when: datetime
    reference: str
    written: datetime = MAX_INSTANT


def issues_of(checks: Sequence[Check]) -> list[Issue]:
    """Return what keeps the gate closed, as issues of a refusal; nothing when the dose may be started."""
    return [closed(check.rule, check.text, check.source) for check in checks if check.closes]


def closed(rule: str, what: str, source: str, *, where: str = "MedicationAdministration") -> Issue:
    """Return the refusal of a dose."""
    return Issue(
        f"The gate before the dose is closed: {what}",
        code="business-rule",
        expression=(where,),
        rule=rule,
        source=source,
    )


def simple(rule: str, title: str, *, opens: bool, text: str, source: str, evidence: Sequence[str] = ()) -> Check:
    """Return a check that is either open or closed."""
    said = "In order." if opens else text
    return Check(rule, title, "open" if opens else "closed", said, source, closes=not opens, evidence=tuple(evidence))
