"""The records of one person that `Patient/$merge` joined: what he denied in one is denied in all of them."""

from __future__ import annotations

from datetime import datetime

from shared.fhir.json import Resource
from shared.fhir.kap import consent_routes, denies, replaced_by, replaces
from shared.runtime.record import Record


async def joined_with(record: Record, patient: str) -> list[str]:
    """Return the logical ids of the other Patients that are the same person as one, however far they are joined."""
    same = [patient]
    for id_ in same:  # grows as it goes
        held = await record.get("Patient", id_) or {}
        named = [*replaces(held), *filter(None, [replaced_by(held)])]
        same.extend(one for one in dict.fromkeys(named) if one not in same)
    return same[1:]


async def denied_elsewhere(record: Record, patient: str, when: datetime) -> list[Resource]:
    """Return the treatment Consents in the same person's other records that deny a route at `when`.

    A permission in another record permits nothing in this one.
    """
    return [
        consent
        for other in await joined_with(record, patient)
        for consent in await record.search("Consent", {"patient": f"Patient/{other}"})
        if any(denies(consent, route, when) for route in consent_routes(consent))
    ]
