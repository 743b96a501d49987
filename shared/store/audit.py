"""The audit of one service: rows that are only ever added, bound to one another by hashes.

A row of a change is committed with the change (`change_note`). A row of anything else is durable before `Audit.append`
returns: rows of requests that run at once share one transaction, so that a commit is paid for by many. Both get into
the chain by one function of the database, one transaction at a time.

Source: IHE ITI Basic Audit Log Patterns 1.1, https://profiles.ihe.net/ITI/BALP/ (what is noted);
45 CFR 164.312(b), 164.316(b)(2)(i).
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import msgspec

from shared.store.connection import translated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.store.clinics import Clinics
    from shared.store.connection import Connection
    from shared.store.types import Write

Action: TypeAlias = Literal["C", "R", "U", "D", "E"]
Kind: TypeAlias = Literal["rest", "notes", "token", "login", "operate", "disclose", "decide", "audit"]
"""Of what a row tells: an interaction of FHIR, a process note, a token, a login, an operator's action, what was sent to
somebody outside, what was decided about an access, the audit itself."""

MOST_AT_ONCE: Final = 500
"""Rows of one append to the chain."""

_APPEND: Final = "SELECT sequence, hash FROM kap_audit_append($1)"
_NOTE: Final = "INSERT INTO audit_pending (body) VALUES ($1)"
_HEAD: Final = "SELECT sequence, hash FROM audit ORDER BY sequence DESC LIMIT 1"
_ROWS: Final = """
SELECT sequence, hash, body, at, tenant, action, kind, does, outcome, patients, agents FROM audit
WHERE sequence > $1 ORDER BY sequence LIMIT $2
"""
_GIVEN_UP: Final = "SELECT last, hash FROM audit_given_up ORDER BY last DESC LIMIT 1"
_OLD: Final = """
SELECT max(sequence) FROM audit
WHERE sequence < coalesce((SELECT min(sequence) FROM audit WHERE at >= $1), 9223372036854775807)
"""


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One thing that happened.

    Attributes:
        at: when, UTC, to the microsecond.
        tenant, service: in which clinic, at which service.
        kind, does: what it is about, and what was done: ``read``, ``search-type``, ``$everything``, ``push``.
        action: create, read, update, delete or execute.
        outcome: 0 done, 4 refused, 8 failed.
        status: the status of HTTP, where there is one.
        client, user, role: whose token it was; none: nobody said who asks, or the service works of itself.
        address: where the request came from.
        recipient: who outside of the clinic was told, ``Organization/1``; None: nobody outside.
        through: of such a disclosure, the intermediaries that a Consent names, to or by whom it was told.
        authorisation: of such a disclosure, what allows it: a Consent, ``default``, a label of the policy.
        patients: logical ids of the patients it is about.
        what: references, with their version where it is known.
        query: the search as it was sent, without what could open anything.
        purpose: codes of v3-ActReason.
        policy: the version of the policy by which it was decided.
        reason: in words, of a refusal or of breaking the glass.
        request, trace: the request's id, and its trace's.

    """

    at: str
    tenant: str
    service: str
    kind: Kind
    does: str
    action: Action
    outcome: int
    status: int | None = None
    client: str | None = None
    user: str | None = None
    role: str | None = None
    address: str | None = None
    recipient: str | None = None
    through: tuple[str, ...] = ()
    authorisation: str | None = None
    patients: tuple[str, ...] = ()
    what: tuple[str, ...] = ()
    query: str | None = None
    purpose: tuple[str, ...] = ()
    policy: str | None = None
    reason: str | None = None
    request: str | None = None
    trace: str | None = None


@dataclass(slots=True)
class By:
    """In whose name the present request (or other work) is done: what all its rows say.

    Attributes:
        said: the parts of a `Row` that are the same for all of them.
        changes: how many rows of changes were put into transactions.

    """

    said: Mapping[str, Any] = field(default_factory=dict)
    changes: int = 0


BY: ContextVar[By | None] = ContextVar("audit_by", default=None)
"""Set where a request comes in; None: a service works of itself (events, timers)."""

