"""A dose against its order: no amount beyond what is ordered is started by any path; what was given is recorded."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.fhir.outcome import Unprocessable
from tests.integration.services.bedside import rules_of, vital
from tests.integration.services.course import about, consent, milligrams, order, weight


@pytest.mark.parametrize("amount", [5000, 74, 0, -70])
async def test_a_dose_that_is_not_what_is_ordered_is_refused(bedside, amount):
    await bedside.chart()
    for start in (bedside.start(amount), bedside.sessions.create(bedside.dose(amount))):
        with pytest.raises(Unprocessable) as error:
            await start
        assert rules_of(error) <= {"G-DOSE", "G-DOSE-ORDER", "G-DOSE-MAX"}
    assert await bedside.raised() == [0, 0, 0]


async def test_a_dose_within_the_rounding_of_its_order_starts(bedside):
    await bedside.chart()
    assert (await bedside.start(73.5))["status"] == "in-progress"


async def test_without_an_amount_nothing_starts(bedside):
    await bedside.chart()
    rate = {"route": codes.ROUTE_IM.concept(), "rateQuantity": milligrams(70, "mg/h")}
    with pytest.raises(Unprocessable) as error:
        await bedside.sessions.create(bedside.dose(dosage=rate))
    assert rules_of(error) == {"G-DOSE"}


async def test_a_dose_in_progress_is_not_raised_beyond_its_order(bedside):
    await bedside.chart()
    given = await bedside.start(70)
    with pytest.raises(Unprocessable) as error:
        await bedside.sessions.update({**given, "dosage": {**given["dosage"], "dose": milligrams(5000)}})
    assert "G-DOSE-ORDER" in rules_of(error)


async def test_divided_and_booster_doses_share_what_is_ordered_for_the_session(bedside):
    await bedside.chart()
    first = await bedside.start(40)
    await bedside.sessions.update({**first, "status": "completed"})
    bedside.clock.forward(minutes=2)
    with pytest.raises(Unprocessable, match="30 mg left") as error:
        await bedside.start(40)
    assert rules_of(error) == {"G-DOSE-ORDER"}
    await bedside.start(30)


async def test_a_dose_beyond_the_order_that_was_given_is_recorded_and_raised(bedside):
    await bedside.chart()
    given = await bedside.sessions.create(bedside.dose(5000, "completed", minutes=0))
    assert given["dosage"]["dose"]["value"] == 5000
    assert await bedside.raised() == [1, 1, 1]
    assert await bedside.rules() == {"G-DOSE-ORDER", "G-DOSE-MAX"}


async def test_a_given_dose_that_is_corrected_beyond_its_order_is_raised(bedside):
    await bedside.chart()
    given = await bedside.sessions.create(bedside.dose(70, "completed"))
    assert await bedside.raised() == [0, 0, 0]
    more = {**given, "dosage": {**given["dosage"], "dose": milligrams(700)}}
    more = await bedside.sessions.update(more)
    assert await bedside.raised() == [1, 1, 1]
    await bedside.sessions.update({**more, "note": [{"text": "a slip of the pen?"}]})
    assert await bedside.raised() == [1, 1, 1]


async def test_an_order_per_kg_is_counted_by_the_newest_weight(bedside):
    await bedside.chart()
    per_kg = order(bedside.who)
    per_kg["dosageInstruction"][0]["doseAndRate"][0]["doseQuantity"] = milligrams(1, "mg/kg")
    ordered = await bedside.tell("intake", per_kg)
    with pytest.raises(Unprocessable, match="70 mg are ordered"):
        await bedside.start(80, order=ordered)
    await bedside.start(70, order=ordered)


async def test_a_dose_per_kg_without_a_weight_of_the_last_days_is_not_known(bedside):
    await bedside.chart()
    bedside.clock.forward(days=40)
    await bedside.ask()
    await bedside.chart()
    with pytest.raises(Unprocessable) as error:
        await bedside.start(70)
    assert rules_of(error) == {"G-WEIGHT"}
    await bedside.tell("intake", weight(bedside.who, 70, "2026-12-31"))
    await bedside.start(70)


async def test_an_order_written_after_the_dose_or_from_elsewhere_opens_nothing(bedside):
    await bedside.chart()
    await bedside.tell("intake", {**bedside.ordered, "status": "stopped"})
    later = await bedside.tell("intake", order(bedside.who, authoredOn="2026-11-23"))
    foreign = await bedside.tell("intake", order(bedside.who, meta={"source": "urn:hospital"}))
    for one in (later, foreign):
        with pytest.raises(Unprocessable) as error:
            await bedside.start(70, order=one)
        assert "G-ORDER" in rules_of(error)


async def test_a_consent_signed_after_the_dose_did_not_permit_it(bedside):
    await bedside.chart()
    held = await bedside.sessions.search("Consent", patient=bedside.who["id"])
    await bedside.tell("intake", {**held[0], "status": "inactive"})
    await bedside.tell("intake", consent(bedside.who, dateTime="2026-11-22T23:00:00Z"))
    with pytest.raises(Unprocessable) as error:
        await bedside.start(70)
    assert rules_of(error) == {"G-CONSENT"}


# -- drugs that nobody can name, doses without a visit ----------------------------------------------------------------


def unnamed(dose, medication):
    del dose["medicationCodeableConcept"]
    return {**dose, "medicationReference": {"reference": f"Medication/{medication}"}}


async def test_a_drug_that_is_not_known_yet_starts_only_as_ketamine_would(bedside):
    with pytest.raises(Unprocessable) as error:
        await bedside.sessions.create(unnamed(bedside.dose(), "vial"))
    assert {"G-DRUG", "G-BP"} <= rules_of(error)
    code_only = {"coding": [{"system": codes.RXNORM, "code": "9999999"}]}
    with pytest.raises(Unprocessable) as error:
        await bedside.sessions.create(bedside.dose(medicationCodeableConcept=code_only))
    assert "G-DRUG" in rules_of(error)


async def test_a_dose_is_judged_when_its_drug_becomes_known(bedside):
    await bedside.sessions.create(unnamed(bedside.dose(status="completed"), "vial"))
    assert await bedside.raised() == [1, 0, 1]
    vial = {"resourceType": "Medication", "id": "vial", "code": codes.KETAMINE.concept()}
    await bedside.tell("intake", vial)
    assert await bedside.raised() == [2, 1, 2]
    assert "G-BP" in await bedside.rules()
    await bedside.tell("intake", {**vial, "batch": {"lotNumber": "7"}})
    assert await bedside.raised() == [2, 1, 2]


@pytest.mark.parametrize("context", [None, {"reference": "Encounter/elsewhere"}])
async def test_a_given_dose_without_a_visit_of_this_clinic_is_raised(bedside, context):
    dose = bedside.dose(status="completed", context=context)
    given = await bedside.sessions.create({key: value for key, value in dose.items() if value is not None})
    assert given["status"] == "completed"
    assert await bedside.raised() == [1, 1, 1]
    assert "G-VISIT" in await bedside.rules()


# -- readings before and under the dose -------------------------------------------------------------------------------


async def test_a_newer_reading_without_its_time_closes_the_gate(bedside):
    await bedside.chart(minutes=5)
    bad = bedside.vitals(190, 80)
    del bad["effectiveDateTime"]
    await bedside.sessions.create({**bad, "issued": bedside.vitals()["effectiveDateTime"]})
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert rules_of(error) == {"G-BP-HOLD", "G-BP-STOP"}


async def test_a_reading_a_moment_ahead_of_the_clock_is_not_passed_over_for_an_older_one(bedside):
    await bedside.chart(minutes=5)
    await bedside.sessions.create(bedside.vitals(190, minutes=-0.5))
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert rules_of(error) == {"G-BP-HOLD", "G-BP-STOP"}


async def test_the_refusal_names_what_to_measure_in_words(bedside):
    with pytest.raises(Unprocessable, match="Systolic pressure is not known"):
        await bedside.start()


@pytest.mark.parametrize("status", ["unknown", "registered", "preliminary", "final"])
async def test_an_alarm_sounds_whatever_the_reading_s_status(bedside, status):
    await bedside.sessions.create(bedside.vitals(200, status=status))
    assert await bedside.raised() == [1, 1, 1]


async def test_a_pressure_that_is_not_yet_final_opens_no_gate_and_completes_nothing_until_it_is(bedside):
    early = await bedside.chart(status="preliminary")
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert {"G-BP"} <= rules_of(error)
    await bedside.sessions.update({**early, "status": "final"})
    await bedside.start()
    bedside.clock.forward(minutes=15)
    reading = await bedside.chart(status="preliminary")

    async def done():
        found = await bedside.sessions.search("Task", code=codes.VITALS_DUE.token(), status="completed")
        return [one["output"][0]["valueReference"] for one in found]

    assert await done() == []
    await bedside.sessions.update({**reading, "status": "final"})
    assert await done() == [about(reading)]


async def test_below_a_number_alarms_like_the_number(bedside):
    low = bedside.reading(vital(codes.OXYGEN_SATURATION, "<70", "%"))
    await bedside.sessions.create(low)
    (task,) = await bedside.sessions.search("Task", code=codes.VITAL_ALARM.token())
    assert task["priority"] == "stat"
    assert "<70" in task["description"]


async def test_a_reading_that_may_be_beyond_a_limit_is_asked_about(bedside):
    await bedside.sessions.create(bedside.reading(vital(codes.OXYGEN_SATURATION, "<95", "%")))
    (task,) = await bedside.sessions.search("Task", patient=bedside.who["id"])
    assert task["code"]["coding"][0]["code"] == "review"


async def test_a_reading_charted_late_is_reviewed_and_calls_nobody(bedside):
    bedside.clock.forward(hours=1)
    await bedside.sessions.create(bedside.vitals(200, minutes=50))
    assert await bedside.raised() == [1, 0, 1]
    (task,) = await bedside.sessions.search("Task", patient=bedside.who["id"])
    assert (task["code"]["coding"][0]["code"], task["priority"]) == ("review", "urgent")
    await bedside.sessions.create(bedside.vitals(200, minutes=15))
    assert await bedside.raised() == [2, 1, 2]


async def test_a_vital_sign_in_any_encounter_alarms(bedside):
    reading = bedside.vitals(200, encounter={"reference": "Encounter/elsewhere"})
    await bedside.sessions.create(reading)
    assert await bedside.raised() == [1, 1, 1]
    del reading["subject"]
    with pytest.raises(Unprocessable, match="subject"):
        await bedside.sessions.create(reading)


async def test_a_hold_is_repeated_twice_before_a_prescriber_may_decide(bedside):
    await bedside.chart(165, minutes=0)
    with pytest.raises(Unprocessable, match="Repeated 0 of 2"):
        await bedside.start()
    bedside.clock.forward(minutes=10)
    await bedside.chart(165)
    bedside.clock.forward(minutes=10)
    await bedside.chart(165)
    with pytest.raises(Unprocessable, match="Repeated 2 of 2"):
        await bedside.start()
    assert about(bedside.visit)["reference"].startswith("Encounter/")


async def test_a_dose_that_was_perhaps_given_is_recorded_watched_and_of_an_amount_nobody_knows(bedside):
    await bedside.chart()
    await bedside.sessions.create(bedside.dose(20, "unknown", minutes=2))
    assert await bedside.sessions.search("Task", code=codes.VITALS_DUE.token())
    with pytest.raises(Unprocessable) as error:
        await bedside.start(20)
    assert rules_of(error) == {"G-DOSE"}


async def test_a_dose_that_another_house_gave_counts_in_the_maximum_of_the_day(bedside):
    await bedside.chart()
    dose = bedside.dose(100, "completed", minutes=200)
    del dose["context"]
    await bedside.tell("intake", {**dose, "meta": {"source": "urn:hospital"}})
    with pytest.raises(Unprocessable) as error:
        await bedside.start(70)
    assert rules_of(error) == {"G-DOSE-MAX", "G-SPACING"}
    with pytest.raises(Unprocessable) as error:
        await bedside.start(40)
    assert rules_of(error) == {"G-SPACING"}
