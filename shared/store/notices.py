"""Notices in PostgreSQL: queued with what they tell of, taken by one sender at a time, settled by its answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

from shared.store.clinics import Clinics
from shared.store.connection import translated

if TYPE_CHECKING:
    from shared.store.store import Transaction

Channel: TypeAlias = Literal["email", "sms", "pager"]
NoticeState: TypeAlias = Literal["queued", "sent", "failed", "withdrawn"]


@dataclass(frozen=True, slots=True)
class Notice:
    """A text for one address.

    Attributes:
        number: of its row; 0 before it is queued.
        tenant: the clinic.
        key: the idempotency key, unique in the tenant.
        channel, address: where to.
        subject, text: what is said.
        urgent: taken before others.
        communication: id of the Communication that shows it.
        record: key of the record that belongs to, ``Patient/<id>``.
        state: what became of it.
        attempts, most_attempts: how often it was tried, and how often at most.
        queued_at, expires_at: from when to when it may be sent.
        error: why the last attempt failed.
        receipt: what the receiving server said.

    """

    number: int
    tenant: str
    key: str
    channel: Channel
    address: str
    subject: str
    text: str
    urgent: bool
    communication: str
    record: str
    state: NoticeState
    attempts: int
    most_attempts: int
    queued_at: datetime
    expires_at: datetime | None = None
    error: str | None = None
    receipt: str | None = None


_COLUMNS: Final = ", ".join(field.name for field in fields(Notice))

_QUEUE = """
INSERT INTO notice (tenant, key, channel, address, subject, text, urgent, communication, record, most_attempts,
                    queued_at, next_attempt_at, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11, $12)
ON CONFLICT (tenant, key) DO NOTHING
"""
_OF = f"SELECT {_COLUMNS} FROM notice WHERE tenant = $1 AND communication = $2 ORDER BY number"
_WITHDRAW = """
UPDATE notice SET state = 'withdrawn', settled_at = $3 WHERE tenant = $1 AND communication = $2 AND state = 'queued'
"""
_SETTLE = """
UPDATE notice SET state = $2::text, error = $3, receipt = $4,
       settled_at = CASE WHEN $2::text = 'queued' THEN NULL ELSE $5::timestamptz END,
       next_attempt_at = coalesce($6::timestamptz, next_attempt_at)
WHERE number = $1 AND state = 'queued'
"""
_TAKE = f"""
UPDATE notice SET attempts = attempts + 1, next_attempt_at = $1 + $2::interval
WHERE number IN (SELECT number FROM notice WHERE state = 'queued' AND next_attempt_at <= $1
                 ORDER BY urgent DESC, next_attempt_at, number LIMIT $3 FOR UPDATE SKIP LOCKED)
RETURNING {_COLUMNS}
"""


async def queue(transaction: Transaction, notice: Notice) -> bool:
    """Queue a notice with the transaction; False where its key was queued before: then nothing is sent twice."""
    with translated():
        done = await transaction.connection.execute(
            _QUEUE,
            transaction.tenant,
            notice.key,
            notice.channel,
            notice.address,
            notice.subject,
            notice.text,
            notice.urgent,
            notice.communication,
            notice.record,
            notice.most_attempts,
            notice.queued_at,
            notice.expires_at,
        )
    return done.endswith(" 1")


async def notices_of(transaction: Transaction, communication: str) -> list[Notice]:
    """Return the notices of a Communication, oldest first."""
    with translated():
        rows = await transaction.connection.fetch(_OF, transaction.tenant, communication)
    return [Notice(**row) for row in rows]


async def withdraw(transaction: Transaction, communication: str, now: datetime) -> bool:
    """Take what was not sent yet of a Communication out of the queue; tell whether there was something."""
    with translated():
        done = await transaction.connection.execute(_WITHDRAW, transaction.tenant, communication, now)
    return not done.endswith(" 0")


async def settle(
    transaction: Transaction,
    notice: Notice,
    state: NoticeState,
    now: datetime,
    *,
    error: str | None = None,
    receipt: str | None = None,
    again_at: datetime | None = None,
) -> bool:
    """Write down what an attempt came to; False where the notice was settled already."""
    with translated():
        done = await transaction.connection.execute(_SETTLE, notice.number, state, error, receipt, now, again_at)
    return done.endswith(" 1")


class NoticeQueue:
    """The queue of one service, for its sender."""

    def __init__(self, clinics: Clinics) -> None:
        self._clinics = clinics

    async def take(self, now: datetime, *, hold: timedelta, limit: int) -> Sequence[Notice]:
        """Take due notices, urgent ones first; nobody else gets them until `hold` is over, unless settled."""
        with translated():
            rows = await self._clinics.fetch(_TAKE, now, hold, limit)
        return sorted((Notice(**row) for row in rows), key=lambda one: (not one.urgent, one.number))
