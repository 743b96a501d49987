"""The monitoring form of the Spravato REMS, filled from the session; what is missing is named. Pure functions.

Source: Spravato REMS Patient Monitoring Form. An answer that only a person can give is left to him, and kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

import msgspec

from services.sessions.rules.checks import Check
from services.sessions.rules.gate import Minutes
from services.sessions.rules.monitoring import MonitoringPolicy, covers, minutes_from
from services.sessions.rules.readings import Limit, Reading, with_code
from shared.fhir.cited import Cited
from shared.fhir.codes import DIASTOLIC, SYSTOLIC

REQUIRED: Final = (
    "patient-name",
    "birth-date",
    "sex",
    "first-treatment",
    "enrolled",
    "setting",
    "setting-name",
    "setting-address",
    "professional",
    "professional-phone",
    "professional-email",
    "treatment-date",
    "dose-mg",
    "lot",
    "monitoring-minutes",
    "ready-minutes",
    "vitals-before",
    "vitals-end",
    "systolic-before",
    "diastolic-before",
    "systolic-40",
    "diastolic-40",
    "systolic-end",
    "diastolic-end",
    "benzodiazepine",
    "hypnotic",
    "psychostimulant",
    "maoi",
    "sedation",
    "dissociation",
    "oximetry",
    "respiratory-depression",
    "serious-event",
)
"""linkIds of the form's required items."""

WHERE_IT_OCCURRED: Final[Mapping[str, str]] = {
    f"{what}-{when}": what for what in ("sedation", "dissociation") for when in ("onset", "resolution")
}
"""linkIds of what is required where another item is answered yes: minutes from the first device."""

OCCURRED: Final = ("sedation", "dissociation", "respiratory-depression", "serious-event")
"""linkIds of what a person may have seen that no reading shows: his yes stands."""


