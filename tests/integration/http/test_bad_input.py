"""Bad input: each gets its status, an OperationOutcome with a location, and nothing is stored."""

from __future__ import annotations

import json

import pytest

JSON = {"Content-Type": "application/fhir+json"}
GOOD = {
    "resourceType": "Observation",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]},
    "valueQuantity": {"value": 120, "unit": "mmHg"},
}


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


def of_type(media_type):
    return {"Content-Type": media_type}


SENT = json.dumps(GOOD)
DOUBLED = b'{"resourceType":"Observation","status":"final","status":"amended"}'
NOT_UTF8 = b'{"resourceType":"Observation","status":"\xff"}'
DEEP = b'{"a":' * 200 + b"1" + b"}" * 200
GOAL = {
    "resourceType": "Goal",
    "lifecycleStatus": "active",
    "description": {"text": "nothing"},
    "subject": {"reference": "Patient/p"},
}
BAD_CODE = json.dumps({**GOOD, "status": "nope"})
UNKNOWN_ELEMENT = json.dumps({**GOOD, "colour": "blue"})
BAD_DATE = json.dumps({**GOOD, "effectiveDateTime": "22.11.2026"})
NONSENSE = json.dumps({"resourceType": "Nonsense"})
APPOINTMENT = json.dumps({"resourceType": "Appointment"})
CONDITION = {**JSON, "If-None-Exist": "colour=blue"}
FHIR5 = of_type("application/fhir+json; fhirVersion=5.0")
XML = of_type("application/fhir+xml")

TABLE = {
    # what: path, body, headers; status, issue code, location
    "malformed JSON": ("Observation", b'{"resourceType": "Obs', JSON, 400, "structure", "http.body"),
    "no body": ("Observation", b"", JSON, 400, "structure", "http.body"),
    "not an object": ("Observation", b"[]", JSON, 400, "structure", "http.body"),
    "not UTF-8": ("Observation", NOT_UTF8, JSON, 400, "structure", "http.body"),
    "a doubled member": ("Observation", DOUBLED, JSON, 400, "structure", "http.body"),
    "nested too deeply": ("Observation", DEEP, JSON, 400, "too-costly", "http.body"),
    "a wrong media type": ("Observation", SENT, of_type("text/plain"), 415, "not-supported", "http.content-type"),
    "XML": ("Observation", b"<Observation/>", XML, 415, "not-supported", "http.content-type"),
    "no media type": ("Observation", SENT, of_type(""), 415, "not-supported", "http.content-type"),
    "another FHIR version": ("Observation", SENT, FHIR5, 415, "not-supported", "http.content-type"),
    "an unknown resource type": ("Nonsense", NONSENSE, JSON, 404, "not-supported", "http.url"),
    "a type of another service": ("Appointment", APPOINTMENT, JSON, 404, "not-supported", "http.url"),
    "another type than the URL's": ("Patient", SENT, JSON, 400, "structure", "Patient"),
    "a missing required element": (
        "Observation", json.dumps(without("status")), JSON, 400, "required", "Observation.status",
    ),
    "a code that is none": ("Observation", BAD_CODE, JSON, 400, "code-invalid", "Observation.status"),
    "an unknown element": ("Observation", UNKNOWN_ELEMENT, JSON, 400, "structure", "Observation.colour"),
    "a date that is none": ("Observation", BAD_DATE, JSON, 400, "value", "Observation.effective"),
    "a rule's refusal": ("Goal", json.dumps(GOAL), JSON, 422, "business-rule", "Goal.description"),
    "an unknown condition": ("Observation", SENT, CONDITION, 400, "not-supported", None),
}  # fmt: skip


@pytest.mark.parametrize(("path", "body", "headers", "status", "code", "expression"), TABLE.values(), ids=TABLE)
async def test_bad_input_is_refused_and_not_stored(fhir, issues, path, body, headers, status, code, expression):
    answer = await fhir.http.post(f"/fhir/{path}", content=body, headers=headers)
    found = issues(answer, status)
    assert code in {issue["code"] for issue in found}
    if expression is not None:
        assert expression in {place for issue in found for place in issue.get("expression", [])}
    assert await fhir.held() == 0


async def test_all_faults_of_a_resource_are_told_at_once(fhir, issues):
    body = {**without("code"), "status": "nope", "colour": "blue"}
    found = issues(await fhir.http.post("/fhir/Observation", json=body), 400)
    assert {place for issue in found for place in issue["expression"]} >= {
        "Observation.status",
        "Observation.code",
        "Observation.colour",
    }


@pytest.mark.parametrize(
    ("if_match", "status"), [('W/"2"', 412), ('"9"', 412), ("nonsense", 400), ('W/"1", W/"2"', 400)]
)
async def test_a_wrong_if_match_changes_nothing(fhir, issues, if_match, status):
    made = await fhir.create(GOOD)
    place = f"/fhir/Observation/{made['id']}"
    headers = {"If-Match": if_match}
    issues(await fhir.http.put(place, json={**made, "status": "amended"}, headers=headers), status)
    issues(await fhir.http.delete(place, headers=headers), status)
    assert await fhir.held() == 1
    assert (await fhir.http.get(place)).json() == made


@pytest.mark.parametrize(
    ("query", "code", "said"),
    [
        ("colour=blue", None, "colour"),
        ("code:sounds-like=x", None, "sounds-like"),
        ("date=yesterday", None, "date"),
        ("value-quantity=xx5", None, "value-quantity"),
        ("_sort=colour", None, "colour"),
        ("_count=many", None, "_count"),
        ("subject.nonsense=x", "not-supported", "subject.nonsense"),
        ("_include=Observation:colour", "not-supported", "colour"),
        ("_summary=most", "value", "_summary"),
        ("_elements=id,shoe", "value", "shoe"),
        ("_summary=text&_elements=id", "value", "_elements"),
        ("_page=abc", "value", "_page"),
    ],
)
async def test_a_search_that_cannot_be_understood_is_refused_and_not_widened(fhir, issues, query, code, said):
    await fhir.create(GOOD)
    (issue, *_) = issues(await fhir.http.get(f"/fhir/Observation?{query}"), 400)
    assert said in issue["diagnostics"]
    if code is not None:
        assert issue["code"] == code


async def test_an_id_of_a_clients_choice_is_refused(fhir, issues):
    issues(await fhir.http.put("/fhir/Observation/mine", json={**GOOD, "id": "mine"}), 404)
    assert await fhir.held() == 0


async def test_what_never_was_is_not_found(fhir, issues):
    issues(await fhir.http.get("/fhir/Observation/none"), 404)
    issues(await fhir.http.get("/fhir/Observation/none/_history"), 404)
    issues(await fhir.http.get("/fhir/Observation/none/_history/1"), 404)
    issues(await fhir.http.delete("/fhir/Observation/none"), 404)
    made = await fhir.create(GOOD)
    issues(await fhir.http.get(f"/fhir/Observation/{made['id']}/_history/2"), 404)
    issues(await fhir.http.get(f"/fhir/Observation/{made['id']}/_history/99999999999999999999"), 404)
