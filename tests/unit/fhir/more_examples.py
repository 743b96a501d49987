"""A right resource of each held type of which there is no example of HL7's at hand, or none with a required element."""

from __future__ import annotations

from typing import Any, Final

PATIENT: Final = {"reference": "Patient/ada"}
DAY: Final = {"start": "2026-11-22", "end": "2026-11-23"}

MORE: Final[tuple[dict[str, Any], ...]] = (
    {
        "resourceType": "AdverseEvent",
        "actuality": "actual",
        "event": {"text": "nausea"},
        "subject": PATIENT,
        "date": "2026-11-22T10:00:00Z",
        "suspectEntity": [{"instance": {"reference": "Medication/ketamine"}}],
    },
    {
        "resourceType": "CareTeam",
        "extension": [{"id": "e", "url": "urn:kind", "valueString": "clinic"}],
        "status": "active",
        "subject": PATIENT,
        "period": DAY,
        "participant": [{"role": [{"text": "therapist"}], "member": {"reference": "Practitioner/hopper"}}],
        "telecom": [{"system": "phone", "value": "1", "use": "work"}],
    },
    {
        "resourceType": "ClinicalImpression",
        "status": "completed",
        "subject": PATIENT,
        "effectivePeriod": DAY,
        "investigation": [{"code": {"text": "interview"}, "item": [{"reference": "Observation/mood"}]}],
        "finding": [{"itemCodeableConcept": {"text": "better"}}],
    },
    {
        "resourceType": "Device",
        "status": "active",
        "deviceName": [{"id": "n", "name": "pump", "type": "user-friendly-name"}],
        "udiCarrier": [{"deviceIdentifier": "1", "entryType": "barcode"}],
    },
    {
        "resourceType": "EpisodeOfCare",
        "status": "active",
        "statusHistory": [{"status": "planned", "period": DAY}],
        "diagnosis": [{"condition": {"reference": "Condition/mdd"}, "rank": 1}],
        "patient": PATIENT,
        "period": DAY,
    },
    {
        "resourceType": "FamilyMemberHistory",
        "status": "completed",
        "patient": PATIENT,
        "date": "2026-11-22",
        "relationship": {"text": "mother"},
        "condition": [{"code": {"text": "psychosis"}, "onsetString": "young", "note": [{"text": "in hospital twice"}]}],
    },
    {
        "resourceType": "Flag",
        "identifier": [{"use": "official", "system": "urn:flag", "value": "1"}],
        "status": "active",
        "code": {"text": "high blood pressure"},
        "subject": PATIENT,
        "period": DAY,
    },
    {
        "resourceType": "Measure",
        "url": "http://example.org/Measure/response",
        "status": "active",
        "date": "2026-11-22",
        "relatedArtifact": [{"type": "citation", "citation": "a trial"}],
        "group": [{"population": [{"criteria": {"language": "text/cql", "expression": "x"}}]}],
    },
    {
        "resourceType": "MeasureReport",
        "status": "complete",
        "type": "summary",
        "measure": "http://example.org/Measure/response",
        "period": DAY,
        "group": [{"population": [{"count": 3}], "measureScore": {"value": 0.5}}],
    },
    {
        "resourceType": "PractitionerRole",
        "active": True,
        "practitioner": {"reference": "Practitioner/hopper"},
        "availableTime": [{"daysOfWeek": ["mon", "tue"], "availableStartTime": "09:00:00"}],
        "notAvailable": [{"id": "a", "description": "holiday", "during": DAY}],
    },
    {
        "resourceType": "Schedule",
        "identifier": [{"use": "usual", "system": "urn:schedule", "value": "1"}],
        "active": True,
        "actor": [{"reference": "Location/room"}],
        "planningHorizon": DAY,
    },
    {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "to be told",
        "criteria": "Observation?code=8867-4",
        "channel": {
            "type": "rest-hook",
            "endpoint": "https://hospital.example/hook",
            "payload": "application/fhir+json",
        },
    },
    {
        "resourceType": "SupplyDelivery",
        "extension": [{"id": "e", "url": "urn:lot", "valueString": "A1"}],
        "status": "completed",
        "patient": PATIENT,
        "suppliedItem": {"quantity": {"value": 1, "unit": "vial"}, "itemCodeableConcept": {"text": "ketamine"}},
        "occurrencePeriod": DAY,
    },
)
