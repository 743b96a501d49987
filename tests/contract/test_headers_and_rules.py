"""Headers, formats, exactness, validation, operations, terminology, conformance and provenance, a row per cell.

At the gateway and at a service; which row proves which cell of the floor is in `tests.contract.floor`.
"""

from __future__ import annotations

import base64
import gzip
import json
from typing import Any

import pytest

from tests.contract.server import ROWS, SOURCE, Server, person, row, rows_of, token
from tests.contract.test_interactions import server

__all__ = ["server"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


# -- headers and formats


@row("headers: Prefer return=minimal, representation, OperationOutcome")
def _(server: Server) -> None:
    assert server.send("POST", "Patient", person(), status=201, Prefer="return=minimal").content == b""
    whole = server.send("POST", "Patient", person(), status=201, Prefer="return=representation").json()
    assert whole["resourceType"] == "Patient"
    told = server.send("POST", "Patient", person(), status=201, Prefer="return=OperationOutcome").json()
    assert told["resourceType"] == "OperationOutcome"


@row("headers: an unknown search parameter is refused, or with handling=lenient ignored and named")
def _(server: Server) -> None:
    refused = server.send("GET", "Patient?nosuch=1", status=400)
    assert "nosuch" in refused.text
    server.send("GET", "Patient?nosuch=1", status=400, Prefer="handling=strict")
    told = server.send("GET", "Patient?nosuch=1&_count=1", Prefer="handling=lenient").json()
    outcome = [one for one in told["entry"] if one["search"]["mode"] == "outcome"]
    assert "nosuch" in json.dumps(outcome)
    assert "nosuch" not in next(link["url"] for link in told["link"] if link["relation"] == "self")


@row("headers: X-Request-Id comes back")
def _(server: Server) -> None:
    assert server.send("GET", "metadata", X_Request_Id="contract-17").headers["X-Request-Id"] == "contract-17"
    assert server.send("GET", "metadata").headers["X-Request-Id"]


@row("formats: application/fhir+json, application/json, _format; everything else 406 and 415")
def _(server: Server) -> None:
    path = f"Patient/{server.patient()['id']}"
    for accept in ("application/fhir+json", "application/json", "*/*", "application/fhir+json; fhirVersion=4.0"):
        server.send("GET", path, Accept=accept)
    for wanted in ("json", "application/json", "application/fhir%2Bjson"):
        server.send("GET", f"{path}?_format={wanted}", Accept="text/html")
    server.send("GET", path, status=406, Accept="text/turtle")
    server.send("GET", f"{path}?_format=ttl", status=406)
    server.send("POST", "Patient", person(), status=201, Content_Type="application/json")
    server.send("POST", "Patient", "<Patient/>", status=415, Content_Type="application/fhir+xml")


@row("formats: _pretty")
def _(server: Server) -> None:
    path = f"Patient/{server.patient()['id']}"
    pretty, plain = server.send("GET", f"{path}?_pretty=true"), server.send("GET", path)
    assert pretty.json() == plain.json()
    assert pretty.text.count("\n") > 3
    assert "\n" not in plain.text.strip()


@row("formats: gzip, both ways")
def _(server: Server) -> None:
    packed = gzip.compress(json.dumps(person(name=[{"text": "x" * 5000}])).encode())
    made = server.send("POST", "Patient", packed, status=201, Content_Encoding="gzip").json()
    answer = server.send("GET", f"Patient/{made['id']}", Accept_Encoding="gzip")
    assert answer.headers.get("Content-Encoding") == "gzip"
    assert answer.json()["name"] == [{"text": "x" * 5000}]


@row("exactness: decimals, times, extensions of primitives, contained and unknown extensions come back")
def _(server: Server) -> None:
    patient = server.patient()
    text = json.dumps(
        {
            "resourceType": "Observation",
            "meta": {"source": SOURCE},
            "contained": [{"resourceType": "Organization", "id": "lab", "name": "Lab"}],
            "extension": [{"url": "urn:unheard-of", "valueString": "kept"}],
            "status": "final",
            "_status": {"extension": [{"url": "urn:why", "valueCode": "x"}]},
            "code": {"text": "weight"},
            "subject": {"reference": f"Patient/{patient['id']}"},
            "effectiveDateTime": "2026-03-04T05:06:07.8900+05:30",
            "performer": [{"reference": "#lab"}],
            "valueQuantity": {"value": "DECIMAL"},
        }
    ).replace('"DECIMAL"', "70.100")
    made = server.send("POST", "Observation", text, status=201)
    read = server.send("GET", f"Observation/{made.json()['id']}")
    assert '"value":70.100' in read.text.replace(" ", "")
    assert "2026-03-04T05:06:07.8900+05:30" in read.text
    sent = json.loads(text)
    assert {key: read.json()[key] for key in sent if key != "meta"} == {
        key: value for key, value in sent.items() if key != "meta"
    }
    assert [key for key in read.json() if key != "id"] == list(sent)


# -- validation and operations


@row("validation: every issue at once, each with its place")
def _(server: Server) -> None:
    wrong = {"resourceType": "Patient", "gender": "nope", "birthDate": "1980-13-01", "unheardOf": 1, "name": {}}
    issues = server.send("POST", "Patient", wrong, status=400).json()["issue"]
    places = {place for issue in issues for place in issue.get("expression", [])}
    assert {"Patient.gender", "Patient.birthDate", "Patient.unheardOf", "Patient.name"} <= places


@row("validation: a doubled key, a wrong reference target, two values of a choice, an invariant")
def _(server: Server) -> None:
    server.send("POST", "Patient", '{"resourceType":"Patient","active":true,"active":false}', status=400)
    observation = {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, "meta": {"source": SOURCE}}
    server.send("POST", "Observation", {**observation, "subject": {"reference": "Encounter/1"}}, status=400)
    server.send("POST", "Observation", {**observation, "valueString": "a", "valueInteger": 1}, status=400)
    server.send("POST", "Observation", {**observation, "referenceRange": [{"text": "x"}, {"age": {}}]}, status=400)
    contact = [{"relationship": [{"text": "friend"}]}]
    server.send("POST", "Patient", person(contact=contact), status=400)


@row("operations: $validate with mode and profile")
def _(server: Server) -> None:
    good = server.send("POST", "Patient/$validate", person(active=True)).json()
    assert not [issue for issue in good["issue"] if issue["severity"] in ("error", "fatal")]
    bad = server.send("POST", "Patient/$validate", person(gender="nope")).json()
    assert [issue for issue in bad["issue"] if issue["severity"] == "error"]
    profile = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"
    less = server.send("POST", f"Patient/$validate?profile={profile}&mode=create", person(gender="male")).json()
    assert {place for issue in less["issue"] for place in issue.get("expression", [])} >= {"Patient.name"}


@row("operations: $meta, $meta-add, $meta-delete")
def _(server: Server) -> None:
    path = f"Patient/{server.patient()['id']}"
    label = {"system": "urn:t", "code": token()}
    change = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"tag": [label]}}]}
    server.send("POST", f"{path}/$meta-add", change)
    told = server.send("GET", f"{path}/$meta").json()
    assert label in told["parameter"][0]["valueMeta"]["tag"]
    server.send("POST", f"{path}/$meta-delete", change)
    assert label["code"] not in server.send("GET", path).text


