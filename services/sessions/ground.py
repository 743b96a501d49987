"""The ground of a dose that was given: where what it stood on is withdrawn, it is judged again, and nothing undone.

A baseline marked entered-in-error, answers that are amended, a consent that never was: the rules of the gate that are
closed now, and were not before, are raised beside what was raised with the dose itself; and taken back where they hold
again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from services.sessions.calling import WITHDRAWN, Finding, call, have_reviewed, withdraw
from services.sessions.dose import known_of
from services.sessions.gathering import asked_of, places_of
from services.sessions.past_gate import raised_with
from services.sessions.rules.checks import issues_of
from services.sessions.rules.claims import COUNTED, LIVE
from services.sessions.rules.gate import Situation, gate
from services.sessions.rules.readings import readings_of, taken_at, with_code
from services.sessions.setting import Setting
from services.sessions.what_was_given import Given, doses_of
from shared.fhir.codes import GATE_PASSED_CLOSED, ID_FINDING, PRE_DOSE_QUESTIONNAIRE, RULE
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, consent_routes, id_in, patient_of
from shared.fhir.outcome import Issue
from shared.fhir.zones import zone_of
from shared.runtime.raising import is_own_work
from shared.runtime.record import Record
from shared.runtime.service import Change

_UNDER_WAY: Final = "arrived,triaged,in-progress,onleave"
_ENDED: Final = frozenset(("inactive", "rejected", "stopped", "cancelled"))
"""Statuses of a consent or an order that counts no more from now on: a dose that was over stood on it."""
RULES: Final[Mapping[str, str]] = {"Consent": "G-CONSENT", "MedicationRequest": "G-ORDER"}
"""What a dose stands on that others keep, and the rule that asks for it."""


async def judge_again(change: Change, record: Record, setting: Setting) -> None:
    """Judge the doses of a visit again where a reading or an answer that they may have stood on says something else.

    `change`: of an Observation or a QuestionnaireResponse, about to be written.
    """
    said = [one for one in (change.before, change.after) if one is not None and _is_ground(one, setting)]
    times = [when for one in said if (when := _when(one)) is not None]
    if is_own_work() or not times:
        return
    since = min(times) - timedelta(minutes=setting.gate.ahead.minutes)
    for visit in dict.fromkeys(id_in(one.get("encounter"), "Encounter") for one in said):
        if visit is None or not await _given_since(record, visit, since):
            continue
        for dose in await doses_of(record, visit, setting):
            if dose.start is not None and dose.start >= since:
                await _judge(dose, visit, change, record, setting)


async def judge_ground(news: Resource, patient: str, record: Record, setting: Setting) -> None:
    """Judge the doses of the visits under way again, with the news of a consent or an order.

    One that a dose cannot have stood on, another order than it names or a consent to something else, closes nothing.
    """
    rule, status = RULES[news["resourceType"]], news["status"]
    for visit in await record.search("Encounter", {"patient": f"Patient/{patient}", "status": _UNDER_WAY}):
        for dose in await doses_of(record, str(visit["id"]), setting):
            counts = status == WITHDRAWN or (status in _ENDED and dose.resource["status"] in LIVE)
            counts = counts and _may_stand_on(dose, news)
            known = await known_of(record, dose.resource, dose.start or setting.clock(), dose.drug, setting)
            found = issues_of(gate(known.situation, setting.gate))
            closed = [one for one in found if one.rule == rule]
            if not closed:
                await _hold_again(dose, {one.rule for one in found}, record, setting)
            elif counts and not await _was_raised(dose, rule, record):
                await _raise(dose, str(visit["id"]), closed, record, setting, again=False)


def _may_stand_on(dose: Given, news: Resource) -> bool:
    if news["resourceType"] == "MedicationRequest":
        return id_in(dose.resource.get("request"), "MedicationRequest") in (news["id"], None)
    return "category" not in news or bool(consent_routes(news))


async def _given_since(record: Record, visit: str, since: datetime) -> bool:
    asked = [("context", f"Encounter/{visit}"), ("status", ",".join(sorted(COUNTED)))]
    return bool(await record.search("MedicationAdministration", [*asked, ("effective-time", f"sa{zulu(since)}")]))


def _is_ground(resource: Resource, setting: Setting) -> bool:
    """Tell whether a resource is a reading or an answer that the gate looks at; a device's feed is none."""
    if resource["resourceType"] == "QuestionnaireResponse":
        return str(resource.get("questionnaire", "")).partition("|")[0] == PRE_DOSE_QUESTIONNAIRE
    codes = [code for limit in setting.gate.readings.values() for code in limit.codes]
    return any(not one.sampled for one in with_code(readings_of(resource), codes))


