"""Controlled substances: what an entry of the ledger needs. Pure functions; amounts are whole micrograms."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

import msgspec

from shared.fhir.cited import Cited
from shared.fhir.outcome import Issue


class Book(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Within how many minutes a dose is booked."""

    minutes: int


class Inventory(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many days after an inventory the next is to be taken, and how many before that somebody is told."""

    days: int
    notice: int


class Product(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a product is: its substance, form and strength."""

    substance: str
    form: str
    strength: str


class SubstancesPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `substances`."""

    book: Book
    inventory: Inventory
    products: dict[str, Product]


def product_of(ndc: str, policy: SubstancesPolicy) -> Product | None:
    """Return what a product is by its NDC, whatever its package; None: the policy does not say."""
    return next((one for code, one in policy.products.items() if ndc == code or ndc.startswith(f"{code}-")), None)


def inventory_due(last: datetime | None, policy: Inventory) -> datetime | None:
    """Return until when an inventory is to be taken after the last one; None: at once, there was none."""
    return None if last is None else last + timedelta(days=policy.days)


def is_inventory_near(last: datetime | None, now: datetime, policy: Inventory) -> bool:
    """Tell whether the next inventory is to be asked for."""
    due = inventory_due(last, policy)
    return due is None or due - timedelta(days=policy.notice) <= now


KINDS: Final = ("receive", "open", "administer", "waste", "destroy", "return", "count", "adjust")
OUT: Final = frozenset(("administer", "waste", "destroy", "return"))
WITNESSED: Final = frozenset(("waste", "destroy", "adjust"))

_NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "receive": ("amount",),
    "open": (),
    "administer": ("amount", "administration"),
    "waste": ("amount", "witness"),
    "destroy": ("amount", "witness", "form41"),
    "return": ("amount",),
    "count": ("amount",),
    "adjust": ("amount", "witness", "note"),
}
RECORDS: Final = "21 CFR 1304.21: a complete record of each substance received, administered and disposed"


def lacking(kind: str, given: Mapping[str, object]) -> list[str]:
    """Return the parameters that an entry of a kind needs and does not have."""
    return [name for name in ("ndc", "lot", "vial", "performer", *_NEEDED[kind]) if given.get(name) in (None, "")]


def micrograms(milligrams: Decimal, factor: Decimal) -> int | None:
    """Return an amount as whole micrograms; None where it is not whole. `factor`: micrograms in a milligram."""
    exact = milligrams * factor
    return int(exact) if exact == exact.to_integral_value() else None


def against(
    kind: str, change: int, least: int | None, *, received: bool, performer: str, witness: str | None
) -> Iterator[Issue]:
    """Yield what forbids an entry. What was counted is a fact: what was booked out after it has to be looked into.

    Args:
        kind: of the entry.
        change: what the vial holds more by it, in micrograms.
        least: what the vial held at the time of the entry, or at any time after it, at the least; None: it had not come
            in by then.
        received: whether it has ever come in.
        performer: the person who does it.
        witness: the person who signs beside him.

    """
    if kind == "receive" and received:
        yield _refused("C-RECEIVED", "this vial was received before. Correct its content by adjust, with a witness.")
    if kind != "receive" and least is None:
        said = "was not here yet at that time" if received else "was never received here"
        yield _refused("C-RECEIVED", f"this vial {said}: check NDC, lot, vial and time, or receive it first.")
    if witness is not None and witness == performer:
        yield _refused("C-WITNESS", "the witness is another person than the one who does it: two signatures.")
    if kind != "count" and least is not None and change < 0 and least + change < 0:
        yield _refused(
            "C-BALANCE",
            f"from that time on the vial held as little as {least} micrograms by the ledger. Count it (kind count): "
            "the difference is then on record and investigated.",
        )


def _refused(rule: str, what: str) -> Issue:
    return Issue(f"Not booked: {what}", code="business-rule", expression=("Parameters",), rule=rule, source=RECORDS)
