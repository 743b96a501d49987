"""Steps of an infusion: each change of rate, pause and stop is a child of its MedicationAdministration by `partOf`.

A step is no dose of its own. It never says that less is given in vain: pause, stop and a lower rate are only recorded.
More of the drug, or going on after a pause, is about to happen, and is judged as a start. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from services.sessions.rules.claims import COUNTED
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, milligrams_in, patient_of


def parent_id(dose: Resource) -> str | None:
    """Return the id of the MedicationAdministration that a dose says it is part of."""
    named = (id_in(one, "MedicationAdministration") for one in dose.get("partOf", []))
    return next((one for one in named if one is not None), None)


def is_step(dose: Resource, parent: Resource | None) -> bool:
    """Tell whether a dose is a step of `parent`: of the same patient and visit, and of no more of the drug than it."""
    if parent is None or parent_id(parent) is not None or parent.get("status") not in COUNTED:
        return False
    visits = [id_in(one.get("context"), "Encounter") for one in (dose, parent)]
    own = milligrams_in(dose.get("dosage", {}).get("dose"))
    whole = milligrams_in(parent.get("dosage", {}).get("dose"))
    says = "dose" in dose.get("dosage", {})
    within = not says or (own is not None and whole is not None and Decimal(0) <= own <= whole)
    return patient_of(dose) == patient_of(parent) and visits[0] == visits[1] and visits[0] is not None and within


def gives_more(step: Resource, parent: Resource, others: Iterable[Resource]) -> bool:
    """Tell whether a step gives the drug faster than it was given before, or again after a pause; not known: it may."""
    if step.get("status") != "in-progress":
        return False
    if parent.get("status") != "in-progress":
        return True
    rate = _rate(step)
    before = [_rate(one) for one in (parent, *others)]
    known = [one for one in before if one is not None and rate is not None and one[1] == rate[1]]
    return rate is None or not known or rate[0] > max(one[0] for one in known)


def _rate(dose: Resource) -> tuple[Decimal, str] | None:
    rate = dose.get("dosage", {}).get("rateQuantity", {})
    return (Decimal(str(rate["value"])), str(rate.get("code"))) if "value" in rate else None
