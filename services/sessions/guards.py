"""Sessions' guards: what belongs to a visit, a visit's states, the gate before a dose, and alarms with the reading."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from services.sessions.alarming import guard_reading, join_treatment
from services.sessions.calling import keep_flag, lower_flag
from services.sessions.deciding import guard_decision
from services.sessions.dose import ask_which, guard_dose
from services.sessions.events import guard_event
from services.sessions.feeding import end_silence, guard_silence
from services.sessions.ground import judge_again
from services.sessions.leaving import guard_leaving, judge_home
from services.sessions.ledger import guard_booking, keep_booking
from services.sessions.monitoring_form import fill_after_the_end, fill_at_the_end, note_submission, with_submission
from services.sessions.operations.summary import ask_for_amendment, keep_signed
from services.sessions.pace import ask_about_pace
from services.sessions.rules.readings import measures_anew
from services.sessions.rules.visits import OVER, TAKEN_BACK, is_of_another, may_become, with_history
from services.sessions.setting import Setting
from services.sessions.stamping import with_patient, with_stamps
from services.sessions.suicidality import guard_answers
from services.sessions.symptoms import guard_symptom
from services.sessions.taken_back import take_back
from services.sessions.therapy import guard_therapy
from services.sessions.times import guard_times
from services.sessions.watching import close_due, end_watch, keep_due, keep_watch, reopen_due
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, patient_of
from shared.fhir.outcome import Unprocessable
from shared.runtime.belonging import belongs_here
from shared.runtime.ownership import BY_ENCOUNTER
from shared.runtime.raising import is_own_work, keep_names
from shared.runtime.raising_risk import keep_flags
from shared.runtime.record import Record
from shared.runtime.service import Change, Completion, Guard


def guards(setting: Setting) -> Mapping[str, Sequence[Guard]]:
    """Return sessions' guards by type, under a policy."""

    async def dose(change: Change, record: Record) -> None:
        await guard_times(change, record, setting)
        await guard_dose(change, record, setting)
        await keep_watch(change, record, setting)
        await ask_which(change, record, setting)
        await ask_about_pace(change, record, setting)
        if change.after is not None:
            await judge_home(record, change.after, setting)
            await join_treatment(change, record, setting)
            await guard_booking(change, record, setting)
        await fill_after_the_end(change, record, setting)
        await ask_for_amendment(change, record, setting)

    async def dispense(change: Change, record: Record) -> None:
        await guard_booking(change, record, setting)

    async def reading(change: Change, record: Record) -> None:
        await take_back(change, record, setting)
        await guard_symptom(change, record, setting)
        await guard_reading(change, record, setting)
        await guard_silence(change, record, setting)
        before, after = change.before, change.after
        moved = before is not None and after is not None and _visit_named(before) != _visit_named(after)
        if after is not None and not is_own_work() and (moved or measures_anew(before, after)):
            await close_due(record, after, setting)
        if before is not None and (after is None or moved or measures_anew(after, before)):
            await reopen_due(record, before, after, setting)
        await judge_again(change, record, setting)
        await fill_after_the_end(change, record, setting)
        await ask_for_amendment(change, record, setting)

    async def answers(change: Change, record: Record) -> None:
        await judge_again(change, record, setting)
        await guard_answers(change, record, setting)

    async def event(change: Change, record: Record) -> None:
        await take_back(change, record, setting)
        await guard_symptom(change, record, setting)
        await guard_event(change, record, setting)
        await fill_after_the_end(change, record, setting)
        await ask_for_amendment(change, record, setting)

    async def procedure(change: Change, record: Record) -> None:
        await join_treatment(change, record, setting)
        await ask_for_amendment(change, record, setting)

    async def task(change: Change, record: Record) -> None:
        await keep_due(change)
        await keep_booking(change)
        await lower_flag(change, record, setting)
        await note_submission(change, record, setting)

    async def decision(change: Change, record: Record) -> None:
        await guard_decision(change, record, setting)

    async def visit(change: Change, record: Record) -> None:
        await _visit(change, record)
        await guard_leaving(change, record, setting)
        await guard_therapy(change, record, setting)
        await fill_at_the_end(change, record, setting)
        before, after = change.before or {}, change.after or {}
        if after.get("status") in OVER and before.get("status") not in OVER:
            await end_watch(record, change.id, str(after["status"]), setting)
            await end_silence(record, change.id, setting)

    ours = (belongs_here, of_the_visit_s_patient)
    return {
        **dict.fromkeys(BY_ENCOUNTER, ours),
        "MedicationAdministration": (belongs_here, dose),
        "Observation": (*ours, reading),
        "QuestionnaireResponse": (*ours, answers),
        "MedicationDispense": (*ours, dispense),
        "Procedure": (*ours, procedure),
        "AdverseEvent": (*ours, event),
        "Composition": (*ours, keep_signed),
        "DocumentReference": (*ours, keep_signed),
        "DetectedIssue": (decision,),
        "Encounter": (belongs_here, visit),
        "Task": (keep_names, setting.escalation.guard, task),
        "Flag": (keep_names, keep_flags, keep_flag),
        "Communication": (keep_names,),
    }


