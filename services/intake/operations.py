"""Intake's operations: `Patient/$screen`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final, get_args

from services.intake.course import bring_up_to_date
from services.intake.rules.eligibility import Chart, Entry, Finding, Screening, screen
from services.intake.setting import Setting
from shared.fhir.codes import (
    ELIGIBILITY,
    EXT_FINDING,
    ID_FINDING,
    ID_SCREENING,
    LOINC,
    NO_LONGER,
    OUTCOMES,
    PROCEED,
    SCREENING,
    SCREENING_QUESTIONNAIRE,
    rule_code,
)
from shared.fhir.dates import zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import Drug, has_code, is_referral, moment, reference
from shared.fhir.outcome import BadRequest, NotFound
from shared.fhir.raised import IssueSeverity, detected_issue, identifier, policy_extension
from shared.runtime.medications import medication_of
from shared.runtime.raising import content_of, find, own_work
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall

FINISHED: Final = ("completed", "amended")
ISSUE_SEVERITY: Final[Mapping[str, IssueSeverity]] = {"A": "high", "R": "moderate", "I": "low"}


def operations(setting: Setting) -> tuple[Operation, ...]:
    """Return intake's operations under a policy."""

    async def run(call: OperationCall, record: Record) -> Resource:
        return await _screen(call, record, setting)

    return (
        Operation(
            name="screen",
            type="Patient",
            level="instance",
            handler=run,
            documentation=(
                "Judges from the record and the newest screening questionnaire whether the patient may be treated. "
                "Writes and returns a RiskAssessment, and a DetectedIssue for every rule that was hit. "
                "Parameter drug (code): ketamine or esketamine; without it the graver severity counts."
            ),
        ),
    )


async def _screen(call: OperationCall, record: Record, setting: Setting) -> Resource:
    patient_id = str(call.id)
    patient = await record.get("Patient", patient_id)
    if patient is None:
        raise NotFound(f"There is no Patient/{patient_id} here.")
    now = setting.clock()
    issues = await _issues(record, patient_id)
    observed = {sign.code for rule in setting.eligibility.rules.values() for sign in rule.observations}
    chart = await _chart(record, patient, _drug(call.parameters), issues, now, sorted(observed))
    result = screen(chart, setting.eligibility, setting.interactions, setting.sets)
    with own_work():
        written = await record.create(_assessment(result, chart, patient_id, now, setting.policy.version))
        await _keep_issues(record, result, issues, patient_id, now, setting.policy.version)
    await bring_up_to_date(record, patient_id, now, setting.sets)
    assessment: Resource = parse(written.stored.body)
    return assessment


def _drug(parameters: Resource) -> Drug | None:
    for parameter in parameters.get("parameter", []):
        if parameter.get("name") != "drug":
            raise BadRequest(
                f"$screen has no parameter '{parameter.get('name')}'. It has: drug.",
                expression=["Parameters.parameter"],
            )
        value = parameter.get("valueCode")
        for drug in get_args(Drug):
            if value == drug:
                return "esketamine" if drug == "esketamine" else "ketamine"
        raise BadRequest(
            "The parameter drug is a valueCode: ketamine or esketamine.", expression=["Parameters.parameter.value"]
        )
    return None


async def _chart(
    record: Record,
    patient: Resource,
    drug: Drug | None,
    issues: Mapping[str, Resource],
    now: datetime,
    observed: Iterable[str],
) -> Chart:
    about = {"patient": f"Patient/{patient['id']}"}
    referrals = [
        one for one in await record.search("ServiceRequest", about) if is_referral(one) and one["status"] == "active"
    ]
    response = _newest_response(await record.search("QuestionnaireResponse", about))
    return Chart(
        patient=patient,
        conditions=[_entry(one, one.get("code")) for one in await record.search("Condition", about)],
        allergies=[_entry(one, one.get("code")) for one in await record.search("AllergyIntolerance", about)],
        medications=await _medications(record, about),
        observations=[
            _entry(one, one.get("code"))
            for code in observed
            for one in await record.search("Observation", {**about, "code": f"{LOINC}|{code}"})
        ],
        reasons=[reason for referral in referrals for reason in referral.get("reasonCode", [])],
        answers={} if response is None else _unanimous(answers_of(response)),
        answers_reference=None if response is None else f"QuestionnaireResponse/{response['id']}",
        drug=drug,
        decisions={rule: _decided(issue) for rule, issue in issues.items() if _decided(issue)},
        now=now,
    )


async def _medications(record: Record, about: Mapping[str, str]) -> list[Entry]:
    taken = [
        one
        for type_ in ("MedicationStatement", "MedicationRequest")
        for one in await record.search(type_, about)
        if one["status"] in ("active", "intended", "on-hold", "unknown")
    ]
    return [_entry(one, await medication_of(record, one)) for one in taken]


def _entry(resource: Resource, concept: Mapping[str, Any] | None) -> Entry:
    return Entry(f"{resource['resourceType']}/{resource['id']}", concept, resource)


def _newest_response(responses: list[Resource]) -> Resource | None:
    finished = [
        one
        for one in responses
        if str(one.get("questionnaire", "")).partition("|")[0] == SCREENING_QUESTIONNAIRE and one["status"] in FINISHED
    ]
    # One that does not say when it was answered is as old as its record, not for ever the newest.
    return max(
        finished,
        key=lambda one: (moment(one.get("authored", one["meta"]["lastUpdated"])), one["meta"]["lastUpdated"]),
        default=None,
    )


