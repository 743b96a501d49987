"""What no handler can work with is refused over HTTP with an OperationOutcome that says what, and never with 500."""

from __future__ import annotations

import httpx
import pytest
from pydantic import SecretStr

from shared.fhir import codes
from shared.fhir.json import dump
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.runtime.settings import Settings
from tests.integration.services.course import about
from tests.integration.services.test_sessions_feeds import SATURATION, signal
from tests.integration.services.test_sessions_watching import dosed  # noqa: F401


@pytest.fixture
async def web(bedside):
    opened = bedside.sessions
    settings = Settings(
        service="sessions",
        database_url=SecretStr("postgresql://the-fixture-connects"),
        public_base="http://sessions.example/fhir",
        no_auth=True,
    )
    app = create_fhir_app(opened.service, LocalBackend(opened.service, opened.store), settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://sessions.example") as client:
        yield client


async def send(web, path, body):
    answer = await web.post(f"/fhir/{path}", content=dump(body), headers={"Content-Type": "application/fhir+json"})
    return answer.status_code, answer.json()


AGES = ("0001-01-01", "9999-12-31T23:59:59Z")


def quantity(value, unit="mg"):
    return {"value": value, "unit": unit, "system": codes.UCUM, "code": unit}


def parameters(*given, **more):
    """Return Parameters; `more`: a value in the place of the one by that name, or beside them."""
    kept = [one for one in given if one["name"] not in more]
    return {
        "resourceType": "Parameters",
        "parameter": [*kept, *({"name": name, **form} for name, form in more.items())],
    }


def impossible(at):
    """Yield operations with values that are FHIR, and that nothing can be done with."""
    visit = f"Encounter/{at.visit['id']}"
    dose = (
        {"name": "medicationRequest", "valueReference": about(at.ordered)},
        {"name": "dose", "valueQuantity": quantity(70)},
        {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
    )
    for name in ("$start-dose", "$pre-dose-gate"):
        for when in AGES:
            yield f"{visit}/{name}", parameters(*dose, effective={"valueDateTime": when})
        yield f"{visit}/{name}", parameters(*dose, strength={"valueQuantity": quantity(0, "mg/mL")})
    yield f"{visit}/$start-dose", parameters(*dose, dose={"valueQuantity": quantity(1e300)})
    booked = (
        {"name": "kind", "valueCode": "receive"},
        *({"name": name, "valueString": "1"} for name in ("ndc", "lot", "vial")),
        {"name": "amount", "valueQuantity": quantity(100)},
        {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
    )
    for amount in (1e17, 1e300):
        yield "SupplyDelivery/$substance-book", parameters(*booked, amount={"valueQuantity": quantity(amount)})
    for other in (
        {"start": {"valueInstant": "9999-12-31T23:59:59Z"}},
        {"start": {"valueInstant": "0001-01-01T00:00:00Z"}},
        {"data": {"valueString": "1E+9999999 97"}},
        {"data": {"valueString": "NaN 97"}},
        {"data": {"valueString": "9" * 5000}},
        {"period": {"valueDecimal": 1e-30}},
    ):
        yield f"{visit}/$feed", parameters(signal(at.clock.now, "97 98", SATURATION, "%", other))


async def test_what_is_fhir_and_impossible_is_refused_with_what_to_do_and_nothing_is_done(bedside, web):
    await bedside.chart()
    before = await bedside.sessions.count()
    for place, body in impossible(bedside):
        said, answer = await send(web, place, body)
        assert said in (400, 422), (place, body, answer)
        assert all(one["diagnostics"] and one.get("expression") for one in answer["issue"]), answer
    assert await bedside.sessions.count() == before


@pytest.mark.parametrize("data", ["NaN 97", "sNaN", "1E+9999999 97", "-Infinity NaN", "1e99999999999999999999 5"])
async def test_a_feed_with_numbers_that_are_none_is_kept_and_asked_about_or_refused_and_breaks_nothing(
    dosed,  # noqa: F811
    web,
    data,
):
    sampled = {"origin": quantity(0, "%"), "period": 1000, "dimensions": 1, "data": data}
    made = {key: one for key, one in dosed.reading(code=SATURATION.concept()).items() if key != "component"}
    said, answer = await send(web, "Observation", {**made, "valueSampledData": sampled})
    assert said in (201, 400), answer
    found = await dosed.sessions.search("Task", patient=dosed.who["id"], code=codes.REVIEW.token())
    assert bool(found) is (said == 201)


@pytest.mark.parametrize("when", ["9999-12-31T23:59:59Z", "0001-01-01"])
async def test_a_dose_of_an_impossible_year_is_refused_with_where_and_what_to_do(bedside, web, when):
    for status in ("in-progress", "completed"):
        said, answer = await send(
            web, "MedicationAdministration", {**bedside.dose(70, status), "effectivePeriod": {"start": when}}
        )
        assert said == 422
        assert answer["issue"][0]["expression"] == ["MedicationAdministration.effectivePeriod.start"]
        assert "look at the year" in answer["issue"][0]["diagnostics"]


async def test_a_dose_of_an_impossible_year_that_is_held_can_be_taken_back_as_it_stands(bedside, web):
    begun = {"effectivePeriod": {"start": "0001-01-01"}, "status": "entered-in-error"}
    said, answer = await send(web, "MedicationAdministration", {**bedside.dose(70), **begun})
    assert said == 201, answer


async def test_a_reading_that_names_its_visit_alone_is_in_its_patients_record(dosed):  # noqa: F811
    made = {key: one for key, one in dosed.vitals(190, 118).items() if key != "subject"}
    kept = await dosed.sessions.create(made)
    assert kept["subject"]["reference"] == f"Patient/{dosed.who['id']}"
    found = await dosed.sessions.search("Observation", patient=dosed.who["id"])
    assert kept["id"] in [one["id"] for one in found]


async def test_a_reading_that_names_its_visit_alone_is_corrected_and_withdrawn_as_it_was_posted(dosed):  # noqa: F811
    made = {key: one for key, one in dosed.vitals().items() if key != "subject"}
    kept = await dosed.sessions.create({**made, "status": "preliminary"})
    worse = {key: one for key, one in dosed.vitals(190, 118).items() if key != "subject"}
    corrected = await dosed.sessions.update({**worse, "id": kept["id"]})
    assert corrected["subject"]["reference"] == f"Patient/{dosed.who['id']}"
    calls = await dosed.sessions.search("Task", patient=dosed.who["id"], code=codes.VITAL_ALARM.token())
    assert [one["status"] for one in calls] == ["requested"]
    withdrawn = await dosed.sessions.update({**worse, "id": kept["id"], "status": "entered-in-error"})
    assert withdrawn["status"] == "entered-in-error"
