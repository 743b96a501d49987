"""Which of the two gated drugs a MedicationAdministration is about, and what is taken for one."""

from __future__ import annotations

from services.sessions.setting import Setting
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, drug_of, id_in
from shared.runtime.medications import medication_of
from shared.runtime.record import Record


async def gated_drug(record: Record, dose: Resource, setting: Setting) -> Drug | None:
    """Return the gated drug a MedicationAdministration is about; None for every other, rescue drugs among them."""
    drug = drug_of(await medication_of(record, dose), setting.sets)
    if drug is not None:
        return drug
    named = id_in(dose.get("request"), "MedicationRequest")
    order = None if named is None else await record.get("MedicationRequest", named)
    return None if order is None else drug_of(await medication_of(record, order), setting.sets)


async def drug_at_worst(record: Record, dose: Resource, setting: Setting) -> tuple[Drug | None, bool]:
    """Return the gated drug of a dose, and whether it is known: what cannot be named is taken for ketamine."""
    drug = await gated_drug(record, dose, setting)
    if drug is not None:
        return drug, True
    return (None, True) if is_named(await medication_of(record, dose), setting) else ("ketamine", False)


def is_named(medication: Resource | None, setting: Setting) -> bool:
    """Tell whether a medication says what it is: in words, or by a code that the clinic's value sets know."""
    if medication is None:
        return False
    said = [medication.get("text"), *(coding.get("display") for coding in medication.get("coding", []))]
    return any(said) or any(known.holds(medication) for known in setting.sets.values())
