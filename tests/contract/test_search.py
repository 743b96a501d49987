"""What other vendors' clients rely on when they search, a row per cell, at the gateway and at a service."""

from __future__ import annotations

import json
import random
import re
from typing import Any

import pytest

from tests.contract.server import ROWS, Server, row, rows_of, token
from tests.contract.test_interactions import server
from tests.e2e.kap import Kap

__all__ = ["server"]

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def only(server: Server, query: str, *expected: dict[str, Any]) -> None:
    """Hold a search to finding exactly these."""
    assert sorted(server.found(query)) == sorted(one["id"] for one in expected), query


@row("parameters: token by system|code, |code, system|, code; of type")
def _(server: Server) -> None:
    value = token()
    typed = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "MR"}]}
    made = server.patient(identifier=[{"system": "urn:a", "value": value, "type": typed}])
    bare = server.patient(identifier=[{"value": value}])
    only(server, f"Patient?identifier=urn:a|{value}", made)
    only(server, f"Patient?identifier={value}", made, bare)
    only(server, f"Patient?identifier=|{value}", bare)
    only(server, f"Patient?identifier=urn:a|&_id={made['id']},{bare['id']}", made)
    kind = "http://terminology.hl7.org/CodeSystem/v2-0203|MR"
    only(server, f"Patient?identifier:of-type={kind}|{value}", made)
    only(server, f"Patient?identifier={value}&identifier:not=urn:a|{value}", bare)


@row("parameters: string from its start, folded; :exact, :contains")
def _(server: Server) -> None:
    family = token()
    made = server.patient(name=[{"family": f"Ångström {family}"}])
    only(server, f"Patient?family=angstrom {family}", made)
    only(server, f"Patient?family=ANGSTROM {family[:8]}", made)
    only(server, f"Patient?family:contains={family[4:]}", made)
    only(server, f"Patient?family:exact=Ångström {family}", made)
    only(server, f"Patient?family:exact=angstrom {family}")
    only(server, f"Patient?family={family}")


@row("parameters: reference by id, type/id, :[type], :identifier, absolute under the own base")
def _(server: Server) -> None:
    patient = server.patient()
    made = server.observation(patient)
    for query in (
        f"subject={patient['id']}",
        f"subject=Patient/{patient['id']}",
        f"subject:Patient={patient['id']}",
        f"patient={patient['id']}",
    ):
        only(server, f"Observation?{query}", made)
    whole = server.send("GET", f"Patient?_id={patient['id']}").json()["entry"][0]["fullUrl"]
    assert whole.startswith("http")
    only(server, f"Observation?subject={whole}", made)
    only(server, f"Observation?subject=http://elsewhere.example/fhir/Patient/{patient['id']}")
    value = token()
    logical = server.observation(patient, performer=[{"identifier": {"system": "urn:p", "value": value}}])
    only(server, f"Observation?performer:identifier=urn:p|{value}", logical)


@row("parameters: date as the period it means, with every prefix")
def _(server: Server) -> None:
    patient = server.patient()
    of = f"Observation?patient={patient['id']}&date="
    day = server.observation(patient, effectiveDateTime="2026-03-04")
    noon = server.observation(patient, effectiveDateTime="2026-03-04T12:00:00Z")
    span = {"start": "2026-03-01", "end": "2026-03-31"}
    month = server.make({**_plain(noon), "effectivePeriod": span})
    only(server, f"{of}2026-03-04", day, noon)
    only(server, f"{of}2026-03", day, noon, month)
    only(server, f"{of}2026-03-04T12:00:00Z", noon)
    only(server, f"{of}ne2026-03-04", month)
    only(server, f"{of}gt2026-03-04", month)
    only(server, f"{of}ge2026-03-04", day, noon, month)
    only(server, f"{of}lt2026-03-04", month)
    only(server, f"{of}le2026-03-04", day, noon, month)
    only(server, f"{of}eq2026-03-04", day, noon)
    only(server, f"{of}sa2026-03-03", day, noon)
    only(server, f"{of}eb2026-03-05", day, noon)
    assert day["id"] in server.found(f"{of}ap2026-03-04")
    only(server, f"{of}ge2026-03-04&date=lt2026-03-05", day, noon, month)
    server.send("GET", f"{of}yesterday", status=400)


def _plain(observation: dict[str, Any]) -> dict[str, Any]:
    return {key: observation[key] for key in ("resourceType", "status", "code", "subject")}


