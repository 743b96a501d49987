"""How old what a service knows of the others is: up to when each said that it had told everything, by shard.

Ages are by the clock of this service's database, against that of the source's. No news is from later than it was
heard: of a source whose clock is ahead the hearing's own time is kept. So a time that lies ahead says that the clock
here was set back since; how old such news is nobody can say: it counts as old as it lies ahead, until there is other.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared.events.codec import NOBODYS
from shared.events.shards import SHARDS, shard_of
from shared.events.topics import topic_of
from shared.events.watermark import Watermark
from shared.fhir.freshness import Freshness, Unheard
from shared.fhir.ids import subject_uuid
from shared.store.clinics import Clinics
from shared.store.connection import Connection, translated

_HEAR: Final = """
INSERT INTO known_until (consumer, source, shard, until)
SELECT $1, source, shard, least(max(until), clock_timestamp())
FROM unnest($2::text[], $3::smallint[], $4::timestamptz[]) AS g(source, shard, until) GROUP BY source, shard
ON CONFLICT (consumer, source, shard) DO UPDATE SET until = excluded.until, heard_at = clock_timestamp()
    WHERE known_until.until < excluded.until OR known_until.until > clock_timestamp()
"""
# What waits in parking is not known, however much later the last watermark is: anything of the keys that are asked
# for, or each Consent of the clinic. A record that no program here could read (`codec.unreadable`: a Basic that has its
# topic for a source) may be one, and where it says no clinic, any clinic's.
_OF_SOURCE: Final = "p.consumer = $1 AND p.source IN (s.source, s.topic)"
_OF_KEYS: Final = f"SELECT min(p.time) FROM parked p WHERE {_OF_SOURCE} AND p.tenant = $4 AND p.key = ANY ($5::text[])"
_IS_CONSENT: Final = (
    f"{_OF_SOURCE} AND p.tenant IN ($4, '{NOBODYS}') AND p.type IN ('Consent', 'Basic') "
    "AND (p.type = 'Consent' OR p.source = s.topic)"
)
_CONSENTS: Final = f"SELECT min(p.time) FROM parked p WHERE cardinality($5::text[]) = 0 AND {_IS_CONSENT}"
_OF_NOBODY: Final = f"SELECT min(p.time) FROM parked p WHERE {_IS_CONSENT} AND p.key NOT LIKE 'Patient/%'"


def _ages_but(*parked: str) -> str:
    return f"""
SELECT s.source, (SELECT CASE WHEN count(*) = cardinality($3::smallint[]) THEN
    greatest(
        extract(epoch FROM clock_timestamp() - least(min(k.until), {", ".join(f"({one})" for one in parked)})),
        extract(epoch FROM max(k.until) - clock_timestamp()),
        0)::float8 END
    FROM known_until k WHERE k.consumer = $1 AND k.source = s.source AND k.shard = ANY ($3::smallint[])) AS seconds
FROM unnest($2::text[], $6::text[]) AS s(source, topic)
"""


_AGES: Final = _ages_but(_OF_KEYS, _CONSENTS)
_AGES_OF_CONSENTS: Final = _ages_but(_OF_KEYS, _OF_NOBODY)
_DOUBTED: Final = f"""
SELECT DISTINCT p.key FROM unnest($2::text[], $5::text[]) AS s(source, topic)
JOIN parked p ON {_IS_CONSENT} AND p.key LIKE 'Patient/%'
WHERE p.time < clock_timestamp() - $3 * interval '1 second'
"""
# What a person denied in one record is denied for the others that are joined with it.
_SAME: Final = """
SELECT DISTINCT unnest(kap_same_person(n.id, one)) AS patient
FROM unnest($2::uuid[]) AS one JOIN tenant n ON n.name = $1
"""
_KEYS_OF_SAME: Final = """
WITH same AS (
    SELECT n.id AS tenant, one FROM tenant n CROSS JOIN LATERAL unnest(kap_same_person(n.id, $2)) AS one
    WHERE n.name = $1)
SELECT 'Patient/' || r.id AS key FROM same JOIN resource r ON r.tenant = same.tenant AND r.type = 41 AND r.patient = one
UNION SELECT 'Patient/' || l.other FROM same JOIN patient_link l ON l.tenant = same.tenant AND l.patient = one
"""
_OF_ALL: Final = """
SELECT source, shard, abs(extract(epoch FROM clock_timestamp() - until))::float8 AS seconds
FROM known_until WHERE consumer = $1
"""
_MEASURED: Final = """
INSERT INTO consumer_lag (consumer, topic, partition, events)
SELECT $1, topic, partition, events FROM unnest($2::text[], $3::integer[], $4::bigint[]) AS g(topic, partition, events)
ON CONFLICT (consumer, topic, partition) DO UPDATE SET events = excluded.events, measured_at = clock_timestamp()
"""
_LAG: Final = """
SELECT topic, (sum(events) FILTER (WHERE measured_at > clock_timestamp() - $2 * interval '1 second'))::bigint AS events,
       count(*) FILTER (WHERE measured_at > clock_timestamp() - $2 * interval '1 second') AS partitions,
       extract(epoch FROM clock_timestamp() - max(measured_at))::float8 AS seconds
