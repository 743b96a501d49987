"""The order of a prescriber: for whom, by whom, how much, and for home."""

from __future__ import annotations

import pytest

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.kap import stage_of
from shared.fhir.outcome import Unprocessable
from tests.integration.services.at_intake import (
    SUBLINGUAL,
    condition,
    proceeding,
    rules_of,
    taking,
    the_course,
)
from tests.integration.services.course import (
    about,
    care_plan,
    consent,
    eligible,
    order,
    patient,
    planned,
    practitioner,
    role_of,
    screening,
    site,
    weight,
)


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"requester": {"reference": "Patient/x"}}, "RX-PRESCRIBER"),
        ({"dosageInstruction": [{"text": "some"}]}, "RX-ROUTE"),
    ],
)
async def test_an_order_without_prescriber_or_route_is_refused(intake, clock, change, rule):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who, **change))
    assert rules_of(error) == {rule}


async def test_a_dose_outside_the_range_for_weight_and_route_is_refused_by_name(intake, clock):
    who = await eligible(intake, clock)
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who))
    assert rules_of(error) == {"RX-WEIGHT"}
    await intake.create(weight(who, 70))
    with pytest.raises(Unprocessable, match="mg/kg") as error:
        await intake.create(order(who, 200))
    assert rules_of(error) == {"RX-DOSE", "RX-TITRATION"}
    await intake.create(order(who, 70))
    await intake.create(order(who, 200, status="draft"))
    await intake.create(order(who, 200, status="completed"))


async def test_another_drug_is_not_judged(intake, clock):
    who = await eligible(intake, clock)
    other = codes.Code(codes.RXNORM, "26225", "ondansetron").concept()
    await intake.create({**order(who, 4000), "medicationCodeableConcept": other, "requester": {"display": "?"}})


async def test_a_weight_in_pounds_bounds_the_dose(intake, clock):
    who = await eligible(intake, clock)
    pounds = {"value": 150, "unit": "lb", "system": codes.UCUM, "code": "[lb_av]"}
    await intake.create({**weight(who), "valueQuantity": pounds})
    with pytest.raises(Unprocessable, match="mg/kg") as error:
        await intake.create(order(who, 150))  # 2.2 mg/kg of 68 kg
    assert "RX-DOSE" in rules_of(error)
    await intake.create(order(who, 68))


async def test_an_order_from_elsewhere_is_kept_as_history_and_carries_no_course(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(consent(who))
    await intake.create(care_plan(who))
    theirs = await intake.create({**order(who, 5000), "meta": {"source": "urn:hospital"}})
    assert stage_of(await the_course(intake, who)) == "consented"
    with pytest.raises(Unprocessable):
        await intake.update({key: value for key, value in theirs.items() if key != "meta"})


async def test_nothing_is_ordered_for_somebody_who_was_never_screened(intake):
    who = await intake.create(patient())
    await intake.create(weight(who))
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who))
    assert rules_of(error) == {"RX-SCREEN"}


async def test_an_order_is_judged_by_its_own_drug_and_route_with_evidence_and_source(intake):
    who = await intake.create(patient())
    found = await intake.create(condition(who, "67362008"))
    await intake.create(screening(who))
    await intake.create(weight(who))
    await intake.call("screen", who, *SUBLINGUAL)
    (issue,) = await intake.search("DetectedIssue", patient=who["id"])
    await intake.update({**issue, "mitigation": [proceeding(await intake.prescriber())]})
    await intake.create(order(who, 100, codes.ROUTE_SUBLINGUAL))
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who, 35, codes.ROUTE_IV))
    (issue,) = error.value.issues
    assert issue.rule == "E01"
    assert f"Condition/{found['id']}" in issue.diagnostics
    assert "two prescribers" in issue.diagnostics
    assert "label" in issue.source


async def test_an_order_beside_theophylline_is_refused_and_stopping_one_is_not(intake, clock):
    who, _, ordered = await planned(intake, clock)
    await intake.create(taking(who, "10438"))
    with pytest.raises(Unprocessable) as error:
        await intake.create(order(who))
    assert rules_of(error) == {"I-THEOPHYLLINE"}
    await intake.update({**ordered, "status": "stopped"})