def answers_of(response: Resource) -> list[tuple[str, Any]]:
    """Return linkId and value of every boolean and integer answer of a QuestionnaireResponse, nested items too."""
    found: list[tuple[str, Any]] = []
    waiting = list(response.get("item", []))
    while waiting:
        item = waiting.pop(0)
        waiting.extend(item.get("item", []))
        for answer in item.get("answer", []):
            waiting.extend(answer.get("item", []))
            names = [name for name in ("valueBoolean", "valueInteger") if name in answer]
            found.extend((item["linkId"], answer[name]) for name in names)
    return found


def _unanimous(answers: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return each question's answer; none where it was answered in two ways: then it is not known."""
    return {link: value for link, value in answers if all(value == other for name, other in answers if name == link)}


async def _issues(record: Record, patient: str) -> dict[str, Resource]:
    """Return the DetectedIssues of earlier screenings that still stand, by rule."""
    found = {}
    for issue in await record.search("DetectedIssue", {"patient": f"Patient/{patient}"}):
        for one in issue.get("identifier", []):
            prefix, _, rule = str(one.get("value", "")).rpartition(":")
            if one.get("system") == ID_FINDING and prefix == f"screen:{patient}" and issue["status"] == "final":
                found[rule] = issue
    return found


def _decided(issue: Resource) -> frozenset[str]:
    """Return the evidence that a prescriber saw when he decided to proceed; nothing where he did not."""
    for mitigation in issue.get("mitigation", []):
        author = str(mitigation.get("author", {}).get("reference", ""))
        if has_code(mitigation.get("action"), PROCEED) and author.startswith(("Practitioner/", "PractitionerRole/")):
            return frozenset(str(one.get("reference")) for one in issue.get("implicated", []))
    return frozenset()


def _assessment(result: Screening, chart: Chart, patient: str, now: datetime, version: str) -> Resource:
    telling = [finding for finding in result.findings if finding.verdict != "clear"]
    basis = [chart.answers_reference] if chart.answers_reference else []
    basis.extend(one for finding in result.findings for one in finding.evidence)
    outcome = OUTCOMES[result.outcome]
    summary = "; ".join(_sentence(finding) for finding in telling)
    made: dict[str, Any] = {
        "resourceType": "RiskAssessment",
        "extension": [policy_extension(version), *(_finding_extension(finding) for finding in telling)],
        "identifier": [identifier(ID_SCREENING, patient, zulu(now))],
        "status": "final",
        "method": SCREENING.concept(),
        "code": ELIGIBILITY.concept(),
        "subject": reference("Patient", patient),
        "occurrenceDateTime": zulu(now),
        "basis": [{"reference": one} for one in dict.fromkeys(basis)],
        "prediction": [{"outcome": outcome.concept()}],
        "mitigation": " ".join(dict.fromkeys(f"{finding.rule}: {finding.advice}" for finding in telling)),
        "note": [{"text": f"{outcome.display}. {summary}".strip()}],
    }
    return {key: value for key, value in made.items() if value}


def _sentence(finding: Finding) -> str:
    says = {"hit": "applies", "decided": "applies, decided by a prescriber", "not-known": "is not known"}
    return f"{finding.rule} {finding.title}: {says[finding.verdict]}. {finding.why}".rstrip()


def _finding_extension(finding: Finding) -> dict[str, Any]:
    inner: list[dict[str, Any]] = [
        {"url": "rule", "valueCode": finding.rule},
        {"url": "verdict", "valueCode": finding.verdict},
        {"url": "severity", "valueCode": finding.severity},
        {"url": "text", "valueString": f"{finding.title}. {finding.why}".strip()},
        {"url": "source", "valueString": finding.source},
        *({"url": "evidence", "valueReference": {"reference": one}} for one in finding.evidence),
    ]
    return {"url": EXT_FINDING, "extension": inner}


async def _keep_issues(
    record: Record, result: Screening, before: Mapping[str, Resource], patient: str, now: datetime, version: str
) -> None:
    hits = {finding.rule: finding for finding in result.findings if finding.verdict in ("hit", "decided")}
    for finding in hits.values():
        await _keep_issue(record, finding, patient, now, version)
    for rule, issue in before.items():
        if rule not in hits:
            ended = {"action": NO_LONGER.concept(text="A later screening did not find it."), "date": zulu(now)}
            gone = {**issue, "status": "cancelled", "mitigation": [*issue.get("mitigation", []), ended]}
            await record.update(content_of(gone))


async def _keep_issue(record: Record, finding: Finding, patient: str, now: datetime, version: str) -> None:
    name = ("screen", patient, finding.rule)
    wanted = detected_issue(
        name,
        patient=patient,
        code=rule_code(finding.rule, finding.title),
        severity=ISSUE_SEVERITY[finding.severity],
        detail=f"{finding.title}. {finding.why} {finding.advice} Source: {finding.source}.",
        now=now,
        implicated=finding.evidence,
        policy=version,
    )
    held = await find(record, "DetectedIssue", identifier(ID_FINDING, *name))
    if held is None:
        await record.create(wanted)
        return
    kept: Resource = {key: held[key] for key in ("id", "mitigation") if key in held}
    same_ground = held.get("implicated") == wanted.get("implicated") and held["status"] == "final"
    if same_ground:
        kept["identifiedDateTime"] = held["identifiedDateTime"]
    else:
        kept.pop("mitigation", None)
    brought = {**wanted, **kept}
    if brought != content_of(held):
        await record.update(brought)
