"""What intake's guards, operations and reactions work with: the policy in its own form, and a clock."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from services.intake.rules.consents import ConsentPolicy
from services.intake.rules.findings import Rules
from services.intake.rules.forms import EligibilityPolicy, Interaction, Sets, TrialPolicy
from services.intake.rules.glass import GlassPolicy
from services.intake.rules.orders import OrderPolicy
from services.intake.rules.plans import PlanPolicy
from services.intake.rules.workup import WorkupPolicy
from shared.fhir.cited import ValueSet
from shared.runtime.escalation import Escalation
from shared.runtime.policy import Policy

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Setting:
    """Intake's policy and clock."""

    policy: Policy
    rules: Rules
    orders: OrderPolicy
    consent: ConsentPolicy
    plans: PlanPolicy
    glass: GlassPolicy
    workup: WorkupPolicy
    escalation: Escalation
    clock: Clock

    @property
    def sets(self) -> Sets:
        """The policy's value sets."""
        return self.rules.sets

    @classmethod
    def of(cls, policy: Policy, clock: Clock = utc_now) -> Setting:
        """Return the setting under `policy`.

        Raises:
            PolicyError: a section cannot be used.

        """
        return cls(
            policy=policy,
            rules=Rules(
                eligibility=policy.section("eligibility", EligibilityPolicy),
                interactions=policy.section("interactions", dict[str, Interaction]),
                antidepressants=policy.section("antidepressants", TrialPolicy),
                sets=policy.section("value-sets", dict[str, ValueSet]),
            ),
            orders=policy.section("orders", OrderPolicy),
            consent=policy.section("consent", ConsentPolicy),
            plans=policy.section("plans", PlanPolicy),
            glass=policy.section("break-glass", GlassPolicy),
            workup=policy.section("workup", WorkupPolicy),
            escalation=Escalation.of(policy),
            clock=clock,
        )
