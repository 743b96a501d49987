"""A Subscription as the backport has it: what it asks for, or all that is wrong with it; pure.

criteria                              the topic's canonical
  ext backport-filter-criteria        ``Type?name=value``; all have to hold
channel.type rest-hook, channel.endpoint
channel.payload application/fhir+json
  ext backport-payload-content        empty, id-only or full-resource
channel.header                        ``Authorization: ...`` and the like; kept sealed, shown as withheld
channel ext backport-heartbeat-period, backport-timeout, backport-max-count
end                                   when it ends

Source: https://hl7.org/fhir/uv/subscriptions-backport/STU1.1/StructureDefinition-backport-subscription.html
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, cast

from services.gateway.topics import SubscriptionPolicy, Topic
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.matching import NotMatched, criteria_of
from shared.fhir.outcome import BadRequest, Issue, Unprocessable
from shared.http.outbound import Outside
from shared.security.caller import OWNER
from shared.store.subscriptions import Content, Status

BACKPORT: Final = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"
WITHHELD: Final = "(withheld)"
"""Stands in the place of a header's value."""

CONTENTS: Final = ("empty", "id-only", "full-resource")
MEDIA_TYPE: Final = "application/fhir+json"
DEFAULT_TIMEOUT: Final = 10
LONGEST_TIMEOUT: Final = 30
SHORTEST_HEARTBEAT: Final = 10
MOST_AT_ONCE: Final = 100
MOST_HEADERS: Final = 5
_SOURCE: Final = "Subscriptions R5 Backport 1.1"
_HEADER: Final = re.compile(r"(Authorization|X-[A-Za-z0-9-]{1,60}): *([\x21-\x7e](?:[\x20-\x7e]{0,3998}[\x21-\x7e])?)")
_TAKEN: Final = frozenset(("x-request-id", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip"))


@dataclass(frozen=True, slots=True)
class Asked:
    """What a Subscription asks for; `headers` by name, None where the one that is kept is meant."""

    topic: Topic
    criteria: str
    filters: tuple[str, ...]
    endpoint: str
    headers: Mapping[str, str | None]
    content: Content
    heartbeat: int | None
    timeout: int
    most: int
    ends_at: datetime | None
    status: Status


def asked_by(resource: Resource, policy: SubscriptionPolicy, outside: Outside) -> Asked:
    """Return what a valid Subscription asks for.

    Raises:
        Unprocessable: it cannot be done here; with every reason.

    """
    issues: list[Issue] = []
    channel = resource["channel"]

    def wrong(said: str, where: str, code: str = "value") -> None:
        issues.append(
            Issue(said, code=code, expression=(f"Subscription.{where}",), rule="G-SUBSCRIPTION", source=_SOURCE)
        )

    topic = policy.topic(resource["criteria"])
    filters = tuple(str(one) for one in _values(resource.get("_criteria"), "backport-filter-criteria"))
    if topic is None:
        wrong(f"There is no such topic. There are: {', '.join(policy.canonicals)}.", "criteria", "not-found")
    for said in () if topic is None else filter(None, (_wrong_filter(one, topic) for one in filters)):
        wrong(said, "criteria.extension")
    if channel.get("type") != "rest-hook":
        wrong("Notifications are sent by rest-hook. Other channels are not offered.", "channel.type", "not-supported")
    refused = outside.problem(str(channel.get("endpoint", "")))
    if refused is not None:
        wrong(f"Nothing can be sent to this address. {refused}", "channel.endpoint", "security")
    if channel.get("payload", MEDIA_TYPE).partition(";")[0].strip() not in (MEDIA_TYPE, "application/json"):
        wrong(f"Notifications are {MEDIA_TYPE}.", "channel.payload", "not-supported")
    content = next(_values(channel.get("_payload"), "backport-payload-content"), "empty")
    if content not in CONTENTS:
        wrong(f"backport-payload-content is one of {', '.join(CONTENTS)}.", "channel.payload.extension")
    headers = _headers(channel.get("header", []))
    if headers is None:
        wrong(
            f"A header is 'Authorization: ...' or 'X-Name: ...' in one line of printable ASCII; {MOST_HEADERS} at "
            "most; none that proxies set.",
            "channel.header",
            "security",
        )
    heartbeat = next(_values(channel, "backport-heartbeat-period"), None)
    if heartbeat is not None and heartbeat < SHORTEST_HEARTBEAT:
        wrong(f"A heartbeat is sent every {SHORTEST_HEARTBEAT} s at most.", "channel.extension")
    timeout = next(_values(channel, "backport-timeout"), DEFAULT_TIMEOUT)
    if not 1 <= timeout <= LONGEST_TIMEOUT:
        wrong(f"An answer is waited for 1 to {LONGEST_TIMEOUT} s.", "channel.extension")
    most = next(_values(channel, "backport-max-count"), 1)
    if not 1 <= most <= MOST_AT_ONCE:
        wrong(f"A notification holds 1 to {MOST_AT_ONCE} events.", "channel.extension")
    if issues or topic is None:
        raise Unprocessable(issues)
    return Asked(
        topic,
        str(resource["criteria"]),
        filters,
        str(channel["endpoint"]),
        headers or {},
        cast("Content", content),
        heartbeat,
        timeout,
        most,
        interval(resource["end"])[0] if "end" in resource else None,
        "off" if resource["status"] == "off" else "requested",
    )


def _wrong_filter(text: str, topic: Topic) -> str | None:
    type_, _, search = text.partition("?")
    allowed = f"A filter is {topic.resource}?name=value, name one of {', '.join(topic.filters)}."
    if type_ != topic.resource or not search:
        return allowed
    try:
        criteria = criteria_of(type_, search)
    except (BadRequest, NotMatched, ValueError) as error:
        return f"{allowed} {error}" if isinstance(error, NotMatched) else allowed
    return None if all(one.parameter in topic.filters and one.modifier is None for one in criteria) else allowed


def _headers(given: Sequence[Any]) -> dict[str, str | None] | None:
    """Return headers by name, None for the value of one that is kept; None where one cannot be sent."""
    found = [_HEADER.fullmatch(str(text)) for text in given]
    if len(given) > MOST_HEADERS or any(one is None or one[1].lower() in _TAKEN for one in found):
        return None
    return {one[1]: None if one[2] == WITHHELD else one[2] for one in found if one is not None}


def _values(element: Mapping[str, Any] | None, name: str) -> Iterator[Any]:
    for one in (element or {}).get("extension", ()):
        if one.get("url") == f"{BACKPORT}{name}":
            yield next((value for key, value in one.items() if key.startswith("value")), None)


def kept(resource: Resource, status: Status, owner: str, error: str | None = None) -> Resource:
    """Return a Subscription as it is kept: its status, whose it is, and no secret."""
    meta = dict(resource.get("meta", {}))
    tags: Sequence[Mapping[str, Any]] = [one for one in meta.get("tag", ()) if one.get("system") != OWNER]
    meta["tag"] = [*tags, {"system": OWNER, "code": owner}]
    channel = dict(resource["channel"])
    if "header" in channel:
        channel["header"] = [f"{str(one).partition(':')[0]}: {WITHHELD}" for one in channel["header"]]
    said = {name: value for name, value in resource.items() if name != "error"}
    return {**said, "meta": meta, "status": status, "channel": channel, **({} if error is None else {"error": error})}
