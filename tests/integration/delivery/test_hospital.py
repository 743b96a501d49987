"""The stand-in hospital: what it offers by profile, and the faults it can be told to have."""

from __future__ import annotations

import httpx
import pytest

from shared.runtime.settings import SettingsError
from shared.testing.hospital import interactions_of
from tests.integration.delivery.conftest import hospital_at

PATIENT = {"resourceType": "Patient", "active": True}


@pytest.mark.parametrize(
    ("profile", "type_", "offered"),
    [
        ("open", "MedicationAdministration", {"create", "update", "delete"}),
        ("epic", "MedicationAdministration", set()),
        ("epic", "Encounter", set()),
        ("epic", "Observation", {"create", "update"}),
        ("epic", "Condition", {"create"}),
        ("oracle", "Encounter", {"create"}),
        ("oracle", "QuestionnaireResponse", {"update"}),
        ("oracle", "MedicationAdministration", set()),
    ],
)
def test_a_profile_offers_what_its_capability_statement_does(profile, type_, offered):
    assert interactions_of(profile)[type_] & {"create", "update", "delete"} == offered


def test_a_profile_that_does_not_exist_is_said_so():
    with pytest.raises(SettingsError, match="open, epic, oracle"):
        interactions_of("cerner")


async def test_what_is_not_offered_is_answered_405(make_database):
    async with hospital_at(make_database("hospital"), "epic") as hospital:
        answer = await hospital.http.post(f"{hospital.base}/Encounter", json={"resourceType": "Encounter"})
        assert answer.status_code == 405
        assert answer.json()["issue"][0]["code"] == "not-supported"
        statement = (await hospital.http.get(f"{hospital.base}/metadata")).json()
        offered = {one["type"]: one["interaction"] for one in statement["rest"][0]["resource"]}
        assert {"code": "create"} not in offered["Encounter"]


async def test_faults_are_met_in_turn_and_then_it_is_well_again(hospital):
    await hospital.fault(status=503, times=2, retry_after=1)
    for _ in range(2):
        answer = await hospital.http.get(f"{hospital.base}/Patient")
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert answer.json()["resourceType"] == "OperationOutcome"
    assert await hospital.all("Patient") == []
    await hospital.fault(drop_request=1)
    with pytest.raises(httpx.RemoteProtocolError):
        await hospital.http.get(f"{hospital.base}/Patient")
    await hospital.fault(drop_response=1)
    assert await hospital.all("Patient") == []
    with pytest.raises(httpx.RemoteProtocolError):
        await hospital.http.post(f"{hospital.base}/Patient", json=PATIENT)
    assert len(await hospital.all("Patient")) == 1
    answer = await hospital.http.post(f"{hospital.url}/faults", json={"colour": "red"})
    assert answer.status_code == 400
    assert (await hospital.http.get(f"{hospital.url}/faults")).json() == []
