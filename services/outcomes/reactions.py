"""What outcomes does on others' events: courses and visits make it expect questionnaires, and move the baseline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress

from services.outcomes.doses import courses_of, drug_given, first_dose
from services.outcomes.expectations import expect, expect_nothing, fulfil_with_what_came_before
from services.outcomes.risks import raise_what_was_answered_elsewhere
from services.outcomes.scores import judge_all
from services.outcomes.setting import Setting
from services.outcomes.surveillance import heed, watch
from shared.events.envelope import Event
from shared.fhir.codes import VISIT_DOSING
from shared.fhir.dates import MIN_INSTANT, interval
from shared.fhir.json import Resource, parse
from shared.fhir.kap import id_in, is_course, patient_of, stage_of, visit_of
from shared.fhir.outcome import Gone, NotFound
from shared.runtime.ownership import SESSIONS
from shared.runtime.record import Record
from shared.runtime.service import Reaction
from shared.store.access import Access

_ARRIVED = frozenset(("arrived", "triaged", "in-progress", "onleave"))
_OVER = frozenset(("follow-up", "finished"))
_NOT_YET = frozenset(("referred", "screening"))


def reactions(setting: Setting) -> Mapping[str, Sequence[Reaction]]:
    """Return outcomes' reactions by type, under a policy."""

    async def visit_changed(event: Event, resource: Resource, record: Record) -> None:
        visit = await record.get("Encounter", event.resource_id)
        if visit is None or visit["status"] in ("entered-in-error", "cancelled"):
            why = "The visit was entered in error, or did not happen."
            await expect_nothing(event.resource_id, record, setting, why=why)
            await expect_nothing(f"{event.resource_id}-dose", record, setting, why=why)
        else:
            await _visited(visit, record, setting)
            await _watched(visit, record, setting)
        patient = patient_of(visit or resource)
        if patient is not None and visit_of(visit or resource) == "kap-dosing":
            await judge_all(patient, record, setting)

    async def dose_changed(event: Event, resource: Resource, record: Record) -> None:
        await _dose_changed(event, resource, record, setting)

    async def medication_known(event: Event, resource: Resource, record: Record) -> None:
        await _medication_known(event, record, setting)

    async def course_changed(event: Event, resource: Resource, record: Record) -> None:
        course = await record.get("EpisodeOfCare", event.resource_id)
        patient = patient_of(course or resource)
        if course is None or patient is None or not is_course(course):
            return
        if course["status"] in ("cancelled", "entered-in-error"):
            await expect_nothing(event.resource_id, record, setting, why="There is no such course.")
            return
        if stage_of(course) in _NOT_YET:
            return
        now = setting.clock()
        await expect("course", event.resource_id, now, patient, record, setting)
        referred = course.get("period", {}).get("start")
        if referred is not None:
            since = interval(referred)[0]
            await fulfil_with_what_came_before("course", event.resource_id, since, patient, record, setting)
        if stage_of(course) in _OVER or course["status"] == "finished":
            last = max((one.last for one in await courses_of(patient, record, setting)), default=now)
            await expect("end", event.resource_id, now, patient, record, setting)
            await expect("series", event.resource_id, last, patient, record, setting)

    async def answered(event: Event, resource: Resource, record: Record) -> None:
        await _answered(event, resource, record, setting)

    async def complained(event: Event, resource: Resource, record: Record) -> None:
        await heed(resource, record, setting, gone=event.interaction == "delete")

    return {
        "AdverseEvent": (complained,),
        "Condition": (complained,),
        "Encounter": (visit_changed,),
        "EpisodeOfCare": (course_changed,),
        "Medication": (medication_known,),
        "MedicationAdministration": (dose_changed,),
        "QuestionnaireResponse": (answered,),
    }


async def _medication_known(event: Event, record: Record, setting: Setting) -> None:
    """Look again at the doses that named a Medication before it was known here, or as what it was before."""
    for given in await record.search("MedicationAdministration", {"medication": f"Medication/{event.resource_id}"}):
        moved = await drug_given(given, record, setting) is None
        await _dosed(given, record, setting, moved=moved)


