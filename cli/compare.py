"""What `./kap verify` decides, as pure functions: what each hop holds, compared with what the hop before it committed.

Three hops: an owner's database to the gateway's, the gateway's to delivery's ledger, the ledger to the hospital.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal, TypeAlias

from services.delivery.mapping import IDENTIFIER_SYSTEM
from shared.fhir.content import content_hash
from shared.fhir.json import Resource

Fault: TypeAlias = Literal["missing", "different", "unexpected", "doubled", "refused"]

NAMED = 5
"""So many resources are named of each kind of difference; all are counted."""


@dataclass(frozen=True, slots=True, order=True)
class Version:
    """One version of one resource; `content` is the SHA-256 of its body, in hex."""

    type: str
    id: str
    version: int
    content: str

    def __str__(self) -> str:
        return f"{self.type}/{self.id} version {self.version}"


@dataclass(frozen=True, slots=True)
class Digest:
    """What one database holds of one type of one owner; `content` is an order-free hash over all versions."""

    type: str
    origin: str
    versions: int
    current: int
    content: int


@dataclass(frozen=True, slots=True)
class Delivery:
    """A line of delivery's ledger: a resource on its way to one destination."""

    type: str
    id: str
    state: str
    wanted_version: int
    delivered_version: int | None
    server_id: str | None
    content_hash: str | None
    said: str = ""
    key: str = ""
    uncertain: bool = False
    accepted_at: datetime | None = None

    @property
    def name(self) -> str:
        """``Type/id``."""
        return f"{self.type}/{self.id}"


