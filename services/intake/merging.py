"""`Patient/$merge` and `$unmerge`: two records of one person are joined by `Patient.link`, and parted again.

What each record holds stays where it is, so that parting them is exact. The one that stands is judged on both
(`chart.View`); the other is judged as replaced, which closes every gate on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final

from services.intake.chart import View
from services.intake.course import bring_up_to_date, open_course
from services.intake.rules.course import UNDECIDED
from services.intake.rules.matching import GRADES, MatchPolicy, match
from services.intake.screening import judge_view
from services.intake.setting import Setting
from shared.fhir.codes import ASSEMBLER, ID_TASK, MERGE, UNMERGE, Code
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource, parse
from shared.fhir.kap import comes_from_elsewhere, id_in, is_order_in_force, reference, replaced_by, replaces, stage_of
from shared.fhir.outcome import Issue, Unprocessable
from shared.fhir.raised import identifier, task
from shared.runtime.asking import not_held, wrongly_asked
from shared.runtime.raising import close_task, content_of, is_own_work, own_work, raise_once
from shared.runtime.record import Record
from shared.runtime.service import Change, Operation, OperationCall

LINKS: Final = ("replaced-by", "replaces")


@dataclass(frozen=True, slots=True)
class Pair:
    """The record that is given up (`source`) and the one that stands (`target`)."""

    source: Resource
    target: Resource
    preview: bool

    @property
    def references(self) -> list[str]:
        """Both, as references."""
        return [f"Patient/{one['id']}" for one in (self.source, self.target)]


def merge_operations(setting: Setting) -> tuple[Operation, ...]:
    """Return `Patient/$merge` and `Patient/$unmerge` under a policy."""
    policy = setting.policy.section("matching", MatchPolicy)

    async def join(call: OperationCall, record: Record) -> Resource:
        return await _merge(await _pair(call, record), record, setting, policy)

    async def part(call: OperationCall, record: Record) -> Resource:
        return await _unmerge(await _pair(call, record), record, setting)

    return (
        Operation(
            name="merge",
            type="Patient",
            level="type",
            handler=join,
            documentation=(
                "Joins two records of one person: source-patient is replaced by target-patient. What each holds stays "
                "where it is; the target is judged on both. preview: only tells whether it may be. $unmerge undoes it."
            ),
        ),
        Operation(
            name="unmerge",
            type="Patient",
            level="type",
            handler=part,
            documentation="Parts two records that $merge joined (source-patient, target-patient), exactly.",
        ),
    )


async def guard_links(change: Change, _record: Record) -> None:
    """Refuse to make or take away a link by hand that says that one Patient stands for another.

    Raises:
        Unprocessable: M-LINK.

    """
    if is_own_work() or change.after is None or comes_from_elsewhere(change.after):
        return
    if _joined(change.after) != _joined(change.before or {}):
        raise Unprocessable(
            "Records are joined by POST Patient/$merge and parted by $unmerge, which see to what follows. Leave "
            "Patient.link of the types replaced-by and replaces as it is.",
            expression=["Patient.link"],
            rule="M-LINK",
            source="KAP Exchange",
            evidence=[f"Patient/{other}" for _, other in (*_joined(change.before or {}), *_joined(change.after))],
        )


def _joined(patient: Resource) -> list[tuple[str, str | None]]:
    return [
        (one["type"], id_in(one.get("other"), "Patient")) for one in patient.get("link", []) if one.get("type") in LINKS
    ]


async def _pair(call: OperationCall, record: Record) -> Pair:
    given: dict[str, Any] = {}
    for one in call.parameters.get("parameter", []):
        name = one.get("name")
        if name in ("source-patient", "target-patient"):
            given[name] = id_in(one.get("valueReference", {"reference": one.get("valueString")}), "Patient")
        elif name == "preview" and call.name == "merge":
            given[name] = one.get("valueBoolean")
        else:
            raise wrongly_asked(
                f"${call.name} has no parameter '{name}': leave it out. It has: source-patient, target-patient, and "
                "$merge preview."
            )
    if not isinstance(given.get("preview", False), bool):
        raise wrongly_asked("The parameter preview is true or false: give it as a valueBoolean.")
    source = await _named("source-patient", given, record)
    target = await _named("target-patient", given, record)
    return Pair(source, target, given.get("preview", False))


async def _named(name: str, given: Mapping[str, Any], record: Record) -> Resource:
    id_ = given.get(name)
    if not id_:
        raise wrongly_asked(f"The parameter {name} is missing: give a valueReference to a Patient.", code="required")
    found = await record.get("Patient", id_)
    if found is None:
        raise not_held(f"Patient/{id_}")
    return found


async def _merge(pair: Pair, record: Record, setting: Setting, policy: MatchPolicy) -> Resource:
    issues = await _against(pair, record, setting, policy)
    if issues:
        raise Unprocessable(issues)
    said = f"Patient/{pair.source['id']} is replaced by Patient/{pair.target['id']}."
    if pair.preview:
        return _answer(f"Nothing stands against it. {said} Nothing was changed.", pair.target)
    source = {**pair.source, "active": False, "link": [*pair.source.get("link", []), _link(pair.target, "replaced-by")]}
    target = {**pair.target, "link": [*pair.target.get("link", []), _link(pair.source, "replaces")]}
    written = await _write(pair, source, target, MERGE, record, setting)
    for one in (source, target):
        await close_task(record, identifier(ID_TASK, "double", one["id"]), setting.clock(), why=said)
    return _answer(said, written)


async def _unmerge(pair: Pair, record: Record, setting: Setting) -> Resource:
    source_id, target_id = pair.source["id"], pair.target["id"]
    if replaced_by(pair.source) != target_id or source_id not in replaces(pair.target):
        raise Unprocessable(
            f"Patient/{source_id} was not replaced by Patient/{target_id}. Patient.link says who was "
            "joined with whom: name those two.",
            expression=["Patient.link"],
            rule="M-JOINED",
            source="KAP Exchange",
            evidence=pair.references,
        )
    before = await _before(pair, record)
    source = _without(pair.source, target_id)
    source.pop("active", None)
    if "active" in before:
        source["active"] = before["active"]
    written = await _write(pair, source, _without(pair.target, source_id), UNMERGE, record, setting)
    return _answer(f"Patient/{source_id} and Patient/{target_id} are two people again.", written)


async def _before(pair: Pair, record: Record) -> Resource:
    """Return the version of the source that was joined with the target last; as it is now where that is not kept."""
    joined = [
        one["entity"][0]["what"]["reference"]
        for one in await record.search("Provenance", {"target": f"Patient/{pair.source['id']}"})
        if any(coding.get("code") == MERGE.code for coding in one.get("activity", {}).get("coding", []))
        and id_in(one["target"][-1], "Patient") == pair.target["id"]
    ]
    if not joined:
        return pair.source
    version = int(joined[-1].rpartition("/")[2])
    stored = await record.transaction.read_version(record.access, "Patient", pair.source["id"], version)
    found: Resource = parse(stored.body)
    return found


def _without(patient: Resource, other: str) -> Resource:
    """Return a Patient without the links of `LINKS` to another."""
    links = [
        one
        for one in patient.get("link", [])
        if one.get("type") not in LINKS or id_in(one.get("other"), "Patient") != other
    ]
    rest = {name: value for name, value in patient.items() if name != "link"}
    return {**rest, "link": links} if links else rest


async def _write(
    pair: Pair, source: Resource, target: Resource, what: Code, record: Record, setting: Setting
) -> Resource:
    """Write both, how it came about, and what a person has to look at; judge both anew."""
    now = setting.clock()
    with own_work():
        await record.update(content_of(source))
        written = await record.update(content_of(target))
        proof = await record.create(_provenance(pair, what, zulu(now)))
    await judge_view(View(record, target["id"]), setting)
    await judge_view(View(record, source["id"]), setting)
    for one in (target, source):
        await bring_up_to_date(record, one["id"], now, setting.sets)
    both = f"Patient/{source['id']} and Patient/{target['id']}"
    text = (
        f"The records of {both} were joined: both belong to one person, and Patient/{target['id']} stands. Read both, "
        "and bring allergies, medicines, appointments and consents that go on to the one that stands."
        if what is MERGE
        else f"The records of {both} were parted. What was written while they were joined is with the one it was "
        "written for: look through it, and correct what belongs to the other person."
    )
    asked = task(
        (what.code, proof.stored.id),
        patient=target["id"],
        code=what,
        description=text,
        now=now,
        priority="urgent",
        focus=f"Patient/{target['id']}",
    )
    await raise_once(record, asked)
    found: Resource = parse(written.stored.body)
    return found


def _provenance(pair: Pair, what: Code, when: str) -> Resource:
    versions = [f"Patient/{one['id']}/_history/{one['meta']['versionId']}" for one in (pair.source, pair.target)]
    return {
        "resourceType": "Provenance",
        "target": [reference("Patient", pair.source["id"]), reference("Patient", pair.target["id"])],
        "recorded": when,
        "activity": what.concept(),
        "agent": [{"type": ASSEMBLER.concept(), "who": {"display": "KAP Exchange intake"}}],
        "entity": [{"role": "revision", "what": {"reference": one}} for one in versions],
    }


async def _against(pair: Pair, record: Record, setting: Setting, policy: MatchPolicy) -> Sequence[Issue]:
    """Return what stands against joining the two."""
    source, target = pair.source, pair.target
    if source["id"] == target["id"]:
        return [_issue("M-SAME", "A record cannot replace itself. Name two.", "KAP Exchange", pair.references[:1])]
    issues = []
    for one in (source, target):
        other = replaced_by(one)
        if other is not None:
            issues.append(
                _issue(
                    "M-JOINED",
                    f"Patient/{one['id']} was replaced by Patient/{other}: name that one.",
                    "KAP Exchange",
                    [f"Patient/{one['id']}"],
                )
            )
    found = match(source, target, policy)
    if GRADES.index(found.grade) > GRADES.index(policy.merging.least):
        issues.append(
            _issue(
                "M-ALIKE",
                f"The two are graded {found.grade} ({found.why}), and at least {policy.merging.least} is needed. "
                "Correct what is wrong in one of them first.",
                policy.merging.source,
                pair.references,
            )
        )
    issues.extend(await _running(source, record, setting, policy))
    return issues


async def _running(source: Resource, record: Record, setting: Setting, policy: MatchPolicy) -> list[Issue]:
    """Return what still goes on in the record that is to be given up."""
    id_ = source["id"]
    about = {"patient": f"Patient/{id_}"}
    issues = []
    course = await open_course(record, id_)
    if course is not None and stage_of(course) not in UNDECIDED:
        issues.append(
            _issue(
                "M-COURSE",
                f"A course of Patient/{id_} is not over. Join the other way round, or end it (EpisodeOfCare.status).",
                policy.merging.source,
                [f"EpisodeOfCare/{course['id']}"],
            )
        )
    orders = [
        f"MedicationRequest/{one['id']}"
        for one in await record.search("MedicationRequest", about)
        if is_order_in_force(one)
    ]
    if orders:
        issues.append(
            _issue(
                "M-ORDER",
                f"Orders of Patient/{id_} are in force: {', '.join(orders)}. Stop them, or write them for the other.",
                policy.merging.source,
                orders,
            )
        )
    since = setting.clock() - timedelta(days=policy.merging.quiet_days)
    recent = [
        f"Encounter/{one['id']}"
        for one in await record.search("Encounter", about)
        if not comes_from_elsewhere(one)
        and one.get("period", {}).get("start")
        and interval(one["period"]["start"])[1] > since
    ]
    if recent:
        issues.append(
            _issue(
                "M-VISIT",
                f"Patient/{id_} had visits in the last {policy.merging.quiet_days} days ({', '.join(recent)}), which "
                "the spacing of doses counts. Join the other way round, or later.",
                policy.merging.source,
                recent,
            )
        )
    return issues


def _issue(rule: str, text: str, source: str, evidence: Sequence[str]) -> Issue:
    return Issue(
        text,
        code="business-rule",
        expression=("Parameters.parameter",),
        rule=rule,
        source=source,
        evidence=tuple(evidence),
    )


def _link(other: Resource, type_: str) -> dict[str, Any]:
    return {"other": reference("Patient", other["id"]), "type": type_}


def _answer(text: str, patient: Resource) -> Resource:
    outcome = {
        "resourceType": "OperationOutcome",
        "issue": [{"severity": "information", "code": "informational", "diagnostics": text}],
    }
    return {
        "resourceType": "Parameters",
        "parameter": [{"name": "outcome", "resource": outcome}, {"name": "result", "resource": patient}],
    }
