"""What other vendors' clients rely on, a row per cell, at the gateway and at a service."""

from __future__ import annotations

import base64
import gzip
import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.server import ROWS, SOURCE, Server, row
from tests.e2e.kap import Kap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


@pytest.fixture(scope="module", params=["gateway", "intake"])
def server(request: pytest.FixtureRequest, played: Kap) -> Iterator[Server]:
    server = Server(f"{played.ports.url(request.param)}/fhir")
    yield server
    server.http.close()


def entry(method: str, url: str, resource: Any = None, full_url: str | None = None, **request: str) -> dict[str, Any]:
    made: dict[str, Any] = {"request": {"method": method, "url": url, **request}}
    if resource is not None:
        made["resource"] = resource
    if full_url is not None:
        made["fullUrl"] = full_url
    return made


def bundle(type_: str, *entries: dict[str, Any]) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": type_, "entry": list(entries)}


def person(**members: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "meta": {"source": SOURCE}, **members}


def token() -> str:
    return uuid.uuid4().hex[:16]


# -- instance


@row("instance: read, with ETag, Last-Modified and the media type")
def _(server: Server) -> None:
    made = server.patient()
    answer = server.send("GET", f"Patient/{made['id']}")
    assert answer.json() == made
    assert answer.headers["ETag"] == 'W/"1"'
    assert answer.headers["Last-Modified"].endswith("GMT")
    assert answer.headers["Content-Type"].startswith("application/fhir+json")
    server.send("GET", "Patient/nobody", status=404)


@row("instance: read unless it is known (If-None-Match, If-Modified-Since)")
def _(server: Server) -> None:
    path = f"Patient/{server.patient()['id']}"
    read = server.send("GET", path)
    assert server.send("GET", path, status=304, If_None_Match=read.headers["ETag"]).content == b""
    server.send("GET", path, status=304, If_Modified_Since=read.headers["Last-Modified"])
    server.send("GET", path, If_None_Match='W/"9"')
    server.send("GET", path, If_Modified_Since="Mon, 01 Jan 2024 00:00:00 GMT")


@row("instance: vread")
def _(server: Server) -> None:
    made = server.patient()
    server.send("PUT", f"Patient/{made['id']}", {**made, "active": True})
    assert server.send("GET", f"Patient/{made['id']}/_history/1").json() == made
    assert server.send("GET", f"Patient/{made['id']}/_history/2").json()["active"] is True
    server.send("GET", f"Patient/{made['id']}/_history/3", status=404)


@row("instance: update, guarded by If-Match")
def _(server: Server) -> None:
    made = server.patient()
    path = f"Patient/{made['id']}"
    updated = server.send("PUT", path, {**made, "gender": "other"}, If_Match='W/"1"')
    assert updated.json()["meta"]["versionId"] == "2"
    server.send("PUT", path, {**made, "gender": "male"}, status=412, If_Match='W/"1"')
    assert server.send("GET", path).json()["gender"] == "other"
    server.send("PUT", path, {**made, "id": "another"}, status=400)


@row("instance: update of an id that nobody gave out is refused where clients do not choose ids")
def _(server: Server) -> None:
    rest = server.send("GET", "metadata").json()["rest"][0]
    offered = next(each for each in rest["resource"] if each["type"] == "Patient")["updateCreate"]
    id_ = str(uuid.uuid4())
    server.send("PUT", f"Patient/{id_}", person(id=id_), status=201 if offered else (404, 405, 422))


@row("instance: JSON Patch")
def _(server: Server) -> None:
    made = server.patient(active=True)
    path = f"Patient/{made['id']}"
    patch = [{"op": "test", "path": "/active", "value": True}, {"op": "replace", "path": "/active", "value": False}]
    patched = server.send("PATCH", path, patch, Content_Type="application/json-patch+json", If_Match='W/"1"')
    assert patched.json()["active"] is False
    server.send("PATCH", path, patch, status=422, Content_Type="application/json-patch+json")
    server.send("PATCH", path, [{"op": "no"}], status=400, Content_Type="application/json-patch+json")
    server.send("PATCH", path, patch, status=412, Content_Type="application/json-patch+json", If_Match='W/"1"')


@row("instance: FHIRPath Patch")
def _(server: Server) -> None:
    made = server.patient(gender="male")

    def part(name: str, **value: str) -> dict[str, Any]:
        return {"name": name, **value}

    operation = {
        "name": "operation",
        "part": [
            part("type", valueCode="replace"),
            part("path", valueString="Patient.gender"),
            part("value", valueCode="female"),
        ],
    }
    patch = {"resourceType": "Parameters", "parameter": [operation]}
    assert server.send("PATCH", f"Patient/{made['id']}", patch).json()["gender"] == "female"


