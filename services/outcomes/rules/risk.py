"""What answers say about the risk of suicide. What is not known is never taken for a no.

A response need not be complete: one positive answer is enough, at every status but `entered-in-error`.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

import msgspec

from services.outcomes.rules.instruments import Instrument, Level, Risk
from services.outcomes.rules.scoring import Answers, items_of
from shared.fhir.cited import Cited
from shared.fhir.json import Resource


class FormAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"says": "is"}):
    """An answer of yes or no, to a form that is no instrument, which says that a patient may be at risk."""

    questionnaire: str
    link: str
    says: bool


class Elsewhere(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What answers say that are kept by other services: `answers` to forms, and to items of the instruments.

    Attributes:
        within_days: older ones are history, and call for nobody.
        answers: that are a sign.
        level: what such an answer calls for.

    """

    within_days: int
    answers: tuple[FormAnswer, ...]
    level: Level


@dataclass(frozen=True, slots=True)
class AtRisk:
    """The gravest level that the answers reach, and why.

    Attributes:
        level: reached.
        signs: the items that are signs of it.
        not_understood: the items that cannot be read.
        answers: the gravest answer to each of the signs.

    """

    level: Level
    signs: tuple[str, ...]
    not_understood: tuple[str, ...] = ()
    answers: tuple[int, ...] = ()


def risk_of(answers: Answers, instrument: Instrument, *, final: bool) -> AtRisk | None:
    """Return the level of risk, None where nothing calls for a person.

    An answer about risk that cannot be read counts as `Risk.not_understood` says; and, where the answers are final, so
    does a missing one beside answers to items that the instrument does not have: it may be among them.
    """
    risk = instrument.risk
    if risk is None:
        return None
    odd = tuple(sorted(item for item in risk.items if None in answers.given.get(item, ())))
    unanswered = [item for item in risk.items if item not in answers.given and item not in instrument.needed_if]
    if final and answers.unknown and unanswered:
        odd = (*odd, *sorted(unanswered))
    for level in risk.levels:
        signs = tuple(sign.item for sign in level.signs if _shows(answers, sign.item, sign.at_least, sign.unless))
        unread = odd if level.name == risk.not_understood else ()
        if signs or unread:
            worst = tuple(max(value for value in answers.given[item] if value is not None) for item in signs)
            return AtRisk(level, signs, unread, worst)
    return None


def _shows(answers: Answers, item: str, at_least: int, unless: str | None) -> bool:
    """Tell whether any answer to the item is as grave; of two different answers the graver counts."""
    if not any(value is not None and value >= at_least for value in answers.given.get(item, ())):
        return False
    return unless is None or answers.given.get(unless) != (0,)


def is_settled(found: AtRisk | None, missing: Container[str], risk: Risk) -> bool:
    """Tell whether the level is known: no answer that is missing could make it a graver one."""
    graver = risk.levels if found is None else risk.levels[: risk.levels.index(found.level)]
    return not any(sign.item in missing for level in graver for sign in level.signs)


def is_graver(now: AtRisk, before: AtRisk | None, risk: Risk) -> bool:
    """Tell whether the risk is another, and no smaller, than at the version before."""
    if before is None:
        return True
    order = [level.name for level in risk.levels]
    return order.index(now.level.name) <= order.index(before.level.name) and now != before


def risk_in_form(response: Resource, elsewhere: Elsewhere) -> AtRisk | None:
    """Return what a response to a form says; an answer to such an item that is neither yes nor no is a sign, too."""
    form = str(response.get("questionnaire", "")).partition("|")[0]
    asked = {one.link: one.says for one in elsewhere.answers if one.questionnaire == form}
    signs, odd = set(), set()
    for link, answers in items_of(response) if response["status"] != "entered-in-error" else ():
        for answer in answers if link in asked else ():
            said = answer.get("valueBoolean")
            if not isinstance(said, bool):
                odd.add(link)
            elif said is asked[link]:
                signs.add(link)
    return AtRisk(elsewhere.level, tuple(sorted(signs)), tuple(sorted(odd))) if signs or odd else None
