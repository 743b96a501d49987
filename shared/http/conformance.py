"""The resources that say how this server is to be used, made from what is registered and shipped.

They are StructureDefinition, SearchParameter, OperationDefinition, CodeSystem and ValueSet, for reading and searching.

Source: https://hl7.org/fhir/R4/conformance-module.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final

from shared.fhir.definitions import TYPES, search_parameters
from shared.fhir.json import Resource, dump
from shared.fhir.outcome import BadRequest, NotFound
from shared.fhir.profiles import own
from shared.store.types import Page, Stored
from shared.terminology import shipped
from shared.version import VERSION

if TYPE_CHECKING:
    from shared.http.backend import TypeInteraction
    from shared.runtime.service import Operation

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
_MADE: Final = datetime(2026, 11, 22, tzinfo=UTC)
_ELEMENTS: Final = {"base": "baseDefinition", "content-mode": "content"}
_R4: Final = "http://hl7.org/fhir/"
_HAS_EXTENSION: Final = re.compile(r"\bhasExtension\(('[^']*')\)")
"""A function that is in an expression of R4 and in no FHIRPath: what is published says the same in FHIRPath."""


class Conformance:
    """The conformance resources of a service."""

    def __init__(self, served: Iterable[str], operations: Sequence[Operation], origin: str) -> None:
        """Describe what a service with these types and operations offers; `origin` is its name."""
        self._served = frozenset(served) & TYPES
        self._operations = operations
        self._origin = origin

    def read(self, type_: str, id_: str) -> Stored:
        """Return one of them.

        Raises:
            NotFound: there is none of this id.

        """
        found = self._held[type_].get(id_)
        if found is None:
            raise NotFound(f"There is no {type_}/{id_} here; search it by url.")
        return self._stored(found)

    def url_of(self, type_: str, id_: str) -> str:
        """Return the canonical of one of them; raises as `read`."""
        self.read(type_, id_)
        return str(self._held[type_][id_]["url"])

    def search(self, type_: str, given: Iterable[tuple[str, str]], cursor: str | None, *, strict: bool) -> Page:
        """Return a page of those that match. Searched by: `PARAMETERS`, `MORE`, `_count`.

        Raises:
            BadRequest: a parameter is not known here.

        """
        tests: list[Callable[[Resource], bool]] = []
        count = _COUNT
        for name, text in given:
            if name == "_count":
                count = _number(text)
            elif name in PARAMETERS or name in MORE[type_]:
                tests.append(_test(name, {**PARAMETERS, **MORE[type_]}[name], text.split(",")))
            elif strict and not name.startswith(("_format", "_pretty", "_summary", "_elements", "_total", "_sort")):
                known = ", ".join(sorted({**PARAMETERS, **MORE[type_]}))
                raise BadRequest(
                    f"{type_} is searched here by {known}; not by '{name}'.",
                    code="not-supported",
                    expression=[f"http.{name}"],
                )
        matches = [one for one in self._held[type_].values() if all(test(one) for test in tests)]
        start = int(cursor or 0)
        return Page(
            entries=tuple(self._stored(one) for one in matches[start : start + count]),
            total=len(matches),
            next=str(start + count) if start + count < len(matches) else None,
            previous=str(max(start - count, 0)) if start else None,
        )

    def _stored(self, resource: Resource) -> Stored:
        return Stored(
            type=str(resource["resourceType"]),
            id=str(resource["id"]),
            version=1,
            last_updated=_MADE,
            deleted=False,
            body=dump(resource),
            origin=self._origin,
            interaction="create",
        )

    @cached_property
    def _held(self) -> Mapping[str, Mapping[str, Resource]]:
        made = {
            "StructureDefinition": own.definitions().values(),
            "SearchParameter": self._search_parameters(),
            "OperationDefinition": self._operation_definitions(),
            "CodeSystem": (_code_system(one) for one in shipped.systems().values()),
            "ValueSet": (_value_set(one) for one in shipped.value_sets().values()),
        }
        return {type_: _by_id(resources) for type_, resources in made.items()}

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
                **_about("SearchParameter", url, "", row["code"]),
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
                **_about("OperationDefinition", url, "", first.name),
                "kind": "operation",
                "description": first.documentation or f"${first.name}",
                "affectsState": first.affects_state,
                "code": first.name,
                "resource": sorted({one.type for one in several}),
                "system": False,
                "type": any(one.level == "type" for one in several),
                "instance": any(one.level == "instance" for one in several),
            }


def _about(type_: str, url: str, version: str, name: str) -> Resource:
    made = {
        "resourceType": type_,
        "id": _id_of(url),
        "url": url,
        "version": version or ("4.0.1" if url.startswith(_R4) and "/us/" not in url else VERSION),
        "name": re.sub(r"[^A-Za-z0-9_]", "", name.title()) or "Unnamed",
        "status": "active",
        "date": _MADE.date().isoformat(),
    }
    return {**made, "publisher": "HL7" if "hl7.org" in url else "KAP Exchange"}


def _id_of(url: str) -> str:
    """Return an id for a canonical: its last part, with what tells its project where it is not HL7's core."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", re.sub(r"^https?://(terminology\.)?(hl7\.org/fhir/)?", "", url))
    plain = re.sub(r"^(StructureDefinition|SearchParameter|OperationDefinition|CodeSystem|ValueSet)-", "", plain)
    plain = plain.replace("kap-exchange.org-fhir-", "").replace("terminology.hl7.org-", "tho-")
    plain = re.sub(r"(StructureDefinition|SearchParameter|OperationDefinition|CodeSystem|ValueSet)-", "", plain)
    return plain[-64:].strip("-")


