"""Which Consents let somebody outside be told of a resource: for the notice that goes with it, and for the audit."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.fhir.definitions import type_id
from shared.store.comparisons import Binder
from shared.store.connection import translated
from shared.store.visibility import Rules

if TYPE_CHECKING:
    from collections.abc import Mapping

    from shared.store.access import Disclosure
    from shared.store.connection import Connection


@dataclass(frozen=True, slots=True)
class Behind:
    """A Consent that permits.

    Attributes:
        consent: its version, ``Consent/1/_history/2``.
        scope: what it says that it is for, codes of v3-ActReason; none: anything.
        through: the intermediaries (``Organization/1``) that it names and this is told to, or by.

    """

    consent: str
    scope: frozenset[str]
    through: frozenset[str] = frozenset()


Place = tuple[str, str]
"""Type and id."""


async def behind(
    connection: Connection, told: Disclosure, tenant: str, places: Sequence[Place]
) -> Mapping[Place, tuple[Behind, ...]]:
    """Return the Consents that permit each of these resources, as it is now, to be told; nothing where none says so."""
    bind = Binder()
    name = bind(tenant, "text")
    numbers = bind([type_id(type_) for type_, _ in places], "smallint[]")
    ids = bind([id_ for _, id_ in places], "text[]")
    names = bind([type_ for type_, _ in places], "text[]")
    about = Rules(told, bind, "r.tenant", "r").about("r")
    with translated():
        rows = await connection.fetch(
            f"""
            WITH r AS MATERIALIZED (
                SELECT g.name, r.* FROM unnest({numbers}, {ids}, {names}) AS g(type, id, name)
                JOIN tenant tn ON tn.name = {name}
                JOIN resource r ON r.tenant = tn.id AND r.type = g.type AND r.id = g.id)
            SELECT r.name, r.id, x.id AS consent, x.version, s.why, s.through FROM r
            CROSS JOIN LATERAL (SELECT c.consent, min(coalesce(c.x_purposes, c.purposes)) AS why,
                                       min(coalesce(c.x_through, c.through)) AS through {about}
                                AND c.weight = 2 AND NOT c.linked GROUP BY c.consent) s
            JOIN resource x ON x.rid = s.consent ORDER BY x.id
            """,
            *bind.arguments,
        )
    found: dict[Place, tuple[Behind, ...]] = {}
    for row in rows:
        through = frozenset(row["through"] or ()) & (told.through or told.recipients)
        one = Behind(f"Consent/{row['consent']}/_history/{row['version']}", frozenset(row["why"] or ()), through)
        place = row["name"], row["id"]
        found[place] = (*found.get(place, ()), one)
    return found


def through(several: Iterable[Behind]) -> tuple[str, ...]:
    """Return the intermediaries that Consents name, to or by whom something is told: for the list of 42 CFR 2.24."""
    return tuple(sorted({one for each in several for one in each.through}))