_DOES: Final[dict[str, tuple[str, Action]]] = {
    "create": ("create", "C"),
    "update": ("update", "U"),
    "delete": ("delete", "D"),
}


def now() -> str:
    """Return the time as rows have it."""
    return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")


def change_note(service: str, tenant: str, write: Write) -> tuple[bytes, bytes]:
    """Return the row of a change, in two parts between which its version belongs."""
    does, action = _DOES[write.interaction]
    by = BY.get()
    said: Mapping[str, Any] = {} if by is None else by.said
    if by is not None:
        by.changes += 1
    patients = (write.key.removeprefix("Patient/"),) if write.key.startswith("Patient/") else ()
    row = Row(
        **{
            "request": write.request_id,
            **said,
            "at": now(),
            "tenant": tenant,
            "service": service,
            "kind": "rest",
            "does": does,
            "action": action,
            "outcome": 0,
            "patients": patients,
            "what": (f"{write.type}/{write.id}/_history/{_VERSION}",),
        }
    )
    head, _, tail = msgspec.json.encode(row).partition(_VERSION.encode())
    return head, tail


_VERSION: Final = "%version%"


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a chain: the last sequence, and the hash there. An empty one has 0 and 32 bytes of zero."""

    sequence: int = 0
    hash: bytes = bytes(32)


@dataclass(frozen=True, slots=True)
class Held:
    """A row as it is held, with the columns it is searched by."""

    sequence: int
    hash: bytes
    body: bytes
    columns: Mapping[str, Any]

    @property
    def row(self) -> Row:
        """What it says."""
        return msgspec.json.decode(self.body, type=Row)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which rows are asked for.

    Attributes:
        tenant: of this clinic.
        patients: about one of these; None: about anybody or nobody.
        agents, actions, kinds, does: by or of one of these; empty: any.
        outcomes: with one of these; empty: any.
        since, until: from this moment on, and before that one.
        sequence: this one alone.

    """

    tenant: str
    patients: tuple[str, ...] | None = None
    agents: tuple[str, ...] = ()
    actions: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    does: tuple[str, ...] = ()
    outcomes: tuple[int, ...] = ()
    since: datetime | None = None
    until: datetime | None = None
    sequence: int | None = None
    disclosed: bool = False


_WANTED: Final = """
tenant = $1 AND ($2::text[] IS NULL OR patients && $2) AND ($3::text[] = '{}' OR agents && $3)
AND ($4::text[] = '{}' OR action = ANY ($4)) AND ($5::text[] = '{}' OR kind = ANY ($5))
AND ($6::text[] = '{}' OR does = ANY ($6)) AND ($7::smallint[] = '{}' OR outcome = ANY ($7))
AND ($8::timestamptz IS NULL OR at >= $8) AND ($9::timestamptz IS NULL OR at < $9)
AND ($10::bigint IS NULL OR sequence = $10)
AND (NOT $11 OR kind = 'disclose' OR (outcome = 0 AND convert_from(body, 'UTF8')::jsonb ? 'recipient'))
"""
_FIND: Final = f"""
SELECT sequence, hash, body, at, tenant, action, kind, does, outcome, patients, agents FROM audit
WHERE {_WANTED} AND sequence < $12 ORDER BY sequence DESC LIMIT $13
"""
_COUNT: Final = f"SELECT count(*) FROM audit WHERE {_WANTED}"
_LAST: Final = 2**63 - 1


