"""Sessions: the visits themselves: doses behind their gate, readings with their alarms, notes and events."""

from __future__ import annotations

from starlette.routing import Mount

from services.sessions.guards import completions, guards
from services.sessions.ledger import inventory_timer
from services.sessions.ledger import timer as unbooked
from services.sessions.operations import operations
from services.sessions.operations.rems import timer as late_reports
from services.sessions.process_notes import PLACE, ProcessNotes
from services.sessions.reactions import reactions
from services.sessions.sealing import Sealing
from services.sessions.setting import Clock, Setting, utc_now
from services.sessions.therapy import timer as check_ins
from services.sessions.watching import timer as missed_vital_signs
from shared.notify.sending import NOTICES_TASK
from shared.runtime.app import App, Parts
from shared.runtime.ownership import INTAKE, OUTCOMES, SCHEDULING, SESSIONS, types_of
from shared.runtime.policy import Policy, load_policy
from shared.runtime.service import Service
from shared.runtime.settings import Settings, SettingsError
from shared.security.envelope import Keyring, KeyringError
from shared.store.notes import SCHEMA, NoteStore

GROUND = (
    "Patient",
    "Consent",
    "MedicationRequest",
    "CarePlan",
    "Medication",
    "Observation",
    "Location",
    "Organization",
    "Flag",
    "DetectedIssue",
)
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
        holds=frozenset((*GROUND, *PEOPLE, "AdverseEvent", "Appointment", "EpisodeOfCare", "MedicationAdministration")),
        reactions=reactions(setting),
        timers=(setting.escalation.timer(), *(make(setting) for make in TIMERS)),
        judges_on_news=frozenset(("MedicationAdministration",)),
    )


def create(settings: Settings) -> App:
    """Return the service as a process runs it.

    Raises:
        SettingsError: of what process notes need one part is missing, or their keys cannot be read.

    """
    policy = load_policy(settings.policy)
    dsn, keys = settings.notes_database_url, settings.notes_keys
    if (dsn is None) != (keys is None):
        raise SettingsError("sessions does not start: process notes need KAP_NOTES_DATABASE_URL and KAP_NOTES_KEYS.")
    try:
        keyring = None if keys is None else Keyring.read(keys)
    except KeyringError as error:
        raise SettingsError(f"sessions does not start: {error}") from None

    def routes(parts: Parts) -> list[Mount]:
        vault = None
        if dsn is not None and keyring is not None:
            vault = Sealing(NoteStore(dsn.get_secret_value()), keyring)
            parts.closing.push_async_callback(vault.notes.close)
        base_url = settings.base_url.removesuffix("/fhir") + PLACE
        notes = ProcessNotes(parts.service, parts.store, vault, parts.authenticate, Setting.of(policy), base_url)
        return [notes.routes()]

    return App(
        sessions(policy),
        settings,
        background=(NOTICES_TASK,),
        routes=routes,
        databases={} if dsn is None else {dsn.get_secret_value(): SCHEMA},
    )
