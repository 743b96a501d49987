"""The invariants of the profiles, by key and by the type they are about, as plain functions on the JSON object.

They are called with the element that the constraint stands on; a choice of types is passed as a one-member object of
its JSON key (``{"effectiveDateTime": "2026"}``). They may raise on what is not FHIR, which is an issue of its own.

Source: the packages named in `tables/sources.json`; each key is the profile's.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeAlias

from shared.fhir.holding import has, has_code

Json: TypeAlias = dict[str, Any]
Holds: TypeAlias = Callable[[Json], bool]

_UCUM: Final = "http://unitsofmeasure.org"
_ABSENT: Final = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_IDENTIFIER_TYPE: Final = "http://terminology.hl7.org/CodeSystem/v2-0203"
_REPORTED: Final = frozenset(("partial", "preliminary", "final", "amended", "corrected", "appended"))
_ORDERED: Final = frozenset(("order", "original-order", "reflex-order", "filler-order", "instance-order"))
_DAY: Final = len("2026-01-01")
_TEN: Final = 10


def _any(*names: str) -> Holds:
    return lambda value: any(has(value, name) for name in names)


def _when(name: str, values: frozenset[str], needed: str) -> Holds:
    return lambda value: value.get(name) not in values or has(value, needed)


def _to_the_day(value: Json) -> bool:
    return all(len(said) >= _DAY for key, said in value.items() if key.endswith("DateTime"))


def _in_ucum(value: Json) -> bool:
    return value.get("valueQuantity", {}).get("system") in {None, _UCUM}


def _result_or_reason(value: Json) -> bool:
    return any(has(value, name) for name in ("component", "hasMember", "dataAbsentReason", "value[x]"))


def _range_in_ucum(value: Json) -> bool:
    return all(value.get(name, {}).get("system") in {None, _UCUM} for name in ("low", "high"))


def _name_or_reason(value: Json) -> bool:
    absent = any(one.get("url") == _ABSENT for one in value.get("extension", ()))
    return (has(value, "family") or has(value, "given")) != absent


def _member_id(value: Json) -> bool:
    types = [one.get("type") for one in value.get("identifier", ())]
    return "subscriberId" in value or any(has_code(one, _IDENTIFIER_TYPE, frozenset(("MB",))) for one in types)


def _matches(pattern: str) -> Holds:
    form = re.compile(pattern)
    return lambda value: form.fullmatch(value["value"]) is not None


def _npi(value: Json) -> bool:
    """The Luhn check of a National Provider Identifier, with its prefix 80840 (45 CFR 162.406)."""
    digits = [int(digit) for digit in value["value"]]
    doubled = [
        digit if position % 2 else (2 * digit if 2 * digit < _TEN else 2 * digit - 9)
        for position, digit in enumerate(digits)
    ]
    return (sum(doubled) + 24) % _TEN == 0


def _one_unknown_race(value: Json) -> bool:
    races = [one for one in value.get("extension", ()) if one.get("url") == "ombCategory"]
    unknown = any(one.get("valueCoding", {}).get("code") in {"ASKU", "UNK"} for one in races)
    return not unknown or len(races) == 1


def _coded_smoking(value: Json) -> bool:
    asked = any(one.get("code") in {"72166-2", "11367-0"} for one in value["code"].get("coding", ()))
    return not asked or "valueCodeableConcept" in value


def _on_behalf_of(value: Json) -> bool:
    who = value.get("who", {})
    by_person = who.get("type", who.get("reference", "").split("/")[0]) in {"Practitioner", "Device"}
    return not by_person or has(value, "onBehalfOf")


def _answered_once(value: Json) -> bool:
    links = [one["linkId"] for one in value.get("item", ()) if any(has(a, "value[x]") for a in one.get("answer", ()))]
    inner = [*value.get("item", ()), *value.get("answer", ())]
    return len(links) == len(set(links)) and all(_answered_once(one) for one in inner)


def _units_of_one_system(value: Json) -> bool:
    return "code" not in value or "system" in value


RULES: Final[Mapping[tuple[str, str], tuple[str, Holds]]] = {
    ("us-core-1", "Observation"): ("must say its time at least to the day", _to_the_day),
    ("us-core-2", "Observation"): ("needs a value, a dataAbsentReason, members or components", _result_or_reason),
    ("us-core-3", "Observation"): (f"must give its quantity in units of {_UCUM}", _in_ucum),
    ("us-core-6", "Patient"): ("needs a family or given name, or an extension that says why not", _name_or_reason),
    ("us-core-6", "DocumentReference"): ("needs a url or data", _any("url", "data")),
    ("us-core-7", "Procedure"): (
        "is under way or completed and needs performed[x]",
        _when("status", frozenset(("completed", "in-progress")), "performed[x]"),
    ),
    ("us-core-8", "DiagnosticReport"): ("needs effective[x]", _when("status", _REPORTED, "effective[x]")),
    ("us-core-9", "DiagnosticReport"): ("needs issued", _when("status", _REPORTED, "issued")),
    ("us-core-10", "DiagnosticReport"): ("needs effective[x]", _when("status", _REPORTED, "effective[x]")),
    ("us-core-13", "PractitionerRole"): (
        "needs a practitioner, organization, healthcareService or location",
        _any("practitioner", "organization", "healthcareService", "location"),
    ),
    ("pd-1", "PractitionerRole"): ("needs a telecom or an endpoint", _any("telecom", "endpoint")),
    ("us-core-14", "RelatedPerson"): ("needs a name or a relationship", _any("name", "relationship")),
    ("us-core-15", "Coverage"): ("needs a member identifier (type MB) or a subscriberId", _member_id),
    ("us-core-16", "Organization"): ("is a National Provider Identifier and has ten digits", _matches("[0-9]{10}")),
    ("us-core-16", "Practitioner"): ("is a National Provider Identifier and has ten digits", _matches("[0-9]{10}")),
    ("us-core-17", "Organization"): ("is no National Provider Identifier: its check digit is wrong", _npi),
    ("us-core-17", "Practitioner"): ("is no National Provider Identifier: its check digit is wrong", _npi),
    ("us-core-18", "Organization"): ("is no CLIA number, such as 12D3456789", _matches("[0-9]{2}D[0-9]{7}")),
    ("us-core-19", "Organization"): ("is no NAIC code of five digits", _matches("[0-9]{5}")),
    ("us-core-20", "MedicationDispense"): (
        "is completed and needs whenHandedOver",
        _when("status", frozenset(("completed",)), "whenHandedOver"),
    ),
    ("us-core-21", "MedicationRequest"): ("is an order and needs a requester", _when("intent", _ORDERED, "requester")),
    ("us-core-22", "Observation"): (f"must give low and high in units of {_UCUM}", _range_in_ucum),
    ("us-core-23", "Patient"): ("says that race is unknown and names one", _one_unknown_race),
    ("us-core-23", "Extension"): ("says that race is unknown and names one", _one_unknown_race),
    ("us-core-24", "Observation"): ("needs a coded value for this code", _coded_smoking),
    ("us-core-26", "Observation"): ("needs a value or a dataAbsentReason", _any("value[x]", "dataAbsentReason")),
    ("provenance-1", "Provenance"): ("is a practitioner or device and needs onBehalfOf", _on_behalf_of),
    ("sdcqr-2", "QuestionnaireResponse"): ("answers one linkId twice on a level", _answered_once),
    ("qty-3", "Observation"): ("has a code and needs a system", _units_of_one_system),
    ("sqty-1", "Observation"): ("may have no comparator", lambda value: "comparator" not in value),
    ("vs-1", "Observation"): ("must say its time at least to the day", _to_the_day),
    ("vs-2", "Observation"): (
        "needs a value, a dataAbsentReason, members or components",
        _result_or_reason,
    ),
    ("vs-3", "Observation"): ("needs a value or a dataAbsentReason", _any("value[x]", "dataAbsentReason")),
}
