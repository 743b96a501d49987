"""What a search would cost, asked before it is done: one that is beyond the limit is refused, and told what to narrow.

The estimate is the planner's (EXPLAIN), from its statistics of all that is held: how common a value is, never which
resource has it. A search that is led by one patient or by ids is cheap by its form, and is not asked about.
"""

from __future__ import annotations

from typing import Final

import msgspec

from shared.fhir.outcome import TooCostly
from shared.fhir.search import SearchQuery
from shared.store.connection import Connection, translated
from shared.store.search import Statement

_COSTLY_MODIFIERS: Final = frozenset(("contains", "text", "not", "not-in", "missing", "above", "below"))


async def require_affordable(
    connection: Connection, statement: Statement, query: SearchQuery, limit: float | None
) -> None:
    """Pass a statement that the planner thinks costs at most `limit` (units: pages read in a row; None: no limit).

    Raises:
        TooCostly: it thinks otherwise.

    """
    if limit is None or statement.plan == "force_generic_plan":
        return
    with translated():
        await connection.plan(statement.plan)
        plan = await connection.fetchval(f"EXPLAIN (FORMAT JSON) {statement.sql}", *statement.arguments)
    cost = float(msgspec.json.decode(plan)[0]["Plan"]["Total Cost"])
    if cost > limit:
        raise TooCostly(
            f"This search would take {cost / limit:.1f} times the work that one may. Narrow it: "
            f"{'; '.join(narrower(query))}.",
            expression=["http.url"],
        )


def narrower(query: SearchQuery) -> list[str]:
    """Return what makes a search cheaper, in words, what helps most first."""
    names = [name for name, _ in query.given]
    said = ["name one patient (patient=ID), or an identifier, a code, a range of dates that few have"]
    said += [f"search for '{name}' by itself and name what it finds" for name in names if "." in name or "_has" in name]
    said += [
        f"leave out ':{modifier}' of '{name}'"
        for name, _, modifier in (one.partition(":") for one in names)
        if modifier in _COSTLY_MODIFIERS
    ]
    if query.total == "accurate":
        said.append("leave out _total=accurate")
    if query.sort:
        said.append("leave out _sort")
    return said
