"""Reads what every hop holds in the end: databases by SQL, topics by a consumer of its own, the hospital over FHIR.

None of it goes through the code that is judged, but for the hospital, which `kap verify` reads.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Callable

import asyncpg
import httpx
from aiokafka import AIOKafkaConsumer, TopicPartition

from cli.compare import name_of
from cli.ops import Ops
from cli.stack.ports import GATEWAY, HOSPITAL, OWNERS
from cli.verify import ask, compare, service_of
from services.delivery.capability import PUSHED_TYPES
from shared.events.topics import PARTITIONS, topic_of
from shared.runtime.service import Service
from shared.store.connection import EVERY_CLINIC
from tests.chaos.evidence import Applied, Commit, Evidence, Told
from tests.chaos.fleet import DELIVERY, WITNESS, Fleet
from tests.chaos.witness import HELD
from tests.chaos.workload import IDENTIFIER, OWNER, Log

SOURCES = (*OWNERS, DELIVERY)
HOLDERS = (GATEWAY, *OWNERS, DELIVERY)

_HISTORY = """
SELECT k.name || '/' || r.id || '/' || h.version AS event, encode(sha256(h.body), 'hex') AS content, h.key,
       h.sequence, h.interaction, h.origin, k.name AS type
FROM history h JOIN resource r ON r.rid = h.rid JOIN resource_type k ON k.id = r.type
"""
_SAID = """
SELECT k.name || '/' || r.id || '/' || h.version AS event, convert_from(h.body, 'UTF8') AS body, k.name AS type
FROM history h JOIN resource r ON r.rid = h.rid JOIN resource_type k ON k.id = r.type
WHERE h.origin = $1 AND k.name = $2 AND h.interaction <> 'delete'
"""
_LINES = """
SELECT convert_from(h.body, 'UTF8')::jsonb AS line FROM history h WHERE h.origin = $1 ORDER BY h.rid
"""
_CONSENTS = """
SELECT h.key, bool_or(h.version = r.version AND NOT r.deleted
                      AND convert_from(h.body, 'UTF8')::jsonb ->> 'status' = 'active') AS now
