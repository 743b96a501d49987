"""The clinic's time zone as its policy has it (`scheduling.zone`), for every service whose rules know of days."""

from __future__ import annotations

from zoneinfo import ZoneInfo

import msgspec

from shared.fhir.zones import Zone, zone_named
from shared.runtime.policy import Policy, PolicyError


class _Zoned(msgspec.Struct, frozen=True):
    zone: Zone


def clinic_zone(policy: Policy) -> ZoneInfo:
    """Return the clinic's time zone.

    Raises:
        PolicyError: the policy names none, or one that does not exist.

    """
    named = policy.section("scheduling", _Zoned).zone.name
    found = zone_named(named)
    if found is None:
        raise PolicyError(f"scheduling.zone: there is no time zone '{named}'.")
    return found
