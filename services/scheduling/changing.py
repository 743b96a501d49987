"""`Appointment/[id]/$reschedule`, `$cancel`, `$check-in`, `$no-show`: what becomes of a booked visit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from services.scheduling.appointments import appointment_of, booked, require_status, written
from services.scheduling.booking import group_of, is_of_group
from services.scheduling.parameters import Given
from services.scheduling.rules.booking import INTENDED, REASONS_SYSTEM, name_of, roles_of, span_of
from services.scheduling.setting import Setting
from shared.fhir.codes import Code
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import id_in
from shared.fhir.outcome import Unprocessable
from shared.runtime.asking import wrongly_asked
from shared.runtime.raising import content_of
from shared.runtime.record import Record
from shared.runtime.service import OperationCall

REASONS: Final[Mapping[str, Code]] = {
    code: Code(REASONS_SYSTEM, code, display)
    for code, display in {
        "pat": "Patient",
        "pat-crs": "Patient: Canceled via automated reminder system",
        "pat-cpp": "Patient: Canceled via Patient Portal",
        "pat-dec": "Patient: Deceased",
        "pat-fb": "Patient: Feeling Better",
        "pat-lt": "Patient: Lack of Transportation",
        "pat-mt": "Patient: Member Terminated",
        "pat-mv": "Patient: Moved",
        "pat-preg": "Patient: Pregnant",
        "pat-swl": "Patient: Scheduled from Wait List",
        "pat-uwp": "Patient: Unhappy/Changed Provider",
        "prov": "Provider",
        "prov-pers": "Provider: Personal",
        "prov-dch": "Provider: Discharged",
        "prov-edu": "Provider: Edu/Meeting",
        "prov-hosp": "Provider: Hospitalized",
        "prov-labs": "Provider: Labs Out of Acceptable Range",
        "prov-mris": "Provider: MRI Screening Form Marked Do Not Proceed",
        "prov-onc": "Provider: Oncology Treatment Plan Changes",
        "maint": "Equipment Maintenance/Repair",
        "meds-inc": "Prep/Med Incomplete",
        "other": "Other",
        "oth-cms": "Other: CMS Therapy Cap Service Not Authorized",
        "oth-err": "Other: Error",
        "oth-fin": "Other: Financial",
        "oth-iv": "Other: Improper IV Access/Infiltrate IV",
        "oth-int": "Other: No Interpreter Available",
        "oth-mu": "Other: Prep/Med/Results Unavailable",
        "oth-room": "Other: Room/Resource Maintenance",
        "oth-oerr": "Other: Schedule Order Error",
        "oth-swie": "Other: Silent Walk In Error",
        "oth-weath": "Other: Weather",
    }.items()
}
"""http://terminology.hl7.org/CodeSystem/appointment-cancellation-reason, which FHIR binds `cancelationReason` to."""


async def reschedule(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Move a booked visit: the old time is free in the moment in which the new one is taken, or nothing changes."""
    given = Given(
        "reschedule",
        call.parameters,
        {"start": "time", "end": "time", "practitioner": "reference", "location": "reference", "comment": "text"},
        {"provider": "practitioner"},
    )
    current = await appointment_of(record, call.id)
    require_status(current, INTENDED, "reschedule")
    start, span = given.needed_time("start"), span_of(current)
    end = given.time("end") or (None if span is None else start + (span[1] - span[0]))
    if end is None or end <= start:
        raise wrongly_asked("The visit would end before it starts: give an end that is after the start.")
    moved = {**current, "start": zulu(start), "end": zulu(end)}
    for name in (*given.references("practitioner"), *given.references("location")):
        moved["participant"] = _instead(moved["participant"], name)
    if text := given.text("comment"):
        moved["comment"] = text
    group = await group_of(record, current) if "slot" in current else None
    if group is not None and not is_of_group(moved, group):  # he leaves the group
        kept = [one for one in moved["slot"] if id_in(one, "Slot") != group["id"]]
        moved = {**{key: value for key, value in moved.items() if key != "slot"}, **({"slot": kept} if kept else {})}
    return await written(record, content_of(moved))


def _instead(participants: list[Resource], name: str) -> list[Resource]:
    """Return the participants with `name` in the place of the one of its kind.

    Raises:
        BadRequest: there are several of its kind, so it is not clear whose place it takes.

    """
    kind = name.partition("/")[0]
    alike = [one for one in participants if (name_of(one.get("actor", {})) or "").startswith(f"{kind}/")]
    if any(name_of(one["actor"]) == name for one in alike):
        return participants
    if len(alike) != 1:
        roles = ", ".join(role for one in alike for role in roles_of(one))
        raise wrongly_asked(
            f"The visit has {len(alike)} participants of type {kind} ({roles}), and it is not said whose place {name} "
            "takes. Change the participants of the Appointment (PUT)."
        )
    taken = {**alike[0], "actor": {"reference": name}}
    return [taken if one is alike[0] else one for one in participants]


async def cancel(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Cancel a visit that has not begun, with a reason; its time is free."""
    given = Given("cancel", call.parameters, {"reason": "code", "comment": "text"})
    current = await appointment_of(record, call.id)
    require_status(current, (*INTENDED, "proposed", "waitlist"), "cancel")
    reason = given.code("reason")
    if reason is None or reason not in REASONS:
        raise wrongly_asked(
            f"A visit is cancelled with its reason: give the parameter reason, a code of {REASONS_SYSTEM}: "
            f"{', '.join(REASONS)}.",
            code="code-invalid",
        )
    text = given.text("comment")
    cancelled = {**current, "status": "cancelled", "cancelationReason": REASONS[reason].concept(text=text)}
    return await written(record, content_of(cancelled))


async def check_in(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Record that the patient is there."""
    Given("check-in", call.parameters, {})
    current = await appointment_of(record, call.id)
    require_status(current, ("booked", "arrived"), "check-in")
    return await written(record, content_of({**booked(current), "status": "checked-in"}))


async def no_show(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Record that the patient did not come; the time is free."""
    Given("no-show", call.parameters, {})
    current = await appointment_of(record, call.id)
    require_status(current, INTENDED, "no-show")
    start = span_of(current)
    if start is not None and start[0] > setting.clock():
        raise Unprocessable(
            f"The visit begins at {zulu(start[0])}: that nobody came is known afterwards. Wait until then; to "
            "free it now, $cancel it.",
            rule="S-STATUS",
            source="KAP Exchange",
            expression=["Appointment.status"],
            evidence=[f"Appointment/{current['id']}"],
        )
    return await written(record, content_of({**current, "status": "noshow"}))
