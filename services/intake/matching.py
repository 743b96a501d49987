"""`Patient/$match`: who of those held may be the person that is asked for, so that nobody is entered twice.

Who is entered all the same is compared, too: then a person is asked. A referral, which opens a course, is for the one
who is held already: nobody is entered for it whom `$match` would certainly have found.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

from services.intake.rules.matching import GRADES, Match, MatchPolicy, identifiers, match, telecoms
from services.intake.screening import standing_of
from services.intake.setting import Setting
from shared.fhir.codes import EXT_MATCH_WHY, ID_TASK, POSSIBLE_DOUBLE
from shared.fhir.json import Resource
from shared.fhir.kap import is_referral, patient_of
from shared.fhir.outcome import Unprocessable
from shared.fhir.raised import identifier, task
from shared.fhir.validation import require_valid
from shared.runtime.asking import wrongly_asked
from shared.runtime.raising import OPEN_TASK, find, is_own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change, Operation, OperationCall

EXT_GRADE: Final = "http://hl7.org/fhir/StructureDefinition/match-grade"
DEFINITION: Final = "http://hl7.org/fhir/OperationDefinition/Patient-match"
ASKED_ABOUT: Final = ("certain", "probable")
"""Grades at which somebody is asked whether a Patient who was entered is held already."""
MOST_NAMED: Final = 5


@dataclass(frozen=True, slots=True)
class Asked:
    """What `$match` is asked."""

    patient: Resource
    only_certain: bool
    count: int | None


def match_operation(setting: Setting) -> Operation:
    """Return `Patient/$match` under a policy."""
    policy = setting.policy.section("matching", MatchPolicy)

    async def run(call: OperationCall, record: Record) -> Resource:
        return await _match(asked_of(call.parameters), record, policy)

    return Operation(
        name="match",
        type="Patient",
        level="type",
        handler=run,
        affects_state=False,
        definition=DEFINITION,
        documentation=(
            "Finds who of those held may be the Patient in `resource`, best first, each with a grade, a score and why; "
            "of a merged pair the one that stands. Parameters resource, onlyCertainMatches, count. Creates nothing."
        ),
    )


async def matches(patient: Resource, record: Record, policy: MatchPolicy) -> list[tuple[Resource, Match]]:
    """Return who of those held may be `patient`, best first; the longer held of two that are equally alike."""
    best: dict[str, tuple[Resource, Match]] = {}
    for candidate in await _candidates(patient, record):
        found = match(patient, candidate, policy)
        standing = await standing_of(candidate, record)
        if found.grade == "certainly-not" or standing is None:
            continue
        if standing["id"] != candidate["id"]:
            found = Match(found.grade, found.score, f"{found.why}; by Patient/{candidate['id']}, which it replaces")
        known = best.get(standing["id"])
        if known is None or _rank(found) < _rank(known[1]):
            best[standing["id"]] = (standing, found)
    return sorted(best.values(), key=lambda one: _rank(one[1]))


async def ask_whether_double(change: Change, record: Record, setting: Setting, policy: MatchPolicy) -> None:
    """Guard of Patient: who is entered though he may be held already is entered, and a person is asked to compare."""
    if is_own_work() or change.before is not None or change.after is None:
        return
    entered = {**change.after, "id": change.id}
    found = [(one, why) for one, why in await matches(entered, record, policy) if one["id"] != change.id]
    alike = [(one, why) for one, why in found if why.grade in ASKED_ABOUT]
    if not alike:
        return
    if any(is_new_referral(one) for one in await record.search("ServiceRequest", {"patient": f"Patient/{change.id}"})):
        await _refuse_known(entered, found, record, policy)
    told = "; ".join(f"Patient/{one['id']} ({why.grade}: {why.why})" for one, why in alike[:MOST_NAMED])
    asked = task(
        ("double", change.id),
        patient=change.id,
        code=POSSIBLE_DOUBLE,
        description=(
            f"Patient/{change.id} may be held already: {told}. Compare them. If they are one person, join them "
            "(POST Patient/$merge); what one record says of a danger is not seen in the other until then. If they are "
            "two, complete this Task."
        ),
        now=setting.clock(),
        priority="asap",
        focus=f"Patient/{change.id}",
    )
    await raise_once(record, asked)


async def require_known(change: Change, record: Record, policy: MatchPolicy) -> None:
    """Guard of ServiceRequest: a referral is for who is held already, not for a record that was entered beside his.

    Raises:
        Unprocessable: M-HELD.

    """
    patient = None if change.after is None else patient_of(change.after)
    if change.before is not None or change.after is None or patient is None or not is_new_referral(change.after):
        return
    asked = await find(record, "Task", identifier(ID_TASK, "double", patient))
    entered = await record.get("Patient", patient)
    if entered is not None and asked is not None and asked["status"] in OPEN_TASK:
        await _refuse_known(entered, await matches(entered, record, policy), record, policy)


def is_new_referral(request: Resource) -> bool:
    """Tell whether a ServiceRequest is a referral that opens a course."""
    return is_referral(request) and request.get("status") == "active"


async def _refuse_known(
    entered: Resource, found: list[tuple[Resource, Match]], record: Record, policy: MatchPolicy
) -> None:
    """Refuse a referral of somebody who is certainly held already, as far as the caller may know of that one."""
    for other, why in found:
        name = f"Patient/{other['id']}"
        if other["id"] == entered["id"] or why.grade != "certain":
            continue
        access = record.access if record.reads is None else record.reads
        if await record.transaction.find(access, "Patient", other["id"]) is None:
            continue  # who may not know of him is told nothing: his referral is taken, and a person compares
        raise Unprocessable(
            f"The one who is referred is held already: {name} ({why.why}). Refer that one: name {name} as the subject "
            "and leave the Patient out, or give the Patient's entry an ifNoneExist with his identifier (POST "
            "Patient/$match finds who is held). If they are two, enter the Patient alone, complete the Task that asks "
            "to compare them, and refer then.",
            expression=["ServiceRequest.subject"],
            rule="M-HELD",
            source=policy.least.source,
            evidence=[name],
        )


def _rank(found: Match) -> tuple[int, float]:
    return GRADES.index(found.grade), -found.score


async def _candidates(patient: Resource, record: Record) -> list[Resource]:
    """Return everybody who shares with `patient` what a match needs: a number, a birthday, an address or the name."""
    found: dict[str, Resource] = {}
    for criteria in _searches(patient):
        found.update({one["id"]: one for one in await record.search("Patient", criteria)})
    return list(found.values())


def _searches(patient: Resource) -> Iterator[dict[str, str]]:
    numbers = [_escaped(system) + "|" + _escaped(value) for system, _, value in _parts(identifiers(patient))]
    if numbers:
        yield {"identifier": ",".join(numbers)}
    if patient.get("birthDate"):
        yield {"birthdate": str(patient["birthDate"])}
    for system in ("phone", "email"):
        values = [_escaped(one) for one in telecoms(patient, system)]
        if values:
            yield {system: ",".join(values)}
    for name in patient.get("name", []):
        given = next((one for one in name.get("given", []) if one), None)
        if name.get("family") and given:
            yield {"family": _escaped(name["family"]), "given": _escaped(given[0])}


def _parts(tokens: list[str]) -> list[tuple[str, str, str]]:
    return [one.partition("|") for one in tokens]


def _escaped(value: str) -> str:
    for sign in "\\,|$":
        value = value.replace(sign, f"\\{sign}")
    return value


def asked_of(parameters: Resource) -> Asked:
    """Return what is asked.

    Raises:
        BadRequest: no Patient, one that is not valid, or another parameter.

    """
    patient: Resource | None = None
    only_certain, count = False, None
    for one in parameters.get("parameter", []):
        name = one.get("name")
        if name == "resource":
            patient = one.get("resource")
        elif name == "onlyCertainMatches":
            only_certain = _is_true(one)
        elif name == "count":
            count = _count(one)
        else:
            raise wrongly_asked(
                f"$match has no parameter '{name}': leave it out. It has: resource, onlyCertainMatches, count."
            )
    if not isinstance(patient, dict) or patient.get("resourceType") != "Patient":
        raise wrongly_asked("Give the Patient to look for as the parameter resource.", code="required")
    require_valid(patient)
    return Asked(patient, only_certain, count)


def _is_true(parameter: dict[str, Any]) -> bool:
    said = parameter.get("valueBoolean", parameter.get("valueString"))
    if said in (True, "true"):
        return True
    if said in (False, "false"):
        return False
    raise wrongly_asked("The parameter onlyCertainMatches is true or false: give it as a valueBoolean.")


def _count(parameter: dict[str, Any]) -> int:
    said = parameter.get("valueInteger", parameter.get("valueString"))
    if isinstance(said, bool) or not str(said).isdecimal() or int(str(said)) < 1:
        raise wrongly_asked("The parameter count is 1 or more: give it as a valueInteger.")
    return int(str(said))


async def _match(asked: Asked, record: Record, policy: MatchPolicy) -> Resource:
    found = await matches(asked.patient, record, policy)
    if asked.only_certain:
        certain = [one for one in found if one[1].grade == "certain"]
        found = certain if len(certain) == 1 else []
    found = found[: asked.count]
    entries = [
        {
            "resource": patient,
            "search": {
                "extension": [
                    {"url": EXT_GRADE, "valueCode": one.grade},
                    {"url": EXT_MATCH_WHY, "valueString": one.why},
                ],
                "mode": "match",
                "score": round(one.score, 2),
            },
        }
        for patient, one in found
    ]
    bundle: Resource = {"resourceType": "Bundle", "type": "searchset", "total": len(entries)}
    return {**bundle, "entry": entries} if entries else bundle
