"""Adverse events at work: one that is serious calls a person, and is reported."""

from __future__ import annotations

from services.sessions.setting import Setting
from shared.fhir.codes import REVIEW, SERIOUS_EVENT
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, patient_of
from shared.fhir.raised import detected_issue, flag, task
from shared.runtime.raising import raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change


def is_serious(event: Resource | None) -> bool:
    """Tell whether an AdverseEvent is said to be serious and did happen: ``Serious`` in R4, ``serious`` since."""
    said = (event or {}).get("seriousness", {}).get("coding", [])
    codes = {str(one.get("code", "")).lower() for one in said}
    return (event or {}).get("actuality") == "actual" and "serious" in codes


def lacks(event: Resource) -> list[str]:
    """Return what an AdverseEvent does not say of what it is to say: seriousness, severity, causality, outcome."""
    causality = any(
        "assessment" in cause for one in event.get("suspectEntity", []) for cause in one.get("causality", [])
    )
    there = {name: name in event for name in ("seriousness", "severity", "outcome")}
    return [name for name, said in {**there, "causality": causality}.items() if not said]


async def guard_event(change: Change, record: Record, setting: Setting) -> None:
    """Raise what follows from an adverse event: a serious one calls; one that says too little is asked about."""
    after = change.after
    patient = None if after is None else patient_of(after)
    if after is None or patient is None or after.get("actuality") != "actual":
        return
    now, about, visit = setting.clock(), f"AdverseEvent/{change.id}", id_in(after.get("encounter"), "Encounter")
    lacking = lacks(after)
    if lacking:
        text = f"The adverse event does not say yet: {', '.join(lacking)}. Complete it."
        asked = task(
            ("event", change.id, "complete"),
            patient=patient,
            code=REVIEW,
            description=text,
            now=now,
            focus=about,
            encounter=visit,
        )
        await raise_once(record, asked)
    if is_serious(after) and not is_serious(change.before):
        name = ("event", change.id, "serious")
        text = "A serious adverse event. Treat, and report: MedWatch; under the REMS also on its form and by telephone."
        issue = detected_issue(
            name,
            patient=patient,
            code=SERIOUS_EVENT,
            rules=["A-EVENT"],
            severity="high",
            detail=text,
            now=now,
            implicated=[about],
            policy=setting.version,
        )
        await raise_once(record, issue)
        await raise_once(record, flag(name, patient=patient, code=SERIOUS_EVENT, text=text, now=now, encounter=visit))
        call = task(
            name,
            patient=patient,
            code=SERIOUS_EVENT,
            description=text,
            now=now,
            priority="stat",
            focus=about,
            encounter=visit,
        )
        await setting.escalation.raise_task(record, call, now)
