"""US Core 7.0.0's search contract on the running gateway: every parameter and combination, a row each.

Each row finds the one resource that was made for it, brings its Provenance along (`_revinclude=Provenance:target`), and
finds it no more when any one of its values is another.

Source: https://hl7.org/fhir/us/core/STU7/CapabilityStatement-us-core-server.html (kap-domain.md 5.1)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from tests.contract.server import Server, token
from tests.e2e.kap import Kap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
THO = "http://terminology.hl7.org/CodeSystem"
DAY, LATER, BEFORE, AFTER = "2026-03-04", "2026-03-05", "2026-03-01", "2026-03-31"

# By type: the combinations that a server SHALL have, and those that it SHOULD; names of parameters joined by +
ROWS: dict[str, tuple[str, str]] = {
    "Patient": (
        "_id identifier name birthdate+name gender+name",
        "birthdate+family death-date+family family+gender",
    ),
    "RelatedPerson": ("_id", "patient+name"),
    "Practitioner": ("_id identifier name", ""),
    "PractitionerRole": ("practitioner specialty", ""),
    "Organization": ("address name", ""),
    "Location": ("address name", ""),
    "Coverage": ("patient", ""),
    "Encounter": (
        "_id patient patient+date",
        "patient+_lastUpdated patient+class patient+discharge-disposition patient+location patient+status patient+type",
    ),
    "Condition": (
        "patient patient+category",
        (
            "patient+_lastUpdated patient+abatement-date patient+asserted-date patient+category+clinical-status "
            "patient+category+encounter patient+clinical-status patient+code patient+onset-date patient+recorded-date"
        ),
    ),
    "AllergyIntolerance": ("patient", "patient+clinical-status"),
    "MedicationRequest": (
        "patient+intent patient+intent+status",
        "patient+intent+authoredon patient+intent+encounter",
    ),
    "MedicationDispense": ("patient", "patient+status patient+type+status"),
    "Observation": (
        "patient+category patient+category+date patient+code",
        "patient+category+_lastUpdated patient+category+status patient+code+date",
    ),
    "CarePlan": (
        "patient+category",
        "patient+category+date patient+category+status patient+category+status+date",
    ),
    "CareTeam": ("patient+status", "patient+role"),
    "Procedure": ("patient patient+date", "patient+code+date patient+status"),
    "DocumentReference": (
        "_id patient patient+category patient+category+date patient+type",
        "patient+status patient+type+period",
    ),
    "DiagnosticReport": (
        "patient patient+category patient+category+date patient+code",
        "patient+category+_lastUpdated patient+code+date patient+status",
    ),
    "QuestionnaireResponse": ("_id patient", "patient+authored patient+questionnaire patient+status"),
    "ServiceRequest": (
        "_id patient patient+category patient+category+authored patient+code",
        "patient+code+authored patient+status",
    ),
    "Goal": ("patient", "patient+description patient+lifecycle-status patient+target-date"),
    "Specimen": ("_id", ""),
    "Device": ("patient", "patient+status patient+type"),
    "Immunization": ("patient", "patient+date patient+status"),
}
READ_ONLY = ("Medication", "Provenance")
"""Types that are to be read, with no search of their own."""
TIMES = {
    "birthdate", "death-date", "date", "onset-date", "abatement-date", "asserted-date", "recorded-date", "authored",
    "authoredon", "period", "target-date",
}  # fmt: skip
COMPARED = TIMES - {"birthdate", "death-date", "target-date", "abatement-date", "asserted-date"}
"""Parameters that shall take gt, ge, lt and le."""
EITHER = ("status", "intent", "lifecycle-status", "clinical-status")
"""Parameters that shall take several values."""
INCLUDES = (
    ("MedicationRequest", "medication", "Medication"),
    ("MedicationDispense", "medication", "Medication"),
    ("CareTeam", "participant", "Practitioner"),
    ("PractitionerRole", "practitioner", "Practitioner"),
    ("PractitionerRole", "endpoint", "Endpoint"),
)


def coded(system: str, code: str, text: str = "as coded") -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code}], "text": text}


def resources(ids: dict[str, str], mark: str) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Yield a resource of each type with, by parameter, what it is searched by; `ids` holds those made before."""

    def to(type_: str) -> dict[str, str]:
        return {"reference": f"{type_}/{ids[type_]}"}

    def of(type_: str, **members: Any) -> dict[str, Any]:
        return {"resourceType": type_, **members}

    address = {"line": ["1 Way"], "city": f"City{mark}", "state": "MA", "postalCode": "02101"}
    named = {"family": f"Family{mark}", "given": ["Ada"]}
    yield (
        of(
            "Patient", identifier=[{"system": "urn:mrn", "value": mark}], name=[named], gender="female",
            birthDate="1980-05-06", deceasedDateTime="2026-10-10",
        ),
        {"identifier": f"urn:mrn|{mark}", "name": f"Family{mark}", "family": f"Family{mark}", "gender": "female",
         "birthdate": "1980-05-06", "death-date": "2026-10-10"},
    )  # fmt: skip
    yield of("Organization", active=True, name=f"Org{mark}", address=[address]), {"name": f"Org{mark}"}
    yield of("Location", status="active", name=f"Loc{mark}", address=address), {"name": f"Loc{mark}"}
    yield (
        of("Practitioner", identifier=[{"system": "urn:staff", "value": mark}], name=[named]),
        {"identifier": mark, "name": f"Family{mark}"},
    )
    wire = {"system": f"{THO}/endpoint-connection-type", "code": "hl7-fhir-rest"}
    yield (
        of(
            "Endpoint", status="off", connectionType=wire, payloadType=[coded("urn:p", "any")],
            address=f"http://127.0.0.1:1/{mark}",
        ),
        {},
    )  # fmt: skip
    yield (
        of("PractitionerRole", practitioner=to("Practitioner"), specialty=[coded("urn:s", mark)],
           endpoint=[to("Endpoint")]),
        {"specialty": f"urn:s|{mark}"},
    )  # fmt: skip
    yield of("RelatedPerson", active=True, patient=to("Patient"), name=[named]), {"name": f"Family{mark}"}
    yield of("Medication", code=coded("urn:drug", mark)), {}
    yield (
        of("Coverage", status="active", beneficiary=to("Patient"), payor=[to("Organization")]),
        {},
    )
    yield (
        of("Encounter", status="finished", subject=to("Patient"), type=[coded(SNOMED, "185349003")],
           period={"start": DAY, "end": DAY}, location=[{"location": to("Location")}],
           hospitalization={"dischargeDisposition": coded(f"{THO}/discharge-disposition", "home")},
           **{"class": {"system": f"{THO}/v3-ActCode", "code": "AMB"}}),
        {"class": "AMB", "discharge-disposition": "home", "location": ids.get("Location", ""), "status": "finished",
         "type": f"{SNOMED}|185349003"},
    )  # fmt: skip
    asserted = {"url": "http://hl7.org/fhir/StructureDefinition/condition-assertedDate", "valueDateTime": DAY}
    yield (
        of("Condition", extension=[asserted], clinicalStatus=coded(f"{THO}/condition-clinical", "resolved"),
           category=[coded(f"{THO}/condition-category", "encounter-diagnosis")], code=coded(SNOMED, "35489007"),
           subject=to("Patient"), encounter=to("Encounter"), onsetDateTime=DAY, abatementDateTime=DAY,
           recordedDate=DAY),
        {"category": "encounter-diagnosis", "clinical-status": "resolved", "code": "35489007"},
    )  # fmt: skip
    yield (
        of("AllergyIntolerance", clinicalStatus=coded(f"{THO}/allergyintolerance-clinical", "active"),
           code=coded(SNOMED, "91936005"), patient=to("Patient")),
        {"clinical-status": f"{THO}/allergyintolerance-clinical|active"},
    )  # fmt: skip
    yield (
        of("MedicationRequest", status="stopped", intent="plan", medicationReference=to("Medication"),
           subject=to("Patient"), encounter=to("Encounter"), authoredOn=DAY, requester=to("Practitioner")),
        {"intent": "plan", "status": "stopped"},
    )  # fmt: skip
    yield (
        of("MedicationDispense", status="completed", medicationReference=to("Medication"), subject=to("Patient"),
           type=coded(f"{THO}/v3-ActCode", "FF"), whenHandedOver=DAY),
        {"status": "completed", "type": "FF"},
    )  # fmt: skip
    yield (
        of("Observation", status="amended", category=[coded(f"{THO}/observation-category", "laboratory")],
           code=coded(LOINC, "2339-0"), subject=to("Patient"), effectiveDateTime=DAY,
           valueQuantity={"value": 5, "unit": "mmol/L", "system": UCUM, "code": "mmol/L"}),
        {"category": "laboratory", "code": f"{LOINC}|2339-0", "status": "amended"},
    )  # fmt: skip
    yield (
        of("CarePlan", status="completed", intent="plan", subject=to("Patient"), period={"start": DAY, "end": DAY},
           category=[coded("http://hl7.org/fhir/us/core/CodeSystem/careplan-category", "assess-plan")]),
        {"category": "assess-plan", "status": "completed"},
    )  # fmt: skip
    yield (
        of("CareTeam", status="active", subject=to("Patient"),
           participant=[{"role": [coded(SNOMED, "17561000")], "member": to("Practitioner")}]),
        {"status": "active", "role": "17561000"},
    )  # fmt: skip
    yield (
        of("Procedure", status="completed", code=coded(SNOMED, "75516001"), subject=to("Patient"),
           performedDateTime=DAY),
        {"code": "75516001", "status": "completed"},
    )  # fmt: skip
    yield (
        of("DocumentReference", status="current", type=coded(LOINC, "34133-9"), subject=to("Patient"),
           category=[coded("http://hl7.org/fhir/us/core/CodeSystem/us-core-documentreference-category",
                           "clinical-note")],
           date=f"{DAY}T10:00:00Z", context={"period": {"start": DAY, "end": DAY}},
           content=[{"attachment": {"contentType": "text/plain", "data": "aGVsbG8="}}]),
        {"category": "clinical-note", "type": "34133-9", "status": "current"},
    )  # fmt: skip
    yield (
        of("DiagnosticReport", status="final", category=[coded(f"{THO}/v2-0074", "LAB")],
           code=coded(LOINC, "24323-8"), subject=to("Patient"), effectiveDateTime=DAY),
        {"category": "LAB", "code": "24323-8", "status": "final"},
    )  # fmt: skip
    form = f"http://example.org/Questionnaire/{mark}"
    yield (
        of("QuestionnaireResponse", questionnaire=form, status="completed", subject=to("Patient"), authored=DAY),
        {"questionnaire": form, "status": "completed"},
    )
    yield (
        of("ServiceRequest", status="completed", intent="order", category=[coded(SNOMED, "108252007")],
           code=coded(LOINC, "24323-8"), subject=to("Patient"), authoredOn=DAY),
        {"category": "108252007", "code": "24323-8", "status": "completed"},
    )  # fmt: skip
    yield (
        of("Goal", lifecycleStatus="completed", description=coded(SNOMED, "229065009"), subject=to("Patient"),
           target=[{"measure": coded(LOINC, "44261-6"), "dueDate": DAY}]),
        {"description": "229065009", "lifecycle-status": "completed"},
    )  # fmt: skip
    yield of("Specimen", type=coded(SNOMED, "122555007"), subject=to("Patient")), {}
    yield (
        of("Device", status="active", type=coded(SNOMED, "72506001"), patient=to("Patient")),
        {"status": "active", "type": "72506001"},
    )
    yield (
        of("Immunization", status="completed", vaccineCode=coded("http://hl7.org/fhir/sid/cvx", "207"),
           patient=to("Patient"), occurrenceDateTime=DAY),
        {"status": "completed"},
    )  # fmt: skip


