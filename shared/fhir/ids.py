"""Logical ids: UUIDv7, so that ids grow with time and one never meets another (RFC 9562, section 5.7)."""

from __future__ import annotations

from uuid import NAMESPACE_URL, UUID, uuid5

import uuid_utils


def new_id() -> str:
    """Return a new logical id: a UUIDv7 in its canonical form of 36 characters."""
    return str(uuid_utils.uuid7())


def subject_uuid(patient_id: str) -> UUID:
    """Return the UUID under which index rows know a patient.

    The logical id itself where it is a canonical UUID (all ids made here are), else a name-based UUID of it.
    """
    try:
        known = UUID(patient_id)
    except ValueError:
        known = None
    if known is not None and str(known) == patient_id:
        return known
    return uuid5(NAMESPACE_URL, f"Patient/{patient_id}")
