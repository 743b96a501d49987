"""What was given in a visit: its doses of ketamine and esketamine, as the rules of watching and leaving need them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from services.sessions.drugs import drug_at_worst
from services.sessions.rules.claims import COUNTED, latest_start
from services.sessions.rules.infusions import parent_id
from services.sessions.setting import Setting
from services.sessions.steps import steps_among
from shared.fhir.codes import SNOMED
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, codes_of, effective_start
from shared.runtime.record import Record


@dataclass(frozen=True, slots=True)
class Given:
    """A dose: the MedicationAdministration, its drug, route (SNOMED CT), start, and end (None: it goes on).

    A step of an infusion that was recorded after its end moves the end.
    """

    resource: Resource
    drug: Drug
    route: str | None
    start: datetime | None
    end: datetime | None


async def doses_of(record: Record, visit: str, setting: Setting, new: Resource | None = None) -> list[Given]:
    """Return the doses of ketamine and esketamine of a visit, oldest first; one nobody can name counts as ketamine.

    Steps of an infusion are no doses. `new`: a dose that is about to be written, in the place of the one with its id.
    """
    found = []
    held = await record.search("MedicationAdministration", {"context": f"Encounter/{visit}"})
    if new is not None:
        held = [*(one for one in held if one["id"] != new.get("id")), new]
    counted = [one for one in held if one["status"] in COUNTED]
    steps = await steps_among(record, held, setting, last=new)
    for one in counted:
        if one in steps:
            continue
        drug, _ = await drug_at_worst(record, one, setting)
        if drug is None:
            continue
        routes = codes_of(one.get("dosage", {}).get("route"), SNOMED)
        start = latest_start(one, setting.clock())
        end = _end(one, start)
        start = start or end  # one that says only when it ended began by then at the latest
        if end is not None:
            own = [step for step in steps if parent_id(step) == one.get("id")]
            end = max([end, *(last for step in own if (last := _end(step, effective_start(step))) is not None)])
        found.append(Given(one, drug, routes[0] if routes else None, start, end))
    return sorted(found, key=lambda one: str(one.start))


def _end(dose: Resource, start: datetime | None) -> datetime | None:
    said = dose.get("effectivePeriod", {}).get("end")
    if said is not None:
        return interval(said)[0]
    return start if dose["status"] in ("completed", "stopped") else None
