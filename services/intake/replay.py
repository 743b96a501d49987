"""Making a decision again: on the versions it was made on, under the policy it was made under."""

from __future__ import annotations

from typing import Any

from services.intake.chart import Pinned, chart_of, dated
from services.intake.rules.eligibility import screen
from services.intake.screening import assessment_of, meanings_of
from services.intake.setting import Setting
from shared.fhir.codes import EXT_TO_DO, POLICY_URI, SCREENING
from shared.fhir.dates import interval
from shared.fhir.json import Resource, parse
from shared.fhir.kap import eligibility_outcome, has_code, patient_of, screened_for
from shared.fhir.outcome import Gone, NotFound, Unprocessable
from shared.runtime.asking import not_held
from shared.runtime.policy import Policy
from shared.runtime.record import Record
from shared.runtime.service import OperationCall
from shared.store.policies import content_of

_NAMED = 4
"""Parts of a reference to a version: type, id, ``_history``, version."""


async def replay(call: OperationCall, record: Record, setting: Setting) -> Resource:
    """Answer with what a screening's decision is when it is made again, and whether it is the same.

    Raises:
        NotFound: no such RiskAssessment.
        Unprocessable: it is no decision of a screening, or what it was made on is not kept.

    """
    assessment = await record.get("RiskAssessment", str(call.id))
    if assessment is None:
        raise not_held(f"RiskAssessment/{call.id}")
    about = [
        one
        for one in await record.search("Provenance", {"target": f"RiskAssessment/{call.id}"})
        if has_code(one.get("activity"), SCREENING)
    ]
    if not about:
        raise _not_kept(
            "It is not recorded what this decision was made on.", "RiskAssessment", f"RiskAssessment/{call.id}"
        )
    digest = next((uri.removeprefix(POLICY_URI) for uri in about[0]["policy"] if uri.startswith(POLICY_URI)), "")
    content = await content_of(record.transaction, digest)
    if content is None:
        raise _not_kept(f"The policy {digest} is not kept here.", "Provenance.policy", f"Provenance/{about[0]['id']}")
    policy = Policy.of_content(content)
    again = await _decide(record, assessment, about[0], Setting.of(policy, setting.clock), policy)
    same = _content(again) == _content(assessment)
    said: list[dict[str, Any]] = [
        {"name": "same", "valueBoolean": same},
        {"name": "policy", "valueUri": f"{POLICY_URI}{digest}"},
        {"name": "version", "valueString": policy.version},
        {"name": "outcome", "valueCode": eligibility_outcome(again)},
        {"name": "assessment", "resource": again},
    ]
    return {"resourceType": "Parameters", "parameter": said}


async def _decide(
    record: Record, assessment: Resource, provenance: Resource, setting: Setting, policy: Policy
) -> Resource:
    held = [await _version(record, one["what"]["reference"]) for one in provenance.get("entity", [])]
    pinned = Pinned(str(patient_of(assessment)), held, meanings_of(provenance))
    patient = await pinned.the_patient()
    if patient is None:
        said = "The decision does not say which version of the Patient it saw."
        raise _not_kept(said, "Provenance.entity", f"Provenance/{provenance['id']}")
    drug, route = screened_for(assessment)
    now = interval(assessment["occurrenceDateTime"])[0]
    chart = await chart_of(pinned, patient, setting, drug=drug, route=route, now=now)
    return assessment_of(screen(chart, setting.rules), chart, policy)


def _not_kept(said: str, where: str, evidence: str) -> Unprocessable:
    return Unprocessable(
        f"{said} Without it the decision cannot be made again: screen the patient anew (POST Patient/<id>/$screen).",
        expression=[where],
        rule="E-REPLAY",
        source="KAP Exchange",
        evidence=[evidence],
    )


async def _version(record: Record, reference: str) -> Resource:
    parts = reference.split("/")
    if len(parts) != _NAMED:
        raise _not_kept(f"{reference} names no version.", "Provenance.entity", reference)
    try:
        stored = await record.transaction.read_version(record.access, parts[0], parts[1], int(parts[-1]))
    except (NotFound, Gone) as error:
        raise _not_kept(
            f"{reference}, on which the decision was made, is not kept any more. {error}",
            "Provenance.entity",
            reference,
        ) from None
    return await dated(parse(stored.body), record)


def _content(assessment: Resource) -> Resource:
    """Return what an assessment decided: one that was taken back as an error decided it all the same.

    What it shows besides as recommended, and still to do, was no part of the decision.
    """
    decided = [one for one in assessment.get("extension", []) if one.get("url") != EXT_TO_DO]
    rest = {name: value for name, value in assessment.items() if name not in ("id", "meta", "status")}
    return {**rest, "extension": decided}
