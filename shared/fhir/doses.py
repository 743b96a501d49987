"""How much of a medicine somebody takes in a day, as Dosage says it: pure functions on values.

Source: https://hl7.org/fhir/R4/dosage.html, https://hl7.org/fhir/R4/datatypes.html#Timing
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, quantity_in

_DAYS: Final[Mapping[str, Decimal]] = {
    "h": 1 / Decimal(24),
    "d": Decimal(1),
    "wk": Decimal(7),
    "mo": Decimal(365) / 12,
    "a": Decimal(365),
}
"""Days in one unit of time (UCUM)."""

_GTS: Final = "http://terminology.hl7.org/CodeSystem/v3-GTSAbbreviation"
_A_DAY: Final[Mapping[str, int]] = {"QD": 1, "AM": 1, "PM": 1, "BED": 1, "BID": 2, "TID": 3, "QID": 4}
_MILLIGRAMS: Final[Mapping[str, Decimal]] = {"mg": Decimal(1), "g": Decimal(1000), "ug": Decimal("0.001")}


def sessions_of(dosages: Iterable[Mapping[str, Any]]) -> int | None:
    """Return for how many sessions an order's dosage instructions are (`timing.repeat`: the most); None: not said."""
    repeats = [one.get("timing", {}).get("repeat", {}) for one in dosages]
    counts = [int(one.get("countMax", one.get("count"))) for one in repeats if "count" in one or "countMax" in one]
    return max(counts, default=None)


def daily_milligrams(resource: Resource) -> Decimal | None:
    """Return the mg a day of a MedicationStatement or MedicationRequest; None where amount or frequency is not said.

    Of a range the lower end counts; several dosage instructions add up.
    """
    dosages = resource.get("dosage") or resource.get("dosageInstruction") or []
    found = [_of_dosage(dosage) for dosage in dosages if dosage.get("asNeededBoolean") is not True]
    known = [one for one in found if one is not None]
    return sum(known, Decimal()) if found and len(known) == len(found) else None


def most_daily_milligrams(resource: Resource) -> Decimal | None:
    """Return the mg a day at the most, what is taken as needed too; None where it is not said."""
    dosages = resource.get("dosage") or resource.get("dosageInstruction") or []
    found = [_of_dosage(dosage, highest=True) for dosage in dosages]
    known = [one for one in found if one is not None]
    return sum(known, Decimal()) if found and len(known) == len(found) else None


def _of_dosage(dosage: Mapping[str, Any], *, highest: bool = False) -> Decimal | None:
    limit = dosage.get("maxDosePerPeriod", {})
    days = _period_in_days(limit.get("denominator", {}))
    most = milligrams_in(limit.get("numerator"))
    if highest and days and most is not None:
        return most / days
    amount = _amount(dosage.get("doseAndRate", []), highest=highest)
    times = _times_a_day(dosage.get("timing", {}), highest=highest)
    if amount is not None and times is not None:
        return amount * times
    return most / days if days and most is not None else None


def milligrams_in(quantity: Mapping[str, Any] | None) -> Decimal | None:
    """Return the mg of a Quantity; None where it is in another kind of unit."""
    for unit, milligrams in _MILLIGRAMS.items():
        value = quantity_in(quantity, (unit,))
        if value is not None:
            return Decimal(value) * milligrams
    return None


def _amount(rates: Iterable[Mapping[str, Any]], *, highest: bool) -> Decimal | None:
    for rate in rates:
        low_or_high = rate.get("doseRange", {}).get("high" if highest else "low")
        found = milligrams_in(rate.get("doseQuantity") or low_or_high)
        if found is not None:
            return found
    return None


def _times_a_day(timing: Mapping[str, Any], *, highest: bool) -> Decimal | None:
    repeat = timing.get("repeat", {})
    unit = _DAYS.get(str(repeat.get("periodUnit")))
    period = repeat.get("period")
    if unit is not None and period:
        frequency = repeat.get("frequencyMax") if highest and "frequencyMax" in repeat else repeat.get("frequency", 1)
        return Decimal(frequency) / (Decimal(period) * unit)
    return next((Decimal(_A_DAY[code]) for code in codes_of(timing.get("code"), _GTS) if code in _A_DAY), None)


def _period_in_days(quantity: Mapping[str, Any]) -> Decimal | None:
    for unit, days in _DAYS.items():
        value = quantity_in(quantity, (unit,))
        if value is not None:
            return Decimal(value) * days
    return None
