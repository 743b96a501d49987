"""Numbers of United States registers that carry a check digit: pure functions on strings."""

from __future__ import annotations

import re
from typing import Final

_DEA: Final = re.compile(r"[A-Za-z][A-Za-z9](\d{7})", re.ASCII)
_NPI: Final = re.compile(r"[12]\d{9}", re.ASCII)
_NPI_PREFIX: Final = "80840"
"""The issuer's number (80 health, 840 United States) that goes before an NPI for its check digit."""


def is_dea(number: str) -> bool:
    """Tell whether a DEA registration number has its form: two letters (or a letter and 9), six digits, check digit.

    The check digit is the last one of: first, third and fifth digit, and twice the second, fourth and sixth.
    """
    match = _DEA.fullmatch(number)
    if match is None:
        return False
    digits = [int(one) for one in match[1]]
    return (sum(digits[0:6:2]) + 2 * sum(digits[1:6:2])) % 10 == digits[6]


def is_npi(number: str) -> bool:
    """Tell whether a National Provider Identifier has its form and its check digit (Luhn, over 80840 and the number).

    Source: 45 CFR 162.406; ISO/IEC 7812.
    """
    if _NPI.fullmatch(number) is None:
        return False
    digits = [int(one) for one in reversed(_NPI_PREFIX + number)]
    doubled = (sum(divmod(2 * one, 10)) for one in digits[1::2])
    return (sum(digits[0::2]) + sum(doubled)) % 10 == 0
