"""Watching at work: what is due at a bedside is a Task, closed by readings and missed by the clock."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from typing import Final

from services.sessions.calling import Finding, call, have_reviewed, keep_by_hand
from services.sessions.charted import charted_between
from services.sessions.rules.alarms import alarm_texts
from services.sessions.rules.claims import COUNTED
from services.sessions.rules.infusions import parent_id
from services.sessions.rules.monitoring import (
    Cadence,
    Due,
    cadence_of,
    covers,
    is_missed,
    is_needed,
    minutes_from,
    next_due,
    planned,
    serves,
)
from services.sessions.rules.readings import readings_of, taken_at
from services.sessions.rules.visits import OVER, VIRTUAL_CLASS
from services.sessions.setting import Setting
from services.sessions.stamping import restamp
from services.sessions.standing import issue_of
from services.sessions.what_was_given import Given, doses_of
from shared.fhir.codes import DUE_AFTER_ALARM, DUE_AT_BEDSIDE, ID_TASK, KAP, RATING_MISSED, VITALS_MISSED, Code
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, effective_start, id_in, moment, patient_of
from shared.fhir.raised import identifier, task
from shared.runtime.escalation import is_acknowledged
from shared.runtime.raising import OPEN_TASK, close_task, content_of, find, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change
from shared.runtime.timers import Round, Timer

EVERY = timedelta(seconds=15)
"""How often the clock is looked at: a missed reading is flagged within a minute."""

_CODES: Final = {one.code: one for one in DUE_AT_BEDSIDE}
_TOKENS: Final = ",".join(one.token() for one in DUE_AT_BEDSIDE)
_AGAIN: Final = frozenset(one.code for one in DUE_AFTER_ALARM)
_OPEN: Final = ",".join(sorted(OPEN_TASK))
NAMED: Final = ("CodeableConcept", "Reference")
_SECOND: Final = timedelta(seconds=1)
_TIMES: Final = ("executionPeriod", "restriction", "lastModified")


async def keep_watch(change: Change, record: Record, setting: Setting) -> None:
    """Bring what is due in a visit, and the minutes of its readings, to the doses that stand in it after a change.

    `change`: of a MedicationAdministration, about to be written.
    """
    shapes = [_shape(one) for one in (change.before, change.after)]
    if change.after is None or shapes[0] == shapes[1]:
        return
    for id_ in dict.fromkeys(shape[0] for shape in shapes if shape is not None and shape[0] is not None):
        visit = await record.get("Encounter", id_)
        if visit is None or patient_of(visit) != patient_of(change.after):
            continue
        stands = change.after if id_in(change.after.get("context"), "Encounter") == id_ else None
        held = await doses_of(record, id_, setting, stands)
        doses = [one for one in held if stands is not None or one.resource["id"] != change.id]
        await _plan(record, visit, doses, setting)


def _shape(dose: Resource | None) -> tuple[str | None, ...] | None:
    """Return what of a dose moves what is due: where, when and how it was given; None: it counts for nothing."""
    if dose is None or dose.get("status") not in COUNTED:
        return None
    elements = (dose.get("dosage", {}).get("route"), *(dose.get(f"medication{name}") for name in NAMED))
    visit = id_in(dose.get("context"), "Encounter")
    return visit, str(effective_start(dose)), parent_id(dose), *(str(one) for one in elements)


async def _plan(record: Record, visit: Resource, doses: Sequence[Given], setting: Setting) -> None:
    """Set the Tasks for what is due after the doses of a visit, move those whose time is another, cancel the rest."""
    now, policy, id_ = setting.clock(), setting.monitoring, str(visit["id"])
    found = await record.search("Task", {"encounter": f"Encounter/{id_}", "code": _TOKENS})
    held = {one["identifier"][0]["value"]: one for one in found if _AGAIN.isdisjoint(codes_of(one["code"], KAP))}
    timed = [(one.start or now, _cadence(one, visit, setting)) for one in doses]
    plan = planned(timed, policy)
    names: set[str] = set()
    passed: dict[str, Resource] = {}
    ended: list[Resource] = []
    for due in plan:
        made = _due_task(id_, str(patient_of(visit)), due, setting)
        name = made["identifier"][0]["value"]
        names.add(name)
        was = held.get(name)
        stands = was is not None and was["status"] != "cancelled"
        passed.pop(due.what, None)
        if visit["status"] in OVER or (
            stands and was is not None and was["executionPeriod"]["start"] == zulu(due.when)
        ):
            continue
        if is_missed(due.when, now, policy):
            if was is not None and was["status"] in OPEN_TASK:
                if _is_missed(was, now, setting):  # it is missed at its new time, too: who was called for it stays so
                    with own_work():
                        await record.update(content_of({**was, **{name: made[name] for name in _TIMES}}))
                else:
                    ended.append(was)
            if was is None or was["status"] != "completed":
                passed[due.what] = made
        elif was is None:
            await raise_once(record, made)
        else:
            with own_work():
                await record.update({**made, "id": was["id"]})
    last = {due.what: due.when for due in plan}
    for name, one in held.items():
        end = last.get(codes_of(one["code"], KAP)[0])
        if name not in names and (end is None or moment(one["executionPeriod"]["start"]) <= end):
            ended.append(one)
    await _cancel(record, ended, now, "The time of a dose was corrected." if plan else "No dose stands in this visit.")
    # A dose that is recorded a while after it began may have its first readings already.
    for one in await _open_due(record, id_, until=now + timedelta(minutes=policy.before.minutes)):
        await _close_where_covered(record, one, id_, setting, doses=doses)
    for made in passed.values():
        await _go_on(record, made, setting, doses)
    for one in ended:
        await _call_for_the_rest(record, one, setting)
    await restamp(record, id_, min((start for start, _ in timed), default=None), setting)


def _cadence(dose: Given, visit: Resource, setting: Setting) -> Cadence:
    home = visit.get("class", {}).get("code") == VIRTUAL_CLASS.code
    return cadence_of(dose.drug, dose.route, setting.monitoring, home=home)


def _due_task(visit: str, patient: str, due: Due, setting: Setting) -> Resource:
    policy = setting.monitoring
    made = task(
        ("due", visit, due.what, str(due.minute)),
        patient=patient,
        code=_CODES[due.what],
        description=f"{policy.due[due.what].title}: {due.minute} minutes after the first dose.",
        now=setting.clock(),
        priority="asap",
        encounter=visit,
        due=due.when + timedelta(minutes=policy.grace.minutes),
    )
    return {**made, "executionPeriod": {"start": zulu(due.when)}}


async def _go_on(record: Record, done: Resource, setting: Setting, doses: Sequence[Given] | None = None) -> None:
    """Set the next of what is due every so often until the patient has left, where `done` was the last of it."""
    id_, what = id_in(done.get("encounter"), "Encounter"), codes_of(done["code"], KAP)[0]
    visit = None if id_ is None else await record.get("Encounter", id_)
    if visit is None or visit["status"] in OVER or what in _AGAIN:
        return
    start = moment(done["executionPeriod"]["start"])
    about = [("encounter", f"Encounter/{visit['id']}"), ("code", _CODES[what].token())]
    later = await record.search("Task", [*about, ("period", f"gt{zulu(start)}")])
    if any(moment(one["executionPeriod"]["start"]) > start and one["status"] != "cancelled" for one in later):
        return
    given = await doses_of(record, visit["id"], setting) if doses is None else doses
    starts = [one.start for one in given if one.start is not None]
    every = _cadence(given[-1], visit, setting).then.get(what) if given else None
    if every is None or not starts:
        return
    when = next_due(start, every, setting.clock(), setting.monitoring)
    if when <= min(starts) + timedelta(hours=setting.monitoring.longest.hours):
        due = Due(what, minutes_from(min(starts), when), when)
        await raise_once(record, _due_task(visit["id"], str(patient_of(visit)), due, setting), reopen=True)


def repeats_of(setting: Setting) -> dict[Code, frozenset[str]]:
    """Return what is measured again after an alarm, and the rules whose alarms it is for: those that look at it."""
    wanted = setting.monitoring.due
    needs = {
        one: {code for any_ in wanted[one.code].needs for code in any_} for one in DUE_AFTER_ALARM if one.code in wanted
    }
    limits = setting.alarms.limits.values()
    return {
        one: frozenset(limit.rule for limit in limits if codes.intersection(limit.codes))
        for one, codes in needs.items()
    }


async def measure_again(
    record: Record, what: Code, visit: str, patient: str, reading: str, taken: datetime, due: datetime, setting: Setting
) -> None:
    """Set the Task for what was beyond a limit to be measured again at `due`; only what is taken after `taken` counts.

    Not in a visit that is over: nobody is there any more.
    """
    policy, where = setting.monitoring, await record.get("Encounter", visit)
    if where is not None and where["status"] in OVER:
        return
    made = task(
        ("due", visit, what.code, reading),
        patient=patient,
        code=what,
        description=f"{policy.due[what.code].title}: it was beyond its alarm limit.",
        now=setting.clock(),
        priority="stat",
        encounter=visit,
        focus=reading,
    )
    period = {"start": zulu(taken), "end": zulu(due + timedelta(minutes=policy.grace.minutes))}
    held = await find(record, "Task", made["identifier"][0])
    taken_back = held is not None and held["status"] == "cancelled"  # the reading was said to be within the limits
    timed = {**made, "executionPeriod": {"start": zulu(due)}, "restriction": {"period": period}}
    await raise_once(record, timed, reopen=taken_back)


async def not_again(record: Record, what: Code, visit: str, reading: str, setting: Setting, why: str) -> None:
    """Cancel what was to be measured again after a reading that says no more that it was beyond a limit."""
    held = await find(record, "Task", identifier(ID_TASK, "due", visit, what.code, reading))
    if held is not None and held["status"] in OPEN_TASK:
        await _cancel(record, [held], setting.clock(), why)
        await _call_for_the_rest(record, held, setting)


async def close_due(record: Record, reading: Resource, setting: Setting) -> None:
    """Complete the Tasks for what is there with this reading, which is about to be written, or was.

    What was due near its time is looked at, and what was missed before it: who takes a set late has ended the call.
    Only what was taken near that is read: what a reading costs does not grow with the visit.
    """
    visit, policy = id_in(reading.get("encounter"), "Encounter"), setting.monitoring
    when, timed = taken_at(reading)
    if visit is None or when is None or not timed or not is_needed(reading, policy):
        return
    if when > setting.clock() + timedelta(minutes=setting.gate.ahead.minutes):
        return  # it says that it is still to be taken: nothing is there yet
    kinds = serves(reading, policy)
    for one in await _open_due(record, visit, until=when + timedelta(minutes=policy.before.minutes), kinds=kinds):
        await _close_where_covered(record, one, visit, setting, reading)


async def reopen_due(record: Record, reading: Resource, after: Resource | None, setting: Setting) -> None:
    """Open the Tasks again that a reading completed which says no more that it was taken then and there.

    `after`: what it is to be; None: it is deleted.
    """
    visit = id_in(reading.get("encounter"), "Encounter")
    held = None if visit is None else await record.get("Encounter", visit)
    if visit is None or held is None or held["status"] in OVER:
        return
    named = f"Observation/{reading['id']}"
    asked = {"encounter": f"Encounter/{visit}", "code": _TOKENS, "status": "completed"}
    for one in await record.search("Task", asked):
        if any(out.get("valueReference", {}).get("reference") == named for out in one.get("output", [])):
            opened = _opened(one, setting)
            with own_work():
                await record.update(opened)
            await _close_where_covered(record, opened, visit, setting, after or {"id": reading["id"]})


async def _open_due(
    record: Record, visit: str, *, until: datetime, kinds: Sequence[str] = tuple(_CODES)
) -> list[Resource]:
    """Return the open Tasks for what is due in a visit until then: of what went by, those that were missed."""
    asked = [
        ("encounter", f"Encounter/{visit}"),
        ("code", ",".join(_CODES[one].token() for one in kinds)),
        ("status", _OPEN),
        ("period", f"lt{zulu(until + _SECOND)}"),
    ]
    return await record.search("Task", asked)


async def _close_where_covered(
    record: Record,
    one: Resource,
    visit: str,
    setting: Setting,
    new: Resource | None = None,
    *,
    doses: Sequence[Given] | None = None,
) -> None:
    """Complete a Task for what is due where it is there; `new`: a reading about to be written, or that was.

    One that names another visit, or none, is not there any more.
    """
    now, policy = setting.clock(), setting.monitoring
    due, what = moment(one["executionPeriod"]["start"]), codes_of(one["code"], KAP)[0]
    earliest = one.get("restriction", {}).get("period", {}).get("start")
    low, high = due - timedelta(minutes=policy.before.minutes), due + timedelta(minutes=policy.after.minutes)
    latest = now + timedelta(minutes=setting.gate.ahead.minutes)
    until = latest if is_missed(due, now, policy) else high
    needed = [code for codes in policy.due[what].needs for code in codes]
    held = await charted_between(record, visit, needed, low, max(high, until))
    near = [other for other in held if new is None or other["id"] != new["id"]]
    near += [new] if new is not None and id_in(new.get("encounter"), "Encounter") == visit else []
    whose = (patient_of(one), None)
    near = [other for other in near if patient_of(other) in whose]
    if what in _AGAIN:  # a device's feed sets no repeat: by what is beyond a limit it ends none
        near = [other for other in near if "valueSampledData" not in other or not alarm_texts(other, setting.alarms)]
    readings = [
        reading
        for other in near
        for reading in readings_of(other)
        if reading.trusted and (reading.when is None or reading.when <= latest)
    ]
    after = None if earliest is None else moment(earliest)
    by = covers(readings, due, policy, what, after=after)
    near_it = by is not None
    by = by or covers(readings, due, policy, what, after=after, until=until)
    if by is None:
        return
    how = ("charted late" if near_it else "taken late") if is_missed(due, now, policy) else "in time"
    ended = {
        **one,
        "status": "completed",
        "lastModified": zulu(now),
        "businessStatus": {"text": how},
        "output": [{"type": _CODES[what].concept(), "valueReference": {"reference": name}} for name in by],
    }
    with own_work():
        await record.update(content_of(ended))
    await close_task(record, identifier(ID_TASK, "missed", one["id"]), now, why="It is recorded now.")
    await _call_for_the_rest(record, one, setting)
    await _go_on(record, one, setting, doses)


async def end_watch(record: Record, visit: str, status: str, setting: Setting) -> None:
    """Cancel the Tasks for what is due in a visit that is over."""
    found = await record.search("Task", {"encounter": f"Encounter/{visit}", "code": _TOKENS})
    await _cancel(record, found, setting.clock(), _over(status))


async def take_up_watch(record: Record, visit: Resource, setting: Setting) -> None:
    """Watch again in a visit that goes on: open what its end cancelled; what went by meanwhile is missed."""
    asked = {"encounter": f"Encounter/{visit['id']}", "code": _TOKENS, "status": "cancelled"}
    for one in await record.search("Task", asked):
        if one.get("statusReason", {}).get("text") == _over("finished"):
            with own_work():
                await record.update(_opened(one, setting))
    await _plan(record, visit, await doses_of(record, visit["id"], setting), setting)


def _over(status: str) -> str:
    return f"The visit is {status}."


def _opened(done: Resource, setting: Setting) -> Resource:
    kept = {key: one for key, one in done.items() if key not in ("output", "businessStatus", "statusReason")}
    return content_of({**kept, "status": "requested", "lastModified": zulu(setting.clock())})


async def _cancel(record: Record, found: Iterable[Resource], now: datetime, why: str) -> None:
    """Cancel Tasks for what is due, and the calls for those of them that were missed."""
    for one in found:
        await close_task(record, one["identifier"][0], now, status="cancelled", why=why)
        if one["status"] in OPEN_TASK:
            await close_task(record, identifier(ID_TASK, "missed", one["id"]), now, status="cancelled", why=why)


async def keep_due(change: Change) -> None:
    """Guard of Task: what is due at a bedside is ended by what is charted.

    Raises:
        Unprocessable: it would be ended, moved or removed by hand, and nobody would be called where it is missed.

    """
    keep_by_hand(
        change,
        DUE_AT_BEDSIDE,
        "What is due at a bedside is ended by what is charted, and neither moved nor removed by hand. Chart it; of "
        "what cannot be measured tell whoever is called when it is missed.",
    )


def timer(setting: Setting) -> Timer:
    """Return the timer that flags what is missed."""

    async def look(one: Round) -> None:
        grace = timedelta(minutes=setting.monitoring.grace.minutes)
        asked = {
            "code": _TOKENS,
            "status": _OPEN,
            "period": f"lt{zulu(one.now - grace)}",
            "business-status:missing": "true",
        }
        found = await one.search("Task", asked)

        async def flag(due: Resource, record: Record) -> None:
            await _flag(due, record, one.now, setting)

        await one.each([due for due in found if "businessStatus" not in due], flag)

    return Timer("missed-vital-signs", EVERY, look)


def _is_missed(due: Resource, now: datetime, setting: Setting) -> bool:
    return is_missed(moment(due["executionPeriod"]["start"]), now, setting.monitoring)


async def _flag(due: Resource, record: Record, now: datetime, setting: Setting) -> None:
    when, patient = moment(due["executionPeriod"]["start"]), patient_of(due)
    if due["status"] not in OPEN_TASK or patient is None or not _is_missed(due, now, setting):
        return
    what = codes_of(due["code"], KAP)[0]
    calls = setting.monitoring.due[what].missed == "call"
    joins = calls and await _joins_a_call(record, due, what)
    missed = _missed(due, patient, when, calls=calls)
    if joins:
        pass
    elif calls:
        await call(record, missed, setting, flagged=False, again=True)
    else:
        await have_reviewed(record, missed, setting, again=True)
    with own_work():
        said = (VITALS_MISSED if calls else RATING_MISSED).concept(text="missed")
        await record.update(content_of({**due, "businessStatus": said}))
    await _go_on(record, due, setting)


def _missed(due: Resource, patient: str, when: datetime, *, calls: bool) -> Finding:
    return Finding(
        ("missed", str(due["id"])),
        patient,
        VITALS_MISSED if calls else RATING_MISSED,
        f"{due['description']} Due at {zulu(when)}, and not recorded. See to the patient, measure and record.",
        (f"Task/{due['id']}",),
        ("M-MISSED",),
        id_in(due.get("encounter"), "Encounter"),
    )


async def _joins_a_call(record: Record, due: Resource, what: str) -> bool:
    """Let the call that stands for what was missed before in the visit, and that nobody has taken, be for this too.

    Where somebody has taken it, and the next is missed all the same, another call is made.
    """
    asked = {"encounter": str(due["encounter"]["reference"]), "code": VITALS_MISSED.token(), "status": _OPEN}
    for standing in await record.search("Task", asked):
        about = await record.get("Task", str(id_in(standing.get("focus"), "Task")))
        if about is None or what not in codes_of(about["code"], KAP) or is_acknowledged(standing):
            continue
        issue, named = await issue_of(record, standing), {"reference": f"Task/{due['id']}"}
        if issue is not None and named not in issue["implicated"]:
            with own_work():
                await record.update(content_of({**issue, "implicated": [*issue["implicated"], named]}))
        return True
    return False


async def _call_for_the_rest(record: Record, done: Resource, setting: Setting) -> None:
    """Call for what else of its kind was missed and is missing still, where the call that it had joined is over."""
    what, patient = codes_of(done["code"], KAP)[0], patient_of(done)
    if setting.monitoring.due[what].missed != "call" or patient is None:
        return
    about = {"encounter": str(done["encounter"]["reference"]), "status": _OPEN}
    missed = {**about, "code": _CODES[what].token(), "business-status": VITALS_MISSED.token()}
    rest = [one for one in await record.search("Task", missed) if one["id"] != done["id"]]
    named = {
        id_in(one.get("focus"), "Task") for one in await record.search("Task", {**about, "code": VITALS_MISSED.token()})
    }
    if rest and not named.intersection(one["id"] for one in rest):
        last = max(rest, key=lambda one: str(one["executionPeriod"]["start"]))
        when = moment(last["executionPeriod"]["start"])
        await call(record, _missed(last, patient, when, calls=True), setting, flagged=False)
