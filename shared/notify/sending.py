"""The task that sends what is queued: at least once, with pauses that grow, and its end written into the record."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import httpx
import structlog
from prometheus_client import Counter
from tenacity import RetryCallState, Retrying, wait_exponential

from shared.fhir.outcome import Unavailable
from shared.notify.port import NotDelivered, Notifier, Outgoing
from shared.notify.smtp import Mail
from shared.notify.telling import failed, sent
from shared.notify.webhook import Webhook
from shared.runtime.app import Background, Beat, Parts
from shared.runtime.raising import content_of, own_work
from shared.runtime.record import open_record
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.store.access import Access
from shared.store.connection import retry_conflicts
from shared.store.notices import Notice, NoticeState, settle
from shared.store.store import Store

NOTICES = Counter("kap_notices_total", "Attempts to tell people something", ("service", "channel", "result"))

HOLD: Final = timedelta(seconds=60)
"""A notice that was taken is taken by another after it: longer than any adapter may take."""

AT_ONCE: Final = 10
IDLE: Final = 1.0
"""Seconds between two looks at an empty queue."""

_ROUTINE = wait_exponential(multiplier=5, max=900)
_URGENT = wait_exponential(multiplier=1, max=30)

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


def pause(attempt: int, *, urgent: bool) -> timedelta:
    """Return how long to wait after an attempt, the first being 1."""
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = attempt
    return timedelta(seconds=(_URGENT if urgent else _ROUTINE)(state))


@dataclass(frozen=True, slots=True)
class Sending:
    """Sends the notices of one service.

    Attributes:
        service, store: whose.
        notifiers: the adapters; a channel that none serves fails at once, so that the caller knows.
        clock: the present.

    """

    service: Service
    store: Store
    notifiers: Sequence[Notifier]
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    async def run(self, beat: Beat) -> None:
        """Send until cancelled."""
        while True:
            try:
                found = await self.once()
            except Unavailable:
                _log.warning("database_away", service=self.service.name)
                found = 0
            beat()
            if not found:
                await asyncio.sleep(IDLE)

    async def once(self) -> int:
        """Take what is due, send it, write down what became of it; return how many were taken.

        Raises:
            Unavailable: the database does not answer; what was sent meanwhile is sent once more.

        """
        due = await self.store.notices.take(self.clock(), hold=HOLD, limit=AT_ONCE)
        await asyncio.gather(*(self._deliver(notice) for notice in due))
        return len(due)

    async def _deliver(self, notice: Notice) -> None:
        now = self.clock()
        notifier = next((one for one in self.notifiers if notice.channel in one.channels), None)
        if notice.expires_at is not None and now >= notice.expires_at:
            return await self._end(notice, "failed", error="It could not be sent in time.")
        if notifier is None:
            return await self._end(notice, "failed", error=f"No server for the channel {notice.channel} is set up.")
        try:
            receipt = await notifier.send(
                Outgoing(notice.key, notice.channel, notice.address, notice.subject, notice.text, notice.urgent)
            )
        except NotDelivered as error:
            if error.for_good or notice.attempts >= notice.most_attempts:
                return await self._end(notice, "failed", error=str(error), brief=error.brief)
            again_at = self.clock() + pause(notice.attempts, urgent=notice.urgent)
            return await self._end(notice, "queued", error=str(error), brief=error.brief, again_at=again_at)
        return await self._end(notice, "sent", receipt=receipt)

    async def _end(
        self,
        notice: Notice,
        state: NoticeState,
        *,
        error: str | None = None,
        brief: str | None = None,
        receipt: str | None = None,
        again_at: datetime | None = None,
    ) -> None:
        NOTICES.labels(self.service.name, notice.channel, "again" if state == "queued" else state).inc()
        if state != "sent":
            why = error if brief is None else brief  # what the server says may name the patient's address
            _log.warning("notice_not_sent", service=self.service.name, number=notice.number, state=state, error=why)
        await retry_conflicts(partial(self._settle, notice, state, error, receipt, again_at))

    async def _settle(
        self, notice: Notice, state: NoticeState, error: str | None, receipt: str | None, again_at: datetime | None
    ) -> None:
        now, access = self.clock(), Access.unrestricted(notice.tenant)
        async with open_record(self.service, self.store, access, keys=(notice.record,)) as record:
            settled = await settle(
                record.transaction, notice, state, now, error=error, receipt=receipt, again_at=again_at
            )
            communication = await record.get("Communication", notice.communication)
            if not settled or state == "queued" or communication is None or communication["status"] != "preparation":
                return
            told = sent(communication, now, receipt or "") if state == "sent" else failed(communication, error or "")
            with own_work():
                await record.update(content_of(told))


def notifiers_of(settings: Settings, client: httpx.AsyncClient) -> list[Notifier]:
    """Return the adapters that the settings name; a channel without one fails visibly."""
    found: list[Notifier] = []
    if settings.smtp_url is not None and settings.smtp_sender is not None:
        found.append(Mail(settings.smtp_url.get_secret_value(), settings.smtp_sender))
    if settings.message_url is not None and settings.message_secret is not None:
        found.append(Webhook(client, settings.message_url, settings.message_secret.get_secret_value().encode()))
    return found


async def _run(parts: Parts, beat: Beat) -> None:
    async with httpx.AsyncClient() as client:
        await Sending(parts.service, parts.store, notifiers_of(parts.settings, client)).run(beat)


NOTICES_TASK: Final = Background("notices", _run)
"""For `App.background` of every service that tells people something."""
