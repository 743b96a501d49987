"""The policy's section `audit`: how long the audit is kept."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated

import msgspec

from shared.fhir.cited import Cited


class Retention(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many years a row is kept, at least: to whom intermediaries passed it on is told for three (42 CFR 2.24)."""

    years: Annotated[int, msgspec.Meta(ge=3)]

    @property
    def period(self) -> timedelta:
        """The time, a year being of 366 days."""
        return timedelta(days=366 * self.years)


class AuditPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `audit`."""

    retention: Retention
