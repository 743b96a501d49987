"""Leaving at work: who goes home after a dose is judged, who leaves against advice is recorded and called after."""

from __future__ import annotations

from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

from services.sessions.calling import Finding, call, have_reviewed, withdraw
from services.sessions.gathering import answers_of, flags_up
from services.sessions.rules.claims import LIVE
from services.sessions.rules.leaving import (
    AGAINST_ADVICE,
    DIED,
    Leaving,
    against_going_home,
    baseline_of,
    disposition_of,
    goes_home,
    in_other_hands,
    integration_booked,
    too_early,
)
from services.sessions.rules.monitoring import cadence_of, stays_until
from services.sessions.rules.readings import readings_of
from services.sessions.rules.visits import COMING, OVER, VIRTUAL_CLASS, reckoned
from services.sessions.setting import Setting
from services.sessions.what_was_given import Given, doses_of
from shared.fhir.codes import (
    BACK_WITHIN,
    BOOK_INTEGRATION,
    CHECK_IN,
    COMPLETE_VISIT,
    DISCHARGE_QUESTIONNAIRE,
    HANDED_OVER_EARLY,
    LEFT_AGAINST_ADVICE,
    LEFT_TOO_EARLY,
    NOT_DISCHARGED,
    PRE_DOSE_QUESTIONNAIRE,
    SUSTAINED_PRESSURE,
    SYMPTOM_ALARM,
    VISIT_DOSING,
    VISIT_INTEGRATION,
    VITAL_ALARM,
    Code,
)
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import effective_start, has_died, id_in, moment, patient_of, visit_of
from shared.fhir.outcome import Gone, NotFound, Unprocessable
from shared.fhir.raised import task
from shared.runtime.raising import OPEN_TASK, close_task, find, is_own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change
from shared.store.access import Access

ALARMS: Final = ",".join(one.token() for one in (VITAL_ALARM, SUSTAINED_PRESSURE, SYMPTOM_ALARM))
BOOKED: Final = "It is booked now."
"""Why the Task to book an integration session was ended by its booking."""
CALLED: Final = (LEFT_AGAINST_ADVICE, LEFT_TOO_EARLY)
"""Ways of leaving that call a person at once."""


async def guard_leaving(change: Change, record: Record, setting: Setting) -> None:
    """Refuse the disposition home before its conditions hold; raise what follows from another way of leaving.

    A visit that ends before the least stay calls a person, whatever it says, but for two: who left against advice is
    called after already, and a patient who was handed over is watched by others, so that a person sees to it that they
    know of the dose.
    """
    before, after = change.before, change.after
    await _keep_with_its_doses(change, record, setting)
    if after is None:
        return
    if after["status"] == "finished" and (before or {}).get("status") not in OVER:
        await _look_for_integration({**after, "id": change.id}, record, setting, again=True)
    says, said = disposition_of(after), disposition_of(before)
    ended = after.get("period", {}).get("end") != (before or {}).get("period", {}).get("end")
    home = goes_home(says, setting.discharge)
    ends = after["status"] in OVER and (before or {}).get("status") not in OVER
    over = after["status"] in OVER and (ended or ends)
    if over and not home and says != AGAINST_ADVICE:
        await _call_after_early(after, record, setting, "The visit ended before the least stay after a dose.")
    if home and (said != says or ended or ends):
        leaving = await leaving_of(after, record, setting)
        issues = [] if leaving is None else against_going_home(leaving, setting.discharge, setting.alarms)
        if issues:
            raise Unprocessable(issues)
    elif says == AGAINST_ADVICE and said != AGAINST_ADVICE:
        await _raise(record, after, setting, LEFT_AGAINST_ADVICE, "L-AGAINST", _against(after))
    elif says is None and after["status"] == "finished" and (before or {}).get("status") not in OVER:
        await _ask_how(after, record, setting)


async def stays_after_all(record: Record, visit: Resource, why: str, setting: Setting) -> None:
    """Take back what was raised because a patient left, who has not; the next end of the visit raises it anew."""
    id_, now = str(visit["id"]), setting.clock()
    for rule in ("L-STAY", "L-AGAINST", "L-HANDOVER", "L-UNKNOWN"):
        await withdraw(record, f"left:{id_}:{rule}", why, setting)
    codes = ",".join(one.token() for one in (BOOK_INTEGRATION, CHECK_IN, COMPLETE_VISIT))
    for one in await record.search("Task", {"encounter": f"Encounter/{id_}", "code": codes}):
        await close_task(record, one["identifier"][0], now, status="cancelled", why=why)


