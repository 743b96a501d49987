"""Patches in their three forms, as pure functions."""

from __future__ import annotations

from contextlib import suppress
from copy import deepcopy
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.fhir.json import dump, parse
from shared.fhir.outcome import BadRequest, Unprocessable
from shared.fhir.patch.apply import FHIRPATH_PATCH, JSON_PATCH, MERGE_PATCH, PATCH_FORMATS, apply_patch

TEXT = """{"resourceType":"Patient","id":"p1","meta":{"versionId":"3","lastUpdated":"2026-11-22T10:00:00.000Z"},
"identifier":[{"system":"urn:mrn","value":"1"},{"system":"urn:ssn","value":"2"},{"system":"urn:x","value":"3"}],
"name":[{"use":"official","family":"Kerr","given":["Ann","Bea"],"_given":[null,{"id":"b"}]}],
"birthDate":"1980-05-01","deceasedBoolean":false,
"extension":[{"url":"urn:weight","valueDecimal":70.50}]}"""


def patient():
    return parse(TEXT)


def operation(type_, **parts):
    values = []
    for name, value in parts.items():
        if name in {"path", "name"}:
            values.append({"name": name, "valueString": value})
        elif name in {"index", "source", "destination"}:
            values.append({"name": name, "valueInteger": value})
        else:
            values.append({"name": name, **value})
    return {"name": "operation", "part": [{"name": "type", "valueCode": type_}, *values]}


def fhirpath(*operations):
    return apply_patch(patient(), {"resourceType": "Parameters", "parameter": list(operations)}, FHIRPATH_PATCH)


# What holds of all three


def test_a_patch_keeps_order_and_the_digits_of_what_it_does_not_touch():
    for patch, form in (
        ([{"op": "replace", "path": "/birthDate", "value": "1981-05-01"}], JSON_PATCH),
        ({"birthDate": "1981-05-01"}, MERGE_PATCH),
        (
            {
                "resourceType": "Parameters",
                "parameter": [operation("replace", path="Patient.birthDate", value={"valueDate": "1981-05-01"})],
            },
            FHIRPATH_PATCH,
        ),
    ):
        patched = apply_patch(patient(), patch, form)
        assert dump(patched) == dump(parse(TEXT.replace("1980", "1981")))
        assert patched["extension"][0]["valueDecimal"].as_tuple() == Decimal("70.50").as_tuple()


def test_the_resource_and_the_patch_stay_as_they_were():
    before, value = patient(), {"system": "urn:y", "value": "4"}
    patch = [{"op": "add", "path": "/identifier/-", "value": value}, {"op": "remove", "path": "/identifier/3/value"}]
    kept = deepcopy(patch)
    apply_patch(before, patch, JSON_PATCH)
    assert before == patient()
    assert patch == kept


@pytest.mark.parametrize(
    ("name", "value"), [("resourceType", "Group"), ("id", "p2"), ("meta", {"versionId": "9"}), ("id", None)]
)
def test_what_tells_the_resource_cannot_be_patched(name, value):
    with pytest.raises(BadRequest) as refused:
        apply_patch(patient(), {name: value}, MERGE_PATCH)
    assert refused.value.issues[0].expression[0].startswith(f"Patient.{name}")


@pytest.mark.parametrize("form", PATCH_FORMATS)
@settings(deadline=None)
@given(
    patch=st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(),
        lambda inner: (
            st.lists(inner)
            | st.dictionaries(
                st.sampled_from(
                    ["op", "path", "from", "value", "resourceType", "parameter", "name", "part", "valueString"]
                ),
                inner,
            )
        ),
    )
)
def test_whatever_is_sent_as_a_patch_is_applied_or_refused(form, patch):
    with suppress(BadRequest, Unprocessable):
        assert apply_patch(patient(), patch, form)["id"] == "p1"


# JSON Patch


_POINTERS = st.sampled_from(
    [
        "",
        "/",
        "/id",
        "/name",
        "/name/0",
        "/name/-",
        "/name/0/given/1",
        "/identifier/9",
        "/birthDate/x",
        "/~2",
        "x",
        "/nope/a",
    ]
)


@settings(deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "none"]), "path": _POINTERS},
            optional={"from": _POINTERS, "value": st.sampled_from([None, 1, True, "x", [], {}, {"a": 1}])},
        ),
        min_size=1,
        max_size=4,
    )
)
def test_every_list_of_operations_is_applied_or_refused(patch):
    said = ""
    try:
        assert apply_patch(patient(), patch, JSON_PATCH)["id"] == "p1"
    except (BadRequest, Unprocessable) as refused:
        said = str(refused)
    assert "Kerr" not in said


def test_a_test_that_fails_stops_the_patch():
    patch = [{"op": "test", "path": "/birthDate", "value": "1990-01-01"}, {"op": "remove", "path": "/birthDate"}]
    with pytest.raises(Unprocessable, match="test of '/birthDate'"):
        apply_patch(patient(), patch, JSON_PATCH)


