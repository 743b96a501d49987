"""The operations that every service offers from what it knows itself: `$validate`, and those of terminology.

The gateway answers them itself, too, and asks no owner. They change nothing, so they may be called by GET.

Source: https://hl7.org/fhir/R4/resource-operation-validate.html, https://hl7.org/fhir/R4/valueset-operations.html,
https://hl7.org/fhir/R4/codesystem-operations.html
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final, Literal, TypeAlias

from shared.fhir.dates import zulu
from shared.fhir.json import Resource
from shared.fhir.outcome import BadRequest, Issue, NotFound, Unprocessable, operation_outcome
from shared.fhir.profiles import engine
from shared.fhir.profiles.table import Profile, profile_of
from shared.fhir.validation import as_issues, lacking, validate
from shared.runtime.record import Record
from shared.runtime.service import Operation, OperationCall
from shared.store.terminology import StoredTerminology
from shared.terminology import shipped

Codings: TypeAlias = list[tuple[str | None, str, str | None]]
"""System, code and display of what is asked for."""

VALIDATE: Final = "validate"
"""Also of an instance; HTTP makes a call of its type of that, with what is held."""

MOST: Final = 1000
"""Codes in one page of an expansion."""

_HL7: Final = "http://hl7.org/fhir/OperationDefinition/"
_LOAD: Final = "A clinic loads it from its own files by 'kap terminology load'."


def operations_for(types: Iterable[str]) -> tuple[Operation, ...]:
    """Return the operations of a service that serves `types`."""
    said = "Tells every issue of a resource, against R4, the profiles it claims and the one that `profile` names."
    checks = [
        Operation(
            VALIDATE, type_, level, _validate, affects_state=False, documentation=said,
            definition=f"{_HL7}Resource-validate",
        )
        for type_ in sorted(types)
        for level in ("type", "instance")
    ]  # fmt: skip
    return (
        *checks,
        *_of("ValueSet", "expand", _expand, "The codes of a value set: url, filter, offset, count."),
        *_of("ValueSet", "validate-code", _in_value_set, "Whether a code is in a value set."),
        *_of("CodeSystem", "lookup", _lookup, "What a code means: its display, and the codes above and below it.")[:1],
        *_of("CodeSystem", "validate-code", _in_code_system, "Whether a code is in a code system."),
    )


def _of(type_: str, name: str, handler: Any, said: str) -> tuple[Operation, Operation]:
    """Return an operation of a type, and of an instance: of that HTTP makes a call of its type, by the canonical."""

    def at(level: Literal["type", "instance"]) -> Operation:
        definition = f"{_HL7}{type_}-{name}"
        return Operation(name, type_, level, handler, affects_state=False, documentation=said, definition=definition)

    return at("type"), at("instance")


# What a call says


def _given(call: OperationCall, name: str) -> Any:
    """Return the value of a parameter, of whatever type; None where it is not given."""
    for one in call.parameters.get("parameter", ()):
        if one.get("name") == name:
            return one.get("resource") or next((value for key, value in one.items() if key.startswith("value")), None)
    return None


def _text(call: OperationCall, name: str) -> str | None:
    value = _given(call, name)
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"The parameter {name} is one text.", code="value", expression=[f"Parameters.{name}"])
    return value or None


def _number(call: OperationCall, name: str, usual: int) -> int:
    value = _given(call, name)
    if value is None:
        return usual
    if isinstance(value, bool) or not str(value).isdecimal() or len(str(value)) > 9:
        raise BadRequest(f"The parameter {name} is a number from 0.", code="value", expression=[f"Parameters.{name}"])
    return int(str(value))


def _needed(call: OperationCall, name: str) -> str:
    value = _text(call, name)
    if value is None:
        raise BadRequest(
            f"${call.name} needs the parameter {name}.", code="required", expression=[f"Parameters.{name}"]
        )
    return value


def _codings(call: OperationCall, system: str | None) -> Codings:
    """Return what a call asks about: ``code`` with ``system``, a ``coding``, or a ``codeableConcept``."""
    given = [_given(call, "coding")] if _given(call, "coding") is not None else []
    concept = _given(call, "codeableConcept")
    if isinstance(concept, Mapping):
        listed = concept.get("coding", [])
        given.extend(listed if isinstance(listed, list) else [])
    if not given:
        return [(_text(call, "system") or system, _needed(call, "code"), _text(call, "display"))]
    found: Codings = [
        (one.get("system", system), one["code"], one.get("display"))
        for one in given
        if isinstance(one, Mapping) and isinstance(one.get("code"), str)
    ]
    if not found:
        raise BadRequest("The coding has no code.", code="required", expression=["Parameters.coding"])
    return found


def _parameters(*pairs: tuple[str, str, Any]) -> Resource:
    listed = [{"name": name, kind: value} for name, kind, value in pairs if value is not None]
    return {"resourceType": "Parameters", "parameter": listed}


# $validate


async def _validate(call: OperationCall, record: Record) -> Resource:
    mode = _text(call, "mode")
    if mode not in {None, "create", "update", "delete", "profile"}:
        raise BadRequest(
            "mode is one of create, update, delete, profile.", code="value", expression=["Parameters.mode"]
        )
    resource = _given(call, "resource")
    if mode == "delete":
        return _may_be_deleted(call, resource)
    if resource is None:
        raise BadRequest("$validate needs a resource.", code="required", expression=["Parameters.resource"])
    if not isinstance(resource, dict):
        raise BadRequest("The parameter resource is a resource.", expression=["Parameters.resource"])
    asked = [str(one) for one in _all(call, "profile")]
    issues = _told(call, resource, asked, mode)
    issues += await _open_bindings(resource, asked, record.terminology)
    return operation_outcome(issues)


def _may_be_deleted(call: OperationCall, resource: Any) -> Resource:
    if resource is None:
        raise BadRequest(
            f"mode=delete is asked of an instance: {call.type}/[id]/$validate.", expression=["Parameters.mode"]
        )
    said = "A deletion is well-formed. Whether a rule forbids it is judged when it is asked for."
    return operation_outcome([Issue(said, code="informational", severity="information")])


def _all(call: OperationCall, name: str) -> list[Any]:
    return [
        value
        for one in call.parameters.get("parameter", ())
        if one.get("name") == name
        for key, value in one.items()
        if key.startswith("value")
    ]


def _told(call: OperationCall, resource: Resource, asked: list[str], mode: str | None) -> list[Issue]:
    issues = validate(resource)
    said = resource.get("resourceType")
    if said != call.type and isinstance(said, str):
        issues.append(Issue(f"The resource is a {said}, and was to be a {call.type}.", expression=(call.type,)))
    if mode == "update" and not isinstance(resource.get("id"), str):
        issues.append(Issue("An update carries the resource's id.", code="required", expression=(f"{call.type}.id",)))
    for canonical in asked:
        profile = profile_of(canonical)
        if profile is None:
            said_unknown = f"The profile {canonical} is not known here: the resource was not checked against it."
            issues.append(Issue(said_unknown, code="not-supported", expression=("Parameters.profile",)))
    issues.extend(one for one in as_issues(resource, lacking(resource, asked)) if one not in issues)
    issues.extend(
        Issue(
            f"The profile {canonical}, which the resource claims, is not known here.",
            code="not-supported",
            severity="information",
            expression=(f"{call.type}.meta.profile[{position}]",),
        )
        for position, canonical in enumerate(_claims(resource))
        if profile_of(canonical) is None
    )
    return issues


def _claims(resource: Resource) -> list[str]:
    meta = resource.get("meta")
    claims = meta.get("profile") if isinstance(meta, dict) else None
    return [one for one in claims if isinstance(one, str)] if isinstance(claims, list) else []


async def _open_bindings(resource: Resource, asked: list[str], terminology: StoredTerminology) -> list[Issue]:
    """Return what loaded terminology says of codes that a profile binds to value sets which are not shipped."""
    issues: list[Issue] = []
    type_ = str(resource.get("resourceType"))
    for canonical in dict.fromkeys([*asked, *_claims(resource)]):
        profile: Profile | None = profile_of(canonical)
        if profile is None or profile.type != type_:
            continue
        for binding in engine.check(resource, profile).open:
            members = await terminology.members(binding.value_set)
            where = (f"{type_}{binding.where}",)
            if members is None:
                said = f"The value set {binding.value_set} is not loaded: only the code's system was checked. {_LOAD}"
                issues.append(Issue(said, code="informational", severity="information", expression=where))
            elif not any(code in members.get(system or "", ()) for system, code in binding.codings):
                said = f"{where[0]} has no code of the value set {binding.value_set}."
                issues.append(Issue(said, code="code-invalid", expression=where))
    return list(dict.fromkeys(issues))


# Value sets


async def _known_members(url: str, terminology: StoredTerminology) -> Mapping[str, frozenset[str]]:
    members = await terminology.members(url)
    if members is not None:
        return members
    held = shipped.value_sets().get(url.partition("|")[0])
    if held is None or held.members is not None:
        raise NotFound(f"The value set {url} is not known here. {_LOAD}", expression=["Parameters.url"])
    systems = ", ".join(held.open) or "others"
    raise Unprocessable(
        f"The codes of {url} are those of {systems}, and are not shipped. {_LOAD}",
        code="not-supported",
        expression=["Parameters.url"],
    )


async def _expand(call: OperationCall, record: Record) -> Resource:
    url, terminology = _needed(call, "url"), record.terminology
    text = _text(call, "filter") or ""
    offset, count = _number(call, "offset", 0), _number(call, "count", MOST)
    if count > MOST:
        raise BadRequest(f"count is at most {MOST}.", code="too-costly", expression=["Parameters.count"])
    members = await _known_members(url, terminology)
    plain = url.partition("|")[0]
    loaded = await terminology.value_set(plain)
    if loaded is not None:
        total, page = await terminology.page(plain, text=text, offset=offset, count=count)
        title, version = loaded.title, loaded.version
    else:
        held = shipped.value_sets()[plain]
        title, version = held.title, held.version
        listed = [
            (system, code, shipped.systems()[system].concepts[code].display)
            for system, codes in sorted(members.items())
            for code in sorted(codes)
        ]
        wanted = [one for one in listed if text.lower() in one[2].lower() or text == one[1]]
        total, page = len(wanted), wanted[offset : offset + count]
    contains = [{"system": system, "code": code, "display": display} for system, code, display in page]
    expansion: Resource = {
        "identifier": f"urn:uuid:{uuid.uuid4()}",
        "timestamp": zulu(datetime.now(UTC)),
        "total": total,
        "offset": offset,
        "parameter": [{"name": "filter", "valueString": text}] if text else None,
        "contains": contains or None,
    }
    made = {
        "resourceType": "ValueSet",
        "url": plain,
        "version": version or None,
        "title": title or None,
        "status": "active",
        "expansion": {key: value for key, value in expansion.items() if value is not None},
    }
    return {key: value for key, value in made.items() if value is not None}


async def _in_value_set(call: OperationCall, record: Record) -> Resource:
    url = _needed(call, "url")
    members = await _known_members(url, record.terminology)
    codings = _codings(call, None)
    for system, code, display in codings:
        holds = any(code in codes for codes in members.values()) if system is None else code in members.get(system, ())
        if holds:
            known = await _display(system or _system_of(code, members), code, record.terminology)
            return _verdict(display, known, code)
    shown = ", ".join(f"{system or ''}|{code}" for system, code, _ in codings)
    return _parameters(("result", "valueBoolean", False), ("message", "valueString", f"{shown} is not in {url}."))


def _system_of(code: str, members: Mapping[str, frozenset[str]]) -> str:
    return next(system for system, codes in members.items() if code in codes)


def _verdict(display: str | None, known: str | None, code: str) -> Resource:
    right = display is None or known is None or display.strip().lower() == known.strip().lower()
    message = None if right else f"The display of {code} is '{known}', not '{display}'."
    return _parameters(
        ("result", "valueBoolean", right), ("message", "valueString", message), ("display", "valueString", known)
    )


async def _display(system: str, code: str, terminology: StoredTerminology) -> str | None:
    concept = await terminology.concept(system, code)
    if concept is not None:
        return concept.display
    held = shipped.systems().get(system)
    known = None if held is None else held.concepts.get(code)
    return None if known is None else known.display


# Code systems


async def _lookup(call: OperationCall, record: Record) -> Resource:
    system, code, _ = _codings(call, None)[0]
    if system is None:
        raise BadRequest("$lookup needs the parameter system.", code="required", expression=["Parameters.system"])
    loaded = await record.terminology.system(system)
    if loaded is not None:
        concept = await record.terminology.concept(system, code)
        if concept is None:
            raise NotFound(f"{loaded.title} {loaded.version} has no code {code}.", expression=["Parameters.code"])
        links = [("parent", one) for one in concept.parents] + [("child", one) for one in concept.children]
        if not concept.active:
            links.append(("inactive", "true"))
        return _meaning(loaded.title, loaded.version, concept.display, None, links)
    held = shipped.systems().get(system)
    if held is None:
        raise NotFound(f"The code system {system} is not known here. {_LOAD}", expression=["Parameters.system"])
    known = held.concepts.get(code)
    if known is None:
        raise NotFound(f"{held.title} has no code {code} here.", expression=["Parameters.code"])
    below = [one.code for one in held.concepts.values() if code in one.parents]
    links = [("parent", one) for one in known.parents] + [("child", one) for one in below]
    return _meaning(held.title, held.version, known.display, known.definition, links)


def _meaning(title: str, version: str, display: str, definition: str | None, links: list[tuple[str, str]]) -> Resource:
    made = _parameters(
        ("name", "valueString", title),
        ("version", "valueString", version or None),
        ("display", "valueString", display),
        ("definition", "valueString", definition),
    )
    made["parameter"] += [
        {
            "name": "property",
            "part": [
                {"name": "code", "valueCode": name},
                {"name": "value", "valueBoolean": True}
                if name == "inactive"
                else {"name": "value", "valueCode": value},
            ],
        }
        for name, value in links
    ]
    return made


async def _in_code_system(call: OperationCall, record: Record) -> Resource:
    url = _text(call, "url")
    for system, code, display in _codings(call, url):
        if system is None:
            raise BadRequest("$validate-code needs the parameter url.", code="required", expression=["Parameters.url"])
        loaded, held = await record.terminology.system(system), shipped.systems().get(system)
        if loaded is None and held is None:
            raise NotFound(f"The code system {system} is not known here. {_LOAD}", expression=["Parameters.url"])
        known = await _display(system, code, record.terminology)
        if known is not None:
            return _verdict(display, known, code)
        title = loaded.title if loaded is not None else held.title if held is not None else system
        message = f"{title} has no code {code}."
        if loaded is None and held is not None and not held.complete:
            message = f"{code} is not among the codes of {title} that are known here, which are not all."
    return _parameters(("result", "valueBoolean", False), ("message", "valueString", message))
