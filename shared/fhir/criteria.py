"""What a search asks for: a parameter's name and value as a condition on resources of the types searched.

A condition may lead to other resources, by a chain or by `_has`, some of which lead on.

Source: https://hl7.org/fhir/R4/search.html
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import InvalidOperation
from typing import Final

from shared.fhir import values
from shared.fhir.definitions import RESOURCE_TYPES, TYPES, SearchParameter, other_parameters, search_parameters
from shared.fhir.extraction import composites_of, is_of_the_whole, second_kind
from shared.fhir.paths import compile_path
from shared.fhir.search import (
    AnyOf,
    Chain,
    Condition,
    Criterion,
    Has,
    Kind,
    PairValue,
    QuantityValue,
    ReferenceValue,
    TokenValue,
    Value,
    ValueSetValue,
)
from shared.fhir.tree import PRIMITIVES
from shared.fhir.values import split_escaped, targets_of

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
_NOT_OFFERED: Final = frozenset(
    {"_text", "_content", "_filter", "_query", "_type", "_containedType", "_score", "_has", "_include", "_revinclude"}
)
MAX_VALUES: Final = 500
"""Alternatives of one criterion: above it the search is refused."""

MAX_DEPTH: Final = 6
"""Resources that one chain or `_has` may go through: above it the search is refused."""


class NotOffered(Exception):
    """A parameter or modifier that is unknown or not supported: refused, or ignored when lenient."""


def known_parameter(types: Sequence[str], code: str) -> SearchParameter:
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
        raise NotOffered(why)
    why = f"{lacking} has no search parameter '{code}'."
    raise NotOffered(why)


def _modifier(parameter: SearchParameter, type_: str, modifier: str) -> str | None:
    if not modifier:
        return None
    if modifier in _MODIFIERS[parameter.kind] and (
        modifier in {"missing", "not"} or parameter.code not in _ON_THE_RESOURCE
    ):
        if modifier != "of-type" or _has_identifiers(parameter, type_):
            return modifier
        why = f"':of-type' is for identifiers, and '{parameter.code}' is none."
        raise NotOffered(why)
    if parameter.kind == "reference" and modifier in RESOURCE_TYPES:
        if modifier in targets_of(parameter):
            return modifier
        why = f"'{parameter.code}' never points to {modifier}; it points to {', '.join(targets_of(parameter))}."
        raise NotOffered(why)
    known = "is not supported by this server" if modifier in _KNOWN_MODIFIERS else "is not a modifier of FHIR"
    raise NotOffered(f"':{modifier}' {known} for the {parameter.kind} parameter '{parameter.code}'.")


def _has_identifiers(parameter: SearchParameter, type_: str) -> bool:
    return any(branch.type == "Identifier" for branch in compile_path(parameter.expression, type_))


def _is_bare(parameter: SearchParameter, type_: str) -> bool:
    return all(branch.type in PRIMITIVES for branch in compile_path(parameter.expression, type_))


class Reader:
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
            raise NotOffered(why)
        _, source, code, rest = parts
        if source not in TYPES:
            why = f"'{source}' in '{name}' is not a type that is held here."
            raise NotOffered(why)
        parameter = known_parameter((source,), code)
        targets = targets_of(parameter)
        if parameter.kind != "reference" or not set(types) <= set(targets):
            why = f"'{code}' of {source} does not refer to {' or '.join(types)}."
            raise NotOffered(why)
        return Has(source, code, self.condition((source,), rest, text, depth + 1))

    def _chain(self, types: Sequence[str], head: str, rest: str, text: str, depth: int) -> Condition:
        code, _, given = head.partition(":")
        parameter = known_parameter(types, code)
        if parameter.kind != "reference":
            why = f"'{code}' is no reference, so there is nothing to chain from it."
            raise NotOffered(why)
        modifier = _modifier(parameter, types[0], given)
        if modifier is not None and modifier not in RESOURCE_TYPES:
            why = f"':{modifier}' cannot be chained from."
            raise NotOffered(why)
        targets = [modifier] if modifier is not None else [one for one in targets_of(parameter) if one in TYPES]
        branches = []
        unreadable: ValueError | InvalidOperation | None = None
        unknown = "nothing that it points to is held here."
        for target in targets:
            try:
                branches.append((target, self.condition((target,), rest, text, depth + 1)))
            except NotOffered as error:
                unknown = str(error)
            except (ValueError, InvalidOperation) as error:
                unreadable = error
        if branches:
            return Chain(code, tuple(branches))
        if unreadable is not None:
            raise unreadable
        why = f"'{head}.{rest}' leads nowhere: {unknown}"
        raise NotOffered(why)

    def _criterion(self, types: Sequence[str], name: str, text: str) -> Condition:
        code, _, given = name.partition(":")
        parameter = known_parameter(types, code)
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
