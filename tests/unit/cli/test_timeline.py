"""A record told as text: true to what was recorded, in the order in which it happened."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from cli.demo import bedside, before
from cli.demo.patients import generate
from cli.demo.resources import instant
from cli.stack.stack import ROOT
from cli.timeline.command import references
from cli.timeline.told import timeline
from shared.fhir.codes import BASE, EXPECT_QUESTIONNAIRE, KAP, VITAL_ALARM, rule_code
from shared.fhir.json import Resource

NOON = datetime(2026, 11, 1, 12, tzinfo=UTC)
PERSON = generate(1, 1)[0]
VISIT = "Encounter/v"


def record() -> list[Resource]:
    """A patient with a dose at noon, a reading before it and one beyond its limit under it, with its alarm."""
    session = PERSON.sessions[0]
    patient = {**before.patient(PERSON, "Organization/o"), "id": "p"}
    nurse = {"resourceType": "Practitioner", "id": "n", "name": [{"family": "Vargas", "given": ["Omar"]}]}
    dose = bedside.given_dose(PERSON, 0, "Patient/p", VISIT, "MedicationRequest/o", "Practitioner/n", NOON)
    found: list[Resource] = [patient, nurse, {**dose, "id": "d"}]
    for name, reading in (("before", session.baseline), ("peak", session.readings[3])):
        at = NOON + timedelta(minutes=reading.minute)
        made = bedside.vitals("k", "Patient/p", VISIT, reading, at, "Practitioner/n")
        found.extend({**one, "id": f"{name}-{number}"} for number, one in enumerate(made))
    alarm = {
        "resourceType": "DetectedIssue",
        "id": "a",
        "status": "final",
        "code": VITAL_ALARM.concept(rule_code("A-BP")),
        "severity": "high",
        "implicated": [{"reference": "Observation/peak-0"}],
        "identifiedDateTime": instant(NOON + timedelta(days=9)),
    }
    waiting = {
        "resourceType": "Task",
        "id": "t",
        "status": "completed",
        "code": {"coding": [{"system": KAP, "code": "deliver"}]},
        "authoredOn": instant(NOON),
    }
    return [*found, alarm, waiting]


def test_what_was_measured_is_told_with_units_minutes_from_the_dose_and_who_read_it() -> None:
    base, peak = PERSON.sessions[0].baseline, PERSON.sessions[0].readings[3]
    told = "\n".join(timeline(record()))

    assert "  11:50  BP " + f"{base.systolic}/{base.diastolic} mmHg, HR {base.heart_rate}/min" in told
    assert f"SpO2 {peak.saturation} % (+40 min), read by Omar Vargas" in told
    assert "45 mg, intravenous route until 12:01 (performer Omar Vargas)" in told


def test_an_alarm_stands_with_its_reading_whenever_it_was_written() -> None:
    told = timeline(record())

    place = next(number for number, line in enumerate(told) if "ALARM" in line)
    assert told[place].startswith("  12:40")
    assert "[A-BP] high severity" in told[place]
    assert "+40 min" in told[place - 1]


def test_a_flag_stands_with_the_finding_it_was_raised_with_and_not_at_the_beginning_of_the_visit() -> None:
    found = record()
    found[-2]["identifier"] = [{"system": "urn:finding", "value": "alarm:peak:A-BP"}]
    visit = {
        "resourceType": "Encounter",
        "id": "v",
        "status": "finished",
        "class": {"code": "AMB"},
        "type": [{"text": "Dosing session"}],
        "period": {"start": instant(NOON - timedelta(minutes=30))},
    }
    flag = {
        "resourceType": "Flag",
        "id": "f",
        "identifier": [{"system": "urn:flag", "value": "alarm:peak:A-BP"}],
        "status": "active",
        "code": VITAL_ALARM.concept(),
        "encounter": {"reference": VISIT},
        "period": {"start": instant(NOON + timedelta(days=9))},
    }
    told = timeline([*found, visit, flag])
    alarm, raised = (next(line for line in told if word in line) for word in ("ALARM ", "FLAG "))
    assert raised[:7] == alarm[:7] == "  12:40"


def test_the_questionnaires_that_are_late_are_told_apart_from_those_to_come() -> None:
    def asked(id_: str, status: str, *, late: bool = False) -> Resource:
        code = EXPECT_QUESTIONNAIRE.concept()
        marked = {"businessStatus": {"text": "Overdue"}} if late else {}
        return {"resourceType": "Task", "id": id_, "status": status, "code": code, **marked}

    tasks = [
        *(asked(f"d{number}", "completed", late=number == 0) for number in range(3)),
        *(asked("o", "requested", late=True), asked("m", "failed", late=True)),
        *(asked(f"a{number}", "requested") for number in range(4)),
        asked("c", "cancelled"),
    ]
    told = timeline([*record(), *tasks])
    assert "Questionnaires asked for: 3 answered, 2 overdue or not answered in time, 4 still to come." in told


def test_days_and_times_go_forward_and_deliveries_are_not_told() -> None:
    told = timeline(record())

    times = [line[2:7] for line in told if re.match(r"  \d\d:\d\d", line)]
    assert times == sorted(times)
    assert "Sunday 2026-11-01" in told
    assert not any("deliver" in line for line in told)


def test_without_a_patient_there_is_no_timeline() -> None:
    with pytest.raises(ValueError, match="patient"):
        timeline([])


def test_references_are_found_wherever_they_lie() -> None:
    assert references({"a": [{"reference": "Practitioner/1"}], "b": {"reference": "#x"}}) == {"Practitioner/1"}


def test_the_page_of_the_docs_is_a_timeline_of_the_demo() -> None:
    page = (ROOT / "docs" / "timeline.md").read_text(encoding="utf-8")

    for kind in ("VERDICT", "DOSE", "SCORE", "ALARM", "TASK", "BP ", "Consent signed", "Checklist", "Order by"):
        assert re.search(rf"^  \d\d:\d\d  {kind}", page, re.MULTILINE), f"no line of {kind}"
    assert BASE not in page, "words, not codes"