@row("parameters: number and quantity, compared in any unit of UCUM")
def _(server: Server) -> None:
    patient = server.patient()
    of = f"Observation?patient={patient['id']}&value-quantity="
    kilos = server.observation(patient, "70.0", "kg")
    grams = server.observation(patient, "70000", "g")
    heavy = server.observation(patient, "90", "kg")
    ucum = "|http://unitsofmeasure.org|"
    only(server, f"{of}70{ucum}kg", kilos, grams)
    only(server, f"{of}70000{ucum}g", kilos, grams)
    only(server, f"{of}gt80{ucum}kg", heavy)
    only(server, f"{of}lt154.4{ucum}[lb_av]", kilos, grams)
    only(server, f"{of}70||kg", kilos)
    only(server, f"{of}90", heavy)
    risks = [
        server.make(
            {
                "resourceType": "RiskAssessment",
                "status": "final",
                "subject": {"reference": f"Patient/{patient['id']}"},
                "prediction": [{"probabilityDecimal": probability}],
            }
        )
        for probability in (0.25, 0.5)
    ]
    of = f"RiskAssessment?patient={patient['id']}&probability="
    only(server, f"{of}0.25", risks[0])
    only(server, f"{of}gt0.3", risks[1])
    only(server, f"{of}ne0.50", risks[0])


@row("parameters: uri, and its :below")
def _(server: Server) -> None:
    name = token()
    made = server.make({"resourceType": "Patient", "meta": {"source": f"http://example.org/{name}/lab"}})
    only(server, f"Patient?_source=http://example.org/{name}/lab", made)
    only(server, f"Patient?_source:below=http://example.org/{name}", made)
    only(server, f"Patient?_source=http://example.org/{name}")


@row("parameters: composite, both parts of one element")
def _(server: Server) -> None:
    patient = server.patient()

    def component(code: str, value: int) -> dict[str, Any]:
        unit = {"system": "http://unitsofmeasure.org", "code": "mm[Hg]"}
        return {
            "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
            "valueQuantity": {"value": value, **unit},
        }

    panel = {
        "resourceType": "Observation",
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
        "subject": {"reference": f"Patient/{patient['id']}"},
        "component": [component("8480-6", 120), component("8462-4", 80)],
    }
    made = server.make(panel)
    of = f"Observation?patient={patient['id']}&component-code-value-quantity=http://loinc.org|"
    only(server, f"{of}8480-6$120", made)
    only(server, f"{of}8480-6$80")
    only(server, f"{of}8462-4$lt90", made)


@row("parameters: _id, _lastUpdated, _tag, _profile, _security, _list")
def _(server: Server) -> None:
    tag = token()
    profile = f"http://example.org/{tag}"
    label = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}
    meta = {"tag": [{"system": "urn:t", "code": tag}], "profile": [profile], "security": [label]}
    made = server.make({"resourceType": "Patient", "meta": meta})
    other = server.patient()
    only(server, f"Patient?_id={made['id']},{other['id']}", made, other)
    only(server, f"Patient?_tag=urn:t|{tag}", made)
    only(server, f"Patient?_profile={profile}", made)
    only(server, f"Patient?_tag={tag}&_security=R", made)
    only(server, f"Patient?_tag={tag}&_lastUpdated=lt2020-01-01")
    only(server, f"Patient?_tag={tag}&_lastUpdated=ge2020-01-01", made)
    listed = server.make(
        {
            "resourceType": "List",
            "status": "current",
            "mode": "working",
            "entry": [{"item": {"reference": f"Patient/{other['id']}"}}],
        }
    )
    only(server, f"Patient?_list={listed['id']}", other)
    only(server, f"Patient?_list={token()}")


@row("modifiers: :missing, :not, :text, :in; commas are or, repeats are and, escapes are text")
def _(server: Server) -> None:
    tag = token()
    meta = {"tag": [{"system": "urn:t", "code": tag}]}
    man = server.make({"resourceType": "Patient", "meta": meta, "gender": "male", "name": [{"family": "a,b"}]})
    none = server.make({"resourceType": "Patient", "meta": meta})
    of = f"Patient?_tag={tag}"
    only(server, f"{of}&gender:missing=true", none)
    only(server, f"{of}&gender:missing=false", man)
    only(server, f"{of}&gender:not=male", none)
    only(server, f"{of}&gender=male,female", man)
    only(server, f"{of}&family=a\\,b", man)
    only(server, f"{of}&gender=male&gender=female")
    only(server, f"{of}&gender:in=http://hl7.org/fhir/ValueSet/administrative-gender", man)
    condition = server.make(
        {
            "resourceType": "Condition",
            "meta": meta,
            "code": {"text": "Dull headache"},
            "subject": {"reference": f"Patient/{man['id']}"},
        }
    )
    only(server, f"Condition?_tag={tag}&code:text=dull", condition)
    server.send("GET", "Patient?gender:nosuch=male", status=400)
    server.send("GET", "Patient?birthdate:exact=2000", status=400)


