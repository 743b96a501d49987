"""Intake: who comes, who may be treated, what was agreed, planned and ordered; and all history from elsewhere."""

from __future__ import annotations

from services.intake.chart import flagged
from services.intake.guards import guards
from services.intake.operations import operations
from services.intake.reactions import reactions
from services.intake.rules.eligibility import flag_codes
from services.intake.setting import Clock, Setting, utc_now
from services.intake.timers import timers
from shared.notify.sending import NOTICES_TASK
from shared.runtime.app import App
from shared.runtime.ownership import INTAKE, OUTCOMES, SESSIONS, types_of
from shared.runtime.policy import Policy, load_policy
from shared.runtime.service import Service
from shared.runtime.settings import Settings


def intake(policy: Policy, clock: Clock = utc_now) -> Service:
    """Return the service under a policy."""
    setting = Setting.of(policy, clock)
    return Service(
        name=INTAKE,
        title="KAP Exchange intake",
        types=types_of(INTAKE),
        guards=guards(setting),
        operations=operations(setting),
        consumes=(SESSIONS, OUTCOMES),
        holds=frozenset(("Encounter", "Flag")),
        leaves={"Flag": lambda raised: flag_codes(raised).isdisjoint(flagged(setting))},
        reactions=reactions(setting),
        timers=timers(setting),
    )


def create(settings: Settings) -> App:
    """Return the service as a process runs it."""
    return App(intake(load_policy(settings.policy)), settings, background=(NOTICES_TASK,))
