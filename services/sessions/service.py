"""Sessions: the visits themselves: doses behind their gate, readings with their alarms, notes and events."""

from __future__ import annotations

from services.sessions.guards import completions, guards
from services.sessions.ledger import inventory_timer
from services.sessions.ledger import timer as unbooked
from services.sessions.operations import operations
from services.sessions.operations.rems import timer as late_reports
from services.sessions.reactions import reactions
from services.sessions.setting import Clock, Setting, utc_now
from services.sessions.therapy import timer as check_ins
from services.sessions.watching import timer as missed_vital_signs
from shared.notify.sending import NOTICES_TASK
from shared.runtime.app import App
from shared.runtime.ownership import INTAKE, OUTCOMES, SCHEDULING, SESSIONS, types_of
from shared.runtime.policy import Policy, load_policy
from shared.runtime.service import Service
from shared.runtime.settings import Settings

GROUND = ("Patient", "Consent", "MedicationRequest", "Medication", "Observation", "Location", "Organization", "Flag")
"""What the gate stands on."""

PEOPLE = ("Practitioner", "PractitionerRole")
"""Whom an alarm calls."""

TIMERS = (missed_vital_signs, check_ins, unbooked, late_reports, inventory_timer)


def sessions(policy: Policy, clock: Clock = utc_now) -> Service:
    """Return the service under a policy."""
    setting = Setting.of(policy, clock)
    return Service(
        name=SESSIONS,
        title="KAP Exchange sessions",
        types=types_of(SESSIONS),
        completes=completions(setting),
        guards=guards(setting),
        operations=operations(setting),
        consumes=(INTAKE, SCHEDULING, OUTCOMES),
        holds=frozenset((*GROUND, *PEOPLE, "Appointment", "EpisodeOfCare")),
        reactions=reactions(setting),
        timers=(setting.escalation.timer(), *(make(setting) for make in TIMERS)),
        judges_on_news=frozenset(("MedicationAdministration",)),
    )


def create(settings: Settings) -> App:
    """Return the service as a process runs it."""
    return App(sessions(load_policy(settings.policy)), settings, background=(NOTICES_TASK,))