@row("across types: chains and _has, several deep")
def _(server: Server) -> None:
    name = token()
    clinic = server.make({"resourceType": "Organization", "name": name})
    patient = server.patient(managingOrganization={"reference": f"Organization/{clinic['id']}"})
    made = server.observation(patient)
    only(server, f"Observation?subject:Patient.organization.name={name}", made)
    only(server, f"Observation?patient.organization:Organization.name={name}", made)
    only(server, f"Patient?organization.name={name}&_has:Observation:patient:code=29463-7", patient)
    only(server, f"Organization?_has:Patient:organization:_has:Observation:patient:code=29463-7&name={name}", clinic)
    only(server, f"Patient?organization.name={name}&_has:Observation:patient:code=8867-4")


@row("across types: _include, _revinclude, :iterate, *")
def _(server: Server) -> None:
    clinic = server.make({"resourceType": "Organization", "name": token()})
    patient = server.patient(managingOrganization={"reference": f"Organization/{clinic['id']}"})
    made = server.observation(patient)
    provenance = server.make(
        {
            "resourceType": "Provenance",
            "target": [{"reference": f"Observation/{made['id']}"}],
            "recorded": "2026-03-04T05:06:07Z",
            "agent": [{"who": {"display": "somebody"}}],
        }
    )

    def brought(query: str) -> dict[str, str]:
        bundle = server.send("GET", query).json()
        return {one["resource"]["id"]: one["search"]["mode"] for one in bundle["entry"]}

    of = f"Observation?_id={made['id']}"
    assert brought(f"{of}&_include=Observation:subject") == {made["id"]: "match", patient["id"]: "include"}
    assert brought(f"{of}&_include=Observation:subject&_include:iterate=Patient:organization") == {
        made["id"]: "match", patient["id"]: "include", clinic["id"]: "include",
    }  # fmt: skip
    assert brought(f"{of}&_include=*")[patient["id"]] == "include"
    assert brought(f"{of}&_revinclude=Provenance:target")[provenance["id"]] == "include"
    assert brought(f"Patient?_id={patient['id']}&_revinclude=Observation:patient")[made["id"]] == "include"
    server.send("GET", f"{of}&_include=Observation:nosuch", status=400)


@row("result: _sort both ways by several keys, _count, _total")
def _(server: Server) -> None:
    patient = server.patient()
    of = f"Observation?patient={patient['id']}"
    days = ["2026-03-02", "2026-03-01", "2026-03-03", "2026-03-02"]
    made = [server.observation(patient, str(60 + at), effectiveDateTime=day) for at, day in enumerate(days)]
    assert server.found(f"{of}&_sort=date,-_id")[0] == made[1]["id"]
    assert server.found(f"{of}&_sort=-date")[0] == made[2]["id"]
    assert server.found(f"{of}&_sort=-date&_count=1") == server.found(f"{of}&_sort=-date")
    assert server.send("GET", f"{of}&_total=accurate&_count=1").json()["total"] == 4
    assert server.send("GET", f"{of}&_total=estimate&_count=1").json()["total"] == 4
    assert "total" not in server.send("GET", f"{of}&_total=none").json()
    empty = server.send("GET", f"{of}&_count=0").json()
    assert (empty["total"], empty.get("entry")) == (4, None)
    assert server.send("GET", f"{of}&_summary=count").json()["total"] == 4


@row("result: _elements, _summary")
def _(server: Server) -> None:
    made = server.patient(gender="male", birthDate="1980-01-01", photo=[{"title": "x"}])
    path = f"Patient/{made['id']}"
    part = server.send("GET", f"{path}?_elements=gender").json()
    assert set(part) == {"resourceType", "id", "meta", "gender"}
    assert "SUBSETTED" in json.dumps(part["meta"]["tag"])
    summary = server.send("GET", f"{path}?_summary=true").json()
    assert ("gender" in summary, "photo" in summary) == (True, False)
    assert "gender" in server.send("GET", f"{path}?_summary=data").json()
    page = server.send("GET", f"Patient?_id={made['id']}&_elements=birthDate").json()
    assert set(page["entry"][0]["resource"]) == {"resourceType", "id", "meta", "birthDate"}
    assert server.send("GET", f"{path}?_summary=false").json() == made