async def judge_home(record: Record, dose: Resource, setting: Setting) -> None:
    """Raise what follows where a dose is recorded in a visit that the patient left for home before its least stay.

    The dose is recorded whatever the visit says: it was given. `dose` is about to be written, or was.
    """
    id_ = id_in(dose.get("context"), "Encounter")
    visit = None if id_ is None else await record.get("Encounter", id_)
    says = disposition_of(visit)
    if visit is None or says == AGAINST_ADVICE:
        return
    if visit["status"] in OVER or goes_home(says, setting.discharge):
        text = "The visit says that the patient left, and a dose recorded in it says that this was too early."
        await _call_after_early(visit, record, setting, text, dose)


async def _call_after_early(
    visit: Resource, record: Record, setting: Setting, what: str, new: Resource | None = None
) -> None:
    leaving = await leaving_of(visit, record, setting, new)
    early = {} if leaving is None else too_early(leaving)
    if not early:
        return
    why = " ".join(f"{one[0].upper()}{one[1:]}" for one in early.values())
    if in_other_hands(disposition_of(visit), setting.discharge):
        text = "The patient was handed over before the least stay after a dose. Tell those who watch now of the dose."
        await _raise(record, visit, setting, HANDED_OVER_EARLY, "L-HANDOVER", f"{text} {why}")
    else:
        text = f"{what} Reach the patient and who is with him now. {why}"
        await _raise(record, visit, setting, LEFT_TOO_EARLY, "L-STAY", text)


async def _keep_with_its_doses(change: Change, record: Record, setting: Setting) -> None:
    """Refuse to delete or withdraw a visit in which doses were recorded: nobody would be watched after them."""
    before, after = change.before, change.after
    withdrawn = after is None or after["status"] == "entered-in-error"
    if before is None or not withdrawn or before["status"] == "entered-in-error" or is_own_work():
        return
    doses = [f"MedicationAdministration/{one.resource['id']}" for one in await doses_of(record, change.id, setting)]
    if doses:
        raise Unprocessable(
            f"Doses of ketamine were recorded in this visit: {', '.join(doses)}. Finish it ($discharge); or, if they "
            "are wrong, mark them entered-in-error first.",
            code="business-rule",
            expression=["Encounter.status"],
            rule="D-KEEP",
            source="21 CFR 1304.21: a complete record of each substance administered",
        )


async def _ask_how(visit: Resource, record: Record, setting: Setting) -> None:
    if await leaving_of(visit, record, setting) is not None:
        text = "The visit ended after a dose, and how the patient left is not recorded. Find out, and record it."
        await _raise(record, visit, setting, NOT_DISCHARGED, "L-UNKNOWN", text)


def _against(visit: Resource) -> str:
    witnesses = [
        one
        for one in visit.get("participant", [])
        if any(coding.get("code") == "WIT" for kind in one.get("type", []) for coding in kind.get("coding", []))
    ]
    seen = "" if witnesses else " Nobody is named as witness: name one (participant of type WIT)."
    tried = visit.get("hospitalization", {}).get("dischargeDisposition", {}).get("text")
    said = f" Tried: {tried}" if tried else " What was tried is not said (attempt of $discharge)."
    return f"The patient left against advice. Reach the patient and the escort now.{said}{seen}"


async def _look_for_integration(visit: Resource, record: Record, setting: Setting, *, again: bool) -> None:
    """Have the integration session booked where after a dose none is, in the time in which it is to be.

    What was asked, and ended with a booking that is off now, is asked again; what a person ended is, where the visit
    has ended `again`.
    """
    leaving = await leaving_of(visit, record, setting)
    patient = patient_of(visit)
    if leaving is None or patient is None or disposition_of(visit) == DIED:
        return
    if has_died(await record.get("Patient", patient) or {}):
        return
    booked = [
        one
        for one in await record.search("Appointment", {"patient": f"Patient/{patient}"})
        if one["status"] in (*COMING, "fulfilled") and visit_of(one) == VISIT_INTEGRATION.code and "start" in one
    ]
    if integration_booked(leaving.when, [moment(one["start"]) for one in booked], setting.discharge.integration):
        return
    limits = setting.discharge.integration
    text = f"No integration session is booked {limits.earliest} to {limits.latest} hours after the dose. Book it now."
    id_ = str(visit["id"])
    asked = task(
        ("integration", id_),
        patient=patient,
        code=BOOK_INTEGRATION,
        description=text,
        now=setting.clock(),
        priority="urgent",
        focus=f"Encounter/{id_}",
        encounter=id_,
        due=leaving.when + timedelta(hours=limits.earliest),
    )
    held = await find(record, "Task", asked["identifier"][0])
    was_booked = (held or {}).get("statusReason", {}).get("text") == BOOKED
    await raise_once(record, asked, reopen=again or was_booked)