class Audit:
    """The audit in one service's database."""

    def __init__(self, clinics: Clinics, service: str) -> None:
        self._clinics = clinics
        self.service = service
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None

    async def append(self, *rows: Row) -> None:
        """Add rows; they are durable, and in the chain, when this returns.

        Raises:
            Unavailable: they are not known to be.

        """
        if not rows:
            return
        loop = asyncio.get_running_loop()
        kept = [(msgspec.json.encode(row), loop.create_future()) for row in rows]
        self._waiting.extend(kept)
        if self._writing is None or self._writing.done():
            self._writing = loop.create_task(self._write())
        await asyncio.gather(*(future for _, future in kept))

    async def _write(self) -> None:
        """Append what waits, as much at once as came while the last was written."""
        while self._waiting:
            batch, self._waiting = self._waiting[:MOST_AT_ONCE], self._waiting[MOST_AT_ONCE:]
            try:
                async with self._clinics.bare() as connection:
                    with translated():
                        await connection.fetchrow(_APPEND, [body for body, _ in batch])
            except Exception as error:  # noqa: BLE001 - whatever it is, each that waits has to know
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)
            else:
                for _, future in batch:
                    if not future.done():
                        future.set_result(None)

    async def seal(self) -> Head:
        """Take rows of changes that wait into the chain; return its end.

        Raises:
            Unavailable: not now.

        """
        async with self._clinics.bare() as connection:
            with translated():
                [row] = await connection.fetch(_APPEND, [])
        return Head(row["sequence"], row["hash"])

    async def rows(self, after: int = 0, *, limit: int = 1000) -> list[Held]:
        """Return rows as they are held, from a sequence on."""
        with translated():
            return [_held(row) for row in await self._clinics.fetch(_ROWS, after, limit)]

    async def find(self, wanted: Wanted, *, before: int | None = None, limit: int = 50) -> list[Held]:
        """Return the rows that are wanted, the newest first."""
        with translated():
            found = await self._clinics.fetch(_FIND, *_given(wanted), _LAST if before is None else before, limit)
        return [_held(row) for row in found]

    async def count(self, wanted: Wanted) -> int:
        """Return how many rows are wanted."""
        with translated():
            return int(await self._clinics.fetchval(_COUNT, *_given(wanted)))

    async def given_up(self) -> Head:
        """Return up to where rows were given up after their retention; the chain begins after it."""
        with translated():
            row = await self._clinics.fetchrow(_GIVEN_UP)
        return Head() if row is None else Head(row["last"], row["hash"])

    async def give_up(self, before: datetime) -> int:
        """Give up rows of before a time: from the beginning on, up to the first one that is younger; return how many.

        The chain itself says so first, with the hash at which it begins from then on.

        Raises:
            Unavailable: not now.

        """
        with translated():
            last = await self._clinics.fetchval(_OLD, before)
        if last is None:
            return 0
        [end] = await self.rows(last - 1, limit=1)
        said = f"{end.sequence} {end.hash.hex()} {end.row.at}"
        row = Row(
            at=now(),
            tenant=end.row.tenant,
            service=self.service,
            kind="audit",
            does=GIVEN_UP,
            action="D",
            outcome=0,
            what=(said,),
        )
        await self.append(row)
        with translated():
            async with self._clinics.acquire() as connection, connection.transaction():
                await connection.execute(
                    "INSERT INTO audit_given_up VALUES ($1, $2) ON CONFLICT DO NOTHING", end.sequence, end.hash
                )
                done = await connection.execute("DELETE FROM audit WHERE sequence <= $1", end.sequence)
        return int(done.rsplit(" ", 1)[-1])

    async def close(self) -> None:
        """Wait for what is being written."""
        if self._writing is not None:
            await asyncio.gather(self._writing, return_exceptions=True)


GIVEN_UP: Final = "give-up"


async def note(connection: Connection, row: Row) -> None:
    """Put a row into a transaction: it is kept if that commits."""
    with translated():
        await connection.execute(_NOTE, msgspec.json.encode(row))


def _given(wanted: Wanted) -> tuple[Any, ...]:
    patients: Sequence[str] | None = wanted.patients
    return (
        wanted.tenant,
        patients,
        wanted.agents,
        wanted.actions,
        wanted.kinds,
        wanted.does,
        wanted.outcomes,
        wanted.since,
        wanted.until,
        wanted.sequence,
        wanted.disclosed,
    )


def _held(row: Any) -> Held:
    columns = {name: row[name] for name in ("at", "tenant", "action", "kind", "does", "outcome", "patients", "agents")}
    return Held(row["sequence"], row["hash"], row["body"], columns)
