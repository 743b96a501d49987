"""Over intake and scheduling together, with the events carried between them, in any order: what always holds.

No booked dosing session without eligibility, consent, plan and prescription, unless it is flagged; no course makes an
illegal change; and each decision of a screening is the same when it is made again under the policy of its time.
"""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.errors import Flaky
from hypothesis.stateful import initialize, invariant, rule, run_state_machine_as_test

from services.intake.rules.course import STAGE_OF_VISIT, course_after
from services.intake.service import intake as intake_service
from services.scheduling.rules import ground
from services.scheduling.rules.booking import INTENDED
from shared.fhir import codes
from shared.fhir.dates import interval, period_interval, zulu
from shared.fhir.kap import has_code, stages_of, visit_of, with_stage
from shared.runtime.policy import load_policy
from tests.integration.services.at_intake import condition, proceeding, replayed
from tests.integration.services.bedside import Bedside
from tests.integration.services.booking_machine import HOURS, PATIENTS, WHO, Bookings, when_changed
from tests.integration.services.course import (
    Opened,
    about,
    care_plan,
    consent,
    for_sessions,
    order,
    patient,
    planned,
    referral,
    screening,
    weight,
)

RUNNING = ["planned", "preparing", "dosing", "integrating", "follow-up"]
ENDS = ["not-eligible", "finished", "stopped"]
AT_FIRST = ["referred", "screening", "eligible", "consented", "planned"]
"""The stages of a course in their order, as the specification has them."""

FAR = timedelta(days=20)
"""When everybody is free, and what is known is not too old yet."""

PREGNANT, ANEURYSM = "77386006", "67362008"
SPRAY = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray")
ORDERS = {
    "by muscle": ("ketamine", codes.ROUTE_IM, 70, codes.KETAMINE),
    "by vein": ("ketamine", codes.ROUTE_IV, 35, codes.KETAMINE),
    "spray": ("esketamine", codes.ROUTE_NASAL, 56, SPRAY),
}
"""What is ordered, and screened for: drug, route, milligrams, product."""
HOW = st.sampled_from(["by muscle"] * 3 + ["by vein", "spray"])
RULE_OF = {"eligibility": "S-ELIGIBLE", "consent": "S-CONSENT", "plan": "S-PLAN", "prescription": "S-ORDER"}

CONTENT = """
version: "1"
clinic: example
sections:
  eligibility:
    answers_age: {days: 30}
    rules: {E08: {severity: I}}
"""
"""A policy of the clinic's own, which would decide otherwise."""


def may_follow(stage, later):
    """Tell whether a stage may follow another at once: a course goes on, goes between its visits, or ends."""
    if stage in ENDS:
        return False
    if later == "stopped":
        return True
    if later == "not-eligible":
        return stage in ("referred", "screening")
    if stage in RUNNING:
        return later in RUNNING or later == "finished"
    return later in AT_FIRST and AT_FIRST.index(later) > AT_FIRST.index(stage)


def status_of(stages):
    """Return the statuses that a course of these stages may have."""
    dosed = bool({"dosing", "integrating", "follow-up"}.intersection(stages))
    if stages[-1] in ENDS:
        return {"finished" if dosed else "cancelled"}
    return {"onhold", "active" if stages[-1] in RUNNING else "planned"}


