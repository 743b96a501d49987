"""A decision to proceed past a check of the gate: whose it is, and that it says why. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from shared.fhir.outcome import Issue


def against_deciding(made: Mapping[str, Any], author: str | None, user: str | None, source: str) -> Iterator[Issue]:
    """Yield what forbids a decision (DetectedIssue.mitigation).

    Args:
        made: the mitigation.
        author: the Practitioner whose it is; None: it is not known whose, and then it opens nothing.
        user: who is logged in; None: a program, which answers for who decided.
        source: of the rule.

    """
    if not str(made.get("action", {}).get("text", "")).strip():
        yield _refused("says why: give its reason (mitigation.action.text).", "action", source)
    if None not in (author, user) and author != user:
        yield _refused(f"is its prescriber's own: {author} has to log in and make it, not {user}.", "author", source)


def _refused(what: str, element: str, source: str) -> Issue:
    return Issue(
        f"A decision {what}",
        code="business-rule",
        expression=(f"DetectedIssue.mitigation.{element}",),
        rule="E-OVERRIDE",
        source=source,
    )