def for_home(who, number, quantity=6, **more):
    return order(
        who,
        100,
        codes.ROUTE_SUBLINGUAL,
        category=[codes.MEDICATION_COMMUNITY.concept()],
        identifier=[{"system": codes.ID_PRESCRIPTION, "value": number}],
        dispenseRequest={
            "quantity": {"value": quantity, "unit": "lozenge"},
            "expectedSupplyDuration": {"value": 28, "unit": "d", "system": codes.UCUM, "code": "d"},
        },
        **more,
    )


def asked_of_the_programme(who, on="2026-11-20T09:00:00Z"):
    return {
        "resourceType": "Observation",
        "status": "final",
        "code": codes.PDMP_QUERY.concept(),
        "subject": about(who),
        "effectiveDateTime": on,
        "valueString": "Nothing unexpected",
    }


async def registered(intake):
    """Return who may order for home, and where: `requester` and `performer` of an order."""
    dea = [{"system": codes.DEA, "value": "AB1234563"}]
    prescriber = await intake.create(practitioner(identifier=dea))
    await intake.create(role_of(prescriber))
    where = await intake.create({"resourceType": "Organization", "name": "Clinic", "identifier": dea})
    return {"requester": about(prescriber), "performer": about(where)}


async def test_an_order_for_home_needs_what_schedule_iii_asks_for(intake, clock):
    who = await eligible(intake, clock)
    home = for_home(who, "RX-77", **await registered(intake))
    with pytest.raises(Unprocessable) as error:
        await intake.create({**home, "requester": {"reference": "Practitioner/unknown"}})
    assert rules_of(error) == {"RX-PDMP", "RX-DEA", "RX-PRESCRIBER"}
    await intake.create(asked_of_the_programme(who))
    await intake.create(home)


async def test_one_prescription_is_of_one_order_whoever_it_is_for(intake, clock):
    number, by = r"RX-77,\1|RX-78", await registered(intake)
    ada, bo = await eligible(intake, clock), await eligible(intake, clock)
    for who in (ada, bo):
        await intake.create(asked_of_the_programme(who))
    first = await intake.create(for_home(ada, number, 1, **by))
    await intake.update({**first, "note": [{"text": "The order that has the number is not in its own way."}]})
    for who, of in ((ada, first), (bo, bo)):
        with pytest.raises(Unprocessable, match="number of the prescription is that of") as error:
            await intake.create(for_home(who, number, 1, **by))
        assert rules_of(error) == {"RX-NUMBER"}
        (issue,) = error.value.issues
        assert issue.evidence == (f"{of['resourceType']}/{of['id']}",)
        assert who is ada or first["id"] not in issue.diagnostics
    prepared = await intake.create(for_home(bo, number, 1, **by, status="draft"))
    await intake.create(for_home(bo, "RX-78", 1, **by))
    with pytest.raises(Unprocessable):
        await intake.update({**prepared, "status": "active"})
    wrong = await intake.search("MedicationRequest", patient=ada["id"])
    await intake.update({**wrong[0], "status": "entered-in-error"})
    await intake.update({**prepared, "status": "active"})


async def test_orders_for_home_are_together_no_more_than_one_may_be(intake, clock):
    who, by = await eligible(intake, clock), await registered(intake)
    await intake.create(asked_of_the_programme(who))
    had = [await intake.create(for_home(who, f"RX-{number}", 6, **by)) for number in (1, 2)]
    clock.forward(days=2)
    again = for_home(who, "RX-3", 1, **by, authoredOn=zulu(clock.now))
    for on in (again["authoredOn"], "2026-11-20T12:00:00Z", "2027-01-20"):  # today, dated back, dated ahead
        with pytest.raises(Unprocessable, match="12 units were ordered for home in the 30 days before") as error:
            await intake.create({**again, "authoredOn": on})
        assert "RX-LIMIT" in rules_of(error)
    assert {f"MedicationRequest/{one['id']}" for one in had} <= set(error.value.issues[-1].evidence)
    await intake.create({**again, "status": "completed"})
    held = {one["identifier"][0]["value"]: one for one in await intake.search("MedicationRequest", patient=who["id"])}
    await intake.update({**held["RX-1"], "status": "cancelled"})
    await intake.create({**again, "identifier": [{"system": codes.ID_PRESCRIPTION, "value": "RX-4"}]})


