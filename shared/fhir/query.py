"""The parameters of a URL as a `SearchQuery`, or a refusal that names every one that cannot be understood.

Strict: a parameter or modifier that is not known is refused, never ignored, for a search that ignores a condition
returns what was not asked for. Lenient (``Prefer: handling=lenient``): it is left out and listed in `ignored`. A value
that cannot be read is refused in both.

Source: https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from decimal import InvalidOperation
from typing import Final, TypeAlias

from shared.fhir.criteria import NotOffered, Reader, known_parameter
from shared.fhir.definitions import RESOURCE_TYPES, TYPES
from shared.fhir.outcome import BadRequest, Issue
from shared.fhir.search import Condition, Include, SearchQuery, SortKey, Total
from shared.fhir.values import targets_of

Pair: TypeAlias = tuple[str, str]

_TOTALS: Final[Mapping[str, Total]] = {"none": "none", "estimate": "estimate", "accurate": "accurate"}


def _include(types: Sequence[str], name: str, text: str) -> list[Include]:
    code, _, modifier = name.partition(":")
    if modifier not in {"", "iterate"}:
        why = f"':{modifier}' is not a modifier of {code}; there is :iterate."
        raise NotOffered(why)
    reverse, iterate = code == "_revinclude", modifier == "iterate"
    if text == "*":
        return [Include(None, None, None, reverse, iterate)]
    source, _, rest = text.partition(":")
    wanted, _, target = rest.partition(":")
    if source not in TYPES or not wanted:
        message = "it is Type:parameter, Type:parameter:TargetType, Type:* or *, of a type that is held here"
        raise ValueError(message)
    if target and target not in RESOURCE_TYPES:
        message = f"'{target}' is not a resource type"
        raise ValueError(message)
    targets: Collection[str] = RESOURCE_TYPES
    if wanted != "*":
        parameter = known_parameter((source,), wanted)
        targets = targets_of(parameter)
        if parameter.kind != "reference":
            why = f"'{wanted}' of {source} is no reference."
            raise NotOffered(why)
        if target and target not in targets:
            why = f"'{wanted}' of {source} never points to {target}."
            raise NotOffered(why)
    begins = {target} if target else set(targets)
    if not iterate and not (begins if reverse else {source}) & set(types):
        why = f"{code}={text} can never meet a match of {', '.join(types[:3])}; what goes on from it is {code}:iterate."
        raise NotOffered(why)
    return [Include(source, None if wanted == "*" else wanted, target or None, reverse, iterate)]


def _sort(types: Sequence[str], text: str) -> list[SortKey]:
    keys = []
    for word in text.split(","):
        code = word.removeprefix("-")
        if not code:
            message = "one of its keys is empty"
            raise ValueError(message)
        parameter = known_parameter(types, code)
        if parameter.kind == "composite":
            why = f"'{code}' is made of several values: sort by one of them."
            raise NotOffered(why)
        keys.append(SortKey(code, parameter.kind, word.startswith("-")))
    return keys


def _count(text: str, max_count: int) -> int:
    if re.fullmatch(r"[0-9]{1,9}", text) is None:
        message = "it is not a whole number of zero or more"
        raise ValueError(message)
    return min(int(text), max_count)


def _total(text: str) -> Total:
    total = _TOTALS.get(text)
    if total is None:
        message = "it is none, estimate or accurate"
        raise ValueError(message)
    return total


def _flag(text: str) -> bool:
    if text not in {"true", "false"}:
        message = "it is true or false"
        raise ValueError(message)
    return text == "true"


class _Asked:
    """Gathers what the parameters ask for, one after the other."""

    def __init__(self, types: Sequence[str], reader: Reader, max_count: int, *, systemwide: bool) -> None:
        self._types = types
        self._reader = reader
        self._max_count = max_count
        self._systemwide = systemwide
        self.criteria: list[Condition] = []
        self.sort: list[SortKey] = []
        self.includes: list[Include] = []
        self.counts: list[int] = []
        self.totals: list[Total] = []
        self.explain = False

    def take(self, name: str, text: str) -> None:
        """Add one parameter."""
        match name:
            case "_sort":
                self.sort.extend(_sort(self._types, text))
            case "_count":
                self.counts.append(_count(text, self._max_count))
            case "_total":
                self.totals.append(_total(text))
            case "_type" if self._systemwide:
                pass  # is in the types
            case "_explain":
                self.explain = _flag(text)
            case "_contained":
                if text != "false":
                    why = "Contained resources are not searched: '_contained' can only be false."
                    raise NotOffered(why)
            case _ if name.partition(":")[0] in {"_include", "_revinclude"}:
                self.includes.extend(_include(self._types, name, text))
            case _:
                self.criteria.append(self._reader.condition(self._types, name, text))


def parse_search(
    type_: str | None,
    pairs: Iterable[Pair],
    *,
    strict: bool,
    default_count: int = 50,
    max_count: int = 1000,
    base: str = "",
    served: Collection[str] = TYPES,
) -> SearchQuery:
    """Return the search of `type_` that decoded `pairs` of name and value ask for.

    `_format`, `_pretty`, `_summary` and `_elements` are no part of it: who calls takes them out first. A `_count` above
    `max_count` is that.

    Args:
        type_: what is searched; None: the types that `_type` names, all of `served` where it is not given.
        pairs: names and values.
        strict: whether what is not known is refused, or ignored.
        default_count: entries of a page where `_count` does not say.
        max_count: entries of a page at most.
        base: this system's own base URL: references under it are relative ones.
        served: the types that a search without a type may be about.

    Raises:
        BadRequest: with one issue for each parameter that cannot be understood.

    """
    pairs = list(pairs)
    types = _types(pairs, served) if type_ is None else (type_,)
    if not set(types) <= TYPES:
        raise BadRequest(f"{type_} cannot be searched here.", code="not-supported")
    asked = _Asked(types, Reader(base), max_count, systemwide=type_ is None)
    given: list[Pair] = []
    ignored: list[str] = []
    issues: list[Issue] = []
    for name, text in pairs:
        try:
            asked.take(name, text)
            given.append((name, text))
        except NotOffered as refusal:
            if strict:
                issues.append(
                    Issue(f"{refusal} Nothing was searched.", code="not-supported", expression=(f"http.{name}",))
                )
            else:
                ignored.append(name)
        except (ValueError, InvalidOperation) as error:
            issues.append(_unreadable(name, str(error)))
    for name, several in (("_count", asked.counts), ("_total", asked.totals)):
        if len(several) > 1:
            issues.append(Issue(f"'{name}' is given more than once.", code="value", expression=(f"http.{name}",)))
    if issues:
        raise BadRequest(issues)
    return SearchQuery(
        type=type_ or "",
        criteria=tuple(asked.criteria),
        sort=tuple(asked.sort),
        count=asked.counts[0] if asked.counts else default_count,
        total=asked.totals[0] if asked.totals else "none",
        given=tuple(given),
        ignored=tuple(ignored),
        includes=tuple(dict.fromkeys(asked.includes)),
        types=types if type_ is None else (),
        explain=asked.explain,
    )


def _types(pairs: Iterable[Pair], served: Collection[str]) -> tuple[str, ...]:
    """Return the types that a search of the whole system is about."""
    named = dict.fromkeys(one for name, text in pairs if name == "_type" for one in text.split(","))
    unknown = [one for one in named if one not in served]
    if unknown:
        raise BadRequest(
            f"'_type' names what is not served here: {', '.join(unknown)}.", code="value", expression=["http._type"]
        )
    return tuple(named) or tuple(sorted(set(served) & TYPES))


def _unreadable(name: str, why: str) -> Issue:
    return Issue(f"The value of '{name}' cannot be read: {why}.", code="value", expression=(f"http.{name}",))