class BothServices(Bookings):
    """Intake and scheduling, each on its own database."""

    policy_of_the_clinic = None
    policy_of_today = None
    answered = set()  # noqa: RUF012 - of the whole campaign: what doses that were asked for lacked, or "granted"
    decided = set()  # noqa: RUF012 - of the whole campaign: decisions that were made again
    moved = set()  # noqa: RUF012 - of the whole campaign: changes of stage

    def __init__(self):
        super().__init__()
        self.intake = self.run(self.bench.open(intake_service))
        self.people = {}
        self.orders = {}
        self.stages = {}
        self.asked = 0

    def who(self, name):
        return self.people[name]

    def order_of(self, name):
        return self.orders.get(name, {"resourceType": "MedicationRequest", "id": "none"})

    def carry(self, *, again=False):
        if self.run(self.bench.deliver(self.intake, self.scheduling, again=again)):
            self.wrote()

    @initialize(after=HOURS)
    def one_is_ready_and_booked_and_one_waits_for_a_decision(self, after):
        self.people["ada"], _, self.orders["ada"] = self.run(planned(self.intake, self.clock, sessions=6))
        self.people["bo"] = self.run(self.intake.create(patient(identifier=[{"system": "urn:clinic", "value": "2"}])))
        self.is_referred("bo", there=True)
        self.answers("bo", {"E08": True})
        self.screens("bo")
        self.a_visit_begins("bo", "kap-dosing")  # too early: it happened, and carries no course on
        self.carry()
        self.open_the_clinic()
        self.run(self.scheduling.create(self.wanted("ada", after, "booked")))

    # What happens at intake

    def held(self, type_, name):
        return self.run(self.intake.search(type_, patient=f"Patient/{self.people[name]['id']}"))

    def say(self, resource):
        return self.attempt(self.intake.update(resource) if "id" in resource else self.intake.create(resource))

    def say_of_all(self, type_, name, status):
        for one in self.held(type_, name):
            if not has_code(one.get("code"), codes.ELIGIBILITY):
                self.say({**one, "status": status})

    @rule(name=WHO, ill=st.sampled_from([{}, {}, {"E12": True}, {"E08": True}, {"E01": None}]))
    def answers(self, name, ill):
        self.wrote()
        self.clock.forward(minutes=1)
        self.say(screening(self.who(name), self.clock.now, **ill))

    @rule(name=WHO, how=st.sampled_from([None] * 3 + list(ORDERS)))
    def screens(self, name, how=None):
        drug, route = ORDERS[how][:2] if how else (None, None)
        asked = [] if how is None else [("drug", drug), ("route", route.code)]
        said = [{"name": key, "valueCode": value} for key, value in asked]
        self.wrote()
        self.clock.forward(minutes=1)
        self.attempt(self.intake.call("screen", self.who(name), *said))

    @rule(name=WHO)
    def an_assessment_is_taken_back(self, name):
        for one in self.held("RiskAssessment", name)[-1:]:
            self.say({**one, "status": "entered-in-error"})

    @rule(name=WHO, code=st.sampled_from(["67362008", "77386006", "999999999"]))
    def falls_ill(self, name, code):
        self.say(condition(self.who(name), code))

    @rule(name=WHO)
    def is_well_again(self, name):
        for one in self.held("Condition", name):
            self.attempt(self.intake.delete(one))

    @rule(name=WHO, born=st.sampled_from(["1980-02-03", "2015-01-01"]))
    def is_of_age(self, name, born):
        self.say({**self.run(self.intake.get("Patient", self.who(name)["id"])), "birthDate": born})

    @rule(name=WHO)
    def a_prescriber_decides(self, name):
        by = self.run(self.intake.prescriber())
        for one in self.held("DetectedIssue", name):
            self.say({**one, "mitigation": [proceeding(by)]})

    @rule(name=WHO, there=st.booleans())
    def is_referred(self, name, there):
        if there:
            self.say(referral(self.who(name)))
        else:
            self.say_of_all("ServiceRequest", name, "revoked")

    @rule(name=WHO, how=HOW, says=st.sampled_from(["permit", "permit", "deny", "inactive", "entered-in-error"]))
    def consents(self, name, how="by muscle", says="permit"):
        if says not in ("permit", "deny"):
            self.say_of_all("Consent", name, says)
            return
        self.wrote()
        self.clock.forward(minutes=1)
        denied = {"provision": {"type": "deny"}} if says == "deny" else {}
        self.say(consent(self.who(name), ORDERS[how][1], dateTime=zulu(self.clock.now), **denied))

    @rule(name=WHO, there=st.booleans())
    def is_planned(self, name, there):
        if there:
            self.say(care_plan(self.who(name)))
        else:
            self.say_of_all("CarePlan", name, "revoked")

    @rule(name=WHO, how=HOW, there=st.booleans())
    def is_ordered(self, name, there, how="by muscle"):
        if not there:
            self.say_of_all("MedicationRequest", name, "stopped")
            return
        self.say(weight(self.who(name)))
        _, route, milligrams, product = ORDERS[how]
        made = for_sessions(order(self.who(name), milligrams, route, medicationCodeableConcept=product.concept()), 6)
        self.orders[name] = self.say(made) or self.order_of(name)

    @rule(name=WHO, how=HOW)
    def gets_all(self, name, how):
        self.is_well_again(name)
        self.is_of_age(name, "1980-02-03")
        self.answers(name, {})
        self.is_referred(name, there=True)
        self.screens(name)
        self.consents(name, how)
        self.a_person_says(name, "active", None)
        self.is_planned(name, there=True)
        self.is_ordered(name, there=True, how=how)
        self.carry()

    @rule(
        name=WHO,
        status=st.sampled_from(["onhold", "active", "planned", "finished", "cancelled", "entered-in-error"]),
        stage=st.sampled_from([None, *AT_FIRST, *RUNNING, *ENDS]),
    )
    def a_person_says(self, name, status, stage):
        for one in self.held("EpisodeOfCare", name):
            moved = one if stage is None else with_stage(one, stage, self.clock.now, "Said so")
            self.say({**moved, "status": status})

    @rule(name=WHO, visit=st.sampled_from(["kap-prep", "kap-dosing", "kap-integration", "kap-followup"]))
    def a_visit_begins(self, name, visit):
        began = {
            "resourceType": "Encounter",
            "status": "in-progress",
            "class": codes.Code(codes.ACT_CODE, "AMB").coding(),
            "type": [codes.VISITS[visit][0].concept()],
            "subject": about(self.who(name)),
            "period": {"start": zulu(self.clock.now)},
        }
        self.wrote()
        self.run(Bedside(self.intake, self.clock).tell("sessions", began))

    # What events do

    @rule()
    def events_come(self):
        self.carry()

    @rule()
    def events_come_again(self):
        self.carry(again=True)

    # What holds

    @invariant()
    @when_changed
    def no_dose_is_booked_without_its_ground(self):
        if self.people:
            self.carry()
            self.run(self._stands())

    async def _stands(self):
        """Look at intake's own record, by other means than the services do."""
        for one in await self.scheduling.search("Appointment", status=",".join(INTENDED)):
            if visit_of(one) != "kap-dosing":
                continue
            flags = await self.scheduling.search("Flag", identifier=f"{codes.ID_FLAG}|ground:{one['id']}")
            lacking = [] if [flag["status"] for flag in flags] == ["active"] else [x async for x in self._lacks(one)]
            assert not lacking, (one["id"], lacking)

    @invariant()
    @when_changed
    def a_dose_is_refused_by_all_that_it_lacks(self):
        if self.people:
            self.carry()
            for name in PATIENTS:
                self.run(self._asked_for(name))

    async def _asked_for(self, name):
        """Ask for a dose, whoever it is for; what is granted is not kept."""
        wanted = self.wanted(name, FAR, "booked")
        lacking = {RULE_OF[one] async for one in self._lacks(wanted)}
        rules = await self.tried(wanted)
        assert lacking <= (rules or set()), (name, "lacks", lacking, "was refused by", rules)
        self.answered.update(lacking or ({"granted"} if rules is None else ()))

    async def _lacks(self, booked):
        actors = [each["actor"]["reference"] for each in booked["participant"]]
        about_ = {"patient": next(each for each in actors if each.startswith("Patient/"))}
        start = interval(booked["start"])[0]
        judged = await self.intake.search("RiskAssessment", **about_)
        newest = [each for each in judged if each["status"] != "entered-in-error"][-1:]
        found = [each["prediction"][0]["outcome"]["coding"][0]["code"] for each in newest]
        ill = {each["code"]["coding"][0]["code"] for each in await self.intake.search("Condition", **about_)}
        named = {each["reference"] for each in booked.get("supportingInformation", [])}
        orders = await self.intake.search("MedicationRequest", **about_)
        ordered = [how_of(each) for each in orders if f"MedicationRequest/{each['id']}" in named]
        never = {PREGNANT} | ({ANEURYSM} if "spray" in ordered else set())
        other = any(each not in screened_for_what(newest) for each in ordered)
        if found != ["eligible"] or never & ill or other:  # whatever was decided: past that nobody may
            yield "eligibility"
        consents = [each for each in await self.intake.search("Consent", **about_) if each["status"] == "active"]
        permitted = [how for how in ORDERS if last_word_permits(consents, ORDERS[how][1].code, start)]
        if not permitted or any(each not in permitted for each in ordered):  # by any route, where none is ordered
            yield "consent"
        plans = await self.intake.search("CarePlan", **about_)
        if not any(each["status"] == "active" for each in plans):
            yield "plan"
        if not any(each["status"] == "active" and f"MedicationRequest/{each['id']}" in named for each in orders):
            yield "prescription"

    @invariant()
    @when_changed
    def no_person_makes_an_illegal_change_of_a_course(self):
        for one in self.run(self.intake.search("EpisodeOfCare")):
            stage = stages_of(one)[-1]
            illegal = [each for each in (*AT_FIRST, *RUNNING, *ENDS) if each != stage and not may_follow(stage, each)]
            self.asked += 1
            later = illegal[self.asked % len(illegal)]
            status = "finished" if later == "finished" else "planned" if later in AT_FIRST else "active"
            made = self.say({**with_stage(one, later, self.clock.now, "Said so"), "status": status})
            assert made is None, (stage, later)

    @invariant()
    @when_changed
    def every_change_of_a_course_is_legal(self):
        for one in self.run(self.intake.search("EpisodeOfCare")):
            if one["status"] == "entered-in-error":
                continue
            stages, before = stages_of(one), self.stages.get(one["id"], [])
            assert stages[: len(before)] == before, "what a course has been through stays"
            assert stages[0] in AT_FIRST
            for stage, later in pairwise(stages):
                assert may_follow(stage, later), stages
                self.moved.add((stage, later))
            assert one["status"] in status_of(stages), (stages, one["status"])
            self.stages[one["id"]] = stages

    def teardown(self):
        try:
            if self.people:
                self.run(self._again())
        finally:
            super().teardown()

    async def _again(self):
        """Make every decision again, under a policy of today that would decide otherwise."""
        today = Opened(intake_service(self.policy_of_today, self.clock), self.intake.store)
        for one in await self.intake.search("RiskAssessment"):
            again = await replayed(today, one)
            outcome = one["prediction"][0]["outcome"]["coding"][0]["code"]
            assert (again["same"], again["outcome"]) == (True, outcome), again
            self.decided.add((one["id"], outcome))