@row("operations: $expand, $validate-code, $lookup of what is held")
def _(server: Server) -> None:
    url = "http://hl7.org/fhir/ValueSet/administrative-gender"
    codes = server.send("GET", f"ValueSet/$expand?url={url}").json()["expansion"]["contains"]
    assert {each["code"] for each in codes} == {"male", "female", "other", "unknown"}

    def value(told: dict[str, Any], name: str) -> Any:
        parameter = next(each for each in told["parameter"] if each["name"] == name)
        return next(found for key, found in parameter.items() if key.startswith("value"))

    system = "http://hl7.org/fhir/administrative-gender"
    for code, right in (("male", True), ("nope", False)):
        told = server.send("GET", f"ValueSet/$validate-code?url={url}&system={system}&code={code}").json()
        assert value(told, "result") is right
    assert value(server.send("GET", f"CodeSystem/$lookup?system={system}&code=male").json(), "display") == "Male"
    server.send("GET", "ValueSet/$expand?url=urn:nothing", status=(404, 422))


@row("conformance: SearchParameter, StructureDefinition and OperationDefinition can be read")
def _(server: Server) -> None:
    for type_ in ("SearchParameter", "StructureDefinition", "OperationDefinition"):
        page = server.send("GET", f"{type_}?_count=5").json()
        assert page["entry"], type_
        one = page["entry"][0]["resource"]
        assert server.send("GET", f"{type_}?url={one['url']}").json()["entry"][0]["resource"]["url"] == one["url"]


