"""`DocumentReference/$docref` of US Core: the current documents of a patient, by type and by time of care.

The time of care is `context.period`, or (of a document that does not say it) its `date`. No document is made on demand:
`on-demand=true`, which asks for such only, finds none.

Source: http://hl7.org/fhir/us/core/STU7/OperationDefinition-docref.html
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import msgspec

from shared.fhir.dates import MAX_INSTANT, MIN_INSTANT, interval
from shared.fhir.outcome import BadRequest
from shared.fhir.query import parse_search
from shared.http import bundle
from shared.http.backend import OperationResult
from shared.http.operations.kinds import reading, texts

if TYPE_CHECKING:
    from collections.abc import Sequence

    from shared.http.backend import Backend, RequestContext
    from shared.runtime.service import OperationCall
    from shared.store.types import Stored

PARAMETERS: Final = ("patient", "start", "end", "type", "on-demand", "profile")


class _Period(msgspec.Struct):
    start: str = ""
    end: str = ""


class _Context(msgspec.Struct):
    period: _Period | None = None


class _Document(msgspec.Struct):
    date: str = ""
    context: _Context | None = None


_decoder: Final = msgspec.json.Decoder(_Document)


async def _docref(call: OperationCall, backend: Backend, context: RequestContext) -> OperationResult:
    given = texts(call, PARAMETERS)
    by_name = {name: [value for known, value in given if known == name] for name in PARAMETERS}
    for name in ("patient", "start", "end", "on-demand"):
        if len(by_name[name]) > 1 or (name == "patient" and not by_name[name]):
            raise BadRequest(f"$docref has one {name}.", code="required", expression=[f"http.{name}"])
    if by_name["on-demand"] not in ([], ["true"], ["false"]):
        raise BadRequest("on-demand is true or false.", code="value", expression=["http.on-demand"])
    span = span_of(next(iter(by_name["start"]), None), next(iter(by_name["end"]), None))
    found: list[Stored] = []
    if by_name["on-demand"] != ["true"]:
        found = await _current(backend, context, by_name)
    url = f"{context.base_url}/DocumentReference/$docref?{urlencode(given)}"
    entries = within(found, span)
    return OperationResult(bundle.searchset(context.base_url, entries, links=[("self", url)], total=len(entries)))


async def _current(backend: Backend, context: RequestContext, given: dict[str, list[str]]) -> list[Stored]:
    patient = given["patient"][0].removeprefix("Patient/")
    pairs = [("patient", f"Patient/{patient}"), ("status", "current"), ("_sort", "-date"), ("_count", "1000")]
    if given["type"]:
        pairs.append(("type", ",".join(given["type"])))
    if given["profile"]:
        pairs.append(("_profile", ",".join(given["profile"])))
    query = parse_search("DocumentReference", pairs, strict=True, base=context.base_url)
    found: list[Stored] = []
    cursor: str | None = None
    while True:
        page = await backend.search(context, query, cursor=cursor)
        found.extend(page.entries)
        cursor = page.next
        if cursor is None:
            return found


def span_of(start: str | None, end: str | None) -> tuple[datetime, datetime] | None:
    """Return the half-open interval of care that is asked for; None: any, and documents without one, too.

    Raises:
        BadRequest: what is no time.

    """
    if start is None and end is None:
        return None
    bounds = [MIN_INSTANT, MAX_INSTANT]
    for place, (name, text) in enumerate((("start", start), ("end", end))):
        if text is not None:
            try:
                bounds[place] = interval(text)[place]
            except ValueError:
                raise BadRequest(f"{name} is not a time.", code="value", expression=[f"http.{name}"]) from None
    return bounds[0], bounds[1]


def within(documents: Sequence[Stored], span: tuple[datetime, datetime] | None) -> list[Stored]:
    """Return the documents of care in `span`."""
    if span is None:
        return list(documents)
    kept = []
    for stored in documents:
        said = _decoder.decode(stored.body)
        period = None if said.context is None else said.context.period
        if period is None:
            period = _Period(said.date, said.date)
        low = interval(period.start)[0] if period.start else MIN_INSTANT
        high = interval(period.end)[1] if period.end else MAX_INSTANT
        if low < span[1] and high > span[0]:
            kept.append(stored)
    return kept


DOCREF: Final = reading(
    "docref",
    "DocumentReference",
    "type",
    _docref,
    documentation=f"The current documents of a patient, by time of care and type. Parameters: {', '.join(PARAMETERS)}.",
    definition="http://hl7.org/fhir/us/core/OperationDefinition/docref",
)
