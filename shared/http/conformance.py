"""The resources that say how this server is to be used, made from what is registered and shipped.

They are StructureDefinition, SearchParameter, OperationDefinition, CodeSystem and ValueSet, for reading and searching.

Source: https://hl7.org/fhir/R4/conformance-module.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from shared.fhir.definitions import TYPES, search_parameters
from shared.fhir.json import Resource, dump
from shared.fhir.outcome import BadRequest, NotFound
from shared.fhir.profiles import own
from shared.http.describing import MADE, about, by_id
from shared.http.terminologies import code_system, loaded_set, loaded_system, value_set
from shared.store.types import Page, Stored
from shared.terminology import shipped

if TYPE_CHECKING:
    from shared.http.backend import TypeInteraction
    from shared.runtime.service import Operation
    from shared.store.terminology import Loaded

INTERACTIONS: Final[frozenset[TypeInteraction]] = frozenset(("read", "search-type"))
PARAMETERS: Final[Mapping[str, str]] = {
    "_id": "token", "url": "uri", "version": "token", "name": "string", "status": "token",
}  # fmt: skip
"""What each of these types is searched by, with its kind."""
MORE: Final[Mapping[str, Mapping[str, str]]] = {
    "StructureDefinition": {"title": "string", "type": "uri", "base": "reference"},
    "SearchParameter": {"base": "token", "code": "token", "type": "token"},
    "OperationDefinition": {
        "title": "string",
        "code": "token",
        "type": "token",
        "instance": "token",
        "system": "token",
    },
    "CodeSystem": {"title": "string", "content-mode": "token"},
    "ValueSet": {"title": "string"},
}
TYPES_OF: Final = frozenset(MORE)
"""The types that are served here."""

_COUNT: Final = 50
_MOST: Final = 1000
_ELEMENTS: Final = {"base": "baseDefinition", "content-mode": "content"}
_HAS_EXTENSION: Final = re.compile(r"\bhasExtension\(('[^']*')\)")
"""A function that is in an expression of R4 and in no FHIRPath: what is published says the same in FHIRPath."""


class Conformance:
    """The conformance resources of a service."""

    def __init__(self, served: Iterable[str], operations: Sequence[Operation], origin: str) -> None:
        """Describe what a service with these types and operations offers; `origin` is its name."""
        self._served = frozenset(served) & TYPES
        self._operations = operations
        self._origin = origin

    def read(self, type_: str, id_: str, loaded: Sequence[Loaded] = ()) -> Stored:
        """Return one of them; of those that were `loaded`, too.

        Raises:
            NotFound: there is none of this id.

        """
        found = self._all(type_, loaded).get(id_)
        if found is None:
            raise NotFound(f"There is no {type_}/{id_} here; search it by url.")
        return self._stored(found)

    def url_of(self, type_: str, id_: str, loaded: Sequence[Loaded] = ()) -> str:
        """Return the canonical of one of them; raises as `read`."""
        self.read(type_, id_, loaded)
        return str(self._all(type_, loaded)[id_]["url"])

    def search(
        self,
        type_: str,
        given: Iterable[tuple[str, str]],
        cursor: str | None,
        *,
        strict: bool,
        loaded: Sequence[Loaded] = (),
    ) -> Page:
        """Return a page of those that match, of those that were `loaded`, too.

        Searched by `PARAMETERS` and `MORE`; shown by `_count` and `_sort`. The total is always told.

        Raises:
            BadRequest: a parameter is not known here.

        """
        tests: list[Callable[[Resource], bool]] = []
        order: list[str] = []
        count = _COUNT
        kinds = {**PARAMETERS, **MORE[type_]}
        for name, text in given:
            if name == "_count":
                count = _number(text)
            elif name in kinds:
                tests.append(_test(name, kinds[name], text.split(",")))
            elif name == "_sort" and all(one.removeprefix("-") in kinds for one in text.split(",")):
                order = text.split(",")
            elif strict and name != "_total":
                raise BadRequest(
                    f"{type_} is searched and sorted here by {', '.join(sorted(kinds))}; not by '{name}={text[:64]}'.",
                    code="not-supported",
                    expression=[f"http.{name}"],
                )
        matches = [one for one in self._all(type_, loaded).values() if all(test(one) for test in tests)]
        for name in reversed(order):
            matches.sort(key=partial(_values, name.removeprefix("-")), reverse=name.startswith("-"))
        if count == 0:
            return Page(entries=(), total=len(matches))
        start = int(cursor or 0)
        return Page(
            entries=tuple(self._stored(one) for one in matches[start : start + count]),
            total=len(matches),
            next=str(start + count) if start + count < len(matches) else None,
            previous=str(max(start - count, 0)) if start else None,
        )

    def _stored(self, resource: Resource) -> Stored:
        when = datetime.fromisoformat(resource["date"]) if "T" in resource["date"] else MADE  # a time: it was loaded
        return Stored(
            type=str(resource["resourceType"]),
            id=str(resource["id"]),
            version=1 if when is MADE else int(when.timestamp()),
            last_updated=when,
            deleted=False,
            body=dump(resource),
            origin=self._origin,
            interaction="create",
        )

    def _all(self, type_: str, loaded: Sequence[Loaded]) -> Mapping[str, Resource]:
        """Return those of a type by id. What was loaded has the place, and the id, of the shipped one."""
        held = self._held[type_]
        if not loaded:
            return held
        made = loaded_system if type_ == "CodeSystem" else loaded_set
        ours = {one["url"]: one for one in map(made, loaded)}
        kept = {id_: ours.pop(one["url"]) | {"id": id_} if one["url"] in ours else one for id_, one in held.items()}
        return by_id([*kept.values(), *ours.values()])

    @cached_property
    def _held(self) -> Mapping[str, Mapping[str, Resource]]:
        made = {
            "StructureDefinition": own.definitions().values(),
            "SearchParameter": self._search_parameters(),
            "OperationDefinition": self._operation_definitions(),
            "CodeSystem": (code_system(one) for one in shipped.systems().values()),
            "ValueSet": (value_set(one) for one in shipped.value_sets().values()),
        }
        return {type_: by_id(resources) for type_, resources in made.items()}

    def _search_parameters(self) -> Iterable[Resource]:
        bases: dict[str, dict[str, Any]] = {}
        for type_ in sorted(self._served):
            for code, one in search_parameters(type_).items():
                row = bases.setdefault(
                    one.url, {"code": code, "kind": one.kind, "base": [], "expression": [], "target": set()}
                )
                row["base"].append(type_)
                row["expression"].append(one.expression)
                row["target"].update(one.targets)
                row["components"] = one.components
        for url, row in bases.items():
            of_all = all(one.startswith("Resource.") for one in row["expression"])
            made = {
                **about("SearchParameter", url, "", row["code"]),
                "description": f"Finds {'resources' if of_all else ', '.join(row['base'])} by {row['code']}.",
                "code": row["code"],
                "base": ["Resource"] if of_all else row["base"],
                "type": row["kind"],
                "expression": _HAS_EXTENSION.sub(
                    r"extension(\1).exists()", " | ".join(dict.fromkeys(row["expression"]))
                )
                or None,
                "xpathUsage": "normal" if row["expression"] else None,
                "target": sorted(row["target"]) or None,
                "component": [
                    {"definition": search_parameters(row["base"][0])[code].url, "expression": expression}
                    for code, expression in row["components"]
                ]
                or None,
            }
            yield {key: value for key, value in made.items() if value is not None}

    def _operation_definitions(self) -> Iterable[Resource]:
        by_url: dict[str, list[Operation]] = {}
        for one in self._operations:
            by_url.setdefault(one.canonical, []).append(one)
        for url, several in sorted(by_url.items()):
            first = several[0]
            yield {
                **about("OperationDefinition", url, "", first.name),
                "kind": "operation",
                "description": first.documentation or f"${first.name}",
                "affectsState": first.affects_state,
                "code": first.name,
                **({"resource": types} if (types := sorted({one.type for one in several if one.type})) else {}),
                "system": any(one.level == "system" for one in several),
                "type": any(one.level == "type" for one in several),
                "instance": any(one.level == "instance" for one in several),
            }


def _values(name: str, resource: Resource) -> list[str]:
    """Return what a resource says under a search parameter."""
    held = resource.get("id" if name == "_id" else _ELEMENTS.get(name, name))
    listed = held if isinstance(held, list) else [held]
    return [str(one).lower() if isinstance(one, bool) else str(one) for one in listed if one is not None]


def _test(name: str, kind: str, values: list[str]) -> Callable[[Resource], bool]:
    if kind == "string":
        starts = tuple(value.lower() for value in values)
        return lambda resource: any(one.lower().startswith(starts) for one in _values(name, resource))
    wanted = {value.rpartition("|")[2] if kind == "token" else value for value in values}
    return lambda resource: any(one in wanted for one in _values(name, resource))


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 9 or int(text) > _MOST:
        raise BadRequest(f"_count is a number from 0 to {_MOST}.", code="value", expression=["http._count"])
    return int(text)
