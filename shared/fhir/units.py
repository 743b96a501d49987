"""Quantities in one unit for each dimension, so that 1 kg is found by a search for 1000 g.

The table `definitions/units.json` holds the units that HL7 calls common, made by a library of UCUM
(`tools/generate_definitions.py`). A unit that is not in it is compared as it is written.

Source: https://ucum.org/ucum, https://hl7.org/fhir/R4/search.html#quantity
"""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Context, Decimal
from functools import cache
from typing import Final

import msgspec

from shared.fhir.definitions import FOLDER

UCUM: Final = "http://unitsofmeasure.org"

_PRECISION: Final = Context(prec=12)
"""Digits that two values must agree in to be the same: the factors have 14, so what is equal stays so."""


@dataclass(frozen=True, slots=True)
class Unit:
    """A unit: a value times `factor` plus `offset` is the value in `base` units (``kilogram.meter-3``)."""

    factor: Decimal
    offset: Decimal
    base: str

    def canonical(self, value: Decimal) -> Decimal:
        """Return a value of this unit in base units, to 12 digits."""
        return _PRECISION.plus(value * self.factor + self.offset).normalize(_PRECISION)


def after(value: Decimal) -> Decimal:
    """Return the next value that is told from `value`."""
    return _PRECISION.next_plus(value)


@cache
def _table() -> dict[str, tuple[str, str, str]]:
    raw = (FOLDER / "units.json").read_bytes()
    return msgspec.json.decode(raw, type=dict[str, tuple[str, str, str]])


@cache
def _unit(code: str) -> Unit | None:
    row = _table().get(code)
    return None if row is None else Unit(Decimal(row[0]), Decimal(row[1]), row[2])


def unit(system: str | None, code: str | None) -> Unit | None:
    """Return a unit of UCUM; None for one that is not known, or of another system."""
    return _unit(code) if system == UCUM and code in _table() else None
