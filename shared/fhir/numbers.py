"""Numbers as the half-open interval that their precision implies: 100 is [99.5, 100.5), 100.00 is [99.995, 100.005).

Source: https://hl7.org/fhir/R4/search.html#number
"""

from __future__ import annotations

from decimal import Decimal, localcontext
from typing import Final

MIN_NUMBER: Final = Decimal("-1E+1000")
"""The low end of a range that has none, and below every number that is accepted."""

MAX_NUMBER: Final = Decimal("1E+1000")
"""The high end of a range that has none, and above every number that is accepted."""

MAX_DIGITS: Final = 400
"""Numbers of more digits, or with an exponent beyond it, are refused: no measurement needs them, and storing does."""

DECIMAL_DIGITS: Final = 17
"""Digits before the point of the longest number that a bedside reads (18 in all are every server's to keep,
https://hl7.org/fhir/R4/datatypes.html#decimal)."""


def is_storable(number: Decimal) -> bool:
    """Tell whether the number is finite and of a size that can be stored and compared."""
    if not number.is_finite():
        return False
    _, digits, exponent = number.as_tuple()
    return len(digits) <= MAX_DIGITS and isinstance(exponent, int) and -MAX_DIGITS <= exponent <= MAX_DIGITS


def as_decimal(number: Decimal | float) -> Decimal:
    """Return the number as a Decimal with the digits it is written with."""
    return number if isinstance(number, Decimal) else Decimal(repr(number))


def implied_interval(number: Decimal) -> tuple[Decimal, Decimal]:
    """Return [low, high): half a unit of the last digit to both sides.

    For a positive exponent the specification gives one digit more (``1e2`` is [95, 105)), and so does this.

    Raises:
        ValueError: not finite, or too large to compare.

    """
    if not is_storable(number):
        message = f"{number} is not a number that can be compared"
        raise ValueError(message)
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # noqa: S101 - finite, so mypy may know it too
    half = Decimal((0, (5,), exponent - 2 if exponent > 0 else exponent - 1))
    with localcontext() as context:
        context.prec = 3 * MAX_DIGITS
        return number - half, number + half
