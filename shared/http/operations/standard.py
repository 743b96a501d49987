"""HL7's operations that every service offers for the types it has."""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.http.operations.docref import DOCREF
from shared.http.operations.lastn import LASTN
from shared.http.operations.meta import operations_on

if TYPE_CHECKING:
    from collections.abc import Iterable

    from shared.http.capability import Offered
    from shared.runtime.service import Operation


def standard_operations(types: Iterable[str], offered: Offered) -> tuple[Operation, ...]:
    """Return the operations for `types`: those that need no more than the interactions `offered` for them."""
    found: list[Operation] = []
    for type_ in sorted(types):
        if "read" in offered[type_]:
            found.extend(one for one in operations_on(type_) if not one.affects_state or "update" in offered[type_])
    found.extend(
        one for one in (LASTN, DOCREF) if one.type in types and "search-type" in offered.get(one.type, frozenset())
    )
    return tuple(found)
