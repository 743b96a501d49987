"""Scheduling: when, where and with whom; and whether a visit may be booked at all."""

from __future__ import annotations

from services.scheduling.calendars import calendar_route
from services.scheduling.guards import guards
from services.scheduling.operations import operations
from services.scheduling.reactions import STANDS_ON, reactions
from services.scheduling.setting import Clock, Setting, utc_now
from services.scheduling.timers import timers
from shared.fhir.codes import WEIGHT
from shared.fhir.kap import has_code
from shared.notify.sending import NOTICES_TASK
from shared.runtime.app import App
from shared.runtime.ownership import INTAKE, SCHEDULING, SESSIONS, types_of
from shared.runtime.policy import Policy, load_policy
from shared.runtime.service import Service
from shared.runtime.settings import Settings

ASKED = ("DetectedIssue", "Encounter", "Location", "Medication", "Observation", "Practitioner", "PractitionerRole")
"""Held beside what a visit stands on: who came, a weight, a certificate, a drug's name, an address."""


def scheduling(policy: Policy, clock: Clock = utc_now) -> Service:
    """Return the service under a policy."""
    return _scheduling(Setting.of(policy, clock))


def _scheduling(setting: Setting) -> Service:
    return Service(
        name=SCHEDULING,
        title="KAP Exchange scheduling",
        types=types_of(SCHEDULING),
        guards=guards(setting),
        operations=operations(setting),
        consumes=(INTAKE, SESSIONS),
        holds=frozenset((*STANDS_ON, *ASKED)),
        leaves={"Observation": lambda measured: not has_code(measured.get("code"), WEIGHT)},
        reactions=reactions(setting),
        timers=timers(setting),
        judges_on_news=frozenset(("Appointment",)),
    )


def create(settings: Settings) -> App:
    """Return the service as a process runs it."""
    setting = Setting.of(load_policy(settings.policy), base=settings.base_url.removesuffix("/fhir"))
    return App(
        _scheduling(setting),
        settings,
        background=(NOTICES_TASK,),
        routes=lambda parts: [calendar_route(parts, setting)],
    )
