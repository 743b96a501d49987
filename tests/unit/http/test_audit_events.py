"""One row of the audit as an AuditEvent, for a patient who is not the only one it names."""

from __future__ import annotations

import pytest

from shared.http.audit_events import as_audit_event, reach
from shared.security.caller import Caller
from shared.security.gate import ScopeMissing
from shared.security.scopes import parse_scopes
from shared.store.access import Disclosure
from shared.store.audit import Row

ROW = Row(
    at="2026-11-23T00:00:00Z", tenant="default", service="gateway", kind="rest", does="$everything", action="E",
    outcome=0, patients=("a", "b"), client="c",
)  # fmt: skip


@pytest.mark.parametrize("what", ["Patient/a", "Patient/a/_history/3", "Condition/of-a/_history/3", "Patient/ab"])
def test_a_patient_is_shown_nothing_of_what_is_another_ones_in_a_row_of_both(what):
    event = as_audit_event(1, Row(**{**_parts(), "what": (what,)}), "http://x", only=("b",))
    assert [one["what"] for one in event["entity"]] == [{"reference": "Patient/b"}]
    whole = as_audit_event(1, Row(**{**_parts(), "what": (what,)}), "http://x")
    assert {"reference": what} in [one["what"] for one in whole["entity"]]


@pytest.mark.parametrize("what", ["Patient/b", "Patient/b/_history/3"])
def test_a_patient_is_shown_what_is_his_own_in_a_row_of_both(what):
    event = as_audit_event(1, Row(**{**_parts(), "what": (what,)}), "http://x", only=("b",))
    assert {"reference": what} in [one["what"] for one in event["entity"]]


def test_the_audit_of_the_clinic_is_for_nobody_outside_of_it():
    scopes = parse_scopes("system/AuditEvent.rs")
    assert reach(Caller("default", client="c", scopes=scopes), "s") is None
    told = Disclosure(frozenset(("Organization/h1",)), frozenset(("TREAT",)))
    with pytest.raises(ScopeMissing):
        reach(Caller("default", client="h", scopes=scopes, disclosure=told), "s")


def _parts():
    return {name: getattr(ROW, name) for name in ROW.__struct_fields__}
