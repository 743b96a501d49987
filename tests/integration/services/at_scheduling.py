"""What tests of scheduling ask of it and tell it."""

from __future__ import annotations

from datetime import timedelta

from shared.fhir import codes
from shared.fhir.dates import zulu
from tests.integration.services.course import START

HOURS = (("08:00:00", "12:00:00"), ("13:00:00", "18:00:00"))
WORKDAYS = ("mon", "tue", "wed", "thu", "fri")
ROLES = {one: codes.ROLES[one] for one in ("therapist", "monitor", "prescriber", "room")}


def schedule(actor, *roles, days=WORKDAYS, hours=HOURS, **more):
    windows = [
        {
            "url": codes.EXT_AVAILABLE_TIME,
            "extension": [
                *({"url": "daysOfWeek", "valueCode": day} for day in days),
                {"url": "availableStartTime", "valueTime": low},
                {"url": "availableEndTime", "valueTime": high},
            ],
        }
        for low, high in hours
    ]
    return {
        "resourceType": "Schedule",
        "active": True,
        "extension": windows,
        "specialty": [ROLES[role].concept() for role in roles],
        "actor": [{"reference": actor}],
        **more,
    }


def time(name, value):
    return {"name": name, "valueDateTime": zulu(value)}


def ref(name, value):
    return {"name": name, "valueReference": {"reference": value}}


def code(name, value):
    return {"name": name, "valueCode": value}


def span(days_from, days_to):
    return time("start", START + timedelta(days=days_from)), time("end", START + timedelta(days=days_to))


def found(bundle):
    return [one["resource"] for one in bundle["entry"] if one["search"]["mode"] == "match"]


def actors_of(appointment):
    return {one["actor"]["reference"] for one in appointment["participant"]}


def rules_of(error):
    return {issue.rule for issue in error.value.issues}
