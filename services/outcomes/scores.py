"""The scores of a patient in the record: written with their answers, and read again when one of them changes."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta

from services.outcomes.doses import courses_of
from services.outcomes.rules.change import Changed, Point, Series, changed, is_worsening, point_of, with_change
from services.outcomes.rules.instruments import Instrument, Responding, Score
from services.outcomes.rules.observations import ABSENT, code_of, risk_observation, score_observation
from services.outcomes.rules.risk import AtRisk
from services.outcomes.rules.scoring import Scored
from services.outcomes.setting import Setting
from shared.fhir.codes import EXT_POLICY, ID_SCORE, PRESCRIBER_REVIEW
from shared.fhir.json import Resource
from shared.fhir.kap import patient_of
from shared.fhir.raised import identifier, task
from shared.runtime.derived import keep_origin
from shared.runtime.raising import content_of, find, own_work, raise_once
from shared.runtime.record import Record


async def keep_score(
    response: Resource, name: str, instrument: Instrument, scored: Scored, record: Record, setting: Setting
) -> None:
    """Write the score of a response, or its new version where the answers changed it; nothing where they did not."""
    held = await find(record, "Observation", identifier(ID_SCORE, response["id"], name))
    if held is None and not scored.is_known:
        return
    made = score_observation(
        response, name, instrument, scored, setting.version, gender=await _gender(response, record)
    )
    await _keep(made, held, record, setting)
    await judge_changes(str(patient_of(response)), name, instrument, record, setting)


async def keep_risk(
    response: Resource,
    name: str,
    instrument: Instrument,
    risk: AtRisk | None,
    record: Record,
    setting: Setting,
    *,
    known: bool,
) -> None:
    """Write the level of risk that the answers come to, where the instrument has coded levels.

    Where it is not `known`, since a missing answer may make it graver, nothing is said; what was said is cancelled.
    """
    if instrument.risk is None or instrument.risk.code is None:
        return
    held = await find(record, "Observation", identifier(ID_SCORE, response["id"], name))
    if not known:
        if held is not None and held["status"] != "cancelled":
            rest = {key: value for key, value in held.items() if key != "valueCodeableConcept"}
            with own_work():
                await record.update(content_of({**rest, "status": "cancelled", "dataAbsentReason": ABSENT.concept()}))
        return
    await _keep(risk_observation(response, name, instrument, risk, setting.version), held, record, setting)


async def withdraw(id_: str, record: Record, setting: Setting, *, keep: str | None = None) -> None:
    """Mark the scores of a response as entered in error: its answers are gone, or were to another questionnaire.

    `keep` is the instrument whose score stays.
    """
    for name, instrument in setting.instruments.items():
        held = None if name == keep else await find(record, "Observation", identifier(ID_SCORE, id_, name))
        if held is not None and held["status"] != "entered-in-error":
            with own_work():
                await record.update(content_of({**held, "status": "entered-in-error"}))
            await judge_changes(str(patient_of(held)), name, instrument, record, setting)


async def judge_changes(patient: str, name: str, instrument: Instrument, record: Record, setting: Setting) -> None:
    """Say of every score of the patient's what it is against its baseline; write those of which that is news."""
    judged = [form for form in instrument.parts.values() if form.change is not None]
    if instrument.change is None and not judged:
        return
    found = await _scores(patient, name, instrument, record)
    courses = await courses_of(patient, record, setting)
    whole = _changes(found, None, instrument.change, instrument.total, courses, setting)
    parts = {form.compared: _changes(found, form.compared, form.change, form, courses, setting) for form in judged}
    for one in found:
        of_parts = {code: changes[one["id"]] for code, changes in parts.items() if one["id"] in changes}
        if one["id"] not in whole and not of_parts:
            continue
        said = with_change(one, whole.get(one["id"], Changed((), None, None)), of_parts)
        if said != one:
            with own_work():
                await record.update(content_of(said))
    points = [point for one in found if (point := point_of(one)) is not None]
    await _call_for_prescriber(patient, points, courses, instrument, record, setting)


def _changes(
    found: Sequence[Resource],
    part: str | None,
    says: Responding | None,
    form: Score | None,
    courses: Sequence[Series],
    setting: Setting,
) -> dict[str, Changed]:
    """Return what each score, or a part of it, is against its baseline, by the Observation's id."""
    if says is None or form is None:
        return {}
    points = [point for one in found if (point := point_of(one, part)) is not None]
    down = form.better == "lower"
    return {point.id: changed(point, points, courses, says, setting.judging, down=down) for point in points}


async def _call_for_prescriber(
    patient: str,
    points: Sequence[Point],
    courses: Sequence[Series],
    instrument: Instrument,
    record: Record,
    setting: Setting,
) -> None:
    """Raise a Task where the last score is worse by as much as the policy says.

    One that a clock set wrong dates into the future does not stand in the way of those that are measured now.
    """
    now = setting.clock()
    past = [one for one in points if one.at <= now]
    for last in {max(some, key=lambda one: one.at) for some in (points, past) if some}:
        why = is_worsening(last, points, courses, instrument, setting.judging)
        if why is not None:
            await _raise_worsening(last, why, patient, instrument, record, setting)


async def _raise_worsening(
    last: Point, why: str, patient: str, instrument: Instrument, record: Record, setting: Setting
) -> None:
    if instrument.worsening is None:
        return
    now = setting.clock()
    made = task(
        ("worse", last.id),
        patient=patient,
        code=PRESCRIBER_REVIEW,
        description=f"{instrument.title}: {why}. {instrument.worsening.source}.",
        now=now,
        priority="urgent",
        focus=f"Observation/{last.id}",
        due=now + timedelta(hours=instrument.worsening.within_hours),
    )
    await raise_once(record, made)


async def judge_all(patient: str, record: Record, setting: Setting) -> None:
    """Say it of the scores of every instrument: a visit or a dose moved what is their baseline."""
    for name, instrument in setting.instruments.items():
        await judge_changes(patient, name, instrument, record, setting)


async def _scores(patient: str, name: str, instrument: Instrument, record: Record) -> list[Resource]:
    code = code_of(name, instrument).of().token()
    found = await record.search("Observation", {"patient": f"Patient/{patient}", "code": code})
    return [one for one in found if any(given["value"].endswith(f":{name}") for given in one.get("identifier", []))]


async def _gender(response: Resource, record: Record) -> str | None:
    held = await record.get("Patient", str(patient_of(response)))
    return None if held is None else held.get("gender")


async def _keep(made: Resource, held: Resource | None, record: Record, setting: Setting) -> None:
    with own_work():
        if held is None:
            written = await record.create(made)
        elif _says(held) != _says(made):
            status = "amended" if made["status"] == "final" else made["status"]
            written = await record.update({**made, "id": held["id"], "status": status})
        else:
            return
        sources = made.get("derivedFrom", ())
        await keep_origin(record, written, sources, activity="Scored from the answers", now=setting.clock())


def _says(observation: Resource) -> Resource:
    """Return what an Observation says, whatever version it is, by whichever policy, and against which baseline."""
    said = with_change(content_of(observation), Changed((), None, None))
    live = observation["status"] in ("final", "amended")
    extensions = [one for one in said.get("extension", []) if one["url"] != EXT_POLICY]
    return {**said, "id": None, "extension": extensions, "status": "final" if live else observation["status"]}
