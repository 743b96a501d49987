"""Scheduling: when, where and with whom; and whether a dosing session may be booked at all."""

from __future__ import annotations

from services.scheduling.ground import Clock, Setting, utc_now
from services.scheduling.guards import guards
from services.scheduling.operations import operations
from services.scheduling.reactions import reactions
from shared.runtime.app import App
from shared.runtime.ownership import INTAKE, SCHEDULING, types_of
from shared.runtime.policy import Policy, load_policy
from shared.runtime.service import Service
from shared.runtime.settings import Settings


def scheduling(policy: Policy, clock: Clock = utc_now) -> Service:
    """Return the service under a policy."""
    setting = Setting.of(policy, clock)
    return Service(
        name=SCHEDULING,
        title="KAP Exchange scheduling",
        types=types_of(SCHEDULING),
        guards=guards(setting),
        operations=operations(),
        consumes=(INTAKE,),
        holds=frozenset(("Patient", "EpisodeOfCare", "RiskAssessment", "Consent", "CarePlan", "MedicationRequest")),
        reactions=reactions(setting),
        judges_on_news=frozenset(("Appointment",)),
    )


def create(settings: Settings) -> App:
    """Return the service as a process runs it."""
    return App(scheduling(load_policy(settings.policy)), settings)
