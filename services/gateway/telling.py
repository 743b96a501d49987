"""What a subscriber may be told of: his events as he may know of them now, numbered, whole, and for the audit.

A version is an event for him by what he may know: he is told of it where he may see the resource now and the version as
it was, and where it is one against the latest version before it that he may know of. So what is told, and how it is
counted, is that of a record without what he may not see (ADR 31).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from services.gateway.notifications import Shown
from services.gateway.whose import key_of
from shared.fhir.extraction import labels_of
from shared.fhir.ids import subject_uuid
from shared.fhir.json import Resource, parse
from shared.fhir.matching import criteria_of, satisfies
from shared.fhir.outcome import Gone, NotFound
from shared.security.audit import row_of
from shared.security.notice import with_notice
from shared.store import subscriptions as store
from shared.store.behind import behind, through
from shared.store.subscriptions import Told
from shared.store.visibility import PART_2

if TYPE_CHECKING:
    from uuid import UUID

    from services.gateway.topics import SubscriptionPolicy
    from shared.security.caller import Caller
    from shared.store.access import Access
    from shared.store.audit import Row
    from shared.store.behind import Behind
    from shared.store.store import Transaction
    from shared.store.subscriptions import Event, Known, Subscribed
    from shared.store.types import Stored

LOOKED_AT: Final = 100
"""Events that are looked at by one statement."""


def concerns(policy: SubscriptionPolicy, one: Subscribed, after: Resource | None, before: Resource | None) -> bool:
    """Tell whether a version (None: a deletion) may be an event of a subscription, whatever it was before."""
    topic = policy.topic(one.topic)
    about = after or before
    return (
        topic is not None
        and about is not None
        and topic.may_be_event(after)
        and all(satisfies(about, criteria_of(topic.resource, text.partition("?")[2])) for text in one.filters)
    )


def _living(stored: Stored | None) -> Resource | None:
    return None if stored is None or stored.deleted else parse(stored.body)


@dataclass(frozen=True, slots=True)
class _Seen:
    """What may be known of an event, and where who is told is outside, by which Consents."""

    known: Known
    behind: tuple[Behind, ...] = ()


@dataclass(frozen=True, slots=True)
class Telling:
    """One subscription in a transaction that holds its row.

    Attributes:
        transaction: of the gateway's store.
        policy: the topics.
        one: the subscription.
        caller: its subscriber as he is now.
        base_url: of what a notice refers to.
        also: somebody else who asks what there is, and has to see it himself.
        doubted: the patients, as rows know them, of whom nothing is told to somebody outside now: what they consent to
            is not known.

    """

    transaction: Transaction
    policy: SubscriptionPolicy
    one: Subscribed
    caller: Caller
    base_url: str
    also: Caller | None = None
    doubted: frozenset[UUID] = frozenset()

    @property
    def told(self) -> Told:
        """The rows of what is told."""
        return Told(self.transaction, self.one.id)

    async def next(self, most: int) -> list[Shown]:
        """Return the next events of which the subscriber may know, each with its number.

        What comes before them and he may not know of is gone for good where he was never told of it. What is of a
        patient whose consents are not known now waits, and what is behind it: it is told in order, or not at all.
        """
        shown: list[Shown] = []
        after, waits = 0, False
        while not waits and len(shown) < most and (events := await self.told.waiting(LOOKED_AT, after=after)):
            known, doubtful = await self._seen(events), await self._in_doubt(events)
            hidden = []
            for event in events:
                after = event.place
                if waits := event.place in doubtful:
                    break
                seen = known.get(event.place)
                if seen is None or (event.number is None and not self._is_event(seen.known)):
                    hidden.append(event.place)
                    continue
                number = event.number if event.number is not None else await self.told.number(event.place)
                shown.append(self._shown(event, number, seen))
                if len(shown) == most:
                    break
            await self.told.drop(hidden)
        return shown

    async def numbered(self, since: int, until: int, most: int) -> list[Shown]:
        """Return the events of these numbers of which the subscriber, and who asks, may know now."""
        events = await self.told.numbered(since, until, most)
        known = await self._seen(events)
        if self.also is not None:
            others = await store.known(self.transaction, _accesses(self.also, events), events)
            known = {place: one for place, one in known.items() if place in others}
        return [
            self._shown(event, event.number, known[event.place])
            for event in events
            if event.number is not None and event.place in known
        ]

    async def whole(self, shown: Sequence[Shown]) -> list[Shown]:
        """Return events with their resources, as the subscriber may read them now."""
        reads = [one.access("r") for one in (self.caller, self.also) if one is not None]
        return [await self._whole(each, reads) for each in shown]

    def row(self, shown: Shown, does: str) -> Row:
        """Return the row of the audit of an event that is told."""
        event, told, one = shown.event, self.caller.disclosure, self.one
        consents = ", ".join(each.consent for each in shown.behind)
        return row_of(
            "gateway",
            "disclose",
            does,
            "E",
            tenant=self.caller.tenant,
            client=one.client,
            role=one.role,
            recipient=(one.client if told is None else next(iter(sorted(told.recipients)), one.client)) or "anybody",
            through=through(shown.behind),
            authorisation=consents or (None if told is None else "by-consent"),
            purpose=() if told is None else tuple(sorted(told.purposes)),
            patients=() if shown.patient is None else (shown.patient,),
            what=(f"{event.type}/{event.id}/_history/{event.version}", f"Subscription/{one.id}"),
        )

    async def _seen(self, events: Sequence[Event]) -> dict[int, _Seen]:
        """Return by place what the subscriber may know of; of a programme's, only what some Consent is behind."""
        known = await store.known(self.transaction, _accesses(self.caller, events), events)
        told = self.caller.disclosure
        if told is None or not known:
            return {place: _Seen(one) for place, one in known.items()}
        places = [(one.version.type, one.version.id) for one in known.values()]
        by = await behind(self.transaction.connection, told, self.transaction.tenant, places)
        seen = {place: _Seen(one, by.get((one.version.type, one.version.id), ())) for place, one in known.items()}
        return {place: one for place, one in seen.items() if one.behind or not one.known.programme}

    async def _in_doubt(self, events: Sequence[Event]) -> frozenset[int]:
        """Return the places of what is of patients in doubt: whatever their consents, known or not, turn out to say."""
        if not self.doubted:
            return frozenset()
        accesses = [replace(access, disclosure=None) for access in _accesses(self.caller, events)]
        known = await store.known(self.transaction, accesses, events)
        return frozenset(place for place, one in known.items() if self._is_in_doubt(one))

    def _is_in_doubt(self, known: Known) -> bool:
        key = key_of(known.version)
        return key.startswith("Patient/") and subject_uuid(key.removeprefix("Patient/")) in self.doubted

    def _is_event(self, known: Known) -> bool:
        topic = self.policy.topic(self.one.topic)
        after, before = _living(known.version), _living(known.before)
        return topic is not None and topic.is_event(after, before) and concerns(self.policy, self.one, after, before)

    def _shown(self, event: Event, number: int, seen: _Seen) -> Shown:
        key = key_of(seen.known.version)
        patient = key.removeprefix("Patient/") if key.startswith("Patient/") else None
        programme = seen.known.programme and self.caller.disclosure is not None
        return Shown(event, number, patient, programme=programme, behind=seen.behind)

    async def _whole(self, each: Shown, reads: Sequence[Access]) -> Shown:
        event = each.event
        seen = [await self.transaction.find(access, event.type, event.id) for access in reads]
        first = seen[0]
        if first is None or None in seen or first.deleted:
            return each
        body = first.body
        if event.version != first.version:
            try:
                versions = [
                    await self.transaction.read_version(one, event.type, event.id, event.version) for one in reads
                ]
                body = versions[0].body
            except (NotFound, Gone):  # of earlier versions he may know nothing; of the present one he does
                pass
        resource = parse(body)
        if self.caller.disclosure is not None and PART_2 in labels_of(resource):
            resource = with_notice(resource, each.behind, own_base=self.base_url)
        return replace(each, resource=resource)


def _accesses(caller: Caller, events: Sequence[Event]) -> tuple[Access, ...]:
    """Return what somebody may see of events both by searching and by reading: once, where it is the same."""
    searched, read = caller.access("s"), caller.access("r")
    return (
        (searched,) if all(searched.granted(one.type) == read.granted(one.type) for one in events) else (searched, read)
    )
