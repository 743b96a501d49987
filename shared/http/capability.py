"""The CapabilityStatement, generated from what is registered: types, interactions, search parameters, operations.

Source: https://hl7.org/fhir/R4/capabilitystatement.html, https://hl7.org/fhir/R4/http.html#capabilities,
https://hl7.org/fhir/us/core/STU7/CapabilityStatement-us-core-server.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from shared.fhir.definitions import FHIR_VERSION, TYPES, search_parameters
from shared.fhir.json import Resource
from shared.fhir.profiles.table import Profile, profiles_of_type
from shared.fhir.values import targets_of
from shared.http import audit_events, conformance
from shared.http.bundle import instant
from shared.version import VERSION

if TYPE_CHECKING:
    from shared.http.backend import TypeInteraction
    from shared.runtime.service import Operation, Service

Offered = Mapping[str, frozenset["TypeInteraction"]]

_ORDER: tuple[TypeInteraction, ...] = (
    "read", "vread", "update", "patch", "delete", "history-instance", "history-type", "create", "search-type",
)  # fmt: skip
_SYSTEM: Final = ("transaction", "batch", "history-system", "search-system")
_PATCHES: Final = ("application/json-patch+json", "application/merge-patch+json", "application/fhir+json")
_SMART: Final = {
    "service": [
        {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/restful-security-service",
                     "code": "SMART-on-FHIR"}]}
    ],
    "description": "SMART App Launch and Backend Services as .well-known/smart-configuration tells; scopes of version "
    "2 and 1.",
}  # fmt: skip
_BULK_DATA: Final = "http://hl7.org/fhir/uv/bulkdata/CapabilityStatement/bulk-data"
_BACKPORT: Final = "http://hl7.org/fhir/uv/subscriptions-backport"
_TOPIC: Final = f"{_BACKPORT}/StructureDefinition/capabilitystatement-subscriptiontopic-canonical"
_US_CORE: Final = "http://hl7.org/fhir/us/core"
_US_CORE_VERSIONS: Final = ("7.0.0", "6.1.0")


def capability_statement(
    service: Service,
    offered: Offered,
    base_url: str,
    *,
    since: datetime,
    tokens: bool = False,
    security: Sequence[Resource] = (),
) -> Resource:
    """Return the CapabilityStatement of a service that offers `offered` (interactions by type) at `base_url`.

    `since` is when this set of abilities came to be: the start of the process. `tokens`: whether it asks for them;
    `security`: extensions that tell where they are to be had.
    """
    smart = {**({"extension": list(security)} if security else {}), **_SMART, "cors": True}
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
        "instantiates": _instantiates(service),
        "software": {"name": "KAP Exchange", "version": VERSION},
        "implementation": {"description": service.title, "url": base_url},
        "fhirVersion": FHIR_VERSION,
        "format": ["application/fhir+json", "json"],
        "patchFormat": list(_PATCHES),
        "implementationGuide": [
            *(f"{_US_CORE}/ImplementationGuide/hl7.fhir.us.core|{version}" for version in _US_CORE_VERSIONS),
            *([f"{_BACKPORT}/ImplementationGuide/hl7.fhir.uv.subscriptions-backport|1.1.0"] if service.topics else []),
        ],
        "rest": [
            {
                "mode": "server",
                "documentation": (
                    "An unknown search parameter is answered 400, or ignored and named in the Bundle with "
                    "Prefer: handling=lenient. Paging links are opaque and stay good. _total=estimate is answered "
                    "exactly, as accurate is. A search does not look into contained resources: _contained "
                    "can only be false. A profile that a resource claims is enforced where it is known. "
                    "X-Provenance is kept with any write."
                ),
                **({"security": smart} if tokens else {}),
                "resource": [_resource(service, type_, offered) for type_ in sorted(offered)],
                "interaction": [{"code": code} for code in _SYSTEM],
                **_of_system(service),
            }
        ],
    }


def _resource(service: Service, type_: str, offered: Offered) -> Resource:
    interactions = offered[type_]
    own = type_ in conformance.TYPES_OF or type_ == audit_events.TYPE
    described: Resource = {"type": type_}
    if type_ == "Subscription" and service.topics:
        described |= {
            "extension": [{"url": _TOPIC, "valueCanonical": one} for one in service.topics],
            "documentation": "Topics: "
            + "; ".join(f"{canonical}: {said}" for canonical, said in service.topics.items())
            + ". Channel: rest-hook. A Subscription is seen by the client that made it, and by operators.",
        }
    profiles = supported_profiles(type_)
    if type_ == "Subscription" and service.topics:
        profiles = [*profiles, f"{_BACKPORT}/StructureDefinition/backport-subscription"]
    if profiles:
        described["supportedProfile"] = profiles
    described |= {
        "interaction": [{"code": code} for code in _ORDER if code in interactions],
        "versioning": "no-version" if own else "versioned-update",
        "readHistory": "vread" in interactions,
        "updateCreate": service.fixed_ids and "update" in interactions,
        "conditionalCreate": "create" in interactions,
        "conditionalRead": "full-support" if "read" in interactions else "not-supported",
        "conditionalUpdate": "update" in interactions,
        "conditionalDelete": "single" if "delete" in interactions else "not-supported",
    }
    if not own:
        described["referencePolicy"] = ["literal"]
    if "search-type" in interactions:
        if type_ == audit_events.TYPE:
            described |= _audit_search()
        else:
            described |= _conformance_search(type_) if own else _search(type_, offered)
    if operations := [_operation(one) for one in _operations(service, type_)]:
        described["operation"] = operations
    return described


def supported_profiles(type_: str) -> list[str]:
    """Return the canonicals of US Core's and the project's profiles that a type is held to where it claims one."""
    found = (one for one in profiles_of_type(type_) if _is_named(one))
    return sorted({one.url for one in found})


def _is_named(profile: Profile) -> bool:
    return profile.url.startswith((f"{_US_CORE}/", "https://kap-exchange.org/"))


def _search(type_: str, offered: Offered) -> Resource:
    parameters = search_parameters(type_)
    described: Resource = {}
    references = [code for code in sorted(parameters) if parameters[code].kind == "reference"]
    if references:
        described["searchInclude"] = [f"{type_}:{code}" for code in references]
    if pointing := [
        f"{other}:{code}"
        for other in sorted(offered)
        if other in TYPES - {audit_events.TYPE} and "search-type" in offered[other]
        for code, one in sorted(search_parameters(other).items())
        if one.kind == "reference" and type_ in targets_of(one)
    ]:
        described["searchRevInclude"] = pointing
    described["searchParam"] = [
        {"name": code, "definition": parameters[code].url, "type": parameters[code].kind} for code in sorted(parameters)
    ]
    return described


def _conformance_search(type_: str) -> Resource:
    kinds = {**conformance.PARAMETERS, **conformance.MORE[type_]}
    return {
        "searchParam": [
            {
                "name": code,
                "definition": f"http://hl7.org/fhir/SearchParameter/{_definition(type_, code)}",
                "type": kinds[code],
            }
            for code in sorted(kinds)
        ]
    }


def _audit_search() -> Resource:
    known = search_parameters(audit_events.TYPE)
    return {
        "searchParam": [
            {"name": code, "definition": known[code].url, "type": kind}
            for code, kind in sorted(audit_events.PARAMETERS.items())
        ]
    }


def _definition(type_: str, code: str) -> str:
    if code == "_id":
        return "Resource-id"
    return f"{type_}-{code}" if code in conformance.MORE[type_] and code != "title" else f"conformance-{code}"


def _of_system(service: Service) -> Resource:
    """Return the operations that are of no type, as the member that lists them."""
    operations = [_operation(one) for one in service.operations if one.level == "system"]
    return {"operation": operations} if operations else {}


def _instantiates(service: Service) -> list[str]:
    exports = any(one.name == "export" and one.level == "system" for one in service.operations)
    return [f"{_US_CORE}/CapabilityStatement/us-core-server", *((_BULK_DATA,) if exports else ())]


def _operations(service: Service, type_: str) -> list[Operation]:
    """Return the operations of a type, each once, whatever its levels."""
    return list({one.name: one for one in service.operations if one.type == type_}.values())


def _operation(operation: Operation) -> Resource:
    described: Resource = {"name": operation.name, "definition": operation.canonical}
    if operation.documentation:
        described["documentation"] = operation.documentation
    return described
