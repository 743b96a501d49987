"""Steps of an infusion: each change of rate, pause and stop is a child of its MedicationAdministration by `partOf`.

A step is no dose of its own. It never says that less is given in vain: pause, stop and a lower rate are only recorded.
More of the drug, or going on after a pause, is about to happen, and is judged as a start. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import Final

from services.sessions.rules.amounts import quantity_of
from services.sessions.rules.claims import COUNTED, may_be_faster, rate_of
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import effective_start, id_in, milligrams_in, patient_of

STILL: Final = frozenset(("on-hold", "stopped"))
"""Statuses of a step after which nothing runs."""


def parent_id(dose: Resource) -> str | None:
    """Return the id of the MedicationAdministration that a dose says it is part of."""
    named = (id_in(one, "MedicationAdministration") for one in dose.get("partOf", []))
    return next((one for one in named if one is not None), None)


def may_be_step(dose: Resource, parent: Resource | None) -> bool:
    """Tell whether a dose can be a step of `parent` whatever they are of: counted, of the same patient and visit."""
    if parent is None or parent_id(parent) is not None or parent.get("status") not in COUNTED:
        return False
    visits = [id_in(one.get("context"), "Encounter") for one in (dose, parent)]
    return patient_of(dose) == patient_of(parent) and visits[0] == visits[1] and visits[0] is not None


def steps_of(parent: Resource, children: Iterable[Resource]) -> list[Resource]:
    """Return the steps of an infusion among what says it is part of it and is of the same drug, oldest first.

    Together they are no more of the drug than the infusion: the child that exceeds it, or whose amount cannot be read,
    is a dose of its own; so is what runs after its end.
    """
    whole = milligrams_in(quantity_of(parent))
    sum_, found = Decimal(0), []
    for one in children:
        if runs_after(one, parent):
            continue
        own = milligrams_in(quantity_of(one)) if "dose" in one.get("dosage", {}) else Decimal(0)
        if own is None or own < 0 or (own > 0 and (whole is None or sum_ + own > whole)):
            continue
        sum_ += own
        found.append(one)
    return found


def in_order(doses: Iterable[Resource]) -> list[Resource]:
    """Return doses by the time at which they began, then by when they were written."""
    return sorted(doses, key=lambda one: (_began(one), str(one.get("meta", {}).get("lastUpdated", ""))))


def gives_more(step: Resource, parent: Resource, others: Iterable[Resource]) -> bool:
    """Tell whether a step gives the drug faster than the step before it, at once, or again after a pause.

    What is not known may be so.

    `others`: the other steps, and the step itself as it was before a change of it.
    """
    rate = rate_of(step)
    if step.get("status") == "completed" and rate is None:
        return "dose" in step.get("dosage", {})  # a bolus
    if step.get("status") not in ("in-progress", "completed"):
        return False
    if parent.get("status") != "in-progress" and (step.get("status") == "in-progress" or runs_after(step, parent)):
        return True
    before = _before(step, parent, others)
    if rate is None or before.get("status") in STILL or rate_of(before) is None:
        return rate is None or rate[0] > 0
    return may_be_faster(before, step)


def may_be_slower(step: Resource, parent: Resource, others: Iterable[Resource]) -> bool:
    """Tell whether a step of an infusion that runs says how fast it goes on, and nobody said how fast it went before.

    `others`: as of `gives_more`.
    """
    before = _before(step, parent, others)
    runs = step.get("status") == parent.get("status") == "in-progress" and before.get("status") not in STILL
    return runs and rate_of(step) is not None and rate_of(before) is None and not runs_after(step, parent)


def _before(step: Resource, parent: Resource, others: Iterable[Resource]) -> Resource:
    """Return what says how fast an infusion went before a step: the step before it, else the infusion."""
    earlier = [one for one in others if _began(one) <= _began(step) and _sets_the_rate(one)]
    return in_order(earlier)[-1] if earlier else parent


def runs_after(step: Resource, parent: Resource) -> bool:
    """Tell whether a step runs, or gives anything, from the end of its infusion on: what follows it is another run."""
    end = parent.get("effectivePeriod", {}).get("end")
    began = effective_start(step)
    if end is None or began is None or step.get("status") not in ("in-progress", "completed"):
        return False
    rate = rate_of(step)
    runs = "dose" in step.get("dosage", {}) if rate is None else rate[0] > 0
    return runs and began >= interval(end)[0]


def _began(dose: Resource) -> str:
    start = effective_start(dose)
    return "" if start is None else zulu(start)


def _sets_the_rate(step: Resource) -> bool:
    """Tell whether a step says how fast it goes on after it; one that is over and names no rate was a bolus."""
    return step.get("status") in COUNTED and (step.get("status") != "completed" or rate_of(step) is not None)
