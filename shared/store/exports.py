"""Exports in PostgreSQL: jobs in line, and what each came to as a list of versions.

A list is made in one transaction that sees one state of the record, by the conditions of a search (`visible`), and is
there whole or not at all. Bodies are read when a file is downloaded, and only those that the caller may still be told.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final
from uuid import UUID

from shared.events.codec import NOBODYS
from shared.events.shards import SHARDS
from shared.events.topics import topic_of
from shared.fhir.definitions import TYPE_IDS, type_id
from shared.fhir.search import Condition, SearchQuery
from shared.store import search
from shared.store.behind import Behind, Place, behind
from shared.store.codes import looked_up
from shared.store.comparisons import Binder
from shared.store.conditions import Conditions
from shared.store.connection import translated
from shared.store.keys import export_lock
from shared.store.predicates import Row, of_types, scope_of
from shared.store.terminology import StoredTerminology
from shared.store.visibility import PART_2, consented, visible

if TYPE_CHECKING:
    from shared.store.access import Access
    from shared.store.clinics import Clinics
    from shared.store.connection import Connection
    from shared.store.store import Store, Transaction

LINES: Final = 1000
"""Lines of a file, at most."""

LONGEST_WRITE: Final = timedelta(seconds=60)
"""For so long, at most, a transaction is under way that has given a resource its time and has not committed it."""

_BATCH_LINES, _BATCH_BYTES = 200, 8 * 1024 * 1024
_LIST_SECONDS: Final = 3600
_TYPES: Final = {number: name for name, number in TYPE_IDS.items()}
_JOB: Final = "number, id, tenant, client, state, asked_at, asked, known_until, finished_at, expires_at, said"

_ASK: Final = f"""
INSERT INTO export_job (id, tenant, client, asked, expires_at)
SELECT $1, $2, $3, $4::jsonb, clock_timestamp() + $5::interval
WHERE (SELECT count(*) FROM export_job WHERE tenant = $2 AND client = $3 AND expires_at > clock_timestamp()) < $6
RETURNING {_JOB}
"""
_IN_LINE: Final = """
SELECT count(*) FROM export_job WHERE state = 'waiting' AND tenant = $1 AND expires_at > clock_timestamp()
    AND ($2::text IS NULL OR client = $2) AND ($3::bigint IS NULL OR number < $3)
"""
_NEXT: Final = f"""
SELECT {_JOB} FROM export_job WHERE state = 'waiting' AND expires_at > clock_timestamp()
ORDER BY row_number() OVER (PARTITION BY tenant, client ORDER BY number),
    row_number() OVER (PARTITION BY tenant ORDER BY number), number
"""
_END: Final = "UPDATE export_job SET state = $2, said = $3, finished_at = clock_timestamp() WHERE number = $1"
_FIND: Final = f"SELECT {_JOB} FROM export_job WHERE id = $1 AND tenant = $2 AND expires_at > clock_timestamp()"
_NEWS: Final = f"""
SELECT s.source, CASE WHEN count(k.until) = $3 THEN least(min(k.until), clock_timestamp(), (
    SELECT min(p.time) FROM parked p
    WHERE $5 AND p.consumer = $1 AND p.source IN (s.source, s.topic) AND p.tenant IN ($4, '{NOBODYS}'))) END AS until
FROM unnest($2::text[], $6::text[]) AS s(source, topic)
LEFT JOIN known_until k ON k.consumer = $1 AND k.source = s.source
GROUP BY s.source, s.topic
"""
_LINE: Final = """
export_line l JOIN resource r ON r.tenant = {clinic} AND r.type = l.type AND r.id = l.id
JOIN history h ON h.rid = r.rid AND h.version = l.version
"""


_BEFORE: Final = " JOIN history p ON p.rid = r.rid AND p.version = {version} - 1"
"""What was deleted, as it was before."""


@dataclass(frozen=True, slots=True)
class Job:
    """One export: its place in line, whose it is, what was asked for (JSON), how far it is.

    `known_until`: all that owners committed until then is in it.
    """

    number: int
    id: str
    tenant: str
    client: str
    state: str
    asked_at: datetime
    asked: str
    known_until: datetime | None
    finished_at: datetime | None
    expires_at: datetime
    said: Sequence[str]


@dataclass(frozen=True, slots=True)
class File:
    """A file: its number in the export, the type of its resources, whether it tells of deletions, its lines."""

    number: int
    type: str
    deleted: bool
    lines: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of one type is to be listed.

    Attributes:
        type: the type.
        accesses: what the caller may see; all of them have to show it.
        patients: of these patients' records (logical ids as `subject_uuid` has them); None: of anybody's, or nobody's.
        borne: only what is of some patient's record.
        since: only what was changed, or deleted, at that time or later.
        any_of: searches, one of which has to find it; none: all of it.

    """

    type: str
    accesses: tuple[Access, ...]
    patients: tuple[UUID, ...] | None = None
    borne: bool = False
    since: datetime | None = None
    any_of: tuple[tuple[Condition, ...], ...] = ()


