"""The Provenance of what a service derives by itself: from what, by which of its rules, when (ADR 15)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from shared.fhir.codes import ASSEMBLER
from shared.fhir.dates import zulu
from shared.fhir.json import Resource

if TYPE_CHECKING:
    from shared.runtime.record import Record
    from shared.store.types import Written


async def keep_origin(
    record: Record, written: Written, sources: Sequence[Resource], *, activity: str, now: datetime
) -> None:
    """Write the Provenance of a version that this service has just derived, in the same transaction.

    Args:
        record: the transaction.
        written: the version.
        sources: References to what it was derived from.
        activity: what was done, in plain words.
        now: when.

    """
    stored = written.stored
    made = {
        "resourceType": "Provenance",
        "target": [{"reference": f"{stored.type}/{stored.id}/_history/{stored.version}"}],
        "recorded": zulu(now),
        "activity": {"text": activity},
        "agent": [{"type": ASSEMBLER.concept(), "who": {"display": record.service.title}}],
        "entity": [{"role": "derivation", "what": dict(one)} for one in sources],
    }
    await record.create({name: value for name, value in made.items() if value})
