"""Whose hand a signature is: two signatures of the ledger are of two people, however they are referred to."""

from __future__ import annotations

from typing import Any

from services.sessions.rules.substances import RECORDS
from shared.fhir.kap import id_in
from shared.fhir.outcome import Unprocessable
from shared.runtime.record import Record


async def signed_by(record: Record, reference: dict[str, Any], place: str) -> str:
    """Return the ``Practitioner/id`` behind a Reference: his own, absolute, of a version, or to a role of his.

    Raises:
        Unprocessable: C-WITNESS, it names no Practitioner, or a PractitionerRole of which it is not known here whose.

    """
    person, role = id_in(reference, "Practitioner"), id_in(reference, "PractitionerRole")
    if role is not None:
        held = await record.get("PractitionerRole", role)
        person = id_in((held or {}).get("practitioner"), "Practitioner")
    if person is None:
        said = reference.get("reference", "")
        raise _refused(f"{place} '{said}' is no Practitioner, nor the PractitionerRole of one that is known here.")
    return f"Practitioner/{person}"


async def require_known(record: Record, witness: str) -> None:
    """Refuse a second signature of one whom nobody knows here.

    Raises:
        Unprocessable: C-WITNESS.

    """
    if await record.get("Practitioner", witness.partition("/")[2]) is None:
        raise _refused(f"{witness} is not known here. Register the Practitioner first, or have another witness sign.")


def _refused(what: str) -> Unprocessable:
    return Unprocessable(
        f"Not booked: {what}", code="business-rule", expression=["Parameters"], rule="C-WITNESS", source=RECORDS
    )
