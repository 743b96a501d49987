"""Connections to PostgreSQL, and what its errors mean here."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, TypeVar

import asyncpg

from shared.fhir.outcome import (
    BadRequest,
    Conflict,
    FhirError,
    Forbidden,
    Gone,
    NotFound,
    PreconditionFailed,
    Unavailable,
)

PlanMode: TypeAlias = Literal["force_generic_plan", "force_custom_plan"]

T = TypeVar("T")


class Contended(Unavailable):
    """PostgreSQL ended this transaction in favour of another; `retry_conflicts` tries again."""


if TYPE_CHECKING:
    _Base: TypeAlias = asyncpg.Connection[asyncpg.Record]
else:
    _Base = asyncpg.Connection  # is generic for type checkers only


class Connection(_Base):
    """A connection of which what its last user set is tracked, and so needs no query to be cleaned."""

    plan_mode: PlanMode | None = "force_generic_plan"
    works_for: tuple[str, int] | None = None
    """The clinic whose rows it is shown, by name and number; None: not known, or none yet."""

    def get_reset_query(self) -> str:
        """Return nothing: no session state is ever set here but the plan mode and the clinic, which are tracked."""
        return ""

    # A server that goes away says so, and is gone a moment later. In between, asyncpg gives such a connection out (the
    # pool would find out by its cleaning query, which there is none of here), and its first use is an internal error.

    async def execute(self, *args: Any, **options: Any) -> str:
        """As asyncpg's; ends the connection where the server said that it goes away."""
        with self._ending_when_lost():
            return await super().execute(*args, **options)

    async def executemany(self, *args: Any, **options: Any) -> None:
        """As asyncpg's; ends the connection where the server said that it goes away."""
        with self._ending_when_lost():
            await super().executemany(*args, **options)

    async def fetch(self, *args: Any, **options: Any) -> list[Any]:
        """As asyncpg's; ends the connection where the server said that it goes away."""
        with self._ending_when_lost():
            rows: list[Any] = await super().fetch(*args, **options)
            return rows

    async def fetchrow(self, *args: Any, **options: Any) -> Any:
        """As asyncpg's; ends the connection where the server said that it goes away."""
        with self._ending_when_lost():
            return await super().fetchrow(*args, **options)

    async def fetchval(self, *args: Any, **options: Any) -> Any:
        """As asyncpg's; ends the connection where the server said that it goes away."""
        with self._ending_when_lost():
            return await super().fetchval(*args, **options)

    @contextmanager
    def _ending_when_lost(self) -> Iterator[None]:
        try:
            yield
        except asyncpg.QueryCanceledError:
            raise
        except _GONE:
            self.terminate()
            raise

    async def plan(self, mode: PlanMode) -> None:
        """Choose how the next statements are planned; asks the server only where that changes something."""
        if self.plan_mode != mode:
            self.plan_mode = None  # until it is known to have worked
            await self.execute(f"SET plan_cache_mode = {mode}")
            self.plan_mode = mode

    async def work_for(self, tenant: str, number: int) -> None:
        """Be shown the rows of one clinic; asks the server only where that changes something. Not in a transaction."""
        if self.works_for != (tenant, number):
            self.works_for = None  # until it is known to have worked
            await self.execute(_WORK_FOR, tenant, str(number))
            self.works_for = (tenant, number)

    async def work_for_all(self) -> None:
        """Be shown the rows of every clinic."""
        await self.work_for("", _EVERY_CLINIC)


_EVERY_CLINIC = 0
EVERY_CLINIC: Final = {"kap.clinic_number": str(_EVERY_CLINIC)}
"""The setting of a connection that is shown every clinic's rows (``0240_clinics.sql``)."""

_WORK_FOR = "SELECT set_config('kap.clinic', $1, false), set_config('kap.clinic_number', $2, false)"
_GONE = (asyncpg.OperatorInterventionError, asyncpg.PostgresConnectionError, asyncpg.InternalClientError, OSError)

Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"


def session_settings(statement_timeout: float, application: str) -> dict[str, str]:
    """Return the settings of every connection. Times in seconds."""
    milliseconds = str(int(statement_timeout * 1000))
    return {
        "application_name": application,
        "statement_timeout": milliseconds,
        "idle_in_transaction_session_timeout": str(int(statement_timeout * 3000)),
        "default_transaction_isolation": "read committed",
        "plan_cache_mode": "force_generic_plan",
        "jit": "off",
        "max_parallel_workers_per_gather": "0",  # one search is not to take every core from the others
        "timezone": "UTC",
    }


