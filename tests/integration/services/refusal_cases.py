"""Every refusal by rule of intake and scheduling: how it comes about, and by which evidence; one case a refusal.

A case makes what is on record, and returns the call that is refused and its evidence: the references that the refusal
names, or, where nothing but what was sent is its ground, words of that (`Sent`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from datetime import timedelta
from itertools import count
from typing import Any, NamedTuple

from shared.fhir import codes
from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.kap import with_stage
from tests.integration.services.at_intake import condition, proceeding, the_course
from tests.integration.services.at_scheduling import code, ref, schedule, span, time
from tests.integration.services.course import (
    START,
    Bench,
    Clock,
    Opened,
    about,
    appointment,
    care_plan,
    consent,
    consent_elements,
    eligible,
    milligrams,
    order,
    patient,
    planned,
    practitioner,
    referral,
    role_of,
    screening,
    site,
    weight,
)
from tests.integration.services.test_scheduling_groups import asked, session

_NUMBERS = count(1)


class Sent(NamedTuple):
    """Words of what was sent, which the refusal says again: it has no other evidence."""

    words: str


Refused = tuple[Callable[[], Coroutine[Any, Any, object]], "list[str] | Sent"]


@dataclass(frozen=True, slots=True)
class At:
    """Both services, and their clock."""

    bench: Bench
    clock: Clock
    intake: Opened
    scheduling: Opened

    async def ready(self) -> tuple[Resource, Resource, Resource]:
        """Return somebody whose dose may be booked, his consent and his order; known to scheduling."""
        found = await planned(self.intake, self.clock)
        await self.bench.deliver(self.intake, self.scheduling)
        return found

    async def newest(self, who: Resource) -> str:
        """Return the reference of the newest eligibility decision."""
        found = await self.intake.search("RiskAssessment", patient=f"Patient/{who['id']}")
        return f"RiskAssessment/{found[-1]['id']}"


@dataclass(frozen=True, slots=True)
class Case:
    """A case: the rule that refuses."""

    rule: str
    run: Callable[[At], Awaitable[Refused]]


CASES: dict[str, Case] = {}


def case(rule: str) -> Callable[[Callable[[At], Awaitable[Refused]]], Callable[[At], Awaitable[Refused]]]:
    """Enter a case in the table."""

    def enter(run: Callable[[At], Awaitable[Refused]]) -> Callable[[At], Awaitable[Refused]]:
        CASES[run.__name__] = Case(rule, run)
        return run

    return enter


def named(of: Resource) -> str:
    """Return the reference of a resource."""
    return f"{of['resourceType']}/{of['id']}"


def without(resource: Resource, *names: str) -> Resource:
    """Return a resource without some of its elements."""
    return {name: value for name, value in resource.items() if name not in names}


# -- intake: who may be treated ---------------------------------------------------------------------------------------


@case("E-SCREEN")
async def an_eligibility_that_is_posted(at: At) -> Refused:
    who = await eligible(at.intake, at.clock)
    (held,) = await at.intake.search("RiskAssessment", patient=named(who))
    return lambda: at.intake.create(without(held, "id", "meta")), Sent("cannot be posted")


async def found_in(at: At, **answers: bool) -> Resource:
    who = await at.intake.create(patient())
    await at.intake.create(screening(who, at.clock.now, **answers))
    await at.intake.call("screen", who)
    (issue,) = await at.intake.search("DetectedIssue", patient=who["id"])
    return issue


@case("E-OVERRIDE")
async def a_decision_without_its_reason(at: At) -> Refused:
    issue = await found_in(at, E08=True)
    decided = proceeding(await at.intake.prescriber(), " ")
    return lambda: at.intake.update({**issue, "mitigation": [decided]}), Sent("mitigation.action.text")


@case("E-OVERRIDE")
async def a_decision_past_what_is_absolute(at: At) -> Refused:
    issue = await found_in(at, E12=True)
    decided = proceeding(await at.intake.prescriber())
    seen = [one["reference"] for one in issue["implicated"]]
    return lambda: at.intake.update({**issue, "mitigation": [decided]}), seen


@case("E-OVERRIDE")
async def a_decision_of_somebody_who_is_not_in_the_directory(at: At) -> Refused:
    issue = await found_in(at, E08=True)
    decided = proceeding("Practitioner/nobody")
    return lambda: at.intake.update({**issue, "mitigation": [decided]}), ["Practitioner/nobody"]


@case("E-OVERRIDE")
async def a_decision_of_a_prescriber_without_a_role_then(at: At) -> Refused:
    issue = await found_in(at, E08=True)
    doctor = await at.intake.create(practitioner())
    role = await at.intake.create(role_of(doctor, period={"start": "2020-01-01", "end": "2026-11-20"}))
    decided = proceeding(named(doctor))
    return lambda: at.intake.update({**issue, "mitigation": [decided]}), [named(role)]


@case("E-OVERRIDE")
async def a_decision_of_a_prescriber_without_a_licence_then(at: At) -> Refused:
    issue = await found_in(at, E08=True)
    ended = {"code": {"text": "MD"}, "period": {"start": "2020-01-01", "end": "2026-11-20"}}
    doctor = await at.intake.create(practitioner(qualification=[ended]))
    await at.intake.create(role_of(doctor))
    decided = proceeding(named(doctor))
    return lambda: at.intake.update({**issue, "mitigation": [decided]}), [named(doctor)]


@case("E-OVERRIDE")
async def a_decision_that_another_writes_for_its_prescriber(at: At) -> Refused:
    issue = await found_in(at, E08=True)
    by = await at.intake.prescriber()
    decided = {**issue, "mitigation": [proceeding(by)]}
    return lambda: at.intake.update(decided, user="Practitioner/nurse"), [by]


@case("E-OVERRIDE")
async def a_decision_that_a_program_writes(at: At) -> Refused:
    issue = await found_in(at, E08=True)
    by = await at.intake.prescriber()
    decided = {**issue, "mitigation": [proceeding(by)]}
    return lambda: at.intake.update(decided, client="a-program"), [by]


@case("RX-PRESCRIBER")
async def an_order_that_another_writes_for_its_prescriber(at: At) -> Refused:
    who = await eligible(at.intake, at.clock)
    await at.intake.create(weight(who))
    by = await at.intake.prescriber()
    return lambda: at.intake.create(order(who), user="Practitioner/nurse", client="app"), [by]


@case("E-REPLAY")
async def a_decision_that_was_none(at: At) -> Refused:
    who = await at.intake.create(patient())
    held = await at.intake.create({"resourceType": "RiskAssessment", "status": "final", "subject": about(who)})
    return lambda: at.intake.call("replay", held), [named(held)]


@case("D-NUMBER")
async def an_npi_with_a_wrong_check_digit(at: At) -> Refused:
    wrong = practitioner(identifier=[{"system": codes.NPI, "value": "1234567890"}])
    return lambda: at.intake.create(wrong), Sent("1234567890")


# -- intake: two records of one person --------------------------------------------------------------------------------


def join(at: At, source: Resource, target: Resource, name: str = "merge") -> Coroutine[Any, Any, object]:
    given = (ref("source-patient", named(source)), ref("target-patient", named(target)))
    return at.intake.ask(name, "Patient", *given)


@case("M-SAME")
async def a_record_that_replaces_itself(at: At) -> Refused:
    who = await at.intake.create(patient())
    return lambda: join(at, who, who), [named(who)]


@case("M-JOINED")
async def a_record_that_was_replaced_already(at: At) -> Refused:
    one, other, third = [await at.intake.create(patient()) for _ in range(3)]
    await join(at, one, other)
    return lambda: join(at, one, third), [named(one)]


@case("M-JOINED")
async def two_that_were_not_joined_are_parted(at: At) -> Refused:
    one, other = await at.intake.create(patient()), await at.intake.create(patient())
    return lambda: join(at, one, other, "unmerge"), [named(one), named(other)]


@case("M-ALIKE")
async def two_who_are_not_alike(at: At) -> Refused:
    one = await at.intake.create(patient())
    other = await at.intake.create({"resourceType": "Patient", "name": [{"family": "Doe"}], "birthDate": "1950-01-01"})
    return lambda: join(at, one, other), [named(one), named(other)]


@case("M-COURSE")
async def a_record_with_a_course(at: At) -> Refused:
    who = await eligible(at.intake, at.clock)
    other = await at.intake.create(patient())
    course = await the_course(at.intake, who)
    return lambda: join(at, who, other), [named(course)]


@case("M-ORDER")
async def a_record_with_an_order(at: At) -> Refused:
    who, _, ordered = await planned(at.intake, at.clock)
    other = await at.intake.create(patient())
    return lambda: join(at, who, other), [named(ordered)]


@case("M-VISIT")
async def a_record_with_a_visit_of_late(at: At) -> Refused:
    who, other = await at.intake.create(patient()), await at.intake.create(patient())
    visit = await at.intake.create(
        {
            "resourceType": "Encounter",
            "status": "finished",
            "class": codes.Code(codes.ACT_CODE, "AMB").coding(),
            "subject": about(who),
            "period": {"start": zulu(at.clock.now - timedelta(days=1)), "end": zulu(at.clock.now)},
        }
    )
    return lambda: join(at, who, other), [named(visit)]


@case("M-HELD")
async def a_referral_of_somebody_who_is_held_already(at: At) -> Refused:
    person = patient(identifier=[{"system": "urn:clinic", "value": "held"}])
    held, again = await at.intake.create(person), await at.intake.create(person)
    return lambda: at.intake.create(referral(again)), [named(held)]


@case("M-LINK")
async def a_link_that_is_made_by_hand(at: At) -> Refused:
    one, other = await at.intake.create(patient()), await at.intake.create(patient())
    linked = {**one, "link": [{"other": about(other), "type": "replaced-by"}]}
    return lambda: at.intake.update(linked), [named(other)]


# -- intake: the course -----------------------------------------------------------------------------------------------


@case("K-COURSE")
async def a_course_that_is_posted(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = {
        "resourceType": "EpisodeOfCare",
        "status": "planned",
        "type": [codes.COURSE.concept()],
        "patient": about(who),
    }
    return lambda: at.intake.create(made), Sent("opened by a referral")


async def course_of(at: At) -> tuple[Resource, Resource]:
    who = await eligible(at.intake, at.clock)
    return who, await the_course(at.intake, who)


@case("K-STAGE")
async def a_course_that_is_moved_by_hand(at: At) -> Refused:
    _, held = await course_of(at)
    return lambda: at.intake.update(with_stage(held, "dosing", at.clock.now)), [named(held)]


@case("K-REASON")
async def a_course_that_is_stopped_without_a_reason(at: At) -> Refused:
    _, held = await course_of(at)
    stopped = {**with_stage(held, "stopped", at.clock.now), "status": "cancelled"}
    return lambda: at.intake.update(stopped), [named(held)]


@case("K-STATUS")
async def a_course_whose_status_is_not_its_stages(at: At) -> Refused:
    _, held = await course_of(at)
    stopped = {**with_stage(held, "stopped", at.clock.now, "Moved away"), "status": "active"}
    return lambda: at.intake.update(stopped), [named(held)]


@case("K-HOLD")
async def a_course_that_goes_on_without_consent(at: At) -> Refused:
    who, signed, _ = await planned(at.intake, at.clock)
    await at.intake.update({**signed, "status": "inactive"})
    held = await the_course(at.intake, who)
    return lambda: at.intake.update({**held, "status": "active"}), [named(signed)]


@case("K-HOLD")
async def a_course_that_goes_on_without_an_eligible_screening(at: At) -> Refused:
    who, _, _ = await planned(at.intake, at.clock)
    await at.intake.create(condition(who, "67362008"))
    held = await the_course(at.intake, who)
    return lambda: at.intake.update({**held, "status": "active"}), [await at.newest(who)]


# -- intake: consents -------------------------------------------------------------------------------------------------


@case("C-CONSENT")
async def a_consent_without_its_time(at: At) -> Refused:
    who = await at.intake.create(patient())
    return lambda: at.intake.create(without(consent(who), "dateTime")), Sent("when it was given")


@case("C-ELEMENT")
async def a_consent_with_an_element_that_is_not_known(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = consent(who)
    extra = consent_elements(about(who), names=["cost"])[0]
    extra["extension"][0] = {"url": "element", "valueCode": "astrology"}
    return lambda: at.intake.create({**made, "extension": [*made["extension"], extra]}), Sent("astrology")


@case("C-ELEMENT")
async def a_consent_without_an_element(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = consent(who)
    rest = [one for one in made["extension"] if one["extension"][0]["valueCode"] != "cost"]
    return lambda: at.intake.create({**made, "extension": rest}), Sent("cost")


@case("C-ELEMENT")
async def a_consent_with_an_element_that_somebody_else_signed(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = consent(who, extension=consent_elements({"reference": "Practitioner/somebody"}))
    return lambda: at.intake.create(made), Sent("Consent.performer")


@case("P-PCF")
async def a_privacy_consent_that_pcf_does_not_allow(at: At) -> Refused:
    who = await at.intake.create(patient())
    loose = {**privacy(who), "provision": {"type": "permit", "action": [{"text": "read"}]}}
    return lambda: at.intake.create(loose), Sent("provision.action")


@case("P-PATTERN")
async def a_privacy_consent_of_no_pattern(at: At) -> Refused:
    who = await at.intake.create(patient())
    other = {**privacy(who), "provision": {"type": "permit"}}
    return lambda: at.intake.create(other), Sent("none of the patterns")


def privacy(who: Resource) -> Resource:
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": codes.CONSENT_PRIVACY.concept(),
        "category": [codes.Code(codes.LOINC, "59284-0").concept()],
        "patient": about(who),
        "dateTime": "2026-11-20",
        "performer": [about(who)],
        "organization": [{"display": "Clinic"}],
        "sourceAttachment": {"title": "signed form"},
        "policy": [{"uri": "http://terminology.hl7.org/CodeSystem/consentpolicycodes#hipaa-auth"}],
    }


# -- intake: plans ----------------------------------------------------------------------------------------------------


@case("P-TEMPLATE")
async def a_plan_of_no_template(at: At) -> Refused:
    who = await at.intake.create(patient())
    return lambda: at.intake.call("plan", who, code("template", "none")), Sent("No template fits")


async def weighed(at: At) -> Resource:
    who = await at.intake.create(patient())
    await at.intake.create(weight(who))
    return who


BY_IM = (code("drug", "ketamine"), code("route", codes.ROUTE_IM.code))


@case("P-GOAL")
async def an_agreed_plan_without_a_goal(at: At) -> Refused:
    who = await weighed(at)
    return lambda: at.intake.call("plan", who, *BY_IM, code("status", "active")), Sent("goal")


@case("P-GOAL")
async def an_agreed_plan_without_a_team(at: At) -> Refused:
    who = await weighed(at)
    goal = {"name": "goal", "valueString": "Sleep through"}
    return lambda: at.intake.call("plan", who, *BY_IM, code("status", "active"), goal), Sent("parameter member")


@case("P-STEPS")
async def a_plan_by_two_routes(at: At) -> Refused:
    who = await weighed(at)
    doses = [dose_of_plan(1, codes.ROUTE_IM), dose_of_plan(2, codes.ROUTE_IV)]
    return lambda: at.intake.create(care_plan(who, activity=doses)), Sent("one drug by one route")


@case("P-STEPS")
async def a_plan_in_which_a_session_is_missing(at: At) -> Refused:
    who = await weighed(at)
    made = care_plan(who, activity=[dose_of_plan(1, codes.ROUTE_IM), dose_of_plan(3, codes.ROUTE_IM)])
    return lambda: at.intake.create(made), Sent("session 2 is next")


@case("P-STEPS")
async def a_plan_whose_sessions_are_too_near(at: At) -> Refused:
    who = await weighed(at)
    near = {"name": "days-between", "valuePositiveInt": 1}
    return lambda: at.intake.call("plan", who, *BY_IM, near), Sent("1 days apart")


def dose_of_plan(session_: int, route: codes.Code) -> Resource:
    """Return the activity of a plan that plans one session."""
    inner = [
        {"url": "drug", "valueCode": "ketamine"},
        {"url": "route", "valueCoding": route.coding()},
        {"url": "session", "valuePositiveInt": session_},
        {"url": "sessions", "valuePositiveInt": 1},
    ]
    return {
        "detail": {
            "extension": [{"url": codes.EXT_PLANNED_DOSE, "extension": inner}],
            "status": "not-started",
            "scheduledTiming": {"repeat": {"frequency": 1, "period": 7, "periodUnit": "d"}},
            "quantity": milligrams(0.5, "mg/kg"),
        }
    }


# -- intake: orders ---------------------------------------------------------------------------------------------------


async def ordering(at: At) -> Resource:
    who = await eligible(at.intake, at.clock)
    await at.intake.create(weight(who, on="2026-11-15"))
    return who


@case("RX-SCREEN")
async def an_order_for_somebody_never_screened(at: At) -> Refused:
    who = await weighed(at)
    return lambda: at.intake.create(order(who)), [named(who)]


@case("E01")
async def an_order_for_somebody_not_eligible(at: At) -> Refused:
    who = await ordering(at)
    found = await at.intake.create(condition(who, "67362008"))
    return lambda: at.intake.create(order(who, 35, codes.ROUTE_IV)), [named(found)]


@case("RX-PRESCRIBER")
async def an_order_of_nobody(at: At) -> Refused:
    who = await ordering(at)
    return lambda: at.intake.create(order(who, requester={"display": "somebody"})), Sent("MedicationRequest.requester")


@case("RX-PRESCRIBER")
async def an_order_of_somebody_who_is_not_in_the_directory(at: At) -> Refused:
    who = await ordering(at)
    nobody = {"reference": "Practitioner/nobody"}
    return lambda: at.intake.create(order(who, requester=nobody)), ["Practitioner/nobody"]


@case("RX-PRESCRIBER")
async def an_order_of_somebody_whose_role_is_over(at: At) -> Refused:
    who = await ordering(at)
    doctor = await at.intake.create(practitioner())
    role = await at.intake.create(role_of(doctor, active=False))
    return lambda: at.intake.create(order(who, requester=about(doctor))), [named(role)]


@case("RX-LICENCE")
async def an_order_of_somebody_without_a_licence(at: At) -> Refused:
    who = await ordering(at)
    doctor = await at.intake.create(without(practitioner(), "qualification"))
    await at.intake.create(role_of(doctor))
    return lambda: at.intake.create(order(who, requester=about(doctor))), [named(doctor)]


@case("RX-LICENCE")
async def an_order_for_a_place_for_which_he_has_no_licence(at: At) -> Refused:
    who = await ordering(at)
    doctor = await at.intake.create(practitioner())
    where = await at.intake.create(site(address={"state": "NJ", "country": "US"}))
    await at.intake.create(role_of(doctor, location=[about(where)]))
    return lambda: at.intake.create(order(who, requester=about(doctor))), [named(doctor), named(where)]


@case("RX-REMS")
async def an_order_of_esketamine_for_a_place_that_is_not_certified(at: At) -> Refused:
    who = await ordering(at)
    doctor = await at.intake.create(practitioner())
    where = await at.intake.create(without(site(), "identifier"))
    await at.intake.create(role_of(doctor, location=[about(where)]))
    spray = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray").concept()
    made = order(who, 56, codes.ROUTE_NASAL, requester=about(doctor), medicationCodeableConcept=spray)
    return lambda: at.intake.create(made), [named(where)]


@case("RX-ROUTE")
async def an_order_without_a_route(at: At) -> Refused:
    who = await ordering(at)
    return lambda: at.intake.create(order(who, dosageInstruction=[{"text": "some"}])), Sent("dosageInstruction.route")


@case("RX-DOSE")
async def an_order_without_a_dose(at: At) -> Refused:
    who = await ordering(at)
    made = order(who, dosageInstruction=[{"text": "some", "route": codes.ROUTE_IM.concept()}])
    return lambda: at.intake.create(made), Sent("doseQuantity")


@case("RX-DOSE")
async def an_order_of_too_much_for_the_weight(at: At) -> Refused:
    who = await eligible(at.intake, at.clock)
    scales = await at.intake.create(weight(who))
    return lambda: at.intake.create(order(who, 300)), [named(scales)]


@case("RX-DOSE")
async def an_order_by_mouth_of_too_much_by_weight(at: At) -> Refused:
    who = await ordering(at)
    told = [{"route": codes.ROUTE_ORAL.concept(), "doseAndRate": [{"doseQuantity": milligrams(9, "mg/kg")}]}]
    return lambda: at.intake.create(order(who, dosageInstruction=told)), Sent("9.00 mg/kg")


@case("RX-WEIGHT")
async def an_order_without_a_weight(at: At) -> Refused:
    who = await eligible(at.intake, at.clock)
    return lambda: at.intake.create(order(who)), [named(who)]


@case("RX-TITRATION")
async def an_order_that_rises_too_fast(at: At) -> Refused:
    who = await eligible(at.intake, at.clock)
    await at.intake.create(weight(who, 100, on="2026-11-15"))
    first = await at.intake.create(order(who, 50, authoredOn="2026-11-19"))
    await at.intake.update({**first, "status": "completed"})
    return lambda: at.intake.create(order(who, 150)), [named(first)]


def series(who: Resource, times: int, on: str) -> Resource:
    made = order(who, authoredOn=on)
    made["dosageInstruction"][0]["timing"] = {
        "repeat": {"count": times, "frequency": 1, "period": 7, "periodUnit": "d"}
    }
    return made


@case("M-HISTORY")
async def a_dose_from_elsewhere_that_goes_on(at: At) -> Refused:
    who = await at.intake.create(patient())
    dose = {
        "resourceType": "MedicationAdministration",
        "meta": {"source": "urn:hospital"},
        "status": "completed",
        "medicationCodeableConcept": codes.KETAMINE.concept(),
        "subject": about(who),
        "effectiveDateTime": "2026-11-20",
    }
    made = await at.intake.create(dose)
    return lambda: at.intake.update({**made, "status": "in-progress"}), [named(made)]


@case("RX-SERIES")
async def an_order_of_too_many_sessions(at: At) -> Refused:
    who = await ordering(at)
    return lambda: at.intake.create(series(who, 7, "2026-11-21")), Sent("7 sessions")


@case("RX-SERIES")
async def an_order_after_too_many_sessions(at: At) -> Refused:
    who = await ordering(at)
    had = [await at.intake.create(series(who, 6, on)) for on in ("2026-11-19", "2026-11-20")]
    return lambda: at.intake.create(order(who)), [named(one) for one in had]


async def planned_for(at: At, **template: str) -> tuple[Resource, Resource]:
    who = await ordering(at)
    made = await at.intake.call("plan", who, code("drug", "ketamine"), code("route", template["route"]))
    plan = made["entry"][0]["resource"]
    await at.intake.update({**plan, "status": "active"})
    return who, plan


@case("RX-PLAN")
async def an_order_by_another_route_than_the_plans(at: At) -> Refused:
    who, plan = await planned_for(at, route=codes.ROUTE_IV.code)
    return lambda: at.intake.create(order(who)), [named(plan)]


@case("RX-PLAN")
async def an_order_above_the_plan(at: At) -> Refused:
    who, plan = await planned_for(at, route=codes.ROUTE_SUBLINGUAL.code)
    return lambda: at.intake.create(order(who, 400, codes.ROUTE_SUBLINGUAL)), [named(plan)]


@case("RX-PLAN")
async def an_order_that_cannot_be_compared_with_the_plan(at: At) -> Refused:
    who, plan = await planned_for(at, route=codes.ROUTE_IM.code)
    for one in await at.intake.search("Observation", patient=named(who)):
        await at.intake.delete(one)
    return lambda: at.intake.create(order(who, 35)), [named(plan)]


async def for_home(at: At, **more: Any) -> tuple[Resource, Resource, Resource, Resource]:
    """Return somebody, his order for home, its prescriber and its site, each registered."""
    who = await eligible(at.intake, at.clock)
    dea = [{"system": codes.DEA, "value": "AB1234563"}]
    doctor = await at.intake.create(practitioner(**{"identifier": dea, **more}))
    await at.intake.create(role_of(doctor))
    where = await at.intake.create({"resourceType": "Organization", "name": "Clinic", "identifier": dea})
    made = order(
        who,
        100,
        codes.ROUTE_SUBLINGUAL,
        category=[codes.MEDICATION_COMMUNITY.concept()],
        requester=about(doctor),
        performer=about(where),
        identifier=[{"system": codes.ID_PRESCRIPTION, "value": "RX-77"}],
        dispenseRequest={
            "quantity": {"value": 6},
            "expectedSupplyDuration": {"value": 28, "unit": "d", "system": codes.UCUM, "code": "d"},
        },
    )
    return who, made, doctor, where


@case("RX-HOME")
async def an_order_for_home_by_a_route_that_is_not(at: At) -> Refused:
    who, made, _, _ = await for_home(at)
    await at.intake.create(weight(who))
    made["dosageInstruction"] = order(who, 35, codes.ROUTE_IV)["dosageInstruction"]
    return lambda: at.intake.create(made), Sent("not given for home")


@case("RX-SEEN")
async def an_order_for_home_of_somebody_not_seen(at: At) -> Refused:
    who, made, _, _ = await for_home(at)
    return lambda: at.intake.create({**made, "authoredOn": "2027-01-02"}), [named(who)]


@case("RX-PDMP")
async def an_order_for_home_for_which_the_programme_was_not_asked(at: At) -> Refused:
    who, made, _, _ = await for_home(at)
    return lambda: at.intake.create(made), [named(who)]


@case("RX-DEA")
async def an_order_for_home_of_a_prescriber_without_registration(at: At) -> Refused:
    _, made, doctor, _ = await for_home(at, identifier=[{"system": codes.NPI, "value": "1234567893"}])
    return lambda: at.intake.create(made), [named(doctor)]


@case("RX-LIMIT")
async def an_order_for_home_of_too_much(at: At) -> Refused:
    _, made, _, _ = await for_home(at)
    made["dispenseRequest"]["quantity"]["value"] = 600
    return lambda: at.intake.create(made), Sent("quantity 600")


@case("RX-NUMBER")
async def an_order_for_home_without_the_number_of_its_prescription(at: At) -> Refused:
    _, made, _, _ = await for_home(at)
    return lambda: at.intake.create(without(made, "identifier")), Sent("number of the prescription")


@case("RX-NUMBER")
async def an_order_for_home_with_the_number_of_another_prescription(at: At) -> Refused:
    _, made, _, _ = await for_home(at)
    await at.intake.create({**made, "status": "completed"})
    other, more, _, _ = await for_home(at)
    return lambda: at.intake.create(more), [named(other)]


@case("RX-LIMIT")
async def an_order_for_home_of_too_much_after_others(at: At) -> Refused:
    _, made, _, _ = await for_home(at)
    had = [
        await at.intake.create({**made, "status": "completed", "identifier": [{**made["identifier"][0], "value": one}]})
        for one in ("RX-1", "RX-2")
    ]
    return lambda: at.intake.create(made), [named(one) for one in had]


# -- scheduling: what a dosing session stands on ----------------------------------------------------------------------


def book(at: At, made: Resource) -> Callable[[], Coroutine[Any, Any, object]]:
    return lambda: at.scheduling.create(made)


def dose(who: Resource, ordered: Resource | None, days: float = 2, **more: Any) -> Resource:
    """Return a dosing session with people of its own."""
    number = next(_NUMBERS)
    made = appointment(who, ordered, START + timedelta(days=days), **more)
    for one in made["participant"][1:]:
        one["actor"] = {"reference": f"{one['actor']['reference']}-{number}"}
    return made


async def tell(at: At, source: Opened, resource: Resource) -> Resource:
    """Change a resource of a service, and carry it to scheduling."""
    changed = await (source.update(resource) if "id" in resource else source.create(resource))
    await at.bench.deliver(source, at.scheduling)
    return changed


@case("S-ELIGIBLE")
async def a_dose_for_somebody_who_was_never_screened(at: At) -> Refused:
    who = await tell(at, at.intake, patient())
    return book(at, dose(who, None)), [named(who)]


@case("S-ELIGIBLE")
async def a_dose_for_somebody_who_is_not_eligible_any_more(at: At) -> Refused:
    who, _, ordered = await at.ready()
    await tell(at, at.intake, condition(who, "67362008"))
    return book(at, dose(who, ordered)), [await at.newest(who)]


@case("S-ELIGIBLE")
async def a_dose_on_a_day_on_which_the_answers_are_too_old(at: At) -> Refused:
    who, _, ordered = await at.ready()
    return book(at, dose(who, ordered, 181)), [await at.newest(who)]


@case("S-EPISODE")
async def a_dose_in_a_course_on_hold(at: At) -> Refused:
    who, _, ordered = await at.ready()
    held = await the_course(at.intake, who)
    await tell(at, at.intake, {**held, "status": "onhold"})
    return book(at, dose(who, ordered)), [named(held)]


@case("S-CONSENT")
async def a_dose_after_the_consent_was_withdrawn(at: At) -> Refused:
    who, signed, ordered = await at.ready()
    await tell(at, at.intake, {**signed, "status": "inactive"})
    return book(at, dose(who, ordered)), [named(signed)]


@case("S-PLAN")
async def a_dose_after_the_plan_was_revoked(at: At) -> Refused:
    who, _, ordered = await at.ready()
    (plan,) = await at.intake.search("CarePlan", patient=named(who))
    await tell(at, at.intake, {**plan, "status": "revoked"})
    return book(at, dose(who, ordered)), [named(plan)]


@case("S-ORDER")
async def a_dose_that_names_no_order(at: At) -> Refused:
    who, _, _ = await at.ready()
    return book(at, dose(who, None)), [named(who)]


@case("S-ORDER")
async def a_dose_whose_order_was_stopped(at: At) -> Refused:
    who, _, ordered = await at.ready()
    await tell(at, at.intake, {**ordered, "status": "stopped"})
    return book(at, dose(who, ordered)), [named(ordered)]


@case("S-ORDER")
async def a_dose_beyond_those_that_were_ordered(at: At) -> Refused:
    who, _, ordered = await at.ready()
    (dosage,) = ordered["dosageInstruction"]
    once = {**dosage, "timing": {"repeat": {"count": 1}}}
    await tell(at, at.intake, {**ordered, "dosageInstruction": [once]})
    first = await at.scheduling.create(dose(who, ordered))
    return book(at, dose(who, ordered, 9)), [named(ordered), named(first)]


@case("S-REMS")
async def a_dose_of_esketamine_without_the_rems(at: At) -> Refused:
    who = await at.intake.create(patient())
    await at.intake.create(condition(who, "R45.851", codes.ICD10CM))
    await at.intake.create(screening(who, at.clock.now))
    await at.intake.call("screen", who, code("drug", "esketamine"))
    spray = codes.Code(codes.RXNORM, "2201623", "esketamine nasal spray").concept()
    ordered = await tell(at, at.intake, order(who, 56, codes.ROUTE_NASAL, medicationCodeableConcept=spray))
    made = dose(who, ordered)
    places = [one["actor"]["reference"] for one in made["participant"] if "Location" in one["actor"]["reference"]]
    return book(at, made), [*places, named(who)]


@case("S-SPACING")
async def a_dose_too_near_to_another(at: At) -> Refused:
    who, _, ordered = await at.ready()
    first = await at.scheduling.create(dose(who, ordered))
    return book(at, dose(who, ordered, 2.5)), [named(first)]


@case("S-PATIENT")
async def a_visit_of_who_has_died(at: At) -> Refused:
    who = await tell(at, at.intake, patient(deceasedBoolean=True))
    return book(at, dose(who, None, visit=codes.VISIT_PREP)), [named(who)]


@case("S-ORDER")
async def a_dose_on_an_order_of_another_medicine(at: At) -> Refused:
    who, _, _ = await at.ready()
    other = codes.Code(codes.RXNORM, "26225", "ondansetron").concept()
    ordered = await tell(at, at.intake, order(who, medicationCodeableConcept=other))
    return book(at, dose(who, ordered)), [named(ordered)]


@case("S-ORDER")
async def a_dose_on_two_orders(at: At) -> Refused:
    who, _, ordered = await at.ready()
    again = await tell(at, at.intake, order(who))
    made = dose(who, ordered)
    made["supportingInformation"].append(about(again))
    return book(at, made), [named(ordered), named(again)]


@case("S-PATIENT")
async def a_dose_for_two(at: At) -> Refused:
    who, _, ordered = await at.ready()
    other = await at.intake.create(patient())
    made = dose(who, ordered)
    made["participant"].append({"actor": about(other), "status": "accepted"})
    return book(at, made), [named(who), named(other)]


# -- scheduling: time -------------------------------------------------------------------------------------------------


@case("S-TIME")
async def a_booking_that_ends_as_it_begins(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = dose(who, None, visit=codes.VISIT_PREP)
    return book(at, {**made, "end": made["start"]}), Sent("later end")


@case("S-DOUBLE")
async def somebody_who_is_taken(at: At) -> Refused:
    one, other = await at.intake.create(patient()), await at.intake.create(patient())
    first = await at.scheduling.create(dose(one, None, visit=codes.VISIT_PREP))
    second = dose(other, None, visit=codes.VISIT_PREP)
    second["participant"][1] = first["participant"][1]
    return book(at, second), [first["participant"][1]["actor"]["reference"]]


@case("S-CLOSED")
async def somebody_who_is_away(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = dose(who, None, visit=codes.VISIT_PREP)
    therapist = made["participant"][1]["actor"]["reference"]
    own = await at.scheduling.create(schedule(therapist, "therapist"))
    closed = {"resourceType": "Slot", "schedule": about(own), "status": "busy-unavailable"}
    await at.scheduling.create({**closed, "start": made["start"], "end": made["end"]})
    return book(at, made), [therapist]


@case("S-SLOT")
async def a_booking_in_a_slot_that_does_not_exist(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = dose(who, None, visit=codes.VISIT_PREP, slot=[{"reference": "Slot/nowhere"}])
    return book(at, made), Sent("Slot/nowhere")


@case("S-SLOT")
async def a_slot_of_no_schedule(at: At) -> Refused:
    slot = {"resourceType": "Slot", "schedule": {"reference": "Schedule/none"}, "status": "busy-unavailable"}
    made = {**slot, "start": zulu(START), "end": zulu(START + timedelta(hours=1))}
    return lambda: at.scheduling.create(made), Sent("a Schedule that exists")


@case("S-GROUP")
async def a_group_with_more_places_than_its_staff_may_watch_over(at: At) -> Refused:
    held = await session(at.scheduling, 1, f"Practitioner/g{next(_NUMBERS)}", visit=codes.VISIT_PREP)
    places = [{"url": codes.EXT_GROUP_PLACES, "valuePositiveInt": 99}]
    return lambda: at.scheduling.update({**held, "extension": places}), [held["schedule"]["reference"]]


@case("S-GROUP")
async def a_place_in_a_group_at_another_time(at: At) -> Refused:
    held = await session(at.scheduling, 1, f"Practitioner/g{next(_NUMBERS)}", visit=codes.VISIT_PREP)
    who = await at.intake.create(patient())
    return book(at, dose(who, None, 9, visit=codes.VISIT_PREP, slot=[about(held)])), [named(held)]


@case("S-GROUP")
async def a_group_of_a_kind_that_is_not_held_in_groups(at: At) -> Refused:
    return lambda: at.scheduling.ask("find", "Appointment", *asked("ada", 1, "kap-consult")), Sent("kap-consult")


@case("S-KIND")
async def a_kind_of_visit_that_there_is_not(at: At) -> Refused:
    given = (*span(0, 3), code("visit-type", "kap-massage"))
    return lambda: at.scheduling.ask("find", "Appointment", *given), Sent("kap-massage")


@case("S-WINDOW")
async def a_time_that_ends_before_it_starts(at: At) -> Refused:
    given = (*span(3, 1), code("visit-type", "kap-prep"))
    return lambda: at.scheduling.ask("find", "Appointment", *given), Sent("ends after its start")


@case("S-HOURS")
async def hours_that_cannot_be_read(at: At) -> Refused:
    made = await at.scheduling.create(schedule("Practitioner/odd", "therapist", days=("noday",), active=False))
    given = (time("start", START), time("end", START + timedelta(days=1)))
    return lambda: at.scheduling.call("generate", made, *given), [named(made)]


# -- scheduling: what becomes of a visit ------------------------------------------------------------------------------


async def prepared(at: At, status: str = "booked") -> Resource:
    who = await at.intake.create(patient())
    return await at.scheduling.create({**dose(who, None, visit=codes.VISIT_PREP), "status": status})


@case("S-STATUS")
async def a_check_in_of_a_visit_that_is_days_ahead(at: At) -> Refused:
    who, _, ordered = await at.ready()
    made = await at.scheduling.create(dose(who, ordered))
    return lambda: at.scheduling.call("check-in", made), [named(made)]


@case("S-STATUS")
async def a_visit_days_ahead_that_is_said_to_be_over(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = dose(who, None, visit=codes.VISIT_PREP, status="fulfilled")
    return book(at, made), sorted(one["actor"]["reference"] for one in made["participant"])


@case("S-STATUS")
async def a_visit_that_was_cancelled_is_cancelled_again(at: At) -> Refused:
    made = await prepared(at, "cancelled")
    return lambda: at.scheduling.call("cancel", made, code("reason", "pat")), [named(made)]


@case("S-STATUS")
async def a_visit_that_nobody_came_to_before_it_began(at: At) -> Refused:
    made = await prepared(at)
    return lambda: at.scheduling.call("no-show", made), [named(made)]


@case("S-HOLD")
async def a_hold_that_is_over(at: At) -> Refused:
    who = await at.intake.create(patient())
    asked_ = {**dose(who, None, visit=codes.VISIT_PREP), "status": "proposed"}
    answer = await at.scheduling.ask("hold", "Appointment", {"name": "resource", "resource": asked_})
    held = answer["entry"][0]["resource"]
    at.clock.forward(hours=1)
    return lambda: at.scheduling.ask("book", "Appointment", ref("appt-id", named(held))), [named(held)]


@case("S-SERIES")
async def a_course_that_has_no_place(at: At) -> Refused:
    who, _, ordered = await at.ready()
    given = (ref("patient", named(who)), ref("order", named(ordered)))
    return lambda: at.scheduling.ask("book-series", "Appointment", *given), [named(ordered)]


@case("S-SERIES")
async def a_course_by_a_route_of_which_the_policy_says_nothing(at: At) -> Refused:
    who = await at.intake.create(patient())
    oral = codes.Code(codes.SNOMED, "34206005", "subcutaneous")
    ordered = await tell(at, at.intake, order(who, 35, oral, status="draft"))
    given = (ref("patient", named(who)), ref("order", named(ordered)))
    return lambda: at.scheduling.ask("book-series", "Appointment", *given), [named(ordered)]
