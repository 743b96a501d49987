"""Noting the end of the audit's chain outside of its database, every second in which it moved.

A line a time is added to the file ``<service>.anchors`` of a folder, which belongs on a disk that whoever administers
the database cannot write (``chattr +a``, a volume of write-once storage), and is told to the log as well. What is cut
off the end of the chain later is missed there (`shared.store.audit_chain`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec
import structlog

from shared.fhir.outcome import Unavailable
from shared.store.audit import Audit, Head
from shared.store.audit_chain import Anchor

EVERY: Final = 1.0
"""Seconds: what is cut off the chain within them is not missed."""

_TOLD_EVERY: Final = 60.0
"""Seconds between two lines of the log."""

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)


class Anchoring:
    """Notes the end of one service's chain."""

    def __init__(self, kept: Audit, folder: Path | None) -> None:
        self._kept = kept
        self._file = None if folder is None else folder / f"{kept.service}.anchors"
        self._noted = Head()
        self._told = float("-inf")

    async def run(self, beat: Callable[[], None]) -> None:
        """Take what waits into the chain and note its end, every `EVERY` seconds, until cancelled."""
        while True:
            try:
                await self.once()
            except Unavailable:
                _log.warning("database_away", service=self._kept.service)
            beat()
            await asyncio.sleep(EVERY)

    async def once(self) -> None:
        """Note the end of the chain where it has moved.

        Raises:
            Unavailable: not now.

        """
        head = await self._kept.seal()
        if head.sequence == self._noted.sequence:
            return
        anchor = Anchor(self._kept.service, head.sequence, head.hash.hex(), datetime.now(UTC))
        if self._file is not None:
            await asyncio.to_thread(_add, self._file, anchor)
        now = asyncio.get_running_loop().time()
        if now - self._told >= _TOLD_EVERY:
            _log.info("audit", service=anchor.service, sequence=anchor.sequence, hash=anchor.hash)
            self._told = now
        self._noted = head


def _add(file: Path, anchor: Anchor) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("ab") as lines:
        lines.write(msgspec.json.encode(anchor) + b"\n")


def anchors_in(file: Path) -> Iterator[Anchor]:
    """Return the anchors of a file; a last line that was cut off by a crash is left out."""
    if file.exists():
        for line in file.read_bytes().split(b"\n")[:-1]:
            yield msgspec.json.decode(line, type=Anchor)