@pytest.mark.parametrize(
    "path", ["Patient" + ".id" * 640, "Patient.name.where(" + " and ".join(["use='x'"] * 140) + ")", "a" + "[0]" * 600]
)
def test_a_long_path_does_not_end_the_stack(path):
    assert fhirpath(operation("delete", path=path)) == patient()


def test_true_is_not_one_and_a_number_is_equal_whatever_its_digits():
    with pytest.raises(Unprocessable):
        apply_patch(patient(), [{"op": "test", "path": "/deceasedBoolean", "value": 0}], JSON_PATCH)
    same = [{"op": "test", "path": "/extension/0/valueDecimal", "value": Decimal("70.5")}]
    assert apply_patch(patient(), same, JSON_PATCH) == patient()


def test_copies_of_copies_do_not_fill_the_memory():
    bomb = [{"op": "copy", "from": "", "path": f"/x{number}"} for number in range(60)]
    with pytest.raises(BadRequest, match="copies too much"):
        apply_patch(patient(), bomb, JSON_PATCH)


def test_a_patch_cannot_nest_deeper_than_a_request_may():
    deep = [{"op": "add", "path": "/x" + "/y" * number, "value": {}} for number in range(150)]
    with pytest.raises(BadRequest, match="nested deeper"):
        apply_patch(patient(), deep, JSON_PATCH)


# JSON merge patch


def test_a_merge_patch_replaces_lists_and_removes_what_is_null():
    patched = apply_patch(patient(), {"birthDate": None, "identifier": [], "meta": {"tag": []}}, MERGE_PATCH)
    assert "birthDate" not in patched
    assert patched["identifier"] == []
    assert patched["meta"] == {"versionId": "3", "lastUpdated": "2026-11-22T10:00:00.000Z", "tag": []}


# FHIRPath Patch


def test_add_appends_to_a_list_and_sets_what_was_not_there():
    patched = fhirpath(
        operation("add", path="Patient", name="identifier", value={"valueIdentifier": {"value": "4"}}),
        operation("add", path="Patient", name="gender", value={"valueCode": "female"}),
        operation("add", path="Patient.name[0]", name="given", value={"valueString": "Cil"}),
    )
    assert [one["value"] for one in patched["identifier"]] == ["1", "2", "3", "4"]
    assert patched["gender"] == "female"
    assert patched["name"][0]["given"] == ["Ann", "Bea", "Cil"]
    assert patched["name"][0]["_given"] == [None, {"id": "b"}, None]


def test_add_does_not_replace_what_there_can_be_once():
    with pytest.raises(Unprocessable, match="is there already"):
        fhirpath(operation("add", path="Patient", name="birthDate", value={"valueDate": "1981-01-01"}))
    with pytest.raises(Unprocessable, match="is there already"):
        fhirpath(operation("add", path="Patient", name="deceased", value={"valueDateTime": "2026"}))


def test_an_element_without_datatype_is_given_in_parts():
    contact = [
        {"name": "name", "valueHumanName": {"text": "Bob"}},
        {"name": "relationship", "valueCodeableConcept": {"text": "brother"}},
        {"name": "relationship", "valueCodeableConcept": {"text": "friend"}},
    ]
    patched = fhirpath(operation("add", path="Patient", name="contact", value={"part": contact}))
    assert patched["contact"] == [
        {"name": {"text": "Bob"}, "relationship": [{"text": "brother"}, {"text": "friend"}]},
    ]


def test_a_reference_may_be_to_what_the_resource_contains():
    contained = {"resourceType": "Organization", "id": "o", "name": "Clinic"}
    patched = fhirpath(
        operation("add", path="Patient", name="contained", value={"resource": contained}),
        operation("add", path="Patient", name="managingOrganization", value={"valueReference": {"reference": "#o"}}),
    )
    assert patched["contained"] == [contained]
    assert patched["managingOrganization"] == {"reference": "#o"}


def test_insert_puts_into_the_list_at_its_index():
    for index, after in ((0, "n123"), (2, "12n3"), (3, "123n")):
        patched = fhirpath(
            operation("insert", path="Patient.identifier", index=index, value={"valueIdentifier": {"value": "n"}})
        )
        assert "".join(one["value"] for one in patched["identifier"]) == after
    with pytest.raises(Unprocessable, match="behind the end"):
        fhirpath(operation("insert", path="Patient.identifier", index=4, value={"valueIdentifier": {"value": "n"}}))