@dataclass(frozen=True)
class Made:
    """A server with a resource of each type, its Provenance, and how each is searched for."""

    server: Server
    ids: dict[str, str]
    provenance: dict[str, str]
    written: dict[str, dict[str, str]]

    def value(self, type_: str, name: str) -> str:
        if name in self.written[type_]:
            return self.written[type_][name]
        common = {
            "_id": self.ids[type_],
            "_lastUpdated": "gt2020-01-01",
            "patient": f"Patient/{self.ids['Patient']}",
            "encounter": self.ids["Encounter"],
            "practitioner": self.ids["Practitioner"],
            "address": f"City{self.written['Patient']['identifier'].partition('|')[2]}",
        }
        return DAY if name in TIMES else common[name]

    def search(self, type_: str, pairs: dict[str, str]) -> dict[str, str]:
        """Return search mode by type and id of what a search answers."""
        answer = self.server.http.get(type_, params=pairs)
        assert answer.status_code == 200, (type_, pairs, answer.text[:500])
        return {
            f"{one['resource']['resourceType']}/{one['resource']['id']}": one["search"]["mode"]
            for one in answer.json().get("entry", ())
        }


@pytest.fixture(scope="module")
def made(played: Kap) -> Iterator[Made]:
    server, mark = Server(f"{played.ports.url('gateway')}/fhir"), token()
    held = Made(server, {}, {}, {})
    # Each resource may name those before it, so each is made before the next is asked for.
    for resource, written in resources(held.ids, mark):
        type_ = resource["resourceType"]
        held.written[type_] = written
        held.ids[type_] = server.make(resource)["id"]
    for type_ in (*ROWS, "Medication"):
        id_ = held.ids[type_]
        told = {
            "resourceType": "Provenance",
            "target": [{"reference": f"{type_}/{id_}"}],
            "recorded": f"{DAY}T05:06:07Z",
            "agent": [{"who": {"reference": f"Practitioner/{held.ids['Practitioner']}"}}],
        }
        held.provenance[type_] = server.make(told)["id"]
    held.ids["Provenance"] = held.provenance["Patient"]
    yield held
    server.http.close()


