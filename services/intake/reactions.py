"""What intake does on the events of others.

A visit that begins moves the course to its stage; a Flag that a rule looks at (an answer about suicide, kept by
outcomes) has its patient judged again, at whatever time it comes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from services.intake.course import open_course
from services.intake.rules.course import stage_after_visit
from services.intake.screening import judge_patient
from services.intake.setting import Setting
from shared.events.envelope import Event
from shared.fhir.json import Resource
from shared.fhir.kap import patient_of, stage_of, visit_of, with_stage
from shared.runtime.raising import content_of, own_work
from shared.runtime.record import Record
from shared.runtime.service import Reaction


def reactions(setting: Setting) -> Mapping[str, Sequence[Reaction]]:
    """Return intake's reactions by type."""

    async def visit_began(event: Event, resource: Resource, record: Record) -> None:
        patient = patient_of(resource)
        if event.interaction == "delete" or resource.get("status") != "in-progress" or patient is None:
            return
        episode = await open_course(record, patient)
        if episode is None:
            return
        stage = stage_of(episode) or ""
        moved = with_stage(episode, stage_after_visit(stage, visit_of(resource)), setting.clock())
        if moved != episode:
            with own_work():
                await record.update(content_of(moved))

    async def flag_changed(event: Event, resource: Resource, record: Record) -> None:
        patient = patient_of(resource)
        if patient is not None:
            await judge_patient(patient, record, setting)

    return {"Encounter": (visit_began,), "Flag": (flag_changed,)}
