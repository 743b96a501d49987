"""Instance, type and system: the interactions that other vendors' clients rely on, a row per cell.

At the gateway and at a service; which row proves which cell of the floor is in `tests.contract.floor`.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from typing import Any

import pytest

from tests.contract.server import ROWS, SOURCE, Server, person, row, rows_of, token
from tests.e2e.kap import Kap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


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


@pytest.mark.parametrize("cell", rows_of(__name__))
def test_the_contract_of_interactions_holds(server: Server, cell: str) -> None:
    ROWS[cell](server)
