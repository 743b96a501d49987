"""What intake's guards, operations and reactions work with: the policy in its own form, and a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from services.intake.rules.eligibility import EligibilityPolicy, Interaction, Sets
from services.intake.rules.orders import OrderPolicy
from shared.fhir.cited import ValueSet
from shared.runtime.policy import Policy

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Setting:
    """Intake's policy and clock."""

    policy: Policy
    sets: Sets
    eligibility: EligibilityPolicy
    interactions: Mapping[str, Interaction]
    orders: OrderPolicy
    clock: Clock

    @classmethod
    def of(cls, policy: Policy, clock: Clock = utc_now) -> Setting:
        """Return the setting under `policy`.

        Raises:
            PolicyError: a section cannot be used.

        """
        return cls(
            policy=policy,
            sets=policy.section("value-sets", dict[str, ValueSet]),
            eligibility=policy.section("eligibility", EligibilityPolicy),
            interactions=policy.section("interactions", dict[str, Interaction]),
            orders=policy.section("orders", OrderPolicy),
            clock=clock,
        )
