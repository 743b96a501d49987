"""What is recommended before the first dose is shown as still to do until it is on record; it blocks nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from services.intake.rules.trials import Entry
from services.intake.rules.workup import to_do
from services.intake.setting import Setting
from shared.fhir.codes import LOINC, SNOMED
from shared.fhir.dates import zulu
from shared.runtime.policy import load_policy

SETTING = Setting.of(load_policy())
TESTS = SETTING.workup.tests
NOW = datetime(2026, 11, 22, 9, 0, tzinfo=UTC)
WOMAN = {"resourceType": "Patient", "gender": "female", "birthDate": "1980-02-03"}


def result(code, days=1.0, **more):
    made = {"resourceType": "Observation", "id": "o", "status": "final", "code": {"coding": [{"system": LOINC}]}}
    made["code"]["coding"][0]["code"] = code
    return {**made, "effectiveDateTime": zulu(NOW - timedelta(days=days)), **more}


def names(patient=WOMAN, conditions=(), results=()):
    held = [Entry("Condition/c", {"coding": [{"system": SNOMED, "code": one}]}, {}) for one in conditions]
    return {one.name for one in to_do(patient, held, results, NOW, SETTING.workup, SETTING.sets)}


def test_all_that_is_recommended_is_to_do_where_nothing_is_on_record():
    assert names() == set(TESTS) - {"electrocardiogram"}
    for one in to_do(WOMAN, [], [], NOW, SETTING.workup, SETTING.sets):
        assert one.test.source
        assert one.text.endswith(one.test.advice)


@pytest.mark.parametrize("name", sorted(TESTS))
def test_each_is_done_by_a_result_of_any_of_its_codes_that_is_final_and_not_too_old(name):
    test, beside = TESTS[name], ["22298006"]
    for code in test.codes:
        enough = [result(code)] * test.count
        assert name not in names(conditions=beside, results=enough)
        assert name not in names(conditions=beside, results=[result(code, test.days)] * test.count)
        assert name in names(conditions=beside, results=enough[1:])
        assert name in names(conditions=beside, results=[result(code, test.days + 0.01)] * test.count)
        assert name in names(conditions=beside, results=[result(code, -1)] * test.count)
        assert name in names(conditions=beside, results=[result(code, status="entered-in-error")] * test.count)
        unknown = {key: value for key, value in result(code).items() if key != "effectiveDateTime"}
        assert name in names(conditions=beside, results=[unknown] * test.count), "when is not known"


@pytest.mark.parametrize(
    ("patient", "asked"),
    [
        (WOMAN, True),
        ({**WOMAN, "gender": "male"}, False),
        ({"resourceType": "Patient"}, True),
        ({**WOMAN, "birthDate": "1970-11-22"}, False),
        ({**WOMAN, "birthDate": "1970-11-23"}, True),
        ({**WOMAN, "birthDate": "2014-11-22"}, True),
        ({**WOMAN, "birthDate": "2014-11-23"}, False),
        ({**WOMAN, "birthDate": "1970"}, True),
    ],
)
def test_a_pregnancy_test_is_for_whom_it_may_concern_and_what_is_not_known_speaks_for_it(patient, asked):
    assert ("pregnancy-test" in names(patient)) is asked


def test_an_electrocardiogram_is_for_who_is_at_risk():
    assert "electrocardiogram" not in names(conditions=["35489007"])
    assert "electrocardiogram" in names(conditions=["22298006"])
