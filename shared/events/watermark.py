"""How far a source's news has come: a record in its topic that says that all before it was told.

A service that hears nothing cannot tell silence from an outage. So the relay that holds a shard says every few
seconds: what this source committed in this shard before `until` is in the topic before this record. Whoever takes a
partition in in order, and has come to the record, knows all of it.

It is CloudEvents 1.0 in Kafka's binary content mode, and no resource's event: nothing of it is stored but the time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from shared.events.codec import SOURCE_PREFIX, SPEC_VERSION, Record, UnreadableEvent, instant

TYPE: Final = "org.kap-exchange.watermark.v1"
CONTENT_TYPE: Final = "application/json"
HEADERS: Final = ("content-type", "ce_specversion", "ce_id", "ce_source", "ce_type", "ce_time", "ce_shard")


@dataclass(frozen=True, slots=True)
class Watermark:
    """All that `source` committed in `shard` before `until` stands before this in its topic.

    `until` is by the clock of the source's database, UTC.
    """

    source: str
    shard: int
    until: datetime


def encode(watermark: Watermark) -> Record:
    """Return the record of a watermark; its time is cut to milliseconds, so it never says too much."""
    until = instant(watermark.until)
    values = {
        "content-type": CONTENT_TYPE,
        "ce_specversion": SPEC_VERSION,
        "ce_id": f"watermark/{watermark.shard}/{until}",
        "ce_source": f"{SOURCE_PREFIX}{watermark.source}",
        "ce_type": TYPE,
        "ce_time": until,
        "ce_shard": str(watermark.shard),
    }
    body = json.dumps({"shard": watermark.shard, "until": until}, separators=(",", ":"))
    headers = [(name, value.encode()) for name, value in values.items()]
    return Record(f"watermark/{watermark.shard}".encode(), body.encode(), headers)


def decode(headers: Iterable[tuple[str, bytes | None]]) -> Watermark | None:
    """Return the watermark of a record, None where the record is another.

    Raises:
        UnreadableEvent: it is a watermark, and a header is missing or cannot be.

    """
    given = {name: text for name, text in headers if text is not None}
    if given.get("ce_type") != TYPE.encode():
        return None
    try:
        source, shard = given["ce_source"].decode(), int(given["ce_shard"])
        until = datetime.fromisoformat(given["ce_time"].decode())
    except (KeyError, ValueError) as error:
        raise UnreadableEvent("The watermark lacks its source, shard or time, or they cannot be.") from error
    if not source.startswith(SOURCE_PREFIX) or until.tzinfo is None:
        raise UnreadableEvent("The watermark is of no source of this project, or its time has no zone.")
    return Watermark(source.removeprefix(SOURCE_PREFIX), shard, until.astimezone(UTC))
