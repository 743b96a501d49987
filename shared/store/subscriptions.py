"""Subscriptions in PostgreSQL: what is asked for, what has changed, what was told and under which number.

Changes are noted by a trigger (``0270_subscriptions.sql``). `known` tells what of them a subscriber may know. `Told` is
one subscription's work as one transaction sees it, its row locked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from shared.events.envelope import Interaction
from shared.fhir.definitions import TYPE_IDS, type_id
from shared.store.access import Grant
from shared.store.comparisons import Binder
from shared.store.connection import translated
from shared.store.types import Stored
from shared.store.visibility import PART_2, visible

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.store.access import Access
    from shared.store.clinics import Clinics
    from shared.store.store import Transaction

Status: TypeAlias = Literal["requested", "active", "error", "off"]
Content: TypeAlias = Literal["empty", "id-only", "full-resource"]

LATE: Final = timedelta(seconds=60)
"""How long a version waits for the one before it, which its owner has committed and which is on its way."""

KEPT: Final = timedelta(days=7)
"""How long a change is remembered after it was decided on: longer than a second projection looks back."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscribed:
    """A subscription.

    Attributes:
        id, status, topic: as the Subscription has them.
        types: of the resources that it is about.
        filters: ``Type?search``; all have to hold.
        client, fhir_user, role, patient, scopes, outside, everything, grant_id, token: of the token it was asked for
            with; the last two are ids, by which its issuer tells whether it still stands.
        endpoint, headers: where notifications go, and what with (sealed).
        content: what they hold.
        heartbeat: seconds after which it is told that there is nothing to tell; None: never.
        timeout: seconds in which the subscriber has to answer.
        most: events of one notification.
        ends_at: from when on it is off.
        last_number: of the last event that was told.
        attempt: of the last request.
        failures, failing_since: attempts since one went well, and when the first of them was.
        asked_at: when a living token last asked for it.
        told_at: when the subscriber last answered well; None: never, so that it is not even known to be there.
        error: why the last attempt failed, or why it was ended.

    """

    id: str
    status: Status
    topic: str
    types: tuple[str, ...]
    filters: tuple[str, ...]
    client: str | None
    fhir_user: str | None
    role: str | None
    patient: str | None
    scopes: str
    outside: bool
    everything: bool
    grant_id: str | None
    token: str | None
    endpoint: str
    headers: bytes
    content: Content
    heartbeat: int | None
    timeout: int
    most: int
    ends_at: datetime | None
    last_number: int = 0
    attempt: int = 0
    failures: int = 0
    failing_since: datetime | None = None
    told_at: datetime | None = None
    error: str | None = None
    asked_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Changed:
    """A version of which it is not decided yet for whom it is an event.

    `before`: the body of the version before it; None where there was none, or it was a deletion.
    """

    number: int
    type: str
    id: str
    version: int
    interaction: Interaction
    at: datetime
    body: bytes
    before: bytes | None


@dataclass(frozen=True, slots=True)
class Event:
    """An event of a subscription; without a number it was never told."""

    place: int
    number: int | None
    type: str
    id: str
    version: int
    interaction: Interaction
    at: datetime


