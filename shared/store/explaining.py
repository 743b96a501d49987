"""Which indexes answer a search, in PostgreSQL's own words: `_explain=true`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec

from shared.store.connection import Connection, translated
from shared.store.search import Statement


async def explain(connection: Connection, statement: Statement, seconds: float) -> str:
    """Return in a sentence which indexes and tables a statement reads, in the order of its plan, and how long it took.

    The plan holds no value of the search but its conditions, and of those nothing is told.
    """
    with translated():
        plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *statement.arguments)
    read = dict.fromkeys(_read(msgspec.json.decode(plan)[0]["Plan"]))
    return f"Answered in {seconds * 1000:.1f} ms by {', '.join(read)}."


def _read(node: dict[str, Any]) -> Iterator[str]:
    if "Index Name" in node:
        yield f"index {node['Index Name']}"
    elif node["Node Type"] == "Seq Scan":
        yield f"the whole table {node['Relation Name']}"
    for below in node.get("Plans", ()):
        yield from _read(below)
