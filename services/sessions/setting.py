"""What sessions' guards, operations and reactions work with: the policy in its own form, and a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from services.sessions.rules import Alarm, GatePolicy
from shared.fhir.cited import ValueSet
from shared.runtime.policy import Policy

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Setting:
    """Sessions' policy and clock."""

    version: str
    sets: Mapping[str, ValueSet]
    gate: GatePolicy
    alarms: Mapping[str, Alarm]
    clock: Clock

    @classmethod
    def of(cls, policy: Policy, clock: Clock = utc_now) -> Setting:
        """Return the setting under `policy`.

        Raises:
            PolicyError: a section cannot be used.

        """
        return cls(
            version=policy.version,
            sets=policy.section("value-sets", dict[str, ValueSet]),
            gate=policy.section("gate", GatePolicy),
            alarms=policy.section("alarms", dict[str, Alarm]),
            clock=clock,
        )
