"""HL7's own validator finds no error in any kind of answer: each type of Bundle, each refusal, what operations return.

At the gateway, and at a service for its own types. What the answers hold of the record is asked about in
`test_hl7_validator`; what the server says of itself in `test_what_the_server_says`.
"""

from __future__ import annotations

import json
import re
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from shared.fhir.outcome import FhirError, Issue
from shared.testing.hl7_validator import Hl7Validator
from tests.contract.conftest import Played
from tests.contract.server import SOURCE, Server, token
from tests.e2e.kap import Kap
from tests.hl7 import errors

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LOINC = "http://loinc.org"
GENDERS = "http://hl7.org/fhir/ValueSet/administrative-gender"
GENDER = "http://hl7.org/fhir/administrative-gender"


@pytest.fixture(scope="module", params=["gateway", "intake"])
def server(request: pytest.FixtureRequest, played: Kap) -> Iterator[Server]:
    server = Server(f"{played.ports.url(request.param)}/fhir")
    yield server
    server.http.close()


@pytest.fixture(scope="module")
def patient(server: Server) -> dict[str, Any]:
    """A patient with two versions, weights, and a version that was deleted."""
    made = server.patient(gender="female")
    server.observation(made)
    gone = server.observation(made)
    server.send("DELETE", f"Observation/{gone['id']}", status=(200, 204))
    changed: dict[str, Any] = server.send("PUT", f"Patient/{made['id']}", {**made, "active": True}).json()
    return changed


def kinds_of(kind: type[FhirError]) -> Iterator[type[FhirError]]:
    for one in kind.__subclasses__():
        yield one
        yield from kinds_of(one)


def bundle(kind: str, *entries: tuple[str, str, dict[str, Any] | None]) -> dict[str, Any]:
    listed = [
        {
            "request": {"method": method, "url": url},
            **({} if resource is None else {"resource": resource, "fullUrl": f"urn:uuid:{uuid.uuid4()}"}),
        }
        for method, url, resource in entries
    ]
    return {"resourceType": "Bundle", "type": kind, "entry": listed}


def of_elsewhere(type_: str, **members: Any) -> dict[str, Any]:
    return {"resourceType": type_, "meta": {"source": SOURCE}, **members}


PAGES = {
    "a search": "Observation?patient={id}&_count=1&_total=accurate",
    "a search with what it includes": "Observation?patient={id}&_include=*&_revinclude=Provenance:target",
    "a search by revinclude": "Patient?_id={id}&_revinclude=Observation:subject",
    "a search that counts": "Observation?patient={id}&_summary=count",
    "a search without matches": "Observation?patient=nobody",
    "a search of several types": "?_type=Patient,Observation&_count=2",
    "a search that explains itself": "Observation?patient={id}&_explain=true",
    "a lenient search": "Patient?_id={id}&nosuch=1",
    "the history of an instance": "Patient/{id}/_history",
    "the history of a type, deletions in it": "Observation/_history?_count=5",
    "the history of the system": "_history?_count=20",
    "$lastn": "Observation/$lastn?patient={id}&category=vital-signs",
    "$docref": "DocumentReference/$docref?patient={id}",
    "$meta": "Patient/{id}/$meta",
    "$validate": "Patient/{id}/$validate",
    "$expand": f"ValueSet/$expand?url={GENDERS}",
    "$validate-code": f"ValueSet/$validate-code?url={GENDERS}&system={GENDER}&code=male",
    "$lookup": "CodeSystem/$lookup?system=http://terminology.hl7.org/CodeSystem/v3-RoleCode&code=PRN",
    "definitions": "StructureDefinition?_count=3",
}
MAY_BE_EMPTY = frozenset(
    ("a search without matches", "a search that counts", *(what for what in PAGES if what.startswith("$")))
)


@pytest.mark.parametrize("what", list(PAGES))
def test_every_kind_of_page_is_valid(
    server: Server, patient: dict[str, Any], hl7_validator: Hl7Validator, what: str
) -> None:
    answer = server.send("GET", PAGES[what].format(id=patient["id"]), Prefer="handling=lenient")
    assert errors(hl7_validator, answer.text) == []
    assert what in MAY_BE_EMPTY or answer.json()["entry"], "nothing was validated"


WHOLE_RECORD = ("Patient/{id}/$everything?_count=5", "Patient/{id}/$summary")


