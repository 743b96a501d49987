"""Gathering what a screening judges on: the record as it is, or as it will be once a pending change is committed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, Final, Protocol

from services.intake.course import is_screening, with_change
from services.intake.rules.findings import Chart, Decision, Relative
from services.intake.rules.trials import Entry
from services.intake.setting import Setting
from shared.fhir.codes import ID_FINDING, LOINC, PROCEED
from shared.fhir.json import Resource
from shared.fhir.kap import Drug, codes_of, has_code, id_in, is_referral, moment, replaces
from shared.runtime.medications import Reader, medication_of, substances_of
from shared.runtime.record import Record
from shared.runtime.service import Change

FINISHED: Final = ("completed", "amended")
DATED_BY: Final[Mapping[str, tuple[str, ...]]] = {
    "QuestionnaireResponse": (),
    "Observation": ("effectiveDateTime", "effectiveInstant", "issued"),
}
"""Types of which it counts when they were written, but for those that have one of these elements."""
TAKEN_NOW: Final = ("active", "intended", "on-hold", "unknown")


class Source(Protocol):
    """Where a chart is gathered from."""

    @property
    def patient(self) -> str:
        """The patient's logical id."""
        ...

    async def all(self, type_: str, **criteria: str) -> list[Resource]:
        """Return the patient's resources of a type; of Observations those of `code`."""
        ...

    async def the_patient(self) -> Resource | None:
        """Return the Patient."""
        ...

    async def get(self, type_: str, id_: str) -> Resource | None:
        """Return another resource."""
        ...

    async def above(self, system: str, codes: frozenset[str]) -> Mapping[str, frozenset[str]]:
        """Return for each of the codes those above it, as far as it is known."""
        ...

    async def known(self, system: str, codes: frozenset[str]) -> frozenset[str]:
        """Return those of the codes that the terminology that was loaded has."""
        ...


@dataclass(frozen=True, slots=True)
class View:
    """A patient's record, with one change that is about to be committed laid over it; notes what was looked at."""

    record: Record
    patient: str
    change: Change | None = None
    seen: dict[str, Resource] = field(default_factory=dict)
    meant: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    same: list[str] = field(default_factory=list)

    async def all(self, type_: str, **criteria: str) -> list[Resource]:
        """Return the patient's resources of a type; `criteria` narrow what is searched, not the change."""
        about = {"patient": ",".join(f"Patient/{one}" for one in await self._patients()), **criteria}
        found = [await dated(one, self.record) for one in await self.record.search(type_, about)]
        return self._note(with_change(found, self.change, type_))

    async def the_patient(self) -> Resource | None:
        """Return the Patient."""
        if self.change is not None and self.change.type == "Patient" and self.change.id == self.patient:
            found = self.change.after
        else:
            found = await self.record.get("Patient", self.patient)
        self._note([] if found is None else [found])
        return found

    async def get(self, type_: str, id_: str) -> Resource | None:
        """Return another resource."""
        if self.change is not None and (self.change.type, self.change.id) == (type_, id_):
            found = self.change.after
        else:
            found = await self.record.get(type_, id_)
        self._note([] if found is None else [found])
        return found

    async def above(self, system: str, codes: frozenset[str]) -> Mapping[str, frozenset[str]]:
        """Return for each of the codes those above it, by the terminology that is shipped or was loaded."""
        return await self.record.terminology.ancestors(system, codes)

    async def known(self, system: str, codes: frozenset[str]) -> frozenset[str]:
        """Return those of the codes that the terminology that was loaded has."""
        return await self.record.terminology.known(system, codes)

    async def versions(self) -> list[str]:
        """Return a reference to the version of each resource that was looked at, as it will be after the change."""
        return [f"{name}/_history/{await self._version(one)}" for name, one in self.seen.items()]

    async def _patients(self) -> list[str]:
        """Return the patient and whom he stands for: what their records hold counts for him."""
        if not self.same:
            self.same.append(self.patient)
            for id_ in self.same:
                held = await self.the_patient() if id_ == self.patient else await self.get("Patient", id_)
                self.same.extend(one for one in replaces(held or {}) if one not in self.same)
        return self.same

    def _note(self, found: list[Resource]) -> list[Resource]:
        self.seen.update({f"{one['resourceType']}/{one['id']}": one for one in found})
        return found

    async def _version(self, resource: Resource) -> int:
        type_, id_, change = resource["resourceType"], resource["id"], self.change
        if change is not None and (change.type, change.id) == (type_, id_):
            stored = await self.record.stored(type_, id_)
            return 1 if stored is None else stored.version + 1
        return int(resource["meta"]["versionId"])


