"""What answers say about the risk of suicide. What is not known is never taken for a no.

A response need not be complete: one positive answer is enough, at every status but `entered-in-error`.
"""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass

from services.outcomes.rules.instruments import Instrument, Level, Risk
from services.outcomes.rules.scoring import Answers


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


def says_more(now: AtRisk, before: AtRisk | None, risk: Risk) -> bool:
    """Tell whether the risk is worse than at the version before: a graver level, a further sign, a graver answer."""
    if before is None:
        return True
    order = [level.name for level in risk.levels]
    was = dict(zip(before.signs, before.answers, strict=True))
    worse = any(one not in was or value > was[one] for one, value in zip(now.signs, now.answers, strict=True))
    unread = not set(now.not_understood) <= set(before.not_understood)
    return order.index(now.level.name) < order.index(before.level.name) or worse or unread
