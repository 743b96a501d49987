"""What is expected of a patient when: what a visit calls for, which Task a response fulfils, what is overdue."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Final, Literal, TypeAlias

import msgspec

from services.outcomes.rules.instruments import Instrument
from services.outcomes.rules.scoring import COUNTED
from shared.fhir.cited import Cited, ValueSet
from shared.fhir.codes import ID_TASK, KAP, Code
from shared.fhir.dates import MAX_INSTANT, interval, zulu
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of, id_in, moment
from shared.fhir.raised import identifier

Anchor: TypeAlias = Literal["course", "arrival", "dose", "dosing", "integration", "end", "series"]
"""What a questionnaire is due after: the course was opened; the patient arrived for a dosing visit; its first dose was
given; a dosing visit ended; an integration visit ended; the course is followed up, or finished; its last dose."""

OVERDUE: Final = Code(KAP, "overdue", "Overdue")
GROUNDLESS: Final = "What called for it is not true:"
"""How the reason of a Task begins that was cancelled with what had called for it."""
MISSED: Final = Code(KAP, "missed", "Not answered in time")


class Expected(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An instrument that is due some time after an anchor.

    Attributes:
        instrument: its name.
        or_else: other instruments whose answers serve as well.
        after: the anchor.
        minutes, hours, days: added together.
        unless_within_days: not asked where it was answered, or is asked already, in so many days around the due time;
            None: as the instrument's `within_days` says.
        by: who answers it.
        over_later: asked though it is due again later within those days: the later one is put off until they are over.

    """

    instrument: str
    or_else: tuple[str, ...] = ()
    after: Anchor
    minutes: int = 0
    hours: int = 0
    days: int = 0
    unless_within_days: int | None = None
    by: Literal["patient", "clinician"] = "patient"
    over_later: bool = False

    @property
    def delay(self) -> timedelta:
        """How long after the anchor it is due."""
        return timedelta(days=self.days, hours=self.hours, minutes=self.minutes)


