"""Whether the audit of a service is whole: a pure function of its rows and of what was noted elsewhere of its end.

A change, a removal, an insertion or another order breaks the chain from there on. Rows cut off at its end leave a chain
that holds; so its end is noted again and again outside of the database (`Anchor`). Whoever rewrites everything after a
row has to answer to the anchors, too.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from shared.store.audit import GIVEN_UP, Head, Row

COLUMNS: Final = ("at", "tenant", "action", "kind", "does", "outcome", "patients", "agents")
"""What rows are searched by, beside their body."""


class Anchor(msgspec.Struct, frozen=True):
    """The end of a service's chain, as noted outside of its database: sequence, hash (hex), when."""

    service: str
    sequence: int
    hash: str
    at: datetime


class Line(msgspec.Struct, frozen=True):
    """A row as it is held: its place, hash, body, and the columns it is searched by, times as text."""

    sequence: int
    hash: bytes
    body: bytes
    columns: dict[str, Any]


@dataclass(slots=True)
class Checked:
    """What a look at a chain found.

    Attributes:
        rows: how many.
        begins: what was given up before the first of them, after its retention.
        head: its end.
        anchored: the sequence of the last anchor that agrees; 0: none.
        broken: what is wrong, in words; the first is where to look.

    """

    rows: int = 0
    begins: Head = field(default_factory=Head)
    head: Head = field(default_factory=Head)
    anchored: int = 0
    broken: list[str] = field(default_factory=list)


def link(before: bytes, sequence: int, body: bytes) -> bytes:
    """Return the hash of a row after the one with the hash `before`."""
    return hashlib.sha256(before + sequence.to_bytes(8, "big") + body).digest()


def check(
    lines: Iterable[Line], anchors: Sequence[Anchor], *, given_up: Head | None = None, keeps: timedelta | None = None
) -> Checked:
    """Check a chain.

    Args:
        lines: its rows, in order of their sequence, as they are held.
        anchors: what was noted elsewhere of its end, at whatever time.
        given_up: where the service says that it begins.
        keeps: the retention; what was given up has to be older.

    """
    found = Checked(begins=given_up or Head())
    found.head = found.begins
    noted = {anchor.sequence: anchor for anchor in anchors}
    told: dict[int, str] = {}
    for one in lines:
        found.rows += 1
        said = list(_wrong(one, found.head))
        anchor = noted.get(one.sequence)
        if anchor is not None and anchor.hash != one.hash.hex():
            said.append(f"row {one.sequence} is not the one that was noted at {anchor.at:%Y-%m-%d %H:%M:%S}")
        elif anchor is not None:
            found.anchored = max(found.anchored, one.sequence)
        found.broken += said
        found.head = Head(one.sequence, one.hash)
        if not said:
            told |= _given_up(one)
    cut = [one for one in anchors if one.sequence > found.head.sequence]
    if cut:
        last = max(cut, key=lambda one: one.sequence)
        noted_at = f"row {last.sequence} was noted at {last.at:%Y-%m-%d %H:%M:%S}"
        found.broken.append(f"the end is missing: {noted_at}, the last that is there is {found.head.sequence}")
    found.broken += _beginning(found.begins, told, noted, keeps)
    return found


def _wrong(one: Line, before: Head) -> Iterator[str]:
    if one.sequence != before.sequence + 1:
        missing = (
            f"{before.sequence + 1}"
            if one.sequence == before.sequence + 2
            else (f"{before.sequence + 1} to {one.sequence - 1}")
        )
        yield f"row {missing} is missing" if one.sequence > before.sequence else f"row {one.sequence} is there twice"
    if link(before.hash, one.sequence, one.body) != one.hash:
        yield f"row {one.sequence} does not follow from the one before it: it, or that one, was changed"
    try:
        row = msgspec.json.decode(one.body, type=Row)
    except msgspec.MsgspecError:
        yield f"row {one.sequence} cannot be read"
        return
    agents = [name for name in (row.user, row.client, row.service) if name is not None]
    wanted: Mapping[str, Any] = {
        "at": datetime.fromisoformat(row.at),
        "tenant": row.tenant,
        "action": row.action,
        "kind": row.kind,
        "does": row.does,
        "outcome": row.outcome,
        "patients": list(row.patients),
        "agents": agents,
    }
    held = {**one.columns, "at": datetime.fromisoformat(str(one.columns["at"]))}
    for name in COLUMNS:
        if held[name] != wanted[name]:
            yield f"row {one.sequence} is found by another {name} than it says"


def _given_up(one: Line) -> dict[int, str]:
    """Return, of a row that says up to where rows were given up, that sequence with the hash there and its time."""
    row = msgspec.json.decode(one.body, type=Row)
    if row.kind != "audit" or row.does != GIVEN_UP:
        return {}
    sequence, hash_, at = row.what[0].split(" ")
    return {int(sequence): f"{hash_} {at} {row.at}"}


def _beginning(
    begins: Head, told: Mapping[int, str], noted: Mapping[int, Anchor], keeps: timedelta | None
) -> Iterator[str]:
    """Yield what is wrong with where the chain begins: the chain has to say so, and the rows to have been old."""
    if begins.sequence == 0:
        return
    said = told.get(begins.sequence)
    if said is None or not said.startswith(f"{begins.hash.hex()} "):
        yield f"the rows up to {begins.sequence} are gone, and the chain does not say that they were given up"
        return
    _, last, when = said.split(" ")
    if keeps is None:
        return
    if datetime.fromisoformat(when) - datetime.fromisoformat(last) < keeps:
        yield f"the rows up to {begins.sequence} were given up before {keeps.days} days were over"
    for anchor in noted.values():
        if anchor.sequence <= begins.sequence and datetime.fromisoformat(when) - anchor.at < keeps:
            yield f"row {anchor.sequence} was noted at {anchor.at:%Y-%m-%d}, and was given up too early"
            return