FROM history h JOIN resource r ON r.rid = h.rid JOIN resource_type k ON k.id = r.type AND k.name = 'Consent'
GROUP BY h.key
"""
_CURRENT = """
SELECT k.name || '/' || r.id AS name, h.key FROM resource r JOIN history h ON h.rid = r.rid AND h.version = r.version
JOIN resource_type k ON k.id = r.type WHERE r.origin = $1 AND k.name = ANY ($2) AND NOT r.deleted
"""
_WATERMARK = b"org.kap-exchange.watermark.v1"


async def settle(fleet: Fleet, report: Callable[[str], None], *, patience: float, longest: float) -> None:
    """Wait until nothing is on its way any more, or nothing moves for `patience` seconds, or `longest` is over."""
    deadline = time.monotonic() + longest
    moved, before = time.monotonic(), None
    while time.monotonic() < deadline:
        await asyncio.to_thread(fleet.heal)
        now = await _left(fleet)
        if not any(now.values()):
            return
        if now != before:
            moved, before = time.monotonic(), now
        elif time.monotonic() - moved > patience:
            report(f"nothing moves any more: {now}")
            return
        await asyncio.sleep(1)
    report(f"still on its way: {before}")


async def _left(fleet: Fleet) -> dict[str, int]:
    """Return how much each hop still lacks."""
    left: dict[str, int] = {}
    written: dict[str, int] = {}
    for source in SOURCES:
        unpublished, versions = await _one(
            fleet,
            source,
            "SELECT (SELECT count(*) FROM outbox WHERE published_at IS NULL),"
            " (SELECT count(*) FROM history WHERE origin = $1)",
            source,
        )
        left[f"outbox of {source}"] = unpublished
        written[source] = versions
    (lines,) = await _one(fleet, WITNESS, "SELECT count(*) FROM history WHERE origin = $1", WITNESS)
    left[WITNESS] = max(0, sum(written.values()) - lines)
    (held,) = await _one(fleet, GATEWAY, "SELECT count(*) FROM history WHERE origin = ANY ($1)", list(SOURCES))
    left[GATEWAY] = max(0, sum(written.values()) - held)
    (queued,) = await _one(
        fleet, DELIVERY, "SELECT count(*) FROM delivery WHERE state IN ('queued', 'sending', 'waiting') AND $1", True
    )
    left["hospital"] = queued
    async with Ops(fleet.ports) as ops:
        try:
            found = [await ops.flow(name) for name in HOLDERS]
            left["lag"] = sum(1 if flow.lag is None else flow.lag for flow in found)
        except Exception:  # noqa: BLE001 - a service that is not up yet has something left to do
            left["lag"] = 1
    return left


async def _one(fleet: Fleet, service: str, sql: str, argument: object) -> tuple[int, ...]:
    connection = await asyncpg.connect(fleet.addresses[service], server_settings=EVERY_CLINIC)
    try:
        return tuple(await connection.fetchrow(sql, argument))
    finally:
        await connection.close()


async def collect(
    fleet: Fleet, log: Log, report: Callable[[str], None], *, patience: float, longest: float
) -> Evidence:
    """Read all of it while nothing is written: what a timer writes during the reading would be half read.

    Raises:
        TimeoutError: the timers left no pause in which all could be read.

    """
    deadline = time.monotonic() + longest
    while time.monotonic() < deadline:
        await settle(fleet, report, patience=patience, longest=deadline - time.monotonic())
        before = await _written(fleet)
        seen = await _read(fleet, log)
        if await _written(fleet) == before:
            return seen
        report("a timer wrote while the evidence was read; reading again")
    raise TimeoutError("Something was written each time the evidence was read.")


async def _written(fleet: Fleet) -> dict[str, int]:
    """Return how many versions each source has written."""
    return {
        source: (await _one(fleet, source, "SELECT count(*) FROM history WHERE origin = $1", source))[0]
        for source in SOURCES
    }


async def _read(fleet: Fleet, log: Log) -> Evidence:
    commits: list[Commit] = []
    held: dict[tuple[str, str], dict[str, str]] = {}
    expected: dict[tuple[str, str], frozenset[str]] = {}
    for holder in HOLDERS:
        service = service_of(holder)
        for source in service.consumes:
            held[holder, source] = {}
            expected[holder, source] = service.holds
        connection = await asyncpg.connect(fleet.addresses[holder], server_settings=EVERY_CLINIC)
        try:
            rows = await connection.fetch(_HISTORY)
        finally:
            await connection.close()
        for row in rows:
            if row["origin"] == holder:
                commits.append(
                    Commit(holder, row["event"], row["content"], row["key"], row["sequence"] or 0, row["interaction"])
                )
            else:
                held.setdefault((holder, row["origin"]), {})[row["event"]] = row["content"]
                expected.setdefault((holder, row["origin"]), frozenset())
    left = {
        (holder, source): await _may_leave(fleet, service_of(holder), source)
        for holder in HOLDERS
        for source in service_of(holder).consumes
    }
    return Evidence(
        answers=log.answers,
        commits=[one for one in commits if one.event.partition("/")[0] in HELD],
        told=await _told(fleet),
        applied=await _applied(fleet),
        held=held,
        expected=expected,
        left=left,
        hospital=await _hospital(fleet),
        parked=await _parked(fleet),
        signed=await _signed(fleet),
        pushed=await _pushed(fleet),
        there=await _there(fleet),
    )


async def _may_leave(fleet: Fleet, holder: Service, source: str) -> frozenset[str]:
    """Return the versions of a source that a holder need not keep, by what they say."""
    connection = await asyncpg.connect(fleet.addresses[source], server_settings=EVERY_CLINIC)
    try:
        found = [row for type_ in holder.leaves for row in await connection.fetch(_SAID, source, type_)]
    finally:
        await connection.close()
    return frozenset(row["event"] for row in found if holder.leaves[row["type"]](json.loads(row["body"])))


async def _signed(fleet: Fleet) -> dict[str, bool]:
    """Return who ever permitted that others are told, and whether he does now, by what intake holds."""
    connection = await asyncpg.connect(fleet.addresses["intake"], server_settings=EVERY_CLINIC)
    try:
        rows = await connection.fetch(_CONSENTS)
    finally:
        await connection.close()
    return {row["key"]: row["now"] for row in rows}


async def _pushed(fleet: Fleet) -> dict[str, str]:
    """Return what is current at its owner of the types that go to the hospital, and its patient."""
    found: dict[str, str] = {}
    for owner in OWNERS:
        connection = await asyncpg.connect(fleet.addresses[owner], server_settings=EVERY_CLINIC)
        try:
            rows = await connection.fetch(_CURRENT, owner, list(PUSHED_TYPES))
        finally:
            await connection.close()
        found |= {row["name"]: row["key"] for row in rows if row["key"].startswith("Patient/")}
    return found


async def _there(fleet: Fleet) -> frozenset[str]:
    """Return what the hospital shows of ours, ``Type/our id``."""
    found: set[str] = set()
    async with httpx.AsyncClient(timeout=60, trust_env=False) as http:
        for type_ in PUSHED_TYPES:
            url: str | None = f"{fleet.ports.fhir(HOSPITAL)}/{type_}?_count=500"
            while url is not None:
                bundle = (await http.get(url)).raise_for_status().json()
                found |= {name for one in bundle.get("entry", ()) if (name := name_of(one["resource"])) is not None}
                url = next((one["url"] for one in bundle.get("link", ()) if one["relation"] == "next"), None)
    return frozenset(found)


async def _told(fleet: Fleet) -> list[Told]:
    places = [TopicPartition(topic_of(source), number) for source in SOURCES for number in range(PARTITIONS)]
    source_of = {topic_of(source): source for source in SOURCES}
    consumer = AIOKafkaConsumer(
        bootstrap_servers=fleet.kafka.bootstrap, auto_offset_reset="earliest", enable_auto_commit=False
    )
    told: list[Told] = []
    await consumer.start()
    try:
        consumer.assign(places)
        await consumer.seek_to_beginning(*places)
        ends = await consumer.end_offsets(places)
        waiting = {place for place in places if ends[place] > 0}
        while waiting:
            for place, records in (await consumer.getmany(timeout_ms=1000)).items():
                for record in records:
                    headers = dict(record.headers)
                    if headers["ce_type"] != _WATERMARK:
                        told.append(
                            Told(
                                headers["ce_source"].decode().rpartition("/")[2],
                                headers["ce_id"].decode(),
                                hashlib.sha256(record.value).hexdigest(),
                                record.key.decode(),
                                record.partition,
                                record.offset,
                            )
                        )
                        assert told[-1].source == source_of[place.topic]
            waiting = {place for place in waiting if await consumer.position(place) < ends[place]}
    finally:
        await consumer.stop()
    return told


async def _applied(fleet: Fleet) -> list[Applied]:
    connection = await asyncpg.connect(fleet.addresses[WITNESS], server_settings=EVERY_CLINIC)
    try:
        rows = await connection.fetch(_LINES, WITNESS)
    finally:
        await connection.close()
    applied = []
    for row in rows:
        line = json.loads(row["line"])
        name = line["identifier"][0]
        applied.append(Applied(name["system"].rpartition(":")[2], name["value"], line["code"]["text"]))
    return applied


async def _hospital(fleet: Fleet) -> list[str]:
    async with Ops(fleet.ports) as ops:
        found = await compare(ops, await ask(ops))
    return [
        str(difference)
        for hop in found.hops
        if "delivery" in hop.name.partition("→")[0] or "→ delivery" in hop.name
        for difference in hop.differences
    ]


async def _parked(fleet: Fleet) -> dict[str, int]:
    return {
        service: (await _one(fleet, service, "SELECT count(*) FROM parked WHERE $1", True))[0]
        for service in (*HOLDERS, WITNESS)
    }


async def created_twice(fleet: Fleet, log: Log) -> list[str]:
    """Return those creates that were sent again for want of an answer, and of which the owner now has two."""
    found: list[str] = []
    async with httpx.AsyncClient(timeout=30, trust_env=False) as http:
        for type_, name in log.repeated:
            query = {"identifier": f"{IDENTIFIER}|{name}", "_summary": "count"}
            answer = await http.get(f"{fleet.ports.fhir(OWNER[type_])}/{type_}", params=query)
            total = answer.raise_for_status().json()["total"]
            if total > 1:
                found.append(f"{type_} {name}: {total} times")
    return found