def completions(setting: Setting) -> Mapping[str, Completion]:
    """Return what sessions adds by itself: past statuses of a visit; whose and when a reading is; a form's sending."""

    async def visit(change: Change, record: Record) -> Resource | None:
        return None if change.after is None else with_history(change.before, change.after, setting.clock())

    async def reading(change: Change, record: Record) -> Resource | None:
        named = await with_patient(change, record)
        if named is None:
            return await with_stamps(change, record, setting)
        return await with_stamps(replace(change, after=named), record, setting) or named

    async def form(change: Change, record: Record) -> Resource | None:
        return with_submission(change)

    return {"Encounter": visit, "Observation": reading, "QuestionnaireResponse": form}


def _visit_named(reading: Resource) -> str | None:
    return id_in(reading.get("encounter"), "Encounter")


async def of_the_visit_s_patient(change: Change, record: Record) -> None:
    """Refuse what names one patient and the visit of another: it would count at the wrong bedside.

    A dose is recorded all the same: the gate holds it against its own patient (G-VISIT).
    """
    after = change.after
    if after is None or is_own_work():
        return
    context = after.get("context", {})
    named = after.get("encounter") or (context.get("encounter") if "encounter" in context else context)
    for one in named if isinstance(named, list) else [named]:
        visit = id_in(one, "Encounter")
        whose = None if visit is None else patient_of(await record.get("Encounter", visit) or {})
        if is_of_another(after, whose):
            raise Unprocessable(
                f"Encounter/{visit} is the visit of Patient/{whose}, and this {change.type} is about "
                f"Patient/{patient_of(after)}. Name the visit of the patient it is about: in a group each has an own.",
                code="business-rule",
                expression=[f"{change.type}.subject"],
                rule="V-SUBJECT",
                source="KAP Exchange",
            )


async def _visit(change: Change, record: Record) -> None:
    before, after = change.before, change.after
    if after is None:
        return
    if before is not None:
        back = (before["status"], after["status"]) in TAKEN_BACK and is_own_work()
        if not may_become(before["status"], after["status"]) and not back:
            how = " If it was finished by mistake, let it go on ($resume)." if before["status"] == "finished" else ""
            raise Unprocessable(
                f"A visit that is {before['status']} cannot become {after['status']}.{how}",
                expression=["Encounter.status"],
                rule="N-STATE",
                source="https://hl7.org/fhir/R4/valueset-encounter-status.html",
            )
        return
    for one in after.get("appointment", []):
        appointment = id_in(one, "Appointment")
        held = (
            []
            if appointment is None
            else await record.search("Encounter", {"appointment": f"Appointment/{appointment}"})
        )
        standing = [other for other in held if other["status"] != "entered-in-error"]
        if standing:
            raise Unprocessable(
                f"Encounter/{standing[0]['id']} is the visit of Appointment/{appointment} already. Update that one.",
                code="duplicate",
                expression=["Encounter.appointment"],
                rule="N-ONCE",
                source="KAP Exchange",
            )