@row("instance: JSON merge patch")
def _(server: Server) -> None:
    made = server.patient(gender="male", active=True)
    patch = {"gender": "female", "active": None}
    patched = server.send("PATCH", f"Patient/{made['id']}", patch, Content_Type="application/merge-patch+json").json()
    assert patched["gender"] == "female"
    assert "active" not in patched


@row("instance: delete, and what stays")
def _(server: Server) -> None:
    path = f"Patient/{server.patient()['id']}"
    server.send("DELETE", path, status=(200, 204))
    server.send("GET", path, status=410)
    server.send("GET", f"{path}/_history/1")
    server.send("DELETE", path, status=(200, 204))


@row("instance: history, newest first, deletions in it")
def _(server: Server) -> None:
    made = server.patient()
    path = f"Patient/{made['id']}"
    server.send("PUT", path, {**made, "active": True})
    server.send("DELETE", path, status=(200, 204))
    told = server.send("GET", f"{path}/_history").json()
    assert told["type"] == "history"
    assert [one["request"]["method"] for one in told["entry"]] == ["DELETE", "PUT", "POST"]
    assert "resource" not in told["entry"][0]
    assert [one["response"]["etag"] for one in told["entry"]] == ['W/"3"', 'W/"2"', 'W/"1"']
    assert len(server.send("GET", f"{path}/_history?_count=1").json()["entry"]) == 1
    assert "entry" not in server.send("GET", f"{path}/_history?_since=2100-01-01T00:00:00Z").json()


# -- type


@row("type: create, with Location and a new id")
def _(server: Server) -> None:
    answer = server.send("POST", "Patient", person(id="chosen-by-client"), status=201)
    made = answer.json()
    assert made["id"] != "chosen-by-client"
    assert answer.headers["Location"] == f"{server.base}/Patient/{made['id']}/_history/1" or answer.headers[
        "Location"
    ].endswith(f"/fhir/Patient/{made['id']}/_history/1")
    assert answer.headers["ETag"] == 'W/"1"'


@row("type: search by GET and by POST _search find the same")
def _(server: Server) -> None:
    family = token()
    made = server.patient(name=[{"family": family}])
    assert server.found(f"Patient?family={family}") == [made["id"]]
    form = {"Content_Type": "application/x-www-form-urlencoded"}
    posted = server.send("POST", "Patient/_search", f"family={family}", **form).json()
    assert [one["resource"]["id"] for one in posted["entry"]] == [made["id"]]


@row("type: history")
def _(server: Server) -> None:
    made = server.patient()
    told = server.send("GET", "Patient/_history?_count=50").json()
    assert told["type"] == "history"
    assert made["id"] in [one["resource"]["id"] for one in told["entry"] if "resource" in one]


@row("type: conditional create")
def _(server: Server) -> None:
    value = token()
    wanted = person(identifier=[{"system": "urn:c", "value": value}])
    condition = f"identifier=urn:c|{value}"
    made = server.send("POST", "Patient", wanted, status=201, If_None_Exist=condition).json()
    again = server.send("POST", "Patient", wanted, status=200, If_None_Exist=condition)
    assert again.json()["id"] == made["id"]
    server.send("POST", "Patient", wanted, status=201)
    server.send("POST", "Patient", wanted, status=412, If_None_Exist=condition)


@row("type: conditional update")
def _(server: Server) -> None:
    value = token()
    wanted = person(identifier=[{"system": "urn:c", "value": value}])
    made = server.send("PUT", f"Patient?identifier=urn:c|{value}", wanted, status=201).json()
    updated = server.send("PUT", f"Patient?identifier=urn:c|{value}", {**wanted, "active": True}).json()
    assert (updated["id"], updated["meta"]["versionId"]) == (made["id"], "2")
    server.send("POST", "Patient", wanted, status=201)
    server.send("PUT", f"Patient?identifier=urn:c|{value}", wanted, status=412)


@row("type: conditional patch")
def _(server: Server) -> None:
    value = token()
    server.patient(identifier=[{"system": "urn:c", "value": value}])
    patch = [{"op": "add", "path": "/active", "value": True}]
    query = f"Patient?identifier=urn:c|{value}"
    assert server.send("PATCH", query, patch, Content_Type="application/json-patch+json").json()["active"] is True
    nobody = f"Patient?identifier=urn:c|{token()}"
    server.send("PATCH", nobody, patch, status=(404, 412), Content_Type="application/json-patch+json")


