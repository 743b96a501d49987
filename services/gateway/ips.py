"""What an International Patient Summary holds: which resource goes into which section, and the Composition of them.

Pure functions. A section that has to be there and has nothing says that nothing is recorded here, never that there is
nothing: "no known allergies" is in the summary only where somebody recorded it, as a resource or as a List of it.

Source: International Patient Summary 2.0.0, https://hl7.org/fhir/uv/ips/STU2/StructureDefinition-Composition-uv-ips.html
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from services.gateway.narrative import narrative
from shared.fhir.codes import LOINC
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of

IPS: Final = "http://hl7.org/fhir/uv/ips/StructureDefinition"
COMPOSITION: Final = f"{IPS}/Composition-uv-ips"
BUNDLE: Final = f"{IPS}/Bundle-uv-ips"

EMPTY_REASON: Final = "http://terminology.hl7.org/CodeSystem/list-empty-reason"
NOTHING: Final = "Nothing is recorded here. That does not say that there is nothing."

_CATEGORY: Final = "http://terminology.hl7.org/CodeSystem/observation-category"
_PREGNANCY: Final = frozenset(("82810-3", "11778-8", "11779-6", "11780-4", "11636-8", "11637-6", "11638-4"))
"""LOINC: whether pregnant, expected date of delivery (three methods), earlier pregnancies."""

_OVER: Final = frozenset(("inactive", "remission", "resolved"))
_UNTRUE: Final = frozenset(("entered-in-error", "refuted"))

Pairs: TypeAlias = tuple[tuple[str, str], ...]

GATHERED: Final[tuple[tuple[str, Pairs], ...]] = (
    ("Condition", ()),
    ("AllergyIntolerance", ()),
    ("MedicationStatement", (("status", "active,intended,on-hold,unknown"),)),
    ("MedicationRequest", (("status", "active,on-hold,unknown"),)),
    ("MedicationAdministration", (("status", "in-progress,completed,stopped"), ("_sort", "-effective-time"))),
    ("Immunization", (("status", "completed"),)),
    ("Procedure", (("status", "in-progress,completed,stopped,unknown"), ("_sort", "-date"))),
    ("Flag", ()),
    ("CarePlan", (("status", "active,on-hold"),)),
    ("DiagnosticReport", (("status", "partial,preliminary,final,amended,corrected,appended"), ("_sort", "-date"))),
    ("Observation", (("status", "preliminary,final,amended,corrected"), ("_sort", "-date"))),
    ("List", (("status", "current"), ("_sort", "-date"))),
)
"""What is asked of the record, by type: parameters of a search, beside the patient."""

NEWEST: Final = frozenset(("MedicationAdministration", "DiagnosticReport", "Observation"))
"""Types of which only the newest of each code is told."""


@dataclass(frozen=True, slots=True)
class Section:
    """A section: its LOINC code with the code's display, its title, and whether it has to be there."""

    code: str
    display: str
    title: str
    takes: Callable[[Resource], bool]
    required: bool = False


def _status(resource: Resource, element: str) -> str:
    codings = (resource.get(element) or {}).get("coding") or [{}]
    return str(codings[0].get("code", ""))


def _is_true(resource: Resource) -> bool:
    return _status(resource, "verificationStatus") not in _UNTRUE


def _problem(resource: Resource) -> bool:
    return (
        resource["resourceType"] == "Condition"
        and _is_true(resource)
        and _status(resource, "clinicalStatus") not in _OVER
    )


def _past_problem(resource: Resource) -> bool:
    return (
        resource["resourceType"] == "Condition" and _is_true(resource) and _status(resource, "clinicalStatus") in _OVER
    )


def _medication(resource: Resource) -> bool:
    if resource["resourceType"] == "MedicationRequest":
        return resource.get("intent") not in ("proposal", "plan", "option") and not resource.get("doNotPerform")
    return resource["resourceType"] in ("MedicationStatement", "MedicationAdministration")


def _observation(resource: Resource, *categories: str) -> bool:
    found = codes_of(resource.get("category"), _CATEGORY)
    return resource["resourceType"] == "Observation" and (not categories or any(one in categories for one in found))


def _pregnancy(resource: Resource) -> bool:
    return _observation(resource) and not _PREGNANCY.isdisjoint(codes_of(resource.get("code"), LOINC))


def _result(resource: Resource) -> bool:
    return resource["resourceType"] == "DiagnosticReport" or _observation(
        resource, "laboratory", "imaging", "procedure", "survey", "exam", "therapy"
    )