def test_delete_takes_one_element_and_succeeds_where_there_is_none():
    patched = fhirpath(
        operation("delete", path="Patient.identifier.where(system = 'urn:ssn' and value = '2')"),
        operation("delete", path="Patient.birthDate"),
        operation("delete", path="Patient.photo"),
        operation("delete", path="Patient.name.given[1]"),
    )
    assert [one["value"] for one in patched["identifier"]] == ["1", "3"]
    assert "birthDate" not in patched
    assert patched["name"] == [{"use": "official", "family": "Kerr", "given": ["Ann"]}]
    with pytest.raises(Unprocessable, match="3 elements"):
        fhirpath(operation("delete", path="Patient.identifier"))


def test_what_a_delete_empties_goes_too():
    patched = fhirpath(
        operation("delete", path="Patient.name.given[1].id"),
        operation("delete", path="Patient.extension('urn:weight').url"),
        operation("delete", path="Patient.extension[0].value"),
    )
    assert patched["name"][0] == {"use": "official", "family": "Kerr", "given": ["Ann", "Bea"]}
    assert "extension" not in patched


def test_replace_changes_the_type_of_a_choice_in_its_place():
    patched = fhirpath(operation("replace", path="Patient.deceased", value={"valueDateTime": "2026-11-22"}))
    assert list(patched) == [name.replace("Boolean", "DateTime") for name in patient()]
    assert patched["deceasedDateTime"] == "2026-11-22"
    with pytest.raises(BadRequest, match="only boolean, dateTime"):
        fhirpath(operation("replace", path="Patient.deceased", value={"valueString": "yes"}))


def test_move_changes_the_order_of_a_list():
    for source, destination, after in ((2, 0, "312"), (0, 2, "231"), (1, 1, "123")):
        patched = fhirpath(operation("move", path="Patient.identifier", source=source, destination=destination))
        assert "".join(one["value"] for one in patched["identifier"]) == after
    with pytest.raises(Unprocessable, match="the last is 2"):
        fhirpath(operation("move", path="Patient.identifier", source=3, destination=0))


def test_an_extension_of_a_primitive_is_added_and_replaced_beside_it():
    url = "urn:place"
    patched = fhirpath(
        operation(
            "add", path="Patient.birthDate", name="extension", value={"part": [{"name": "url", "valueUri": url}]}
        ),
        operation(
            "add",
            path=f"Patient.birthDate.extension('{url}')",
            name="value",
            value={"valueString": "Ayr"},
        ),
        operation("replace", path=f"Patient.birthDate.extension('{url}').value", value={"valueString": "Oban"}),
        operation("add", path="Patient.name.given.first()", name="id", value={"valueString": "a"}),
    )
    assert patched["_birthDate"] == {"extension": [{"url": url, "valueString": "Oban"}]}
    assert patched["birthDate"] == "1980-05-01"
    assert patched["name"][0]["_given"] == [{"id": "a"}, {"id": "b"}]


@pytest.mark.parametrize(
    "path",
    [
        "identifier.where(value = '2').system",
        "Patient.identifier.where(system.exists() and (value = '2' or value = '9')).system",
        "Patient.identifier.where(value != '1').first().system",
        "Patient.identifier[1].system.single()",
        "Resource.identifier.where((value = '1').not()).first().system.ofType(uri)",
        "Patient.identifier.where(period.empty())[1].system",
    ],
)
def test_a_path_finds_its_element(path):
    patched = fhirpath(operation("replace", path=path, value={"valueUri": "urn:new"}))
    assert [one["system"] for one in patched["identifier"]] == ["urn:mrn", "urn:new", "urn:x"]


@pytest.mark.parametrize(
    "path",
    [
        "",
        "Patient.",
        "Patient.identifier[",
        "Patient.identifier.repeat(x)",
        "Patient.name + 1",
        "'x'",
        "Patient..id",
        "Patient",
        "where(" * 50,
        "a" * 3000,
    ],
)
def test_a_path_that_is_not_understood_is_refused(path):
    with pytest.raises(BadRequest):
        fhirpath(operation("delete", path=path))


@pytest.mark.parametrize(
    "bad",
    [
        {"name": "other", "part": []},
        {"name": "operation"},
        {"name": "operation", "part": {"name": "type"}},
        {"name": "operation", "part": [{"name": "type", "valueCode": "delete", "valueString": "x"}]},
        {"name": "operation", "part": ["type"]},
        {"name": "operation", "part": [{"valueCode": "delete"}]},
        operation("drop", path="Patient.name"),
        operation("add", path="Patient", value={"valueString": "x"}),
        operation("delete", path="Patient.name", index=1),
        operation("add", path="Patient", name="nope", value={"valueString": "x"}),
        operation("move", path="Patient.identifier[0]", source=0, destination=1),
        operation("insert", path="Patient.identifier", index=-1, value={"valueIdentifier": {"value": "n"}}),
        operation("delete", path="Patient"),
    ],
)
def test_an_operation_that_is_none_is_refused_with_its_place(bad):
    with pytest.raises(BadRequest) as refused:
        fhirpath(bad)
    assert refused.value.issues[0].expression[0].startswith("Parameters.parameter[0]")
