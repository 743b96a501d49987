"""What FHIR R4 says, as tables: element trees, codes of required bindings, search parameters, compartments, numbers.

The tables in `shared/fhir/definitions` are made by `tools/generate_definitions.py` from HL7's packages. Each is read
when it is first asked for, and a type's part of it is decoded when that type is first asked for.

Source: https://hl7.org/fhir/R4/, packages hl7.fhir.r4.core 4.0.1 and hl7.fhir.us.core 7.0.0.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Final, TypeAlias, TypeVar

import msgspec

from shared.fhir.search import Kind

FHIR_VERSION: Final = "4.0.1"
FOLDER: Final = Path(__file__).with_name("definitions")

_KINDS: Final[Mapping[str, Kind]] = {
    "token": "token",
    "string": "string",
    "reference": "reference",
    "date": "date",
    "number": "number",
    "quantity": "quantity",
    "uri": "uri",
    "composite": "composite",
}
_FORMS: Final[Mapping[str, int]] = {"": 0, "text": 4000, "of-type": 8000, "identifier": 12000, "ucum": 16000}
"""What is added to a parameter's number for rows of another form of its values: ``code:text``."""

T = TypeVar("T")


def _read(name: str, form: type[T]) -> T:
    return msgspec.json.decode((FOLDER / name).read_bytes(), type=form)


class _Ids(msgspec.Struct):
    held: list[str]
    types: dict[str, int]
    parameters: dict[str, int]


class TypeTable(msgspec.Struct, frozen=True):
    """A type's element tree.

    `kind` is ``resource`` or ``complex``. `elements` has by path within the type (``""``, ``component``) the elements
    of it, each as one string; see `tools/generate_definitions.py`.
    """

    kind: str
    elements: dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class SearchParameter:
    """A search parameter as it applies to one type.

    Attributes:
        code: its name in a URL: ``value-quantity``.
        kind: how its values are compared.
        expression: FHIRPath from the type to the values.
        targets: resource types that a reference may point to.
        url: its canonical.
        components: of a composite, the code of the parameter that each part is compared as, and the FHIRPath to it
            from what `expression` finds.

    """

    code: str
    kind: Kind
    expression: str
    targets: tuple[str, ...]
    url: str
    components: tuple[tuple[str, str], ...] = ()


_Row: TypeAlias = tuple[str, str, str, tuple[str, ...], str, tuple[tuple[str, str], ...]]

_ids: Final = _read("ids.json", _Ids)

TYPES: Final[frozenset[str]] = frozenset(_ids.held)
"""The resource types that the services hold."""

RESOURCE_TYPES: Final[frozenset[str]] = frozenset(_ids.types)
"""Every resource type of R4: what a reference, a contained resource or a Bundle's entry may be."""

TYPE_IDS: Final[Mapping[str, int]] = MappingProxyType(_ids.types)
"""Stable numbers (1 to 32767) of every resource type of R4."""

PARAMETER_IDS: Final[Mapping[str, int]] = MappingProxyType(_ids.parameters)
"""Stable numbers (1 to 32767) of every search parameter code."""


def type_id(name: str) -> int:
    """Return the stable number of a resource type.

    Raises:
        KeyError: not an R4 resource type.

    """
    return TYPE_IDS[name]


def parameter_id(code: str) -> int:
    """Return the stable number of a search parameter's code, or of a form of its values (``code:text``).

    Raises:
        KeyError: no held type has such a parameter.

    """
    base, _, form = code.partition(":")
    return PARAMETER_IDS[base] + _FORMS[form]


@cache
def _type_tables() -> dict[str, msgspec.Raw]:
    return _read("types.json", dict[str, msgspec.Raw])


@cache
def type_table(name: str) -> TypeTable | None:
    """Return the element tree of a resource type or complex datatype; None where R4 has no such type."""
    raw = _type_tables().get(name)
    return None if raw is None else msgspec.json.decode(raw, type=TypeTable)


@cache
def _code_tables() -> dict[str, dict[str, list[str]]]:
    return _read("codes.json", dict[str, dict[str, list[str]]])


@cache
def value_set(name: str) -> Mapping[str, frozenset[str]] | None:
    """Return the codes of a required binding's value set by code system; None for an open one, as media types are."""
    table = _code_tables().get(name)
    return None if table is None else {system: frozenset(codes) for system, codes in table.items()}


@cache
def _search_tables() -> dict[str, msgspec.Raw]:
    return _read("search.json", dict[str, msgspec.Raw])


@cache
def _all_parameters(type_: str) -> dict[str, _Row]:
    raw = _search_tables().get(type_)
    rows = [] if raw is None else msgspec.json.decode(raw, type=list[_Row])
    return {row[0]: row for row in rows}


@cache
def search_parameters(type_: str) -> Mapping[str, SearchParameter]:
    """Return the search parameters of a type by code, those of every resource (``_id``, ``_lastUpdated`` ...) included.

    Special parameters are not among them; see `other_parameters`. Empty for a type that is not held.
    """
    if type_ not in TYPES:
        return MappingProxyType({})
    return MappingProxyType(
        {
            code: SearchParameter(code, _KINDS[kind], expression, targets, url, parts)
            for base in ("Resource", type_)
            for code, kind, expression, targets, url, parts in _all_parameters(base).values()
            if kind in _KINDS and expression
        }
    )


@cache
def other_parameters(type_: str) -> Mapping[str, str]:
    """Return the parameters that R4 defines for a type and that cannot be searched by here: code to kind."""
    return MappingProxyType(
        {
            code: kind
            for base in ("Resource", type_)
            for code, kind, expression, *_ in _all_parameters(base).values()
            if kind not in _KINDS or not expression
        }
    )


@cache
def _summary_tables() -> dict[str, dict[str, tuple[str, ...]]]:
    return _read("summary.json", dict[str, dict[str, tuple[str, ...]]])


def summary_table(type_: str) -> Mapping[str, tuple[str, ...]]:
    """Return by path within a held type the elements of its summary; a ``!`` marks those that modify the others.

    Source: https://hl7.org/fhir/R4/elementdefinition-definitions.html#ElementDefinition.isSummary
    """
    return _summary_tables().get(type_, {})


@cache
def _compartments() -> dict[str, dict[str, tuple[str, ...]]]:
    return _read("compartments.json", dict[str, dict[str, tuple[str, ...]]])


def compartment_parameters(type_: str, compartment: str = "Patient") -> tuple[str, ...]:
    """Return the codes of the search parameters that place a resource of `type_` in a compartment; () where none does.

    Source: https://hl7.org/fhir/R4/compartmentdefinition.html
    """
    return _compartments()[compartment].get(type_, ())