_NAMES: Final = {number: name for name, number in TYPE_IDS.items()}
_COLUMNS: Final = tuple(field.name for field in fields(Subscribed))
_ASKED: Final = _COLUMNS[: _COLUMNS.index("last_number")]
_EVENT: Final = "place, number, type, id, version, interaction, at"
_PUT: Final = f"""
INSERT INTO subscription (tenant, {", ".join(_ASKED)})
VALUES ($1, {", ".join(f"${number + 2}" for number in range(len(_ASKED)))})
ON CONFLICT (tenant, id) DO UPDATE SET {", ".join(f"{name} = excluded.{name}" for name in _ASKED if name != "id")},
    failures = 0, failing_since = NULL, next_attempt_at = clock_timestamp(), told_at = NULL, error = NULL,
    asked_at = clock_timestamp(), attempt = subscription.attempt + 1, attempt_until = NULL
"""
_ANOTHER: Final = """
UPDATE subscription_event SET taken_at = clock_timestamp()
WHERE tenant = $1 AND subscription = $2 AND taken_at IS NULL AND number IS NOT NULL
"""
_CHANGES: Final = """
SELECT c.number, c.type, c.id, c.version, c.interaction, c.at, v.body,
    CASE WHEN p.interaction <> 'delete' THEN p.body END AS before
FROM subscription_change c
JOIN resource r ON r.tenant = c.tenant AND r.type = c.type AND r.id = c.id
JOIN history v ON v.rid = r.rid AND v.version = c.version
LEFT JOIN history p ON p.rid = r.rid AND p.version = c.version - 1
WHERE c.tenant = $1 AND NOT c.matched
  AND (c.version = 1 OR p.rid IS NOT NULL OR c.at < clock_timestamp() - $2::interval)
ORDER BY c.number LIMIT $3 FOR UPDATE OF c
"""
_ADD: Final = """
INSERT INTO subscription_event (tenant, subscription, type, id, version, interaction, at)
SELECT $1, s.id, $3, $4, $5, $6, $7 FROM subscription s WHERE s.tenant = $1 AND s.id = $2 AND s.status <> 'off'
ON CONFLICT DO NOTHING
"""
_DUE: Final = """
SELECT t.name AS tenant, s.id, s.client FROM subscription s JOIN tenant t ON t.id = s.tenant
WHERE s.status IN ('requested', 'active') AND s.next_attempt_at <= clock_timestamp()
  AND (s.attempt_until IS NULL OR s.attempt_until < clock_timestamp())
  AND (s.status = 'requested' OR s.ends_at < clock_timestamp() OR EXISTS (
        SELECT FROM subscription_event e WHERE e.tenant = s.tenant AND e.subscription = s.id AND e.taken_at IS NULL)
       OR s.told_at < clock_timestamp() - s.heartbeat * interval '1 second')
ORDER BY row_number() OVER (PARTITION BY s.tenant, s.client ORDER BY s.next_attempt_at),
    row_number() OVER (PARTITION BY s.tenant ORDER BY s.next_attempt_at), s.next_attempt_at LIMIT $1
"""


class SubscriptionQueue:
    """What waits in all clinics, for the service's own work."""

    def __init__(self, clinics: Clinics) -> None:
        self._clinics = clinics

    async def changed(self) -> list[str]:
        """Return the clinics with changes that are not decided on."""
        with translated():
            rows = await self._clinics.fetch(
                "SELECT t.name FROM tenant t WHERE EXISTS (SELECT FROM subscription_change c "
                "WHERE c.tenant = t.id AND NOT c.matched)"
            )
        return [row["name"] for row in rows]

    async def due(self, limit: int) -> list[tuple[str, str, str | None]]:
        """Return (clinic, id, client) of subscriptions that something is to be done for: of each client one in turn."""
        with translated():
            rows = await self._clinics.fetch(_DUE, limit)
        return [(row["tenant"], row["id"], row["client"]) for row in rows]

    async def held(self) -> list[tuple[str, Subscribed]]:
        """Return (clinic, subscription) of all that a token was shown for and that are not off."""
        with translated():
            rows = await self._clinics.fetch(
                f"SELECT t.name AS clinic, {', '.join(f's.{name}' for name in _COLUMNS)} FROM subscription s "
                "JOIN tenant t ON t.id = s.tenant WHERE s.status <> 'off' AND NOT s.everything"
            )
        return [(row["clinic"], _subscribed(row)) for row in rows]

    async def counts(self) -> dict[str, int]:
        """Return how many subscriptions there are, by status."""
        with translated():
            rows = await self._clinics.fetch("SELECT status, count(*) AS n FROM subscription GROUP BY status")
        return {row["status"]: row["n"] for row in rows}

    async def forget(self, kept: timedelta) -> None:
        """Forget changes that were decided on long ago, and events that their subscriber has had for so long."""
        with translated():
            await self._clinics.execute(
                "DELETE FROM subscription_change WHERE matched AND at < clock_timestamp() - $1::interval", KEPT
            )
            await self._clinics.execute(
                "DELETE FROM subscription_event WHERE taken_at < clock_timestamp() - $1::interval", kept
            )