async def open_pool(dsn: str, *, application: str, min_size: int, max_size: int, statement_timeout: float) -> Pool:
    """Open a pool of connections.

    Raises:
        Unavailable: PostgreSQL cannot be reached.

    """
    with translated():
        return await asyncpg.create_pool(
            dsn,
            min_size=min_size,
            max_size=max_size,
            connection_class=Connection,
            server_settings=session_settings(statement_timeout, application),
            command_timeout=statement_timeout + 5,
            timeout=10,
            statement_cache_size=500,
            max_cached_statement_lifetime=0,
        )


async def open_connection(
    dsn: str, *, application: str, statement_timeout: float = 30.0, settings: dict[str, str] | None = None
) -> Connection:
    """Open one connection of one's own (for LISTEN, session locks, migrations). It is shown every clinic's rows.

    Raises:
        Unavailable: PostgreSQL cannot be reached.

    """
    with translated():
        return await asyncpg.connect(
            dsn,
            connection_class=Connection,
            server_settings=session_settings(statement_timeout, application) | EVERY_CLINIC | (settings or {}),
            command_timeout=statement_timeout + 5 if statement_timeout else None,
            timeout=10,
        )


_REFUSALS: dict[str, Callable[[str], FhirError]] = {
    "KA403": lambda said: Forbidden(f"The change is {said}."),
    "KA404": lambda said: NotFound(f"There is no such resource ({said})."),
    "KA409": lambda said: Conflict(f"The change cannot be stored: {said}."),
    "KA410": lambda said: Gone(f"The resource is {said}."),
    "KA412": lambda said: PreconditionFailed(f"The version does not match: {said}. Read it and try again."),
}

_TRANSIENT = (
    asyncpg.PostgresConnectionError,  # class 08
    asyncpg.InsufficientResourcesError,  # class 53
    asyncpg.OperatorInterventionError,  # class 57: shutdown, cancelled by statement_timeout
    asyncpg.LockNotAvailableError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InternalClientError,  # a connection on which the server has just said goodbye, see Connection
    OSError,
    TimeoutError,
)
_CONTENDED = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
_UNSTORABLE = "A text holds a character that cannot be stored: U+0000 or half of a surrogate pair."
_SAME_ID = "resource_tenant_type_id_key"


@contextmanager
def translated() -> Iterator[None]:
    """Turn what PostgreSQL and the network say into the errors of `shared.fhir.outcome`.

    A fault of the program (wrong SQL, a violated check) passes as it is, and is answered 500.
    """
    try:
        yield
    except _CONTENDED as error:
        raise Contended("Another change of the same data came first. Try again.") from error
    except _TRANSIENT as error:
        raise Unavailable("The database does not answer now. Try again.") from error
    except asyncpg.InterfaceError as error:
        # asyncpg's word for a pool or connection that was closed under the caller; misuse is reported the same way, so
        # only what names the connection is transient.
        if "clos" in str(error):
            raise Unavailable("The connection to the database was lost. Try again.") from error
        raise
    except (asyncpg.CharacterNotInRepertoireError, UnicodeEncodeError) as error:
        raise BadRequest(_UNSTORABLE) from error
    except asyncpg.DataError as error:
        if not isinstance(error.__cause__, UnicodeEncodeError):
            raise
        raise BadRequest(_UNSTORABLE) from error
    except asyncpg.UniqueViolationError as error:
        if error.constraint_name != _SAME_ID:
            raise
        raise Contended("Another change of the same resource came first. Try again.") from error
    except asyncpg.PostgresError as error:
        refusal = _REFUSALS.get(error.sqlstate or "")
        if refusal is None:
            raise
        raise refusal(error.args[0]) from error


async def retry_conflicts(work: Callable[[], Awaitable[T]], *, attempts: int = 5) -> T:
    """Run `work`, a whole transaction, again where PostgreSQL ended it in favour of another.

    Raises:
        Contended: it was ended `attempts` times.

    """
    for attempt in range(1, attempts):
        try:
            return await work()
        except Contended:
            await asyncio.sleep(random.uniform(0, 0.02 * 2**attempt))  # noqa: S311 - jitter, no secret
    return await work()
