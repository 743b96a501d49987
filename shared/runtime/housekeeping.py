"""Keeping the tables of events small: published rows of the outbox and rows of the inbox are forgotten after a time.

The outbox keeps what it has published for as long as Kafka does (7 days), so that an operator can compare both, or
publish again what a broker lost.

The inbox must outlive that. As long as Kafka holds an event it can bring it again: a consumer group whose offsets are
lost begins at the oldest record, a restored broker repeats what it had. Only the inbox's row says that the event was
applied; without it the reactions to it would run once more. Hence its 30 days, and no setting below Kafka's own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog
from prometheus_client import Counter

from shared.fhir.outcome import Unavailable
from shared.store.audit import Audit
from shared.store.pruning import Pruning

PRUNED = Counter("kap_pruned_rows_total", "Rows of the tables of events that were forgotten", ("service", "table"))

EVERY: Final = 300.0
"""Seconds between rounds."""

_BREATH: Final = 0.05
"""Seconds between two deletes of a round, for others."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Housekeeping:
    """What a worker of `service` forgets: how long each table keeps its rows, and the audit its own."""

    service: str
    pruning: Pruning
    outbox: timedelta
    inbox: timedelta
    audit: Audit | None = None
    audit_kept: timedelta = timedelta.max

    async def run(self, beat: Callable[[], None]) -> None:
        """Look every `EVERY` seconds, until cancelled."""
        while True:
            try:
                await self.once(beat)
            except Unavailable:
                _log.warning("database_away", service=self.service)
            beat()
            await asyncio.sleep(EVERY)

    async def once(self, beat: Callable[[], None] = lambda: None) -> None:
        """Forget all that is old enough now.

        Raises:
            Unavailable: not now.

        """
        now = datetime.now(UTC)
        after: int | None = 0
        while after is not None:
            gone, after = await self.pruning.outbox(now - self.outbox, after=after)
            await self._note("outbox", gone, beat)
        gone = 1
        while gone:
            gone = await self.pruning.inbox(now - self.inbox)
            await self._note("inbox", gone, beat)
        gone = 1
        while gone:
            gone = await self.pruning.pieces(now - self.inbox)
            await self._note("claim_piece", gone, beat)
        if self.audit is not None and self.audit_kept < timedelta.max:
            await self._note("audit", await self.audit.give_up(now - self.audit_kept), beat)

    async def _note(self, table: str, gone: int, beat: Callable[[], None]) -> None:
        PRUNED.labels(self.service, table).inc(gone)
        beat()
        await asyncio.sleep(_BREATH if gone else 0)