# Asking


async def others_of(transaction: Transaction, client: str | None, but: str) -> int:
    """Return how many subscriptions a client has that are not off; until the commit nobody else adds one."""
    with translated():
        await transaction.connection.execute(
            "SELECT pg_advisory_xact_lock(hashtextextended($1, 270))", f"{transaction.number} {client}"
        )
        return int(
            await transaction.connection.fetchval(
                "SELECT count(*) FROM subscription WHERE tenant = $1 AND client IS NOT DISTINCT FROM $2 "
                "AND status <> 'off' AND id <> $3",
                transaction.number,
                client,
                but,
            )
        )


async def put(transaction: Transaction, asked: Subscribed, *, anew: bool = False) -> None:
    """Keep a subscription; one that was there is asked anew, and goes on with its numbers.

    A request that is under way counts for nothing any more. `anew`: it is about something else now, and what waited is
    not told any more.
    """
    if anew:
        with translated():
            await transaction.connection.execute(_ANOTHER, transaction.number, asked.id)
            await transaction.connection.execute(
                "DELETE FROM subscription_event WHERE tenant = $1 AND subscription = $2 AND number IS NULL",
                transaction.number,
                asked.id,
            )
    values: list[Any] = [getattr(asked, name) for name in _ASKED]
    values[_ASKED.index("types")] = [type_id(one) for one in asked.types]
    values[_ASKED.index("filters")] = list(asked.filters)
    with translated():
        await transaction.connection.execute(_PUT, transaction.number, *values)


async def remove(transaction: Transaction, id_: str) -> None:
    """Forget a subscription, and its events."""
    with translated():
        await transaction.connection.execute(
            "DELETE FROM subscription WHERE tenant = $1 AND id = $2", transaction.number, id_
        )


async def find(transaction: Transaction, id_: str, *, lock: bool = False) -> Subscribed | None:
    """Return a subscription; `lock` keeps others from working for it until the commit."""
    with translated():
        row = await transaction.connection.fetchrow(
            f"SELECT {', '.join(_COLUMNS)} FROM subscription WHERE tenant = $1 AND id = $2"
            + (" FOR UPDATE" if lock else ""),
            transaction.number,
            id_,
        )
    return None if row is None else _subscribed(row)


async def every(transaction: Transaction) -> list[Subscribed]:
    """Return the subscriptions of the clinic."""
    with translated():
        rows = await transaction.connection.fetch(
            f"SELECT {', '.join(_COLUMNS)} FROM subscription WHERE tenant = $1 ORDER BY id", transaction.number
        )
    return [_subscribed(row) for row in rows]


async def changes(transaction: Transaction, limit: int) -> list[Changed]:
    """Return what is not decided on, in the order of its coming: a version whose predecessor is on its way waits."""
    with translated():
        rows = await transaction.connection.fetch(_CHANGES, transaction.number, LATE, limit)
    return [Changed(**{**dict(row), "type": _NAMES[row["type"]]}) for row in rows]


async def decided(transaction: Transaction, numbers: Sequence[int]) -> None:
    """Note that it was decided for whom changes are events."""
    with translated():
        await transaction.connection.execute(
            "UPDATE subscription_change SET matched = true WHERE number = ANY ($1)", list(numbers)
        )


async def add(transaction: Transaction, subscription: str, change: Changed) -> None:
    """Make a change an event of a subscription; it becomes one once."""
    with translated():
        await transaction.connection.execute(
            _ADD,
            transaction.number,
            subscription,
            type_id(change.type),
            change.id,
            change.version,
            change.interaction,
            change.at,
        )


# What may be known


@dataclass(frozen=True, slots=True)
class Known:
    """A version that somebody may know of, and the latest before it of which he may; None: there is none.

    `programme`: it, or the resource as it is now, is of a programme under 42 CFR Part 2.
    """

    version: Stored
    before: Stored | None
    programme: bool


