"""A destination as the Endpoint resource that describes it; pure.

status active                                       resources are sent; anything else: they are queued only
connectionType hl7-fhir-rest                        the only kind there is so far
address                                             its FHIR base URL
payloadType coding of http://hl7.org/fhir/resource-types
                                                    what is pushed there; none: everything that can be pushed
extension .../destination-creates-patients          whether a patient it does not know may be created there
managingOrganization                                who it is for patients' consents (provision.actor)
extension .../destination-purpose                   what it is told things for, a code of v3-ActReason; none: TREAT
extension .../destination-intermediary              the Organization by which it is told, an intermediary (42 CFR 2.11)
"""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from services.delivery.capability import PUSHED_TYPES
from shared.fhir.codes import BASE
from shared.fhir.json import Resource
from shared.fhir.outcome import Unprocessable
from shared.store.ledger_types import Destination

CONNECTION_TYPE: Final = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"
FHIR_REST: Final = "hl7-fhir-rest"
RESOURCE_TYPES: Final = "http://hl7.org/fhir/resource-types"
EXT_CREATES_PATIENTS: Final = f"{BASE}/StructureDefinition/destination-creates-patients"
EXT_PURPOSE: Final = f"{BASE}/StructureDefinition/destination-purpose"
EXT_INTERMEDIARY: Final = f"{BASE}/StructureDefinition/destination-intermediary"
PURPOSES: Final = ("TREAT", "COC", "CAREMGT", "HPAYMT", "HOPERAT", "HRESCH", "CLINTRCH", "PUBHLTH", "PATRQT")
"""What a destination may be told things for. Not legal proceedings (HLEGAL); not an emergency (BTG, ETREAT)."""
ID_DESTINATION: Final = f"{BASE}/identifier/destination"


def endpoint(name: str, address: str, *, creates_patients: bool) -> Resource:
    """Return the Endpoint of a FHIR destination that gets everything that can be pushed; `name` identifies it."""
    return {
        "resourceType": "Endpoint",
        "extension": [{"url": EXT_CREATES_PATIENTS, "valueBoolean": creates_patients}],
        "identifier": [{"system": ID_DESTINATION, "value": name}],
        "status": "active",
        "connectionType": {"system": CONNECTION_TYPE, "code": FHIR_REST},
        "name": name,
        "payloadType": [{"coding": [{"system": RESOURCE_TYPES, "code": type_} for type_ in PUSHED_TYPES]}],
        "payloadMimeType": ["application/fhir+json"],
        "address": address,
    }


def destination_of(resource: Resource, *, id_: str, tenant: str) -> Destination:
    """Return the destination that an Endpoint describes.

    Raises:
        Unprocessable: it is of a kind that nothing can be sent to; names what is wrong.

    """
    connection = resource["connectionType"]
    if connection.get("code") != FHIR_REST:
        raise Unprocessable(
            f"Resources can be delivered to FHIR servers only: connectionType must be {FHIR_REST}.",
            expression=["Endpoint.connectionType"],
        )
    address = str(resource["address"]).rstrip("/")
    parts = urlsplit(address)
    if parts.scheme not in {"http", "https"} or not parts.netloc or parts.query or parts.fragment:
        raise Unprocessable(
            "The address must be the FHIR base URL of a server: http(s)://host/path, without query.",
            expression=["Endpoint.address"],
        )
    named = [
        coding.get("code")
        for concept in resource["payloadType"]
        for coding in concept.get("coding", ())
        if coding.get("system") == RESOURCE_TYPES
    ]
    wrong = sorted(str(code) for code in named if code not in PUSHED_TYPES)
    if wrong:
        raise Unprocessable(
            f"{', '.join(wrong)} cannot be delivered; these can: {', '.join(PUSHED_TYPES)}.",
            expression=["Endpoint.payloadType"],
        )
    purpose = next(
        (str(one.get("valueCode")) for one in resource.get("extension", ()) if one.get("url") == EXT_PURPOSE), "TREAT"
    )
    if purpose not in PURPOSES:
        raise Unprocessable(
            f"Nothing is delivered for {purpose}: a destination is told things for one of {', '.join(PURPOSES)}. For "
            "legal proceedings records leave by hand.",
            expression=["Endpoint.extension"],
        )
    named_as = str(resource.get("managingOrganization", {}).get("reference", ""))
    through = _intermediary(resource)
    if through is not None and not named_as.startswith("Organization/"):
        raise Unprocessable(
            "What is told through an intermediary is told to somebody: name the participant that it is for as "
            "managingOrganization, Organization/[id].",
            expression=["Endpoint.managingOrganization"],
        )
    creates = any(
        extension.get("valueBoolean") is True
        for extension in resource.get("extension", ())
        if extension.get("url") == EXT_CREATES_PATIENTS
    )
    return Destination(
        id=id_,
        tenant=tenant,
        name=str(resource.get("name", address)),
        address=address,
        active=resource["status"] == "active",
        types=frozenset(str(code) for code in named) or frozenset(PUSHED_TYPES),
        creates_patients=creates,
        recipient=named_as if named_as.startswith("Organization/") else None,
        purpose=purpose,
        through=None if through == named_as else through,
    )


def _intermediary(resource: Resource) -> str | None:
    """Return by whom the destination is told.

    Raises:
        Unprocessable: the extension names no Organization.

    """
    for one in resource.get("extension", ()):
        if one.get("url") == EXT_INTERMEDIARY:
            named = str(one.get("valueReference", {}).get("reference", ""))
            if not named.startswith("Organization/"):
                raise Unprocessable(
                    "An intermediary is named as valueReference, Organization/[id].", expression=["Endpoint.extension"]
                )
            return named
    return None
