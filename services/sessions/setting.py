"""What sessions' guards, operations and reactions work with: the policy in its own form, and a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeAlias
from zoneinfo import ZoneInfo

from services.sessions.rules.alarms import AlarmPolicy
from services.sessions.rules.amounts import DosingPolicy
from services.sessions.rules.gate import GatePolicy
from services.sessions.rules.leaving import DischargePolicy
from services.sessions.rules.monitoring import MonitoringPolicy
from services.sessions.rules.psychotherapy import PsychotherapyPolicy
from services.sessions.rules.rems import RemsPolicy
from services.sessions.rules.series import SeriesPolicy
from services.sessions.rules.substances import SubstancesPolicy
from shared.fhir.at_risk import Forms
from shared.fhir.cited import ValueSet
from shared.fhir.freshness import KnowledgePolicy
from shared.runtime.escalation import Escalation
from shared.runtime.policy import Policy
from shared.runtime.zones import clinic_zone

Clock: TypeAlias = Callable[[], datetime]


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Setting:
    """Sessions' policy and clock; `zone`: the clinic's, for a place that names none of its own."""

    version: str
    sets: Mapping[str, ValueSet]
    gate: GatePolicy
    alarms: AlarmPolicy
    dosing: DosingPolicy
    monitoring: MonitoringPolicy
    discharge: DischargePolicy
    rems: RemsPolicy
    substances: SubstancesPolicy
    psychotherapy: PsychotherapyPolicy
    escalation: Escalation
    forms: Forms
    knowledge: KnowledgePolicy
    series: SeriesPolicy
    zone: ZoneInfo
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
            alarms=policy.section("alarms", AlarmPolicy),
            monitoring=policy.section("monitoring", MonitoringPolicy),
            discharge=policy.section("discharge", DischargePolicy),
            rems=policy.section("rems", RemsPolicy),
            substances=policy.section("substances", SubstancesPolicy),
            psychotherapy=policy.section("psychotherapy", PsychotherapyPolicy),
            dosing=policy.section("dosing", DosingPolicy),
            escalation=Escalation.of(policy),
            forms=policy.section("suicidality", Forms),
            knowledge=policy.section("knowledge", KnowledgePolicy),
            series=policy.section("orders", SeriesPolicy),
            zone=clinic_zone(policy),
            clock=clock,
        )