@pytest.mark.parametrize(
    ("role", "rules"),
    [
        ({}, set()),
        ({"period": {"start": "2020-01-01", "end": "2026-11-22"}}, set()),
        ({"period": {"start": "2020-01-01", "end": "2026-11-21"}}, {"RX-PRESCRIBER"}),
        ({"period": {"start": "2020-01-01", "end": "2026-11-20"}}, {"RX-PRESCRIBER"}),
        ({"period": {"start": "2026-11-22"}}, {"RX-PRESCRIBER"}),
        ({"active": False}, {"RX-PRESCRIBER"}),
        ({"code": "therapist"}, {"RX-PRESCRIBER"}),
    ],
)
@pytest.mark.parametrize("as_role", [True, False])
async def test_who_orders_has_a_role_in_force_on_the_day_of_the_order_and_now(intake, clock, role, rules, as_role):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    doctor = await intake.create(practitioner())
    had = await intake.create(role_of(doctor, **role))
    ordered = order(who, requester=about(had if as_role else doctor))
    if not rules:
        await intake.create(ordered)
        return
    with pytest.raises(Unprocessable) as error:
        await intake.create(ordered)
    assert rules_of(error) == rules


@pytest.mark.parametrize(
    ("licence", "rules"),
    [
        ({"period": {"start": "2020-01-01", "end": "2026-11-22"}}, set()),
        ({"period": {"start": "2020-01-01", "end": "2026-11-21"}}, {"RX-LICENCE"}),
        ({"period": {"start": "2020-01-01", "end": "2026-11-20"}}, {"RX-LICENCE"}),
        ({"period": {"start": "2026-11-22"}}, {"RX-LICENCE"}),
        ({"period": None}, {"RX-LICENCE"}),
        ({"extension": [{"url": codes.EXT_JURISDICTION, "valueCode": "US-NJ"}]}, {"RX-LICENCE"}),
        ({"extension": None}, {"RX-LICENCE"}),
    ],
)
async def test_who_orders_has_a_licence_then_and_now_and_there(intake, clock, licence, rules):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    held = {**practitioner()["qualification"][0], **licence}
    doctor = await intake.create(practitioner(qualification=[{k: v for k, v in held.items() if v is not None}]))
    where = await intake.create(site())
    await intake.create(role_of(doctor, location=[about(where)]))
    ordered = order(who, requester=about(doctor))
    if not rules:
        await intake.create(ordered)
        return
    with pytest.raises(Unprocessable) as error:
        await intake.create(ordered)
    assert rules_of(error) == rules
    assert all(issue.source and "qualification" in issue.diagnostics for issue in error.value.issues)


@pytest.mark.parametrize(
    ("identifier", "certified"),
    [
        ([{"system": codes.ID_REMS_SITE, "value": "REMS-1"}], True),
        ([{"system": codes.ID_REMS_SITE, "value": "REMS-1", "period": {"end": "2026-11-20"}}], False),
        ([], False),
    ],
)
async def test_esketamine_is_ordered_for_a_certified_setting_only(intake, clock, identifier, certified):
    who = await intake.create(patient())
    await intake.create(condition(who, "R45.851", codes.ICD10CM))
    await intake.create(screening(who))
    await intake.call("screen", who, {"name": "drug", "valueCode": "esketamine"})
    doctor = await intake.create(practitioner())
    where = await intake.create({key: one for key, one in site(identifier=identifier).items() if one})
    await intake.create(role_of(doctor, location=[about(where)]))
    spray = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray").concept()
    ordered = order(who, 56, codes.ROUTE_NASAL, requester=about(doctor), medicationCodeableConcept=spray)
    if certified:
        await intake.create(ordered)
        return
    with pytest.raises(Unprocessable) as error:
        await intake.create(ordered)
    assert rules_of(error) == {"RX-REMS"}