async def _dose_changed(event: Event, resource: Resource, record: Record, setting: Setting) -> None:
    """Look again at the visit of a dose, and at the one it was in before."""
    given = await record.get("MedicationAdministration", event.resource_id)
    moved = given is None or given["status"] in ("entered-in-error", "not-done")
    before = await _before(event, record)
    if before is not None and _whose(before) != _whose(given or resource):
        await _dosed(before, record, setting, moved=True)
    await _dosed(given or resource, record, setting, moved=moved)


async def _dosed(given: Resource, record: Record, setting: Setting, *, moved: bool) -> None:
    """Expect what the first dose of a visit calls for; nothing, where none was given in it that stands.

    `moved`: the dose at hand is none, and may have been taken for the first.
    """
    visit, patient = id_in(given.get("context"), "Encounter"), patient_of(given)
    if visit is None or patient is None:
        return
    name, first = f"{visit}-dose", await first_dose(visit, record, setting)
    if moved or first is None:
        await expect_nothing(name, record, setting, why="No dose of that time stands in the visit.")
    if first is not None:
        await expect("dose", name, first, patient, record, setting, visit=visit)
        await fulfil_with_what_came_before("dose", name, first, patient, record, setting, visit=visit)
    held = await record.get("Encounter", visit)
    if held is not None:
        await _watched(held, record, setting)
    await judge_all(patient, record, setting)


async def _before(event: Event, record: Record) -> Resource | None:
    """Return the version before that of an event, None where there is none here."""
    if event.version > 1:
        whole = Access.unrestricted(event.tenant)
        with suppress(NotFound, Gone):
            held = await record.transaction.read_version(whole, event.type, event.resource_id, event.version - 1)
            before: Resource = parse(held.body)
            return before
    return None


def _whose(given: Resource) -> tuple[str | None, str | None]:
    """Return whose dose it is, and in which visit."""
    return patient_of(given), id_in(given.get("context"), "Encounter")


async def _answered(event: Event, response: Resource, record: Record, setting: Setting) -> None:
    """Raise what answers that another service keeps say about the risk of suicide."""
    patient = id_in(response.get("subject"), "Patient")
    if event.interaction == "delete" or patient is None:
        return
    before = await _before(event, record)
    here = event.source != SESSIONS
    await raise_what_was_answered_elsewhere(response, before, patient, record, setting, here=here)


async def _watched(visit: Resource, record: Record, setting: Setting) -> None:
    """Look at long-term use with each session that ended."""
    patient = patient_of(visit)
    if patient is not None and visit["status"] == "finished" and visit_of(visit) == VISIT_DOSING.code:
        await watch(patient, setting.clock(), record, setting)


async def _visited(visit: Resource, record: Record, setting: Setting) -> None:
    """Expect what the kind of visit calls for, as far as it has gone."""
    patient, kind, id_, period = patient_of(visit), visit_of(visit), str(visit["id"]), visit.get("period", {})
    if patient is None:
        return
    now, ended = setting.clock(), visit["status"] == "finished"
    # An answer that names the visit may come before the news of it: before it began, then, where that asks for it.
    if kind == "kap-dosing" and visit["status"] in _ARRIVED:
        start = interval(period["start"])[0] if "start" in period else now
        await expect("arrival", id_, start, patient, record, setting, visit=id_)
        await fulfil_with_what_came_before("arrival", id_, MIN_INSTANT, patient, record, setting, visit=id_)
    end = interval(period["end"])[0] if "end" in period else now
    if kind == "kap-dosing" and ended:
        since = end if "end" in period else MIN_INSTANT
        await expect("dosing", id_, end, patient, record, setting, visit=id_)
        await fulfil_with_what_came_before("dosing", id_, since, patient, record, setting, visit=id_)
    if kind == "kap-integration" and ended:
        await expect("integration", id_, end, patient, record, setting, visit=id_)
        await fulfil_with_what_came_before("integration", id_, MIN_INSTANT, patient, record, setting, visit=id_)
