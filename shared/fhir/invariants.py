"""The invariants of R4 that are checked on every write, as plain functions on the JSON object they are about.

`holds` is called on objects whose structure may be wrong: it may raise, and validation then takes the rule as not
applicable, for what makes it raise is an issue of its own.

Source: https://hl7.org/fhir/R4/conformance-rules.html#constraints; each rule's key is HL7's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from shared.fhir.dates import interval

Json: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Invariant:
    """A rule: `says` completes the sentence "Period ..." when it does not hold."""

    key: str
    says: str
    holds: Callable[[Json], bool]


def _has(value: Json, name: str) -> bool:
    """Tell whether an element is there: as itself or as ``_name``; a name ending in ``[x]``, as any of its types."""
    if not name.endswith("[x]"):
        return name in value or f"_{name}" in value
    name = name[:-3]
    return any(key.startswith(name) and key[len(name) : len(name) + 1].isupper() for key in value)


def _any(*names: str) -> Callable[[Json], bool]:
    return lambda value: any(_has(value, name) for name in names)


def _not_both(one: str, other: str) -> Callable[[Json], bool]:
    return lambda value: not (_has(value, one) and _has(value, other))


def _needs(one: str, other: str) -> Callable[[Json], bool]:
    """Return: where `one` is, `other` is."""
    return lambda value: not _has(value, one) or _has(value, other)


def _in_order(start: str, end: str) -> Callable[[Json], bool]:
    def holds(value: Json) -> bool:
        if start not in value or end not in value:
            return True
        first, last = value[start], value[end]
        if len(first) == len(last) and first[10:] == last[10:]:  # the common case: same form, zone and time of day
            return bool(first <= last)
        return interval(first)[0] < interval(last)[1]

    return holds


def _has_code(concept: Any, system: str, codes: frozenset[str]) -> bool:
    codings = concept.get("coding", ()) if isinstance(concept, dict) else ()
    return any(coding.get("system") == system and coding.get("code") in codes for coding in codings)


_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
_ERROR = frozenset({"entered-in-error"})
_ENDED = frozenset({"resolved", "remission", "inactive"})
_PERCENT_MAX = 100


def _con_4(value: Json) -> bool:
    return not _has(value, "abatement[x]") or _has_code(
        value.get("clinicalStatus"), _TERMINOLOGY + "condition-clinical", _ENDED
    )


def _con_5(value: Json) -> bool:
    wrong = _has_code(value.get("verificationStatus"), _TERMINOLOGY + "condition-ver-status", _ERROR)
    return not wrong or "clinicalStatus" not in value


def _allergy_in_error(value: Json) -> bool:
    return _has_code(value.get("verificationStatus"), _TERMINOLOGY + "allergyintolerance-verification", _ERROR)


def _app_3(value: Json) -> bool:
    timed = _has(value, "start") and _has(value, "end")
    return timed or value["status"] in {"proposed", "cancelled", "waitlist"}


def _obs_7(value: Json) -> bool:
    if not _has(value, "value[x]"):
        return True
    own = {(c.get("system"), c.get("code")) for c in value["code"].get("coding", ())}
    return not any(
        (coding.get("system"), coding.get("code")) in own
        for component in value.get("component", ())
        for coding in component["code"].get("coding", ())
    )


def _que_1(value: Json) -> bool:
    return (value["type"] != "group" or _has(value, "item")) and (value["type"] != "display" or not _has(value, "item"))


def _que_2(value: Json) -> bool:
    links = list(_links(value))
    return len(links) == len(set(links))


def _links(value: Json) -> Iterator[str]:
    for item in value.get("item", ()):
        yield item["linkId"]
        yield from _links(item)


def _unless_type(types: str, *names: str) -> Callable[[Json], bool]:
    listed = frozenset(types.split())
    return lambda value: value["type"] not in listed or not any(_has(value, name) for name in names)


def _only_type(types: str, *names: str) -> Callable[[Json], bool]:
    listed = frozenset(types.split())
    return lambda value: value["type"] in listed or not any(_has(value, name) for name in names)


def _range_in_order(value: Json) -> bool:
    low, high = value.get("low", {}), value.get("high", {})
    if "value" not in low or "value" not in high or low.get("code") != high.get("code"):
        return True
    return bool(low["value"] <= high["value"])


def _ratio(value: Json) -> bool:
    both = _has(value, "numerator") == _has(value, "denominator")
    return both and (_has(value, "numerator") or _has(value, "extension"))


def _entries(value: Json) -> list[Json]:
    return list(value.get("entry", ()))


def _bdl_3(value: Json) -> bool:
    wanted = value["type"] in {"batch", "transaction", "history"}
    return all(_has(entry, "request") == wanted for entry in _entries(value))


def _bdl_4(value: Json) -> bool:
    wanted = value["type"] in {"batch-response", "transaction-response", "history"}
    return all(_has(entry, "response") == wanted for entry in _entries(value))


def _bdl_7(value: Json) -> bool:
    if value["type"] == "history":
        return True
    urls = [
        (entry["fullUrl"], entry.get("resource", {}).get("meta", {}).get("versionId"))
        for entry in _entries(value)
        if "fullUrl" in entry
    ]
    return len(urls) == len(set(urls))


def _first_is(bundle: str, type_: str) -> Callable[[Json], bool]:
    def holds(value: Json) -> bool:
        return bool(value["type"] != bundle or value["entry"][0]["resource"]["resourceType"] == type_)

    return holds


def _parameter(value: Json) -> bool:
    return [_has(value, "value[x]"), _has(value, "resource"), _has(value, "part")].count(True) == 1


def _timing(value: Json) -> bool:
    return "offset" not in value or not {"C", "CM", "CD", "CV"}.issuperset(value["when"])


_RULES: Final[dict[tuple[str, str], tuple[Invariant, ...]]] = {
    ("Extension", ""): (
        Invariant(
            "ext-1",
            "must have either a value or extensions, not both",
            lambda v: _has(v, "value[x]") != _has(v, "extension"),
        ),
    ),
    ("ContactPoint", ""): (Invariant("cpt-2", "has a value and needs a system", _needs("value", "system")),),
    ("Attachment", ""): (Invariant("att-1", "has data and needs a contentType", _needs("data", "contentType")),),
    ("Period", ""): (Invariant("per-1", "ends before it starts", _in_order("start", "end")),),
    ("Range", ""): (Invariant("rng-2", "has a low that is above its high", _range_in_order),),
    ("Ratio", ""): (Invariant("rat-1", "needs both numerator and denominator, or neither", _ratio),),
    ("Expression", ""): (Invariant("exp-1", "needs an expression or a reference", _any("expression", "reference")),),
    ("Timing", "repeat"): (
        Invariant("tim-1", "has a duration and needs a durationUnit", _needs("duration", "durationUnit")),
        Invariant("tim-2", "has a period and needs a periodUnit", _needs("period", "periodUnit")),
        Invariant("tim-4", "has a negative duration", lambda v: v.get("duration", 0) >= 0),
        Invariant("tim-5", "has a negative period", lambda v: v.get("period", 0) >= 0),
        Invariant("tim-6", "has a periodMax and needs a period", _needs("periodMax", "period")),
        Invariant("tim-7", "has a durationMax and needs a duration", _needs("durationMax", "duration")),
        Invariant("tim-8", "has a countMax and needs a count", _needs("countMax", "count")),
        Invariant("tim-9", "has an offset and needs a when other than a meal", _timing),
        Invariant("tim-10", "has timeOfDay and when, and may have one of them", _not_both("timeOfDay", "when")),
    ),
    ("Patient", "contact"): (
        Invariant(
            "pat-1",
            "needs a name, telecom, address or organization",
            _any("name", "telecom", "address", "organization"),
        ),
    ),
    ("Organization", ""): (
        Invariant("org-1", "needs an identifier or a name", _any("identifier", "name")),
        Invariant("org-2", "has a home address", lambda v: all(a.get("use") != "home" for a in v.get("address", ()))),
        Invariant("org-3", "has a home telecom", lambda v: all(t.get("use") != "home" for t in v.get("telecom", ()))),
    ),
    ("ServiceRequest", ""): (Invariant("prr-1", "has orderDetail and needs a code", _needs("orderDetail", "code")),),
    ("Condition", ""): (
        Invariant("con-4", "has an abatement, so its clinicalStatus must be inactive, remission or resolved", _con_4),
        Invariant("con-5", "is entered-in-error and may have no clinicalStatus", _con_5),
    ),
    ("Condition", "stage"): (Invariant("con-1", "needs a summary or an assessment", _any("summary", "assessment")),),
    ("Condition", "evidence"): (Invariant("con-2", "needs a code or a detail", _any("code", "detail")),),
    ("AllergyIntolerance", ""): (
        Invariant("ait-1", "needs a clinicalStatus", lambda v: _allergy_in_error(v) or "clinicalStatus" in v),
        Invariant(
            "ait-2",
            "is entered-in-error and may have no clinicalStatus",
            lambda v: not (_allergy_in_error(v) and "clinicalStatus" in v),
        ),
    ),
    ("RiskAssessment", "prediction"): (
        Invariant("ras-2", "has a probability above 100", lambda v: v.get("probabilityDecimal", 0) <= _PERCENT_MAX),
    ),
    ("Consent", ""): (Invariant("ppc-1", "needs a policy or a policyRule", _any("policy", "policyRule")),),
    ("CarePlan", "activity"): (
        Invariant("cpl-3", "has a detail and a reference, and may have one", _not_both("detail", "reference")),
    ),
    ("Goal", "target"): (Invariant("gol-1", "has a detail and needs a measure", _needs("detail[x]", "measure")),),
    ("Immunization", "education"): (
        Invariant("imm-1", "needs a documentType or a reference", _any("documentType", "reference")),
    ),
    ("Questionnaire", ""): (Invariant("que-2", "uses a linkId more than once", _que_2),),
    ("Questionnaire", "item"): (
        Invariant("que-1", "is a group without items or a display with items", _que_1),
        Invariant("que-3", "is a display and may have no code", _unless_type("display", "code")),
        Invariant(
            "que-4",
            "has answerOption and answerValueSet, and may have one",
            _not_both("answerOption", "answerValueSet"),
        ),
        Invariant(
            "que-5",
            "is of a type that has no answer options",
            _only_type(
                "choice open-choice decimal integer date dateTime time string quantity",
                "answerOption",
                "answerValueSet",
            ),
        ),
        Invariant(
            "que-6", "is a display and is neither required nor repeated", _unless_type("display", "required", "repeats")
        ),
        Invariant("que-8", "is a group or display and has no initial value", _unless_type("group display", "initial")),
        Invariant("que-9", "is a display and is not readOnly", _unless_type("display", "readOnly")),
        Invariant(
            "que-10",
            "has a maxLength for a type without length",
            _only_type("boolean decimal integer string text url open-choice", "maxLength"),
        ),
        Invariant("que-11", "has answerOption and initial, and may have one", _not_both("answerOption", "initial")),
        Invariant(
            "que-12",
            "has several enableWhen and needs enableBehavior",
            lambda v: len(v.get("enableWhen", ())) <= 2 or "enableBehavior" in v,
        ),
        Invariant(
            "que-13",
            "has several initial values and does not repeat",
            lambda v: v.get("repeats") is True or len(v.get("initial", ())) <= 1,
        ),
    ),
    ("Questionnaire", "item.enableWhen"): (
        Invariant(
            "que-7",
            "asks whether an answer exists and needs a boolean",
            lambda v: v["operator"] != "exists" or "answerBoolean" in v,
        ),
    ),
    ("Appointment", ""): (
        Invariant("app-2", "needs both a start and an end, or neither", lambda v: _has(v, "start") == _has(v, "end")),
        Invariant("app-3", "needs a start and an end unless it is proposed, cancelled or on the waitlist", _app_3),
        Invariant(
            "app-4",
            "has a cancelationReason and is neither cancelled nor no-show",
            lambda v: "cancelationReason" not in v or v["status"] in {"no-show", "cancelled"},
        ),
    ),
    ("Appointment", "participant"): (Invariant("app-1", "needs a type or an actor", _any("type", "actor")),),
    ("AppointmentResponse", ""): (
        Invariant("apr-1", "needs a participantType or an actor", _any("participantType", "actor")),
    ),
    ("MedicationAdministration", "dosage"): (Invariant("mad-1", "needs a dose or a rate", _any("dose", "rate[x]")),),
    ("MedicationDispense", ""): (
        Invariant("mdd-1", "is handed over before it is prepared", _in_order("whenPrepared", "whenHandedOver")),
    ),
    ("Observation", ""): (
        Invariant(
            "obs-6", "has a dataAbsentReason and a value, and may have one", _not_both("dataAbsentReason", "value[x]")
        ),
        Invariant("obs-7", "has a value and a component with the same code", _obs_7),
    ),
    ("Observation", "referenceRange"): (
        Invariant("obs-3", "needs a low, a high or a text", _any("low", "high", "text")),
    ),
    ("Composition", "section"): (
        Invariant("cmp-1", "needs a text, an entry or a section", _any("text", "entry", "section")),
        Invariant("cmp-2", "has an emptyReason and entries, and may have one", _not_both("emptyReason", "entry")),
    ),
    ("QuestionnaireResponse", "item"): (
        Invariant("qrs-1", "has answers and items; items belong below the answer", _not_both("answer", "item")),
    ),
    ("MeasureReport", ""): (
        Invariant(
            "mrp-1", "collects data and may have no group", lambda v: v["type"] != "data-collection" or "group" not in v
        ),
    ),
    ("Group", ""): (
        Invariant("grp-1", "has members and must be actual", lambda v: "member" not in v or v["actual"] is True),
    ),
    ("Bundle", ""): (
        Invariant(
            "bdl-1",
            "has a total and is neither searchset nor history",
            lambda v: "total" not in v or v["type"] in {"searchset", "history"},
        ),
        Invariant(
            "bdl-2",
            "has entries with search and is no searchset",
            lambda v: v["type"] == "searchset" or not any("search" in e for e in _entries(v)),
        ),
        Invariant("bdl-3", "has entries with request where there may be none, or without where it must be", _bdl_3),
        Invariant("bdl-4", "has entries with response where there may be none, or without where it must be", _bdl_4),
        Invariant("bdl-7", "has a fullUrl more than once", _bdl_7),
        Invariant(
            "bdl-9",
            "is a document and needs an identifier with system and value",
            lambda v: v["type"] != "document" or {"system", "value"} <= set(v.get("identifier", ())),
        ),
        Invariant(
            "bdl-10", "is a document and needs a timestamp", lambda v: v["type"] != "document" or "timestamp" in v
        ),
        Invariant("bdl-11", "is a document and must start with a Composition", _first_is("document", "Composition")),
        Invariant("bdl-12", "is a message and must start with a MessageHeader", _first_is("message", "MessageHeader")),
    ),
    ("Bundle", "entry"): (
        Invariant("bdl-5", "needs a resource, a request or a response", _any("resource", "request", "response")),
        Invariant("bdl-8", "has a fullUrl with a version", lambda v: "/_history/" not in v.get("fullUrl", "")),
    ),
    ("Task", ""): (Invariant("inv-1", "was modified before it was authored", _in_order("authoredOn", "lastModified")),),
    ("AuditEvent", "entity"): (
        Invariant("sev-1", "has a name and a query, and may have one", _not_both("name", "query")),
    ),
    ("Parameters", "parameter"): (Invariant("inv-1", "needs exactly one of value, resource and part", _parameter),),
    ("List", ""): (
        Invariant("lst-1", "has an emptyReason and entries, and may have one", _not_both("emptyReason", "entry")),
        Invariant(
            "lst-2",
            "has deleted entries and is not a list of changes",
            lambda v: v["mode"] == "changes" or not any("deleted" in e for e in v.get("entry", ())),
        ),
        Invariant(
            "lst-3",
            "has entries with a date and is not a working list",
            lambda v: v["mode"] == "working" or not any("date" in e for e in v.get("entry", ())),
        ),
    ),
}
_QUANTITY = Invariant("qty-3", "has a code and needs a system", _needs("code", "system"))


def invariants_of(type_: str, path: str) -> tuple[Invariant, ...]:
    """Return the rules for objects of a type, or of the backbone element `path` in it."""
    if not path and type_ in {"Quantity", "Age", "Count", "Distance", "Duration"}:
        return (_QUANTITY,)
    return _RULES.get((type_, path), ())