class Miscounted(Exception):
    """What was listed is not what is there: nothing of it may be told."""


class Withdrawn(Exception):
    """Something of what was listed may not be told any more, or is not there any more."""


class Exports:
    """The exports of one service."""

    def __init__(self, clinics: Clinics, service: str) -> None:
        self._clinics = clinics
        self._service = service

    async def ask(self, id_: str, tenant: str, client: str, asked: str, *, kept: timedelta, most: int) -> Job | None:
        """Put an export in line; None where its client has as many as it may already."""
        async with self._clinics.writing(tenant) as (connection, _):
            with translated():
                row = await connection.fetchrow(_ASK, id_, tenant, client, asked, kept, most)
        return None if row is None else Job(**row)

    async def in_line(self, tenant: str, *, before: Job | None = None) -> int:
        """Return how many exports of a clinic wait; `before`: those of the same client that wait before it."""
        client, number = (None, None) if before is None else (before.client, before.number)
        async with self._clinics.reading(tenant) as (connection, _):
            with translated():
                return int(await connection.fetchval(_IN_LINE, tenant, client, number))

    async def find(self, id_: str, tenant: str) -> Job | None:
        """Return an export of a clinic that has not expired."""
        async with self._clinics.reading(tenant) as (connection, _):
            with translated():
                row = await connection.fetchrow(_FIND, id_, tenant)
        return None if row is None else Job(**row)

    async def waiting(self) -> list[Job]:
        """Return those that wait: of each clinic's each client one in turn, the first in line first."""
        with translated():
            return [Job(**row) for row in await self._clinics.fetch(_NEXT)]

    async def end(self, job: Job, state: str, *said: str) -> None:
        """End an export that cannot be had (any more): what was listed is forgotten."""
        async with self._clinics.writing(job.tenant) as (connection, _):
            with translated():
                async with connection.transaction():
                    await connection.execute(_END, job.number, state, list(said))
                    await _forget_lines(connection, [job.number])

    async def delete(self, job: Job) -> None:
        """Forget an export."""
        async with self._clinics.writing(job.tenant) as (connection, _):
            with translated():
                async with connection.transaction():
                    await connection.execute("DELETE FROM export_job WHERE number = $1", job.number)
                    await _forget_lines(connection, [job.number])

    async def expire(self) -> int:
        """Forget the exports whose time is over; return how many."""
        with translated():
            async with self._clinics.acquire() as connection, connection.transaction():
                rows = await connection.fetch(
                    "DELETE FROM export_job WHERE expires_at <= clock_timestamp() RETURNING number"
                )
                await _forget_lines(connection, [row["number"] for row in rows])
        return len(rows)

    async def files(self, job: Job) -> list[File]:
        """Return the files of a finished export, in order."""
        async with self._clinics.reading(job.tenant) as (connection, _):
            with translated():
                rows = await connection.fetch(
                    "SELECT file, type, deleted, lines FROM export_file WHERE job = $1 ORDER BY file", job.number
                )
        return [File(row["file"], _TYPES[row["type"]], row["deleted"], row["lines"]) for row in rows]

    # What may be told

    async def look(
        self, job: Job, file: File, accesses: Sequence[Access]
    ) -> tuple[list[str], Mapping[Place, tuple[Behind, ...]]]:
        """Return the patients (logical ids) of whom a file tells, and the Consents behind it, if all may still be told.

        Raises:
            Withdrawn: something of it may not.

        """
        async with self._clinics.reading(job.tenant) as (connection, tenant):
            bind = Binder()
            told = _told(bind, tenant, job, file, accesses)
            with translated():
                rows = await connection.fetch(f"SELECT h.key, l.id FROM {told}", *bind.arguments)
            if len(rows) != file.lines:
                raise Withdrawn
            outside = next((one.disclosure for one in accesses if one.disclosure is not None), None)
            places = [(file.type, row["id"]) for row in rows]
            by = {} if outside is None else await behind(connection, outside, job.tenant, places)
        keys = sorted({row["key"] for row in rows})
        return [key.removeprefix("Patient/") for key in keys if key.startswith("Patient/")], by

    async def bodies(self, job: Job, file: File, accesses: Sequence[Access]) -> AsyncIterator[list[tuple[str, bytes]]]:
        """Yield the lines of a file, a few at a time, as names (``Patient/1``) and bodies.

        Each few are asked for anew whether they may be told: the reader may be slow.

        Raises:
            Withdrawn: something of it may not be told (any more).

        """
        after = 0
        while after < file.lines:
            async with self._clinics.reading(job.tenant) as (connection, tenant):
                bind = Binder()
                told = _told(bind, tenant, job, file, accesses)
                low, high = bind(after, "integer"), bind(after + _BATCH_LINES, "integer")
                with translated():
                    rows = await connection.fetch(
                        "SELECT line, id, body FROM (SELECT l.line, l.id, h.body, sum(octet_length(h.body)) OVER "
                        f"(ORDER BY l.line) - octet_length(h.body) AS before FROM {told} "
                        f"AND l.line > {low} AND l.line <= {high}) AS next "
                        f"WHERE before < {bind(_BATCH_BYTES, 'bigint')} ORDER BY line",
                        *bind.arguments,
                    )
            if not rows or [row["line"] for row in rows] != list(range(after + 1, after + len(rows) + 1)):
                raise Withdrawn
            after = rows[-1]["line"]
            yield [(f"{file.type}/{row['id']}", row["body"]) for row in rows]


