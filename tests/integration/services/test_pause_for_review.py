"""A complaint of long-term use pauses the treatment until somebody has reviewed it: no dose is booked, none started."""

from __future__ import annotations

from datetime import timedelta

import pytest

from services.outcomes.service import outcomes as outcomes_service
from shared.fhir.codes import KAP
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from tests.integration.services.at_intake import latest, outcome, rules_of, the_course
from tests.integration.services.course import about, appointment
from tests.integration.services.three_services import dose, pressure, start_parameters


@pytest.fixture
async def clinic(bench, intake, scheduling, sessions):
    """The four services; `tell` has each hear what the others committed, as often as it takes."""
    outcomes = await bench.open(outcomes_service)
    everybody = (intake, scheduling, sessions, outcomes)

    async def tell():
        for _ in range(2):
            for one in everybody:
                for other in everybody:
                    if one is not other and one.service.name in other.service.consumes:
                        await bench.deliver(one, other)

    return outcomes, tell


async def test_no_dose_is_booked_or_started_while_a_complaint_of_long_term_use_is_not_reviewed(
    clock, intake, scheduling, sessions, clinic, at_bedside
):
    (outcomes, tell), (who, _, ordered, visit) = clinic, at_bedside

    async def may_book():
        again = appointment(who, ordered, clock.now + timedelta(days=9))
        try:
            await scheduling.create(again)
        except Unprocessable as refused:
            return {str(one.rule) for one in refused.issues}
        return set()

    async def gate():
        told = await sessions.call("pre-dose-gate", visit, *start_parameters(ordered))
        return {
            part["valueCode"]
            for check in told["parameter"]
            for part in check.get("part", [])
            if part["name"] == "rule" and {"name": "verdict", "valueCode": "closed"} in check["part"]
        }

    await sessions.create(pressure(who, visit, clock.now))
    await sessions.create(dose(who, visit, "completed", clock.now))
    await tell()
    event = {"resourceType": "AdverseEvent", "actuality": "actual", "subject": about(who), "encounter": about(visit)}
    event |= {"event": {"text": "Blood in the urine"}, "date": zulu(clock.now)}
    assert "G-COURSE" not in await gate()
    await sessions.create(event)
    await tell()
    assessed = await latest(intake, who)
    assert outcome(assessed) == "needs-decision"
    assert "R-LT" in assessed["mitigation"]
    assert (await the_course(intake, who))["status"] == "onhold"
    assert "G-COURSE" in await gate()
    assert "S-ELIGIBLE" in await may_book()
    with pytest.raises(Unprocessable) as refused:
        await intake.update({**await the_course(intake, who), "status": "active"})
    assert rules_of(refused) == {"K-HOLD"}
    (task,) = await outcomes.search("Task", patient=who["id"], code=f"{KAP}|review-bladder")
    await outcomes.update({**task, "status": "completed", "owner": {"reference": "Practitioner/anna"}})
    await tell()
    assert outcome(await latest(intake, who)) == "eligible"
    assert (await the_course(intake, who))["status"] == "onhold", "a person lets it go on"
    await intake.update({**await the_course(intake, who), "status": "active"})
    await tell()
    assert "G-COURSE" not in await gate()
    assert "S-ELIGIBLE" not in await may_book()
