"""The audit's chain: nothing can be changed, taken out, put in or cut off without `./kap audit verify` finding it."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta

import asyncpg
import msgspec
import pytest

from shared.runtime.anchoring import Anchoring, anchors_in
from shared.store.access import DEFAULT_TENANT
from shared.store.audit import Audit, Head, Row, Wanted
from shared.store.audit_chain import Line, check, link

UNLOCKED = "GRANT ALL ON audit TO CURRENT_USER; ALTER TABLE audit DISABLE TRIGGER ALL"
"""What nobody can be kept from who administers the database."""

SIX_YEARS = timedelta(days=6 * 366)


def row(number, **more):
    at = datetime(2026, 11, 22, 10, 0, number % 60, tzinfo=UTC).isoformat(timespec="microseconds")
    said = {"at": at.replace("+00:00", "Z"), "tenant": "default", "service": "intake", "kind": "rest", "does": "read"}
    return Row(**{**said, "action": "R", "outcome": 0, "patients": (f"p{number}",), "user": "Practitioner/1", **more})


async def found(store, folder=None, **more):
    anchors = [] if folder is None else list(anchors_in(folder / f"{store.audit.service}.anchors"))
    given_up = await store.audit.given_up()
    # As they come over /ops/audit.
    lines = [Line(one.sequence, one.hash, one.body, dict(one.columns)) for one in await store.audit.rows(0)]
    lines = msgspec.json.decode(msgspec.json.encode(lines), type=list[Line])
    return check(lines, anchors, given_up=given_up, **more)


async def test_rows_of_many_writers_are_one_chain_and_durable_when_append_returns(store):
    others = [Audit(store._clinics, "intake") for _ in range(3)]  # as several processes have it
    await asyncio.gather(*(one.append(row(n)) for n in range(40) for one in (store.audit, *others)))
    whole = await found(store)
    assert (whole.rows, whole.broken, whole.head.sequence) == (160, [], 160)


async def test_the_service_itself_cannot_change_or_remove_a_row(store):
    await store.audit.append(row(1), row(2))
    for statement in (
        "UPDATE audit SET outcome = 0",
        "DELETE FROM audit",
        "DELETE FROM audit WHERE sequence = 2",
        "TRUNCATE audit",
    ):
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await store._clinics.execute(statement)
    assert (await found(store)).rows == 2


def forged(before, sequence, of):
    body = msgspec.json.encode(of)
    return link(before, sequence, body), body


async def rewrite(connection, rows, start):
    """What somebody does who knows the program: every row from `start` on anew, with hashes that follow."""
    before = rows[start - 2].hash
    for one in rows[start - 1 :]:
        changed = msgspec.structs.replace(one.row, user="Practitioner/2") if one.sequence == start else one.row
        before, body = forged(before, one.sequence, changed)
        await connection.execute(
            "UPDATE audit SET body = $2, hash = $3, agents = $4 WHERE sequence = $1",
            one.sequence,
            body,
            before,
            [changed.user, changed.service],
        )


RENUMBERED = "UPDATE audit SET sequence = -sequence WHERE sequence < 0"
GIVEN_UP = "INSERT INTO audit_given_up SELECT sequence, hash FROM audit WHERE sequence = 3; "
COPIED = "CREATE TEMPORARY TABLE one AS SELECT * FROM audit WHERE sequence = 10; UPDATE one SET sequence = 11"
TAMPERINGS = {
    "a user is changed": (
        "UPDATE audit SET body = replace(convert_from(body, 'UTF8'), 'er/1', 'er/2')::bytea WHERE sequence = 4",
        "row 4 does not follow",
    ),
    "a row is found by another patient": ("UPDATE audit SET patients = '{p9}' WHERE sequence = 4", "another patients"),
    "a row is found by another time": ("UPDATE audit SET at = at - interval '1 day' WHERE sequence = 4", "another at"),
    "a hash is changed": ("UPDATE audit SET hash = sha256(hash) WHERE sequence = 4", "row 4 does not follow"),
    "a row is removed": ("DELETE FROM audit WHERE sequence = 4", "row 4 is missing"),
    "rows change places": (
        "UPDATE audit SET sequence = CASE sequence WHEN 4 THEN -5 ELSE -4 END WHERE sequence IN (4, 5); " + RENUMBERED,
        "row 4 does not follow",
    ),
    "a row is removed and the rest renumbered": (
        "DELETE FROM audit WHERE sequence = 4; UPDATE audit SET sequence = -(sequence - 1) WHERE sequence > 4; "
        + RENUMBERED,
        "row 4 does not follow",
    ),
    "a row is put in": (
        f"{COPIED}; INSERT INTO audit SELECT * FROM one",
        "row 11 does not follow",
    ),
    "the end is cut off": ("DELETE FROM audit WHERE sequence > 7", "the end is missing: row 10"),
    "everything is removed": ("DELETE FROM audit", "the end is missing: row 10"),
    "the beginning is removed": ("DELETE FROM audit WHERE sequence < 4", "row 1 to 3 is missing"),
    "the beginning is said to be given up": (
        GIVEN_UP + "DELETE FROM audit WHERE sequence < 4",
        "does not say that they were given up",
    ),
}


@pytest.mark.parametrize("tampering", TAMPERINGS)
async def test_whatever_a_superuser_does_to_the_rows_is_found(store, tmp_path, tampering):
    await store.audit.append(*(row(number) for number in range(10)))
    await Anchoring(store.audit, tmp_path).once()
    assert (await found(store, tmp_path)).broken == []
    statement, said = TAMPERINGS[tampering]
    async with store._clinics.acquire() as connection:
        await connection.execute(UNLOCKED)
        await connection.execute(statement)
    whole = await found(store, tmp_path)
    assert said in whole.broken[0]


async def test_who_rewrites_the_whole_end_has_to_answer_to_what_was_noted_elsewhere(store, tmp_path):
    anchoring = Anchoring(store.audit, tmp_path)
    for number in range(6):
        await store.audit.append(row(number))
        await anchoring.once()
    rows = await store.audit.rows()
    async with store._clinics.acquire() as connection:
        await connection.execute(UNLOCKED)
        await rewrite(connection, rows, 3)
    assert (await found(store)).broken == []  # the chain alone cannot tell
    assert "row 3 is not the one that was noted" in (await found(store, tmp_path)).broken[0]


async def test_rows_are_given_up_after_their_retention_only_and_the_chain_stays_whole(store, tmp_path):
    old = datetime.now(UTC) - SIX_YEARS - timedelta(days=2)
    ago = [(old + timedelta(hours=hour)).isoformat(timespec="microseconds").replace("+00:00", "Z") for hour in range(4)]
    await store.audit.append(*(row(number, at=at) for number, at in enumerate(ago)), row(4), row(5))
    assert await store.audit.give_up(datetime.now(UTC) - SIX_YEARS) == 4
    whole = await found(store, tmp_path, keeps=SIX_YEARS)
    assert (whole.broken, whole.rows, whole.begins.sequence) == ([], 3, 4)
    await store.audit.append(row(6))
    assert (await found(store, tmp_path, keeps=SIX_YEARS)).broken == []
    assert await store.audit.give_up(datetime.now(UTC) - SIX_YEARS) == 0
    # Giving up by the program's own function what is not old enough is found, too.
    assert await store.audit.give_up(datetime.now(UTC)) > 0
    assert "before 2196 days were over" in (await found(store, tmp_path, keeps=SIX_YEARS)).broken[0]


async def test_a_row_is_found_by_whom_it_is_about_and_a_dead_writers_rows_are_taken_in(store):
    async with store.transaction(keys=(), tenant="default") as transaction:
        await transaction.note(row(1, does="push", kind="disclose", recipient="Organization/1"))
    assert await store.audit.rows() == []
    assert (await store.audit.seal()).sequence == 1
    [held] = await store.audit.find(Wanted(DEFAULT_TENANT, ("p1",), disclosed=True))
    assert held.row.recipient == "Organization/1"
    assert await store.audit.find(Wanted(tenant="another")) == []
    assert await store.audit.seal() == Head(1, held.hash)
