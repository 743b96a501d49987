"""What comes from elsewhere is history: a dose that is being given now is none, and has its gate at the bedside."""

from __future__ import annotations

from typing import Final

from services.intake.setting import Setting
from shared.fhir.json import Resource
from shared.fhir.kap import comes_from_elsewhere, drug_of
from shared.fhir.outcome import Unprocessable
from shared.runtime.medications import substances_of
from shared.runtime.raising import is_own_work
from shared.runtime.record import Record
from shared.runtime.service import Change

_GOES_ON: Final = frozenset(("in-progress", "on-hold"))


async def guard_history(change: Change, record: Record, setting: Setting) -> None:
    """Refuse ketamine, esketamine or a drug without a name that is given now and said to be history from elsewhere.

    What was given there is always recorded: completed, or stopped.

    Raises:
        Unprocessable: it goes on, so that it would be given without gate, watch and alarms.

    """
    after = change.after
    if after is None or is_own_work() or after.get("status") not in _GOES_ON or not comes_from_elsewhere(after):
        return
    if await _may_be_ketamine(after, record, setting):
        raise Unprocessable(
            f"This dose is {after['status']}, and meta.source says that it comes from elsewhere: what is given now is "
            "no history. Start it in its visit ($start-dose), where its gate and alarms are, without meta.source; what "
            "another house gives is recorded here when it is over (status completed or stopped).",
            code="business-rule",
            expression=["MedicationAdministration.status"],
            rule="M-HISTORY",
            source="KAP Exchange",
            evidence=[f"MedicationAdministration/{change.id}"],
        )


async def _may_be_ketamine(dose: Resource, record: Record, setting: Setting) -> bool:
    substances = await substances_of(record, dose)
    named = (one.get("text") or one.get("coding") for one in substances)
    return drug_of(substances, setting.sets) is not None or not any(named)