def _when(resource: Resource) -> datetime | None:
    if resource["resourceType"] == "QuestionnaireResponse":
        return interval(resource["authored"])[0] if "authored" in resource else None
    return taken_at(resource)[0]


async def _judge(dose: Given, visit: str, change: Change, record: Record, setting: Setting) -> None:
    """Raise what of the gate is closed with a change, and was not without it."""
    start = dose.start or setting.clock()
    before = (await known_of(record, dose.resource, start, dose.drug, setting)).situation
    after = await _with(before, visit, change, record, setting)
    was = {one.rule for one in issues_of(gate(before, setting.gate))}
    found = issues_of(gate(after, setting.gate))
    new = [one for one in found if one.rule not in was]
    closed = {one.rule for one in found}
    if new:
        await _raise(dose, visit, new, record, setting)
    if was - closed:
        await _hold_again(dose, closed, record, setting)


async def _with(before: Situation, visit: str, change: Change, record: Record, setting: Setting) -> Situation:
    """Return what is known where a dose began, with a change that is about to be written."""
    after = change.after
    there = after if after is not None and id_in(after.get("encounter"), "Encounter") == visit else None
    if change.type == "QuestionnaireResponse":
        held = await record.get("Encounter", visit)
        zone = zone_of(await places_of(record, held), setting.zone)
        return replace(before, asked=await asked_of(record, visit, before.start, setting, zone, instead=change))
    others = [one for one in before.readings if one.reference != f"Observation/{change.id}"]
    new = [] if there is None else readings_of({**there, "id": change.id})
    return replace(before, readings=[*others, *new])


def _name(dose: Given, *rules: str) -> tuple[str, ...]:
    """Return what names a call for what fell: another rule is another call, whoever has taken the first."""
    return ("dose", str(dose.resource["id"]), "ground", *(("+".join(sorted(rules)),) if rules else ()))


async def _was_raised(dose: Given, rule: str, record: Record) -> bool:
    """Tell whether a dose was recorded past the gate by that rule already."""
    held = await raised_with(record, str(dose.resource["id"]))
    return any(rule in codes_of(one.get("code"), RULE) for one in held)


async def _raise(
    dose: Given, visit: str, issues: Sequence[Issue], record: Record, setting: Setting, *, again: bool = True
) -> None:
    """Raise what fell; `again`: it fell now, so what was closed opens with it."""
    patient = patient_of(dose.resource)
    if patient is None:
        return
    what = " ".join(f"{issue.rule}: {issue.diagnostics}" for issue in issues)
    text = (
        "What a dose stood on is withdrawn or was changed since: by what is known now it was given past a closed gate. "
        f"{what} Nothing is undone by this; a prescriber looks at it now."
    )
    rules = tuple(dict.fromkeys(str(issue.rule) for issue in issues))
    about = (f"MedicationAdministration/{dose.resource['id']}",)
    finding = Finding(_name(dose, *rules), patient, GATE_PASSED_CLOSED, text, about, rules, visit)
    began = dose.start or setting.clock()
    recent = began >= setting.clock() - timedelta(minutes=setting.alarms.late.minutes)
    if recent or dose.resource["status"] in LIVE:
        await call(record, finding, setting, again=again)
    else:  # over since longer ago: nobody is called to a bedside for it
        await have_reviewed(record, finding, setting, again=again, priority="stat", flagged=True)


async def _hold_again(dose: Given, closed: set[str | None], record: Record, setting: Setting) -> None:
    """Take back what was raised here where all the rules that it names hold again."""
    begins = ":".join(_name(dose))
    about = {"implicated": f"MedicationAdministration/{dose.resource['id']}"}
    for issue in await record.search("DetectedIssue", about):
        if issue["status"] == WITHDRAWN or closed.intersection(codes_of(issue.get("code"), RULE)):
            continue
        for name in issue.get("identifier", []):
            if name.get("system") == ID_FINDING and name["value"].startswith(begins):
                await withdraw(record, name["value"], "What the dose stood on is there again.", setting)
