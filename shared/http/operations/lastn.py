"""`Observation/$lastn`: of each code the newest observations of a patient.

Two observations are of the same code where a coding of theirs is the same, or (without codings) the text.

Source: https://hl7.org/fhir/R4/observation-operation-lastn.html
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

import msgspec

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

PAGE: Final = 1000
MOST: Final = 1000
_OF_THE_ANSWER: Final = frozenset(("_count", "_sort", "_total", "_include", "_revinclude"))


class _Coding(msgspec.Struct):
    system: str = ""
    code: str = ""


class _Code(msgspec.Struct):
    coding: tuple[_Coding, ...] = ()
    text: str = ""


class _Reference(msgspec.Struct):
    reference: str = ""


class _Coded(msgspec.Struct):
    code: _Code | None = None
    medicationCodeableConcept: _Code | None = None  # noqa: N815 - FHIR's name
    medicationReference: _Reference | None = None  # noqa: N815 - FHIR's name


_decoder: Final = msgspec.json.Decoder(_Coded)


def _kinds(body: bytes) -> list[tuple[str, str]]:
    """Return what a resource is about, as what tells two of a kind: its codings, else a text or a reference."""
    said = _decoder.decode(body)
    concept = said.code or said.medicationCodeableConcept or _Code()
    named = concept.text or ("" if said.medicationReference is None else said.medicationReference.reference)
    return [(coding.system, coding.code) for coding in concept.coding] or [("", named)]


async def _lastn(call: OperationCall, backend: Backend, context: RequestContext) -> OperationResult:
    given = texts(call)
    pairs = [pair for pair in given if pair[0] != "max"]
    most = _most([value for name, value in given if name == "max"])
    for name, _ in pairs:
        if name.partition(":")[0] in _OF_THE_ANSWER:
            raise BadRequest(
                f"$lastn has no {name}: it answers with all there is, the newest first.",
                code="not-supported",
                expression=[f"http.{name}"],
            )
    if not any(name.partition(":")[0].partition(".")[0] in {"patient", "subject"} for name, _ in pairs):
        raise BadRequest(
            "$lastn is asked of one patient: give patient, and category or code.",
            code="required",
            expression=["http.patient"],
        )
    query = parse_search(
        "Observation",
        [*pairs, ("_sort", "-date"), ("_count", str(PAGE))],
        strict=not context.lenient,
        base=context.base_url,
    )
    newest = Newest(most)
    cursor: str | None = None
    while True:
        page = await backend.search(context, query, cursor=cursor)
        newest.take(page.entries)
        cursor = page.next
        if cursor is None:
            break
    url = f"{context.base_url}/Observation/$lastn?{urlencode(given)}"
    entries = newest.entries()
    return OperationResult(bundle.searchset(context.base_url, entries, links=[("self", url)], total=len(entries)))


class Newest:
    """Takes observations, or what else has a code or a medication, newest first, and keeps of each code so many."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._groups: list[list[Stored]] = []
        self._group_of: dict[tuple[str, str], int] = {}

    def take(self, observations: Sequence[Stored]) -> None:
        """Take further ones, older than those before."""
        for stored in observations:
            keys = _kinds(stored.body)
            number = next((self._group_of[key] for key in keys if key in self._group_of), len(self._groups))
            if number == len(self._groups):
                self._groups.append([])
            for key in keys:
                self._group_of.setdefault(key, number)
            if len(self._groups[number]) < self._most:
                self._groups[number].append(stored)

    def entries(self) -> list[Stored]:
        """Return what was kept, code by code, those with the newest observation first."""
        return [stored for group in self._groups for stored in group]


def _most(given: list[str]) -> int:
    if not given:
        return 1
    if len(given) > 1 or not given[0].isdecimal() or len(given[0]) > 9 or not 1 <= int(given[0]) <= MOST:
        raise BadRequest(f"max is a number from 1 to {MOST}.", code="value", expression=["http.max"])
    return int(given[0])


LASTN: Final = reading(
    "lastn",
    "Observation",
    "type",
    _lastn,
    documentation="Of each code the newest observations of a patient. Parameters: max, and those of a search.",
    definition="http://hl7.org/fhir/OperationDefinition/Observation-lastn",
)