@row("limits: methods that are not offered, types that are not held, bodies that are too large or too deep")
def _(server: Server) -> None:
    server.send("DELETE", "metadata", status=405)
    server.send("GET", "Nothing/1", status=404)
    server.send("POST", "Patient", "{", status=400)
    server.send("POST", "Patient", {"resourceType": "Observation"}, status=400)
    deep = '{"resourceType":"Patient","extension":' + '[{"url":"x","extension":' * 2000 + "[]" + "}]" * 2000 + "}"
    server.send("POST", "Patient", deep, status=400)
    picture = {"contentType": "image/png", "data": base64.b64encode(bytes(3_000_000)).decode()}
    made = server.patient(photo=[picture])
    assert made["photo"] == [picture]


@row("operations: Patient/$match grades who may be meant, and creates nothing")
def _(server: Server) -> None:
    family = f"Match{token()}"
    known = server.patient(name=[{"family": family, "given": ["Ada"]}], birthDate="1980-02-03", gender="female")
    asked = person(name=[{"family": family, "given": ["Ada"]}], birthDate="1980-02-03", gender="female")
    parameters = {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": asked}]}
    found = server.send("POST", "Patient/$match", parameters).json()
    assert found["entry"][0]["resource"]["id"] == known["id"], "the best comes first"
    searched = server.send("GET", f"Patient?_id={known['id']}").json()
    assert found["entry"][0]["fullUrl"] == searched["entry"][0]["fullUrl"]
    grades = [each["valueCode"] for one in found["entry"] for each in one["search"]["extension"] if "valueCode" in each]
    assert set(grades) <= {"certain", "probable", "possible", "certainly-not"}
    scores = [one["search"]["score"] for one in found["entry"]]
    assert scores == sorted(scores, reverse=True)
    assert len(server.found(f"Patient?family={family}")) == 1


@row("terminology: :in, :not-in, :below and :above in a search, by what is shipped")
def _(server: Server) -> None:
    roles, family = "http://terminology.hl7.org/CodeSystem/v3-RoleCode", token()
    patient = server.patient()

    def related(code: str) -> dict[str, Any]:
        return server.make(
            {
                "resourceType": "RelatedPerson",
                "patient": {"reference": f"Patient/{patient['id']}"},
                "name": [{"family": family}],
                "relationship": [{"coding": [{"system": roles, "code": code}]}],
            }
        )

    parent, mother, neighbour = related("PRN"), related("MTH"), related("NBOR")
    of = f"RelatedPerson?name={family}"
    assert set(server.found(f"{of}&relationship:below={roles}|PRN")) == {parent["id"], mother["id"]}
    assert set(server.found(f"{of}&relationship:above={roles}|MTH")) == {parent["id"], mother["id"]}
    assert set(server.found(f"{of}&relationship=http://nothing|,{roles}|NBOR")) == {neighbour["id"]}
    kinds = "http://hl7.org/fhir/ValueSet/administrative-gender"
    assert server.found(f"{of}&relationship:in={kinds}") == []
    assert len(server.found(f"{of}&relationship:not-in={kinds}")) == 3
    server.send("GET", f"{of}&relationship:in=urn:nothing", status=(400, 404, 422))


@row("result: _contained can only be false, and the CapabilityStatement says so")
def _(server: Server) -> None:
    made = server.patient(
        contained=[{"resourceType": "Organization", "id": "o", "name": token()}],
        managingOrganization={"reference": "#o"},
    )
    assert server.found(f"Patient?_id={made['id']}&_contained=false") == [made["id"]]
    for wanted in ("true", "both"):
        assert "_contained" in server.send("GET", f"Patient?_contained={wanted}", status=400).text
    assert "_contained" in server.send("GET", "metadata").json()["rest"][0]["documentation"]


@row("parameters: _text, _content, _filter, _query are not offered, and refused by name")
def _(server: Server) -> None:
    listed = [
        one["name"]
        for each in server.send("GET", "metadata").json()["rest"][0]["resource"]
        for one in each.get("searchParam", ())
    ]
    for name in ("_text", "_content", "_filter", "_query", "_score"):
        assert name not in listed
        assert name in server.send("GET", f"Patient?{name}=x", status=400).text


@row("conformance: OpenAPI lists the same")
def _(server: Server) -> None:
    told = server.http.get(server.base.removesuffix("/fhir") + "/openapi.json").json()
    assert told["openapi"].startswith("3.")
    assert {"/Patient", "/Patient/{id}", "/Patient/{id}/_history"} <= set(told["paths"])


@row("provenance: X-Provenance is kept with the write, and found by _revinclude")
def _(server: Server) -> None:
    said = {"resourceType": "Provenance", "recorded": "2026-03-04T05:06:07Z", "agent": [{"who": {"display": "Ada"}}]}
    made = server.send("POST", "Patient", person(), status=201, X_Provenance=json.dumps(said))
    place = f"Patient/{made.json()['id']}"
    found = server.send("GET", f"Patient?_id={made.json()['id']}&_revinclude=Provenance:target").json()["entry"]
    assert [one["search"]["mode"] for one in found] == ["match", "include"]
    kept = found[1]["resource"]
    assert kept["target"] == [{"reference": f"{place}/_history/1"}]
    assert made.headers["X-Kap-Provenance"] == f"Provenance/{kept['id']}"
    wrong = json.dumps({**said, "agent": []})
    server.send("PUT", place, {**made.json(), "gender": "male"}, status=400, X_Provenance=wrong)
    assert server.send("GET", place).json() == made.json()


@row("provenance: _revinclude=Provenance:target is offered on every type, and answers")
def _(server: Server) -> None:
    for each in server.send("GET", "metadata").json()["rest"][0]["resource"]:
        if "searchInclude" in each or "create" in [one["code"] for one in each["interaction"]]:
            assert "Provenance:target" in each["searchRevInclude"], each["type"]
            server.send("GET", f"{each['type']}?_revinclude=Provenance:target&_count=1")


@row("provenance: of what delivery and the gateway keep, too")
def _(server: Server) -> None:
    if not any(one["type"] == "Endpoint" for one in server.send("GET", "metadata").json()["rest"][0]["resource"]):
        return  # a service, which has neither
    group = server.make({"resourceType": "Group", "type": "person", "actual": True})
    endpoint = server.make(
        {
            "resourceType": "Endpoint",
            "status": "off",
            "connectionType": {
                "system": "http://terminology.hl7.org/CodeSystem/endpoint-connection-type",
                "code": "hl7-fhir-rest",
            },
            "payloadType": [{"text": "nothing"}],
            "address": "http://127.0.0.1:9/fhir",
        }
    )
    for one in (group, endpoint):
        place = f"{one['resourceType']}/{one['id']}"
        told = server.make(
            {
                "resourceType": "Provenance",
                "target": [{"reference": place}],
                "recorded": "2026-03-04T05:06:07Z",
                "agent": [{"who": {"display": "Ada"}}],
            }
        )
        found = server.send("GET", f"{one['resourceType']}?_id={one['id']}&_revinclude=Provenance:target").json()
        assert [each["resource"]["id"] for each in found["entry"]] == [one["id"], told["id"]]
        server.send("DELETE", place, status=(200, 204))


@pytest.mark.parametrize("cell", rows_of(__name__))
def test_the_contract_of_headers_formats_and_rules_holds(server: Server, cell: str) -> None:
    ROWS[cell](server)
