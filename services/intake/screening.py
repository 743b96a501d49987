"""Writing what a screening found, and judging again whenever its ground changes: at once, months later too.

A change of eligibility puts the course on hold in the same transaction, and tells people by Flag and Task; scheduling
hears of it by event, and flags what is booked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from services.intake.chart import View, chart_of, flagged, observed, rule_of, screening_issues
from services.intake.course import bring_up_to_date, is_screening
from services.intake.rules.eligibility import flag_codes, screen
from services.intake.rules.findings import Chart, Finding, Screening
from services.intake.rules.trials import Entry
from services.intake.rules.workup import Recommended, ToDo, to_do
from services.intake.setting import Setting
from shared.fhir.codes import (
    ASSEMBLER,
    ELIGIBILITY,
    ELIGIBILITY_LOST,
    EXT_ACKNOWLEDGED,
    EXT_FINDING,
    EXT_HOLD_BEFORE,
    EXT_MEANING,
    EXT_SCREENED_FOR,
    EXT_TO_DO,
    ID_FINDING,
    ID_FLAG,
    ID_SCREENING,
    ID_TASK,
    LOINC,
    NO_LONGER,
    OUTCOMES,
    POLICY_URI,
    SCREEN_AGAIN,
    SCREENING,
    UCUM,
    rule_code,
)
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import (
    Drug,
    codes_of,
    eligibility_outcome,
    latest_eligibility,
    patient_of,
    reference,
    replaced_by,
    screened_for,
)
from shared.fhir.profiles import own
from shared.fhir.raised import IssueSeverity, detected_issue, flag, identifier, policy_extension, task
from shared.runtime.policy import Policy
from shared.runtime.raising import close_flag, close_task, content_of, find, is_own_work, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change
from shared.store.policies import keep

ISSUE_SEVERITY: Final[Mapping[str, IssueSeverity]] = {"A": "high", "R": "moderate", "I": "low"}
JUDGED_BY: Final = frozenset(
    (
        "Patient",
        "Condition",
        "AllergyIntolerance",
        "FamilyMemberHistory",
        "MedicationStatement",
        "MedicationRequest",
        "Observation",
        "QuestionnaireResponse",
        "ServiceRequest",
        "DetectedIssue",
        "Flag",
    )
)
"""The types that a screening judges on: a change of one is judged at once."""


async def write_screening(
    record: Record, patient: Resource, drug: Drug | None, route: str | None, setting: Setting
) -> Resource:
    """Judge, write the RiskAssessment and its DetectedIssues, bring the course up to date; return the assessment."""
    view, now = View(record, str(patient["id"])), setting.clock()
    await view.the_patient()
    chart = await chart_of(view, patient, setting, drug=drug, route=route, now=now)
    return await _write(view, chart, screen(chart, setting.rules), setting, await _newest(view))


async def judge_again(change: Change, record: Record, setting: Setting) -> None:
    """Judge a patient who was screened before anew, where a change concerns what was judged on.

    Writes nothing where the answer is the same for the same reasons.
    """
    patient_id = change.id if change.type == "Patient" else patient_of(change.after or change.before or {})
    if is_own_work() or patient_id is None or not _concerns(change, patient_id, setting):
        return
    await judge_patient(patient_id, record, setting, change)


async def judge_who_takes(change: Change, record: Record, setting: Setting) -> None:
    """Guard of Medication: who takes or is ordered what was corrected, alone or as an ingredient, is judged anew."""
    if change.before is None or is_own_work():
        return
    name = f"Medication/{change.id}"
    names = [name, *(f"Medication/{one['id']}" for one in await record.search("Medication", {"ingredient": name}))]
    patients = {
        patient
        for type_ in ("MedicationStatement", "MedicationRequest")
        for one in await record.search(type_, {"medication": ",".join(names)})
        if (patient := patient_of(one)) is not None
    }
    await record.lock(*(f"Patient/{one}" for one in sorted(patients)))
    for one in sorted(patients):
        await judge_patient(one, record, setting, change)


async def judge_patient(patient_id: str, record: Record, setting: Setting, change: Change | None = None) -> None:
    """Judge a patient who was screened before anew, and who stands for him; `change` is about to be committed."""
    await judge_view(View(record, patient_id, change), setting)
    held = await record.get("Patient", patient_id)
    standing = None if held is None else await standing_of(held, record)
    if standing is not None and standing["id"] != patient_id:
        await record.lock(f"Patient/{standing['id']}")
        await judge_view(View(record, standing["id"], change), setting)


async def standing_of(patient: Resource, record: Record) -> Resource | None:
    """Return the Patient that stands for one that was merged, however often; itself where it was not."""
    seen: set[str] = set()
    held: Resource | None = patient
    while held is not None and (other := replaced_by(held)) is not None and other not in seen:
        seen.add(other)
        held = await record.get("Patient", other)
    return held


async def judge_in_place_of(withdrawn: Change, patient_id: str, record: Record, setting: Setting) -> None:
    """Judge anew where an assessment is taken back, by its drug and route.

    What is found is written where it speaks against: then no older assessment counts in its place. Who took an eligible
    one back is not overruled by another: its course is on hold until somebody screens again.
    """
    before = withdrawn.before
    view = View(record, patient_id, withdrawn)
    patient = await view.the_patient()
    if before is None or patient is None:
        return
    drug, route = screened_for(before)
    chart = await chart_of(view, patient, setting, drug=drug, route=route, now=setting.clock())
    result = screen(chart, setting.rules)
    if result.outcome == "eligible":
        await bring_up_to_date(record, patient_id, setting.clock(), setting.sets, change=withdrawn)
        return
    await _write(view, chart, result, setting, before)


async def judge_view(view: View, setting: Setting) -> None:
    """Judge a patient who was screened before anew, by the drug and route of that screening."""
    newest, patient = await _newest(view), await view.the_patient()
    if newest is None or patient is None:
        return
    drug, route = screened_for(newest)
    chart = await chart_of(view, patient, setting, drug=drug, route=route, now=setting.clock())
    result = screen(chart, setting.rules)
    wanted = assessment_of(result, chart, setting.policy)
    if _substance(wanted) != _substance(newest):
        await _write(view, chart, result, setting, newest)


def _concerns(change: Change, patient: str, setting: Setting) -> bool:
    versions = [one for one in (change.before, change.after) if one is not None]
    if change.type == "Observation":
        codes = {coding.get("code") for one in versions for coding in one.get("code", {}).get("coding", [])}
        return not codes.isdisjoint(observed(setting))
    if change.type == "Flag":
        return any(not flag_codes(one).isdisjoint(flagged(setting)) for one in versions)
    if change.type == "QuestionnaireResponse":
        return any(is_screening(one) for one in versions)
    if change.type == "DetectedIssue":
        return any(rule_of(one, patient) is not None for one in versions)
    return change.before is not None or change.type != "Patient"


async def _newest(view: View) -> Resource | None:
    return latest_eligibility(await view.record.search("RiskAssessment", {"patient": f"Patient/{view.patient}"}))


def _substance(assessment: Resource) -> object:
    """Return what an assessment says: outcome and findings, apart from their wording, their time and their policy."""
    told = [
        [part for part in one["extension"] if part.get("url") in ("rule", "verdict", "severity", "evidence")]
        for one in assessment.get("extension", [])
        if one.get("url") == EXT_FINDING
    ]
    return codes_of(assessment["prediction"][0]["outcome"], ELIGIBILITY.system), told, assessment.get("basis", [])


async def lacking(record: Record, patient: Resource, conditions: Sequence[Entry], setting: Setting) -> list[ToDo]:
    """Return what is recommended to have been measured before the first dose, and is still to do."""
    tests, about = setting.workup.tests.values(), {"patient": f"Patient/{patient['id']}"}
    code = ",".join(f"{LOINC}|{code}" for code in sorted({code for test in tests for code in test.codes}))
    results = [
        one
        for type_ in ("Observation", "DiagnosticReport")
        for one in await record.search(type_, {**about, "code": code})
    ]
    return list(to_do(patient, conditions, results, setting.clock(), setting.workup, setting.sets))


async def _write(view: View, chart: Chart, result: Screening, setting: Setting, before: Resource | None) -> Resource:
    record, now, version = view.record, setting.clock(), setting.policy.version
    with own_work():
        seen = await view.versions()
        recommended = await lacking(record, chart.patient, chart.conditions, setting)
        written = await record.create(assessment_of(result, chart, setting.policy, recommended))
        await record.create(provenance_of(f"RiskAssessment/{written.stored.id}", seen, view.meant, setting.policy, now))
        await keep(record.transaction, setting.policy.digest, version, setting.policy.content)
        await _keep_issues(view, result, now, setting)
    assessment: Resource = parse(written.stored.body)
    await bring_up_to_date(record, view.patient, now, setting.sets, change=view.change)
    await _tell(view, result, assessment, before, now)
    return assessment


async def judge_by_time(record: Record, patient: str, setting: Setting) -> None:
    """Judge a patient anew for what no change of his record says, and ask for new answers before they are too old.

    Time has passed, a terminology was loaded, the clinic's policy is another: nothing is written where it is the same.
    """
    now = setting.clock()
    await judge_view(View(record, patient), setting)
    newest = await _newest(View(record, patient))
    if newest is None or eligibility_outcome(newest, now) != "eligible":
        return
    end = newest["prediction"][0].get("whenPeriod", {}).get("end")
    if end is None:
        return
    policy = setting.rules.eligibility
    due = interval(end)[0]
    if due - timedelta(days=policy.ask_again.days) <= now:
        asked = task(
            ("screening", patient, end),
            patient=patient,
            code=SCREEN_AGAIN,
            description=(
                f"The answers of the screening count until {end}. Ask the screening questions again before; after that "
                f"the course is on hold. Source: {policy.answers_age.source}."
            ),
            now=now,
            focus=f"RiskAssessment/{newest['id']}",
            due=due,
        )
        await raise_once(record, asked)


async def _end_asking(view: View, before: Resource, now: datetime) -> None:
    end = before["prediction"][0].get("whenPeriod", {}).get("end")
    if end is not None:
        name = identifier(ID_TASK, "screening", view.patient, end)
        await close_task(view.record, name, now, why="The questions were asked again.")


async def _tell(view: View, result: Screening, assessment: Resource, before: Resource | None, now: datetime) -> None:
    """Tell people that somebody who was eligible is no longer; take it back where he is again."""
    name = ("eligibility", view.patient)
    if before is not None:
        await _end_asking(view, before, now)
    if result.outcome == "eligible":
        await close_flag(view.record, identifier(ID_FLAG, *name), now)
        why = "A later screening found the patient eligible."
        await close_task(view.record, identifier(ID_TASK, *name), now, why=why)
        return
    if before is None or eligibility_outcome(before) != "eligible":
        return
    text = f"No longer eligible since {zulu(now)}: {assessment['note'][0]['text']}"
    raised = flag(name, patient=view.patient, code=ELIGIBILITY_LOST, text=text, now=now)
    await raise_once(view.record, raised, reopen=True)
    asked = task(
        name,
        patient=view.patient,
        code=ELIGIBILITY_LOST,
        description=(
            f"{text} The course is on hold and no dose is to be given. {assessment.get('mitigation', '')} Then screen "
            "again (POST Patient/[id]/$screen) and let the course go on (EpisodeOfCare.status)."
        ),
        now=now,
        priority="urgent",
        focus=f"RiskAssessment/{assessment['id']}",
    )
    await raise_once(view.record, asked, reopen=True)


def assessment_of(result: Screening, chart: Chart, policy: Policy, recommended: Iterable[ToDo] = ()) -> Resource:
    """Return the RiskAssessment of a screening, with what is recommended to be measured before the first dose."""
    patient, now = str(chart.patient["id"]), chart.now
    telling = [finding for finding in result.findings if finding.verdict != "clear"]
    shown = [one for one in result.findings if one.verdict != "clear" or one.rule == "E24"]
    basis = [chart.answers_reference] if chart.answers_reference else []
    basis.extend(one for finding in result.findings for one in finding.evidence)
    outcome = OUTCOMES[result.outcome]
    summary = "; ".join(_sentence(finding) for finding in telling)
    planned = [("drug", chart.drug), ("route", chart.route)]
    inner = [{"url": name, "valueCode": value} for name, value in planned if value is not None]
    prediction: dict[str, Any] = {"outcome": outcome.concept()}
    if result.valid_until is not None and result.valid_until > now:
        prediction["whenPeriod"] = {"start": zulu(now), "end": zulu(result.valid_until)}
    made: dict[str, Any] = {
        "resourceType": "RiskAssessment",
        "meta": own.claiming(own.ELIGIBILITY),
        "extension": [
            policy_extension(policy.version),
            *({"url": EXT_ACKNOWLEDGED, "valueString": f"{name}: {why}"} for name, why in policy.acknowledged.items()),
            *([{"url": EXT_SCREENED_FOR, "extension": inner}] if inner else []),
            *(_finding_extension(finding) for finding in shown),
            *(_to_do_extension(one) for one in recommended),
        ],
        "identifier": [identifier(ID_SCREENING, patient, zulu(now))],
        "status": "final",
        "method": SCREENING.concept(),
        "code": ELIGIBILITY.concept(),
        "subject": reference("Patient", patient),
        "occurrenceDateTime": zulu(now),
        "basis": [{"reference": one} for one in dict.fromkeys(basis)],
        "prediction": [prediction],
        "mitigation": " ".join(dict.fromkeys(f"{finding.rule}: {finding.advice}" for finding in telling)),
        "note": [{"text": f"{outcome.display}. {summary}".strip()}],
    }
    return {key: value for key, value in made.items() if value}


def provenance_of(
    target: str, seen: Sequence[str], meant: Mapping[tuple[str, str], frozenset[str]], policy: Policy, now: datetime
) -> Resource:
    """Return what a decision was made on and under: the versions that were looked at, and exactly which policy."""
    return {
        "resourceType": "Provenance",
        **({"extension": [_meaning(*one) for one in sorted(meant.items())]} if meant else {}),
        "target": [{"reference": target}],
        "recorded": zulu(now),
        "policy": [f"{POLICY_URI}{policy.digest}"],
        "activity": SCREENING.concept(),
        "agent": [{"type": ASSEMBLER.concept(), "who": {"display": "KAP Exchange intake"}}],
        "entity": [{"role": "source", "what": {"reference": one}} for one in seen],
    }


def _meaning(code: tuple[str, str], above: frozenset[str]) -> dict[str, Any]:
    inner = [
        {"url": "code", "valueCoding": {"system": code[0], "code": code[1]}},
        *({"url": "above", "valueCoding": {"system": code[0], "code": one}} for one in sorted(above)),
    ]
    return {"url": EXT_MEANING, "extension": inner}


def meanings_of(provenance: Resource) -> dict[tuple[str, str], frozenset[str]]:
    """Return what codes meant when something was decided."""
    found = {}
    for one in provenance.get("extension", []):
        if one.get("url") == EXT_MEANING:
            parts = one.get("extension", [])
            own = next(part["valueCoding"] for part in parts if part.get("url") == "code")
            above = frozenset(part["valueCoding"]["code"] for part in parts if part.get("url") == "above")
            found[own["system"], own["code"]] = above
    return found


def _sentence(finding: Finding) -> str:
    says = {"hit": "applies", "decided": "applies, decided by a prescriber", "not-known": "is not known"}
    return f"{finding.rule} {finding.title}: {says[finding.verdict]}. {finding.why}".rstrip()


def _finding_extension(finding: Finding) -> dict[str, Any]:
    inner: list[dict[str, Any]] = [
        {"url": "rule", "valueCode": finding.rule},
        {"url": "verdict", "valueCode": finding.verdict},
        {"url": "severity", "valueCode": finding.severity},
        {"url": "text", "valueString": f"{finding.title}. {finding.why}".strip()},
        {"url": "change", "valueString": finding.advice},
        {"url": "source", "valueString": finding.source},
        *({"url": "evidence", "valueReference": {"reference": one}} for one in finding.evidence),
    ]
    return {"url": EXT_FINDING, "extension": inner}


def _to_do_extension(one: ToDo) -> dict[str, Any]:
    inner: list[dict[str, Any]] = [
        {"url": "test", "valueCode": one.name},
        {"url": "code", "valueCodeableConcept": concept_of(one.test)},
        {"url": "needed", "valuePositiveInt": one.test.count},
        {"url": "found", "valueUnsignedInt": one.found},
        {"url": "text", "valueString": one.text},
        {"url": "source", "valueString": one.test.source},
        *({"url": "evidence", "valueReference": {"reference": reference}} for reference in one.evidence),
    ]
    return {"url": EXT_TO_DO, "extension": inner}


def concept_of(test: Recommended) -> dict[str, Any]:
    """Return what is recommended as a CodeableConcept: any of its codes will do."""
    return {"coding": [{"system": LOINC, "code": code} for code in test.codes], "text": test.title}


async def _keep_issues(view: View, result: Screening, now: datetime, setting: Setting) -> None:
    before = await screening_issues(view)
    hits = {finding.rule: finding for finding in result.findings if finding.verdict in ("hit", "decided")}
    for finding in hits.values():
        held = setting.rules.interactions.get(finding.rule)
        await _keep_issue(view, finding, now, setting.policy.version, None if held is None else held.hours_before)
    for rule, issue in before.items():
        if rule not in hits and not _is_changing(view, issue):
            ended = {"action": NO_LONGER.concept(text="A later screening did not find it."), "date": zulu(now)}
            gone = {**issue, "status": "cancelled", "mitigation": [*issue.get("mitigation", []), ended]}
            await view.record.update(content_of(gone))


def _is_changing(view: View, issue: Resource) -> bool:
    """Tell whether an issue is the one that is about to be written by somebody: then it is left to him."""
    return view.change is not None and view.change.type == "DetectedIssue" and view.change.id == issue["id"]


async def _keep_issue(view: View, finding: Finding, now: datetime, version: str, hold: int | None) -> None:
    name = ("screen", view.patient, finding.rule)
    wanted = detected_issue(
        name,
        patient=view.patient,
        code=rule_code(finding.rule, finding.title),
        severity=ISSUE_SEVERITY[finding.severity],
        detail=f"{finding.title}. {finding.why} {finding.advice} Source: {finding.source}.",
        now=now,
        implicated=finding.evidence,
        policy=version,
    )
    if hold is not None:
        before = {"value": hold, "unit": "h", "system": UCUM, "code": "h"}
        wanted["extension"] = [*wanted["extension"], {"url": EXT_HOLD_BEFORE, "valueDuration": before}]
    held = await find(view.record, "DetectedIssue", identifier(ID_FINDING, *name))
    if held is None:
        await view.record.create(wanted)
        return
    if _is_changing(view, held):
        return
    kept: Resource = {key: held[key] for key in ("id", "mitigation") if key in held}
    same_ground = held.get("implicated") == wanted.get("implicated") and held["status"] == "final"
    if same_ground:
        kept["identifiedDateTime"] = held["identifiedDateTime"]
    else:
        kept.pop("mitigation", None)
    brought = {**wanted, **kept}
    if brought != content_of(held):
        await view.record.update(brought)
