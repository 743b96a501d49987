"""Conditions of a write: `If-None-Exist`, ``PUT Patient?identifier=...``, a reference ``Patient?identifier=...``.

A condition may use what the resource itself says, so that its owner can decide on it under one lock, whatever it holds
of others. Chains, `_has` and what searches text or lists are refused, as are result parameters such as `_sort`.

Source: https://hl7.org/fhir/R4/http.html#ccreate, https://hl7.org/fhir/R4/http.html#cond-update
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final
from urllib.parse import parse_qsl, urlencode

from shared.fhir.index import IndexRows
from shared.fhir.outcome import BadRequest, PreconditionFailed
from shared.fhir.query import parse_search
from shared.fhir.search import Criterion, SearchQuery, TokenValue

_MOST_PARAMETERS: Final = 50
_RESULTS: Final = frozenset(
    ("_sort", "_count", "_total", "_include", "_revinclude", "_summary", "_elements", "_contained", "_containedType")
)
_BEYOND_THE_RESOURCE: Final = frozenset(
    ("_has", "_list", "_filter", "_query", "_text", "_content", "_type", "_explain")
)
_LOOKED_UP: Final = frozenset(("in", "not-in", "above", "below"))


def parse_condition(type_: str, said: str | bytes, *, where: str) -> SearchQuery:
    """Return the search that a condition asks for: ``identifier=a|1``, also with ``Patient?`` or ``?`` before it.

    `where` is the place of the condition, for the issues: ``http.if-none-exist``.

    Raises:
        BadRequest: not a search, one without criteria, or one that asks for more than the resource itself says.

    """
    try:
        text = said.decode() if isinstance(said, bytes) else said
        pairs = parse_qsl(
            text.rpartition("?")[2], keep_blank_values=True, errors="strict", max_num_fields=_MOST_PARAMETERS
        )
    except ValueError:
        raise BadRequest("The condition cannot be read as the parameters of a search.", expression=[where]) from None
    return condition_of(type_, pairs, where=where)


def condition_of(type_: str, pairs: Sequence[tuple[str, str]], *, where: str) -> SearchQuery:
    """As `parse_condition`, of decoded pairs of name and value."""
    for name, _ in pairs:
        code, _, modifier = name.partition(":")
        if code in _RESULTS:
            raise BadRequest(
                f"A condition says which resource is meant; '{code}' says how to show results. Leave it out.",
                code="not-supported",
                expression=[where],
            )
        if code in _BEYOND_THE_RESOURCE or "." in name or modifier in _LOOKED_UP:
            raise BadRequest(
                f"'{name}' looks beyond the resource and cannot be part of a condition. Use what the resource itself "
                "says, best an identifier: identifier=system|value.",
                code="not-supported",
                expression=[where],
            )
    if not pairs:
        raise BadRequest(
            "The condition has no search parameter: it would mean every resource.", expression=[where], code="required"
        )
    try:
        query = parse_search(type_, pairs, strict=True)
    except BadRequest as error:
        raise BadRequest([replace(issue, expression=(where,)) for issue in error.issues]) from None
    return replace(query, count=2, total="none")


def claim_of(condition: SearchQuery) -> str:
    """Return the text under which racing writers of one condition wait for each other."""
    said = "&".join(sorted(f"{name}={value}" for name, value in condition.given))
    return f"{condition.type}?{said}"


def as_query(condition: SearchQuery) -> str:
    """Return the condition as it stands in a URL behind the ``?``."""
    return urlencode(condition.given)


def ambiguous(condition: SearchQuery, *, where: str) -> PreconditionFailed:
    """Return the refusal where several resources match, or one that the caller may not see: the answer is the same."""
    return PreconditionFailed(
        f"The condition does not name exactly one {condition.type}: nothing was changed. Use a condition that can "
        "match one only, such as identifier=system|value.",
        code="multiple-matches",
        expression=[where],
    )


def conditional_reference(literal: str) -> tuple[str, str] | None:
    """Return type and search of a conditional reference, ``Patient?identifier=a|1``; None for any other reference."""
    type_, asks, query = literal.partition("?")
    if not asks or not type_.isalpha() or not type_[0].isupper():
        return None
    return type_, query


def may_find(condition: SearchQuery, index: IndexRows) -> bool:
    """Whether a condition may find a resource with these index rows; False where a code of it is surely another."""
    for criterion in condition.criteria:
        if not isinstance(criterion, Criterion) or criterion.kind != "token" or criterion.modifier is not None:
            continue
        if not any(
            not isinstance(value, TokenValue)
            or value.code is None
            or any(
                row.parameter == criterion.parameter and row.code == value.code and value.system in {None, row.system}
                for row in index.token
            )
            for value in criterion.values
        ):
            return False
    return True
