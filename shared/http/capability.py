"""The CapabilityStatement, generated from what is registered: types, interactions, search parameters, operations.

Source: https://hl7.org/fhir/R4/capabilitystatement.html, https://hl7.org/fhir/R4/http.html#capabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from shared.fhir.definitions import FHIR_VERSION, search_parameters
from shared.fhir.json import Resource
from shared.http.bundle import instant
from shared.version import VERSION

if TYPE_CHECKING:
    from shared.http.backend import TypeInteraction
    from shared.runtime.service import Operation, Service

Offered = Mapping[str, frozenset["TypeInteraction"]]

_ORDER: tuple[TypeInteraction, ...] = (
    "read", "vread", "update", "delete", "history-instance", "create", "search-type",
)  # fmt: skip


def capability_statement(service: Service, offered: Offered, base_url: str, *, since: datetime) -> Resource:
    """Return the CapabilityStatement of a service that offers `offered` (interactions by type) at `base_url`.

    `since` is when this set of abilities came to be: the start of the process.
    """
    return {
        "resourceType": "CapabilityStatement",
        "id": service.name,
        "url": f"{base_url}/metadata",
        "version": VERSION,
        "name": f"Kap{service.name.title().replace('_', '').replace('-', '')}",
        "title": service.title,
        "status": "active",
        "date": instant(since.astimezone(UTC)),
        "publisher": "KAP Exchange",
        "kind": "instance",
        "software": {"name": "KAP Exchange", "version": VERSION},
        "implementation": {"description": service.title, "url": base_url},
        "fhirVersion": FHIR_VERSION,
        "format": ["application/fhir+json", "json"],
        "rest": [
            {
                "mode": "server",
                "documentation": (
                    "An unknown search parameter is answered 400, or ignored and named in the Bundle with "
                    "Prefer: handling=lenient. Paging links are opaque and stay good."
                ),
                "resource": [_resource(service, type_, offered[type_]) for type_ in sorted(offered)],
            }
        ],
    }


def _resource(service: Service, type_: str, interactions: frozenset[TypeInteraction]) -> Resource:
    described: Resource = {
        "type": type_,
        "interaction": [{"code": code} for code in _ORDER if code in interactions],
        "versioning": "versioned-update",
        "readHistory": "vread" in interactions,
        "updateCreate": service.fixed_ids and "update" in interactions,
        "conditionalCreate": "create" in interactions,
        "conditionalRead": "full-support" if "read" in interactions else "not-supported",
        "conditionalUpdate": False,
        "conditionalDelete": "not-supported",
        "referencePolicy": ["literal"],
    }
    if "search-type" in interactions:
        parameters = search_parameters(type_)
        described["searchParam"] = [
            {"name": code, "definition": parameters[code].url, "type": parameters[code].kind}
            for code in sorted(parameters)
        ]
    if operations := [_operation(one) for one in service.operations if one.type == type_]:
        described["operation"] = operations
    return described


def _operation(operation: Operation) -> Resource:
    described: Resource = {"name": operation.name, "definition": operation.canonical}
    if operation.documentation:
        described["documentation"] = operation.documentation
    return described
