"""The resource store of one service: its PostgreSQL database, behind values.

Every read and write takes the caller's `Access`. A write that stands alone is one round trip (`Store.write`); what
belongs together is a `Transaction`, which holds the keys it names (``Patient/<id>``) until it commits, so that the
changes along one key come one after the other, in the database, in the outbox and in Kafka.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Self
from uuid import UUID

from shared.events.envelope import Event
from shared.fhir.history import HistoryQuery
from shared.fhir.index import IndexRows
from shared.fhir.search import SearchQuery
from shared.store import audit as auditing
from shared.store import claims, copies, history, inbox, parking, queries
from shared.store.access import Access
from shared.store.audit import Audit
from shared.store.calendars import Calendars
from shared.store.changes import change
from shared.store.claims import Claims
from shared.store.clinics import Clinics
from shared.store.connection import Connection, Pool, open_pool, translated
from shared.store.copies import Copy
from shared.store.exports import Exports
from shared.store.identity import Identities
from shared.store.inbox import Inbox
from shared.store.keys import condition_lock, key_lock
from shared.store.knowledge import Knowledge
from shared.store.labelling import Labelling
from shared.store.logins import Logins
from shared.store.migrate import check
from shared.store.notices import NoticeQueue
from shared.store.parking import Parking
from shared.store.pruning import Pruning
from shared.store.replay import Replay
from shared.store.subscriptions import SubscriptionQueue
from shared.store.timers import TimerRuns
from shared.store.types import Page, Stored, Write, Written
from shared.store.verify import Verification

MIN_TIMEOUT = 0.1


class Store:
    """What one service holds.

    Attributes:
        service: the service's name: the origin of its own rows.
        publishes: whether its own writes make events.
        audit: who did, read or was told what.
        costliest_search: estimated cost above which a search is refused; None: none is.
        claims: bodies that are ahead of their events.
        inbox: what it has applied of other services' events.
        knowledge: how old what it knows of other services is.
        calendars: secret links to calendars.
        notices: what is to be told to people outside of the record.
        parking: events that could not be applied.
        pruning: forgets what has served.
        verify: counts and hashes to compare with other services.
        replay: history as events.
        subscriptions: what subscribers wait for.
        timers: when its timers ran.
        exports: lists of versions that somebody downloads.
        identities: clients, keys and tokens of the issuer.
        logins: people of the issuer, and the apps they let in.

    """

    def __init__(self, pool: Pool, *, service: str, publishes: bool, costliest_search: float | None = None) -> None:
        self.service = service
        self.publishes = publishes
        self.costliest_search = costliest_search
        self._clinics = clinics = Clinics(pool)
        self.audit = Audit(clinics, service)
        self.claims = Claims(clinics)
        self.inbox = Inbox(clinics)
        self.knowledge = Knowledge(clinics)
        self.calendars = Calendars(clinics)
        self.notices = NoticeQueue(clinics)
        self.parking = Parking(clinics)
        self.pruning = Pruning(clinics)
        self.verify = Verification(clinics, service)
        self.replay = Replay(clinics, service)
        self.labelling = Labelling(clinics, service)
        self.subscriptions = SubscriptionQueue(clinics)
        self.timers = TimerRuns(clinics)
        self.exports = Exports(clinics, service)
        self.identities = Identities(clinics)
        self.logins = Logins(clinics)

    @classmethod
    async def connect(
        cls,
        dsn: str,
        *,
        service: str,
        publishes: bool = True,
        min_size: int = 1,
        max_size: int = 5,
        statement_timeout: float = 10.0,
        costliest_search: float | None = None,
    ) -> Self:
        """Open the store.

        Args:
            dsn: the service's database.
            service: the service's name.
            publishes: whether its own writes make events.
            min_size: connections kept open.
            max_size: connections opened at most.
            statement_timeout: seconds after which PostgreSQL gives up a statement.
            costliest_search: estimated cost above which a search is refused (`shared.store.costs`); None: none is.

        Raises:
            Unavailable: PostgreSQL cannot be reached.
            SchemaMismatch: the database is not at this program's migrations.

        """
        pool = await open_pool(
            dsn,
            application=f"kap-{service}",
            min_size=min_size,
            max_size=max_size,
            statement_timeout=max(statement_timeout, MIN_TIMEOUT),
        )
        try:
            async with Clinics(pool).bare() as connection:
                await check(connection)
        except BaseException:
            pool.terminate()
            raise
        return cls(pool, service=service, publishes=publishes, costliest_search=costliest_search)

    async def close(self) -> None:
        """Close the connections, waiting for what is under way."""
        await self.audit.close()
        await self._clinics.close()

    async def ping(self) -> None:
        """Ask PostgreSQL for a sign of life.

        Raises:
            Unavailable: there is none.

        """
        async with self._clinics.bare() as connection:
            with translated():
                await connection.fetchval("SELECT 1")

    async def read(self, access: Access, type_: str, id_: str) -> Stored:
        """Return the current version.

        Raises:
            NotFound: there never was one that the caller may see.
            Gone: it was deleted.

        """
        async with self._clinics.reading(access.tenant) as (connection, tenant):
            return await queries.read(connection, access, tenant, type_, id_)

    async def read_version(self, access: Access, type_: str, id_: str, version: int) -> Stored:
        """Return one version.

        Raises:
            NotFound: no such version that the caller may see.
            Gone: the version is a deletion.

        """
        async with self._clinics.reading(access.tenant) as (connection, tenant):
            return await queries.read_version(connection, access, tenant, type_, id_, version)

    async def find(self, access: Access, type_: str, id_: str) -> Stored | None:
        """Return the current version, deleted or not; None where there never was one that the caller may see."""
        async with self._clinics.reading(access.tenant) as (connection, tenant):
            return await queries.find(connection, access, tenant, type_, id_)

    async def held(self, tenant: str, events: Sequence[Event]) -> set[tuple[str, str]]:
        """Return (source, id) of those events whose version is held as a copy already: that stays so."""
        async with self._clinics.reading(tenant) as (connection, number):
            return await copies.held(connection, number, events)

    async def known(self, tenant: str, events: Sequence[Event]) -> set[tuple[str, str]]:
        """Return (type, id) of those events' resources that are held here in any version."""
        async with self._clinics.reading(tenant) as (connection, number):
            return await copies.known(connection, number, events)

    async def pass_by(self, consumer: str, events: Sequence[Event]) -> list[bool] | None:
        """Note events of one tenant, of which nothing is kept here, as applied; False for one that was before.

        None where they have to wait behind a parked event of one of their keys: then nothing was noted. Nothing is
        read that a change of the same record could make wrong, so none is locked out.

        Raises:
            Contended: another transaction noted some of them; try again.

        """
        tenant = events[0].tenant
        async with self._clinics.writing(tenant) as (connection, _):
            return await inbox.pass_by(connection, consumer, tenant, events)

    async def history(self, access: Access, query: HistoryQuery, *, cursor: str | None = None) -> Page:
        """Return a page of the versions of one resource, a type or everything, newest first, deletions among them.

        Raises:
            NotFound: a history of one resource, and there never was one that the caller may see.

        """
        async with self._clinics.reading(access.tenant) as (connection, tenant):
            return await history.history(connection, access, tenant, query, cursor=cursor)

    async def search(self, access: Access, query: SearchQuery, *, cursor: str | None = None) -> Page:
        """Return a page of the current resources that match; by default in the order of their creation."""
        async with self._clinics.reading(access.tenant) as (connection, tenant):
            costliest = self.costliest_search
            return await queries.search(connection, access, tenant, query, cursor=cursor, costliest=costliest)

    async def write(self, access: Access, write: Write) -> Written:
        """Commit one change: one round trip.

        Raises:
            NotFound: a delete of what was never there, or a change of what the caller may not see.
            Gone: a delete of what was deleted before.
            PreconditionFailed: the current version is not `write.expected`.
            Conflict: a create of an id that is taken, or a resource of another service.
            Forbidden: the caller would not see what he writes.
            Contended, Unavailable: nothing is known to be committed; try again.

        """
        if not access.in_full((write.type,)):  # what stands before and after it is looked at, too
            async with self.transaction(keys=(write.key,), tenant=access.tenant) as transaction:
                return await transaction.write(access, write)
        async with self._clinics.writing(access.tenant) as (connection, tenant):
            return await change(
                connection, access, tenant, write, service=self.service, publishes=self.publishes, wake=True
            )

    async def apply_copy(self, event: Event, index: IndexRows, patient: UUID | None) -> bool:
        """As `Transaction.apply_copy`, committed alone: one round trip."""
        async with self._clinics.writing(event.tenant) as (connection, tenant):
            return await copies.apply_copy(connection, tenant, Copy(event, index, patient))

    @asynccontextmanager
    async def transaction(self, *, keys: Sequence[str], tenant: str) -> AsyncIterator[Transaction]:
        """Hold `keys` of `tenant` and commit what the block does; an exception rolls it back.

        A caller that may meet a deadlock (writes of keys it did not name) runs it in `retry_conflicts`.
        """
        async with self._clinics.writing(tenant) as (connection, number):
            locks = sorted({key_lock(tenant, key) for key in keys})
            with translated():
                # Numbers made here, so text is safe; one round trip, each lock a statement of its own, in order.
                await connection.execute(
                    "; ".join(["BEGIN", *(f"SELECT pg_advisory_xact_lock({lock})" for lock in locks)])
                )
            transaction = Transaction(self, connection, tenant, number)
            try:
                yield transaction
            except BaseException:
                await _rollback(connection)
                raise
            with translated():
                try:
                    done = await connection.execute("SELECT kap_wake(); COMMIT" if transaction.wrote else "COMMIT")
                except BaseException:
                    await _rollback(connection)
                    raise
            if done != "COMMIT":  # PostgreSQL's answer where a statement had failed and the block went on all the same
                raise RuntimeError("a transaction was rolled back because one of its statements had failed")

    async def tenants(self) -> Sequence[str]:
        """Return the tenants that have ever written here."""
        async with self._clinics.bare() as connection:
            with translated():
                return [row["name"] for row in await connection.fetch("SELECT name FROM tenant ORDER BY id")]

    async def analyze(self) -> None:
        """Have PostgreSQL take its statistics anew: after a load, before searches are timed."""
        async with self._clinics.bare() as connection:
            with translated():
                await connection.execute("ANALYZE", timeout=300)


