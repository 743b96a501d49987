"""The gate before a dose as an operation: every check told, decisions documented, and no path past it."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal

import pytest

from services.intake.planning import activities
from services.sessions.rules.leaving import DISPOSITION
from services.sessions.service import sessions as sessions_service
from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import PlannedDose
from shared.fhir.outcome import BadRequest, NotFound, Unprocessable
from tests.integration.services.bedside import Bedside, rules_of
from tests.integration.services.course import about, appointment, milligrams, practitioner, role_of, weight
from tests.unit.intake.test_orders import SETTING

ESKETAMINE = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray")


async def look(bedside, **more):
    """Return whether the gate is open, and its checks by rule."""
    given = [{"name": "medicationRequest", "valueReference": about(bedside.ordered)}]
    if "dose" in more:
        given.append({"name": "dose", "valueQuantity": milligrams(more["dose"])})
    answer = await bedside.sessions.call("pre-dose-gate", bedside.visit, *given)
    checks = {}
    for one in answer["parameter"]:
        if one["name"] == "check":
            parts = {
                part["name"]: next(value for name, value in part.items() if name != "name") for part in one["part"]
            }
            if parts["closes"] or parts["rule"] not in checks:
                checks[parts["rule"]] = parts
    return answer["parameter"][0]["valueBoolean"], checks


async def licensed(bedside, **more):
    """Have sessions know the prescriber, with his role and his licence."""
    doctor = await bedside.tell("intake", {**practitioner(), "id": "prescriber", **more})
    await bedside.tell("intake", {**role_of(doctor), "id": "prescriber-role"})


async def decide(bedside, reference, **more):
    await licensed(bedside)
    issue = await bedside.sessions.get("DetectedIssue", reference["reference"].partition("/")[2])
    made = {
        "action": codes.PROCEED.concept(text="Weighed with the patient."),
        "date": zulu(bedside.clock.now),
        "author": {"reference": "Practitioner/prescriber"},
        **more,
    }
    return await bedside.sessions.update({**issue, "mitigation": [made]})


async def test_the_gate_tells_every_check_with_value_limit_source_and_verdict(bedside):
    opens, checks = await look(bedside)
    assert opens is False
    assert checks["G-BP"]["verdict"] == "not-known"
    await bedside.chart(118, 76)
    opens, checks = await look(bedside, dose=70)
    assert opens is True
    assert {check["closes"] for check in checks.values()} == {False}
    assert checks["G-BP-STOP"]["limit"] == "below 180 mm[Hg]"
    assert checks["G-BP-STOP"]["value"] == "118 mm[Hg]"
    assert checks["G-BP-STOP"]["source"]
    assert checks["G-BP-STOP"]["evidence"]["reference"].startswith("Observation/")
    assert checks["G-DOSE-ORDER"]["limit"] == "at most 70 mg"
    assert {"G-VISIT", "G-COURSE", "G-CONSENT", "G-ORDER", "E11", "E12", "E25", "G-SUICIDE"} <= set(checks)
    assert (await bedside.start())["status"] == "in-progress"


async def test_a_hold_opens_after_two_repeats_by_a_prescriber_s_documented_decision_only(bedside):
    for _ in range(3):
        _, checks = await look(bedside)
        assert "decision" not in checks.get("G-BP-HOLD", {})
        bedside.clock.forward(minutes=10)
        await bedside.chart(165)
    opens, checks = await look(bedside)
    assert opens is False
    issue = checks["G-BP-HOLD"]["decision"]
    for author in ({"display": "somebody"}, {"reference": "Practitioner/nurse"}):
        with pytest.raises(Unprocessable) as refused:
            await decide(bedside, issue, author=author)
        assert rules_of(refused) == {"E-OVERRIDE"}
        assert (await look(bedside))[0] is False
    assert "of who was recorded just now, try again" in refused.value.issues[0].diagnostics
    await decide(bedside, issue)
    opens, checks = await look(bedside)
    held = await bedside.sessions.get("DetectedIssue", issue["reference"].rpartition("/")[2])
    withdrawn = await bedside.sessions.update({**held, "status": "entered-in-error"})
    assert (await look(bedside))[0] is False
    await bedside.sessions.update({**withdrawn, "status": "final"})
    assert (opens, checks["G-BP-HOLD"]["verdict"]) == (True, "decided")
    bedside.clock.forward(minutes=11)
    await bedside.chart(168)
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert rules_of(error) == {"G-BP-HOLD"}


async def test_a_decision_is_not_made_ahead_of_its_time_and_does_not_cover_what_is_measured_later(bedside):
    for _ in range(3):
        bedside.clock.forward(minutes=10)
        await bedside.chart(165)
    _, checks = await look(bedside)
    with pytest.raises(Unprocessable, match="still to come") as error:
        await decide(bedside, checks["G-BP-HOLD"]["decision"], date=zulu(bedside.clock.now + timedelta(minutes=20)))
    assert rules_of(error) == {"G-TIME"}
    await decide(bedside, checks["G-BP-HOLD"]["decision"])
    assert (await look(bedside))[0] is True
    bedside.clock.forward(minutes=10)
    await bedside.chart(178)
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert rules_of(error) == {"G-BP-HOLD"}


@pytest.mark.parametrize(
    ("answers", "rule"),
    [({"escort": False}, "E25"), ({"intoxicated": True}, "E11"), ({"pregnant": None}, "E12")],
)
async def test_the_newest_answers_of_this_visit_count(bedside, answers, rule):
    await bedside.chart()
    bedside.clock.forward(minutes=1)
    await bedside.ask(**answers)
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert rules_of(error) == {rule}
    bedside.clock.forward(minutes=1)
    await bedside.ask()
    await bedside.start()


async def test_a_flag_for_suicidality_keeps_the_gate_closed_until_it_is_settled(bedside):
    await bedside.chart()
    flag = {
        "resourceType": "Flag",
        "status": "active",
        "code": codes.SUICIDE_RISK.concept(),
        "subject": about(bedside.who),
        "period": {"start": zulu(bedside.clock.now)},
    }
    told = await bedside.tell("outcomes", flag)
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert rules_of(error) == {"G-SUICIDE"}
    await bedside.tell("outcomes", {**told, "status": "inactive"})
    await bedside.start()


@pytest.fixture
async def nasal(bench, clock):
    at = Bedside(await bench.open(sessions_service), clock)
    await at.begin(codes.ROUTE_NASAL, 56, medicationCodeableConcept=ESKETAMINE.concept())
    await at.chart()
    return at


async def test_esketamine_needs_a_certified_place_an_enrolled_patient_and_a_witness(nasal):
    with pytest.raises(Unprocessable) as error:
        await nasal.start(56)
    assert rules_of(error) == {"G-REMS-SITE", "G-REMS-PATIENT", "G-REMS-WITNESS"}
    room = {"resourceType": "Location", "id": "room", "managingOrganization": {"reference": "Organization/clinic"}}
    await nasal.tell("intake", room)
    certified = {"identifier": [{"system": codes.ID_REMS_SITE, "value": "S-1"}]}
    await nasal.tell("intake", {"resourceType": "Organization", "id": "clinic", **certified})
    enrolled = [*nasal.who["identifier"], {"system": codes.ID_REMS_PATIENT, "value": "P-1"}]
    await nasal.tell("intake", {**nasal.who, "identifier": enrolled})
    with pytest.raises(Unprocessable) as error:
        await nasal.start(56)
    assert rules_of(error) == {"G-REMS-WITNESS"}
    given = await nasal.start(56, witness="Practitioner/nurse")
    assert [one["function"]["coding"][0]["code"] for one in given["performer"]] == ["performer", "witness"]


async def test_the_operation_says_what_it_needs(bedside):
    with pytest.raises(BadRequest, match="medicationRequest"):
        await bedside.sessions.call("pre-dose-gate", bedside.visit)
    with pytest.raises(NotFound):
        await bedside.sessions.call("pre-dose-gate", {"resourceType": "Encounter", "id": "none"})


async def test_100_mg_a_millilitre_goes_into_a_vein_only_diluted(bench, clock):
    bedside = Bedside(await bench.open(sessions_service), clock)
    await bedside.begin(codes.ROUTE_IV, 35)
    await bedside.chart()
    for strength in (100, None, 1):
        quantity = {"value": strength, "unit": "mg/mL", "system": codes.UCUM, "code": "mg/mL"}
        given = [
            {"name": "medicationRequest", "valueReference": about(bedside.ordered)},
            {"name": "dose", "valueQuantity": milligrams(35)},
            {"name": "performer", "valueReference": {"reference": "Practitioner/nurse"}},
            *([] if strength is None else [{"name": "strength", "valueQuantity": quantity}]),
        ]
        if strength != 1:
            with pytest.raises(Unprocessable) as refused:
                await bedside.sessions.call("start-dose", bedside.visit, *given)
            assert rules_of(refused) == {"G-DILUTED"}
        else:
            dose = await bedside.sessions.call("start-dose", bedside.visit, *given)
    (part,) = dose["contained"][0]["ingredient"]
    assert part["strength"]["numerator"]["value"] == 1


async def test_what_screening_says_is_to_be_held_is_asked_about_and_closes_the_gate_when_it_was_not(bedside):
    hold = {"value": 24, "unit": "h", "system": codes.UCUM, "code": "h"}
    issue = {
        "resourceType": "DetectedIssue",
        "extension": [{"url": codes.EXT_HOLD_BEFORE, "valueDuration": hold}],
        "status": "final",
        "code": codes.rule_code("I-BENZODIAZEPINE").concept(),
        "patient": about(bedside.who),
        "identifiedDateTime": zulu(bedside.clock.now),
    }
    told = await bedside.tell("intake", issue)
    await bedside.chart()
    with pytest.raises(Unprocessable) as refused:
        await bedside.start()
    assert rules_of(refused) == {"G-HOLD"}
    await bedside.ask(held=False)
    with pytest.raises(Unprocessable) as refused:
        await bedside.start()
    assert rules_of(refused) == {"G-HOLD"}
    await bedside.tell("intake", {**told, "status": "cancelled"})
    await bedside.start()


async def test_a_repeat_a_minute_after_a_held_pressure_does_not_open_the_gate(bedside):
    await bedside.chart(165)
    bedside.clock.forward(minutes=1)
    await bedside.chart(120)
    with pytest.raises(Unprocessable, match="a repeat counts 10 minutes after it") as error:
        await bedside.start()
    assert rules_of(error) == {"G-BP-HOLD"}
    bedside.clock.forward(minutes=9)
    await bedside.chart(120)
    await bedside.start()


async def test_of_two_readings_of_one_time_the_worse_counts_until_it_is_corrected(bedside):
    wrong = await bedside.chart(190)
    await bedside.chart(120)
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert "G-BP-STOP" in rules_of(error)
    await bedside.sessions.update({**wrong, "status": "entered-in-error"})
    await bedside.start()


async def test_without_a_course_that_runs_nothing_is_started_and_what_was_given_is_recorded(bedside):
    await bedside.chart()
    (held,) = await bedside.sessions.search("EpisodeOfCare", patient=bedside.who["id"])
    await bedside.tell("intake", {**held, "status": "finished", "statusHistory": []})
    with pytest.raises(Unprocessable, match="no course of the patient") as error:
        await bedside.start()
    assert rules_of(error) == {"G-COURSE"}
    await bedside.sessions.create(bedside.dose(status="completed"))
    assert "G-COURSE" in await bedside.rules()


async def next_visit(bedside, *, days):
    """Begin another dosing visit of the same patient, days later."""
    period = {**bedside.visit["period"], "end": zulu(bedside.clock.now)}
    await bedside.sessions.update({**bedside.visit, "status": "finished", "period": period})
    bedside.clock.forward(days=days)
    made = await bedside.tell("scheduling", appointment(bedside.who, bedside.ordered, bedside.clock.now))
    (visit,) = await bedside.sessions.search("Encounter", appointment=about(made)["reference"])
    visit = await bedside.sessions.update({**visit, "status": "arrived"})
    start = {"start": zulu(bedside.clock.now)}
    bedside.visit = await bedside.sessions.update({**visit, "status": "in-progress", "period": start})
    await bedside.ask()
    await bedside.chart()


async def test_no_more_sessions_than_the_order_is_for_and_none_sooner_than_the_plan_has_them(bedside):
    twice = [{**one, "timing": {"repeat": {"count": 2}}} for one in bedside.ordered["dosageInstruction"]]
    await bedside.tell("intake", {**bedside.ordered, "dosageInstruction": twice})
    planned = PlannedDose("ketamine", codes.ROUTE_IM.code, 1, 6, milligrams(70), Decimal(7))
    template = SETTING.plans.templates["ketamine-im"]
    plan = {
        "resourceType": "CarePlan",
        "status": "active",
        "intent": "plan",
        "category": [codes.PLAN.concept()],
        "subject": about(bedside.who),
        "created": zulu(bedside.clock.now - timedelta(days=1)),
        "activity": [{"detail": one} for one in activities(template, [planned])],
    }
    await bedside.tell("intake", plan)
    await bedside.chart()
    await bedside.start()
    await next_visit(bedside, days=6)
    opens, checks = await look(bedside)
    assert (opens, checks["G-SPACING"]["value"], checks["G-SPACING"]["limit"]) == (False, "6 d", "at least 7 d")
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert rules_of(error) == {"G-SPACING"}
    await decide(bedside, checks["G-SPACING"]["decision"])
    await bedside.start()
    await next_visit(bedside, days=7)
    with pytest.raises(Unprocessable, match="is for 2 sessions") as error:
        await bedside.start()
    assert rules_of(error) == {"G-SERIES"}


async def test_a_decision_on_the_days_between_sessions_covers_no_dose_that_is_put_on_record_after_it(bedside):
    await bedside.chart()
    await bedside.start()
    await next_visit(bedside, days=1)
    _, checks = await look(bedside)
    issue = await decide(bedside, checks["G-SPACING"]["decision"])
    assert (await look(bedside))[1]["G-SPACING"]["verdict"] == "decided"
    yesterday = bedside.dose(20, "completed", minutes=60 * 20)
    del yesterday["context"]
    await bedside.sessions.create(yesterday)
    assert (await look(bedside))[1]["G-SPACING"]["verdict"] == "closed"
    held = await bedside.sessions.get("DetectedIssue", issue["id"])
    await bedside.sessions.update({**held, "evidence": [{"detail": [about(bedside.visit)]}]})  # makes it no newer
    assert (await look(bedside))[1]["G-SPACING"]["verdict"] == "closed"
    (made,) = held["mitigation"]
    anew = {**made, "action": codes.PROCEED.concept(text="With the dose of yesterday weighed, too.")}
    await bedside.sessions.update({**held, "mitigation": [made, anew]})
    assert (await look(bedside))[1]["G-SPACING"]["verdict"] == "decided"


async def test_who_weighs_a_fifth_less_than_when_it_was_ordered_is_asked_about(bedside):
    thin = {**weight(bedside.who, 56), "effectiveDateTime": zulu(bedside.clock.now)}
    await bedside.tell("intake", thin)
    await bedside.chart()
    _, checks = await look(bedside, dose=56)
    assert (checks["G-WEIGHT"]["verdict"], checks["G-WEIGHT"]["value"]) == ("closed", "56 kg")
    with pytest.raises(Unprocessable) as error:
        await bedside.start(56)
    assert rules_of(error) == {"G-WEIGHT"}
    await decide(bedside, checks["G-WEIGHT"]["decision"])
    await bedside.start(56)


async def test_only_what_the_gate_asked_is_decided_by_its_prescriber_himself_and_with_a_reason(bedside):
    await bedside.chart(165, 95)
    for _ in range(2):
        bedside.clock.forward(minutes=11)
        await bedside.chart(165, 95)
    _, checks = await look(bedside)
    reference = checks["G-BP-HOLD"]["decision"]
    issue = await bedside.sessions.get("DetectedIssue", reference["reference"].partition("/")[2])
    made = {"date": zulu(bedside.clock.now), "author": {"reference": "Practitioner/prescriber"}}
    named = {**made, "action": codes.PROCEED.concept(text="Weighed with the patient.")}
    undated = {name: value for name, value in named.items() if name != "date"}
    by_role = {**named, "author": {"reference": "PractitionerRole/prescriber-role"}}
    lapsed = {"qualification": [{"code": {"text": "MD"}, "period": {"start": "2020-01-01", "end": "2026-10-31"}}]}
    for wrong, who, more in (
        ({**made, "action": codes.PROCEED.concept()}, {}, {}),
        (undated, {}, {}),
        (named, {"user": "Practitioner/nurse"}, {}),
        (by_role, {"user": "Practitioner/nurse"}, {}),
        (named, {"client": "a-program"}, {}),
        (named, {}, lapsed),
        (by_role, {}, {"qualification": []}),
        (named, {}, {"active": False}),
    ):
        await licensed(bedside, **more)
        with pytest.raises(Unprocessable) as refused:
            await bedside.sessions.update({**issue, "mitigation": [wrong]}, **who)
        assert rules_of(refused) == {"E-OVERRIDE"}
    await licensed(bedside)
    content = {name: value for name, value in issue.items() if name not in ("id", "meta")}
    with pytest.raises(Unprocessable) as refused:
        await bedside.sessions.create({**content, "mitigation": [named]})
    assert rules_of(refused) == {"T-NAME"}
    await bedside.sessions.create({**content, "identifier": [{"system": "urn:x", "value": "1"}], "mitigation": [named]})
    assert not (await look(bedside))[0]
    await bedside.sessions.update({**issue, "mitigation": [named]}, user="PractitionerRole/prescriber-role")
    assert (await look(bedside))[0]


async def test_a_decision_on_the_weight_covers_no_other_weight_that_becomes_known_after_it(bedside):
    await bedside.tell("intake", {**weight(bedside.who, 80), "effectiveDateTime": zulu(bedside.clock.now)})
    await bedside.chart()
    _, checks = await look(bedside, dose=56)
    await decide(bedside, checks["G-WEIGHT"]["decision"])
    taken = bedside.clock.now + timedelta(minutes=1)
    bedside.clock.forward(minutes=5)
    await bedside.tell("intake", {**weight(bedside.who, 80), "effectiveDateTime": zulu(taken)})
    opens, checks = await look(bedside, dose=56)
    assert (opens, checks["G-WEIGHT"]["verdict"]) == (True, "decided")
    other = await bedside.tell("intake", {**weight(bedside.who, 56), "effectiveDateTime": zulu(taken)})
    opens, checks = await look(bedside, dose=56)
    assert (opens, checks["G-WEIGHT"]["value"]) == (False, "56 kg")
    await bedside.tell("intake", {**other, "status": "entered-in-error"})
    opens, _ = await look(bedside, dose=56)
    assert opens


async def test_a_weight_that_can_hardly_be_doses_nobody_until_it_is_corrected(bedside):
    slip = await bedside.tell("intake", {**weight(bedside.who, 700), "effectiveDateTime": zulu(bedside.clock.now)})
    await bedside.chart()
    with pytest.raises(Unprocessable) as error:
        await bedside.start()
    assert rules_of(error) == {"G-WEIGHT"}
    await bedside.tell("intake", {**slip, "status": "entered-in-error"})
    await bedside.start()


async def test_a_nasal_spray_of_ketamine_is_taken_under_the_eyes_of_staff(bench, clock):
    bedside = Bedside(await bench.open(sessions_service), clock)
    await bedside.begin(codes.ROUTE_NASAL, 70)
    await bedside.chart()
    for witness in ({}, {"witness": about(bedside.who)["reference"]}):
        with pytest.raises(Unprocessable) as error:
            await bedside.start(**witness)
        assert rules_of(error) == {"G-WITNESS"}
    await bedside.start(witness="Practitioner/nurse")


async def test_the_last_day_of_a_product_ends_with_the_day_of_the_place(bedside):
    bedside.clock.forward(days=1, hours=15 - 9 + 12)
    west = [{"url": codes.EXT_TIMEZONE, "valueCode": "America/Los_Angeles"}]
    await bedside.tell("intake", {"resourceType": "Location", "id": "room", "extension": west})
    await bedside.ask()
    await bedside.chart()
    assert bedside.clock.now.date().isoformat() == "2026-11-24"
    with pytest.raises(Unprocessable) as error:
        await bedside.start(lot="L7", expires="2026-11-22")
    assert rules_of(error) == {"G-LOT"}
    await bedside.start(lot="L7", expires="2026-11-23")


async def test_a_dose_of_which_only_the_day_is_said_begins_now_and_is_stayed_for_from_its_latest_moment(bedside):
    await bedside.chart(190, 118)
    dose = {key: value for key, value in bedside.dose().items() if key != "effectivePeriod"}
    dose["effectiveDateTime"] = zulu(bedside.clock.now)[:10]
    with pytest.raises(Unprocessable) as error:
        await bedside.sessions.create(dose)
    assert "G-BP-STOP" in rules_of(error)
    bedside.clock.forward(minutes=10)
    await bedside.chart()
    await bedside.sessions.create({**dose, "status": "completed"})
    bedside.clock.forward(minutes=20)
    home = {"coding": [{"system": DISPOSITION, "code": "home"}]}
    period = {**bedside.visit["period"], "end": zulu(bedside.clock.now)}
    left = {"status": "finished", "period": period, "hospitalization": {"dischargeDisposition": home}}
    with pytest.raises(Unprocessable) as error:
        await bedside.sessions.update({**bedside.visit, **left})
    assert "L-STAY" in rules_of(error)
