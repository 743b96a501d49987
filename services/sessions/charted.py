"""What is charted in a visit, read by its time: never the whole of a visit for one reading."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Final

from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.runtime.record import Record

_SECOND: Final = timedelta(seconds=1)


async def charted_between(
    record: Record, visit: str, codes: Iterable[str], low: datetime, high: datetime, *, untimed: bool = False
) -> list[Resource]:
    """Return a visit's Observations of one of `codes` that were taken from `low` to `high`, both included.

    `untimed`: those, too, that do not say when they were taken and were recorded since `low`.
    """
    about = [("encounter", f"Encounter/{visit}"), ("combo-code", ",".join(sorted(set(codes))))]
    found = await record.search(
        "Observation", [*about, ("date", f"ge{zulu(low)}"), ("date", f"lt{zulu(high + _SECOND)}")]
    )
    if untimed:
        since = [("date:missing", "true"), ("_lastUpdated", f"ge{zulu(low)}")]
        found.extend(await record.search("Observation", [*about, *since]))
    return found