class Transaction:
    """Reads and writes that commit together. Made by `Store.transaction`.

    After an exception of one of its methods nothing more can be done in it but to let it roll back.

    Attributes:
        tenant: the clinic whose data it may touch.
        number: the tenant's, as tables have it.
        connection: for the modules of `shared.store` that have tables of their own.
        wrote: whether it put events into the outbox.

    """

    def __init__(self, store: Store, connection: Connection, tenant: str, number: int) -> None:
        self.tenant = tenant
        self.wrote = False
        self._store = store
        self.connection = connection
        self.number = number

    async def find(self, access: Access, type_: str, id_: str, *, lock: bool = False) -> Stored | None:
        """Return the current version, deleted or not; None where there never was one that the caller may see.

        `lock` keeps others from changing it until the commit.
        """
        return await queries.find(self.connection, access, self._of(access), type_, id_, lock=lock)

    async def read(self, access: Access, type_: str, id_: str) -> Stored:
        """As `Store.read`."""
        return await queries.read(self.connection, access, self._of(access), type_, id_)

    async def read_version(self, access: Access, type_: str, id_: str, version: int) -> Stored:
        """As `Store.read_version`."""
        return await queries.read_version(self.connection, access, self._of(access), type_, id_, version)

    async def history(self, access: Access, query: HistoryQuery, *, cursor: str | None = None) -> Page:
        """As `Store.history`."""
        return await history.history(self.connection, access, self._of(access), query, cursor=cursor)

    async def search(self, access: Access, query: SearchQuery, *, cursor: str | None = None) -> Page:
        """As `Store.search`; sees what this transaction wrote."""
        return await queries.search(self.connection, access, self._of(access), query, cursor=cursor)

    async def write(self, access: Access, write: Write) -> Written:
        """As `Store.write`, but committed with the transaction; takes the lock of `write.key` where it is not held."""
        number = self._of(access)
        restricted = not access.in_full((write.type,))
        if restricted:
            await self.lock(write.key)
            await queries.require_changeable(self.connection, access, number, write)
        store = self._store
        written = await change(
            self.connection, access, number, write, service=store.service, publishes=store.publishes, wake=False
        )
        if restricted and write.interaction != "delete":
            await queries.require_visible(self.connection, access, number, write)
        self.wrote = store.publishes
        return written

    async def note(self, row: auditing.Row) -> None:
        """Keep a row of the audit with what this transaction commits."""
        await auditing.note(self.connection, row)

    async def lock(self, *keys: str) -> None:
        """Hold more keys until the commit."""
        await self._lock(key_lock(self.tenant, key) for key in keys)

    async def claim(self, tenant: str, *conditions: str) -> None:
        """Let one transaction at a time decide on each of `conditions` (of writes); others wait for its commit.

        A search after the claim sees what the one before it wrote. Claim all at once: they are taken in one order by
        everybody.
        """
        await self._lock(condition_lock(tenant, condition) for condition in conditions)

    async def _lock(self, numbers: Iterable[int]) -> None:
        """Take locks one after the other, in one round trip."""
        ordered = sorted(set(numbers))
        if ordered:
            with translated():
                await self.connection.execute("SELECT pg_advisory_xact_lock(n) FROM unnest($1::bigint[]) AS n", ordered)

    async def take_in(self, consumer: str, event: Event) -> bool:
        """Note the event as applied by `consumer`; False where it was before, and then nothing is to be done."""
        return await inbox.take_in(self.connection, consumer, event)

    async def take_in_many(self, consumer: str, events: Sequence[Event]) -> list[bool]:
        """As `take_in` with one after the other, in one statement."""
        for event in events:
            self._checked(event.tenant)
        return await inbox.take_in_many(self.connection, consumer, self.tenant, events)

    async def applied(self, consumer: str, events: Sequence[Event]) -> set[tuple[str, str]]:
        """Return (source, id) of those events that `consumer` has applied before."""
        return await inbox.applied(self.connection, consumer, self.tenant, events)

    async def apply_copy(self, event: Event, index: IndexRows, patient: UUID | None) -> bool:
        """Keep the event's version as a copy, with the event's source as its owner.

        A newer version becomes current, with `index`; an older one goes into history only. False where the version is
        held already.

        Raises:
            Conflict: what is held under this id belongs to another service.

        """
        return await copies.apply_copy(self.connection, self._checked(event.tenant), Copy(event, index, patient))

    async def apply_copies(self, several: Sequence[Copy]) -> None:
        """As `apply_copy` with one after the other, in one round trip."""
        for copy in several:
            self._checked(copy.event.tenant)
        await copies.apply_copies(self.connection, self.number, several)

    async def park(self, consumer: str, event: Event, *, topic: str, partition: int, offset: int, error: str) -> None:
        """Set an event aside that cannot be applied now; a repeat counts as a further attempt."""
        await parking.park(
            self.connection, consumer, event, topic=topic, partition=partition, offset=offset, error=error
        )

    async def waits_behind(self, consumer: str, event: Event) -> bool:
        """Tell whether an earlier event of the same key is parked, so that this one has to wait behind it."""
        return await parking.waits_behind(self.connection, consumer, event)

    async def keys_with_parked(self, consumer: str, keys: Collection[str]) -> set[str]:
        """Return those of the keys of which an event is parked, so that further ones have to wait behind it."""
        return await parking.keys_with_parked(self.connection, consumer, self.tenant, keys)

    async def release(self, consumer: str, event: Event) -> None:
        """Forget the pieces that the event's body came in."""
        await claims.release(self.connection, consumer, event)

    async def take_up(self, number: int) -> bool:
        """Take a parked event out, to apply it in this transaction; False where it is not parked any more."""
        return await parking.take_up(self.connection, number)

    def _of(self, access: Access) -> int:
        return self._checked(access.tenant)

    def _checked(self, tenant: str) -> int:
        if tenant != self.tenant:
            raise ValueError(f"a transaction of tenant {self.tenant!r} was asked for data of another")
        return self.number


async def _rollback(connection: Connection) -> None:
    """Roll back; a connection that cannot is closed, and PostgreSQL rolls back for it."""
    connection.plan_mode = None  # a SET inside of the transaction is undone
    if connection.is_closed():
        return
    try:
        await connection.execute("ROLLBACK", timeout=5)
    except Exception:  # noqa: BLE001 - whatever it is, the connection is of no more use
        connection.terminate()