class Submit(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Within how many days the form is to be sent, and how."""

    days: int
    advice: str


class Beyond(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Beyond which value of a rating something occurred: its codes (LOINC, or KAP's own) and units (UCUM)."""

    codes: tuple[str, ...]
    units: tuple[str, ...]
    above: Decimal | None = None
    below: Decimal | None = None


class Occurring(Cited, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """When the session itself says that something occurred.

    Attributes:
        due: what of the cadence (`monitoring.due`) looks for it: that it did not is said where all of it is there.
        ratings: beyond one of these it did. alarms: rules of `alarms.limits`, beyond one of which it did.

    """

    due: str
    ratings: tuple[Beyond, ...] = ()
    alarms: tuple[str, ...] = ()


class RemsPolicy(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The section `rems`."""

    submit: Submit
    report: Submit
    pressure_at: Minutes
    occurred: dict[str, Occurring]


@dataclass(frozen=True, slots=True)
class Session:
    """What a session says of itself: first device, end of monitoring, and the readings."""

    first: datetime
    end: datetime | None
    readings: Sequence[Reading]

    def since(self) -> list[Reading]:
        """Return what was read after the first device and until the end, oldest first; what is timed and counts."""
        found = [
            (one.when, one)
            for one in self.readings
            if one.timed and one.trusted and one.when is not None and self.first < one.when
            if self.end is None or one.when <= self.end
        ]
        return [one for _, one in sorted(found, key=lambda each: each[0])]


def pressures(session: Session, near: timedelta, at: timedelta, leaving: timedelta) -> dict[str, Decimal]:
    """Return the blood pressures before, about `at` after the first device (within `near`), and before completion.

    Before completion is not longer before the end than `leaving`, and not known while the session goes on.
    """
    found: dict[str, Decimal] = {}
    for name, code in (("systolic", SYSTOLIC.code), ("diastolic", DIASTOLIC.code)):
        charted = sorted(
            (one.when, value.number)
            for one in with_code(session.readings, [code])
            if one.timed and one.trusted and not one.sampled and one.when is not None
            if (value := one.value_in(("mm[Hg]",))) is not None and value.comparator is None
        )
        before = [value for when, value in charted if when <= session.first]
        middle = [(abs(when - session.first - at), value) for when, value in charted if when > session.first]
        end = session.end or session.first
        after = [value for when, value in charted if when > session.first and end - leaving <= when <= end]
        if before:
            found[f"{name}-before"] = before[-1]
        if middle and min(middle)[0] <= near:
            found[f"{name}-40"] = min(middle)[1]
        if after:
            found[f"{name}-end"] = after[-1]
    return found


def minutes_watched(session: Session, minute: timedelta) -> int | None:
    """Return the whole minutes from the first device to the end of monitoring; None: it has not ended."""
    return None if session.end is None else (session.end - session.first) // minute


def acceptable(checks: Sequence[Check], rules: frozenset[str]) -> bool | None:
    """Tell whether the vital signs before the dose were acceptable, by the gate's checks of `rules` at its time.

    None: one was not known, or a prescriber decided on it: a person says it.
    """
    verdicts = {check.verdict for check in checks if check.rule in rules}
    if "closed" in verdicts:
        return False
    return True if verdicts == {"open"} else None


def occurred(
    what: str, session: Session, limits: Sequence[Limit], due: tuple[str, Sequence[int]], policy: MonitoringPolicy
) -> dict[str, Any]:
    """Return whether something occurred, and its minutes of onset and resolution from the first device, by linkId.

    Args:
        what: linkId of the item.
        session: its readings.
        limits: beyond one of which it occurred.
        due: what looks for it, and at which minutes it is due (`monitoring.cadences`).
        policy: of the watching.

    That it did not occur is said once the session has ended, and where nothing is lacking of what was due until then.
    Of a device's feed beyond a limit, which may be a probe that came off, a person says what it was. Resolved it is by
    the first rating within the limits after the last beyond them.

    """
    since = session.since()
    rated = [
        (one, limit, value)
        for one in since
        for limit in limits
        if with_code([one], limit.codes) and (value := one.value_in(limit.units)) is not None
    ]
    charted = [
        (minutes_from(session.first, one.when), limit.is_beyond(value), limit.may_be_beyond(value))
        for one, limit, value in rated
        if not one.sampled and one.when is not None
    ]
    beyond = [place for place, (_, is_beyond, _) in enumerate(charted) if is_beyond]
    if beyond:
        within = [minute for minute, _, may_be in charted[beyond[-1] + 1 :] if not may_be]
        timed = {f"{what}-onset": charted[beyond[0]][0], **({f"{what}-resolution": within[0]} if within else {})}
        return {what: True, **{link: minute for link, minute in timed.items() if link in WHERE_IT_OCCURRED}}
    kind, minutes = due
    times = [session.first + timedelta(minutes=one) for one in minutes]
    until = [one for one in times if session.end is not None and one <= session.end]
    taken = [one for one in since if not one.sampled]
    looked = bool(until) and all(covers(taken, one, policy, kind) is not None for one in until)
    unclear = any(limit.may_be_beyond(value) for _, limit, value in rated)
    return {what: False} if looked and not unclear else {}


def limits_of(occurring: Occurring, alarms: Mapping[str, Limit]) -> list[Limit]:
    """Return the limits beyond which something occurred."""
    rated = [
        Limit(
            rule="G-REMS-FORM",
            title="",
            advice="",
            codes=one.codes,
            units=one.units,
            above=one.above,
            below=one.below,
            source=occurring.source,
            verified=occurring.verified,
        )
        for one in occurring.ratings
    ]
    return [*rated, *(one for one in alarms.values() if one.rule in occurring.alarms)]


def together(kept: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
    """Return the answers of a form: what the session says, else what stood there; a person's yes stands beside its no.

    Of what did not occur there is neither onset nor resolution.
    """
    answers = {**kept, **found}
    answers.update({link: True for link in OCCURRED if kept.get(link) is True})
    not_there = {link for link, what in WHERE_IT_OCCURRED.items() if answers.get(what) is not True}
    return {link: answer for link, answer in answers.items() if link not in not_there}


def missing(answers: Mapping[str, Any]) -> list[str]:
    """Return the required items that have no answer; of what occurred its onset and resolution, too."""
    asked = (*REQUIRED, *(link for link, what in WHERE_IT_OCCURRED.items() if answers.get(what) is True))
    return [link for link in asked if answers.get(link) is None]
