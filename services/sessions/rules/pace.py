"""How fast a dose goes against how much it is: a rate that can hardly be is asked about. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Final

from services.sessions.rules.amounts import DosingPolicy, quantity_of
from services.sessions.rules.claims import rate_of
from shared.fhir.codes import UCUM
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import milligrams_in

_TIMES: Final[Mapping[str, timedelta]] = {"h": timedelta(hours=1), "min": timedelta(minutes=1)}
_MINUTE: Final = timedelta(minutes=1)


def against_pace(dose: Resource, whole: Resource, policy: DosingPolicy, *, alone: bool) -> Iterator[str]:
    """Yield what can hardly be of a dose that says how fast it goes, in words.

    Args:
        dose: the dose, or a step of an infusion.
        whole: the dose itself, or the infusion that it is a step of.
        policy: its fewest minutes, and the share by which amounts are rounded.
        alone: whether nothing else says how fast it went.

    """
    pace, amount = _pace(dose), milligrams_in(quantity_of(whole))
    if pace is None or amount is None or amount <= 0:
        return
    milligrams, per = pace
    minutes = Decimal(per / _MINUTE) * amount / milligrams
    if minutes < policy.pace.minutes:
        yield (
            f"at this rate its {amount:f} mg are in after {minutes:.0f} minutes, sooner than after "
            f"{policy.pace.minutes}"
        )
    ran = _ran(dose) if alone else None
    given = None if ran is None else milligrams * Decimal(ran / per)
    if given is not None and given > amount * (1 + policy.rounding.share):
        yield f"by its rate and its times {given:.0f} mg ran in, and it says {amount:f} mg"


def _pace(dose: Resource) -> tuple[Decimal, timedelta] | None:
    """Return how many milligrams a dose gives in a time; None: it does not say, or nothing runs."""
    rate = rate_of(dose)
    mass, _, time = ("" if rate is None else str(rate[1])).rpartition("/")
    if rate is None or rate[0] <= 0 or time not in _TIMES:
        return None
    said = {"value": rate[0], "system": UCUM, "code": mass}
    milligrams = milligrams_in(quantity_of({**dose, "dosage": {"dose": said}}))
    return None if milligrams is None else (milligrams, _TIMES[time])


def _ran(dose: Resource) -> timedelta | None:
    """Return how long a dose went on that is over."""
    period = dose.get("effectivePeriod", {})
    if dose.get("status") not in ("completed", "stopped") or not {"start", "end"} <= period.keys():
        return None
    return interval(period["end"])[0] - interval(period["start"])[0]
