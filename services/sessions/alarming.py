"""Alarms at work: raised with the reading, in its transaction; how they were treated and how they ended.

What was given or done for an alarm names its reading (`reasonReference`), and becomes a mitigation of the DetectedIssue
and an output of the Task. The first later reading within the limits is the outcome: it ends the Flag, and leaves the
Task to the person who has it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Final

from services.sessions.calling import WITHDRAWN, Finding, call, have_reviewed, withdraw
from services.sessions.charted import charted_between
from services.sessions.feeding import is_first
from services.sessions.rules.alarms import (
    alarm_texts,
    is_late,
    is_not_understood,
    is_sustained,
    is_unread,
    is_worse,
    rules_within,
)
from services.sessions.rules.monitoring import implausible
from services.sessions.rules.readings import readings_of, taken_at
from services.sessions.setting import Setting
from services.sessions.stamping import review_late
from services.sessions.standing import (
    CHARTED,
    FEED,
    LATE,
    calls_of_it,
    is_deeper,
    is_taken_in,
    last_call,
    news_in,
    numbered,
    still_beyond,
    was_raised,
)
from services.sessions.symptoms import join_symptoms
from services.sessions.watching import measure_again, repeats_of
from shared.fhir.codes import (
    BACK_WITHIN,
    CHARTED_LATE,
    ID_FINDING,
    ID_FLAG,
    ID_TASK,
    PRESSURE_AGAIN,
    READING_IMPLAUSIBLE,
    READING_NOT_UNDERSTOOD,
    REVIEW,
    SUSTAINED_PRESSURE,
    SYMPTOM_ALARM,
    TREATED,
    VISIT_DOSING,
    VITAL_ALARM,
    Code,
)
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import effective_start, has_code, id_in, moment, patient_of
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import identifier
from shared.runtime.escalation import is_acknowledged
from shared.runtime.raising import OPEN_TASK, close_flag, content_of, find, is_own_work, own_work
from shared.runtime.record import Record
from shared.runtime.service import Change

_ALARMS: Final = ",".join(one.token() for one in (VITAL_ALARM, SUSTAINED_PRESSURE, SYMPTOM_ALARM, CHARTED_LATE))
_CALLS: Final = ",".join(one.token() for one in (VITAL_ALARM, SUSTAINED_PRESSURE, REVIEW))
"""Codes of the Tasks of alarms; of one that is charted late it is REVIEW."""
PEOPLE: Final = ("Practitioner", "PractitionerRole")


@dataclass(frozen=True, slots=True)
class Reading:
    """A reading that is judged: its Observation, patient and visit, whether it is charted late, or of a feed.

    `news`: the Observation with what it did not say before; of a feed the new samples alone.
    """

    observation: Resource
    id: str
    patient: str
    visit: str | None
    late: bool
    of_a_feed: bool
    news: Resource

    @property
    def about(self) -> tuple[str, ...]:
        """The reference to it."""
        return (f"Observation/{self.id}",)

    def name(self, rule: str) -> tuple[str, ...]:
        """Return what names an alarm of it: one of a feed lasts, and is not raised once a minute."""
        kind, about = FEED if self.of_a_feed else CHARTED, (self.visit or self.patient) if self.of_a_feed else self.id
        return (LATE[kind] if self.late else kind, about, rule)


async def guard_reading(change: Change, record: Record, setting: Setting) -> None:
    """Raise the alarms of a reading, ask about what is not understood or can hardly be, and record what is over."""
    after = change.after
    if after is None:
        return
    news = news_in(change)
    texts = alarm_texts(news, setting.alarms)
    unclear = is_not_understood(after, setting.alarms)
    patient = await _patient(after, record)
    if patient is None and (texts or unclear):
        raise Unprocessable(
            "A vital sign needs the patient it is about (Observation.subject), so that its alarms reach somebody.",
            code="required",
            expression=["Observation.subject"],
        )
    if patient is None:
        return
    late = is_late(after, setting.clock(), setting.alarms)
    feed = any(one.sampled for one in readings_of(after))
    visit = id_in(after.get("encounter"), "Encounter")
    if late and feed and texts and visit is not None and await is_first(record, after, visit):
        late = False
        said = (
            f"The device says that it was so at {zulu(taken_at(after)[0] or setting.clock())}. Look at its clock, too."
        )
        texts = {rule: f"{text} {said}" for rule, text in texts.items()}
    reading = Reading(after, change.id, patient, visit, late, feed, news)
    here = change.before is not None and id_in(change.before.get("encounter"), "Encounter") == visit
    told = alarm_texts(change.before, setting.alarms) if change.before is not None and here else {}
    was_late = change.before is not None and is_late(change.before, setting.clock(), setting.alarms)
    for rule, text in texts.items():
        worse = change.before is not None and is_worse(change.before, after, rule, setting.alarms)
        again = told.get(rule) != text or (was_late and not late)
        await _raise(record, reading, setting, rule, text, again=again, worse=worse)
        if was_late and not late and not feed:  # it was reviewed, and calls now
            await withdraw(record, ":".join(replace(reading, late=True).name(rule)), "Its time was corrected.", setting)
    if texts and not late:
        await join_symptoms(record, {**after, "id": change.id}, patient, set(texts), setting)
    if setting.alarms.sustained.of in texts and not feed:
        await _judge_repeat(record, reading, setting)
    if texts and not feed:
        await _measure_again(record, reading, texts, setting)
    if not unclear and is_unread(after, setting.alarms):
        held = None if visit is None else await record.get("Encounter", visit)
        unclear = has_code((held or {}).get("type"), VISIT_DOSING)
    if unclear:
        text = "A vital sign was recorded in a form, unit or code that no limit is read in. See to the patient."
        name = ("reading", change.id)
        await have_reviewed(
            record, Finding(name, patient, READING_NOT_UNDERSTOOD, text, reading.about, (), visit), setting
        )
    if not is_own_work():
        await _ask_about(change, record, reading, setting)
        if not texts:  # of one beyond a limit its own alarm says so
            await review_late(change, record, patient, setting)
        await _undo_outcome(change, record, reading, setting)
        await _record_outcome(record, reading, setting, begins=change.before is None)


async def _patient(reading: Resource, record: Record) -> str | None:
    """Return the patient of a reading: the one it is about, else its visit's."""
    visit = id_in(reading.get("encounter"), "Encounter")
    found = patient_of(reading)
    held = None if found is not None or visit is None else await record.get("Encounter", visit)
    return found if held is None else patient_of(held)


