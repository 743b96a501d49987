"""Notifications, and what is said of a subscription, in the form that the backport gives R4; pure.

Source: https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/notifications.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, Literal, TypeAlias
from uuid import uuid4

from shared.fhir.dates import zulu
from shared.fhir.json import Resource, dump
from shared.http.bundle import confidential
from shared.security.notice import with_notice
from shared.store.behind import Behind
from shared.store.subscriptions import Content, Event, Status

_PROFILE: Final = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
NOTIFICATION: Final = f"{_PROFILE}backport-subscription-notification-r4"
STATUS: Final = f"{_PROFILE}backport-subscription-status-r4"

Kind: TypeAlias = Literal["handshake", "heartbeat", "event-notification", "query-status", "query-event"]
_METHODS: Final = {"create": "POST", "update": "PUT", "delete": "DELETE"}
_ANSWERS: Final = {"create": "201", "update": "200", "delete": "204"}


@dataclass(frozen=True, slots=True)
class Shown:
    """An event with its number.

    Attributes:
        event, number: of the subscription.
        patient: whose record it is of.
        programme: whether it is of a programme under 42 CFR Part 2, and who is told is outside.
        behind: the Consents by which somebody outside is told.
        resource: where it is told as a whole.

    """

    event: Event
    number: int
    patient: str | None = None
    programme: bool = False
    behind: tuple[Behind, ...] = ()
    resource: Resource | None = None


def status(
    subscription: str,
    topic: str,
    state: Status,
    kind: Kind,
    number: int,
    base_url: str,
    events: Sequence[Shown] = (),
    *,
    content: Content = "empty",
    error: str | None = None,
) -> Resource:
    """Return the Parameters that say how a subscription is; `number` is that of the last event that was told."""
    told: list[dict[str, Any]] = [
        {"name": "subscription", "valueReference": {"reference": f"{base_url}/Subscription/{subscription}"}},
        {"name": "topic", "valueCanonical": topic},
        {"name": "status", "valueCode": state},
        {"name": "type", "valueCode": kind},
        {"name": "events-since-subscription-start", "valueString": str(number)},
    ]
    for one in events:
        part: list[dict[str, Any]] = [
            {"name": "event-number", "valueString": str(one.number)},
            {"name": "timestamp", "valueInstant": zulu(one.event.at)},
        ]
        if content != "empty":
            part.append({"name": "focus", "valueReference": {"reference": _url(one.event, base_url)}})
        told.append({"name": "notification-event", "part": part})
    if error is not None:
        told.append({"name": "error", "valueCodeableConcept": {"text": error}})
    return {"resourceType": "Parameters", "id": str(uuid4()), "meta": {"profile": [STATUS]}, "parameter": told}


def notification(said: Resource, subscription: str, events: Sequence[Shown], content: Content, base_url: str,
                 now: datetime) -> Resource:  # fmt: skip
    """Return the Bundle of a notification: what is said of the subscription, then what the events are about.

    It is as confidential as the resources in it. Where an event is of a programme under 42 CFR Part 2 it bears the
    notice and the Consents; one that is to hold nothing of anybody (`empty`) says what these are for, not which they
    are.
    """
    entries: list[dict[str, Any]] = [
        {
            "fullUrl": f"urn:uuid:{said['id']}",
            "resource": said,
            "request": {"method": "GET", "url": f"{base_url}/Subscription/{subscription}/$status"},
            "response": {"status": "200"},
        }
    ]
    seen: set[tuple[str, str, int]] = set()
    for one in events:
        place = (one.event.type, one.event.id, one.event.version)
        if content == "empty" or place in seen:
            continue
        seen.add(place)
        url = _url(one.event, base_url)
        interaction = one.event.interaction
        entries.append(
            {
                "fullUrl": url,
                **({} if one.resource is None else {"resource": one.resource}),
                "request": {"method": _METHODS[interaction], "url": one.event.type if interaction == "create" else url},
                "response": {"status": _ANSWERS[interaction]},
            }
        )
    held = [dump(entry["resource"]) for entry in entries[1:] if "resource" in entry]
    made: Resource = {
        "resourceType": "Bundle",
        "id": str(uuid4()),
        "meta": {"profile": [NOTIFICATION], **confidential(held)},
        "type": "history",
        "timestamp": zulu(now),
        "entry": entries,
    }
    under_part_2 = [one for one in events if one.programme]
    if not under_part_2:
        return made
    behind = list(dict.fromkeys(consent for one in under_part_2 for consent in one.behind))
    return with_notice(made, behind, own_base=None if content == "empty" else base_url)


def statuses(said: Sequence[Resource], now: datetime) -> Resource:
    """Return what `$status` answers: a searchset of Parameters."""
    return {
        "resourceType": "Bundle",
        "id": str(uuid4()),
        "type": "searchset",
        "timestamp": zulu(now),
        "total": len(said),
        "entry": [{"fullUrl": f"urn:uuid:{one['id']}", "resource": one, "search": {"mode": "match"}} for one in said],
    }


def _url(event: Event, base_url: str) -> str:
    return f"{base_url}/{event.type}/{event.id}"
