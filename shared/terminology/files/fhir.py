"""CodeSystem and ValueSet resources as FHIR JSON: one, a Bundle of them, or NDJSON. So come CPT, VSAC and others.

Source: https://hl7.org/fhir/R4/codesystem.html, https://hl7.org/fhir/R4/valueset.html
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from shared.terminology.files.source import Source
from shared.terminology.release import CannotRead, CodeSystemRelease, LoadedCode, ValueSetRelease

Release = CodeSystemRelease | ValueSetRelease


def read(source: Source) -> list[Release]:
    """Return what the source holds, code systems first, so that value sets find them.

    Raises:
        CannotRead: not FHIR JSON, or nothing in it is a code system or value set.

    """
    found: list[Release] = []
    for name in source.names():
        if name.lower().removesuffix(".gz").endswith((".json", ".ndjson")):
            with source.binary(name) as file:
                raw = file.read()
            found.extend(_release(one, name) for one in _resources(raw, name))
    if not found:
        raise CannotRead(f"{source.path} has no CodeSystem and no ValueSet: not a terminology that can be loaded here.")
    return sorted(found, key=lambda one: isinstance(one, ValueSetRelease))


def _resources(raw: bytes, name: str) -> Iterator[Mapping[str, Any]]:
    for number, part in enumerate(_documents(raw, name), 1):
        inner = [entry.get("resource", {}) for entry in part.get("entry", ())] if "entry" in part else [part]
        for one in inner:
            if one.get("resourceType") in {"CodeSystem", "ValueSet"}:
                yield one
            elif "entry" not in part:
                raise CannotRead(f"{name}, document {number}: {one.get('resourceType')} is no CodeSystem or ValueSet.")


def _documents(raw: bytes, name: str) -> Iterator[Mapping[str, Any]]:
    try:
        whole = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        lines = [line for line in raw.splitlines() if line.strip()]
        try:
            parts = [msgspec.json.decode(line) for line in lines]
        except msgspec.DecodeError as error:
            raise CannotRead(f"{name} is neither JSON nor NDJSON: {error}.") from error
    else:
        parts = [whole]
    for part in parts:
        if not isinstance(part, dict):
            raise CannotRead(f"{name} holds JSON that is no resource.")
        yield part


def _release(resource: Mapping[str, Any], name: str) -> Release:
    url = resource.get("url")
    if not isinstance(url, str) or not url:
        raise CannotRead(f"{name}: a {resource['resourceType']} without url cannot be named, and is not loaded.")
    version, title = str(resource.get("version", "")), str(resource.get("title") or resource.get("name") or url)
    digest = hashlib.sha256(msgspec.json.encode(resource)).hexdigest()
    if resource["resourceType"] == "ValueSet":
        return ValueSetRelease(url, version, title, digest, resource.get("compose", {}), resource.get("expansion"))
    if resource.get("content", "complete") not in {"complete", "fragment"} or not resource.get("concept"):
        raise CannotRead(f"{name}: the CodeSystem {url} lists no concepts (content '{resource.get('content')}').")
    concepts: dict[str, LoadedCode] = {}
    parents: set[tuple[str, str]] = set()
    _collect(resource["concept"], None, concepts, parents)
    return CodeSystemRelease(url, version, title, digest, concepts, frozenset(parents))


def _collect(
    listed: list[Mapping[str, Any]],
    above: str | None,
    concepts: dict[str, LoadedCode],
    parents: set[tuple[str, str]],
) -> None:
    for one in listed:
        code = str(one["code"])
        properties = one.get("property", ())
        inactive = any(
            (p.get("code") == "inactive" and p.get("valueBoolean") is True)
            or (p.get("code") == "status" and p.get("valueCode") in {"retired", "inactive"})
            for p in properties
        )
        concepts[code] = LoadedCode(str(one.get("display", code)), not inactive)
        if above is not None:
            parents.add((code, above))
        parents.update(
            (code, str(p["valueCode"]))
            for p in properties
            if p.get("code") in {"parent", "subsumedBy"} and "valueCode" in p
        )
        _collect(one.get("concept", []), code, concepts, parents)