def _alert(resource: Resource) -> bool:
    return (resource["resourceType"], resource.get("status")) == ("Flag", "active")


def _of(type_: str) -> Callable[[Resource], bool]:
    return lambda resource: resource["resourceType"] == type_


SECTIONS: Final = (
    Section("11450-4", "Problem list - Reported", "Problems", _problem, required=True),
    Section(
        "48765-2",
        "Allergies and adverse reactions Document",
        "Allergies and intolerances",
        lambda resource: resource["resourceType"] == "AllergyIntolerance" and _is_true(resource),
        required=True,
    ),
    Section("10160-0", "History of Medication use Narrative", "Medication summary", _medication, required=True),
    Section("104605-1", "Alert", "Alerts", _alert),
    Section("11369-6", "History of Immunization note", "Immunizations", _of("Immunization")),
    Section("47519-4", "History of Procedures Document", "History of procedures", _of("Procedure")),
    Section("10162-6", "History of pregnancies Narrative", "History of pregnancy", _pregnancy),
    Section("8716-3", "Vital signs note", "Vital signs", lambda resource: _observation(resource, "vital-signs")),
    Section(
        "29762-2", "Social history note", "Social history", lambda resource: _observation(resource, "social-history")
    ),
    Section("30954-2", "Relevant diagnostic tests/laboratory data note", "Results and scores", _result),
    Section("18776-5", "Plan of care note", "Plan of care", _of("CarePlan")),
    Section("11348-0", "History of Past illness note", "History of past problems", _past_problem),
)
"""In the order of the document. A resource is in the first that takes it."""


def sorted_out(resources: Iterable[Resource]) -> dict[str, list[Resource]]:
    """Return, by section code, what goes into it."""
    found: dict[str, list[Resource]] = {section.code: [] for section in SECTIONS}
    for resource in resources:
        section = next((one for one in SECTIONS if one.takes(resource)), None)
        if section is not None:
            found[section.code].append(resource)
    return found


def empty_reason(code: str, lists: Iterable[Resource]) -> Mapping[str, Any]:
    """Return why a section is empty: as the newest List of its code says, else that nothing is at hand."""
    for one in lists:
        if code in codes_of(one.get("code"), LOINC) and one.get("emptyReason") and not one.get("entry"):
            reason: Mapping[str, Any] = one["emptyReason"]
            return reason
    return {"coding": [{"system": EMPTY_REASON, "code": "unavailable", "display": "Unavailable"}], "text": NOTHING}


def composition(
    *,
    id_: str,
    date: str,
    subject: str,
    author: str,
    custodian: str | None,
    found: Mapping[str, Sequence[Resource]],
    lists: Sequence[Resource],
    url_of: Callable[[Resource], str],
    beside: Mapping[str, Resource],
) -> Resource:
    """Return the Composition.

    Args:
        id_: its logical id.
        date: when it is made.
        subject: URL of the patient.
        author: URL of what made it.
        custodian: URL of the organization that keeps the record; None: not known.
        found: by section code, its resources.
        lists: the patient's Lists, newest first, which may say why there is nothing.
        url_of: gives the `fullUrl` of a resource in the Bundle.
        beside: by reference (``Medication/1``) the resources that others refer to, which the narrative names.

    """
    sections: list[Resource] = []
    for section in SECTIONS:
        resources = found[section.code]
        if not resources and not section.required:
            continue
        told: Resource = {
            "title": section.title,
            "code": {"coding": [{"system": LOINC, "code": section.code, "display": section.display}]},
        }
        if resources:
            told["text"] = narrative(resources, beside)
            told["entry"] = [{"reference": url_of(resource)} for resource in resources]
        else:
            reason = empty_reason(section.code, lists)
            said = reason.get("text") or next((one.get("display") for one in reason.get("coding", ())), None) or NOTHING
            told["text"] = narrative([], beside, otherwise=str(said))
            told["emptyReason"] = reason
        sections.append(told)
    made: Resource = {
        "resourceType": "Composition",
        "id": id_,
        "meta": {"profile": [COMPOSITION]},
        "status": "final",
        "type": {"coding": [{"system": LOINC, "code": "60591-5", "display": "Patient summary Document"}]},
        "subject": {"reference": subject},
        "date": date,
        "author": [{"reference": author}],
        "title": "International Patient Summary",
    }
    if custodian is not None:
        made["custodian"] = {"reference": custodian}
    made["section"] = sections
    return made