CASES = [(type_, row) for type_, both in ROWS.items() for row in " ".join(both).split()]


@pytest.mark.parametrize(("type_", "row"), CASES, ids=[f"{type_}-{row}" for type_, row in CASES])
def test_a_combination_finds_its_resource_with_its_provenance_and_nothing_else(
    made: Made, type_: str, row: str
) -> None:
    mine = f"{type_}/{made.ids[type_]}"
    pairs = {name: made.value(type_, name) for name in row.split("+")}
    found = made.search(type_, {**pairs, "_revinclude": "Provenance:target"})
    assert found == {mine: "match", f"Provenance/{made.provenance[type_]}": "include"}, pairs
    for name in pairs:
        other = "lt1990-01-01" if name == "_lastUpdated" else "1901-01-01" if name in TIMES else "nobody"
        assert mine not in made.search(type_, {**pairs, name: other}), (pairs, name)


@pytest.mark.parametrize("type_", [*ROWS, *READ_ONLY])
def test_every_type_is_read(made: Made, type_: str) -> None:
    assert made.server.send("GET", f"{type_}/{made.ids[type_]}").json()["resourceType"] == type_


@pytest.mark.parametrize("type_", [type_ for type_ in ROWS if "patient" in " ".join(ROWS[type_])])
def test_a_patient_is_named_with_its_type_and_without(made: Made, type_: str) -> None:
    mine, patient = f"{type_}/{made.ids[type_]}", made.ids["Patient"]
    for written in (patient, f"Patient/{patient}"):
        assert made.search(type_, {"patient": written, "_id": made.ids[type_]}) == {mine: "match"}


