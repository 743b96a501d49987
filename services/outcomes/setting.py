"""What outcomes' guards, reactions and timers work with: the policy in its own form, its ladders, and a clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

from services.outcomes.rules.change import Judging
from services.outcomes.rules.instruments import Instrument
from services.outcomes.rules.measures import MeasuresPolicy, OfTheGate
from services.outcomes.rules.schedule import OutcomesPolicy
from shared.fhir.at_risk import Forms
from shared.fhir.cited import ValueSet
from shared.runtime.escalation import Escalation
from shared.runtime.policy import Policy, PolicyError

Clock: TypeAlias = Callable[[], datetime]
FOLDER = "instruments/"
INSTRUMENTAL = frozenset(("response", "remission", "durability"))


def utc_now() -> datetime:
    """Return the present."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Setting:
    """Outcomes' policy and clock; `inpatient`: classes of an Encounter of which the REMS has no form."""

    version: str
    policy: OutcomesPolicy
    instruments: Mapping[str, Instrument]
    escalation: Escalation
    forms: Forms
    drugs: Mapping[str, ValueSet]
    measures: MeasuresPolicy
    inpatient: frozenset[str]
    clock: Clock

    @property
    def judging(self) -> Judging:
        """How scores are judged against their baseline."""
        return Judging(timedelta(days=self.policy.baseline.days), timedelta(days=self.policy.sustained.days))

    @classmethod
    def of(cls, policy: Policy, clock: Clock = utc_now) -> Setting:
        """Return the setting under `policy`.

        Raises:
            PolicyError: a section cannot be used, an instrument does not fit together or is expected and not there, or
                a stat Task about risk has no ladder.

        """
        instruments = {
            name.removeprefix(FOLDER): policy.section(name, Instrument)
            for name in policy.sections
            if name.startswith(FOLDER)
        }
        escalation = Escalation.of(policy)
        for name, one in instruments.items():
            for problem in one.problems():
                raise PolicyError(f"instruments/{name}: {problem}.")
            for level in () if one.risk is None else one.risk.levels:
                if level.priority == "stat" and level.task not in escalation.policy.tasks:
                    raise PolicyError(f"instruments/{name}: the Task '{level.task}' cannot wait and has no ladder.")
        forms = policy.section("suicidality", Forms)
        for name, one in instruments.items():
            risk = one.risk
            if risk is not None and risk.ends_task == forms.task:
                coded = [None if code is None else code.of() for code in (risk.code, risk.none)]
                told = [(term.system, term.code) for term in (forms.screeners.level, forms.screeners.none)]
                if [None if code is None else (code.system, code.code) for code in coded] != told:
                    raise PolicyError(f"instruments/{name}: its level of risk is not that of suicidality.screeners.")
        outcomes = policy.section("outcomes", OutcomesPolicy)
        for name, expected in outcomes.schedule.items():
            for wanted in (expected.instrument, *expected.or_else):
                if wanted not in instruments:
                    raise PolicyError(f"outcomes.schedule.{name} expects '{wanted}', which is no instrument.")
        drugs = policy.section("value-sets", dict[str, ValueSet])
        measures = policy.section("measures", MeasuresPolicy)
        for name, measure in measures.measures.items():
            if measure.kind in INSTRUMENTAL and measure.instrument not in instruments:
                raise PolicyError(f"measures.{name} looks at '{measure.instrument}', which is no instrument.")
        inpatient = frozenset(policy.section("gate", OfTheGate).rems.inpatient)
        return cls(policy.version, outcomes, instruments, escalation, forms, drugs, measures, inpatient, clock)
