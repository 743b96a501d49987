"""The Tasks that expect answers: raised once, not too often, fulfilled by a response, whichever came first."""

from __future__ import annotations

from collections.abc import Collection
from datetime import datetime, timedelta

from services.outcomes.rules.instruments import Instrument
from services.outcomes.rules.schedule import (
    GROUNDLESS,
    MISSED,
    Anchor,
    Expected,
    expectation_name,
    gives_way,
    is_burden,
    is_groundless,
    put_off,
    standing_of,
    task_for,
)
from services.outcomes.rules.scoring import COUNTED, instrument_of
from services.outcomes.setting import Setting
from shared.fhir.codes import EXPECT_QUESTIONNAIRE
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import moment, patient_of, reference
from shared.fhir.raised import task
from shared.runtime.raising import close_task, content_of, find, own_work, raise_once
from shared.runtime.record import Record


async def expect(
    anchor: Anchor, of: str, when: datetime, patient: str, record: Record, setting: Setting, *, visit: str | None = None
) -> None:
    """Ask for what is due after an anchor, once.

    Args:
        anchor: its kind.
        of: id of the resource that it is, in the Tasks' identifiers.
        when: it was.
        patient: logical id.
        record: the transaction.
        setting: with the policy.
        visit: the Encounter it belongs to.

    """
    for name, expected in setting.policy.schedule.items():
        if expected.after != anchor:
            continue
        held = await find(record, "Task", expectation_name(of, name))
        if held is not None and not is_groundless(held):
            if anchor == "dose":
                await _move(held, when + expected.delay, record, setting)
            continue
        instrument, due = setting.instruments[expected.instrument], when + expected.delay
        days = instrument.within_days if expected.unless_within_days is None else expected.unless_within_days
        if days and await _is_burden(expected, due, timedelta(days=days), patient, record, setting):
            continue
        made = task(
            ("expect", of, name),
            patient=patient,
            code=EXPECT_QUESTIONNAIRE,
            description=f"{instrument.title}, by the {expected.by}. Source: {expected.source}.",
            now=setting.clock(),
            encounter=visit,
            due=due,
        )
        serving = (setting.instruments[one] for one in (expected.instrument, *expected.or_else))
        asked = [{"type": {"text": "questionnaire"}, "valueCanonical": one.canonicals[0]} for one in serving]
        owner = {"owner": reference("Patient", patient)} if expected.by == "patient" else {}
        late = standing_of({**made, "input": asked}, setting.clock(), setting.policy.reminders)
        # A visit that is charted long after it was: what it called for is late, or missed, from the beginning.
        marked = {} if late is None else {"businessStatus": late.concept()}
        given_up = {"status": "failed"} if late == MISSED else {}
        by_when = {"executionPeriod": {"start": zulu(due)}}  # what a search by `period` finds it by
        await raise_once(record, {**made, **owner, **marked, **given_up, **by_when, "input": asked}, reopen=True)


async def _move(held: Resource, due: datetime, record: Record, setting: Setting) -> None:
    """Have an open Task due by the time of its dose as it is said to be now."""
    if held["status"] == "requested" and held.get("restriction", {}).get("period", {}).get("end") != zulu(due):
        rest = {name: value for name, value in held.items() if name != "businessStatus"}
        moved = put_off(rest, due, setting.clock())
        late = standing_of(moved, setting.clock(), setting.policy.reminders)
        with own_work():
            await record.update(content_of({**moved, **({} if late is None else {"businessStatus": late.concept()})}))


async def _is_burden(
    expected: Expected, due: datetime, within: timedelta, patient: str, record: Record, setting: Setting
) -> bool:
    """Tell whether asking would ask too often; what is due later and gives way is put off."""
    instrument = setting.instruments[expected.instrument]
    responses = await record.search("QuestionnaireResponse", {"subject": f"Patient/{patient}"})
    asked = await _asked(patient, record)
    later = [one for one in asked if expected.over_later and gives_way(one, due, within, instrument)]
    rest = [one for one in asked if one not in later]
    if is_burden(due, within, instrument, responses, rest):
        return True
    for one in later:
        with own_work():
            await record.update(content_of(put_off(one, due + within, setting.clock())))
    return False


async def expect_nothing(of: str, record: Record, setting: Setting, *, why: str) -> None:
    """Cancel what was expected after an anchor that is not true; where it is after all, it is expected again."""
    for name in setting.policy.schedule:
        text = f"{GROUNDLESS} {why}"
        await close_task(record, expectation_name(of, name), setting.clock(), status="cancelled", why=text)


async def fulfil(
    response: Resource,
    patient: str,
    instrument: Instrument,
    record: Record,
    setting: Setting,
    *,
    among: Collection[str] | None = None,
) -> None:
    """Complete the open Task that the response answers, where there is one; `among`: of these names only."""
    fulfilled = task_for(await _asked(patient, record), response, instrument.canonicals, among)
    if fulfilled is None:
        return
    output = {
        "type": {"text": "answers"},
        "valueReference": {"reference": f"QuestionnaireResponse/{response['id']}"},
    }
    done = {**fulfilled, "status": "completed", "output": [output], "lastModified": zulu(setting.clock())}
    with own_work():
        await record.update(content_of(done))


async def fulfil_with_what_came_before(
    anchor: Anchor,
    of: str,
    since: datetime,
    patient: str,
    record: Record,
    setting: Setting,
    *,
    visit: str | None = None,
) -> None:
    """Let answers that came before the news of an anchor fulfil what that anchor expects.

    Args:
        anchor: its kind.
        of: id of the resource that it is, as in `expect`.
        since: what was answered earlier is about another time.
        patient: logical id.
        record: the transaction.
        setting: with the policy.
        visit: answers name this Encounter; None: they need name none.

    """
    expected = (name for name, one in setting.policy.schedule.items() if one.after == anchor)
    among = {expectation_name(of, name)["value"] for name in expected}
    about = {"subject": f"Patient/{patient}"} if visit is None else {"encounter": f"Encounter/{visit}"}
    held = await record.search("QuestionnaireResponse", about)
    for response in sorted(held, key=lambda one: moment(one.get("authored"))):
        found = instrument_of(response, setting.instruments)
        is_after = moment(response.get("authored")) >= since
        if found is not None and response["status"] in COUNTED and patient_of(response) == patient and is_after:
            await fulfil(response, patient, found[1], record, setting, among=among)


async def _asked(patient: str, record: Record) -> list[Resource]:
    found = await record.search("Task", {"patient": f"Patient/{patient}", "code": EXPECT_QUESTIONNAIRE.token()})
    return [one for one in found if patient_of(one) == patient]
