"""Every refusal of what an operation was asked (400, 404), and for want of news (503): more rows of the table."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

from services.scheduling.calendars import calendar_route
from services.scheduling.service import scheduling as scheduling_service
from services.scheduling.setting import Setting
from shared.fhir import codes
from shared.fhir.json import Resource
from shared.fhir.raised import task
from shared.runtime.policy import load_policy
from shared.runtime.service import OperationCall
from tests.integration.services.at_scheduling import code, ref, span, time
from tests.integration.services.course import START, Opened, appointment, patient, planned
from tests.integration.services.refusal_cases import CASES, At, Refused, Sent, case, dose, named

__all__ = ["CASES"]

NOBODY = {"resourceType": "Patient", "id": "nobody"}
TEXT = {"valueString": "?"}


def asking(of: Opened, name: str, type_: str, said: str, *given: dict[str, Any]) -> Refused:
    return lambda: of.ask(name, type_, *given), Sent(said)


def calling(of: Opened, name: str, on: Resource, said: str, *given: dict[str, Any]) -> Refused:
    return lambda: of.call(name, on, *given), Sent(said)


def unknown(name: str = "colour") -> dict[str, Any]:
    return {"name": name, **TEXT}


# -- intake -----------------------------------------------------------------------------------------------------------


@case("Q-PARAMETER")
async def a_merge_with_a_parameter_that_it_has_not(at: At) -> Refused:
    return asking(at.intake, "merge", "Patient", "colour", unknown())


@case("Q-PARAMETER")
async def a_merge_whose_preview_is_no_boolean(at: At) -> Refused:
    return asking(at.intake, "merge", "Patient", "preview", {"name": "preview", "valueBoolean": "perhaps"})


@case("Q-PARAMETER")
async def a_merge_of_nobody(at: At) -> Refused:
    return asking(at.intake, "merge", "Patient", "source-patient")


@case("Q-HELD")
async def a_merge_of_somebody_who_is_not_held(at: At) -> Refused:
    pair = (ref("source-patient", named(NOBODY)), ref("target-patient", named(NOBODY)))
    return asking(at.intake, "merge", "Patient", named(NOBODY), *pair)


def breaking(at: At, on: Resource, said: str, *given: dict[str, Any], by: str | None = "Organization/h1") -> Refused:
    """Call $break-the-glass as somebody outside."""
    (operation,) = (one for one in at.intake.service.operations if one.name == "break-the-glass")
    body = {"resourceType": "Parameters", "parameter": list(given)}
    call = OperationCall("break-the-glass", "Patient", on["id"], body, user=by, client="h1")

    async def called() -> None:
        async with at.intake.record(named(on)) as record:
            await operation.handler(call, record)

    return called, Sent(said)


@case("Q-PARAMETER")
async def a_glass_broken_by_nobody(at: At) -> Refused:
    return breaking(at, await at.intake.create(patient()), "Nobody is known", by=None)


@case("Q-PARAMETER")
async def a_glass_broken_without_a_reason(at: At) -> Refused:
    return breaking(at, await at.intake.create(patient()), "is no parameter of it", unknown())


@case("Q-HELD")
async def a_glass_broken_for_somebody_who_is_not_held(at: At) -> Refused:
    return breaking(at, NOBODY, "Patient/nobody")


@case("B-GLASS")
async def a_task_that_opens_a_record_made_by_hand(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = task(("by", "hand"), patient=who["id"], code=codes.BREAK_GLASS, description="Open it.", now=START)
    del made["identifier"]
    return lambda: at.intake.create(made), Sent("break-the-glass")


@case("Q-HELD")
async def a_replay_of_no_decision(at: At) -> Refused:
    return calling(at.intake, "replay", {"resourceType": "RiskAssessment", "id": "none"}, "RiskAssessment/none")


@case("Q-PARAMETER")
async def a_match_with_a_parameter_that_it_has_not(at: At) -> Refused:
    return asking(at.intake, "match", "Patient", "colour", unknown())


@case("Q-PARAMETER")
async def a_match_of_nobody(at: At) -> Refused:
    return asking(at.intake, "match", "Patient", "resource")


@case("Q-PARAMETER")
async def a_match_that_is_certain_perhaps(at: At) -> Refused:
    return asking(at.intake, "match", "Patient", "onlyCertainMatches", unknown("onlyCertainMatches"))


@case("Q-PARAMETER")
async def a_match_of_no_number(at: At) -> Refused:
    return asking(at.intake, "match", "Patient", "count", unknown("count"))


@case("Q-HELD")
async def a_screening_of_nobody(at: At) -> Refused:
    return calling(at.intake, "screen", NOBODY, named(NOBODY))


@case("Q-PARAMETER")
async def a_screening_for_a_drug_that_is_not_known(at: At) -> Refused:
    return calling(at.intake, "screen", await at.intake.create(patient()), "drug", code("drug", "aspirin"))


@case("Q-PARAMETER")
async def a_screening_for_a_route_that_is_not_known(at: At) -> Refused:
    return calling(at.intake, "screen", await at.intake.create(patient()), "route", code("route", "1"))


@case("Q-PARAMETER")
async def a_screening_with_a_parameter_that_it_has_not(at: At) -> Refused:
    return calling(at.intake, "screen", await at.intake.create(patient()), "colour", unknown())


@case("Q-HELD")
async def a_plan_for_nobody(at: At) -> Refused:
    return calling(at.intake, "plan", NOBODY, named(NOBODY))


@case("Q-PARAMETER")
async def a_plan_with_a_parameter_that_it_has_not(at: At) -> Refused:
    return calling(at.intake, "plan", await at.intake.create(patient()), "colour", unknown())


@case("Q-PARAMETER")
async def a_plan_with_a_dose_that_is_no_amount(at: At) -> Refused:
    return calling(at.intake, "plan", await at.intake.create(patient()), "valueQuantity", unknown("dose"))


# -- intake: populating -----------------------------------------------------------------------------------------------


async def form(at: At) -> Resource:
    return await at.intake.create({"resourceType": "Questionnaire", "status": "active", "url": "urn:form"})


@case("Q-HELD")
async def a_form_that_is_not_held(at: At) -> Refused:
    return calling(at.intake, "populate", {"resourceType": "Questionnaire", "id": "none"}, "Questionnaire/none")


@case("Q-PARAMETER")
async def a_form_about_nobody(at: At) -> Refused:
    return calling(at.intake, "populate", await form(at), "subject")


@case("Q-PARAMETER")
async def a_form_that_is_none(at: At) -> Refused:
    return asking(at.intake, "populate", "Questionnaire", "none", {"name": "questionnaire", "resource": NOBODY})


@case("Q-PARAMETER")
async def a_form_that_is_not_named(at: At) -> Refused:
    return asking(at.intake, "populate", "Questionnaire", "canonical")


@case("Q-HELD")
async def a_form_of_an_unknown_url(at: At) -> Refused:
    asked = {"name": "canonical", "valueCanonical": "urn:nothing"}
    return asking(at.intake, "populate", "Questionnaire", "urn:nothing", asked)


# -- scheduling -------------------------------------------------------------------------------------------------------


async def booked(at: At) -> Resource:
    who = await at.intake.create(patient())
    return await at.scheduling.create(dose(who, None, visit=codes.VISIT_PREP))


@case("Q-PARAMETER")
async def a_visit_that_is_moved_to_end_before_it_starts(at: At) -> Refused:
    return calling(at.scheduling, "reschedule", await booked(at), "end before it starts", *span(5, 4))


@case("Q-PARAMETER")
async def a_visit_that_is_moved_to_one_more_of_whom_it_has_two(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = dose(who, None, visit=codes.VISIT_PREP)
    made["participant"].append({"actor": {"reference": f"{named(who)}-second".replace("Patient", "Practitioner")}})
    made["participant"][-1]["status"] = "accepted"
    held = await at.scheduling.create(made)
    given = (time("start", START + timedelta(days=6)), ref("practitioner", "Practitioner/third"))
    return calling(at.scheduling, "reschedule", held, "Practitioner/third", *given)


@case("Q-PARAMETER")
async def a_visit_that_is_cancelled_without_a_reason(at: At) -> Refused:
    return calling(at.scheduling, "cancel", await booked(at), "reason")


@case("Q-HELD")
async def a_course_by_an_order_that_is_not_held(at: At) -> Refused:
    given = (ref("patient", "Patient/x"), ref("order", "MedicationRequest/none"))
    return asking(at.scheduling, "book-series", "Appointment", "MedicationRequest/none", *given)


@case("Q-PARAMETER")
async def what_a_visit_needs_that_is_none_of_ours(at: At) -> Refused:
    who = await at.intake.create(patient())
    made = {**dose(who, None, visit=codes.VISIT_PREP), "serviceType": [{"text": "massage"}]}
    return calling(at.scheduling, "prerequisites", await at.scheduling.create(made), "none of KAP's visits")


@case("Q-PARAMETER")
async def a_time_for_no_kind_of_visit(at: At) -> Refused:
    return asking(at.scheduling, "find", "Appointment", "visit-type", *span(0, 3))


@case("Q-PARAMETER")
async def a_booking_of_nothing(at: At) -> Refused:
    return asking(at.scheduling, "book", "Appointment", "appointment-resource")


@case("Q-PARAMETER")
async def a_booking_of_what_is_booked(at: At) -> Refused:
    given = {"name": "appointment-resource", "resource": await booked(at)}
    return asking(at.scheduling, "book", "Appointment", "that is booked", given)


@case("Q-PARAMETER")
async def a_find_with_a_parameter_that_it_has_not(at: At) -> Refused:
    return asking(at.scheduling, "find", "Appointment", "colour", unknown())


@case("Q-PARAMETER")
async def a_find_from_a_time_that_is_none(at: At) -> Refused:
    given = (code("visit-type", "kap-prep"), {"name": "start", "valueDateTime": "soon"})
    return asking(at.scheduling, "find", "Appointment", "parameter start", *given)


@case("Q-PARAMETER")
async def a_find_from_no_time(at: At) -> Refused:
    return asking(at.scheduling, "find", "Appointment", "parameter start", code("visit-type", "kap-prep"))


@case("Q-HELD")
async def a_visit_that_is_not_held(at: At) -> Refused:
    none = {"resourceType": "Appointment", "id": "none"}
    return calling(at.scheduling, "cancel", none, "Appointment/none", code("reason", "pat"))


@case("Q-HELD")
async def a_schedule_that_is_not_held(at: At) -> Refused:
    return calling(at.scheduling, "generate", {"resourceType": "Schedule", "id": "none"}, "Schedule/none")


@case("Q-PARAMETER")
async def slots_of_more_time_than_is_looked_for(at: At) -> Refused:
    held = await at.scheduling.create(
        {"resourceType": "Schedule", "actor": [{"reference": "Practitioner/of-slots"}], "active": True}
    )
    return calling(at.scheduling, "generate", held, "at most 92 days", *span(0, 999))


@case("Q-PARAMETER")
async def a_calendar_of_what_has_none(at: At) -> Refused:
    return asking(at.scheduling, "calendar-link", "Appointment", "Group/1", ref("actor", "Group/1"))


@case("Q-HELD")
async def a_calendar_behind_no_link(at: At) -> Refused:
    parts: Any = SimpleNamespace(service=at.scheduling.service, store=at.scheduling.store)
    route = calendar_route(parts, Setting.of(load_policy(), at.clock))
    scope = {
        "type": "http",
        "method": "GET",
        "path": "/calendar/guessed.ics",
        "query_string": b"",
        "headers": [],
        "state": {"request_id": "r1"},
    }
    request: Any = SimpleNamespace(scope=scope, path_params={"secret": "guessed"})
    return lambda: route.endpoint(request), Sent("calendar of this link")


# -- news -------------------------------------------------------------------------------------------------------------


@case("N-NEWS")
async def a_dose_on_news_that_is_too_old(at: At) -> Refused:
    who, _, ordered = await planned(at.intake, at.clock)
    deaf = await at.bench.open(scheduling_service, heard=timedelta(hours=1))
    await at.bench.deliver(at.intake, deaf)
    made = appointment(who, ordered, START + timedelta(days=5))
    return lambda: deaf.create(made), [named(who)]
