"""A resource as the destination gets it: its own ids in the references, ours as a business identifier; no I/O here.

* ``{"system": "https://kap-exchange.org/fhir/id/<Type>", "value": "<our id>"}`` is added to `identifier`, so that the
  resource can be found there again whatever became of the answer to the first attempt.
* A reference to a resource that the destination has from us becomes a reference to its id there.
* A reference to anything else becomes a logical reference: the type and our identifier, and the display as it was.
* A reference to what the patient's consents do not let be told names nothing: `data-absent-reason` masked stands for
  it, the narrative goes with it, and the resource bears the label REDACTED.
* What only says where the resource is kept (`id`, `meta.versionId`, `meta.lastUpdated`) is left out.

Source: https://hl7.org/fhir/R4/references.html#logical
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import TypeAlias

from shared.fhir.content import labelled, without_server_elements
from shared.fhir.json import Json, Resource

IDENTIFIER_SYSTEM = "https://kap-exchange.org/fhir/id/"

_RELATIVE = re.compile(r"(?P<type>[A-Z][A-Za-z]{1,63})/(?P<id>[A-Za-z0-9\-.]{1,64})(/_history/[A-Za-z0-9\-.]{1,64})?")


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A resource that is referred to, by our type and id."""

    type: str
    id: str

    def __str__(self) -> str:
        return f"{self.type}/{self.id}"

    @property
    def identifier(self) -> Resource:
        """The business identifier it has at every destination."""
        return {"system": IDENTIFIER_SYSTEM + self.type, "value": self.id}


Resolve: TypeAlias = Callable[[Target], str | None]
"""The id a target has at the destination, or None: then the reference is made logical."""


def target_of(reference: str) -> Target | None:
    """Return what a relative reference points to; None for a contained, absolute or `urn:` one."""
    match = _RELATIVE.fullmatch(reference)
    return None if match is None else Target(match["type"], match["id"])


def targets_of(resource: Resource) -> frozenset[Target]:
    """Return every resource of this server that `resource` refers to, itself left out."""
    own = Target(str(resource.get("resourceType")), str(resource.get("id")))
    return frozenset(_targets(resource)) - {own}


def _targets(value: Json) -> Iterator[Target]:
    if isinstance(value, dict):
        reference = value.get("reference")
        if isinstance(reference, str) and (target := target_of(reference)) is not None:
            yield target
        for member in value.values():
            yield from _targets(member)
    elif isinstance(value, list):
        for item in value:
            yield from _targets(item)


REDACTED = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "REDACTED"}
"""Label of what something was taken out of: https://hl7.org/fhir/R4/security-labels.html#core"""

MASKED = {"extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "masked"}]}
"""What stands for a reference that is not told."""


def outbound(
    resource: Resource, resolve: Resolve, *, own_base: str, hidden: AbstractSet[Target] = frozenset()
) -> Resource:
    """Return `resource` as it is sent to a destination.

    Args:
        resource: as held here, with its id.
        resolve: what the destination calls the resources referred to.
        own_base: our public FHIR base, for attachments that are kept here and not sent.
        hidden: what it refers to and may not be told.

    """
    own = Target(resource["resourceType"], resource["id"])
    sent: Resource = _rewritten(without_server_elements(resource), resolve, own_base, hidden)
    if hidden & targets_of(resource):
        sent.pop("text", None)
        sent = labelled(sent, REDACTED)
    identifiers = [one for one in sent.get("identifier", ()) if one.get("system") != IDENTIFIER_SYSTEM + own.type]
    return {**sent, "identifier": [*identifiers, own.identifier]}


def _rewritten(value: Json, resolve: Resolve, own_base: str, hidden: AbstractSet[Target]) -> Json:
    if isinstance(value, list):
        return [_rewritten(item, resolve, own_base, hidden) for item in value]
    if not isinstance(value, dict):
        return value
    new = {name: _rewritten(member, resolve, own_base, hidden) for name, member in value.items()}
    reference = value.get("reference")
    if isinstance(reference, str) and (target := target_of(reference)) is not None:
        if target in hidden:
            return MASKED
        there = resolve(target)
        if there is None:
            del new["reference"]
            return {"type": target.type, "identifier": target.identifier, **new}
        new["reference"] = f"{target.type}/{there}"
    url = value.get("url")
    if isinstance(url, str) and url.startswith("Binary/"):
        new["url"] = f"{own_base}/{url}"
    return new


_ENTERED_IN_ERROR = "entered-in-error"


def withdrawn(held_there: Resource) -> Resource:
    """Return the destination's resource marked as entered in error; a Patient, who has no such status, as not active.

    `held_there` is the resource as the destination returns it.
    """
    type_ = held_there["resourceType"]
    if type_ == "Patient":
        return {**held_there, "active": False}
    if type_ == "Condition":
        marked = {name: value for name, value in held_there.items() if name != "clinicalStatus"}  # con-5
        system = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
        return {**marked, "verificationStatus": {"coding": [{"system": system, "code": _ENTERED_IN_ERROR}]}}
    return {**held_there, "status": _ENTERED_IN_ERROR}