@pytest.mark.parametrize("path", WHOLE_RECORD)
def test_the_whole_record_of_a_patient_is_valid(
    gateway: httpx.Client, demo_run: Played, hl7_validator: Hl7Validator, path: str
) -> None:
    for page in demo_run.pages["Patient"]:
        for entry in json.loads(page)["entry"][:4]:
            answer = gateway.get(path.format(id=entry["resource"]["id"])).raise_for_status()
            assert errors(hl7_validator, answer.text) == []
            assert answer.json()["entry"]


YEAR = "periodStart=2026-01-01&periodEnd=2026-12-31"
OPERATIONS = (
    "Patient/{Patient}/$screen",
    "Appointment/$find?visit-type=kap-prep&start=2026-12-01T08:00:00Z&end=2026-12-03T20:00:00Z",
    "Appointment/$prerequisites?patient=Patient/{Patient}&visit-type=kap-dosing",
    f"Measure/$evaluate-measure?measure=https://kap-exchange.org/fhir/Measure/phq-9-response&{YEAR}",
    f"Measure/$csv?{YEAR}",
    f"MeasureReport/$superbill?{YEAR}",
    "RiskAssessment/{RiskAssessment}/$replay",
    "SupplyDelivery/$substance-inventory",
    "SupplyDelivery/$substance-log",
)
"""Of the clinic, as the demo left it. `$screen` writes, and is asked by POST."""


@pytest.mark.parametrize("path", OPERATIONS)
def test_what_an_operation_of_the_clinic_answers_is_valid(
    gateway: httpx.Client, demo_run: Played, hl7_validator: Hl7Validator, path: str
) -> None:
    for type_ in re.findall(r"{(\w+)}", path):
        page = gateway.get(f"{type_}?_count=1").raise_for_status().json()
        path = path.replace(f"{{{type_}}}", page["entry"][0]["resource"]["id"])
    answer = gateway.request("POST" if path.endswith("$screen") else "GET", path).raise_for_status()
    assert errors(hl7_validator, answer.text) == []


def test_what_the_gate_before_a_dose_answers_is_valid(
    gateway: httpx.Client, demo_run: Played, hl7_validator: Hl7Validator
) -> None:
    dose = gateway.get("MedicationAdministration?_count=1").raise_for_status().json()["entry"][0]["resource"]
    asked = {"name": "medicationRequest", "valueReference": {"reference": dose["request"]["reference"]}}
    answer = gateway.post(
        f"{dose['context']['reference']}/$pre-dose-gate",
        content=json.dumps({"resourceType": "Parameters", "parameter": [asked]}),
        headers={"Content-Type": "application/fhir+json"},
    ).raise_for_status()
    assert errors(hl7_validator, answer.text) == []


def test_what_match_finds_is_valid(server: Server, hl7_validator: Hl7Validator) -> None:
    known = server.patient(birthDate="1980-02-03", identifier=[{"system": "urn:example:match", "value": token()}])
    parameters = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": known}]}
    found = server.send("POST", "Patient/$match", parameters)
    assert found.json()["entry"]
    assert errors(hl7_validator, found.text) == []


def test_every_way_to_write_is_answered_with_what_is_valid(server: Server, hl7_validator: Hl7Validator) -> None:
    made = server.patient()
    path = f"Patient/{made['id']}"
    for wanted in ("representation", "OperationOutcome"):
        answers = [
            server.send("POST", "Patient", of_elsewhere("Patient"), status=201, Prefer=f"return={wanted}"),
            server.send("PUT", path, {**made, "gender": "male"}, Prefer=f"return={wanted}"),
            server.send(
                "PATCH",
                path,
                [{"op": "replace", "path": "/gender", "value": "female"}],
                Content_Type="application/json-patch+json",
                Prefer=f"return={wanted}",
            ),
        ]
        for answer in answers:
            assert errors(hl7_validator, answer.text) == []
    deleted = server.send("DELETE", path, Prefer="return=OperationOutcome")
    assert errors(hl7_validator, deleted.text) == []


