"""The list of those to whom a patient's record went."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec
import pytest

from cli.audit import INTERMEDIARIES, recipients_of
from shared.http.audit_events import as_audit_event
from shared.runtime.policy import load_policy
from shared.runtime.retention import AuditPolicy, Retention
from shared.store.audit import Row

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)


def told(days, whom, *what, by="Consent/c1", kind="disclose", **more):
    parts = {"tenant": "default", "service": "delivery", "kind": kind, "does": "push", "action": "R", "outcome": 0}
    at = (NOW - timedelta(days=days)).isoformat()
    row = Row(**parts, at=at, recipient=whom, patients=("p1",), what=what, authorisation=by, **more)
    return as_audit_event(1, row, "http://kap.example/fhir")


def test_everybody_to_whom_a_record_went_within_three_years_is_listed_with_dates_and_what_it_was():
    events = [
        told(1, "Organization/general", "Observation/1/_history/1", by="Consent/c2"),
        told(1200, "Organization/old", "Observation/1/_history/1"),
        told(400, "Organization/general", "Patient/p1/_history/1", "Observation/2/_history/1"),
        told(900, "Organization/clinic", "Composition/1/_history/1"),
    ]
    clinic, general = recipients_of(events, since=NOW - INTERMEDIARIES)
    assert (clinic.whom, clinic.times, dict(clinic.what)) == ("Organization/clinic", 1, {"Composition": 1})
    assert (general.whom, general.times) == ("Organization/general", 2)
    assert (general.first[:10], general.last[:10]) == ("2025-10-18", "2026-11-21")
    assert dict(general.what) == {"Patient": 1, "Observation": 2}
    assert general.allowed == {"Consent/c1", "Consent/c2"}


def test_what_went_through_an_intermediary_is_listed_apart_by_whom_it_was_for():
    """Pushed, read by the intermediary for a participant, and read by it for itself."""
    hie = ("Organization/hie",)
    events = [
        told(1, "Organization/general", "Observation/1/_history/1"),
        told(2, "Organization/general", "Observation/1/_history/1", through=hie),
        told(3, "Organization/general", "Observation/1/_history/1", kind="rest", user=hie[0], client="c", through=hie),
        told(4, "Organization/hie", "Observation/1/_history/1", kind="rest", user=hie[0], client="c", through=hie),
    ]
    listed = [(one.whom, one.through, one.times) for one in recipients_of(events, since=NOW - INTERMEDIARIES)]
    assert listed == [
        ("Organization/general", "", 1),
        ("Organization/general", "Organization/hie", 2),
        ("Organization/hie", "Organization/hie", 1),
    ]


def test_the_audit_is_kept_for_as_long_as_recipients_are_to_be_told():
    """For less than that, no clinic's policy keeps it."""
    assert load_policy().section("audit", AuditPolicy).retention.period >= INTERMEDIARIES
    said = {"source": "x", "verified": False}
    assert msgspec.convert({**said, "years": 3}, Retention).period >= INTERMEDIARIES
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({**said, "years": 2}, Retention)
