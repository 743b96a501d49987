"""What tests of intake ask of it and tell it."""

from __future__ import annotations

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import latest_eligibility
from tests.integration.services.course import (
    about,
)


def outcome(assessment):
    return assessment["prediction"][0]["outcome"]["coding"][0]["code"]


def rules_of(error):
    return {issue.rule for issue in error.value.issues}


async def latest(intake, who):
    return latest_eligibility(await intake.search("RiskAssessment", patient=f"Patient/{who['id']}"))


async def the_course(intake, who):
    episodes = await intake.search("EpisodeOfCare", patient=f"Patient/{who['id']}")
    assert len(episodes) <= 1
    return episodes[0] if episodes else None


def condition(who, code, system=codes.SNOMED, **more):
    return {
        "resourceType": "Condition",
        "clinicalStatus": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/condition-clinical", "code": "active"}]
        },
        "code": {"coding": [{"system": system, "code": code}]},
        "subject": about(who),
        **more,
    }


SUBLINGUAL = ({"name": "drug", "valueCode": "ketamine"}, {"name": "route", "valueCode": "37839007"})


def proceeding(by, why="Small, stable, seen by vascular surgery"):
    return {"action": codes.PROCEED.concept(text=why), "date": "2026-11-22", "author": {"reference": by}}


class EventOf:
    def __init__(self, interaction):
        self.interaction = interaction


def visit_elsewhere(who, **more):
    return {
        "resourceType": "Encounter",
        "status": "finished",
        "class": codes.Code(codes.ACT_CODE, "AMB").coding(),
        "subject": about(who),
        **more,
    }


def pregnancy(who, code, when):
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": codes.PREGNANCY.concept(),
        "subject": about(who),
        "effectiveDateTime": zulu(when),
        "valueCodeableConcept": codes.Code(codes.SNOMED, code).concept(),
    }


def taking(who, code, text=None, **more):
    return {
        "resourceType": "MedicationStatement",
        "status": "active",
        "medicationCodeableConcept": codes.Code(codes.RXNORM, code).concept(text=text),
        "subject": about(who),
        **more,
    }


def allergic(who):
    clinical = codes.Code("http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "active").concept()
    return {
        "resourceType": "AllergyIntolerance",
        "clinicalStatus": clinical,
        "code": codes.KETAMINE.concept(),
        "patient": about(who),
    }


async def replayed(intake, assessment):
    said = await intake.call("replay", assessment)
    return {one["name"]: next(value for key, value in one.items() if key != "name") for one in said["parameter"]}