async def _raise(
    record: Record, reading: Reading, setting: Setting, rule: str, text: str, *, again: bool, worse: bool = False
) -> None:
    """Raise an alarm; `again`: the reading says something else than before, so what was closed opens with it.

    Who has taken the call knows what it was for then: one that begins anew, or is `worse` now, is another call.

    A reading that is charted late calls nobody to a bedside: it is marked so, and reviewed.
    """
    if reading.late:
        if not again and not reading.of_a_feed and await was_raised(record, reading.about[0], rule):
            return  # it called, or was reviewed, when it said so first
        await _have_reviewed_late(record, reading, setting, rule, text, again=again)
        return
    number, held = await last_call(record, reading.name(rule))
    if held is None and reading.visit is not None and not reading.of_a_feed:
        seen = {**reading.observation, "id": reading.id}
        if await is_taken_in(record, seen, reading.patient, reading.visit, rule, setting, news=again):
            return
    stands = held is not None and held["status"] in OPEN_TASK
    taken = held is not None and stands and is_acknowledged(held)
    if reading.of_a_feed:
        if held is not None and stands:
            if not has_code(held.get("businessStatus"), BACK_WITHIN):
                if not taken or not await is_deeper(record, held, reading.news, rule, setting):
                    return
            elif not taken:
                with own_work():  # it was over, and begins again while the call still stands
                    await record.update(content_of({key: held[key] for key in held if key != "businessStatus"}))
        again = True
    elif held is not None and stands and again and has_code(held.get("businessStatus"), BACK_WITHIN):
        with own_work():  # it was over, and the reading that called is corrected: the next within the limits ends it
            await record.update(content_of({key: held[key] for key in held if key != "businessStatus"}))
    anew = taken and (worse or reading.of_a_feed)
    await call(
        record,
        _finding(reading, numbered(reading.name(rule), number + anew), rule, text, setting),
        setting,
        again=again,
    )


def _finding(reading: Reading, name: tuple[str, ...], rule: str, text: str, setting: Setting) -> Finding:
    code = SUSTAINED_PRESSURE if rule == setting.alarms.sustained.rule else VITAL_ALARM
    return Finding(name, reading.patient, code, text, reading.about, (rule,), reading.visit)


async def _have_reviewed_late(
    record: Record, reading: Reading, setting: Setting, rule: str, text: str, *, again: bool
) -> None:
    """Have a reading reviewed that is charted late; of a device's feed, once until somebody has looked."""
    name = reading.name(rule)
    held = await find(record, "Task", identifier(ID_TASK, *name)) if reading.of_a_feed else None
    if held is None or held["status"] not in OPEN_TASK:
        finding = _finding(reading, name, rule, f"Charted late, after the fact. {text}", setting)
        late = again or reading.of_a_feed
        await have_reviewed(record, replace(finding, code=CHARTED_LATE), setting, again=late)


