"""One patient's compartment, whatever the type, page by page.

Source: https://hl7.org/fhir/R4/compartmentdefinition-patient.html
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from shared.fhir.definitions import parameter_id, type_id
from shared.fhir.ids import subject_uuid
from shared.store.comparisons import Binder
from shared.store.connection import translated
from shared.store.cursor import Cursor, decode, encode
from shared.store.types import Page, Stored
from shared.store.visibility import visible

if TYPE_CHECKING:
    from shared.store.access import Access
    from shared.store.store import Transaction

_PAGE = """
SELECT t.name AS type, r.id, r.rid, r.version, r.last_updated, r.origin, h.interaction, h.body
FROM (
    SELECT * FROM resource r
    WHERE r.tenant = (SELECT id FROM tenant WHERE name = $1) AND r.patient = $2 AND NOT r.deleted AND r.rid > $3
      AND ($4::smallint[] IS NULL OR r.type = ANY ($4)) AND ($5::timestamptz IS NULL OR r.last_updated >= $5)
      AND ($7::timestamptz IS NULL OR NOT EXISTS (
              SELECT FROM idx_date d
              JOIN unnest($9::smallint[], $10::smallint[]) AS c(type, param) ON d.param = c.param
              WHERE d.rid = r.rid AND c.type = r.type)
          OR EXISTS (
              SELECT FROM idx_date d
              JOIN unnest($9::smallint[], $10::smallint[]) AS c(type, param) ON d.param = c.param
              WHERE d.rid = r.rid AND c.type = r.type AND d.low < $8 AND d.high > $7))
      {visible}
    ORDER BY r.rid LIMIT $6
) AS r
JOIN history h ON h.rid = r.rid AND h.version = r.version
JOIN resource_type t ON t.id = r.type
ORDER BY r.rid
"""


@dataclass(frozen=True, slots=True)
class Care:
    """Care in the half-open interval [low, high), told of each type by the date parameters in `told_by`.

    What has no such date is always of it: a Patient, an allergy without a time.
    """

    low: datetime
    high: datetime
    told_by: Mapping[str, Sequence[str]]


async def compartment(
    transaction: Transaction,
    access: Access,
    patient: str,
    *,
    types: Collection[str] | None,
    since: datetime | None,
    count: int,
    cursor: str | None,
    care: Care | None = None,
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
        care: only of that time; None: of any.

    Raises:
        BadRequest: the cursor cannot be read.

    """
    after = 0 if cursor is None else decode(cursor, keys=0).row
    told_by = [] if care is None else [(type_, code) for type_, codes in care.told_by.items() for code in codes]
    bind = Binder()
    bind.arguments = [
        access.tenant,
        subject_uuid(patient),
        after,
        None if types is None else [type_id(type_) for type_ in types],
        since,
        count + 1,
        None if care is None else care.low,
        None if care is None else care.high,
        [type_id(type_) for type_, _ in told_by],
        [parameter_id(code) for _, code in told_by],
    ]
    seen = "".join(f" AND {one}" for one in visible(access, bind, "(SELECT id FROM tenant WHERE name = $1)", None))
    with translated():
        rows = await transaction.connection.fetch(_PAGE.replace("{visible}", seen), *bind.arguments)
    entries = [Stored.of(row["type"], row) for row in rows[:count]]
    more = len(rows) > count
    return Page(entries, next=encode(Cursor(backward=False, values=(), row=rows[count - 1]["rid"])) if more else None)
