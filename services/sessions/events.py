"""Adverse events at work: one that is serious calls a person, and is reported."""

from __future__ import annotations

from datetime import timedelta

from services.sessions.calling import Finding, call, was_withdrawn, withdraw
from services.sessions.setting import Setting
from shared.fhir.codes import EXT_EVENT_PERIOD, ID_TASK, REPORT_EVENT, REVIEW, SERIOUS_EVENT
from shared.fhir.json import Resource
from shared.fhir.kap import id_in, patient_of
from shared.fhir.raised import identifier, task
from shared.runtime.raising import close_task, keep, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change


def is_serious(event: Resource | None) -> bool:
    """Tell whether an AdverseEvent is said to be serious and did happen: ``Serious`` in R4, ``serious`` since."""
    said = (event or {}).get("seriousness", {}).get("coding", [])
    codes = {str(one.get("code", "")).lower() for one in said}
    return (event or {}).get("actuality") == "actual" and "serious" in codes


OVER = frozenset(("resolved", "resolvedwithsequelae", "recoveredwithsequelae", "fatal"))
"""Outcomes of an event that has ended (adverse-event-outcome)."""


def period_of(event: Resource) -> dict[str, str]:
    """Return when an AdverseEvent began and ended, as far as it says."""
    said = (one.get("valuePeriod", {}) for one in event.get("extension", []) if one.get("url") == EXT_EVENT_PERIOD)
    found: dict[str, str] = next(said, {})
    return {**({"start": event["date"]} if "date" in event else {}), **found}


def lacks(event: Resource) -> list[str]:
    """Return what an AdverseEvent does not say: start, seriousness, severity, causality, outcome; if over, its end."""
    causality = any(
        "assessment" in cause for one in event.get("suspectEntity", []) for cause in one.get("causality", [])
    )
    there = {name: name in event for name in ("seriousness", "severity", "outcome")}
    outcomes = {str(one.get("code", "")).lower() for one in event.get("outcome", {}).get("coding", [])}
    period = period_of(event)
    times = {"start": "start" in period, "end": "end" in period or not outcomes & OVER}
    return [name for name, said in {**there, "causality": causality, **times}.items() if not said]


async def take_back_unless_serious(record: Record, id_: str, event: Resource | None, setting: Setting) -> None:
    """Take back what was raised for an event that is not serious after all, or did not happen; None: it is deleted."""
    if is_serious(event):
        return
    why = "It is not said to be serious any more."
    await withdraw(record, f"event:{id_}:serious", why, setting)
    reported = identifier(ID_TASK, "event", id_, "report")
    await close_task(record, reported, setting.clock(), status="cancelled", why=why)


async def guard_event(change: Change, record: Record, setting: Setting) -> None:
    """Raise what follows from an adverse event: a serious one calls; one that says too little is asked about."""
    after = change.after
    patient = None if after is None else patient_of(after)
    name, serious, reported = (("event", change.id, what) for what in ("complete", "serious", "report"))
    if is_serious(change.before):
        await take_back_unless_serious(record, change.id, after, setting)
    lacking = [] if after is None or after.get("actuality") != "actual" else lacks(after)
    if not lacking:
        await close_task(record, identifier(ID_TASK, *name), setting.clock(), why="It says all now.")
    if after is None or patient is None or after.get("actuality") != "actual":
        return
    about, visit = f"AdverseEvent/{change.id}", id_in(after.get("encounter"), "Encounter")
    if lacking:
        asked = task(
            name,
            patient=patient,
            code=REVIEW,
            description=f"The adverse event does not say yet: {', '.join(lacking)}. Complete it.",
            now=setting.clock(),
            focus=about,
            encounter=visit,
        )
        if change.before is None:
            await raise_once(record, asked)
        elif lacking != lacks(change.before):
            await keep(record, asked)
    if is_serious(after) and not is_serious(change.before):
        text = "A serious adverse event. Treat, and report: MedWatch; under the REMS also on its form and by telephone."
        finding = Finding(serious, patient, SERIOUS_EVENT, text, (about,), ("A-EVENT",), visit)
        taken_back = await was_withdrawn(record, finding)
        await call(record, finding, setting)
        report = setting.rems.report
        now = setting.clock()
        to_report = task(
            reported,
            patient=patient,
            code=REPORT_EVENT,
            description=f"Report the serious adverse event. {report.advice}",
            now=now,
            priority="urgent",
            focus=about,
            encounter=visit,
            due=now + timedelta(days=report.days),
        )
        await raise_once(record, to_report, reopen=taken_back or change.before is not None)  # it was none before
