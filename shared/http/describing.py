"""What every conformance resource begins with: its canonical, an id made of it, its publisher."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Final

from shared.fhir.json import Resource
from shared.version import VERSION

MADE: Final = datetime(2026, 11, 22, tzinfo=UTC)
R4: Final = "http://hl7.org/fhir/"


def about(type_: str, url: str, version: str, name: str) -> Resource:
    """Return the members that say which resource it is; `name` becomes one that a program may use."""
    made = {
        "resourceType": type_,
        "id": id_of(url),
        "url": url,
        "version": version or ("4.0.1" if url.startswith(R4) and "/us/" not in url else VERSION),
        "name": re.sub(r"[^A-Za-z0-9_]", "", name.title()) or "Unnamed",
        "status": "active",
        "date": MADE.date().isoformat(),
    }
    return {**made, "publisher": "HL7" if "hl7.org" in url else "KAP Exchange"}


def id_of(url: str) -> str:
    """Return an id for a canonical: its last part, with what tells its project where it is not HL7's core."""
    plain = re.sub(r"[^A-Za-z0-9.-]+", "-", re.sub(r"^https?://(terminology\.)?(hl7\.org/fhir/)?", "", url))
    plain = re.sub(r"^(StructureDefinition|SearchParameter|OperationDefinition|CodeSystem|ValueSet)-", "", plain)
    plain = plain.replace("kap-exchange.org-fhir-", "").replace("terminology.hl7.org-", "tho-")
    plain = re.sub(r"(StructureDefinition|SearchParameter|OperationDefinition|CodeSystem|ValueSet)-", "", plain)
    return plain[-64:].strip("-")


def by_id(resources: Iterable[Resource]) -> Mapping[str, Resource]:
    """Return resources by their ids; of two with one id, the second gets another."""
    found: dict[str, Resource] = {}
    for one in resources:
        id_ = str(one["id"])
        while id_ in found:
            id_ = f"{id_[:60]}-{len(found) % 1000}"
        found[id_] = {**one, "id": id_}
    return found
