"""Which of the two gated drugs a MedicationAdministration is about, and what is taken for one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from services.sessions.setting import Setting
from shared.fhir.cited import is_coded
from shared.fhir.codes import NDC, RXNORM, SNOMED
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, drug_of, id_in
from shared.runtime.medications import is_named, substances_of
from shared.runtime.record import Record

DRUG_SYSTEMS: Final = (RXNORM, NDC, SNOMED)
"""Code systems that say which drug it is."""


async def gated_drug(record: Record, dose: Resource, setting: Setting) -> Drug | None:
    """Return the gated drug a MedicationAdministration is about; None for every other, rescue drugs among them."""
    drug = drug_of(await substances_of(record, dose), setting.sets)
    if drug is not None:
        return drug
    named = id_in(dose.get("request"), "MedicationRequest")
    order = None if named is None else await record.get("MedicationRequest", named)
    return None if order is None else drug_of(await substances_of(record, order), setting.sets)


async def drug_at_worst(record: Record, dose: Resource, setting: Setting) -> tuple[Drug | None, bool]:
    """Return the gated drug of a dose, and whether it is known: what cannot be named is taken for ketamine."""
    drug = await gated_drug(record, dose, setting)
    if drug is not None:
        return drug, True
    return (None, True) if is_named(await substances_of(record, dose), setting.sets) else ("ketamine", False)


def is_unheard_of(substances: Sequence[Resource], setting: Setting) -> bool:
    """Tell whether a medication says what it is only in words that no value set knows: it may be any drug."""
    if any(is_coded(one, DRUG_SYSTEMS) for one in substances):
        return False
    return not any(known.holds(one) for known in setting.sets.values() for one in substances)
