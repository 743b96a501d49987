"""What may be subscribed to: the policy's section `subscriptions`, and whether a version is an event. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.codes import BASE, KAP
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of
from shared.fhir.matching import criteria_of, satisfies

CANONICAL: Final = f"{BASE}/SubscriptionTopic/"


class Coded(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A code of the project's own that an element has to bear."""

    element: str
    code: str


class Topic(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One topic: see `policies/subscriptions.yaml`."""

    version: str
    title: str
    resource: str
    current: str = ""
    coded: Coded | None = None
    changed: tuple[str, ...] = ()
    deletes: bool = False
    filters: tuple[str, ...] = ()

    def may_be_event(self, after: Resource | None) -> bool:
        """Tell whether a version (None: a deletion) is an event where the one before it is of the right kind."""
        return self.deletes if after is None else self._holds(after)

    def is_event(self, after: Resource | None, before: Resource | None) -> bool:
        """Tell whether a version is an event, by it (None: a deletion) and the one before it (None: there was none)."""
        if not self.may_be_event(after):
            return False
        if after is None:
            return before is not None
        if before is None:
            return True
        if self.changed:
            return any(after.get(name) != before.get(name) for name in self.changed)
        return not self._holds(before)

    def _holds(self, resource: Resource) -> bool:
        if self.coded is not None and self.coded.code not in codes_of(resource.get(self.coded.element), KAP):
            return False
        return satisfies(resource, criteria_of(self.resource, self.current))


class Hours(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time in hours."""

    hours: int


class Days(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A time in days."""

    days: int


class Delivery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How long a subscriber is tried, and how long his events are kept."""

    error_after: Hours
    kept: Days
    unasked: Days


class SubscriptionPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `subscriptions`."""

    delivery: Delivery
    topics: Mapping[str, Topic]

    @property
    def canonicals(self) -> dict[str, str]:
        """By canonical with its version, what a topic is about and is narrowed by, for people."""
        return {
            f"{CANONICAL}{name}|{one.version}": f"{one.title} ({one.resource}; filters: {', '.join(one.filters)})"
            for name, one in self.topics.items()
        }

    @property
    def error_after(self) -> timedelta:
        """How long a subscriber is tried in vain before the subscription is in error."""
        return timedelta(hours=self.delivery.error_after.hours)

    @property
    def unasked(self) -> timedelta:
        """For how long one asked for stands where the issuer of tokens does not tell whether its client still does."""
        return timedelta(days=self.delivery.unasked.days)

    @property
    def kept(self) -> timedelta:
        """How long events that were taken can still be asked for."""
        return timedelta(days=self.delivery.kept.days)

    def topic(self, canonical: Any) -> Topic | None:
        """Return the topic of a canonical, with or without its version; None: there is none."""
        url, _, version = str(canonical).partition("|")
        found = self.topics.get(url.removeprefix(CANONICAL)) if url.startswith(CANONICAL) else None
        return found if found is not None and version in ("", found.version) else None