FROM consumer_lag WHERE consumer = $1 GROUP BY topic
"""
MEASURED_SECONDS: Final = 30.0
"""A partition that was measured longer ago is taken in by nobody: a worker measures its own every few seconds."""


@dataclass(frozen=True, slots=True)
class SourceAge:
    """How old what is known of a source is, in seconds.

    Attributes:
        source: ``intake``.
        seconds: of its oldest shard; None: of one at least it was never heard.
        shards: of how many shards it was heard.

    """

    source: str
    seconds: float | None
    shards: int


@dataclass(frozen=True, slots=True)
class TopicLag:
    """How far a consumer is behind in a topic.

    Attributes:
        events: that wait, over the partitions that somebody takes in; 0 where nobody takes any in.
        partitions: how many are taken in now.
        seconds: since one was last measured.

    """

    events: int
    partitions: int
    seconds: float


class Knowledge:
    """What one service's database says of its knowledge of others."""

    def __init__(self, clinics: Clinics) -> None:
        self._clinics = clinics

    async def hear(self, consumer: str, watermarks: Iterable[Watermark]) -> None:
        """Note watermarks that were come to; an older one than is known changes nothing."""
        given = sorted(watermarks, key=lambda one: (one.source, one.shard))
        if not given:
            return
        with translated():
            await self._clinics.execute(
                _HEAR,
                consumer,
                [one.source for one in given],
                [one.shard for one in given],
                [one.until for one in given],
            )

    async def by_shard(self, consumer: str) -> dict[tuple[str, int], float]:
        """Return the age, in seconds, of what is known of each source and shard that was ever heard of."""
        with translated():
            rows = await self._clinics.fetch(_OF_ALL, consumer)
        return {(row["source"], row["shard"]): row["seconds"] for row in rows}

    async def by_source(self, consumer: str, sources: Iterable[str]) -> list[SourceAge]:
        """Return how old what is known of each source is, at its oldest."""
        ages = await self.by_shard(consumer)
        told: list[SourceAge] = []
        for source in sources:
            of = [seconds for (name, _), seconds in ages.items() if name == source]
            told.append(SourceAge(source, max(of) if len(of) == SHARDS else None, len(of)))
        return told

    async def measured(self, consumer: str, lags: Mapping[tuple[str, int], int]) -> None:
        """Note how many events of partitions wait, by topic and partition."""
        if not lags:
            return
        given = sorted(lags.items())
        with translated():
            await self._clinics.execute(
                _MEASURED,
                consumer,
                [topic for (topic, _), _ in given],
                [partition for (_, partition), _ in given],
                [events for _, events in given],
            )

    async def lag(self, consumer: str) -> dict[str, TopicLag]:
        """Return how many events of each topic wait, as its partitions' holders last measured.

        A topic of which nobody ever held a partition is not in it.
        """
        with translated():
            rows = await self._clinics.fetch(_LAG, consumer, MEASURED_SECONDS)
        return {row["topic"]: TopicLag(row["events"] or 0, row["partitions"], row["seconds"]) for row in rows}


@dataclass(frozen=True, slots=True)
class ConsentsKnown:
    """What may be told to somebody outside, by what is known of consents.

    Attributes:
        unheard: whose news is too old; none: something may be told.
        doubted: of whom nothing may be told all the same, as rows know patients: a Consent of theirs, or what may be
            one, could not be applied here.

    """

    unheard: tuple[Unheard, ...] = ()
    doubted: frozenset[UUID] = frozenset()


async def ages(
    connection: Connection, consumer: str, sources: Sequence[str], tenant: str, keys: Collection[str]
) -> dict[str, float | None]:
    """Return, by source, the seconds since it is known that nothing of `keys` is missing; None: it never was.

    Without keys it is about all shards, and of what is parked about the Consents of the tenant: a withdrawal that could
    not be applied, or that waits behind what could not.
    """
    return await _ages(_AGES, connection, consumer, sources, tenant, keys)


async def ages_of_consents(
    connection: Connection, consumer: str, sources: Sequence[str], tenant: str, key: str
) -> dict[str, float | None]:
    """Return, by source, the seconds since it is known that no consent of a patient's (``Patient/1``) is missing.

    Nor of the records that are joined with his: what was denied there is denied here. What could not be read, and says
    of no patient, may be one of his.
    """
    keys, (type_, _, id_) = {key}, key.partition("/")
    if type_ == "Patient":
        with translated():
            rows = await connection.fetch(_KEYS_OF_SAME, tenant, subject_uuid(id_))
        keys.update(row["key"] for row in rows)
    return await _ages(_AGES_OF_CONSENTS, connection, consumer, sources, tenant, sorted(keys))


async def consents_known(connection: Connection, consumer: str, news: Freshness, tenant: str) -> ConsentsKnown:
    """Return what may be told of a clinic's patients to somebody outside, by the news of consents that is here.

    A Consent that could not be applied is not known; where nobody knows whose it is, none of the clinic's are.
    """
    unheard = tuple(news.too_old(await _ages(_AGES_OF_CONSENTS, connection, consumer, news.of, tenant, ())))
    if unheard:
        return ConsentsKnown(unheard)
    with translated():
        rows = await connection.fetch(
            _DOUBTED, consumer, list(news.of), float(news.seconds), tenant, [topic_of(one) for one in news.of]
        )
        named = [subject_uuid(row["key"].removeprefix("Patient/")) for row in rows]
        joined = await connection.fetch(_SAME, tenant, named) if named else []
    return ConsentsKnown(doubted=frozenset((*named, *(row["patient"] for row in joined))))


async def _ages(
    asked: str, connection: Connection, consumer: str, sources: Sequence[str], tenant: str, keys: Collection[str]
) -> dict[str, float | None]:
    shards = sorted({shard_of(tenant, key) for key in keys}) if keys else list(range(SHARDS))
    topics = [topic_of(source) for source in sources]
    with translated():
        rows = await connection.fetch(asked, consumer, list(sources), shards, tenant, list(keys), topics)
    return {row["source"]: row["seconds"] for row in rows}