def how_of(ordered):
    """Return which of `ORDERS` an order is."""
    (coding,) = ordered["dosageInstruction"][0]["route"]["coding"]
    return next(how for how, (_, route, _, _) in ORDERS.items() if route.code == coding["code"])


def screened_for_what(assessments):
    """Return what of `ORDERS` the newest assessment was made for: for any, where it says nothing."""
    if not assessments:
        return set()
    told = [each["extension"] for each in assessments[-1]["extension"] if each["url"] == codes.EXT_SCREENED_FOR]
    said = {part["valueCode"] for parts in told for part in parts}
    return {how for how, (drug, route, _, _) in ORDERS.items() if said <= {drug, route.code}}


def last_word_permits(consents, route, when):
    """Tell whether the last consent that names a route permits it at a time; each was signed at another minute."""
    naming = [each for each in consents if any(one["code"] == route for x in each["category"] for one in x["coding"])]
    last = max(naming, key=lambda each: interval(each["dateTime"])[0], default=None)
    period = None if last is None else period_interval(last.get("provision", {}).get("period", {}))
    permits = last is not None and last.get("provision", {}).get("type", "permit") == "permit"
    return permits and (period is None or period[0] <= when < period[1])


def run(make_database, folder, examples, steps, **more):
    """Try so many sequences of so many steps."""
    BothServices.make_database = staticmethod(make_database)
    BothServices.policy_of_the_clinic = folder / "own.yaml"
    BothServices.policy_of_the_clinic.write_text(CONTENT, encoding="utf-8")
    BothServices.policy_of_today = load_policy(BothServices.policy_of_the_clinic)
    for noted in (BothServices.seen, BothServices.decided, BothServices.moved, BothServices.answered):
        noted.clear()
    run_state_machine_as_test(
        BothServices,
        settings=settings(
            max_examples=examples,
            stateful_step_count=steps,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            **more,
        ),
    )