@dataclass(frozen=True, slots=True)
class Pinned:
    """The versions of resources that a decision was made on."""

    patient: str
    held: Sequence[Resource]
    meant: Mapping[tuple[str, str], frozenset[str]] = field(default_factory=dict)

    async def all(self, type_: str, **criteria: str) -> list[Resource]:
        """Return those of a type."""
        found = [one for one in self.held if one["resourceType"] == type_]
        code = criteria.get("code", "").rpartition("|")[2]
        return [one for one in found if not code or code in codes_of(one.get("code"), LOINC)]

    async def the_patient(self) -> Resource | None:
        """Return the Patient."""
        return await self.get("Patient", self.patient)

    async def get(self, type_: str, id_: str) -> Resource | None:
        """Return one of them."""
        return next((one for one in self.held if (one["resourceType"], one["id"]) == (type_, id_)), None)

    async def above(self, system: str, codes: frozenset[str]) -> Mapping[str, frozenset[str]]:
        """Return what stood above the codes when it was decided."""
        return {code: self.meant.get((system, code), frozenset()) for code in codes}

    async def known(self, system: str, codes: frozenset[str]) -> frozenset[str]:
        """Return those of the codes that were known when it was decided."""
        return frozenset(code for code in codes if (system, code) in self.meant)


async def dated(resource: Resource, record: Record) -> Resource:
    """Return a resource that is judged by when it was written with that time, whoever labelled it since."""
    says = DATED_BY.get(resource["resourceType"])
    return resource if says is None else await record.as_written(resource, *says)


def observed(setting: Setting) -> frozenset[str]:
    """Return the LOINC codes of the Observations that a rule looks at."""
    rules = setting.rules.eligibility.rules.values()
    measured = {rule.measured.code for rule in rules if rule.measured is not None}
    return frozenset(sign.code for rule in rules for sign in rule.observations) | measured


def flagged(setting: Setting) -> frozenset[str]:
    """Return the codes of the Flags that a rule looks at."""
    return frozenset(code for rule in setting.rules.eligibility.rules.values() for code in rule.flags)


async def chart_of(
    view: Source, patient: Resource, setting: Setting, *, drug: Drug | None, route: str | None, now: datetime
) -> Chart:
    """Return what a screening of the patient judges on."""
    referrals = [one for one in await view.all("ServiceRequest") if is_referral(one) and one["status"] == "active"]
    response = newest_response(await view.all("QuestionnaireResponse"), now)
    issues = await screening_issues(view)
    medicines = [
        _entry(one, await medication_of(view, one))
        for type_ in ("MedicationStatement", "MedicationRequest")
        for one in await view.all(type_)
    ]
    ingredients = [
        _entry(one.resource, substance)
        for one in medicines
        if one.resource["status"] in TAKEN_NOW
        for substance in await substances_of(view, one.resource)
        if substance != one.concept
    ]
    conditions = [_entry(one, one.get("code")) for one in await view.all("Condition")]
    allergies = [_entry(one, one.get("code")) for one in await view.all("AllergyIntolerance")]
    relatives = [one for one in await view.all("FamilyMemberHistory") if one["status"] != "entered-in-error"]
    family = [_entry(one, said) for one in relatives for said in (one["relationship"], *_conditions_of(one))]
    held = {entry.reference for entry in conditions}
    reasons = [_entry(one, reason) for one in referrals for reason in reasons_of(one, held)]
    meant = await _meanings(view, [*conditions, *allergies, *medicines, *ingredients, *reasons, *family], setting)
    if isinstance(view, View):
        view.meant.update(meant)
    medicines = [_with_meaning(one, meant) for one in medicines]
    return Chart(
        patient=patient,
        conditions=[_with_meaning(one, meant) for one in conditions],
        allergies=[_with_meaning(one, meant) for one in allergies],
        medications=[
            *(one for one in medicines if one.resource["status"] in TAKEN_NOW),
            *(_with_meaning(one, meant) for one in ingredients),
        ],
        past_medications=medicines,
        observations=[
            _entry(one, one.get("code"))
            for code in sorted(observed(setting))
            for one in await view.all("Observation", code=f"{LOINC}|{code}")
        ],
        family=[_relative(one, meant) for one in relatives],
        flags=[_entry(one, one.get("code")) for one in await view.all("Flag")],
        reasons=[_with_meaning(one, meant).concept or {} for one in reasons],
        answers={} if response is None else unanimous(answers_of(response)),
        answers_reference=None if response is None else f"QuestionnaireResponse/{response['id']}",
        answered=None if response is None else answered_at(response, now),
        drug=drug,
        route=route,
        known=frozenset(meant),
        decisions={rule: await _decision(view, issue) for rule, issue in issues.items()},
        now=now,
    )


def _conditions_of(history: Resource) -> list[Mapping[str, Any]]:
    return [one["code"] for one in history.get("condition", [])]


def _relative(history: Resource, meant: Mapping[tuple[str, str], frozenset[str]]) -> Relative:
    """Return a FamilyMemberHistory as the rules take it, with the codes above its own among them."""

    def told(concept: Mapping[str, Any]) -> Mapping[str, Any]:
        return _with_meaning(_entry(history, concept), meant).concept or {}

    return Relative(
        f"FamilyMemberHistory/{history['id']}",
        told(history["relationship"]),
        [told(one) for one in _conditions_of(history)],
    )


