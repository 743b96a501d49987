"""Which of the doses on record are steps of an infusion: of the same drug as it, and together no more than it."""

from __future__ import annotations

from collections.abc import Iterable

from services.sessions.drugs import drug_at_worst
from services.sessions.rules.claims import COUNTED
from services.sessions.rules.infusions import in_order, may_be_step, parent_id, steps_of
from services.sessions.setting import Setting
from shared.fhir.json import Resource
from shared.fhir.kap import id_in
from shared.runtime.record import Record


async def whole_of(record: Record, dose: Resource, setting: Setting) -> Resource | None:
    """Return the infusion that a dose is a step of, None where it is a dose of its own.

    What it gives is held against what the other steps on record leave of the infusion.
    """
    named = parent_id(dose)
    parent = None if named is None else await record.get("MedicationAdministration", named)
    if parent is None or not may_be_step(dose, parent):
        return None
    others = await siblings_of(record, dose)
    found = await steps_among(record, [parent, *others], setting, last=dose)
    return parent if any(one is dose for one in found) else None


async def siblings_of(record: Record, dose: Resource) -> list[Resource]:
    """Return what else of the visit is part of the same MedicationAdministration as a dose, oldest first."""
    visit, named = id_in(dose.get("context"), "Encounter"), parent_id(dose)
    held = await record.search("MedicationAdministration", {"context": f"Encounter/{visit}"})
    return in_order(one for one in held if parent_id(one) == named and one["id"] != dose.get("id"))


async def steps_among(
    record: Record, held: Iterable[Resource], setting: Setting, *, last: Resource | None = None
) -> list[Resource]:
    """Return the steps of infusions among doses; `last`: one that is about to be written counts after the others."""
    others = [one for one in held if last is None or (one is not last and one.get("id") != last.get("id"))]
    ordered = [*in_order(others), *([] if last is None else [last])]
    by_id = {one["id"]: one for one in ordered if "id" in one}
    children: dict[str, list[Resource]] = {}
    for one in ordered:
        named = parent_id(one)
        parent = None if named is None else by_id.get(named)
        if named is None or parent is None or one.get("status") not in COUNTED or not may_be_step(one, parent):
            continue
        drug, _ = await drug_at_worst(record, one, setting)
        if drug is not None and drug == (await drug_at_worst(record, parent, setting))[0]:
            children.setdefault(named, []).append(one)
    return [step for named, of in children.items() for step in steps_of(by_id[named], of)]
