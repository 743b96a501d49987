"""Index rows made anew from the bodies that are held, where a newer program finds more to search for.

Run with the migrations, a batch in a transaction at a time, so that a service may go on writing beside it: a row that
is being written is waited for, and what is written meanwhile is indexed by who writes it. It may be stopped and run
again.
"""

from __future__ import annotations

from typing import Final

from shared.fhir.extraction import extract
from shared.fhir.json import parse
from shared.store.connection import Connection, open_connection, retry_conflicts, translated
from shared.store.rows import NO_ROWS, arrays_of

FORM: Final = 2
"""Raised by one whenever the same resource makes other index rows than before.

2: texts of codes, identifiers by their type and in references, quantities in base units, composites.
"""

BATCH: Final = 200

_NEXT = """
SELECT r.rid, r.tenant, r.type, r.patient, h.body
FROM resource r JOIN history h ON h.rid = r.rid AND h.version = r.version
WHERE r.rid > $1 AND NOT r.deleted ORDER BY r.rid LIMIT $2 FOR UPDATE OF r
"""
_INDEX = f"SELECT kap_index($1, $2, $3, $4, false, {', '.join(f'${number + 5}' for number in range(len(NO_ROWS)))})"


async def reindex(dsn: str) -> int:
    """Bring the index rows of a database to this program's form; return how many resources were looked at.

    Raises:
        Unavailable: PostgreSQL cannot be reached.

    """
    connection = await open_connection(dsn, application="kap-reindex", statement_timeout=0)
    try:
        with translated():
            held = await connection.fetchval("SELECT form FROM index_form")
        if held >= FORM:
            return 0
        last, done = 0, 0
        while True:
            after = last
            rids = await retry_conflicts(lambda: _batch(connection, after))  # noqa: B023 - awaited in this round
            if not rids:
                break
            last, done = rids[-1], done + len(rids)
        with translated():
            await connection.execute("UPDATE index_form SET form = $1", FORM)
        return done
    finally:
        await connection.close()


async def _batch(connection: Connection, last: int) -> list[int]:
    with translated():
        async with connection.transaction():
            rows = await connection.fetch(_NEXT, last, BATCH)
            for row in rows:
                arrays = arrays_of(extract(parse(row["body"])))
                await connection.execute(_INDEX, row["rid"], row["tenant"], row["type"], row["patient"], *arrays)
    return [row["rid"] for row in rows]
