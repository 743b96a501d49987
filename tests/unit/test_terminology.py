"""What is shipped of terminology: HL7's own, the project's, and nothing that needs a licence."""

from __future__ import annotations

import json
import re

import yaml

from shared.fhir import codes
from shared.fhir.profiles import own
from shared.fhir.profiles.table import profile_of
from shared.fhir.validation import validate
from shared.terminology import shipped

LICENSED = ("snomed.info", "loinc.org", "ama-assn", "rxnorm", "nucc", "cts.nlm.nih.gov")


def test_every_code_of_the_project_is_defined() -> None:
    """A code that is new in shared/fhir/codes.py needs a line in shared/terminology/project.yaml."""
    concepts = shipped.systems()[codes.KAP].concepts
    undefined = [code for code in shipped.own_codes() if not concepts[code].definition]
    assert undefined == []
    assert len(concepts) >= 50


def test_no_definition_is_left_of_a_code_that_is_gone() -> None:
    content = yaml.safe_load(shipped.PROJECT.read_text("utf-8"))
    assert set(content["kap"]) <= set(shipped.own_codes())


def test_every_extension_of_the_project_is_defined() -> None:
    named = {value for name, value in vars(codes).items() if name.startswith("EXT_") and value.startswith(codes.BASE)}
    assert named <= set(own.definitions())


def test_every_profile_that_the_services_claim_is_defined() -> None:
    """A claim to a profile that is not known would bind nobody."""
    assert {one for one in own.CLAIMED if "profile" not in own.claiming(one) or profile_of(one) is None} == set()


def test_no_licensed_code_is_shipped() -> None:
    assert [url for url in shipped.systems() if any(one in url for one in LICENSED)] == []
    for one in shipped.value_sets().values():
        assert one.members is None or not any(name in system for system in one.members for name in LICENSED)
    text = (shipped.FOLDER / "value-sets.json").read_text("utf-8")
    assert not re.search(r'"http://(snomed\.info/sct|loinc\.org)":', text)


def test_every_member_of_a_shipped_value_set_has_its_concept() -> None:
    for one in shipped.value_sets().values():
        for system, members in (one.members or {}).items():
            assert members <= set(shipped.systems()[system].concepts), one.url


def test_a_value_set_of_another_version_is_another_value_set() -> None:
    gender = "http://hl7.org/fhir/ValueSet/administrative-gender"
    assert shipped.members(f"{gender}|4.0.1") == shipped.members(gender)
    assert shipped.members(f"{gender}|3.0.0") is None


def test_the_projects_definitions_are_fhir_and_each_can_be_claimed() -> None:
    for url, definition in own.definitions().items():
        assert validate(json.loads(json.dumps(definition))) == [], url
        profile = profile_of(url)
        assert profile is not None
        assert profile.rule["children"], url


def test_a_course_that_claims_its_profile_is_held_to_it() -> None:
    stage = {
        "url": codes.EXT_STAGE,
        "extension": [{"url": "stage", "valueCode": "eligible"}, {"url": "period", "valuePeriod": {"start": "2026"}}],
    }
    course = {
        "resourceType": "EpisodeOfCare",
        "meta": {"profile": [own.canonical("kap-course")]},
        "extension": [stage],
        "identifier": [{"system": codes.ID_EPISODE, "value": "1"}],
        "status": "active",
        "type": [codes.COURSE.concept()],
        "patient": {"reference": "Patient/1"},
        "period": {"start": "2026-11-22"},
    }
    assert validate(course) == []
    less = {**course, "extension": [], "type": [codes.VISIT_PREP.concept()]}
    del less["extension"]
    found = {place for issue in validate(less) for place in issue.expression}
    assert found == {"EpisodeOfCare.extension", "EpisodeOfCare.type[0]"}


def test_an_extension_of_the_project_is_held_to_its_definition_wherever_it_stands() -> None:
    wrong = {"url": codes.EXT_STAGE, "extension": [{"url": "stage", "valueString": "eligible"}]}
    episode = {
        "resourceType": "EpisodeOfCare",
        "extension": [wrong],
        "status": "active",
        "patient": {"reference": "Patient/1"},
    }
    found = {place for issue in validate(episode) for place in issue.expression}
    assert found == {"EpisodeOfCare.extension[0].extension", "EpisodeOfCare.extension[0].extension[0].value"}
