"""The parameters of a URL as a `SearchQuery`, or a refusal that names every one that cannot be understood.

Strict: a parameter or modifier that is not known is refused, never ignored, for a search that ignores a condition
returns what was not asked for. Lenient (``Prefer: handling=lenient``): it is left out and listed in `ignored`. A value
that cannot be read is refused in both.

Source: https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import InvalidOperation
from typing import Final, TypeAlias

from shared.fhir import values
from shared.fhir.definitions import RESOURCE_TYPES, TYPES, SearchParameter, other_parameters, search_parameters
from shared.fhir.extraction import composites_of, is_of_the_whole, second_kind
from shared.fhir.outcome import BadRequest, Issue
from shared.fhir.paths import compile_path
from shared.fhir.search import (
    AnyOf,
    Chain,
    Condition,
    Criterion,
    Has,
    Include,
    Kind,
    PairValue,
    QuantityValue,
    ReferenceValue,
    SearchQuery,
    SortKey,
    TokenValue,
    Total,
    Value,
    ValueSetValue,
)
from shared.fhir.tree import PRIMITIVES
from shared.fhir.values import split_escaped, targets_of, unescape

__all__ = ["MAX_DEPTH", "MAX_VALUES", "parse_search", "split_escaped", "unescape"]

Pair: TypeAlias = tuple[str, str]

_MODIFIERS: Final[Mapping[Kind, frozenset[str]]] = {
    "token": frozenset({"not", "missing", "text", "in", "not-in", "below", "above", "of-type"}),
    "string": frozenset({"exact", "contains", "missing"}),
    "reference": frozenset({"missing", "identifier"}),
    "date": frozenset({"missing"}),
    "number": frozenset({"missing"}),
    "quantity": frozenset({"missing"}),
    "uri": frozenset({"missing", "below", "above"}),
    "composite": frozenset(),
}
_ON_THE_RESOURCE: Final = frozenset({"_id", "_lastUpdated"})
_KNOWN_MODIFIERS: Final = frozenset(
    {"exact", "contains", "missing", "not", "text", "in", "not-in", "above", "below", "of-type", "identifier"}
)
_TOTALS: Final[Mapping[str, Total]] = {"none": "none", "estimate": "estimate", "accurate": "accurate"}
_NOT_OFFERED: Final = frozenset(
    {"_text", "_content", "_filter", "_query", "_type", "_containedType", "_score", "_has", "_include", "_revinclude"}
)
MAX_VALUES: Final = 500
"""Alternatives of one criterion: above it the search is refused."""

MAX_DEPTH: Final = 6
"""Resources that one chain or `_has` may go through: above it the search is refused."""


class _NotOffered(Exception):
    """A parameter or modifier that is unknown or not supported: refused, or ignored when lenient."""


def _known(types: Sequence[str], code: str) -> SearchParameter:
    """Return the parameter of the types searched; of several, what all of them have, with the targets of all."""
    found = [search_parameters(type_).get(code) for type_ in types]
    known = [parameter for parameter in found if parameter is not None]
    if len(known) == len(found):
        first = known[0]
        if all(parameter == first for parameter in known):
            return first
        if all(parameter.kind == first.kind != "composite" for parameter in known):
            targets = sorted({target for parameter in known for target in parameter.targets})
            return SearchParameter(code, first.kind, first.expression, tuple(targets), first.url)
    lacking = next(type_ for type_, parameter in zip(types, found, strict=True) if parameter is None)
    if code in other_parameters(lacking) or code in _NOT_OFFERED:
        why = f"The search parameter '{code}' of {lacking} is not supported by this server."
        raise _NotOffered(why)
    why = f"{lacking} has no search parameter '{code}'."
    raise _NotOffered(why)


def _modifier(parameter: SearchParameter, type_: str, modifier: str) -> str | None:
    if not modifier:
        return None
    if modifier in _MODIFIERS[parameter.kind] and (
        modifier in {"missing", "not"} or parameter.code not in _ON_THE_RESOURCE
    ):
        if modifier != "of-type" or _has_identifiers(parameter, type_):
            return modifier
        why = f"':of-type' is for identifiers, and '{parameter.code}' is none."
        raise _NotOffered(why)
    if parameter.kind == "reference" and modifier in RESOURCE_TYPES:
        if modifier in targets_of(parameter):
            return modifier
        why = f"'{parameter.code}' never points to {modifier}; it points to {', '.join(targets_of(parameter))}."
        raise _NotOffered(why)
    known = "is not supported by this server" if modifier in _KNOWN_MODIFIERS else "is not a modifier of FHIR"
    raise _NotOffered(f"':{modifier}' {known} for the {parameter.kind} parameter '{parameter.code}'.")


def _has_identifiers(parameter: SearchParameter, type_: str) -> bool:
    return any(branch.type == "Identifier" for branch in compile_path(parameter.expression, type_))


def _is_bare(parameter: SearchParameter, type_: str) -> bool:
    return all(branch.type in PRIMITIVES for branch in compile_path(parameter.expression, type_))


class _Reader:
    """Reads conditions: names and values of a URL's parameters, some of which lead to other resources."""

    def __init__(self, base: str) -> None:
        self._base = base

    def condition(self, types: Sequence[str], name: str, text: str, depth: int = 0) -> Condition:
        """Return what a parameter asks of resources of `types`."""
        if depth >= MAX_DEPTH:
            message = f"it leads through more than {MAX_DEPTH} resources"
            raise ValueError(message)
        if name.startswith("_has:"):
            return self._has(types, name, text, depth)
        if name == "_list":
            listed = Criterion("_id", "token", tuple(TokenValue(None, one) for one in self._texts(text)))
            return Has("List", "item", listed)
        head, dot, rest = name.partition(".")
        if dot:
            return self._chain(types, head, rest, text, depth)
        return self._criterion(types, name, text)

    def _has(self, types: Sequence[str], name: str, text: str, depth: int) -> Condition:
        parts = name.split(":", 3)
        if len(parts) < 4 or not parts[3]:
            why = f"'{name}' is not of the form _has:Type:reference:parameter."
            raise _NotOffered(why)
        _, source, code, rest = parts
        if source not in TYPES:
            why = f"'{source}' in '{name}' is not a type that is held here."
            raise _NotOffered(why)
        parameter = _known((source,), code)
        targets = targets_of(parameter)
        if parameter.kind != "reference" or not set(types) <= set(targets):
            why = f"'{code}' of {source} does not refer to {' or '.join(types)}."
            raise _NotOffered(why)
        return Has(source, code, self.condition((source,), rest, text, depth + 1))

    def _chain(self, types: Sequence[str], head: str, rest: str, text: str, depth: int) -> Condition:
        code, _, given = head.partition(":")
        parameter = _known(types, code)
        if parameter.kind != "reference":
            why = f"'{code}' is no reference, so there is nothing to chain from it."
            raise _NotOffered(why)
        modifier = _modifier(parameter, types[0], given)
        if modifier is not None and modifier not in RESOURCE_TYPES:
            why = f"':{modifier}' cannot be chained from."
            raise _NotOffered(why)
        targets = [modifier] if modifier is not None else [one for one in targets_of(parameter) if one in TYPES]
        branches = []
        unreadable: ValueError | InvalidOperation | None = None
        unknown = "nothing that it points to is held here."
        for target in targets:
            try:
                branches.append((target, self.condition((target,), rest, text, depth + 1)))
            except _NotOffered as error:
                unknown = str(error)
            except (ValueError, InvalidOperation) as error:
                unreadable = error
        if branches:
            return Chain(code, tuple(branches))
        if unreadable is not None:
            raise unreadable
        why = f"'{head}.{rest}' leads nowhere: {unknown}"
        raise _NotOffered(why)

    def _criterion(self, types: Sequence[str], name: str, text: str) -> Condition:
        code, _, given = name.partition(":")
        parameter = _known(types, code)
        modifier = _modifier(parameter, types[0], given)
        if not text:
            message = "it has no value"
            raise ValueError(message)
        if modifier == "missing":
            return Criterion(code, parameter.kind, (values.missing(text),), modifier)
        if parameter.kind == "composite":
            return self._composite(types[0], parameter, text)
        read = dict.fromkeys(values.plain(parameter, one, modifier, self._base) for one in self._texts(text))
        if modifier in {"in", "not-in"} and _is_bare(parameter, types[0]):
            read = dict.fromkeys(replace(one, bare=True) if isinstance(one, ValueSetValue) else one for one in read)
        return _as_rows(parameter, modifier, tuple(read))

    def _composite(self, type_: str, parameter: SearchParameter, text: str) -> Condition:
        alternatives = []
        for one in self._texts(text):
            parts = split_escaped(one, "$")
            if len(parts) != len(parameter.components) or not all(parts):
                names = "$".join(code for code, _ in parameter.components)
                message = f"it is {names}; a dollar sign in a value is written \\$"
                raise ValueError(message)
            alternatives.append(parts)
        conditions = [
            condition
            for one in composites_of(parameter, type_)
            for parts in alternatives
            for condition in self._alternatives(type_, one, parts)
        ]
        return AnyOf(tuple(dict.fromkeys(conditions)))

    def _alternatives(
        self, type_: str, parameter: SearchParameter, parts: Sequence[str]
    ) -> Iterable[tuple[Criterion, ...]]:
        """Return the conditions that together are one alternative; of a bare id, one for each type it may be of."""
        codes = [code for code, _ in parameter.components]
        if is_of_the_whole(parameter, type_):
            both = [self._criterion((type_,), code, part) for code, part in zip(codes, parts, strict=True)]
            yield tuple(one for one in both if isinstance(one, Criterion))  # of one value, so never an alternative
            return
        known = search_parameters(type_)
        first, second = (
            values.plain(known[code], part, None, self._base) for code, part in zip(codes, parts, strict=True)
        )
        code, kind = parameter.code, second_kind(parameter, type_)
        if isinstance(second, QuantityValue):
            code = f"{code}:ucum" if second.canonical else code
        firsts: Sequence[Value] = (first,)
        if isinstance(first, ReferenceValue) and not first.url:
            firsts = [ReferenceValue((target,), first.id) for target in first.types]
        for one in firsts:
            if isinstance(one, TokenValue | ReferenceValue) and isinstance(second, TokenValue | QuantityValue):
                yield (Criterion(code, kind, (PairValue(one, second),)),)

    @staticmethod
    def _texts(text: str) -> list[str]:
        texts = split_escaped(text, ",")
        if len(texts) > MAX_VALUES:
            message = f"it has more than {MAX_VALUES} alternatives"
            raise ValueError(message)
        if not all(texts):
            message = "one of its alternatives is empty; a comma in a value is written \\,"
            raise ValueError(message)
        return texts