@dataclass(frozen=True, slots=True)
class Permission:
    """Whether the consents let a resource be told to a destination now, and when what they say last changed."""

    permitted: bool
    changed: datetime | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One kind of difference at one hop: how many resources of the type, and the first few by name."""

    hop: str
    fault: Fault
    type: str
    count: int
    names: tuple[str, ...]

    def __str__(self) -> str:
        more = f" and {self.count - len(self.names)} more" if self.count > len(self.names) else ""
        return f"{self.hop}: {self.count} {self.type} {self.fault}: {', '.join(self.names)}{more}"


def unequal_types(owner: str, committed: Iterable[Digest], held: Iterable[Digest]) -> list[str]:
    """Return the types of which a copy does not hold what `owner` committed, or holds what it never did."""
    ours = {digest.type: digest for digest in committed if digest.origin == owner}
    theirs = {digest.type: digest for digest in held if digest.origin == owner}
    return sorted(type_ for type_ in ours.keys() | theirs.keys() if ours.get(type_) != theirs.get(type_))


def compare_versions(hop: str, type_: str, committed: Iterable[Version], held: Iterable[Version]) -> list[Difference]:
    """Name the versions of one type that a copy lacks, has otherwise, or has although they were never committed."""
    ours = {(version.id, version.version): version for version in committed}
    theirs = {(version.id, version.version): version for version in held}
    missing = [str(ours[key]) for key in sorted(ours.keys() - theirs.keys())]
    unexpected = [str(theirs[key]) for key in sorted(theirs.keys() - ours.keys())]
    different = [str(ours[key]) for key in sorted(ours.keys() & theirs.keys()) if ours[key] != theirs[key]]
    return _differences(hop, type_, {"missing": missing, "unexpected": unexpected, "different": different})


KNOWN_WITHIN = timedelta(seconds=60)
"""So old may delivery's knowledge of consents be (`policies/knowledge.yaml`, disclosure): what it told later than that
after a change, it told by what the consents say now."""


def compare_ledger(
    current: Mapping[str, int],
    ledger: Iterable[Delivery],
    pushed: frozenset[str],
    permissions: Mapping[str, Permission] | None = None,
) -> list[Difference]:
    """Compare what is current at the gateway (``Type/id`` to version) with what the ledger says of it.

    Everything of a pushed type has a line, and the line wants that version. What the hospital refused is a difference;
    what is of a type that it does not take, or was withdrawn or cancelled, is none. `permissions` is what consents at
    the gateway say of each (None: they are not compared): what they permit is not held, and what they do not permit
    was not told, unless before they changed.
    """
    lines = {line.name: line for line in ledger}
    found: dict[str, dict[Fault, list[str]]] = defaultdict(lambda: defaultdict(list))
    for name, version in sorted(current.items()):
        type_ = name.partition("/")[0]
        if type_ not in pushed:
            continue
        line = lines.get(name)
        if line is None:
            found[type_]["missing"].append(name)
        elif line.wanted_version != version:
            found[type_]["different"].append(f"{name} (version {version} here, {line.wanted_version} in the ledger)")
        elif line.state == "refused":
            found[type_]["refused"].append(f"{name} ({line.said})" if line.said else name)
        elif permissions is not None and (fault := _against_consent(line, permissions)) is not None:
            found[type_][fault].append(f"{name} ({_CONSENT[fault]})")
    return [
        difference for type_ in sorted(found) for difference in _differences("gateway → delivery", type_, found[type_])
    ]


_CONSENT: dict[Fault, str] = {"missing": "held, though consent permits it", "unexpected": "told without consent"}


def _against_consent(line: Delivery, permissions: Mapping[str, Permission]) -> Fault | None:
    """Return what is wrong with a line by the consents: held though they permit, or told though they do not."""
    unknown = Permission(permitted=False, changed=None)
    own, patient = permissions.get(line.name, unknown), permissions.get(line.key, unknown)
    if line.state == "held":
        return "missing" if own.permitted and patient.permitted else None
    if own.permitted or line.state != "accepted" or line.accepted_at is None:
        return None
    told_later = own.changed is None or line.accepted_at > own.changed + KNOWN_WITHIN
    return "unexpected" if told_later else None


@dataclass(frozen=True, slots=True)
class Hospital:
    """What the hospital was found to hold: of ours by type, and how many resources are none of ours."""

    ours: Mapping[str, int]
    foreign: int
    differences: tuple[Difference, ...]


def compare_hospital(ledger: Iterable[Delivery], held: Iterable[Resource]) -> Hospital:
    """Compare what the ledger says was accepted with what the hospital shows over its own FHIR API.

    Each accepted line is there exactly once, under the id that the ledger has, with the content that was sent.
    """
    there: dict[str, list[Resource]] = defaultdict(list)
    ours: dict[str, int] = defaultdict(int)
    foreign = 0
    for resource in held:
        name = name_of(resource)
        if name is None:
            foreign += 1
        else:
            there[name].append(resource)
            ours[str(resource["resourceType"])] += 1
    found: dict[str, dict[Fault, list[str]]] = defaultdict(lambda: defaultdict(list))
    for line in ledger:
        copies = there.pop(line.name, [])
        faults = found[line.type]
        told = line.state == "held" and line.server_id is not None  # an earlier version, before consent was withdrawn
        if line.state in {"accepted", "superseded"} or told:
            _judge_accepted(line, copies, faults)
        elif len(copies) > 1:
            faults["doubled"].append(f"{line.name} ({len(copies)} times)")
        elif copies and line.state == "held" and not line.uncertain:
            faults["unexpected"].append(f"{line.name} (held for want of consent)")
    for name, copies in sorted(there.items()):
        found[name.partition("/")[0]]["unexpected"].append(f"{name} ({len(copies)} times)" if len(copies) > 1 else name)
    differences = [
        difference for type_ in sorted(found) for difference in _differences("delivery → hospital", type_, found[type_])
    ]
    return Hospital(dict(ours), foreign, tuple(differences))


def _judge_accepted(line: Delivery, copies: list[Resource], faults: dict[Fault, list[str]]) -> None:
    if not copies:
        faults["missing"].append(line.name)
    elif len(copies) > 1:
        faults["doubled"].append(f"{line.name} ({len(copies)} times)")
    elif copies[0].get("id") != line.server_id:
        faults["different"].append(f"{line.name} (there {copies[0].get('id')}, in the ledger {line.server_id})")
    elif content_hash(copies[0]) != line.content_hash:
        faults["different"].append(line.name)


def name_of(resource: Resource) -> str | None:
    """Return ``Type/our id`` of a resource that delivery sent, by its business identifier; None of any other."""
    system = f"{IDENTIFIER_SYSTEM}{resource.get('resourceType')}"
    for identifier in resource.get("identifier", []):
        if identifier.get("system") == system:
            return f"{resource['resourceType']}/{identifier.get('value')}"
    return None


def _differences(hop: str, type_: str, faults: Mapping[Fault, list[str]]) -> list[Difference]:
    return [Difference(hop, fault, type_, len(names), tuple(names[:NAMED])) for fault, names in faults.items() if names]
