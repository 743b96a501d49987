"""What an export asks for, out of a URL's parameters or a Parameters resource.

Source: https://hl7.org/fhir/uv/bulkdata/STU2/export.html#query-parameters
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Final, Literal, TypeAlias
from urllib.parse import parse_qsl

import msgspec

from services.gateway.catalog import TYPES
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.outcome import BadRequest, FhirError, Issue
from shared.fhir.query import parse_search
from shared.fhir.search import SearchQuery
from shared.fhir.subset import View, unknown_elements
from shared.store.access import NO_ONES

Level: TypeAlias = Literal["system", "patient", "group"]
Pairs: TypeAlias = Sequence[tuple[str, str]]

NDJSON: Final = "application/fhir+ndjson"
FORMATS: Final = (NDJSON, "application/ndjson", "ndjson")
EXPORTED: Final = TYPES - {"Subscription", "Bundle"}
"""What is exported: Subscriptions and kept Bundles are the server's work with others, no part of the record."""

_NOT_OF_A_SEARCH: Final = "_sort, _count, _include, _revinclude, _total and the like have no place in _typeFilter"
_NEXT_FILTER: Final = re.compile(r",(?=[A-Z][A-Za-z]+\?)")
_ELEMENT: Final = re.compile(r"(?:([A-Z][A-Za-z]+)\.)?([a-z][A-Za-z]*)")


