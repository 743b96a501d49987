"""What a change of a MedicationAdministration claims: a dose about to be given, or one that was. Pure functions."""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final, Literal, TypeAlias

from services.sessions.rules.checks import closed
from services.sessions.rules.gate import GatePolicy
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import effective_start, milligrams_in, moment
from shared.fhir.outcome import Issue

Claim: TypeAlias = Literal["nothing", "start", "given"]

_MINUTE: Final = timedelta(minutes=1)
LIVE: Final = frozenset(("in-progress", "on-hold"))
GIVEN: Final = frozenset(("completed", "stopped"))
UNSURE: Final = "unknown"
"""Status of a dose of which nobody knows whether, or how much of it, was given: it counts, of an amount not known."""
COUNTED: Final = LIVE | GIVEN | {UNSURE}


def claim_of(
    before: Resource | None,
    after: Resource | None,
    *,
    was_gated: bool,
    is_gated: bool,
    now: datetime,
    policy: GatePolicy,
) -> Claim:
    """Return what a change of a MedicationAdministration claims.

    start: a gated drug is about to be given: it is put in progress, and begins no longer ago than `live` minutes; or a
    dose that was on hold or had ended goes on; or of one in progress what is given is changed. given: it was given:
    completed or stopped, perhaps (unknown), or in progress since longer ago. nothing: no dose of a gated drug, or one
    whose claim was judged when it was first made.
    """
    if after is None or not is_gated or after.get("status") not in COUNTED:
        return "nothing"
    if before is not None and was_gated and before.get("status") in COUNTED:
        if resumes(before, after):
            return "start"
        if effective_start(before) == effective_start(after) and not changes_what(before, after):
            return "nothing"
        if only_slows(before, after):
            return "nothing"
        if says_its_rate(before, after):  # it may be slower than before, and that is never refused
            return "given" if runs(after) else "nothing"
        is_first = False
    else:
        is_first = True
    began = latest_start(after, now)
    is_past = began is not None and began < now - timedelta(minutes=policy.live.minutes)
    if after.get("status") in GIVEN | {UNSURE}:
        return "given"
    if was_gated and runs_faster(before, after):
        return "start"
    if is_past:
        return "given"
    return "start" if is_first or changes_what(before or {}, after) else "given"


def changes_what(before: Resource, after: Resource) -> bool:
    """Tell whether what is given, how much, how, on which order or in which visit is another than before."""
    elements = (
        "dosage",
        "medicationCodeableConcept",
        "medicationReference",
        "contained",
        "request",
        "context",
        "partOf",
    )
    return any(before.get(name) != after.get(name) for name in elements)


def is_the_same(begun: Resource, asked: Resource) -> bool:
    """Tell whether a dose that was begun is the one that a request asks for: what, how much, how, by whom, on what.

    What became of it since (its status, its end, how fast it goes) does not matter.
    """
    elements = ("subject", "context", "request", "performer", "medicationCodeableConcept", "contained")
    dosages = [one.get("dosage", {}) for one in (begun, asked)]
    amounts = [milligrams_in(one.get("dose")) for one in dosages]
    alike = all(begun.get(name) == asked.get(name) for name in elements)
    return alike and dosages[0].get("route") == dosages[1].get("route") and amounts[0] == amounts[1]


def is_sent_again(begun: Resource, asked: Resource, policy: GatePolicy) -> bool:
    """Tell whether a dose that is to be begun may be one that was: the same, and within moments of its beginning."""
    began, begins = effective_start(begun), effective_start(asked)
    if began is None or begins is None or begun.get("status") not in COUNTED:
        return False
    return abs(begins - began) <= timedelta(seconds=policy.again.seconds) and is_the_same(begun, asked)


def corrects_the_amount(before: Resource | None, after: Resource) -> bool:
    """Tell whether of a recorded dose nothing is changed but how much it was: the rest was judged at its time."""
    if before is None or before.get("status") not in COUNTED or effective_start(before) != effective_start(after):
        return False
    routes = [one.get("dosage", {}).get("route") for one in (before, after)]
    alike = routes[0] == routes[1] and rate_of(before) == rate_of(after)
    return alike and not changes_what({**before, "dosage": after.get("dosage")}, after)


def lessens(before: Resource, after: Resource) -> bool:
    """Tell whether of a recorded dose nothing is changed but that it was less than was said before."""
    doses = [one.get("dosage", {}).get("dose") for one in (before, after)]
    was, is_ = (milligrams_in(one) for one in doses)
    return corrects_the_amount(before, after) and was is not None and is_ is not None and is_ < was


