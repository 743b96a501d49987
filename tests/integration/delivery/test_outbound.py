"""An Endpoint leads outside, or to a host that whoever runs the installation has listed."""

from __future__ import annotations

import httpx
import pytest

from services.delivery.endpoints import endpoint
from services.delivery.service import create
from shared.runtime.running import opened
from tests.integration.delivery.conftest import settings


async def test_an_endpoint_that_leads_inside_of_the_network_is_refused_unless_its_host_is_listed(make_database):
    database = make_database("delivery")
    listed = settings("delivery", database, outbound_hosts="10.0.0.5", hospital_url="http://127.0.0.1:9/fhir")
    async with (
        opened(create(listed)) as one,
        httpx.AsyncClient(transport=httpx.ASGITransport(one.asgi), base_url="http://delivery.example/fhir") as http,
    ):
        for address, status in (
            ("http://169.254.169.254/latest", 422),
            ("https://[::ffff:10.0.0.6]/fhir", 422),
            ("http://ehr.example/fhir", 422),
            ("https://me:secret@ehr.example/fhir", 422),
            ("http://10.0.0.5:8080/fhir", 201),
            ("http://127.0.0.1:9/fhir", 201),  # the hospital of the settings
            ("http://127.0.0.1:5432/", 422),
            ("https://ehr.example/fhir", 201),
        ):
            answer = await http.post("/Endpoint", json=endpoint("x", address, creates_patients=False))
            assert answer.status_code == status, (address, answer.text)
            if status == 422:
                [issue] = answer.json()["issue"]
                assert issue["code"] == "security"
                assert issue["expression"] == ["Endpoint.address"]
                assert "secret" not in answer.text
        kept = answer.json()
        off = {**endpoint("y", "http://10.9.9.9/fhir", creates_patients=False), "id": kept["id"], "status": "off"}
        assert (await http.put(f"/Endpoint/{kept['id']}", json=off)).status_code == 200  # nothing is sent there


@pytest.fixture(autouse=True)
def _no_environment(monkeypatch):
    monkeypatch.delenv("KAP_OUTBOUND_HOSTS", raising=False)