def _by_id(resources: Iterable[Resource]) -> Mapping[str, Resource]:
    found: dict[str, Resource] = {}
    for one in resources:
        id_ = str(one["id"])
        while id_ in found:
            id_ = f"{id_[:60]}-{len(found) % 1000}"
        found[id_] = {**one, "id": id_}
    return found


def _code_system(one: shipped.ShippedSystem) -> Resource:
    concepts = []
    for concept in one.concepts.values():
        said: Resource = {"code": concept.code, "display": concept.display}
        if concept.definition is not None:
            said["definition"] = concept.definition
        if concept.parents:
            said["property"] = [{"code": "parent", "valueCode": parent} for parent in concept.parents]
        concepts.append(said)
    made: Resource = {
        **_about("CodeSystem", one.url, one.version, one.id),
        "title": one.title or one.id,
        "content": "complete" if one.complete else "fragment",
        "caseSensitive": True,
        "count": len(concepts),
    }
    if any(concept.parents for concept in one.concepts.values()):
        parent = {"code": "parent", "uri": "http://hl7.org/fhir/concept-properties#parent", "type": "code"}
        made["property"] = [{**parent, "description": "The code directly above."}]
    return {**made, "concept": concepts}


def _value_set(one: shipped.ShippedSet) -> Resource:
    made: Resource = {**_about("ValueSet", one.url, one.version, one.id), "title": one.title or one.id}
    if one.members is None:
        drawn = [{"system": system} for system in one.open]
        said = "Its codes are another publisher's and are not shipped: load them by 'kap terminology load'."
        return {**made, "description": said, **({"compose": {"include": drawn}} if drawn else {})}
    include: list[Resource] = []
    for system, codes in sorted(one.members.items()):
        held = shipped.systems()[system]
        whole = held.complete and len(codes) == len(held.concepts)
        listed = [{"code": code, "display": held.concepts[code].display} for code in sorted(codes)]
        include.append({"system": system} if whole else {"system": system, "concept": listed})
    return {**made, "compose": {"include": include}}


def _test(name: str, kind: str, values: list[str]) -> Callable[[Resource], bool]:
    element = "id" if name == "_id" else _ELEMENTS.get(name, name)

    def said(resource: Resource) -> list[str]:
        held = resource.get(element)
        listed = held if isinstance(held, list) else [held]
        return [str(one).lower() if isinstance(one, bool) else str(one) for one in listed if one is not None]

    if kind == "string":
        starts = tuple(value.lower() for value in values)
        return lambda resource: any(one.lower().startswith(starts) for one in said(resource))
    wanted = {value.rpartition("|")[2] if kind == "token" else value for value in values}
    return lambda resource: any(one in wanted for one in said(resource))


def _number(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text[:9]) <= _MOST:
        raise BadRequest(f"_count is a number from 1 to {_MOST}.", code="value", expression=["http._count"])
    return int(text)
