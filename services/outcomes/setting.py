"""What outcomes' guards and reactions work with: the policy in its own form, and a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias

from services.outcomes.rules import Instrument, OutcomesPolicy
from shared.runtime.policy import Policy, PolicyError

Clock: TypeAlias = Callable[[], datetime]
FOLDER = "instruments/"


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Setting:
    """Outcomes' policy and clock."""

    version: str
    policy: OutcomesPolicy
    instruments: Mapping[str, Instrument]
    clock: Clock

    @classmethod
    def of(cls, policy: Policy, clock: Clock = utc_now) -> Setting:
        """Return the setting under `policy`.

        Raises:
            PolicyError: a section cannot be used, or an instrument is expected that there is not.

        """
        instruments = {
            name.removeprefix(FOLDER): policy.section(name, Instrument)
            for name in policy.sections
            if name.startswith(FOLDER)
        }
        outcomes = policy.section("outcomes", OutcomesPolicy)
        for name, expected in outcomes.after_dosing.items():
            if expected.instrument not in instruments:
                raise PolicyError(
                    f"outcomes.after_dosing.{name} expects '{expected.instrument}', which is no instrument."
                )
        return cls(policy.version, outcomes, instruments, clock)