class Reminding(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When a patient is reminded, in hours after a questionnaire was due, and when it is given up."""

    hours: tuple[int, ...]
    missed_after_days: int


class Sustained(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How long after the last dose a response must last to be called sustained."""

    days: int


class Baseline(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many days before the first dose a score may be taken for the baseline."""

    days: int


class LookBack(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How many days back the timer looks for sessions that may have made a check due."""

    days: int


class Complaints(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How old a complaint of long-term use may be that calls for its check, and within how many hours that is done."""

    within_days: int
    within_hours: int


class Watch(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A check of long-term use: every so many sessions, so many in a time, or so many days after the last check.

    `complaint`: what a patient complains of that calls for it at once.
    """

    title: str
    task: str
    advice: str
    within_hours: int
    every_sessions: int | None = None
    every_days: int | None = None
    more_than: int | None = None
    in_days: int | None = None
    closer_than_hours: int | None = None
    complaint: ValueSet | None = None


class OutcomesPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `outcomes`."""

    schedule: dict[str, Expected]
    reminders: Reminding
    sustained: Sustained
    baseline: Baseline
    look_back: LookBack
    complaints: Complaints
    surveillance: dict[str, Watch] = msgspec.field(default_factory=dict)


# -- what is asked ----------------------------------------------------------------------------------------------------


def expectation_name(anchor: str, expectation: str) -> dict[str, str]:
    """Return the identifier of the Task for one expectation after one anchor."""
    return identifier(ID_TASK, "expect", anchor, expectation)


def is_burden(
    due: datetime, within: timedelta, instrument: Instrument, responses: Iterable[Resource], tasks: Iterable[Resource]
) -> bool:
    """Tell whether asking at `due` would ask too often: answered, or asked for, less than `within` away from it."""
    answered = (
        moment(one.get("authored"))
        for one in responses
        if one["status"] in COUNTED and _canonical(one.get("questionnaire")) in instrument.canonicals
    )
    asked = (
        _due(one)
        for one in tasks
        if one.get("status") == "requested" and any(_asks(one, canonical) for canonical in instrument.canonicals)
    )
    return any(abs(due - when) < within for when in (*answered, *asked))


def gives_way(task: Resource, due: datetime, within: timedelta, instrument: Instrument) -> bool:
    """Tell whether a Task asks for the instrument later than `due`, less than `within` away, and is open."""
    asked = any(_asks(task, canonical) for canonical in instrument.canonicals)
    return asked and task.get("status") == "requested" and due < _due(task) < due + within


def put_off(task: Resource, until: datetime, now: datetime) -> Resource:
    """Return a Task as due at a later time."""
    when = zulu(until)
    limits = {**task.get("restriction", {}), "period": {"end": when}}
    return {**task, "restriction": limits, "executionPeriod": {"start": when}, "lastModified": zulu(now)}


def is_groundless(task: Resource) -> bool:
    """Tell whether a Task was cancelled since what had called for it was not true, and not by a person."""
    why = str(task.get("statusReason", {}).get("text", ""))
    return task["status"] == "cancelled" and why.startswith(GROUNDLESS)


def _canonical(questionnaire: str | None) -> str:
    return (questionnaire or "").partition("|")[0]


def task_for(
    tasks: Iterable[Resource], response: Resource, canonicals: Sequence[str], among: Collection[str] | None = None
) -> Resource | None:
    """Return the open Task that a response fulfils; `among`: of those with one of these identifiers only.

    The one of the visit that the response names, else the one that was due first; None where nothing is open for the
    instrument, or where the response fulfilled one already. What a clinician is to ask a patient's own answers do not
    fulfil.
    """
    about = f"QuestionnaireResponse/{response['id']}"
    asked = [one for one in tasks if any(_asks(one, canonical) for canonical in canonicals)]
    if any(
        output.get("valueReference", {}).get("reference") == about for one in asked for output in one.get("output", [])
    ):
        return None
    named = [one for one in asked if among is None or any(name["value"] in among for name in one["identifier"])]
    own = any(id_in(response.get("author"), type_) for type_ in ("Patient", "RelatedPerson"))
    waiting = sorted((one for one in named if is_waiting(one) and ("owner" in one or not own)), key=_due)
    visit = id_in(response.get("encounter"), "Encounter")
    same_visit = [one for one in waiting if visit is not None and id_in(one.get("encounter"), "Encounter") == visit]
    return next(iter(same_visit or waiting), None)


def is_waiting(task: Resource) -> bool:
    """Tell whether a Task can still be fulfilled: it is open, or was given up and the answers come late."""
    return task.get("status") == "requested" or (task.get("status") == "failed" and is_marked(task, MISSED))


def _asks(task: Resource, canonical: str) -> bool:
    return any(one.get("valueCanonical") == canonical for one in task.get("input", []))


def _due(task: Resource) -> datetime:
    end = task.get("restriction", {}).get("period", {}).get("end")
    return MAX_INSTANT if end is None else interval(end)[0]


# -- what is overdue --------------------------------------------------------------------------------------------------


def standing_of(task: Resource, now: datetime, reminding: Reminding) -> Code | None:
    """Return whether an open expectation is overdue or missed, None while it is neither."""
    late = now - _due(task)
    if late > timedelta(days=reminding.missed_after_days):
        return MISSED
    return OVERDUE if late > timedelta(0) else None


def reminders_due(task: Resource, now: datetime, reminding: Reminding) -> list[int]:
    """Return the reminders whose time came since the Task was made, by their hours; none for what was charted late."""
    made = moment(task.get("authoredOn"))
    return [hours for hours in reminding.hours if made <= _due(task) + timedelta(hours=hours) <= now]


def is_marked(task: Resource, code: Code) -> bool:
    """Tell whether a Task's business status says so."""
    return code.code in codes_of(task.get("businessStatus"), KAP)


def is_answered(task: Resource) -> bool:
    """Tell whether an expectation was fulfilled: completed, with the answers named; ticked off by hand it is not."""
    return task["status"] == "completed" and any("valueReference" in output for output in task.get("output", []))


def completion(tasks: Iterable[Resource]) -> tuple[int, int]:
    """Return how many expectations were fulfilled, of those that were fulfilled, overdue or missed."""
    ended = [one for one in tasks if one["status"] == "completed" or is_marked(one, OVERDUE) or is_marked(one, MISSED)]
    return sum(is_answered(one) for one in ended), len(ended)


# -- long-term use ----------------------------------------------------------------------------------------------------


def due_watches(
    watches: Mapping[str, Watch], sessions: Sequence[datetime], checked: Mapping[str, datetime], now: datetime
) -> dict[str, str]:
    """Return which checks of long-term use are due, and why.

    Args:
        watches: by name.
        sessions: when each dose visit was, oldest first.
        checked: by name, when the check was last done.
        now: the present.

    """
    found = {}
    for name, watch in watches.items():
        last = checked.get(name)
        since = [one for one in sessions if last is None or one > last]
        why = _why(watch, sessions, since, last, now)
        if why is not None and since:
            found[name] = why
    return found


OVER: Final = frozenset(("inactive", "remission", "resolved", "refuted", "entered-in-error"))
"""Codes of a Condition's clinicalStatus and verificationStatus by which it is none now."""


def complained_of(resource: Resource, watches: Mapping[str, Watch], since: datetime) -> list[str]:
    """Return the checks that a Condition or an AdverseEvent calls for; one from before `since` is history.

    One of which nobody says when it began, or was noted, is of now.
    """
    if resource["resourceType"] == "AdverseEvent":
        said, when = resource.get("event"), resource.get("date")
        is_none = resource.get("actuality") != "actual"
    else:
        said, when = resource.get("code"), resource.get("recordedDate") or resource.get("onsetDateTime")
        status = (resource.get("clinicalStatus"), resource.get("verificationStatus"))
        is_none = any(coding.get("code") in OVER for one in status if one for coding in one.get("coding", []))
    if is_none or (when is not None and interval(when)[1] <= since):
        return []
    return [name for name, one in watches.items() if one.complaint is not None and one.complaint.holds(said)]


def _why(
    watch: Watch, sessions: Sequence[datetime], since: Sequence[datetime], last: datetime | None, now: datetime
) -> str | None:
    if watch.every_sessions is not None and len(since) >= watch.every_sessions:
        return f"{len(since)} sessions since the last check"
    begun = last or (sessions[0] if sessions else now)
    if watch.every_days is not None and now - begun >= timedelta(days=watch.every_days):
        return f"{(now - begun).days} days since the last check"
    if watch.more_than is not None and watch.in_days is not None:
        recent = [one for one in sessions if now - one <= timedelta(days=watch.in_days)]
        if len(recent) > watch.more_than:
            return f"{len(recent)} sessions in {watch.in_days} days"
    if watch.closer_than_hours is not None:
        spacing = timedelta(hours=watch.closer_than_hours)
        if any(later - earlier < spacing for earlier, later in pairwise(since)):
            return f"sessions less than {watch.closer_than_hours} h apart"
    return None