async def test_a_dose_begins_low_and_rises_by_steps_over_what_was_ordered_before(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(weight(who, 100, on="2026-11-15"))
    with pytest.raises(Unprocessable, match="none before") as error:
        await intake.create(order(who, 110))
    assert rules_of(error) == {"RX-TITRATION"}
    first = await intake.create(order(who, 100, authoredOn="2026-11-19"))
    await intake.update({**first, "status": "completed"})
    with pytest.raises(Unprocessable, match=r"highest before is 1\.00") as error:
        await intake.create(order(who, 160))
    assert rules_of(error) == {"RX-TITRATION"}
    await intake.create(order(who, 150))


def in_all(count):
    return {"repeat": {"count": count, "frequency": 1, "period": 7, "periodUnit": "d"}}


async def test_after_so_many_sessions_somebody_looks_whether_more_are_needed(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(weight(who, on="2026-11-15"))

    def series(count, on):
        made = order(who, authoredOn=on)
        made["dosageInstruction"][0]["timing"] = in_all(count)
        return made

    with pytest.raises(Unprocessable, match="7 sessions") as error:
        await intake.create(series(7, "2026-11-21"))
    assert rules_of(error) == {"RX-SERIES"}
    for on in ("2026-11-19", "2026-11-20"):
        await intake.create(series(6, on))
    with pytest.raises(Unprocessable, match="12 sessions") as error:
        await intake.create(order(who))
    assert rules_of(error) == {"RX-SERIES"}
    looked = {
        "resourceType": "Observation",
        "status": "final",
        "code": codes.NEED_REEVALUATED.concept(),
        "subject": about(who),
        "effectiveDateTime": "2026-11-20T12:00:00Z",
        "valueString": "Relief lasts two weeks; go on monthly.",
    }
    await intake.create(looked)
    for by in ([], [about(who)], [{"reference": "Practitioner/nurse"}]):
        if by:
            await intake.create({**looked, "performer": by})
        with pytest.raises(Unprocessable):
            await intake.create(order(who))
    await intake.create({**looked, "performer": [{"reference": await intake.prescriber()}]})
    await intake.create(order(who))


async def test_an_order_of_long_ago_that_comes_into_force_now_is_judged_by_what_is_known_now(intake, clock):
    who, _, _ = await planned(intake, clock)
    clock.forward(days=400)
    await intake.create(screening(who, clock.now))
    await intake.call("screen", who)
    with pytest.raises(Unprocessable) as refused:
        await intake.create(order(who))
    assert rules_of(refused) == {"RX-WEIGHT"}
    await intake.create(weight(who, on=zulu(clock.now)))
    await intake.create(order(who))


async def test_an_order_is_written_by_its_own_prescriber_and_by_no_program_and_others_prepare_a_draft(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    doctor, other = await intake.prescriber(), await intake.prescriber("other")
    for user in (other, "Practitioner/nurse", None):
        with pytest.raises(Unprocessable, match="has to log in") as error:
            await intake.create(order(who), user=user, client="app")
        assert rules_of(error) == {"RX-PRESCRIBER"}
    prepared = await intake.create(order(who, status="draft"), user="Practitioner/nurse", client="app")
    with pytest.raises(Unprocessable):
        await intake.update({**prepared, "status": "active"}, client="a-program")
    ordered = await intake.update({**prepared, "status": "active"}, user=doctor, client="app")
    noted = {**ordered, "note": [{"text": "The patient was told."}]}
    ordered = await intake.update(noted, user="Practitioner/nurse", client="app")
    louder = {**ordered, "dosageInstruction": order(who, 60)["dosageInstruction"]}
    with pytest.raises(Unprocessable, match="has to log in") as error:
        await intake.update(louder, user="Practitioner/nurse", client="app")
    assert rules_of(error) == {"RX-PRESCRIBER"}
    await intake.update({**ordered, "status": "stopped"}, client="a-program")


async def test_an_order_that_is_dated_back_is_no_order_of_who_may_not_order_now(intake, clock):
    who = await eligible(intake, clock)
    await intake.create(weight(who))
    doctor = await intake.create(practitioner())
    where = await intake.create(site())
    role = await intake.create(role_of(doctor, location=[about(where)]))
    clock.forward(days=20)
    await intake.update({**role, "period": {"start": "2020-01-01", "end": "2026-12-01"}})
    written = order(who, requester=about(doctor), authoredOn="2026-11-21")
    with pytest.raises(Unprocessable) as error:
        await intake.create(written)
    assert rules_of(error) == {"RX-PRESCRIBER"}
    await intake.create({**written, "status": "completed"})
