"""Every rule of outcomes has a positive, a negative, a boundary and a "not known" case, in one table.

What is a score and whose answers are, the checks of long-term use, what is overdue. A rule that the service refuses
by, or a check of the policy, without all four fails the first test. Levels of risk and bands of scores:
`test_risk.py`, `test_scoring.py`.
"""

from __future__ import annotations

import ast
import asyncio
from collections.abc import Callable
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import pytest

import services.outcomes as service
from services.outcomes.guards import guards, whose
from services.outcomes.rules.schedule import MISSED, OVERDUE, due_watches, standing_of
from shared.fhir.dates import zulu
from shared.fhir.outcome import Unprocessable
from shared.runtime.raising import own_work
from shared.runtime.service import Change
from tests.unit.outcomes.test_schedule import NOW, REMINDING, SETTING

KINDS = {"positive", "negative", "boundary", "not known"}


class Case(NamedTuple):
    """One case: what it is about, the rules that speak up, and whether this one does."""

    kind: str
    what: str
    judged: Callable[[], set[str]]
    speaks: bool


def refused_by(judge: Callable[[], object]) -> set[str]:
    try:
        judge()
    except Unprocessable as refused:
        return {str(one.rule) for one in refused.issues}
    return set()


def score(before: Any = None, after: Any = None, *, own: bool = False) -> Callable[[], set[str]]:
    """Return which rules refuse a score that somebody writes; `own`: the service itself."""
    (guard,) = guards(SETTING)["Observation"]
    change = Change("update", "Observation", "o", before, after)

    def judge() -> None:
        with own_work() if own else nullcontext():
            asyncio.run(guard(change, None))  # type: ignore[arg-type]

    return lambda: refused_by(judge)


SCORE = {"resourceType": "Observation", "status": "final", "valueQuantity": {"value": 3}}


def answers(subject: Any = None) -> Callable[[], set[str]]:
    response = {"resourceType": "QuestionnaireResponse", "status": "completed"}
    return lambda: refused_by(lambda: whose(response if subject is None else {**response, "subject": subject}))


RECORD = {
    "O-SCORE": [
        Case("positive", "posted", score(None, SCORE), True),
        Case("positive", "deleted", score(SCORE, None), True),
        Case("negative", "made from its answers", score(None, SCORE, own=True), False),
        Case("boundary", "put back as it is", score(SCORE, SCORE), True),
        Case("not known", "without a value", score(None, {"resourceType": "Observation"}), True),
    ],
    "O-SUBJECT": [
        Case("positive", "of a group", answers({"reference": "Group/1"}), True),
        Case("negative", "of a patient", answers({"reference": "Patient/ada"}), False),
        Case("boundary", "of a patient, by a whole address", answers({"reference": "https://x/fhir/Patient/a"}), False),
        Case("boundary", "a patient without an id", answers({"reference": "Patient"}), True),
        Case("not known", "not said", answers(), True),
        Case("not known", "by a name alone", answers({"display": "Ada Moss"}), True),
    ],
}


def sessions(number: int, *, apart: float = 4, checked: float | None = None) -> Callable[[], set[str]]:
    """Return which checks are due after sessions so many days apart, the last now; `checked`: so many days ago."""
    held = [NOW - timedelta(days=apart * one) for one in reversed(range(number))]
    watches = SETTING.policy.surveillance
    done = {} if checked is None else dict.fromkeys(watches, NOW - timedelta(days=checked))
    return lambda: set(due_watches(watches, held, done, NOW))


def after_so_many(name: str) -> list[Case]:
    most = SETTING.policy.surveillance[name].every_sessions
    assert most is not None
    return [
        Case("positive", "twice as many sessions", sessions(2 * most), True),
        Case("negative", "one", sessions(1), False),
        Case("boundary", "as many as the policy has", sessions(most), True),
        Case("boundary", "one less", sessions(most - 1), False),
        Case("boundary", "looked at since", sessions(2 * most, checked=0.5), False),
        Case("not known", "no session is known", sessions(0), False),
    ]