async def integration_is_off(appointment: Resource, record: Record, setting: Setting) -> None:
    """Look again at the visits after which a patient is to have integration: a session for it may have fallen away."""
    patient, now = patient_of(appointment), setting.clock()
    if patient is None or visit_of(appointment) != VISIT_INTEGRATION.code:
        return
    since = now - timedelta(hours=setting.discharge.integration.latest)
    about = {"patient": f"Patient/{patient}", "status": "finished", "type": VISIT_DOSING.token()}
    for visit in await record.search("Encounter", {**about, "date": f"ge{zulu(since)}"}):
        end = visit.get("period", {}).get("end")
        if end is not None and moment(end) >= since:
            await _look_for_integration(visit, record, setting, again=False)


async def integration_is_booked(appointment: Resource, record: Record, setting: Setting) -> None:
    """Close the Task to book the integration session with an Appointment for one in its time."""
    patient = patient_of(appointment)
    if patient is None or appointment["status"] not in COMING or visit_of(appointment) != VISIT_INTEGRATION.code:
        return
    limits = setting.discharge.integration
    named = {"patient": f"Patient/{patient}", "code": BOOK_INTEGRATION.token()}
    for task_ in await record.search("Task", named):
        left = moment(task_["restriction"]["period"]["end"]) - timedelta(hours=limits.earliest)
        if integration_booked(left, [moment(appointment.get("start"))], limits):
            await close_task(record, task_["identifier"][0], setting.clock(), why=BOOKED)


async def leaving_of(visit: Resource, record: Record, setting: Setting, new: Resource | None = None) -> Leaving | None:
    """Return what is known where a patient leaves a visit; None where no ketamine was given in it.

    `new`: a dose that is about to be written. A visit that does not say its end ended when it said that he left.
    """
    now = setting.clock()
    end = visit.get("period", {}).get("end")
    if end is None and new is not None:
        end = visit.get("meta", {}).get("lastUpdated")
    when = now if end is None else reckoned(interval(end)[0], now)
    given = await doses_of(record, visit["id"], setting, new)
    if not given:
        return None
    starts = [await _believed(record, one, setting) or when for one in given]
    first = min(starts)
    until: datetime | None = first
    home = visit.get("class", {}).get("code") == VIRTUAL_CLASS.code
    for one, start in zip(given, starts, strict=True):
        cadence = cadence_of(one.drug, one.route, setting.monitoring, home=home)
        over = stays_until(first, [one.end], cadence, start)
        until = None if over is None or until is None else max(until, over)
    found = await record.search("Observation", {"encounter": f"Encounter/{visit['id']}"})
    before = await answers_of(record, visit["id"], PRE_DOSE_QUESTIONNAIRE, None, first)
    whose = (patient_of(visit), None)
    return Leaving(
        when=when,
        now=now,
        until=until,
        asked=await answers_of(record, visit["id"], DISCHARGE_QUESTIONNAIRE, None, when, by_staff=True),
        readings=[reading for one in found if patient_of(one) in whose for reading in readings_of(one)],
        first=first,
        alarms=[] if new is not None else await _open_alarms(record, visit),
        baseline=baseline_of(before, setting.discharge.aldrete),
        flags=await flags_up(record, patient_of(visit), when, setting),
    )


async def _believed(record: Record, dose: Given, setting: Setting) -> datetime | None:
    """Return when a dose began, as the least stay counts it: one that was started here is not moved before that.

    It was judged as about to be given; said afterwards to have been given long before, it does not shorten the stay.
    """
    with suppress(NotFound, Gone):
        whole, id_ = Access.unrestricted(record.access.tenant), str(dose.resource.get("id"))
        first = parse((await record.transaction.read_version(whole, "MedicationAdministration", id_, 1)).body)
        said = effective_start(first)
        if first["status"] in LIVE and said is not None and dose.start is not None:
            return max(dose.start, said - timedelta(minutes=setting.gate.live.minutes))
    return dose.start


async def _open_alarms(record: Record, visit: Resource) -> list[str]:
    """Return the Tasks of a visit's alarms that no person and no reading within the limits has ended."""
    about = {"encounter": f"Encounter/{visit['id']}", "code": ALARMS, "status": ",".join(sorted(OPEN_TASK))}
    found = await record.search("Task", {**about, "business-status:not": BACK_WITHIN.token()})
    return [f"Task/{one['id']}" for one in found]


async def _raise(record: Record, visit: Resource, setting: Setting, code: Code, rule: str, text: str) -> None:
    patient = patient_of(visit)
    if patient is None:
        return
    id_ = str(visit["id"])
    finding = Finding(("left", id_, rule), patient, code, text, (f"Encounter/{id_}",), (rule,), id_)
    await (call if code in CALLED else have_reviewed)(record, finding, setting)