@pytest.mark.parametrize("returned", ["representation", "minimal", "OperationOutcome"])
@pytest.mark.parametrize("kind", ["batch", "transaction"])
def test_the_answer_to_a_bundle_is_valid(server: Server, hl7_validator: Hl7Validator, kind: str, returned: str) -> None:
    gone, held = server.patient(), server.patient()
    entries: list[tuple[str, str, dict[str, Any] | None]] = [
        ("POST", "Patient", of_elsewhere("Patient", active=True)),
        ("PUT", f"Patient/{held['id']}", {**held, "gender": "other"}),
        ("DELETE", f"Patient/{gone['id']}", None),
        ("GET", f"Patient?_id={held['id']}", None),
        ("GET", f"Patient/{held['id']}", None),
    ]
    if kind == "batch":
        entries += [("GET", "Patient/nobody", None), ("POST", "Patient", {"resourceType": "Patient", "gender": "nope"})]
    answer = server.send("POST", "", bundle(kind, *entries), Prefer=f"return={returned}")
    assert answer.json()["type"] == f"{kind}-response"
    assert len(answer.json()["entry"]) == len(entries)
    assert errors(hl7_validator, answer.text) == []


def test_every_refusal_is_a_valid_outcome(server: Server, hl7_validator: Hl7Validator) -> None:
    held, gone = server.patient(identifier=[{"system": "urn:twice", "value": "1"}]), server.patient()
    server.patient(identifier=[{"system": "urn:twice", "value": "1"}])
    server.send("DELETE", f"Patient/{gone['id']}", status=(200, 204))
    name = {"profile": ["http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"], "source": SOURCE}
    both = [("PUT", f"Patient/{held['id']}", held), ("PUT", f"Patient/{held['id']}", held)]
    refusals: list[tuple[int, str, str, Any, dict[str, str]]] = [
        (400, "POST", "Patient", "{", {}),
        (400, "POST", "Patient", {"resourceType": "Patient", "gender": "nope", "unheardOf": 1, "name": {}}, {}),
        (400, "POST", "Observation", {"resourceType": "Patient"}, {}),
        (400, "PUT", "Patient/1", {"resourceType": "Patient", "id": "2"}, {}),
        (400, "GET", "Patient?nothing=1", None, {}),
        (400, "GET", "Observation?date=yesterday", None, {}),
        (400, "GET", "Patient?_page=forged", None, {}),
        (400, "POST", "", bundle("transaction", *both), {}),
        (400, "POST", "Patient/$validate", {"resourceType": "Parameters"}, {}),
        (404, "GET", "Patient/nobody", None, {}),
        (404, "GET", "Nothing", None, {}),
        (404, "GET", "Patient/$nothing", None, {}),
        (404, "GET", "ValueSet/$expand?url=urn:nothing", None, {}),
        (405, "DELETE", "metadata", None, {}),
        (406, "GET", f"Patient/{held['id']}", None, {"Accept": "text/turtle"}),
        (410, "GET", f"Patient/{gone['id']}", None, {}),
        (412, "PUT", f"Patient/{held['id']}", held, {"If_Match": 'W/"9"'}),
        (412, "POST", "Patient", of_elsewhere("Patient"), {"If_None_Exist": "identifier=urn:twice|1"}),
        (415, "POST", "Patient", "<Patient/>", {"Content_Type": "application/fhir+xml"}),
        (422, "POST", "Patient", {"resourceType": "Patient", "meta": name}, {}),
        (422, "POST", "Patient/$merge", merge(held, held), {}),
    ]
    for status, method, path, content, headers in refusals:
        answer = server.send(method, path, content, status=status, **headers)
        assert errors(hl7_validator, answer.text) == [], (status, method, path)
    assert {status for status, *_ in refusals} >= {400, 404, 405, 406, 410, 412, 415, 422}


def merge(source: dict[str, Any], target: dict[str, Any]) -> dict[str, Any]:
    parameters = [
        {"name": f"{name}-patient", "valueReference": {"reference": f"Patient/{one['id']}"}}
        for name, one in (("source", source), ("target", target))
    ]
    return {"resourceType": "Parameters", "parameter": parameters}


@pytest.mark.parametrize("kind", list(kinds_of(FhirError)), ids=lambda kind: kind.__name__)
def test_every_kind_of_refusal_is_written_as_a_valid_outcome(
    hl7_validator: Hl7Validator, kind: type[FhirError]
) -> None:
    """Those too that take a failed database or a full disk to get: 409, 413, 429, 503."""
    issue = Issue("It cannot be.", rule="N-NEWS", source="a guideline", expression=("Patient.name",))
    error = kind.__new__(kind)
    FhirError.__init__(error, [issue])
    assert errors(hl7_validator, json.dumps(error.as_fhir())) == []
