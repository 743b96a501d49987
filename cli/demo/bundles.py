"""Transaction Bundles from files, made ready to be loaded entry by entry. Pure but for reading the files.

An entry keeps what it says. What changes: `id`, `meta.versionId` and `meta.lastUpdated` are the server's to give; a
reference to another entry (``urn:uuid:...``, or ``Practitioner?identifier=...`` as newer Synthea writes it) becomes the
server's; `meta.source` and one tag say which entry it was, so that loading twice makes one.

Source: https://hl7.org/fhir/R4/http.html#trules, https://hl7.org/fhir/R4/references.html#logical
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl

from cli.demo.client import DemoError, condition
from shared.fhir.json import Json, Resource, parse
from shared.fhir.outcome import BadRequest

SOURCE_ENTRY = "https://kap-exchange.org/fhir/sid/source-entry"
BY_IDENTIFIER = frozenset({"Patient", "Practitioner", "Organization", "Location"})
"""Types that are known by a business identifier: the same one in two files is the same person or house."""
IMPERSONAL = BY_IDENTIFIER - {"Patient"} | {"PractitionerRole", "Medication", "HealthcareService", "Questionnaire"}
"""Types that tell nothing of a patient; they are loaded before all others."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry: its `fullUrl`, its resource, and the file it stands in."""

    url: str
    resource: Resource
    file: str

    @property
    def type(self) -> str:
        """The resource's type."""
        return str(self.resource["resourceType"])


def read_folder(folder: Path) -> dict[str, list[Entry]]:
    """Return the entries of every ``.json`` and ``.json.gz`` Bundle in `folder`, by file name, in its order.

    Raises:
        DemoError: no folder, no Bundle in it, or a file that cannot be read.

    """
    if not folder.is_dir():
        raise DemoError(f"There is no folder {folder}. Give --from a folder of FHIR Bundles (.json or .json.gz).")
    files = sorted(path for path in folder.iterdir() if path.name.endswith((".json", ".json.gz")))
    read = {path.name: entries for path in files if (entries := _read(path)) is not None}
    if not read:
        raise DemoError(f"There is no FHIR Bundle (.json or .json.gz) in {folder}.")
    return read


def _read(path: Path) -> list[Entry] | None:
    try:
        raw = path.read_bytes()
        bundle = parse(gzip.decompress(raw) if path.suffix == ".gz" else raw)
    except (OSError, EOFError, zlib.error) as error:
        raise DemoError(f"{path} cannot be read: {error}.") from None
    except BadRequest as error:
        raise DemoError(f"{path}: {error}") from None
    if not isinstance(bundle, dict) or bundle.get("resourceType") != "Bundle":
        return None
    entries: list[Entry] = []
    for number, entry in enumerate(bundle.get("entry", [])):
        resource = entry.get("resource")
        if isinstance(resource, dict) and "resourceType" in resource:
            url = entry.get("fullUrl") or f"urn:kap-exchange:file:{path.name}:{number}"
            entries.append(Entry(str(url), resource, path.name))
    return entries


def references(value: Json) -> Iterator[dict[str, Json]]:
    """Yield every element with a literal reference that lies in `value`, contained resources included."""
    if isinstance(value, dict):
        if isinstance(value.get("reference"), str):
            yield value
        for member in value.values():
            yield from references(member)
    elif isinstance(value, list):
        for member in value:
            yield from references(member)


def identifiers(resource: Resource) -> Iterator[str]:
    """Yield ``system|value`` of every complete identifier of the resource."""
    for identifier in resource.get("identifier", []):
        if identifier.get("system") and identifier.get("value"):
            yield f"{identifier['system']}|{identifier['value']}"


def waves(entries: Iterable[Entry]) -> list[list[Entry]]:
    """Return the entries in waves: what an entry refers to stands in an earlier wave. Order within a wave is kept.

    Entries that refer to one another in a circle stand together in the last wave.
    """
    left = {entry.url: entry for entry in entries}
    named = {
        f"{entry.type}?identifier={identifier}": url
        for url, entry in left.items()
        for identifier in identifiers(entry.resource)
    }
    needs = {
        url: {
            target
            for element in references(entry.resource)
            if (target := named.get(element["reference"], element["reference"])) in left and target != url
        }
        for url, entry in left.items()
    }
    ordered: list[list[Entry]] = []
    while left:
        ready = [url for url in left if not needs[url] & left.keys()] or list(left)
        ordered.append([left.pop(url) for url in ready])
    return ordered


def translate(entry: Entry, resolve: Callable[[str], str | None]) -> Resource:
    """Return the entry's resource as it is to be created.

    `resolve` gives the server's ``Type/id`` for a reference of the file, or None. A reference that has none is kept as
    a logical one: its urn or its identifier.
    """
    resource: Resource = deepcopy(entry.resource)
    resource.pop("id", None)
    meta = resource.setdefault("meta", {})
    for of_the_server in ("versionId", "lastUpdated"):
        meta.pop(of_the_server, None)
    meta.setdefault("source", entry.url)
    meta["tag"] = [*meta.get("tag", []), {"system": SOURCE_ENTRY, "code": entry.url}]
    for element in references(resource):
        reference = element["reference"]
        if reference.startswith("#"):
            continue
        known = resolve(reference)
        if known is not None:
            element["reference"] = known
        else:
            _make_logical(element)
    return resource


def _make_logical(element: dict[str, Json]) -> None:
    reference = element.pop("reference")
    type_, asked, query = reference.partition("?")
    identifier = dict(parse_qsl(query)).get("identifier", "") if asked else ""
    system, known, value = identifier.partition("|")
    if known:
        element.setdefault("type", type_)
        element.setdefault("identifier", {"system": system, "value": value})
    else:
        element.setdefault("identifier", {"system": "urn:ietf:rfc:3986", "value": reference})


def unless(entry: Entry) -> str:
    """Return the `If-None-Exist` search under which the entry is already there."""
    if entry.type in BY_IDENTIFIER:
        for identifier in identifiers(entry.resource):
            return condition(identifier=identifier)
    return condition(_tag=f"{SOURCE_ENTRY}|{entry.url}")


def owners_first(files: Mapping[str, list[Entry]]) -> tuple[list[Entry], dict[str, list[Entry]], list[Entry]]:
    """Divide the entries: (those of no patient, those of each file with a patient, repeats).

    Entries of no patient are practitioners, organisations, locations and the like: what patients' entries refer to and
    what refers to no patient itself. A repeat is an entry whose `fullUrl` stood in an earlier file.
    """
    seen: set[str] = set()
    shared: list[Entry] = []
    repeats: list[Entry] = []
    of_patients: dict[str, list[Entry]] = {}
    for file, entries in files.items():
        with_patients = any(entry.type == "Patient" for entry in entries)
        for entry in entries:
            if entry.url in seen:
                repeats.append(entry)
                continue
            seen.add(entry.url)
            (of_patients.setdefault(file, []) if with_patients and entry.type not in IMPERSONAL else shared).append(
                entry
            )
    return shared, of_patients, repeats
