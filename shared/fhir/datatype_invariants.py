"""The invariants of R4's datatypes; see `shared.fhir.invariants`.

Source: https://hl7.org/fhir/R4/datatypes.html, https://hl7.org/fhir/R4/metadatatypes.html
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Final

from shared.fhir.holding import Invariant, Json, any_of, has, in_order, needs, not_both

UCUM: Final = "http://unitsofmeasure.org"


def _range_in_order(value: Json) -> bool:
    low, high = value.get("low", {}), value.get("high", {})
    if "value" not in low or "value" not in high or low.get("code") != high.get("code"):
        return True
    return bool(low["value"] <= high["value"])


def _ratio(value: Json) -> bool:
    both = has(value, "numerator") == has(value, "denominator")
    return both and (has(value, "numerator") or has(value, "extension"))


def _timing(value: Json) -> bool:
    return "offset" not in value or not {"C", "CM", "CD", "CV"}.issuperset(value["when"])


def _coded_in_ucum(value: Json) -> bool:
    """A value needs its unit's code, and a system is UCUM."""
    return ("code" in value or "value" not in value) and value.get("system", UCUM) == UCUM


def _age(value: Json) -> bool:
    return _coded_in_ucum(value) and value.get("value", 1) > 0


def _count(value: Json) -> bool:
    number = Decimal(str(value.get("value", 0)))
    return _coded_in_ucum(value) and value.get("code", "1") == "1" and number == number.to_integral_value()


def _duration(value: Json) -> bool:
    return "code" not in value or (value.get("system") == UCUM and "value" in value)


def _trigger(value: Json) -> bool:
    type_ = value["type"]
    wanted: dict[str, str] = {"named-event": "name", "periodic": "timing[x]"}
    if type_.startswith("data-"):
        return has(value, "data")
    return type_ not in wanted or has(value, wanted[type_])


_QUANTITY: Final = Invariant("qty-3", "has a code and needs a system", needs("code", "system"))

DATATYPES: Final[Mapping[tuple[str, str], tuple[Invariant, ...]]] = {
    ("Quantity", ""): (_QUANTITY,),
    ("Age", ""): (_QUANTITY, Invariant("age-1", "must be above 0, with a code of UCUM", _age)),
    ("Count", ""): (_QUANTITY, Invariant("cnt-3", "must be a whole number, with the code 1 of UCUM", _count)),
    ("Distance", ""): (_QUANTITY, Invariant("dis-1", "needs a code of UCUM", _coded_in_ucum)),
    ("Duration", ""): (_QUANTITY, Invariant("drt-1", "has a code, which must be UCUM's, and needs a value", _duration)),
    ("DataRequirement", "codeFilter"): (
        Invariant("drq-1", "needs either a path or a searchParam", lambda v: has(v, "path") != has(v, "searchParam")),
    ),
    ("DataRequirement", "dateFilter"): (
        Invariant("drq-2", "needs either a path or a searchParam", lambda v: has(v, "path") != has(v, "searchParam")),
    ),
    ("TriggerDefinition", ""): (
        Invariant("trd-1", "has data and timing, and may have one", not_both("data", "timing[x]")),
        Invariant("trd-2", "has a condition and needs data", needs("condition", "data")),
        Invariant("trd-3", "needs what its type is triggered by: name, timing or data", _trigger),
    ),
    ("Extension", ""): (
        Invariant(
            "ext-1",
            "must have either a value or extensions, not both",
            lambda v: has(v, "value[x]") != has(v, "extension"),
        ),
    ),
    ("ContactPoint", ""): (Invariant("cpt-2", "has a value and needs a system", needs("value", "system")),),
    ("Attachment", ""): (Invariant("att-1", "has data and needs a contentType", needs("data", "contentType")),),
    ("Period", ""): (Invariant("per-1", "ends before it starts", in_order("start", "end")),),
    ("Range", ""): (Invariant("rng-2", "has a low that is above its high", _range_in_order),),
    ("Ratio", ""): (Invariant("rat-1", "needs both numerator and denominator, or neither", _ratio),),
    ("Expression", ""): (Invariant("exp-1", "needs an expression or a reference", any_of("expression", "reference")),),
    ("Timing", "repeat"): (
        Invariant("tim-1", "has a duration and needs a durationUnit", needs("duration", "durationUnit")),
        Invariant("tim-2", "has a period and needs a periodUnit", needs("period", "periodUnit")),
        Invariant("tim-4", "has a negative duration", lambda v: v.get("duration", 0) >= 0),
        Invariant("tim-5", "has a negative period", lambda v: v.get("period", 0) >= 0),
        Invariant("tim-6", "has a periodMax and needs a period", needs("periodMax", "period")),
        Invariant("tim-7", "has a durationMax and needs a duration", needs("durationMax", "duration")),
        Invariant("tim-8", "has a countMax and needs a count", needs("countMax", "count")),
        Invariant("tim-9", "has an offset and needs a when other than a meal", _timing),
        Invariant("tim-10", "has timeOfDay and when, and may have one of them", not_both("timeOfDay", "when")),
    ),
}
