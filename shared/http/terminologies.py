"""Code systems and value sets as resources: those shipped with their codes, those that the clinic loaded without.

What was loaded may be licensed and large: its resource says that it is here, in which version and since when. Its codes
are asked for by `$expand`, `$lookup` and `$validate-code`. It stands in the place of the shipped one of its canonical.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from shared.fhir.json import Resource
from shared.http.bundle import instant
from shared.http.describing import about
from shared.terminology import shipped

if TYPE_CHECKING:
    from shared.store.terminology import Loaded


def code_system(one: shipped.ShippedSystem) -> Resource:
    """Return a shipped code system with its codes."""
    concepts = []
    for concept in one.concepts.values():
        said: Resource = {"code": concept.code, "display": concept.display}
        if concept.definition is not None:
            said["definition"] = concept.definition
        if concept.parents:
            said["property"] = [{"code": "parent", "valueCode": parent} for parent in concept.parents]
        concepts.append(said)
    made: Resource = {
        **about("CodeSystem", one.url, one.version, one.id),
        "title": one.title or one.id,
        "content": "complete" if one.complete else "fragment",
        "caseSensitive": True,
        "count": len(concepts),
    }
    if any(concept.parents for concept in one.concepts.values()):
        parent = {"code": "parent", "uri": "http://hl7.org/fhir/concept-properties#parent", "type": "code"}
        made["property"] = [{**parent, "description": "The code directly above."}]
    return {**made, "concept": concepts}


def value_set(one: shipped.ShippedSet) -> Resource:
    """Return a shipped value set with its codes; of an open one, the systems that it draws on."""
    made: Resource = {**about("ValueSet", one.url, one.version, one.id), "title": one.title or one.id}
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


def loaded_system(one: Loaded) -> Resource:
    """Return a code system that was loaded, without its codes."""
    return {
        **_loaded("CodeSystem", one),
        "description": "Loaded here from the clinic's own files. Ask for its codes by $lookup and $validate-code.",
        "content": "not-present",
        "count": one.concepts,
    }


def loaded_set(one: Loaded) -> Resource:
    """Return a value set that was loaded, without its codes."""
    said = "Loaded here from the clinic's own files. Ask for its codes by $expand and $validate-code."
    return {**_loaded("ValueSet", one), "description": said}


def _loaded(type_: str, one: Loaded) -> Resource:
    said = about(type_, one.url, one.version, one.title or one.url.rstrip("/").rpartition("/")[2])
    del said["publisher"]  # the file's own, which is not kept
    return {**said, "version": one.version or "unknown", "title": one.title or one.url, "date": instant(one.loaded_at)}
