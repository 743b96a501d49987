"""Answers to the clinic's own forms that say that a patient may be at risk of suicide, and what settles them.

Pure values and functions; `shared.runtime.raising_risk` raises. The policy's section is `suicidality`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

import msgspec

from shared.fhir.cited import Cited, Term
from shared.fhir.dates import interval, zulu
from shared.fhir.json import Resource

FORM: Final = "form"
"""What the names end in of what is raised for answers to a form."""
_PRECISE: Final = timedelta(minutes=1)
ANSWERS: Final = "answers"
"""What an output of a Task is that names the answers by which it was done."""
TOOK_DOWN: Final = "Flag taken down"
"""What an output of a Task is that names the answers by which its Flag was taken down."""


class FormAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename={"says": "is"}):
    """An answer of yes or no which says that a patient may be at risk."""

    questionnaire: str
    link: str
    says: bool


class Screeners(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """By which code the level of risk of a screener is told, and which value says that there is none."""

    level: Term
    none: Term


class Forms(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The section `suicidality`: the answers that are a sign, and the Task they call for.

    Attributes:
        within_days: older answers are history, and call for nobody.
        answers: that are a sign; one to such an item that is neither yes nor no is one, too.
        task, title, within_hours, advice: the Task's code, the code in words, when it is due, what to do.
        screeners: what ends it.

    """

    within_days: int
    answers: tuple[FormAnswer, ...]
    task: str
    title: str
    within_hours: int
    advice: str
    screeners: Screeners


@dataclass(frozen=True, slots=True)
class Said:
    """The items (linkId) that are a sign, and those whose answer cannot be read."""

    signs: tuple[str, ...]
    not_understood: tuple[str, ...]

    def __str__(self) -> str:
        """Return it as people read it."""
        positive = f"positive ({', '.join(self.signs)})" if self.signs else ""
        unread = f"not understood ({', '.join(self.not_understood)})" if self.not_understood else ""
        told = " and ".join(one for one in (positive, unread) if one)
        return f"the answer about suicidal thoughts or behaviour is {told}"


@dataclass(frozen=True, slots=True)
class Run:
    """A screener that a clinician ran: its answers (``QuestionnaireResponse/id``), by whom, when, if without risk."""

    answers: str
    by: Mapping[str, Any]
    when: datetime
    calm: bool

    def output(self, what: str) -> dict[str, Any]:
        """Return the output of a Task that names it."""
        return {"type": {"text": what}, "valueReference": {"reference": self.answers}}


def items_of(response: Resource) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    """Yield linkId and answers of a QuestionnaireResponse's items, at every depth."""
    yield from _items(response.get("item", []))


def _items(items: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, Sequence[Mapping[str, Any]]]]:
    """Yield linkId and answers at every depth; of a linkId that is a path (``/group/44260-8``) the last part."""
    for item in items:
        answers = item.get("answer", [])
        yield str(item.get("linkId", "")).rstrip("/").rpartition("/")[-1], answers
        yield from _items(item.get("item", []))
        for answer in answers:
            yield from _items(answer.get("item", []))


def said_in(response: Resource | None, forms: Forms) -> Said | None:
    """Return what a response to a form says, at every status but entered-in-error; None: nothing of risk."""
    if response is None or response["status"] == "entered-in-error":
        return None
    form = str(response.get("questionnaire", "")).partition("|")[0]
    asked = {one.link: one.says for one in forms.answers if one.questionnaire == form}
    signs, odd = set(), set()
    for link, answers in items_of(response):
        for answer in answers if link in asked else ():
            said = answer.get("valueBoolean")
            if not isinstance(said, bool):
                odd.add(link)
            elif said is asked[link]:
                signs.add(link)
    return Said(tuple(sorted(signs)), tuple(sorted(odd))) if signs or odd else None


def since(runs: Iterable[Run], given: str | None) -> list[Run]:
    """Return the screeners that were run no earlier than answers were given; none where nobody knows when that was.

    Answers of a day were given by its end: which screener of the day came after them, nobody knows.
    """
    return [] if given is None else [one for one in runs if one.when >= _by(given)]


def _by(given: str) -> datetime:
    low, high = interval(given)
    return high if high - low > _PRECISE else low


def asked_from(task: Mapping[str, Any], answers: Resource | None) -> str | None:
    """Return from when on a screener ends a Task that was raised for answers: since they were given.

    It says so itself where they were amended; of answers of a day it is known when they called.
    """
    said, given = task.get("restriction", {}).get("period", {}).get("start"), (answers or {}).get("authored")
    raised: str | None = task.get("authoredOn")
    if said is None and given is not None and raised is not None and interval(raised)[0] < _by(given):
        return raised if interval(given)[0] < _by(given) else str(given)
    return said or given or raised


def given_at(response: Resource, now: datetime, *, amended: bool) -> str | None:
    """Return when answers were given; None: they do not say.

    `amended`: they say something else than the version before, so they count from when that was written.
    """
    written: str | None = response.get("meta", {}).get("lastUpdated")
    return (written or zulu(now)) if amended else response.get("authored")