async def known(transaction: Transaction, accesses: Sequence[Access], events: Sequence[Event]) -> Mapping[int, Known]:
    """Return by place what may be known of events; of what is not there, nothing may be.

    The resource has to be visible as it is now, and the version as it was: its labels and whom it names. What a scope
    searches by is asked of the present alone, as index rows are of nothing else.
    """
    found: dict[int, Known] = {}
    for type_ in dict.fromkeys(one.type for one in events):
        found |= await _known(transaction, accesses, type_, [one for one in events if one.type == type_])
    return found


async def _known(
    transaction: Transaction, accesses: Sequence[Access], type_: str, events: Sequence[Event]
) -> Mapping[int, Known]:
    bind, types = Binder(), (type_,)
    clinic = bind(transaction.number, "integer")
    ids, versions = bind([one.id for one in events], "text[]"), bind([one.version for one in events], "integer[]")
    places = bind([one.place for one in events], "bigint[]")
    now = [condition for access in accesses for condition in visible(access, bind, clinic, types)]
    then = [
        condition for access in accesses for condition in visible(_unsearched(access), bind, clinic, types, version="h")
    ]
    with translated():
        rows = await transaction.connection.fetch(
            f"""
            SELECT g.place, r.id, v.*, v.labelled OR r.labels && '{{{PART_2}}}' AS programme
            FROM unnest({ids}, {versions}, {places}) AS g(id, version, place)
            JOIN resource r ON r.tenant = {clinic} AND r.type = {bind(type_id(type_), "smallint")} AND r.id = g.id
            CROSS JOIN LATERAL (
                SELECT h.version, h.last_updated, h.interaction, h.body, h.origin,
                    h.labels && '{{{PART_2}}}' AS labelled
                FROM history h
                WHERE {" AND ".join(["h.rid = r.rid", "h.version <= g.version", *then])}
                ORDER BY h.version DESC LIMIT 2) v
            WHERE {" AND ".join(now) or "true"} ORDER BY g.place, v.version DESC
            """,
            *bind.arguments,
        )
    versions_of = {one.place: one.version for one in events}
    found: dict[int, Known] = {}
    for row in rows:
        place, stored = row["place"], Stored.of(type_, row)
        if stored.version == versions_of[place]:
            found[place] = Known(stored, None, row["programme"])
        elif place in found:
            found[place] = replace(found[place], before=stored)
    return found


def _unsearched(access: Access) -> Access:
    """Return an access whose grants are about patients alone."""
    if access.grants is None:
        return access
    return replace(access, grants={type_: tuple(Grant(one.patients) for one in some)
                                   for type_, some in access.grants.items()})  # fmt: skip


# Telling


