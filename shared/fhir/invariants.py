"""The invariants of R4 that are checked on every write, as plain functions on the JSON object they are about.

`holds` is called on objects whose structure may be wrong: it may raise, and validation then takes the rule as not
applicable, for what makes it raise is an issue of its own.

Source: https://hl7.org/fhir/R4/conformance-rules.html#constraints; each rule's key is HL7's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from shared.fhir.datatype_invariants import DATATYPES, UCUM
from shared.fhir.holding import Invariant, Json, any_of, has, has_code, in_order, needs, not_both
from shared.fhir.references import parse_literal

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
_ERROR = frozenset({"entered-in-error"})
_ENDED = frozenset({"resolved", "remission", "inactive"})
_PERCENT_MAX = 100


def _distinct(listed: list[Any]) -> bool:
    return len(listed) == len(set(listed))


def _range_in_percent(value: Json) -> bool:
    ends = [value.get("probabilityRange", {}).get(name) for name in ("low", "high")]
    return all(end is None or (end.get("code") == "%" and end.get("system") == UCUM) for end in ends)


def _only_practitioners_act_for(value: Json) -> bool:
    literal = value.get("member", {}).get("reference")
    return not has(value, "onBehalfOf") or literal is None or parse_literal(literal).type in {"", "Practitioner"}


def _stratifier(value: Json) -> bool:
    plain = any(has(value, name) for name in ("code", "description", "criteria"))
    return plain != has(value, "component")


def _con_4(value: Json) -> bool:
    return not has(value, "abatement[x]") or has_code(
        value.get("clinicalStatus"), _TERMINOLOGY + "condition-clinical", _ENDED
    )


def _con_5(value: Json) -> bool:
    wrong = has_code(value.get("verificationStatus"), _TERMINOLOGY + "condition-ver-status", _ERROR)
    return not wrong or "clinicalStatus" not in value


def _allergy_in_error(value: Json) -> bool:
    return has_code(value.get("verificationStatus"), _TERMINOLOGY + "allergyintolerance-verification", _ERROR)


def _app_3(value: Json) -> bool:
    timed = has(value, "start") and has(value, "end")
    return timed or value["status"] in {"proposed", "cancelled", "waitlist"}


def _obs_7(value: Json) -> bool:
    if not has(value, "value[x]"):
        return True
    own = {(c.get("system"), c.get("code")) for c in value["code"].get("coding", ())}
    return not any(
        (coding.get("system"), coding.get("code")) in own
        for component in value.get("component", ())
        for coding in component["code"].get("coding", ())
    )


def _que_1(value: Json) -> bool:
    return (value["type"] != "group" or has(value, "item")) and (value["type"] != "display" or not has(value, "item"))


def _que_2(value: Json) -> bool:
    links = list(_links(value))
    return len(links) == len(set(links))


def _links(value: Json) -> Iterator[str]:
    for item in value.get("item", ()):
        yield item["linkId"]
        yield from _links(item)


def _unless_type(types: str, *names: str) -> Callable[[Json], bool]:
    listed = frozenset(types.split())
    return lambda value: value["type"] not in listed or not any(has(value, name) for name in names)


def _only_type(types: str, *names: str) -> Callable[[Json], bool]:
    listed = frozenset(types.split())
    return lambda value: value["type"] in listed or not any(has(value, name) for name in names)


def _entries(value: Json) -> list[Json]:
    return list(value.get("entry", ()))


def _bdl_3(value: Json) -> bool:
    wanted = value["type"] in {"batch", "transaction", "history"}
    return all(has(entry, "request") == wanted for entry in _entries(value))


def _bdl_4(value: Json) -> bool:
    wanted = value["type"] in {"batch-response", "transaction-response", "history"}
    return all(has(entry, "response") == wanted for entry in _entries(value))


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
    return [has(value, "value[x]"), has(value, "resource"), has(value, "part")].count(True) == 1


RULES: Final[Mapping[tuple[str, str], tuple[Invariant, ...]]] = {
    **DATATYPES,
    ("Patient", "contact"): (
        Invariant(
            "pat-1",
            "needs a name, telecom, address or organization",
            any_of("name", "telecom", "address", "organization"),
        ),
    ),
    ("Organization", ""): (
        Invariant("org-1", "needs an identifier or a name", any_of("identifier", "name")),
        Invariant("org-2", "has a home address", lambda v: all(a.get("use") != "home" for a in v.get("address", ()))),
        Invariant("org-3", "has a home telecom", lambda v: all(t.get("use") != "home" for t in v.get("telecom", ()))),
    ),
    ("ServiceRequest", ""): (Invariant("prr-1", "has orderDetail and needs a code", needs("orderDetail", "code")),),
    ("Condition", ""): (
        Invariant("con-4", "has an abatement, so its clinicalStatus must be inactive, remission or resolved", _con_4),
        Invariant("con-5", "is entered-in-error and may have no clinicalStatus", _con_5),
    ),
    ("Condition", "stage"): (Invariant("con-1", "needs a summary or an assessment", any_of("summary", "assessment")),),
    ("Condition", "evidence"): (Invariant("con-2", "needs a code or a detail", any_of("code", "detail")),),
    ("AllergyIntolerance", ""): (
        Invariant("ait-1", "needs a clinicalStatus", lambda v: _allergy_in_error(v) or "clinicalStatus" in v),
        Invariant(
            "ait-2",
            "is entered-in-error and may have no clinicalStatus",
            lambda v: not (_allergy_in_error(v) and "clinicalStatus" in v),
        ),
    ),
    ("RiskAssessment", "prediction"): (
        Invariant("ras-1", "gives its probability as a range in other units than %", _range_in_percent),
        Invariant("ras-2", "has a probability above 100", lambda v: v.get("probabilityDecimal", 0) <= _PERCENT_MAX),
    ),
    ("CareTeam", "participant"): (
        Invariant("ctm-1", "acts on behalf of somebody and is no Practitioner", _only_practitioners_act_for),
    ),
    ("Measure", "group.stratifier"): (
        Invariant("mea-1", "needs either components or a code, description or criteria", _stratifier),
    ),
    ("MeasureReport", "group.stratifier.stratum"): (
        Invariant("mrp-2", "needs either a value or components", lambda v: has(v, "value") != has(v, "component")),
    ),
    ("CapabilityStatement", ""): (
        Invariant("cpb-1", "needs rest, messaging or document", any_of("rest", "messaging", "document")),
        Invariant(
            "cpb-2",
            "needs a description, software or implementation",
            any_of("description", "software", "implementation"),
        ),
        Invariant(
            "cpb-3",
            "has a messaging endpoint and is no instance",
            lambda v: v["kind"] == "instance" or not any("endpoint" in one for one in v.get("messaging", ())),
        ),
        Invariant(
            "cpb-7",
            "names a document twice",
            lambda v: _distinct([(one.get("profile"), one.get("mode")) for one in v.get("document", ())]),
        ),
        Invariant(
            "cpb-14",
            "is an instance and needs an implementation",
            lambda v: v["kind"] != "instance" or "implementation" in v,
        ),
        Invariant(
            "cpb-15",
            "is a capability and needs software and no implementation",
            lambda v: v["kind"] != "capability" or ("implementation" not in v and "software" in v),
        ),
        Invariant(
            "cpb-16",
            "states requirements and has neither implementation nor software",
            lambda v: v["kind"] != "requirements" or not ({"implementation", "software"} & v.keys()),
        ),
    ),
    ("CapabilityStatement", "rest"): (
        Invariant(
            "cpb-9", "names a type twice", lambda v: _distinct([one.get("type") for one in v.get("resource", ())])
        ),
    ),
    ("CapabilityStatement", "rest.resource"): (
        Invariant(
            "cpb-12",
            "names a search parameter twice",
            lambda v: _distinct([one.get("name") for one in v.get("searchParam", ())]),
        ),
    ),
    ("Consent", ""): (Invariant("ppc-1", "needs a policy or a policyRule", any_of("policy", "policyRule")),),
    ("CarePlan", "activity"): (
        Invariant("cpl-3", "has a detail and a reference, and may have one", not_both("detail", "reference")),
    ),
    ("Goal", "target"): (Invariant("gol-1", "has a detail and needs a measure", needs("detail[x]", "measure")),),
    ("FamilyMemberHistory", ""): (
        Invariant("fhs-1", "has an age and a birth, and may have one", not_both("age[x]", "born[x]")),
        Invariant("fhs-2", "estimates an age and needs one", needs("estimatedAge", "age[x]")),
    ),
    ("Immunization", "education"): (
        Invariant("imm-1", "needs a documentType or a reference", any_of("documentType", "reference")),
    ),
    ("Questionnaire", ""): (Invariant("que-2", "uses a linkId more than once", _que_2),),
    ("Questionnaire", "item"): (
        Invariant("que-1", "is a group without items or a display with items", _que_1),
        Invariant("que-3", "is a display and may have no code", _unless_type("display", "code")),
        Invariant(
            "que-4",
            "has answerOption and answerValueSet, and may have one",
            not_both("answerOption", "answerValueSet"),
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
        Invariant("que-11", "has answerOption and initial, and may have one", not_both("answerOption", "initial")),
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
        Invariant("app-2", "needs both a start and an end, or neither", lambda v: has(v, "start") == has(v, "end")),
        Invariant("app-3", "needs a start and an end unless it is proposed, cancelled or on the waitlist", _app_3),
        Invariant(
            "app-4",
            "has a cancelationReason and is neither cancelled nor no-show",
            lambda v: "cancelationReason" not in v or v["status"] in {"no-show", "cancelled"},
        ),
    ),
    ("Appointment", "participant"): (Invariant("app-1", "needs a type or an actor", any_of("type", "actor")),),
    ("AppointmentResponse", ""): (
        Invariant("apr-1", "needs a participantType or an actor", any_of("participantType", "actor")),
    ),
    ("MedicationAdministration", "dosage"): (Invariant("mad-1", "needs a dose or a rate", any_of("dose", "rate[x]")),),
    ("MedicationDispense", ""): (
        Invariant("mdd-1", "is handed over before it is prepared", in_order("whenPrepared", "whenHandedOver")),
    ),
    ("Observation", ""): (
        Invariant(
            "obs-6", "has a dataAbsentReason and a value, and may have one", not_both("dataAbsentReason", "value[x]")
        ),
        Invariant("obs-7", "has a value and a component with the same code", _obs_7),
    ),
    ("Observation", "referenceRange"): (
        Invariant("obs-3", "needs a low, a high or a text", any_of("low", "high", "text")),
    ),
    ("Composition", "section"): (
        Invariant("cmp-1", "needs a text, an entry or a section", any_of("text", "entry", "section")),
        Invariant("cmp-2", "has an emptyReason and entries, and may have one", not_both("emptyReason", "entry")),
    ),
    ("QuestionnaireResponse", "item"): (
        Invariant("qrs-1", "has answers and items; items belong below the answer", not_both("answer", "item")),
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
        Invariant("bdl-5", "needs a resource, a request or a response", any_of("resource", "request", "response")),
        Invariant("bdl-8", "has a fullUrl with a version", lambda v: "/_history/" not in v.get("fullUrl", "")),
    ),
    ("Task", ""): (Invariant("inv-1", "was modified before it was authored", in_order("authoredOn", "lastModified")),),
    ("AuditEvent", "entity"): (
        Invariant("sev-1", "has a name and a query, and may have one", not_both("name", "query")),
    ),
    ("Parameters", "parameter"): (Invariant("inv-1", "needs exactly one of value, resource and part", _parameter),),
    ("List", ""): (
        Invariant("lst-1", "has an emptyReason and entries, and may have one", not_both("emptyReason", "entry")),
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


def invariants_of(type_: str, path: str) -> tuple[Invariant, ...]:
    """Return the rules for objects of a type, or of the backbone element `path` in it."""
    return RULES.get((type_, path), ())
