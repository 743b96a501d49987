"""The work behind subscriptions: of what has changed, what is an event for whom; and telling it, in order.

One process at a time does it, by a lease. A subscription has its turn alone: the head of its queue is looked at with
the subscriber's own eyes, numbered, written down in the audit and sent, and what became of it is written down. In
between, nobody repeats it; who begins again after a crash finds the number in the database and sends it under that
again. So each event is told at least once, in order, and a number is left out only of what was on its way when it was
taken back (ADR 31).

Who subscribed is asked about at his issuer every few seconds: where his client was turned off, or what he was let do
has ended, the subscription is off at once, with what is on its way.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

import httpx
import structlog
from prometheus_client import Counter, Gauge, Histogram

from services.gateway.notifications import Kind, Shown, notification, status
from services.gateway.subscribing import TYPE, Subscribing
from services.gateway.telling import concerns
from shared.fhir.freshness import Freshness, as_words
from shared.fhir.json import dump, parse
from shared.fhir.outcome import Unavailable
from shared.http.outbound import OUTSIDE, NotOutside, Outbound, Outside
from shared.runtime.logging import fault
from shared.runtime.pauses import pause
from shared.runtime.raising import content_of, own_work
from shared.runtime.record import open_record
from shared.security.bearer import REVOKED_FRESH, REVOKED_STALE
from shared.store import subscriptions as store
from shared.store.access import Access
from shared.store.connection import retry_conflicts
from shared.store.knowledge import consents_known
from shared.store.lease import Lease, lease
from shared.store.subscriptions import Changed, Status, Subscribed, Told

if TYPE_CHECKING:
    from uuid import UUID

    from shared.runtime.app import Beat, Parts
    from shared.security.bearer import Ended
    from shared.security.caller import Caller
    from shared.store.store import Transaction

NOTIFICATIONS: Final = Counter("kap_notifications_total", "Notifications sent to subscribers", ("kind", "result"))
SUBSCRIPTIONS: Final = Gauge("kap_subscriptions", "Subscriptions by status; error: somebody has to look", ("status",))
DELAY: Final = Histogram(
    "kap_notification_delay_seconds",
    "From a change's coming here to the subscriber's answer",
    buckets=(0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86400),
)

POLL: Final = 0.2
"""Seconds between looks at an empty queue."""

AT_ONCE: Final = 128
"""Subscriptions that have their turn at the same time."""

OF_A_CLINIC: Final = 16
OF_A_CLIENT: Final = 4
"""Of one clinic, and of one client of it, so many of them: whoever answers slowly holds up himself."""

LOOKED_FOR: Final = 1000
"""Subscriptions that are due, of each client one in turn, among which those are found that have room."""

CHANGES: Final = 200
"""Changes that are decided on in one transaction."""

OTHER_HOLDER: Final = 2.0
HOUSEKEEPING: Final = 60.0
NEWS: Final = 2.0
"""Seconds after which news of consents that was too old is looked at again."""

_CONNECT: Final = 3.0
_AFTER: Final = 2.0
"""Seconds after its time-out at which an attempt that nobody settled is given up."""

_STATUSES: Final[tuple[Status, ...]] = ("requested", "active", "error", "off")

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """A request that is about to leave."""

    one: Subscribed
    number: int
    kind: Kind
    body: bytes
    headers: dict[str, str]
    shown: tuple[Shown, ...]
    fresh: tuple[int, ...]
    """Numbers that were given for this attempt."""
    outside: Outside
    """Where it may go."""


@dataclass(frozen=True, slots=True)
class _End:
    """What became of a request. `sent`: it may have reached the subscriber."""

    well: bool
    sent: bool
    said: str = ""
    asked: float = 0.0


@dataclass(slots=True)
class Notifying:
    """Tells subscribers.

    `news`: how old what is known of consents may be where somebody outside is told something.
    """

    subscribing: Subscribing
    news: Freshness
    transport: Callable[[], httpx.AsyncBaseTransport] | None = None
    _running: dict[tuple[str, str], asyncio.Task[None]] = field(default_factory=dict)
    _whose: dict[tuple[str, str], str | None] = field(default_factory=dict)
    """The clients of those that run."""
    _tidied: float = 0.0
    _asked: float = float("-inf")
    _heard: float = float("-inf")
    """When the issuer was asked, and when it last answered, who may still be told."""

    async def run(self, parts: Parts, beat: Beat) -> None:
        """Work until cancelled."""
        while True:
            with suppress(Unavailable):
                async with lease(parts.settings.dsn, "subscriptions") as held:
                    if held is not None:
                        await self._hold(parts, held, beat)
            beat()
            await asyncio.sleep(OTHER_HOLDER)

    async def _hold(self, parts: Parts, held: Lease, beat: Beat) -> None:
        transport = Outbound(Outside()) if self.transport is None else self.transport()
        async with httpx.AsyncClient(transport=transport, follow_redirects=False, trust_env=False) as client:
            try:
                while held.held:
                    done = await self.once(parts, client)
                    beat()
                    if not done:
                        await asyncio.sleep(POLL)
            finally:
                for task in self._running.values():
                    task.cancel()
                await asyncio.gather(*self._running.values(), return_exceptions=True)
                self._running.clear()

    def _has_room(self, tenant: str, client: str | None) -> bool:
        """Tell whether another subscription of a clinic's client may have its turn now."""
        clients = [self._whose.get(place) for place in self._running if place[0] == tenant]
        return len(self._running) < AT_ONCE and len(clients) < OF_A_CLINIC and clients.count(client) < OF_A_CLIENT

    async def once(self, parts: Parts, client: httpx.AsyncClient) -> int:
        """Decide on what has changed and begin the turns that are due; return how much there was of both."""
        if monotonic() - self._asked > REVOKED_FRESH:
            self._asked = monotonic()
            await self.end_what_ended(parts)
        decided = 0
        for tenant in await parts.store.subscriptions.changed():
            decided += await retry_conflicts(partial(self._decide, parts, tenant))
        begun = 0
        for place, task in list(self._running.items()):
            if task.done():
                del self._running[place]
                if (error := task.exception()) is not None and not isinstance(error, Unavailable):
                    if not isinstance(error, Exception):
                        raise error
                    _log.error("turn_failed", subscription=place[1], **fault(error))
        if len(self._running) < AT_ONCE:
            for tenant, id_, whose in await parts.store.subscriptions.due(LOOKED_FOR):
                if (tenant, id_) not in self._running and self._has_room(tenant, whose):
                    self._whose[tenant, id_] = whose
                    self._running[tenant, id_] = asyncio.create_task(self.turn(parts, client, tenant, id_))
                    begun += 1
            self._whose = {place: whose for place, whose in self._whose.items() if place in self._running}
        if monotonic() - self._tidied > HOUSEKEEPING:
            self._tidied = monotonic()
            await parts.store.subscriptions.forget(self.subscribing.policy.kept)
            counts = await parts.store.subscriptions.counts()
            for state in _STATUSES:
                SUBSCRIPTIONS.labels(state).set(counts.get(state, 0))
        return decided + begun

    # Who may be told at all

    async def end_what_ended(self, parts: Parts) -> None:
        """Turn off the subscriptions whose client, permission or token has ended, and stop what is on its way to them.

        So are those whose client, role or person may not see what they are about any more as they did.

        An issuer that does not answer changes nothing; after `REVOKED_STALE` seconds nothing is told to anybody whom it
        would have to be asked about.
        """
        held = await parts.store.subscriptions.held()
        callers = [self.subscribing.asking(one, tenant) for tenant, one in held]
        try:
            ended = await self._ended(parts, callers)
        except Unavailable as error:
            _log.warning("issuer_not_heard", said=str(error))
            return
        self._heard = monotonic()
        for (tenant, one), caller in zip(held, callers, strict=True):
            why = self._unasked(one) if ended is None else ended.why(caller)
            if why is None or parts.issuer is None:
                continue
            if (turn := self._running.pop((tenant, one.id), None)) is not None:
                turn.cancel()
                await asyncio.gather(turn, return_exceptions=True)
            await retry_conflicts(partial(self._become, parts, tenant, one, "off", why))

    def _unasked(self, one: Subscribed) -> str | None:
        """Return why one whose issuer tells nothing has ended: it was not asked for anew for too long."""
        days = self.subscribing.policy.unasked
        if one.asked_at is None or datetime.now(UTC) - one.asked_at <= days:
            return None
        said = f"It was not asked for anew for {days.days} days, and the issuer of tokens tells nothing of its client."
        return f"{said} Begin it anew by PUT."

    async def _ended(self, parts: Parts, callers: list[Caller]) -> Ended | None:
        return None if parts.issuer is None or not callers else await parts.issuer.ended(callers)

    # What is an event for whom

    async def _decide(self, parts: Parts, tenant: str) -> int:
        async with parts.store.transaction(keys=(), tenant=tenant) as transaction:
            found = list(in_order(await store.changes(transaction, CHANGES)))
            if not found:
                return 0
            listeners = [one for one in await store.every(transaction) if one.status != "off"]
            for change in found:
                after = None if change.interaction == "delete" else parse(change.body)
                before = None if change.before is None else parse(change.before)
                for one in listeners:
                    if change.type in one.types and concerns(self.subscribing.policy, one, after, before):
                        await store.add(transaction, one.id, change)
            await store.decided(transaction, [change.number for change in found])
        return len(found)

    # Telling

    async def turn(self, parts: Parts, client: httpx.AsyncClient, tenant: str, id_: str) -> None:
        """Tell one subscription what is next."""
        attempt = await retry_conflicts(partial(self._begin, parts, tenant, id_))
        if attempt is None:
            return
        end = await self._send(client, attempt)
        result = "taken" if end.well else "refused" if end.sent else "not-sent"
        NOTIFICATIONS.labels(attempt.kind, result).inc()
        await retry_conflicts(partial(self._settle, parts, tenant, attempt, end))

    async def _begin(self, parts: Parts, tenant: str, id_: str) -> _Attempt | None:
        async with parts.store.transaction(keys=(), tenant=tenant) as transaction:
            one = await store.find(transaction, id_, lock=True)
            if one is None or one.status not in ("requested", "active"):
                return None
            told = Told(transaction, id_)
            over = one.ends_at is not None and one.ends_at <= datetime.now(UTC)
            if not over:
                late, doubted = await self._late(parts, transaction, one)
                if late is not None:
                    _log.warning("subscription_waits", subscription=id_, lacks=late)
                    await told.rest(NEWS)
                    return None
                attempt = await self._attempt(parts, transaction, one, told, doubted)
                if attempt is None and doubted:
                    await told.rest(NEWS)  # an event may wait until a Consent of its patient's is known
                return attempt
        await self._become(parts, tenant, one, "off", None)
        return None

    async def _late(
        self, parts: Parts, transaction: Transaction, one: Subscribed
    ) -> tuple[str | None, frozenset[UUID]]:
        """Return whose news is too old to tell this subscriber anything (None: nobody's), and whose consents are."""
        if not one.everything and monotonic() - self._heard > REVOKED_STALE:
            return "the issuer's word that its client may still be told", frozenset()
        if self.subscribing.caller(one, transaction.tenant).disclosure is None:
            return None, frozenset()
        known = await consents_known(transaction.connection, parts.service.name, self.news, transaction.tenant)
        return as_words(known.unheard) if known.unheard else None, known.doubted

    async def _attempt(
        self, parts: Parts, transaction: Transaction, one: Subscribed, told: Told, doubted: frozenset[UUID]
    ) -> _Attempt | None:
        base_url = parts.settings.base_url
        telling = self.subscribing.telling(transaction, one, base_url, doubted=doubted)
        content = self.subscribing.content(one, transaction.tenant)
        kind: Kind = "handshake"
        shown: list[Shown] = []
        fresh: tuple[int, ...] = ()
        if one.status == "active":
            shown = await telling.next(one.most)
            fresh = tuple(each.number for each in shown if each.event.number is None)
            kind = "event-notification"
            if not shown:
                beat = one.heartbeat
                quiet = None if one.told_at is None else (datetime.now(UTC) - one.told_at).total_seconds()
                if beat is None or quiet is None or quiet < beat:
                    return None  # what there was is not for him
                kind = "heartbeat"
            if content == "full-resource":
                shown = await telling.whole(shown)
        for each in shown:
            await transaction.note(telling.row(each, "notify"))
        now = await store.find(transaction, one.id) or one
        state: Status = "active" if kind != "handshake" else "requested"
        said = status(one.id, one.topic, state, kind, now.last_number, base_url, shown, content=content)
        body = dump(notification(said, one.id, shown, content, base_url, datetime.now(UTC)))
        number = await told.begin(one.timeout + _CONNECT + _AFTER)
        headers = self.subscribing.headers(one, transaction.tenant)
        outside = self.subscribing.outside(transaction.tenant)
        return _Attempt(one, number, kind, body, headers, tuple(shown), fresh, outside)

    async def _send(self, client: httpx.AsyncClient, attempt: _Attempt) -> _End:
        one = attempt.one
        headers = {**attempt.headers, "Content-Type": "application/fhir+json; fhirVersion=4.0"}
        try:
            async with (
                asyncio.timeout(one.timeout + _CONNECT),
                client.stream(
                    "POST",
                    one.endpoint,
                    content=attempt.body,
                    headers=headers,
                    timeout=httpx.Timeout(one.timeout, connect=_CONNECT),
                    extensions={OUTSIDE: attempt.outside},
                ) as answer,
            ):
                asked = answer.headers.get("retry-after", "")
                wait = float(asked) if asked.isdecimal() else 0.0
                said = "" if answer.is_success else f"The subscriber answered {answer.status_code}."
                return _End(answer.is_success, sent=True, said=said, asked=wait)
        except NotOutside as error:
            return _End(well=False, sent=False, said=f"The endpoint may not be asked. {error}")
        except (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout) as error:
            return _End(well=False, sent=False, said=f"The endpoint cannot be reached ({type(error).__name__}).")
        except (httpx.HTTPError, TimeoutError) as error:
            return _End(well=False, sent=True, said=f"The endpoint's answer was lost ({type(error).__name__}).")

    async def _settle(self, parts: Parts, tenant: str, attempt: _Attempt, end: _End) -> None:
        become: Status | None = None
        async with parts.store.transaction(keys=(), tenant=tenant) as transaction:
            one = await store.find(transaction, attempt.one.id, lock=True)
            if one is None or one.attempt != attempt.number:
                return  # it was taken for lost, and begun again
            told = Told(transaction, one.id)
            if end.well:
                await told.taken([each.event.place for each in attempt.shown])
                await told.went_well()
                if attempt.kind == "handshake" and one.status == "requested":
                    become = "active"
            else:
                if not end.sent:
                    await told.untold(attempt.fresh)
                again = pause(one.failures + 1, random.random(), asked=end.asked)  # noqa: S311 - jitter, no secret
                await told.failed(end.said, again)
                if one.failing_since is not None and self._given_up(one.failing_since):
                    become = "error"
        for each in attempt.shown if end.well else ():
            DELAY.observe((datetime.now(UTC) - each.event.at).total_seconds())
        if become is not None:
            await self._become(parts, tenant, attempt.one, become, end.said or None)

    def _given_up(self, since: datetime) -> bool:
        return datetime.now(UTC) - since > self.subscribing.policy.error_after

    async def _become(self, parts: Parts, tenant: str, one: Subscribed, state: Status, why: str | None) -> None:
        """Give the Subscription another status, here and in the record, unless its client was faster."""
        access = Access.unrestricted(tenant)
        async with open_record(parts.service, parts.store, access, keys=(f"{TYPE}/{one.id}",)) as record:
            now = await store.find(record.transaction, one.id, lock=True)
            held = await record.get(TYPE, one.id)
            if now is None or held is None or (now.status, now.token) != (one.status, one.token):
                return
            await Told(record.transaction, one.id).become(state, why)
            said = {name: value for name, value in held.items() if name != "error"}
            with own_work():
                await record.update(content_of({**said, "status": state, **({} if why is None else {"error": why})}))
        _log.info("subscription_became", subscription=one.id, status=state)


def in_order(found: Iterable[Changed]) -> Iterator[Changed]:
    """Yield changes in the order of their coming, but of one resource each version after those before it."""
    left = {(one.type, one.id, one.version): one for one in found}
    for one in list(left.values()):
        earlier = sorted(key for key in left if key[:2] == (one.type, one.id) and key[2] < one.version)
        for key in (*earlier, (one.type, one.id, one.version)):
            if key in left:
                yield left.pop(key)