class Told:
    """What is told of one subscription, in a transaction that holds its row."""

    def __init__(self, transaction: Transaction, id_: str) -> None:
        self._connection = transaction.connection
        self._of = (transaction.number, id_)

    async def waiting(self, limit: int, *, after: int = 0) -> list[Event]:
        """Return the events that the subscriber does not have, in their order; those behind a place."""
        return await self._events("taken_at IS NULL AND place > $4", after, limit=limit)

    async def numbered(self, since: int, until: int, limit: int) -> list[Event]:
        """Return events by their numbers, both ends included."""
        return await self._events("number BETWEEN $4 AND $5", since, until, limit=limit)

    async def _events(self, which: str, *values: int, limit: int) -> list[Event]:
        with translated():
            rows = await self._connection.fetch(
                f"SELECT {_EVENT} FROM subscription_event WHERE tenant = $1 AND subscription = $2 AND {which} "
                "ORDER BY place LIMIT $3",
                *self._of,
                limit,
                *values,
            )
        return [Event(**{**dict(row), "type": _NAMES[row["type"]]}) for row in rows]

    async def number(self, place: int) -> int:
        """Give an event the next number; it is told, or about to be."""
        with translated():
            found: int = await self._connection.fetchval(
                "UPDATE subscription SET last_number = last_number + 1 WHERE tenant = $1 AND id = $2 "
                "RETURNING last_number",
                *self._of,
            )
            await self._connection.execute(
                "UPDATE subscription_event SET number = $4 WHERE tenant = $1 AND subscription = $2 AND place = $3",
                *self._of,
                place,
                found,
            )
        return found

    async def drop(self, places: Sequence[int]) -> None:
        """Forget events that were never told; of those that perhaps were, note that they are not sent any more."""
        with translated():
            await self._connection.execute(
                "DELETE FROM subscription_event WHERE tenant = $1 AND subscription = $2 AND place = ANY ($3) "
                "AND number IS NULL",
                *self._of,
                list(places),
            )
        await self.taken(places)

    async def taken(self, places: Sequence[int]) -> None:
        """Note that the subscriber has events, or is not sent them any more."""
        with translated():
            await self._connection.execute(
                "UPDATE subscription_event SET taken_at = clock_timestamp() WHERE tenant = $1 AND subscription = $2 "
                "AND place = ANY ($3)",
                *self._of,
                list(places),
            )

    async def untold(self, numbers: Sequence[int]) -> None:
        """Take numbers back of events that certainly nobody was told of, where they are still the last ones."""
        if not numbers:
            return
        with translated():
            done = await self._connection.execute(
                "UPDATE subscription SET last_number = $3 WHERE tenant = $1 AND id = $2 AND last_number = $4",
                *self._of,
                min(numbers) - 1,
                max(numbers),
            )
            if done.endswith(" 1"):
                await self._connection.execute(
                    "UPDATE subscription_event SET number = NULL WHERE tenant = $1 AND subscription = $2 "
                    "AND number = ANY ($3)",
                    *self._of,
                    list(numbers),
                )

    async def begin(self, seconds: float) -> int:
        """Begin an attempt, which nobody else repeats for so long; return its number."""
        with translated():
            attempt: int = await self._connection.fetchval(
                "UPDATE subscription SET attempt = attempt + 1, "
                "attempt_until = clock_timestamp() + $3::float8 * interval '1 second' "
                "WHERE tenant = $1 AND id = $2 RETURNING attempt",
                *self._of,
                seconds,
            )
        return attempt

    async def rest(self, seconds: float) -> None:
        """Look at it again after so many seconds."""
        with translated():
            await self._connection.execute(
                "UPDATE subscription SET next_attempt_at = clock_timestamp() + $3::float8 * interval '1 second' "
                "WHERE tenant = $1 AND id = $2",
                *self._of,
                seconds,
            )

    async def went_well(self) -> None:
        """Note that the subscriber answered well."""
        with translated():
            await self._connection.execute(
                "UPDATE subscription SET attempt_until = NULL, failures = 0, failing_since = NULL, error = NULL, "
                "told_at = clock_timestamp(), next_attempt_at = clock_timestamp() WHERE tenant = $1 AND id = $2",
                *self._of,
            )

    async def failed(self, why: str, again_in: float) -> None:
        """Note that an attempt failed, and when the next one is made."""
        with translated():
            await self._connection.execute(
                "UPDATE subscription SET attempt_until = NULL, failures = failures + 1, error = $3, "
                "failing_since = coalesce(failing_since, clock_timestamp()), "
                "next_attempt_at = clock_timestamp() + $4::float8 * interval '1 second' WHERE tenant = $1 AND id = $2",
                *self._of,
                why,
                again_in,
            )

    async def become(self, status: Status, why: str | None = None) -> None:
        """Give it another status; `why`: what is told of it from now on."""
        with translated():
            await self._connection.execute(
                "UPDATE subscription SET status = $3, error = coalesce($4, error) WHERE tenant = $1 AND id = $2",
                *self._of,
                status,
                why,
            )


def _subscribed(row: Any) -> Subscribed:
    values = {name: row[name] for name in _COLUMNS}
    values["types"] = tuple(_NAMES[one] for one in values["types"])
    values["filters"] = tuple(values["filters"])
    return Subscribed(**values)
