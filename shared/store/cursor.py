"""Where a page begins, as text: the sort values and row number of the entry it follows, or goes before.

The text is opaque to callers; the HTTP layer seals it, with the query it belongs to. It is as long whatever the row
number is: by its digits a caller would learn how many rows there are that he may not see.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import TypeAlias

import msgspec

from shared.fhir.outcome import BadRequest

SortValue: TypeAlias = str | datetime | Decimal | None


@dataclass(frozen=True, slots=True)
class Cursor:
    """`values` are those of the sort keys, in order; `row` is the row number that breaks ties."""

    backward: bool
    values: tuple[SortValue, ...]
    row: int


def encode(cursor: Cursor) -> str:
    """Return the cursor as URL-safe text."""
    values = [_written(value) for value in cursor.values]
    raw = msgspec.json.encode([cursor.backward, values, f"{cursor.row:019}"])
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode(text: str, *, keys: int) -> Cursor:
    """Read a cursor of a query with `keys` sort keys.

    Raises:
        BadRequest: not a cursor, or of another query.

    """
    try:
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
        backward, values, row = msgspec.json.decode(raw, type=tuple[bool, list[list[str] | None], str | int])
        read = tuple(_read(value) for value in values)
    except (binascii.Error, ValueError, InvalidOperation, msgspec.DecodeError) as error:
        raise BadRequest("The page cursor cannot be read. Follow the links of a page as they are.") from error
    if len(read) != keys:
        raise BadRequest("The page cursor belongs to another search. Follow the links of a page as they are.")
    return Cursor(backward, read, int(row))


def _written(value: SortValue) -> Sequence[str] | None:
    if value is None:
        return None
    if isinstance(value, datetime):
        return ["d", value.isoformat(timespec="microseconds")]
    if isinstance(value, Decimal):
        return ["n", str(value)]
    return ["s", value]


def _read(value: Sequence[str] | None) -> SortValue:
    if value is None:
        return None
    kind, text = value
    if kind == "d":
        return datetime.fromisoformat(text)
    return Decimal(text) if kind == "n" else text
