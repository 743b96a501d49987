"""One patient's compartment, whatever the type, page by page.

Source: https://hl7.org/fhir/R4/compartmentdefinition-patient.html
"""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime
from typing import TYPE_CHECKING

from shared.fhir.definitions import type_id
from shared.fhir.ids import subject_uuid
from shared.store.connection import translated
from shared.store.cursor import Cursor, decode, encode
from shared.store.predicates import patient_uuids
from shared.store.types import Page, Stored

if TYPE_CHECKING:
    from shared.store.access import Access
    from shared.store.store import Transaction

_PAGE = """
SELECT t.name AS type, r.id, r.rid, r.version, r.last_updated, r.origin, h.interaction, h.body
FROM (
    SELECT * FROM resource r
    WHERE r.tenant = (SELECT id FROM tenant WHERE name = $1) AND r.patient = $2 AND NOT r.deleted AND r.rid > $3
      AND ($4::text IS NULL OR r.origin = $4) AND ($5::uuid[] IS NULL OR r.patient = ANY ($5))
      AND NOT r.labels && $6::text[]
      AND ($7::smallint[] IS NULL OR r.type = ANY ($7)) AND ($8::timestamptz IS NULL OR r.last_updated >= $8)
    ORDER BY r.rid LIMIT $9
) AS r
JOIN history h ON h.rid = r.rid AND h.version = r.version
JOIN resource_type t ON t.id = r.type
ORDER BY r.rid
"""


async def compartment(
    transaction: Transaction,
    access: Access,
    patient: str,
    *,
    types: Collection[str] | None,
    since: datetime | None,
    count: int,
    cursor: str | None,
) -> Page:
    """Return a page of the current resources of a patient's compartment, the patient too, in the order of arrival.

    Args:
        transaction: to read in.
        access: what the caller may see.
        patient: the patient's logical id.
        types: only these types; None: all.
        since: only what was changed at that time or later; None: all.
        count: entries of a page, at most.
        cursor: where the page begins; None: at the first.

    Raises:
        BadRequest: the cursor cannot be read.

    """
    after = 0 if cursor is None else decode(cursor, keys=0).row
    with translated():
        rows = await transaction.connection.fetch(
            _PAGE,
            access.tenant,
            subject_uuid(patient),
            after,
            access.origin,
            patient_uuids(access),
            sorted(access.hidden_labels),
            None if types is None else [type_id(type_) for type_ in types],
            since,
            count + 1,
        )
    entries = [
        Stored(
            type=row["type"],
            id=row["id"],
            version=row["version"],
            last_updated=row["last_updated"],
            deleted=False,
            body=row["body"],
            origin=row["origin"],
            interaction=row["interaction"],
        )
        for row in rows[:count]
    ]
    more = len(rows) > count
    return Page(entries, next=encode(Cursor(backward=False, values=(), row=rows[count - 1]["rid"])) if more else None)
