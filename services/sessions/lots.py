"""Lot and expiry of what was given: from the product that a dose names, else from what the ledger booked out for it."""

from __future__ import annotations

from datetime import date

from services.sessions.rules.amounts import strength_of
from services.sessions.rules.gate import Batch
from shared.fhir.codes import RXNORM
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of
from shared.runtime.medications import medication_of
from shared.runtime.record import Record
from shared.store.substances import Substances


async def batch_of(record: Record, dose: Resource) -> Batch:
    """Return the batch and strength that a dose's product says (a Medication, contained or held)."""
    named = str(dose.get("medicationReference", {}).get("reference", ""))
    if named.startswith("#"):
        inside = [one for one in dose.get("contained", []) if one.get("id") == named.removeprefix("#")]
        product: Resource | None = inside[0] if inside else None
    else:
        product = await record.get("Medication", named.rpartition("/")[2]) if named else None
    said = (product or {}).get("batch", {})
    expires = said.get("expirationDate")
    last = None if expires is None else interval(expires)[1].date()
    if last is not None and len(str(expires)) <= len("2026-01-01"):  # the end of a day, month or year is the next one's
        last = date.fromordinal(last.toordinal() - 1)
    codes = tuple(codes_of(await medication_of(record, dose), RXNORM))
    return Batch(said.get("lotNumber"), last, strength_of(product), codes)


async def lot_of(record: Record, dose: Resource) -> str | None:
    """Return the lots of a dose as people write them; None: neither its product nor the ledger says one."""
    said = (await batch_of(record, dose)).lot
    if said is not None:
        return said
    booked = await Substances(record.transaction).entries(administration=f"MedicationAdministration/{dose['id']}")
    lots = dict.fromkeys(one.entry.lot for one in booked)
    return ", ".join(lots) or None