def campaign(make_database, folder, examples, steps):
    run(make_database, folder, examples, steps)
    assert len(BothServices.seen) >= examples, "the campaign has to book something to say anything"
    assert len(BothServices.decided) >= examples
    assert BothServices.moved
    assert BothServices.answered == {"granted", *RULE_OF.values()}


@pytest.mark.timeout(600)
def test_no_sequence_over_both_services_books_a_dose_without_its_ground_or_makes_an_illegal_change(
    make_database, tmp_path
):
    assert set(PATIENTS) == {"ada", "bo"}
    campaign(make_database, tmp_path, 5, 15)


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_no_long_sequence_over_both_services_books_a_dose_without_its_ground(make_database, tmp_path):
    campaign(make_database, tmp_path, 20, 40)


# Planted faults: each makes one promise untrue, and the machine has to find it


def _no_prerequisite_refuses_a_booking(plant):
    plant.setattr("services.scheduling.guards.unmet", lambda *_: [])


def _ignored(prerequisite):
    def plant_it(plant):
        plant.setitem(ground._ANSWERS, prerequisite, lambda *_: (True, "", "", ()))

    plant_it.__name__ = f"{prerequisite}_is_ignored"
    return plant_it


def _a_loss_of_ground_is_not_flagged(plant):
    plant.setattr("services.scheduling.reactions.lost", lambda *_: [])