class Asked(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one export asks for.

    Attributes:
        level: all of the record, what is of patients, or of a group's patients.
        request: the URL of the kick-off, for the manifest.
        group: the group's id.
        types: these types; none: all that the caller may see.
        since: what was changed at that time or later.
        filters: by type, searches as in a URL, one of which has to find a resource of the type.
        elements: ``Patient.name``, or ``name`` of every type; none: all.
        ignored: parameters that were not understood, and left out as the caller wished.

    """

    level: Level
    request: str
    group: str = ""
    types: tuple[str, ...] = ()
    since: datetime | None = None
    filters: tuple[tuple[str, str], ...] = ()
    elements: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    def searches(self) -> dict[str, list[SearchQuery]]:
        """Return the filters as searches, by type."""
        found: dict[str, list[SearchQuery]] = {}
        for type_, query in self.filters:
            found.setdefault(type_, []).append(search_of(type_, query))
        return found

    def view(self, type_: str) -> View | None:
        """Return the part of a type's resources that is wanted; None: all."""
        named = [one.rpartition(".") for one in self.elements]
        of_type = frozenset(name for type_named, _, name in named if type_named in ("", type_))
        return View(elements=of_type) if of_type else None


def asked_by(level: Level, pairs: Pairs, *, request: str, group: str = "", lenient: bool = False) -> Asked:
    """Return what parameters ask for.

    Raises:
        BadRequest: with one issue for each that cannot be understood, or is not known and the caller is not lenient.

    """
    issues: list[Issue] = []
    ignored: list[str] = []
    given: dict[str, list[str]] = {}
    for name, text in pairs:
        if name in _KNOWN:
            given.setdefault(name, []).append(text)
        elif lenient:
            ignored.append(name[:64])
        else:
            said = f"$export does not know '{name[:64]}'. It has {', '.join(_KNOWN)}. handling=lenient leaves it out."
            issues.append(Issue(said, code="not-supported", expression=(f"http.{name[:64]}",)))
    types = _split(given.get("_type", ()))
    filters = [part for text in given.get("_typeFilter", ()) for part in _NEXT_FILTER.split(text) if part]
    elements = _split(given.get("_elements", ()))
    for name, problems in (
        ("_outputFormat", _formats(given.get("_outputFormat", ()))),
        ("_type", _types(types, level)),
        ("_typeFilter", _filters(filters, types, level)),
        ("_elements", _elements(elements)),
    ):
        issues += [Issue(one, code="value", expression=(f"http.{name}",)) for one in problems]
    since = _since(given.get("_since", ()), issues)
    if issues:
        raise BadRequest(issues)
    pairs_of_filters = tuple((type_, query) for type_, _, query in (one.partition("?") for one in filters))
    return Asked(level, request, group, types, since, pairs_of_filters, elements, tuple(dict.fromkeys(ignored)))


_KNOWN: Final = ("_outputFormat", "_since", "_type", "_typeFilter", "_elements")


def given_in(parameters: Resource) -> list[tuple[str, str]]:
    """Return names and values of a Parameters resource, as text.

    Raises:
        BadRequest: it is none.

    """
    listed = parameters.get("parameter", [])
    if parameters.get("resourceType") != "Parameters" or not isinstance(listed, list):
        raise BadRequest("The body of $export is a Parameters resource.", expression=["http.body"])
    pairs = []
    for one in listed:
        if not isinstance(one, dict) or not isinstance(one.get("name"), str):
            raise BadRequest("A parameter has a name and a value.", expression=["Parameters.parameter"])
        value = next((one[member] for member in one if member.startswith("value")), None)
        if isinstance(value, dict):  # `patient` of a POST is a reference
            value = value.get("reference")
        if not isinstance(value, str):
            raise BadRequest(f"The parameter '{one['name'][:64]}' is a text.", expression=["Parameters.parameter"])
        pairs.append((one["name"], value))
    return pairs


def search_of(type_: str, query: str) -> SearchQuery:
    """Return a filter as a search.

    Raises:
        BadRequest: it is none, or asks for more than a condition.

    """
    pairs = parse_qsl(query, keep_blank_values=True, max_num_fields=50)
    found = parse_search(type_, pairs, strict=True)
    names = {name.partition(":")[0] for name, _ in pairs}
    if found.includes or found.sort or found.explain or names & {"_count", "_total", "_contained"}:
        raise BadRequest(_NOT_OF_A_SEARCH, code="not-supported")
    return found


def _split(texts: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(one.strip() for text in texts for one in text.split(",") if one.strip()))


def _formats(texts: Sequence[str]) -> list[str]:
    wrong = [text for text in texts if text.replace(" ", "+") not in FORMATS]
    return [f"'{text[:64]}' is no format of $export. It has {NDJSON}." for text in wrong]


def _types(types: Sequence[str], level: Level) -> list[str]:
    unknown = [one[:64] for one in types if one not in EXPORTED]
    if unknown:
        return [f"What is not exported here: {', '.join(unknown)}."]
    outside = [one for one in types if level != "system" and one in NO_ONES]
    return [f"{', '.join(outside)}: of nobody's record. Ask for it by $export of the whole."] if outside else []


def _filters(filters: Sequence[str], types: Sequence[str], level: Level) -> list[str]:
    problems = []
    for one in filters:
        type_, asks, query = one.partition("?")
        wrong = _types((type_,), level) if asks and query else [f"'{one[:64]}' is not Type?search."]
        if not wrong and types and type_ not in types:
            wrong = [f"{type_} is not among the types of _type."]
        if not wrong:
            try:
                search_of(type_, query)
            except FhirError as error:
                wrong = [f"{type_}: {issue.diagnostics}" for issue in error.issues]
            except ValueError:
                wrong = [f"{type_}: the search has too many parameters."]
        problems += wrong
    return problems


def _elements(elements: Sequence[str]) -> list[str]:
    problems = []
    for one in elements:
        found = _ELEMENT.fullmatch(one)
        if found is None or (found[1] is not None and found[1] not in EXPORTED):
            problems.append(f"'{one[:64]}' is not an element, as name or Patient.name.")
        elif found[1] is not None and unknown_elements(View(elements=frozenset((found[2],))), found[1]):
            problems.append(f"{found[1]} has no element {found[2][:64]}.")
    return problems


def _since(texts: Sequence[str], issues: list[Issue]) -> datetime | None:
    try:
        if len(texts) > 1 or any("T" not in text for text in texts):
            raise ValueError
        return interval(texts[0].replace(" ", "+"))[0] if texts else None
    except ValueError:
        issues.append(Issue("_since is one instant: 2026-11-22T10:00:00Z.", code="value", expression=("http._since",)))
        return None