@row("type: conditional delete")
def _(server: Server) -> None:
    value = token()
    made = server.patient(identifier=[{"system": "urn:c", "value": value}])
    server.send("DELETE", f"Patient?identifier=urn:c|{value}", status=(200, 204))
    server.send("GET", f"Patient/{made['id']}", status=410)
    server.send("DELETE", "Patient", status=(400, 405, 412))


# -- system


@row("system: capabilities")
def _(server: Server) -> None:
    told = server.send("GET", "metadata").json()
    assert (told["resourceType"], told["fhirVersion"]) == ("CapabilityStatement", "4.0.1")
    assert server.send("GET", "metadata?mode=full").json()["kind"] == "instance"


@row("system: search over several types")
def _(server: Server) -> None:
    tag = token()
    tagged = {"tag": [{"system": "urn:t", "code": tag}]}
    made = server.make({"resourceType": "Patient", "meta": tagged})
    other = server.make({"resourceType": "Organization", "name": "x", "meta": tagged})
    assert set(server.found(f"?_type=Patient,Organization&_tag=urn:t|{tag}")) == {made["id"], other["id"]}


@row("system: history")
def _(server: Server) -> None:
    made = server.patient()
    told = server.send("GET", "_history?_count=50").json()
    assert told["type"] == "history"
    assert made["id"] in [one["resource"]["id"] for one in told["entry"] if "resource" in one]


@row("system: batch, each entry for itself")
def _(server: Server) -> None:
    made = server.patient()
    answer = server.send(
        "POST",
        "",
        bundle(
            "batch",
            entry("GET", f"Patient/{made['id']}"),
            entry("POST", "Patient", person(gender="nope")),
            entry("POST", "Patient", person(active=True)),
            entry("GET", "Patient/nobody"),
            entry("GET", f"Patient?_id={made['id']}"),
        ),
    ).json()
    assert answer["type"] == "batch-response"
    assert [one["response"]["status"][:3] for one in answer["entry"]] == ["200", "400", "201", "404", "200"]
    assert answer["entry"][1]["response"]["outcome"]["resourceType"] == "OperationOutcome"
    assert answer["entry"][4]["resource"]["type"] == "searchset"


@row("system: transaction, references between its entries, conditional references, order")
def _(server: Server) -> None:
    value = token()
    held = server.patient(identifier=[{"system": "urn:c", "value": value}])
    gone = server.patient()
    new = f"urn:uuid:{uuid.uuid4()}"
    condition = {"resourceType": "Condition", "meta": {"source": SOURCE}, "code": {"text": "x"}}
    answer = server.send(
        "POST",
        "",
        bundle(
            "transaction",
            entry("GET", f"Patient/{held['id']}"),
            entry("POST", "Condition", {**condition, "subject": {"reference": new}}),
            entry("POST", "Patient", person(active=True), new),
            entry("POST", "Condition", {**condition, "subject": {"reference": f"Patient?identifier=urn:c|{value}"}}),
            entry("PUT", f"Patient/{held['id']}", {**held, "active": True}),
            entry("DELETE", f"Patient/{gone['id']}"),
        ),
    ).json()
    assert answer["type"] == "transaction-response"
    statuses = [one["response"]["status"][:3] for one in answer["entry"]]
    assert statuses[:5] == ["200", "201", "201", "201", "200"]
    assert statuses[5] in ("200", "204")
    assert answer["entry"][0]["resource"]["active"] is True  # reads come last
    patient = "/".join(answer["entry"][2]["response"]["location"].split("/_history")[0].split("/")[-2:])
    conditions = [
        server.send("GET", "/".join(answer["entry"][at]["response"]["location"].split("/_history")[0].split("/")[-2:]))
        for at in (1, 3)
    ]
    subjects = [one.json()["subject"]["reference"] for one in conditions]
    assert subjects == [patient, f"Patient/{held['id']}"]


@row("system: transaction, all or nothing")
def _(server: Server) -> None:
    family = token()
    refused = bundle(
        "transaction",
        entry("POST", "Patient", person(name=[{"family": family}])),
        entry("POST", "Patient", person(gender="nope")),
    )
    told = server.send("POST", "", refused, status=(400, 422)).json()
    assert "entry[1]" in json.dumps(told["issue"])
    assert server.found(f"Patient?family={family}") == []


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


@pytest.mark.parametrize("cell", list(ROWS))
def test_the_contract_of_interactions_holds(server: Server, cell: str) -> None:
    ROWS[cell](server)