def reasons_of(referral: Resource, held: Collection[str]) -> list[Mapping[str, Any]]:
    """Return for what a patient was referred: each code; and of each reference to what is not held, what it says."""
    named = [
        {"text": str(one.get("display", ""))}
        for one in referral.get("reasonReference", [])
        if f"Condition/{id_in(one, 'Condition')}" not in held
    ]
    return [*referral.get("reasonCode", []), *named]


async def _meanings(view: Source, entries: Iterable[Entry], setting: Setting) -> dict[tuple[str, str], frozenset[str]]:
    """Return, of the codes of entries that the terminology knows, those above them that a set of the policy names."""
    medicines = setting.rules.antidepressants.medicines.values()
    terms = [*(set_.codes for set_ in setting.sets.values()), *(one.codes for one in medicines)]
    wanted = {(term.system, term.code) for codes in terms for term in codes}
    by_system: dict[str, set[str]] = {}
    for entry in entries:
        for coding in (entry.concept or {}).get("coding", []):
            if "code" in coding and any(system == coding.get("system") for system, _ in wanted):
                by_system.setdefault(coding["system"], set()).add(coding["code"])
    found = {}
    for system, codes in sorted(by_system.items()):
        known = await view.known(system, frozenset(codes))
        for code, above in (await view.above(system, frozenset(codes))).items():
            named = frozenset(one for one in above if one != code and (system, one) in wanted)
            if named or code in known:
                found[system, code] = named
    return found


def _with_meaning(entry: Entry, meant: Mapping[tuple[str, str], frozenset[str]]) -> Entry:
    """Return an entry with the codes above its own among them: so a value set holds what is below its codes."""
    codings = (entry.concept or {}).get("coding", [])
    more = [
        {"system": coding["system"], "code": above}
        for coding in codings
        for above in sorted(meant.get((coding.get("system", ""), coding.get("code", "")), ()))
    ]
    return replace(entry, concept={**(entry.concept or {}), "coding": [*codings, *more]}) if more else entry


def _entry(resource: Resource, concept: Mapping[str, Any] | None) -> Entry:
    return Entry(f"{resource['resourceType']}/{resource['id']}", concept, resource)


def answered_at(response: Resource, now: datetime) -> datetime:
    """Return when a response was answered, not later than now; one that does not say so is as old as its record."""
    said = response.get("authored") or response.get("meta", {}).get("lastUpdated")
    return now if said is None else min(moment(said), now)


def newest_response(responses: Sequence[Resource], now: datetime) -> Resource | None:
    """Return the newest finished screening; of two of one moment the one written later."""
    finished = [one for one in responses if is_screening(one) and one["status"] in FINISHED]
    return max(
        finished,
        key=lambda one: (answered_at(one, now), moment(one.get("meta", {}).get("lastUpdated"))),
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


def unanimous(answers: Iterable[tuple[str, Any]]) -> dict[str, Any]:
    """Return each question's answer; none where it was answered in two ways: then it is not known."""
    given = list(answers)
    return {link: value for link, value in given if all(value == other for name, other in given if name == link)}


async def screening_issues(view: Source) -> dict[str, Resource]:
    """Return the DetectedIssues of earlier screenings that still stand, by rule."""
    found = {}
    for issue in await view.all("DetectedIssue"):
        rule = rule_of(issue, view.patient)
        if rule is not None and issue["status"] == "final":
            found[rule] = issue
    return found


def rule_of(issue: Resource, patient: str) -> str | None:
    """Return the rule whose finding in a patient's screening a DetectedIssue is; None where it is another's."""
    for one in issue.get("identifier", []):
        prefix, _, rule = str(one.get("value", "")).rpartition(":")
        if one.get("system") == ID_FINDING and prefix == f"screen:{patient}":
            return rule
    return None


def proceeding(issue: Resource) -> list[Mapping[str, Any]]:
    """Return the mitigations of an issue that say that a prescriber decided to proceed."""
    return [one for one in issue.get("mitigation", []) if has_code(one.get("action"), PROCEED)]


async def prescriber_of(record: Reader, mitigation: Mapping[str, Any]) -> str | None:
    """Return the Practitioner who decided, a PractitionerRole's too; None where none is named."""
    author = mitigation.get("author")
    practitioner = id_in(author, "Practitioner")
    if practitioner is not None:
        return f"Practitioner/{practitioner}"
    role = id_in(author, "PractitionerRole")
    held = None if role is None else await record.get("PractitionerRole", role)
    named = None if held is None else id_in(held.get("practitioner"), "Practitioner")
    if named is not None:
        return f"Practitioner/{named}"
    return None if role is None else f"PractitionerRole/{role}"


async def _decision(record: Reader, issue: Resource) -> Decision:
    """Return who decided to proceed, on the evidence that the issue names."""
    authors = [await prescriber_of(record, one) for one in proceeding(issue)]
    evidence = frozenset(str(one.get("reference")) for one in issue.get("implicated", []))
    return Decision(evidence, frozenset(one for one in authors if one is not None))