async def _judge_repeat(record: Record, reading: Reading, setting: Setting) -> None:
    """Raise the sustained alarm with the second reading in a row beyond the limit; after the first, measure again."""
    said = setting.alarms.sustained
    if reading.visit is None:
        return
    when, _ = taken_at(reading.observation)
    if when is None:
        return
    near = timedelta(minutes=said.within + said.apart)
    codes = [code for one in setting.alarms.limits.values() if one.rule == said.of for code in one.codes]
    held = await charted_between(record, reading.visit, codes, when - near, when + near, untimed=True)
    others = [one for one in held if one["id"] != reading.id and patient_of(one) in (reading.patient, None)]
    if is_sustained(reading.observation, others, setting.alarms):
        text = f"{said.title}. {said.advice} Source: {said.source}."
        await _raise(record, reading, setting, said.rule, text, again=False)


async def _measure_again(record: Record, reading: Reading, rules: Iterable[str], setting: Setting) -> None:
    """Have what is beyond the limits of some rules measured again, and again as long as it is beyond."""
    when, timed = taken_at(reading.observation)
    if not timed or when is None or reading.visit is None or reading.late:
        return
    for what in [what for what, looks in repeats_of(setting).items() if looks.intersection(rules)]:
        wait = setting.alarms.sustained.repeat if what == PRESSURE_AGAIN else setting.alarms.again.minutes
        due = when + timedelta(minutes=wait)
        await measure_again(record, what, reading.visit, reading.patient, reading.about[0], when, due, setting)


async def _ask_about(change: Change, record: Record, reading: Reading, setting: Setting) -> None:
    """Ask a person about a value that can hardly be: it stays, and is looked at."""
    told = [] if change.before is None else implausible(change.before, setting.monitoring)
    found = implausible(reading.observation, setting.monitoring)
    if not found or found == told:
        return
    text = f"Is this a slip? {'; '.join(found)}. Measure again; correct it, or say that it stands."
    name = ("plausible", reading.id)
    asked = Finding(name, reading.patient, READING_IMPLAUSIBLE, text, reading.about, visit=reading.visit)
    await have_reviewed(record, asked, setting, again=True)


# -- how an alarm was treated, and how it ended -----------------------------------------------------------------------


async def alarms_in(record: Record, patient: str, visit: str) -> list[Resource]:
    """Return the DetectedIssues of the alarms of a visit, oldest first; late ones, too, and none that was withdrawn."""
    found = []
    for issue in await record.search("DetectedIssue", {"patient": f"Patient/{patient}", "code": _ALARMS}):
        reading = None if issue["status"] == WITHDRAWN else await _reading_of(record, issue)
        if reading is not None and id_in(reading.get("encounter"), "Encounter") == visit:
            found.append(issue)
    return found


async def _reading_of(record: Record, issue: Resource) -> Resource | None:
    named = (id_in(one, "Observation") for one in issue.get("implicated", []))
    first = next((one for one in named if one is not None), None)
    return None if first is None else await record.get("Observation", first)


async def join_treatment(change: Change, record: Record, setting: Setting) -> None:
    """Join a drug or a procedure that names an alarm's reading as its reason to the alarm: what was done, by whom."""
    after = change.after
    if after is None or is_own_work() or after.get("status") in ("not-done", "entered-in-error", "unknown"):
        return
    reasons = {id_in(one, "Observation") for one in after.get("reasonReference", [])} - {None}
    visit, patient = id_in(after.get("context") or after.get("encounter"), "Encounter"), patient_of(after)
    if not reasons or visit is None or patient is None:
        return
    what = after.get("medicationCodeableConcept") or after.get("code") or {}
    name = what.get("text") or next((one["display"] for one in what.get("coding", []) if "display" in one), "treatment")
    when = effective_start(after)
    people = (one.get("actor") for one in after.get("performer", []))
    performer = next((one for one in people if any(id_in(one, type_) for type_ in PEOPLE)), None)
    done = {
        "action": TREATED.concept(text=str(name)),
        "date": after.get("performedDateTime") or zulu(when or setting.clock()),
        **({} if performer is None else {"author": performer}),
    }
    for issue in await alarms_in(record, patient, visit):
        if not reasons.intersection(id_in(one, "Observation") for one in issue.get("implicated", [])):
            continue
        if done not in issue.get("mitigation", []):
            with own_work():
                await record.update(content_of({**issue, "mitigation": [*issue.get("mitigation", []), done]}))
        await _output(record, issue, TREATED, f"{change.type}/{change.id}", setting)


