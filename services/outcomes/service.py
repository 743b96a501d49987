"""Outcomes: what patients answer, what it adds up to, and what is expected of them next."""

from __future__ import annotations

from services.outcomes.guards import guards
from services.outcomes.operations import operations
from services.outcomes.reactions import reactions
from services.outcomes.setting import Clock, Setting, utc_now
from services.outcomes.timers import timers
from shared.notify.sending import NOTICES_TASK
from shared.runtime.app import App
from shared.runtime.ownership import INTAKE, OUTCOMES, SESSIONS, types_of
from shared.runtime.policy import Policy, load_policy
from shared.runtime.service import Service
from shared.runtime.settings import Settings

HOLDS = (
    *("Encounter", "EpisodeOfCare", "MedicationAdministration", "AdverseEvent", "QuestionnaireResponse"),
    *("Patient", "Practitioner", "PractitionerRole", "Condition", "Medication"),
)


def outcomes(policy: Policy, clock: Clock = utc_now) -> Service:
    """Return the service under a policy."""
    setting = Setting.of(policy, clock)
    return Service(
        name=OUTCOMES,
        title="KAP Exchange outcomes",
        types=types_of(OUTCOMES),
        guards=guards(setting),
        operations=operations(setting),
        consumes=(INTAKE, SESSIONS),
        holds=frozenset(HOLDS),
        reactions=reactions(setting),
        timers=timers(setting),
    )


def create(settings: Settings) -> App:
    """Return the service as a process runs it."""
    return App(outcomes(load_policy(settings.policy)), settings, background=(NOTICES_TASK,))
