"""What scheduling's guards, operations and reactions work with: the policy in its own form, and a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias
from zoneinfo import ZoneInfo

from services.scheduling.rules.policy import SchedulingPolicy
from shared.fhir.cited import ValueSet
from shared.fhir.freshness import Freshness, KnowledgePolicy
from shared.runtime.policy import Policy, PolicyError
from shared.runtime.zones import clinic_zone

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Setting:
    """Scheduling's policy and clock.

    Attributes:
        version: of the policy.
        policy: the section `scheduling`.
        sets: the value sets of the drugs.
        zone: the clinic's time zone.
        news: how old what a booking stands on may be.
        clock: the present.
        base: of the service's own addresses: ``https://clinic.example``.

    """

    version: str
    policy: SchedulingPolicy
    sets: Mapping[str, ValueSet]
    zone: ZoneInfo
    news: Freshness
    clock: Clock
    base: str = ""

    @classmethod
    def of(cls, policy: Policy, clock: Clock = utc_now, base: str = "") -> Setting:
        """Return the setting under `policy`.

        Raises:
            PolicyError: the section cannot be used.

        """
        section = policy.section("scheduling", SchedulingPolicy)
        zone = clinic_zone(policy)
        unknown = {step.visit for course in section.courses.values() for step in course.steps.values()}
        unknown |= section.prerequisites.keys() | {kind for one in section.messages.values() for kind in one.visits}
        unknown -= section.visits.keys()
        if unknown:
            raise PolicyError(f"scheduling.visits lacks {', '.join(sorted(unknown))}, which another part names.")
        news = policy.section("knowledge", KnowledgePolicy).booking
        return cls(policy.version, section, policy.section("value-sets", dict[str, ValueSet]), zone, news, clock, base)