def _quantities(code: str, read: tuple[Value, ...]) -> Condition:
    """Return the criterion on quantities: those in base units are in rows of their own."""
    by_form: dict[str, list[Value]] = {}
    for value in read:
        canonical = isinstance(value, QuantityValue) and value.canonical
        by_form.setdefault(f"{code}:ucum" if canonical else code, []).append(value)
    criteria = [Criterion(name, "quantity", tuple(of_form)) for name, of_form in by_form.items()]
    return criteria[0] if len(criteria) == 1 else AnyOf(tuple((one,) for one in criteria))


def _as_rows(parameter: SearchParameter, modifier: str | None, read: tuple[Value, ...]) -> Condition:
    """Return the criterion on the rows that hold what is asked for."""
    match modifier:
        case "text":  # "a partial search", so wherever the words stand
            return Criterion(f"{parameter.code}:text", "string", read, "contains")
        case "of-type" | "identifier":
            return Criterion(f"{parameter.code}:{modifier}", "token", read)
    if parameter.kind == "quantity":
        return _quantities(parameter.code, read)
    # A :[type] modifier is in the values' types; what is left for the store are the others.
    return Criterion(parameter.code, parameter.kind, read, None if modifier in RESOURCE_TYPES else modifier)


def _include(types: Sequence[str], name: str, text: str) -> list[Include]:
    code, _, modifier = name.partition(":")
    if modifier not in {"", "iterate"}:
        why = f"':{modifier}' is not a modifier of {code}; there is :iterate."
        raise _NotOffered(why)
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
        parameter = _known((source,), wanted)
        targets = targets_of(parameter)
        if parameter.kind != "reference":
            why = f"'{wanted}' of {source} is no reference."
            raise _NotOffered(why)
        if target and target not in targets:
            why = f"'{wanted}' of {source} never points to {target}."
            raise _NotOffered(why)
    begins = {target} if target else set(targets)
    if not iterate and not (begins if reverse else {source}) & set(types):
        why = f"{code}={text} can never meet a match of {', '.join(types[:3])}; what goes on from it is {code}:iterate."
        raise _NotOffered(why)
    return [Include(source, None if wanted == "*" else wanted, target or None, reverse, iterate)]


def _sort(types: Sequence[str], text: str) -> list[SortKey]:
    keys = []
    for word in text.split(","):
        code = word.removeprefix("-")
        if not code:
            message = "one of its keys is empty"
            raise ValueError(message)
        parameter = _known(types, code)
        if parameter.kind == "composite":
            why = f"'{code}' is made of several values: sort by one of them."
            raise _NotOffered(why)
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

    def __init__(self, types: Sequence[str], reader: _Reader, max_count: int, *, systemwide: bool) -> None:
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
                    raise _NotOffered(why)
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
    asked = _Asked(types, _Reader(base), max_count, systemwide=type_ is None)
    given: list[Pair] = []
    ignored: list[str] = []
    issues: list[Issue] = []
    for name, text in pairs:
        try:
            asked.take(name, text)
            given.append((name, text))
        except _NotOffered as refusal:
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
