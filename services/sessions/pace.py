"""A rate that can hardly be is asked about: it stays as it is charted, and a person looks at it."""

from __future__ import annotations

from services.sessions.calling import Finding, have_reviewed
from services.sessions.drugs import gated_drug
from services.sessions.rules.claims import COUNTED
from services.sessions.rules.infusions import parent_id
from services.sessions.rules.pace import against_pace
from services.sessions.setting import Setting
from services.sessions.steps import whole_of
from shared.fhir.codes import DOSE_IMPLAUSIBLE, ID_TASK
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, patient_of
from shared.fhir.raised import identifier
from shared.runtime.raising import close_task
from shared.runtime.record import Record
from shared.runtime.service import Change


async def ask_about_pace(change: Change, record: Record, setting: Setting) -> None:
    """Ask about a dose of ketamine that is in too soon, or ran longer than its amount; and no more where it is not."""
    after = change.after
    patient = None if after is None else patient_of(after)
    if after is None or patient is None:
        return
    found = await _found({**after, "id": change.id}, record, setting)
    told = [] if change.before is None else await _found(change.before, record, setting)
    name = ("dose", change.id, "pace")
    if not found and told:
        await close_task(record, identifier(ID_TASK, *name), setting.clock(), why="It says another rate now.")
    if not found or found == told:
        return
    text = (
        f"Is this a slip? A dose is charted so that {'; '.join(found)}. See to it; correct it, or say that it stands."
    )
    about, visit = (f"MedicationAdministration/{change.id}",), id_in(after.get("context"), "Encounter")
    await have_reviewed(record, Finding(name, patient, DOSE_IMPLAUSIBLE, text, about, visit=visit), setting, again=True)


async def _found(dose: Resource, record: Record, setting: Setting) -> list[str]:
    if dose.get("status") not in COUNTED or not {"rateQuantity", "rateRatio"} & dose.get("dosage", {}).keys():
        return []
    if await gated_drug(record, dose, setting) is None:
        return []
    whole = await whole_of(record, dose, setting) if parent_id(dose) is not None else dose
    if whole is None:
        return []
    steps = await record.search("MedicationAdministration", {"context": str(dose.get("context", {}).get("reference"))})
    alone = whole is dose and not any(parent_id(one) == dose["id"] for one in steps)
    return list(against_pace(dose, whole, setting.dosing, alone=alone))
