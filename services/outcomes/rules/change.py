"""What has become of a score since treatment began: response, remission, reliable change, against the right baseline.

The baseline is the last score before the first dose of the course that a score belongs to, unless it is older than the
policy lets it be. Without one, or without a dose, nothing is said: not known is not unchanged. A score of which no more
than the day of the first dose is known is neither before nor after it. `sustained-response`: a response at the end of
the series (the first score after its last dose) and at every score since, so many days later.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, Final

from services.outcomes.rules.instruments import Instrument, Responding, Worsening
from services.outcomes.rules.observations import quantity
from shared.fhir.codes import KAP, Code
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.kap import codes_of

RESPONSE: Final = Code(KAP, "response", "Response against the baseline")
REMISSION: Final = Code(KAP, "remission", "Remission")
IMPROVED: Final = Code(KAP, "reliable-improvement", "Reliable improvement against the baseline")
DETERIORATED: Final = Code(KAP, "reliable-deterioration", "Reliable deterioration against the baseline")
SUSTAINED: Final = Code(KAP, "sustained-response", "Sustained response after the series")
CHANGES: Final = {code.code: code for code in (RESPONSE, REMISSION, IMPROVED, DETERIORATED, SUSTAINED)}
CHANGE: Final = Code(KAP, "change-from-baseline", "Change of the score from the baseline")


@dataclass(frozen=True, slots=True)
class Point:
    """A score: the id of its Observation, when it was measured, and its value.

    `until`: the end of the day, month or year where no more is known of when it was; None: the moment is known.
    """

    id: str
    at: datetime
    value: Decimal
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Series:
    """The doses of a course: when the first visit began, when the last ended; None where it goes on."""

    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class Judging:
    """How old a baseline may be at the first dose, and how long after the last dose a response is sustained."""

    baseline_within: timedelta
    sustained_after: timedelta


@dataclass(frozen=True, slots=True)
class Changed:
    """What a score is against its baseline: the codes that hold, the baseline, and the difference."""

    codes: tuple[Code, ...]
    baseline: Point | None
    difference: Decimal | None


def point_of(observation: Resource, part: str | None = None) -> Point | None:
    """Return the score that an Observation says; None where it says none, not when, or is no longer held to be true.

    `part`: the code of the component that says it; None: its value.
    """
    holder = observation if part is None else _component(observation, part)
    value = holder.get("valueQuantity", {}).get("value")
    if (
        value is None
        or "effectiveDateTime" not in observation
        or observation.get("status") not in ("final", "amended", "corrected")
    ):
        return None
    start, end = interval(observation["effectiveDateTime"])
    return Point(
        str(observation["id"]), start, Decimal(value), None if "T" in observation["effectiveDateTime"] else end
    )


def series_of(point: Point, courses: Sequence[Series]) -> Series | None:
    """Return the course whose treatment had begun when a score was measured: the last such."""
    begun = [one for one in courses if one.first <= point.at]
    return max(begun, key=lambda one: one.first, default=None)


def baseline_of(points: Sequence[Point], series: Series, within: timedelta) -> Point | None:
    """Return the last score before the first dose, and no longer `within` it."""
    before = [one for one in points if series.first - one.at <= within and _is_before(one, series.first)]
    return max(before, key=lambda one: one.at, default=None)


def _is_before(one: Point, when: datetime) -> bool:
    return one.at < when if one.until is None else one.until <= when


def changed(
    point: Point,
    points: Sequence[Point],
    courses: Sequence[Series],
    says: Responding,
    judging: Judging,
    *,
    down: bool,
) -> Changed:
    """Judge one score of a patient by all of the same instrument. `down`: lower is better."""
    series = series_of(point, courses)
    baseline = None if series is None else baseline_of(points, series, judging.baseline_within)
    if series is None:
        return Changed((), None, None)
    codes = []
    remits = says.remission_at_most is not None and _is_within(point.value, says.remission_at_most, down=down)
    if baseline is None:
        return Changed((REMISSION,) if remits else (), None, None)
    if _responds(point, baseline, says, down=down):
        codes.append(RESPONSE)
    if remits:
        codes.append(REMISSION)
    gain = baseline.value - point.value if down else point.value - baseline.value
    if says.reliable_points is not None and gain >= says.reliable_points:
        codes.append(IMPROVED)
    if says.reliable_points is not None and -gain >= says.reliable_points:
        codes.append(DETERIORATED)
    since = [one for one in points if series.last <= one.at <= point.at]
    if point.at - series.last >= judging.sustained_after and _is_sustained(point, since, baseline, says, down=down):
        codes.append(SUSTAINED)
    return Changed(tuple(codes), baseline, point.value - baseline.value)


def _is_within(value: Decimal, limit: Decimal, *, down: bool) -> bool:
    return value <= limit if down else value >= limit


def _responds(point: Point, baseline: Point, says: Responding, *, down: bool) -> bool:
    if says.response_share is None or baseline.value <= 0:
        return False
    gain = baseline.value - point.value if down else point.value - baseline.value
    return gain >= says.response_share * baseline.value


def _is_sustained(point: Point, since: Sequence[Point], baseline: Point, says: Responding, *, down: bool) -> bool:
    """Tell whether every score since the last dose responds, and there was one before this."""
    earlier = [one for one in since if one.at < point.at]
    return bool(earlier) and all(_responds(one, baseline, says, down=down) for one in since)


def with_change(observation: Resource, change: Changed, of_parts: Mapping[str, Changed] | None = None) -> Resource:
    """Return a score with what it is against its baseline, in the place of what was said before.

    `of_parts`: the same of its parts, by their codes; it stands in their components.
    """
    of_parts = of_parts or {}
    parts: list[dict[str, Any]] = []
    for one in observation.get("component", []):
        if any(code.endswith(CHANGE.code) for code in codes_of(one.get("code"), KAP)):
            continue
        code = next((code for code in codes_of(one.get("code"), KAP) if code in of_parts), "")
        changed_ = of_parts.get(code, Changed((), None, None))
        parts.append(_saying(one, changed_))
        if changed_.difference is not None:
            change_of = Code(KAP, f"{code}-{CHANGE.code}", f"{CHANGE.display}: {code}")
            parts.append({"code": change_of.concept(), "valueQuantity": quantity(changed_.difference)})
    if change.difference is not None:
        parts.append({"code": CHANGE.concept(), "valueQuantity": quantity(change.difference)})
    from_ = [one for one in observation["derivedFrom"] if not one["reference"].startswith("Observation/")]
    baselines = [one.baseline.id for one in (change, *of_parts.values()) if one.baseline is not None]
    from_.extend({"reference": f"Observation/{id_}"} for id_ in dict.fromkeys(baselines))
    made = {**_saying(observation, change), "component": parts, "derivedFrom": from_}
    return {key: value for key, value in made.items() if value != []}


def _saying(holder: Mapping[str, Any], change: Changed) -> dict[str, Any]:
    """Return an Observation, or a component, with the codes of a change among its interpretations."""
    others = [one for one in holder.get("interpretation", []) if not set(codes_of(one, KAP)) & CHANGES.keys()]
    made = {**holder, "interpretation": [*others, *(code.concept() for code in change.codes)]}
    return {key: value for key, value in made.items() if value != []}


def _component(observation: Resource, code: str) -> Mapping[str, Any]:
    found = (one for one in observation.get("component", []) if code in codes_of(one.get("code"), KAP))
    return next(found, {})


def is_worsening(
    point: Point, points: Sequence[Point], courses: Sequence[Series], instrument: Instrument, judging: Judging
) -> str | None:
    """Return why a score calls for a prescriber, None where it does not.

    It is higher than the one before by `Worsening.points`, or it and those before it, `in_a_row`, are each a reliable
    deterioration against the baseline.
    """
    rule: Worsening | None = instrument.worsening
    says = instrument.change
    if rule is None or says is None:
        return None
    before = sorted((one for one in points if one.at < point.at), key=lambda one: one.at)
    if before and point.value - before[-1].value >= rule.points:
        return f"{point.value} after {before[-1].value}: worse by {point.value - before[-1].value}"
    row = [*before, point][-rule.in_a_row :]
    worse = [DETERIORATED in changed(one, points, courses, says, judging, down=True).codes for one in row]
    if len(row) == rule.in_a_row and all(worse):
        return f"{rule.in_a_row} reliable deteriorations in a row"
    return None