def _told(bind: Binder, tenant: int, job: Job, file: File, accesses: Sequence[Access]) -> str:
    """Return FROM and WHERE of those lines of a file that may be told now, as they were and as they are."""
    clinic = bind(tenant, "integer")
    which = f"l.job = {bind(job.number, 'bigint')} AND l.file = {bind(file.number, 'integer')}"
    lines, types = _LINE.format(clinic=clinic), (file.type,)
    if file.deleted:
        lines += _BEFORE.format(version="l.version")
        now, then = _gone(bind, clinic, accesses, types), []
    else:
        now = [one for access in accesses for one in visible(access, bind, clinic, types)]
        then = [one for access in accesses for one in consented(access, bind, clinic, types, "r", "h")]
    return f"{lines} WHERE {' AND '.join([which, *now, *then])}"


def _gone(bind: Binder, clinic: str, accesses: Sequence[Access], types: Sequence[str]) -> list[str]:
    """Return the conditions under which the caller may know that a resource is gone: of what it was he could know."""
    return [one for access in accesses for one in visible(access, bind, clinic, types, "r", "p")]


async def _forget_lines(connection: Connection, jobs: Sequence[int]) -> None:
    for table in ("export_line", "export_file") if jobs else ():
        await connection.execute(f"DELETE FROM {table} WHERE job = ANY ($1)", list(jobs))


# Making the list


@asynccontextmanager
async def snapshot(store: Store, tenant: str) -> AsyncIterator[Transaction]:
    """Open a transaction all of whose statements see the record in one state, and which may take its time."""
    async with store.transaction(keys=(), tenant=tenant) as transaction:
        with translated():
            await transaction.connection.execute(
                f"SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SET LOCAL statement_timeout = '{_LIST_SECONDS}s'"
            )
        yield transaction