@row("result: _explain tells which index answered, and how long it took")
def _(server: Server) -> None:
    patient = server.patient()
    made = server.observation(patient)
    told = server.send("GET", f"Observation?patient={patient['id']}&_explain=true").json()["entry"]
    assert [one["resource"]["id"] for one in told if one["search"]["mode"] == "match"] == [made["id"]]
    (said,) = [one["resource"]["issue"][0] for one in told if one["search"]["mode"] == "outcome"]
    assert said["severity"] == "information"
    assert re.search(r"idx_\w+", said["diagnostics"]), said
    assert re.search(r"\d ms", said["diagnostics"]), said


@row("paging: every link keeps all parameters, tells nothing, cannot be made up, and goes back too")
def _(server: Server) -> None:
    patient = server.patient()
    made = [server.observation(patient, str(60 + at)) for at in range(7)]
    of = f"Observation?patient={patient['id']}&_count=3&_include=Observation:subject&_sort=date"
    pages, url = [], of
    links: dict[str, str] = {}
    while url:
        page = server.send("GET", url).json()
        pages.append([one["resource"]["id"] for one in page["entry"] if one["search"]["mode"] == "match"])
        assert patient["id"] in [one["resource"]["id"] for one in page["entry"] if one["search"]["mode"] == "include"]
        links = {link["relation"]: link["url"] for link in page["link"]}
        url = links.get("next", "")
        assert patient["id"] not in url
    assert [len(page) for page in pages] == [3, 3, 1]
    assert sorted(id_ for page in pages for id_ in page) == sorted(one["id"] for one in made)
    back = server.send("GET", links["previous"]).json()
    assert [one["resource"]["id"] for one in back["entry"] if one["search"]["mode"] == "match"] == pages[1]
    forged = links["previous"][:-4] + "AAAA"
    server.send("GET", forged, status=(400, 404, 410))


@row("paging: stays true while others write")
def _(server: Server) -> None:
    dice = random.Random(7)
    patient = server.patient()
    before = [server.observation(patient, str(60 + at)) for at in range(9)]
    seen: list[str] = []
    url = f"Observation?patient={patient['id']}&_count=2"
    while url:
        page = server.send("GET", url).json()
        seen += [one["resource"]["id"] for one in page["entry"]]
        url = next((link["url"] for link in page["link"] if link["relation"] == "next"), "")
        changed = dice.choice(before)
        server.send("PUT", f"Observation/{changed['id']}", {**changed, "status": "amended"})
        server.observation(patient)
        if len(seen) > 60:
            break
    assert len(seen) == len(set(seen))
    assert set(seen) >= {one["id"] for one in before}


@row("operations: Patient/$everything")
def _(server: Server) -> None:
    patient = server.patient()
    made = [server.observation(patient) for _ in range(3)]
    if "gateway" not in server.send("GET", "metadata").json()["id"]:
        return  # the whole record is the gateway's to tell
    told = server.send("GET", f"Patient/{patient['id']}/$everything").json()
    names = {f"{one['resource']['resourceType']}/{one['resource']['id']}" for one in told["entry"]}
    recorded = {name for name in names if not name.startswith("Task/")}  # delivery may tell of him by now, by its Task
    assert recorded == {f"Patient/{patient['id']}", *(f"Observation/{one['id']}" for one in made)}
    only_type = server.send("GET", f"Patient/{patient['id']}/$everything?_type=Observation&_count=2").json()
    assert len([one for one in only_type["entry"] if one["resource"]["resourceType"] == "Observation"]) == 2
    assert any(link["relation"] == "next" for link in only_type["link"])


@row("operations: Observation/$lastn")
def _(server: Server) -> None:
    patient = server.patient()
    days = ("2026-03-01", "2026-03-03", "2026-03-02")
    made = [server.observation(patient, effectiveDateTime=day) for day in days]
    told = server.send("GET", f"Observation/$lastn?patient={patient['id']}&max=2").json()
    assert [one["resource"]["id"] for one in told["entry"]] == [made[1]["id"], made[2]["id"]]


@row("operations: DocumentReference/$docref")
def _(server: Server) -> None:
    patient = server.patient()
    made = server.make(
        {
            "resourceType": "DocumentReference",
            "status": "current",
            "type": {"coding": [{"system": "http://loinc.org", "code": "34133-9"}]},
            "subject": {"reference": f"Patient/{patient['id']}"},
            "content": [{"attachment": {"contentType": "text/plain", "data": "aGVsbG8="}}],
        }
    )
    told = server.send("GET", f"DocumentReference/$docref?patient={patient['id']}").json()
    assert [one["resource"]["id"] for one in told["entry"]] == [made["id"]]


@pytest.mark.parametrize("cell", rows_of(__name__))
def test_the_contract_of_search_holds(server: Server, played: Kap, cell: str) -> None:
    ROWS[cell](server)
