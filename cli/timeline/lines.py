"""What a line of a timeline says of each kind of resource. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from shared.fhir.codes import (
    BACK_WITHIN,
    DIASTOLIC,
    DISCHARGE_QUESTIONNAIRE,
    EXT_FINDING,
    HEART_RATE,
    LOINC,
    OXYGEN_SATURATION,
    PRE_DOSE_QUESTIONNAIRE,
    REMS_QUESTIONNAIRE,
    RULE,
    SCREENING_QUESTIONNAIRE,
    SYSTOLIC,
    TREATED,
)
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, eligibility_outcome, has_code, moment

_CHANGE: Final = "change-from-baseline"
_YES_IS_WELL: Final = frozenset(
    ("escort", "oriented", "gait", "fluids", "escort-present", "taught-driving", "taught-alcohol", "safe", "E23", "MED")
)


class Line(NamedTuple):
    """One line: when, its place among those of the same minute, and what it says."""

    when: datetime
    rank: int
    text: str


@dataclass(frozen=True, slots=True)
class Known:
    """Everything of a record, by ``Type/id``."""

    held: dict[str, Resource]

    def of(self, type_: str) -> list[Resource]:
        """Return what is of a type."""
        return [one for one in self.held.values() if one["resourceType"] == type_]

    def who(self, reference: dict[str, Any] | None) -> str:
        """Return the name of whom or what a Reference means."""
        one = self.held.get(str((reference or {}).get("reference")))
        if one is None:
            return str((reference or {}).get("display", "somebody"))
        name = one.get("name")
        if isinstance(name, list):
            suffix = "".join(f", {part}" for part in name[0].get("suffix", []))
            return f"{' '.join(name[0].get('given', []))} {name[0].get('family', '')}{suffix}".strip()
        return str(name or one["resourceType"])

    def said(self, concept: dict[str, Any] | None) -> str:
        """Return a concept in words."""
        concept = concept or {}
        coded = [one.get("display") or one.get("code") for one in concept.get("coding", [])]
        return str(concept.get("text") or (coded[0] if coded else "something without a name"))

    def time_of(self, reference: str | None) -> datetime | None:
        """Return when what is referred to happened."""
        one = self.held.get(str(reference))
        if one is None:
            return None
        period = one.get("effectivePeriod") or one.get("period") or {}
        found = one.get("effectiveDateTime") or one.get("authored") or period.get("start") or one.get("authoredOn")
        return None if found is None else moment(found)

    def about(self, resource: Resource, *names: str) -> datetime | None:
        """Return the latest time of what a resource is about."""
        found = []
        for name in names:
            value = resource.get(name, [])
            for one in value if isinstance(value, list) else [value]:
                when = self.time_of(one.get("reference"))
                if when is not None:
                    found.append(when)
        return max(found, default=None)


def _referral(one: Resource, known: Known) -> Iterator[Line]:
    by = f" by {known.who(one['requester'])}" if "requester" in one else ""
    why = ", ".join(known.said(reason) for reason in one.get("reasonCode", []))
    yield Line(moment(one.get("authoredOn")), 0, f"Referred{by}: {known.said(one['code'])}, for {why or 'no reason'}")


def _screening(one: Resource, known: Known) -> Iterator[Line]:
    when = known.about(one, "basis") or moment(one.get("occurrenceDateTime"))
    found = []
    for extension in one.get("extension", []):
        if extension["url"] == EXT_FINDING:
            parts = {part["url"]: part.get("valueCode") for part in extension["extension"]}
            found.append(f"{parts['rule']} {parts['verdict']}")
    told = f" ({', '.join(found)})" if found else ""
    yield Line(when, 4, f"VERDICT  Screening: {eligibility_outcome(one) or one['status']}{told}")


def _consent(one: Resource, known: Known) -> Iterator[Line]:
    kinds = ", ".join(known.said(each).lower() for each in one.get("category", [])[1:])
    signer = known.who(next(iter(one.get("performer", [])), None))
    yield Line(moment(one.get("dateTime")), 5, f"Consent signed by {signer}: {kinds}")
    if one["status"] == "inactive":
        yield Line(moment(one["meta"]["lastUpdated"]), 0, f"Consent withdrawn: {kinds}")


def _plan(one: Resource, _known: Known) -> Iterator[Line]:
    yield Line(moment(one.get("created")), 6, f"Plan: {one.get('title', 'without a title')}")


def _order(one: Resource, known: Known) -> Iterator[Line]:
    says = "; ".join(str(each.get("text")) for each in one.get("dosageInstruction", []))
    numbers = [each["value"] for each in one.get("identifier", []) if each["system"].endswith("/prescription")]
    number = f" (prescription {numbers[0]})" if numbers else ""
    yield Line(moment(one.get("authoredOn")), 7, f"Order by {known.who(one.get('requester'))}: {says}{number}")


def _appointment(one: Resource, known: Known) -> Iterator[Line]:
    if one["status"] in {"booked", "pending", "cancelled", "noshow"}:
        why = f" ({known.said(one['cancelationReason'])})" if "cancelationReason" in one else ""
        yield Line(moment(one.get("start")), 1, f"{one.get('description', 'Visit')}: {one['status']}{why}")


def _visit(one: Resource, known: Known) -> Iterator[Line]:
    period = one.get("period", {})
    if "start" not in period:
        return
    kind = known.said(one["type"][0])
    where = " by video" if one["class"]["code"] == "VR" else ""
    people = ", ".join(known.who(each.get("individual")) for each in one.get("participant", []))
    yield Line(moment(period["start"]), 10, f"{kind}{where} begins, with {people or 'nobody named'}")
    if "end" in period:
        left = one.get("hospitalization", {}).get("dischargeDisposition")
        yield Line(moment(period["end"]), 90, f"{kind}{where} ends{f', leaves: {known.said(left)}' if left else ''}")


def _dose(one: Resource, known: Known) -> Iterator[Line]:
    period = one.get("effectivePeriod", {})
    start = moment(period.get("start") or one.get("effectiveDateTime"))
    dosage = one.get("dosage", {})
    amount = dosage.get("dose", {})
    until = f" until {moment(period['end']):%H:%M}" if moment(period.get("end")) != start and "end" in period else ""
    people = []
    for each in one.get("performer", []):
        function = known.said(each["function"]).lower() if "function" in each else "performer"
        people.append(f"{function} {known.who(each.get('actor'))}")
    why = f", for {known.said(one['reasonCode'][0]).lower()}" if "reasonCode" in one else ""
    yield Line(
        start,
        40,
        f"DOSE     {_drug(one, known)}, {amount.get('value', '?')} "
        f"{amount.get('unit', '')}, {known.said(dosage.get('route')).lower()}{until}{why} ({', '.join(people)})",
    )
    for note in one.get("note", []):
        yield Line(start, 41, f"         {note['text']}")


def _drug(one: Resource, known: Known) -> str:
    inside = [each for each in one.get("contained", []) if each.get("resourceType") == "Medication"]
    drug = known.said(one.get("medicationCodeableConcept") or (inside[0].get("code") if inside else None))
    lot = inside[0].get("batch", {}).get("lotNumber") if inside else None
    return drug if lot is None else f"{drug} (lot {lot})"


def _score(one: Resource, known: Known) -> Iterator[Line]:
    """A score, or another single value; vital signs are gathered by `vital_signs`."""
    if _is_vital(one):
        return
    when = moment(one.get("effectiveDateTime"))
    value = one.get("valueQuantity", {})
    said = known.said(one["valueCodeableConcept"]) if "valueCodeableConcept" in one else one.get("valueString")
    if "valueBoolean" in one:
        said = "yes" if one["valueBoolean"] else "no"
    if "valueInteger" in one:
        said = str(one["valueInteger"])
    unit = "" if value.get("code") == "{score}" else f" {value.get('unit', '')}"
    bands = [known.said(each) for each in one.get("interpretation", [])]
    change = [
        f"{each['valueQuantity']['value']:+} since the baseline"
        for each in one.get("component", [])
        if any(coding["code"] == _CHANGE for coding in each["code"]["coding"]) and "valueQuantity" in each
    ]
    told = "; ".join((*bands, *change))
    what = said if said is not None else f"{value.get('value', 'no value')}{unit}"
    score = "SCORE    " if "derivedFrom" in one else ""
    yield Line(when, 50, f"{score}{known.said(one['code'])}: {what}{f' ({told})' if told else ''}")


def _is_vital(one: Resource) -> bool:
    return bool({"85354-9", HEART_RATE.code, OXYGEN_SATURATION.code} & set(codes_of(one.get("code"), LOINC)))


def vital_signs(known: Known) -> Iterator[Line]:
    """Yield the vital signs, those of one moment on one line, with the minutes from the first dose of the visit."""
    doses: dict[str, datetime] = {}
    for one in known.of("MedicationAdministration"):
        visit, start = str(one.get("context", {}).get("reference")), one.get("effectivePeriod", {}).get("start")
        if start is not None:
            doses[visit] = min(doses.get(visit, moment(start)), moment(start))
    taken: dict[tuple[datetime, str], dict[str, str]] = defaultdict(dict)
    notes: dict[tuple[datetime, str], str] = {}
    by: dict[tuple[datetime, str], str] = {}
    for one in known.of("Observation"):
        if not _is_vital(one):
            continue
        key = (moment(one.get("effectiveDateTime")), str(one.get("encounter", {}).get("reference")))
        taken[key].update(_values(one))
        by[key] = known.who(next(iter(one.get("performer", [])), None))
        if "note" in one:
            notes[key] = f" [{one['note'][0]['text']}]"
    for (when, visit), values in taken.items():
        minutes = int((when - doses[visit]).total_seconds() // 60) if visit in doses else None
        since = "" if minutes is None else f" ({minutes:+} min)"
        said = ", ".join(values[name] for name in ("BP", "HR", "SpO2") if name in values)
        noted = notes.get((when, visit), "")
        yield Line(when, 30, f"{said}{since}, read by {by[when, visit]}{noted}")


def _values(one: Resource) -> dict[str, str]:
    parts = {
        code: part["valueQuantity"]["value"]
        for part in one.get("component", [])
        for code in codes_of(part["code"], LOINC)
        if "valueQuantity" in part
    }
    if {SYSTOLIC.code, DIASTOLIC.code} <= parts.keys():
        return {"BP": f"BP {parts[SYSTOLIC.code]}/{parts[DIASTOLIC.code]} mmHg"}
    value = one.get("valueQuantity", {}).get("value", "?")
    return {"HR": f"HR {value}/min"} if HEART_RATE.code in codes_of(one["code"], LOINC) else {"SpO2": f"SpO2 {value} %"}


def _answers(one: Resource, known: Known) -> Iterator[Line]:
    given = {
        each["linkId"]: next((value for value in each["answer"][0].values()), None)
        for each in one.get("item", [])
        if each.get("answer")
    }
    asked = one.get("questionnaire")
    by = known.who(one.get("author"))
    when = moment(one.get("authored"))
    amiss = [link for link, said in given.items() if isinstance(said, bool) and said != (link in _YES_IS_WELL)]
    named = f"noted: {', '.join(amiss)}" if amiss else "nothing speaks against it"
    if asked == SCREENING_QUESTIONNAIRE:
        yield Line(when, 3, f"Screening answered by {by}: {named}")
    elif asked == PRE_DOSE_QUESTIONNAIRE:
        yield Line(when, 20, f"Asked before the dose by {by}: {named}; escort {given.get('escort-name', 'not named')}")
    elif asked == DISCHARGE_QUESTIONNAIRE:
        total = sum(int(said) for link, said in given.items() if link.startswith("aldrete-") and said is not None)
        yield Line(when, 80, f"Checklist by {by}: modified Aldrete {total} of 10, {named}")
    elif asked == REMS_QUESTIONNAIRE:
        text = f"REMS form {one['status']}: {given.get('dose-mg')} mg, {given.get('monitoring-minutes')} min watched"
        visit = known.held.get(str(one.get("encounter", {}).get("reference")), {})
        yield Line(moment(visit.get("period", {}).get("end") or one.get("authored")), 95, text)


def _found(one: Resource, known: Known) -> Iterator[Line]:
    when = known.about(one, "implicated", "evidence") or moment(one.get("identifiedDateTime"))
    rules = ", ".join(codes_of(one.get("code"), RULE))
    decided = "".join(
        f"; treated: {known.said(each['action'])}"
        if has_code(each["action"], TREATED)
        else f"; {known.who(each.get('author'))} decided: {known.said(each['action'])}"
        for each in one.get("mitigation", [])
    )
    name = known.said({"coding": one.get("code", {}).get("coding", [])[:1]})
    said = f"ALARM    {name} [{rules}] {one.get('severity', '')} severity"
    yield Line(when, 60, f"{said.rstrip()}{decided}")


def _task(one: Resource, known: Known) -> Iterator[Line]:
    focus = one.get("focus")
    when = known.time_of((focus or {}).get("reference")) or moment(one.get("authoredOn"))
    taken = f", by {known.who(one['owner'])}" if "owner" in one else ""
    note = "".join(f": {each['text']}" for each in one.get("note", [])[-1:])
    over = ", back within limits" if any(has_code(each["type"], BACK_WITHIN) for each in one.get("output", [])) else ""
    yield Line(
        when,
        70,
        f"TASK     {known.said(one.get('code'))} ({one.get('priority', 'routine')}): "
        f"{one['status']}{over}{taken}{note}",
    )


def _event(one: Resource, known: Known) -> Iterator[Line]:
    parts = [known.said(one[name]).lower() for name in ("severity", "seriousness", "outcome") if name in one]
    yield Line(moment(one.get("date")), 55, f"EVENT    {known.said(one['event'])}: {', '.join(parts)}")


def _procedure(one: Resource, known: Known) -> Iterator[Line]:
    by = ", ".join(known.who(each["actor"]) for each in one.get("performer", []))
    yield Line(moment(one.get("performedDateTime")), 45, f"{known.said(one['code'])} ({by})")


def _note(one: Resource, known: Known) -> Iterator[Line]:
    by = ", ".join(known.who(each) for each in one.get("author", []))
    title = one["content"][0]["attachment"].get("title", "without a title")
    ended = one.get("context", {}).get("period", {}).get("end")
    signed = f", {one['docStatus']}, signed by {known.who(one['authenticator'])}" if "authenticator" in one else ""
    yield Line(moment(ended or one.get("date")), 92 if ended else 75, f"Note: {title} ({by}{signed})")


def _flag(one: Resource, known: Known) -> Iterator[Line]:
    # It was raised with the finding or the Task of the same name, and stands beside it.
    names = {each["value"] for each in one.get("identifier", [])}
    found = [
        known.about(each, "implicated", "evidence", "focus")
        for each in (*known.of("DetectedIssue"), *known.of("Task"))
        if names.intersection(name["value"] for name in each.get("identifier", []))
    ]
    visit = known.time_of(one.get("encounter", {}).get("reference"))
    when = moment(one.get("period", {}).get("start") or one["meta"]["lastUpdated"])
    said = known.said({"coding": one["code"].get("coding", [])[:1]})
    yield Line(next((each for each in found if each), None) or visit or when, 65, f"FLAG     {said}: {one['status']}")


LINES: Final[dict[str, Callable[[Resource, Known], Iterable[Line]]]] = {
    "AdverseEvent": _event,
    "Appointment": _appointment,
    "CarePlan": _plan,
    "Consent": _consent,
    "DetectedIssue": _found,
    "DocumentReference": _note,
    "Encounter": _visit,
    "Flag": _flag,
    "MedicationAdministration": _dose,
    "MedicationRequest": _order,
    "Observation": _score,
    "Procedure": _procedure,
    "QuestionnaireResponse": _answers,
    "RiskAssessment": _screening,
    "ServiceRequest": _referral,
    "Task": _task,
}