def is_vague(dose: Resource) -> bool:
    """Tell whether a dose says no more than the day, month or year in which it began."""
    said = dose.get("effectiveDateTime", dose.get("effectivePeriod", {}).get("start"))
    return said is not None and interval(said)[1] - interval(said)[0] > _MINUTE


def latest_start(dose: Resource, now: datetime) -> datetime | None:
    """Return when a dose began; of one that says only the day, the latest that it may have: before it was written."""
    start = effective_start(dose)
    if start is None or not is_vague(dose):
        return start
    said = dose.get("effectiveDateTime", dose.get("effectivePeriod", {}).get("start"))
    written = (dose.get("meta") or {}).get("lastUpdated")
    return max(start, min(interval(said)[1] - _MINUTE, moment(written), now))


def rate_of(dose: Resource) -> tuple[Decimal, str | None] | None:
    """Return how fast a dose goes, number and unit (``mg/h``), said as a quantity or as a ratio; None: it is not said.

    A unit without its code is None: what people write (``mg/h``, ``mg/min``) is compared with nothing.
    Source: https://hl7.org/fhir/R4/medicationadministration-definitions.html#MedicationAdministration.dosage.rate_x_
    """
    said = dose.get("dosage", {})
    quantity, ratio = said.get("rateQuantity", {}), said.get("rateRatio", {})
    if "value" in quantity:
        return Decimal(str(quantity["value"])), quantity.get("code")
    above, per = ratio.get("numerator", {}), ratio.get("denominator", {})
    if "value" not in above or not per.get("value"):
        return None
    units = above.get("code"), per.get("code")
    unit = None if None in units else f"{units[0]}/{units[1]}"
    return Decimal(str(above["value"])) / Decimal(str(per["value"])), unit


def runs(dose: Resource) -> bool:
    """Tell whether a dose says a rate above nothing."""
    rate = rate_of(dose)
    return rate is not None and rate[0] > 0


def may_be_faster(before: Resource, after: Resource) -> bool:
    """Tell whether the rate of one dose is above that of another, or in a unit that cannot be compared with its."""
    was, rate = rate_of(before), rate_of(after)
    if was is None or rate is None or _rate_said(before) == _rate_said(after):
        return False
    return None in (was[1], rate[1]) or rate[1] != was[1] or rate[0] > was[0]


def _rate_said(dose: Resource) -> list[Resource | None]:
    return [dose.get("dosage", {}).get(name) for name in ("rateQuantity", "rateRatio")]


def runs_faster(before: Resource | None, after: Resource) -> bool:
    """Tell whether a dose that goes on goes faster than before, or in a unit that cannot be compared."""
    if before is None or before.get("status") != "in-progress" or after.get("status") != "in-progress":
        return False
    return may_be_faster(before, after)


def only_slows(before: Resource, after: Resource) -> bool:
    """Tell whether of a dose nothing is changed but that it goes slower: less of the drug is never refused."""
    if rate_of(before) is None or rate_of(after) is None or may_be_faster(before, after):
        return False
    same_start = effective_start(before) == effective_start(after)
    return same_start and not changes_what(_without_rate(before), _without_rate(after))


def says_its_rate(before: Resource | None, after: Resource) -> bool:
    """Tell whether of a dose that goes on nothing is changed but that it says how fast, and did not before."""
    if before is None or rate_of(before) is not None or rate_of(after) is None:
        return False
    running = before.get("status") == after.get("status") == "in-progress"
    same_start = effective_start(before) == effective_start(after)
    return running and same_start and not changes_what(_without_rate(before), _without_rate(after))


def _without_rate(dose: Resource) -> Resource:
    kept = {name: one for name, one in dose.get("dosage", {}).items() if name not in ("rateQuantity", "rateRatio")}
    return {**dose, "dosage": kept}


def resumes(before: Resource | None, after: Resource | None) -> bool:
    """Tell whether a dose that was on hold, stopped, completed or not known to be given is put in progress again."""
    paused = GIVEN | {"on-hold", UNSURE}
    return (before or {}).get("status") in paused and (after or {}).get("status") == "in-progress"


def begins_ahead(start: datetime, now: datetime, policy: GatePolicy) -> list[Issue]:
    """Return the refusal of a dose in progress that begins in the future."""
    if start <= now + timedelta(minutes=policy.ahead.minutes):
        return []
    return [closed("G-TIME", f"it would begin at {zulu(start)}, which is still to come.", policy.ahead.source)]