class Listing:
    """The making of one export's list, in the transaction of a `snapshot`."""

    def __init__(self, transaction: Transaction, job: Job) -> None:
        self._transaction = transaction
        self._connection = transaction.connection
        self._job = job
        self._files = 0

    async def begin(self) -> bool:
        """Tell whether it is to be made, and nobody else makes it now."""
        with translated():
            alone = await self._connection.fetchval("SELECT pg_try_advisory_xact_lock($1)", export_lock(self._job.id))
            waits = "SELECT EXISTS (SELECT FROM export_job WHERE number = $1 AND state = 'waiting')"
            return bool(alone) and bool(await self._connection.fetchval(waits, self._job.number))

    async def news(self, consumer: str, sources: Sequence[str], *, parked: bool = True) -> dict[str, datetime | None]:
        """Return, by source, the time until which all that it committed is here; None: it never said.

        Without `parked`, what could not be applied counts as here.
        """
        topics = [topic_of(source) for source in sources]
        with translated():
            rows = await self._connection.fetch(
                _NEWS, consumer, list(sources), SHARDS, self._job.tenant, parked, topics
            )
        return {row["source"]: row["until"] for row in rows}

    async def now(self) -> datetime:
        """Return the present by the database's clock."""
        with translated():
            present: datetime = await self._connection.fetchval("SELECT clock_timestamp()")
        return present

    async def add(self, wanted: Wanted, *, deleted: bool = False) -> int:
        """List what is wanted, and count it in two ways; return how much it is.

        Raises:
            Miscounted: the two differ.

        """
        bind = Binder()
        was = _BEFORE.format(version="r.version") if deleted else ""
        head = [
            bind(value, cast)
            for value, cast in (
                (self._job.number, "bigint"), (self._job.tenant, "text"), (self._files, "integer"), (LINES, "integer"),
            )
        ]  # fmt: skip
        job, tenant, base, lines = head
        where = await self._where(wanted, bind, deleted=deleted)
        with translated():
            await self._connection.plan("force_custom_plan")
            done = await self._connection.execute(
                "INSERT INTO export_line (job, file, line, tenant, type, id, version) "
                f"SELECT {job}, {base} + ((n - 1) / {lines})::integer, ((n - 1) % {lines} + 1)::integer, {tenant}, "
                "x.type, x.id, x.version FROM (SELECT row_number() OVER (ORDER BY r.rid) AS n, r.type, r.id, r.version "
                f"FROM resource r{was} WHERE {' AND '.join(where)}) x",
                *bind.arguments,
                timeout=_LIST_SECONDS,
            )
        listed = int(done.rsplit(" ", 1)[-1])
        there = await self._files_of(wanted.type, deleted=deleted)
        plain = not (deleted or wanted.any_of or wanted.since or wanted.borne or wanted.patients is not None)
        if there != listed or (plain and len(wanted.accesses) == 1 and listed != await self._found(wanted)):
            raise Miscounted
        return listed

    async def _files_of(self, type_: str, *, deleted: bool) -> int:
        """Make files of the lines that are new; return how many there are whose versions are there."""
        with translated():
            rows = await self._connection.fetch(
                "INSERT INTO export_file (job, file, tenant, type, deleted, lines) "
                "SELECT l.job, l.file, l.tenant, l.type, $4::boolean, count(*) "
                f"FROM {_LINE.format(clinic='$5')} WHERE l.job = $1 AND l.file >= $2 AND l.type = $3 "
                "GROUP BY l.job, l.file, l.tenant, l.type RETURNING lines",
                self._job.number, self._files, type_id(type_), deleted, self._transaction.number,
                timeout=_LIST_SECONDS,
            )  # fmt: skip
        self._files += len(rows)
        return sum(row["lines"] for row in rows)

    async def _found(self, wanted: Wanted) -> int:
        """Return how many a search finds, counted as its total is."""
        counting = search.count(SearchQuery(wanted.type), wanted.accesses[0], self._transaction.number)
        with translated():
            return int(await self._connection.fetchval(counting.sql, *counting.arguments, timeout=_LIST_SECONDS))

    async def _where(self, wanted: Wanted, bind: Binder, *, deleted: bool) -> list[str]:
        clinic = bind(self._transaction.number, "integer")
        types = (wanted.type,)
        where = [f"r.tenant = {clinic}", of_types("r.type", types), "r.deleted" if deleted else "NOT r.deleted"]
        if deleted:
            where += _gone(bind, clinic, wanted.accesses, types)
        else:
            where += [one for access in wanted.accesses for one in visible(access, bind, clinic, types)]
        if wanted.borne:
            where.append("r.patient IS NOT NULL")
        if wanted.patients is not None:
            where.append(f"r.patient = ANY ({bind(list(wanted.patients), 'uuid[]')})")
        if wanted.since is not None:
            where.append(f"r.last_updated >= {bind(wanted.since, 'timestamptz')}")
        if wanted.any_of and not deleted:
            found = Row("r.rid", "r", types, scope_of(types, clinic, None))
            terminology = StoredTerminology(self._connection)
            # Where a search leads to other resources, what leads there is asked as the caller may.
            compiled = Conditions(wanted.accesses[0], clinic, bind)
            parts = []
            for conditions in wanted.any_of:
                query = await looked_up(SearchQuery(wanted.type, conditions), terminology)
                parts.append(f"({' AND '.join(compiled.all_of(query.criteria, found)) or 'true'})")
            where.append(f"({' OR '.join(parts)})")
        return where

    async def tells_of_a_programme(self) -> bool:
        """Tell whether something that was listed comes of a programme under 42 CFR Part 2."""
        with translated():
            found = await self._connection.fetchval(
                f"SELECT EXISTS (SELECT FROM {_LINE.format(clinic='$2')} WHERE l.job = $1 "
                f"AND (r.labels || h.labels) && '{{{PART_2}}}')",
                self._job.number,
                self._transaction.number,
                timeout=_LIST_SECONDS,
            )
            return bool(found)

    async def finish(self, known_until: datetime, said: Sequence[str]) -> None:
        """Say that it is complete; with the commit it is."""
        with translated():
            done = await self._connection.execute(
                "UPDATE export_job SET state = 'complete', known_until = $2, said = $3, "
                "finished_at = clock_timestamp() WHERE number = $1 AND state = 'waiting'",
                self._job.number, known_until, list(said),
            )  # fmt: skip
        if done != "UPDATE 1":
            raise Miscounted