def _nothing_is_held_by_the_database(plant):
    async def book(*_):
        return []

    plant.setattr("services.scheduling.booking.book", book)


def _a_person_may_make_any_change_of_stage(plant):
    plant.setattr("services.intake.stages.may_move", lambda *_: True)


def _a_visit_moves_a_course_from_any_stage(plant):
    plant.setattr("services.intake.reactions.stage_after_visit", lambda stage, visit: STAGE_OF_VISIT.get(visit, stage))


def _a_course_goes_back(plant):
    def back(stage, status, ground):
        return ("consented", "planned") if stage == "planned" else course_after(stage, status, ground)

    plant.setattr("services.intake.course.course_after", back)


def _a_decision_is_replayed_under_the_policy_of_today(plant):
    plant.setattr("services.intake.replay.Policy.of_content", lambda _: load_policy(BothServices.policy_of_the_clinic))


FIRST_FAULT = {"phases": [Phase.generate], "derandomize": True, "database": None, "report_multiple_bugs": False}


@pytest.mark.parametrize(
    "plant",
    [
        _no_prerequisite_refuses_a_booking,
        *(_ignored(one) for one in ("eligible", "consent", "plan", "order")),
        _a_loss_of_ground_is_not_flagged,
        _nothing_is_held_by_the_database,
        _a_person_may_make_any_change_of_stage,
        _a_visit_moves_a_course_from_any_stage,
        _a_course_goes_back,
        _a_decision_is_replayed_under_the_policy_of_today,
    ],
    ids=lambda plant: plant.__name__.strip("_"),
)
@pytest.mark.timeout(900)
def test_each_planted_fault_is_found(plant, make_database, tmp_path, monkeypatch):
    plant(monkeypatch)
    with pytest.raises((AssertionError, Flaky)):  # most within 30; what is drawn depends on the code beside
        run(make_database, tmp_path, 200, 15, **FIRST_FAULT)