def watch(name: str) -> Any:
    return SETTING.policy.surveillance[name]


def number_of_sessions(name: str) -> list[Case]:
    most, days = watch(name).more_than, watch(name).in_days
    return [
        Case("positive", "far more", sessions(2 * most), True),
        Case("negative", "three", sessions(3), False),
        Case("boundary", "as many as are usual", sessions(most), False),
        Case("boundary", "one more", sessions(most + 1), True),
        Case("boundary", "one more, in a day more", sessions(most + 1, apart=(days + 1) / most), False),
        Case("boundary", "one more, to the day", sessions(most + 1, apart=days / most), True),
        Case("not known", "no session is known", sessions(0), False),
    ]


def spacing_of_sessions(name: str) -> list[Case]:
    days = watch(name).closer_than_hours / 24
    return [
        Case("positive", "a day apart", sessions(2, apart=1), True),
        Case("negative", "a week apart", sessions(2, apart=7), False),
        Case("boundary", "as far as is usual", sessions(2, apart=days), False),
        Case("boundary", "a minute less", sessions(2, apart=days - 1 / 1440), True),
        Case("not known", "there is one only", sessions(1), False),
    ]


def overdue(days: float | None, code: Any, rule: str) -> Callable[[], set[str]]:
    due = {} if days is None else {"restriction": {"period": {"end": zulu(NOW - timedelta(days=days))}}}
    return lambda: {rule} if standing_of({"status": "requested", **due}, NOW, REMINDING) == code else set()


LAST = REMINDING.missed_after_days
SECOND = 1 / 86400
DUE = {
    "overdue": [
        Case("positive", "a day late", overdue(1, OVERDUE, "overdue"), True),
        Case("negative", "a day to go", overdue(-1, OVERDUE, "overdue"), False),
        Case("boundary", "to the moment", overdue(0, OVERDUE, "overdue"), False),
        Case("boundary", "a second late", overdue(SECOND, OVERDUE, "overdue"), True),
        Case("not known", "when it is due", overdue(None, OVERDUE, "overdue"), False),
    ],
    "missed": [
        Case("positive", "long over", overdue(LAST * 2, MISSED, "missed"), True),
        Case("negative", "a day late", overdue(1, MISSED, "missed"), False),
        Case("boundary", "as long as is waited for", overdue(LAST, MISSED, "missed"), False),
        Case("boundary", "a second more", overdue(LAST + SECOND, MISSED, "missed"), True),
        Case("not known", "when it is due", overdue(None, MISSED, "missed"), False),
    ],
}
LONG_TERM = {
    **{name: after_so_many(name) for name, one in SETTING.policy.surveillance.items() if one.every_sessions},
    **{name: number_of_sessions(name) for name, one in SETTING.policy.surveillance.items() if one.more_than},
    **{name: spacing_of_sessions(name) for name, one in SETTING.policy.surveillance.items() if one.closer_than_hours},
}
TABLE = {**RECORD, **LONG_TERM, **DUE}


def rules_of_the_service() -> set[str]:
    """Return the rules that the source of outcomes names, and the checks that its policy has."""
    named = {
        node.value
        for path in Path(str(service.__file__)).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("O-")
    }
    return named | set(SETTING.policy.surveillance)


def test_every_rule_of_outcomes_has_all_four_kinds_of_cases() -> None:
    assert rules_of_the_service() <= set(TABLE)
    assert {rule: KINDS - {case.kind for case in cases} for rule, cases in TABLE.items()} == {
        key: set() for key in TABLE
    }


@pytest.mark.parametrize(
    ("rule", "case"),
    [pytest.param(rule, case, id=f"{rule}-{case.what}") for rule, cases in TABLE.items() for case in cases],
)
def test_each_rule_of_outcomes_speaks_up_in_each_of_its_cases_and_in_no_other(rule: str, case: Case) -> None:
    assert (rule in case.judged()) is case.speaks, case.what
