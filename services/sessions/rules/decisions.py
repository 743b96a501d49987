"""A decision to proceed past a check of the gate: who may make it, whose it is, that it says why. Pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from shared.fhir.codes import KAP
from shared.fhir.dates import period_interval
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of
from shared.fhir.outcome import Issue


@dataclass(frozen=True, slots=True)
class Decider:
    """Who decides, as he is known here: what names him, his Practitioner, and his PractitionerRoles."""

    named: str
    person: Resource | None
    roles: Sequence[Resource]


def lacks_to_decide(who: Decider, roles: Iterable[str], when: datetime) -> list[str]:
    """Return what somebody lacks to decide at a time: he is known here, with a role of `roles` and a licence in force.

    Which codes of a PractitionerRole prescribe: `orders.prescriber` of the policy. A licence is a
    Practitioner.qualification with its period: https://hl7.org/fhir/R4/practitioner.html
    """
    if who.person is None or who.person.get("active") is False:
        return [f"{who.named} is not known here as an active Practitioner"]
    able = [one for one in who.roles if set(codes_of(one.get("code"), KAP)).intersection(roles)]
    able = [one for one in able if one.get("active") is not False and _in_force(one.get("period"), when)]
    held = [one for one in who.person.get("qualification", []) if one.get("period")]
    return [
        *([] if able else [f"no PractitionerRole of {who.named} that prescribes is in force"]),
        *([] if any(_in_force(one["period"], when) for one in held) else [f"no licence of {who.named} is in force"]),
    ]


def _in_force(period: Mapping[str, str] | None, when: datetime) -> bool:
    span = period_interval(dict(period or {}))
    return span is None or span[0] <= when < span[1]


def against_deciding(
    made: Mapping[str, Any], author: str | None, user: str | None, client: str | None, source: str
) -> Iterator[Issue]:
    """Yield what forbids a decision (DetectedIssue.mitigation).

    Args:
        made: the mitigation.
        author: the Practitioner whose it is; None: it is not known whose.
        user: who is logged in.
        client: the client by whose token; where neither is known, no token is asked for, and the author is believed.
        source: of the rule.

    """
    if not str(made.get("action", {}).get("text", "")).strip():
        yield refused("says why: give its reason (mitigation.action.text).", "action", source)
    if "date" not in made:
        yield refused("says when it is made: give its time (mitigation.date).", "date", source)
    if author is not None and author != user and (user is not None or client is not None):
        by = "a program without a person" if user is None else user
        yield refused(f"is its prescriber's own: {author} has to log in and make it, not {by}.", "author", source)


def refused(what: str, element: str, source: str) -> Issue:
    """Return the refusal of a decision; `what` completes the sentence."""
    return Issue(
        f"A decision {what}",
        code="business-rule",
        expression=(f"DetectedIssue.mitigation.{element}",),
        rule="E-OVERRIDE",
        source=source,
    )