async def _undo_outcome(change: Change, record: Record, reading: Reading, setting: Setting) -> None:
    """Let the alarms stand again that a reading ended which says no more that it was within the limits."""
    before = change.before
    lost = frozenset() if before is None else _settles(before, setting) - _settles(reading.observation, setting)
    if not lost or reading.visit is None:
        return
    about = {"encounter": f"Encounter/{reading.visit}", "patient": f"Patient/{reading.patient}", "code": _CALLS}
    for held in await record.search("Task", {**about, "business-status": BACK_WITHIN.token()}):
        ended = {"type": BACK_WITHIN.concept(), "valueReference": {"reference": reading.about[0]}}
        name = next((one["value"] for one in held["identifier"] if one.get("system") == ID_TASK), "")
        if ended not in held.get("output", []) or name.rpartition(":")[2] not in lost:
            continue
        outputs = [one for one in held["output"] if one != ended]
        opened = {key: value for key, value in held.items() if key not in ("businessStatus", "output")}
        flag = await find(record, "Flag", {"system": ID_FLAG, "value": name})
        with own_work():
            await record.update(content_of({**opened, **({"output": outputs} if outputs else {})}))
            if flag is not None and held["status"] in OPEN_TASK:
                period = {key: value for key, value in flag.get("period", {}).items() if key != "end"}
                await record.update(content_of({**flag, "status": "active", "period": period}))


def _settles(observation: Resource, setting: Setting) -> frozenset[str]:
    """Return the rules whose alarms a reading ends: all that they look at is within the limits."""
    policy = setting.alarms
    fine = rules_within(observation, policy)
    return fine | {policy.sustained.rule} if policy.sustained.of in fine else fine


async def _record_outcome(record: Record, reading: Reading, setting: Setting, *, begins: bool) -> None:
    """Record a reading within the limits as the outcome of the alarms before it whose outcome is not known yet.

    A device's feed ends what it called for itself, after a minute within the limits: where another `begins` so.
    """
    if reading.visit is None or (reading.of_a_feed and not begins):
        return
    fine = _settles(reading.observation, setting)
    when, timed = taken_at(reading.observation)
    ahead = setting.clock() + timedelta(minutes=setting.gate.ahead.minutes)
    if not fine or not timed or when is None or when > ahead:  # what is dated ahead says nothing of now
        return
    for name in await _unsettled(record, reading, fine):
        if reading.of_a_feed and await still_beyond(
            record, reading.observation, reading.visit, [name.rpartition(":")[2]], setting
        ):
            continue
        issue = await find(record, "DetectedIssue", {"system": ID_FINDING, "value": name})
        times = [taken_at(one)[0] for one in await calls_of_it(record, issue)]
        if issue is None or issue["status"] == WITHDRAWN or not any(times):
            continue
        told = moment(issue.get("identifiedDateTime"))  # one that is dated ahead was taken by when it called
        if max(told if one > ahead else one for one in times if one is not None) >= when:
            continue
        if await _output(record, issue, BACK_WITHIN, reading.about[0], setting):
            await close_flag(record, {"system": ID_FLAG, "value": name}, setting.clock())


async def _unsettled(record: Record, reading: Reading, rules: frozenset[str]) -> list[str]:
    """Return the names of the alarms of some rules in a reading's visit whose Tasks do not say yet how they ended."""
    visit = {"encounter": f"Encounter/{reading.visit}", "patient": f"Patient/{reading.patient}"}
    found = await record.search("Task", {**visit, "code": _CALLS, "business-status:not": BACK_WITHIN.token()})
    kinds = (FEED, LATE[FEED]) if reading.of_a_feed else (CHARTED, FEED, *LATE.values())
    names = [one["value"] for task in found for one in task.get("identifier", []) if one.get("system") == ID_TASK]
    return [name for name in names if name.partition(":")[0] in kinds and name.rpartition(":")[2] in rules]


async def _output(record: Record, issue: Resource, what: Code, reference: str, setting: Setting) -> bool:
    """Add an output to an alarm's Task; of outcomes the first counts. Return whether it was added.

    That it is over is its business status, too, until it begins again.
    """
    task = await find(record, "Task", {**issue["identifier"][0], "system": ID_TASK})
    made = {"type": what.concept(), "valueReference": {"reference": reference}}
    held = [] if task is None else task.get("output", [])
    if task is None or made in held or (what == BACK_WITHIN and has_code(task.get("businessStatus"), what)):
        return False
    over = {"businessStatus": BACK_WITHIN.concept()} if what == BACK_WITHIN else {}
    ended = {**task, **over, "output": [*held, made], "lastModified": zulu(setting.clock())}
    with own_work():
        await record.update(content_of(ended))
    return True
