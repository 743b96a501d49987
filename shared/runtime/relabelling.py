"""What was written before a rule of labels is labelled by it: new versions, by batches, by the worker itself.

The clinic marks a unit as a programme under 42 CFR Part 2, or a new version of the project brings rules: what is in the
record already was labelled by the old ones. A worker sees by the digest of the rules that they are others, looks
through what its service owns in the order of creation, and writes a version of each resource that lacks one. Its
event tells everybody. Who is killed goes on where the last batch ended; what has its labels is not written again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

import structlog
from prometheus_client import Counter

from shared.fhir.json import parse
from shared.fhir.outcome import Unavailable, Unprocessable
from shared.runtime.logging import fault
from shared.runtime.record import open_record
from shared.runtime.service import Service
from shared.security.labels import Labels
from shared.store.access import Access
from shared.store.connection import retry_conflicts
from shared.store.labelling import Labelled
from shared.store.store import Store

RELABELLED: Final = Counter("kap_relabelled_total", "Resources that were given labels of newer rules", ("service",))

BATCH: Final = 50
_BREATH: Final = 0.05
"""Seconds between two batches, for others."""

_LOOK_SECONDS: Final = 5.0

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Relabelling:
    """What labels anew what one service owns, in one process; any number of them may be at it."""

    service: Service
    labels: Labels
    store: Store
    batch: int = BATCH

    async def run(self, beat: Callable[[], None]) -> None:
        """Work until cancelled; the database being away is waited for."""
        begun = False
        while True:
            more = False
            try:
                if not begun:
                    await self.store.labelling.begin(self.labels.digest)
                    begun = True
                more = await self.once()
            except Unavailable:
                _log.warning("database_away", service=self.service.name)
            beat()
            await asyncio.sleep(_BREATH if more else _LOOK_SECONDS)

    async def once(self) -> bool:
        """Look at one batch; return whether there may be more.

        Raises:
            Unavailable: not now; what was written of the batch is written.

        """
        digest, kept = self.labels.digest, self.store.labelling
        await kept.again(digest)
        progress = await kept.progress(digest)
        if progress is None or progress.finished:
            return False
        if not progress.after:
            _log.info("labels_changed", service=self.service.name)
        several = await kept.next(progress.after, self.batch)
        changed = 0
        for one in several:
            try:
                if self._may_lack(one):
                    changed += await retry_conflicts(partial(self._label, one))
            except Unavailable:
                raise
            except Exception as error:  # noqa: BLE001 - one that cannot be read must not keep the others unlabelled
                _log.error("not_labelled", service=self.service.name, resource=f"{one.type}/{one.id}", **fault(error))
        last = len(several) < self.batch
        after = several[-1].rid if several else progress.after
        await kept.step(digest, progress.after, after, len(several), changed, last=last)
        RELABELLED.labels(self.service.name).inc(changed)
        if last:
            said = {"looked": progress.looked + len(several), "changed": progress.changed + changed}
            _log.info("labelled_anew", service=self.service.name, **said)
        return not last

    def _may_lack(self, one: Labelled) -> bool:
        resource, labels = parse(one.body), self.labels.of(one.tenant)
        try:
            return labels.labelled(resource) is not resource or labels.ask_for_unit(resource) is not None
        except Unprocessable:
            _log.error("process_note_in_the_record", service=self.service.name, resource=f"{one.type}/{one.id}")
            return False

    async def _label(self, one: Labelled) -> bool:
        access = Access.unrestricted(one.tenant)
        async with open_record(self.service, self.store, access, keys=(one.key,)) as record:
            return await record.label(one.type, one.id) is not None
