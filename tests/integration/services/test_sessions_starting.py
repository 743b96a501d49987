"""Starting a dose: by no path past a closed gate; what the gate stands on, and what opens it."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.outcome import BadRequest, Unprocessable
from tests.integration.services.bedside import rules_of
from tests.integration.services.course import about, consent, milligrams, order
from tests.integration.services.three_services import (
    dose,
    pressure,
    raised,
    saturation,
    start_parameters,
)


async def test_a_dose_starts_in_a_visit_with_a_baseline_consent_and_order(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now - timedelta(minutes=5)))
    given = await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert given["status"] == "in-progress"
    assert given["context"] == about(visit)
    assert given["request"] == about(ordered)
    assert given["dosage"]["route"]["coding"][0]["code"] == codes.ROUTE_IM.code
    assert await raised(sessions, who) == [0, 0, 0]
    done = {**given, "status": "completed", "effectivePeriod": {**given["effectivePeriod"], "end": zulu(clock.now)}}
    await sessions.update(done)
    assert await raised(sessions, who) == [0, 0, 0]


async def test_a_dose_charted_afterwards_by_the_operation_is_judged_by_its_time(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    start = clock.now
    await sessions.create(pressure(who, visit, start - timedelta(minutes=5)))
    clock.forward(hours=3)
    given = await sessions.call("start-dose", visit, *start_parameters(ordered, effective=zulu(start)))
    assert given["effectivePeriod"]["start"] == zulu(start)
    assert await raised(sessions, who) == [0, 0, 0]
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered, effective=zulu(clock.now)))
    assert rules_of(error) == {"G-BP", "G-SPO2", "G-HR", "G-DOSE-ORDER"}
    later = zulu(clock.now + timedelta(minutes=2))
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered, effective=later))
    assert "G-TIME" in rules_of(error)


async def start_by_operation(sessions, who, ordered, visit, clock):
    return await sessions.call("start-dose", visit, *start_parameters(ordered))


async def start_by_create(sessions, who, ordered, visit, clock):
    return await sessions.create(dose(who, visit, "in-progress", clock.now))


async def start_by_update(sessions, who, ordered, visit, clock):
    held = await sessions.create(dose(who, visit, "not-done", clock.now))
    return await sessions.update({**held, "status": "in-progress"})


async def start_by_another_drug(sessions, who, ordered, visit, clock):
    saline = codes.Code(codes.RXNORM, "313002", "sodium chloride").concept()
    held = await sessions.create(dose(who, visit, "in-progress", clock.now, medicationCodeableConcept=saline))
    return await sessions.update({**held, "medicationCodeableConcept": codes.KETAMINE.concept()})


async def start_by_a_text_only(sessions, who, ordered, visit, clock):
    troche = {"text": "compounded KETAMINE troche"}
    return await sessions.create(dose(who, visit, "in-progress", clock.now, medicationCodeableConcept=troche))


async def start_by_a_contained_medication(sessions, who, ordered, visit, clock):
    made = dose(who, visit, "in-progress", clock.now, medicationReference={"reference": "#m"})
    del made["medicationCodeableConcept"]
    contained = [{"resourceType": "Medication", "id": "m", "code": codes.KETAMINE.concept()}]
    return await sessions.create({**made, "contained": contained})


async def start_by_its_order_alone(sessions, who, ordered, visit, clock):
    made = dose(who, visit, "in-progress", clock.now, medicationReference={"reference": "Medication/unknown"})
    del made["medicationCodeableConcept"]
    return await sessions.create({**made, "request": about(ordered)})


PATHS = [
    start_by_operation,
    start_by_create,
    start_by_update,
    start_by_another_drug,
    start_by_a_text_only,
    start_by_a_contained_medication,
    start_by_its_order_alone,
]


@pytest.mark.parametrize("start", PATHS)
async def test_no_path_starts_ketamine_without_a_baseline_pressure(at_bedside, clock, sessions, start):
    who, _, ordered, visit = at_bedside
    with pytest.raises(Unprocessable) as error:
        await start(sessions, who, ordered, visit, clock)
    assert rules_of(error) - {"G-DRUG"} == {"G-BP", "G-SPO2", "G-HR"}
    await sessions.create(pressure(who, visit, clock.now))
    await start(sessions, who, ordered, visit, clock)


@pytest.mark.parametrize(
    ("systolic", "diastolic", "rules"),
    [
        (159, 99, None),
        (160, 80, {"G-BP-HOLD"}),
        (120, 100, {"G-BP-HOLD"}),
        (180, 80, {"G-BP-HOLD", "G-BP-STOP"}),
        (120, 110, {"G-BP-HOLD", "G-BP-STOP"}),
    ],
)
async def test_a_pressure_at_the_hold_limit_keeps_the_gate_closed(
    at_bedside, clock, sessions, systolic, diastolic, rules
):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now, systolic, diastolic))
    if rules is None:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
        return
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == rules


async def test_the_newest_reading_counts_and_an_old_or_strange_one_does_not(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now - timedelta(minutes=31)))
    with pytest.raises(Unprocessable):
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    await sessions.create(pressure(who, visit, clock.now - timedelta(minutes=20), 170))
    await sessions.create(pressure(who, visit, clock.now - timedelta(minutes=9), 16, 10, unit="kPa"))
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == {"G-BP"}
    await sessions.create(pressure(who, visit, clock.now - timedelta(minutes=1), 140))
    await sessions.call("start-dose", visit, *start_parameters(ordered))


@pytest.mark.parametrize(("value", "opens"), [(94, True), (93, False)])
async def test_a_low_saturation_that_was_measured_counts(at_bedside, clock, sessions, value, opens):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await sessions.create(saturation(who, visit, clock.now, value))
    if opens:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
        return
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == {"G-SPO2"}


async def test_outside_an_in_progress_dosing_visit_nothing_starts(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    away = await sessions.update({**visit, "status": "onleave"})
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", away, *start_parameters(ordered))
    assert rules_of(error) == {"G-VISIT"}


async def test_without_consent_for_the_route_nothing_starts(bench, at_bedside, clock, intake, sessions):
    who, signed, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await intake.update({**signed, "status": "inactive"})
    await intake.create(consent(who, codes.ROUTE_IV))
    await bench.deliver(intake, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == {"G-CONSENT", "G-COURSE"}


async def test_without_an_active_order_nothing_starts(bench, at_bedside, clock, intake, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await intake.update({**ordered, "status": "stopped"})
    await bench.deliver(intake, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert "G-ORDER" in rules_of(error)


async def test_a_dose_on_hold_goes_on_only_through_an_open_gate(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    given = await sessions.call("start-dose", visit, *start_parameters(ordered))
    held = await sessions.update({**given, "status": "on-hold"})
    clock.forward(minutes=10)
    await sessions.create(pressure(who, visit, clock.now, 165))
    with pytest.raises(Unprocessable) as error:
        await sessions.update({**held, "status": "in-progress"})
    assert rules_of(error) == {"G-BP-HOLD"}
    await sessions.update({**held, "status": "stopped"})


async def test_a_dose_that_was_stopped_goes_on_only_through_an_open_gate(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    given = await sessions.call("start-dose", visit, *start_parameters(ordered))
    stopped = await sessions.update({**given, "status": "stopped"})
    clock.forward(minutes=10)
    await sessions.create(pressure(who, visit, clock.now, 190))
    with pytest.raises(Unprocessable) as error:
        await sessions.update({**stopped, "status": "in-progress"})
    assert rules_of(error) == {"G-BP-HOLD", "G-BP-STOP"}


async def test_in_a_visit_that_has_finished_nothing_starts(at_bedside, clock, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await sessions.update({**visit, "status": "finished"})
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == {"G-VISIT"}


@pytest.mark.parametrize(
    "no_order",
    [{"doNotPerform": True}, {"intent": "proposal"}, {"reportedBoolean": True}, {"meta": {"source": "urn:hospital"}}],
)
async def test_what_is_no_order_opens_no_gate(bench, at_bedside, clock, intake, sessions, no_order):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await intake.update({**ordered, "status": "stopped"})
    other = await intake.create({**order(who), **no_order})
    await bench.deliver(intake, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(other))
    assert rules_of(error) == {"G-ORDER"}


@pytest.mark.parametrize(
    "refusal",
    [
        {"dateTime": "2026-11-21", "provision": {"type": "deny"}},
        {"dateTime": "2026-11-20", "provision": {"type": "deny"}},
    ],
)
async def test_a_consent_that_denies_the_route_keeps_the_gate_closed(
    bench, at_bedside, clock, intake, sessions, refusal
):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    await intake.create(consent(who, **refusal))
    await bench.deliver(intake, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert "G-CONSENT" in rules_of(error)


async def test_while_the_course_is_on_hold_nothing_starts(bench, at_bedside, clock, intake, sessions):
    who, _, ordered, visit = at_bedside
    await sessions.create(pressure(who, visit, clock.now))
    (course,) = await intake.search("EpisodeOfCare", patient=who["id"])
    await intake.update({**course, "status": "onhold"})
    await bench.deliver(intake, sessions)
    with pytest.raises(Unprocessable) as error:
        await sessions.call("start-dose", visit, *start_parameters(ordered))
    assert rules_of(error) == {"G-COURSE"}


NAMED = {"name": "identifier", "valueIdentifier": {"system": "urn:tablet", "value": "7"}}


async def half(bedside, *more, amount=35):
    """Start half of what is ordered by the operation, with further parameters."""
    given = [
        {"name": "medicationRequest", "valueReference": about(bedside.ordered)},
        {"name": "dose", "valueQuantity": milligrams(amount)},
        {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
    ]
    return await bedside.sessions.call("start-dose", bedside.visit, *given, *more)


async def doses(bedside):
    return await bedside.sessions.search("MedicationAdministration", patient=bedside.who["id"])


async def test_a_start_that_is_sent_again_by_its_identifier_begins_no_second_dose_and_returns_the_first(bedside):
    await bedside.chart()
    first, again = await asyncio.gather(half(bedside, NAMED), half(bedside, NAMED))
    assert first["id"] == again["id"]
    assert first["identifier"] == [NAMED["valueIdentifier"]]
    await bedside.sessions.update({**first, "status": "completed"})
    bedside.clock.forward(minutes=2)
    await bedside.chart(190, 118)  # the gate is closed now, and the first dose stands all the same
    bedside.clock.forward(minutes=10)
    assert (await half(bedside, NAMED))["status"] == "completed"
    with pytest.raises(Unprocessable) as refused:
        await half(bedside, NAMED, amount=20)
    assert rules_of(refused) == {"G-AGAIN"}
    assert len(await doses(bedside)) == 1
    assert await bedside.rules() == {"A-BP"}


@pytest.mark.parametrize(("seconds", "is_again"), [(0, True), (60, True), (61, False)])
async def test_the_same_start_within_a_minute_is_asked_whether_it_is_another_dose(bedside, seconds, is_again):
    await bedside.chart()
    first = await half(bedside)
    bedside.clock.forward(seconds=seconds)
    if is_again:
        with pytest.raises(Unprocessable, match=f"MedicationAdministration/{first['id']} was begun") as refused:
            await half(bedside)
        assert rules_of(refused) == {"G-AGAIN"}
        await half(bedside, NAMED)
    else:
        await half(bedside)
    assert len(await doses(bedside)) == 2


async def test_another_amount_or_a_dose_after_one_in_error_is_no_start_sent_again(bedside):
    await bedside.chart()
    first = await half(bedside)
    await half(bedside, amount=15)
    await bedside.sessions.update({**first, "status": "entered-in-error"})
    await half(bedside)
    assert len(await doses(bedside)) == 3


@pytest.mark.parametrize("identifier", [{"value": "7"}, {"system": "urn:tablet"}, {}])
async def test_an_identifier_of_a_start_says_its_system_and_value(bedside, identifier):
    await bedside.chart()
    with pytest.raises(BadRequest):
        await half(bedside, {"name": "identifier", "valueIdentifier": identifier})


@pytest.mark.parametrize(("kind", "category"), [("AMB", "outpatient"), ("IMP", "inpatient")])
async def test_a_dose_says_whether_it_is_an_inpatients(bedside, kind, category):
    bedside.visit = await bedside.sessions.update({**bedside.visit, "class": {**bedside.visit["class"], "code": kind}})
    await bedside.chart()
    assert (await half(bedside))["category"]["coding"][0]["code"] == category