ORDERED = [(type_, name) for type_, row in CASES for name in row.split("+")[-1:] if name in COMPARED]


@pytest.mark.parametrize(("type_", "name"), sorted(set(ORDERED)))
def test_a_time_is_compared(made: Made, type_: str, name: str) -> None:
    mine = f"{type_}/{made.ids[type_]}"
    yes = (f"gt{BEFORE}", f"ge{DAY}", f"lt{AFTER}", f"le{DAY}", f"ge{BEFORE}")
    no = (f"gt{DAY}", f"ge{LATER}", f"lt{DAY}", f"le{BEFORE}")
    for written in (*yes, *no):
        found = made.search(type_, {"patient": made.ids["Patient"], name: written})
        assert (mine in found) is (written in yes), written
    between = made.server.http.get(
        type_, params=[("patient", made.ids["Patient"]), (name, f"ge{BEFORE}"), (name, f"le{AFTER}")]
    )
    assert made.ids[type_] in between.text


SEVERAL = sorted({(type_, name) for type_, row in CASES for name in row.split("+") if name in EITHER})


@pytest.mark.parametrize(("type_", "name"), SEVERAL)
def test_one_of_several_values_is_enough(made: Made, type_: str, name: str) -> None:
    pairs = {"patient": made.ids["Patient"], name: f"nobody,{made.value(type_, name)}"}
    assert f"{type_}/{made.ids[type_]}" in made.search(type_, pairs)


@pytest.mark.parametrize(("type_", "name", "target"), INCLUDES)
def test_what_a_resource_names_comes_along(made: Made, type_: str, name: str, target: str) -> None:
    found = made.search(type_, {"_id": made.ids[type_], "_include": f"{type_}:{name}"})
    assert found == {f"{type_}/{made.ids[type_]}": "match", f"{target}/{made.ids[target]}": "include"}


def test_a_search_is_posted_as_well(made: Made) -> None:
    for type_, (shall, _) in ROWS.items():
        pairs = {name: made.value(type_, name) for name in shall.split()[-1].split("+")}
        answer = made.server.http.post(
            f"{type_}/_search", data=pairs, headers={"Content-Type": "application/x-www-form-urlencoded"}
        )
        assert answer.status_code == 200, answer.text[:500]
        assert made.ids[type_] in [one["resource"]["id"] for one in answer.json().get("entry", ())], pairs
