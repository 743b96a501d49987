"""Does a resource hold a profile? Every issue, with its FHIRPath location.

The rule tree is walked beside the JSON. What is not FHIR is an issue of `shared.fhir.validation`, and is passed over
here. A binding to a value set whose codes are not shipped is checked by its code systems, as far as they are known, and
noted, so that `$validate` can ask the terminology that was loaded.

Source: https://hl7.org/fhir/R4/profiling.html#slicing, https://hl7.org/fhir/R4/terminologies.html#required
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from shared.fhir.profiles.compile import Rule
from shared.fhir.profiles.rules import RULES
from shared.fhir.profiles.table import Profile, profile_of
from shared.fhir.references import parse_literal
from shared.fhir.tree import Member, Node, node
from shared.terminology import shipped
from shared.terminology.port import Members

Coding: TypeAlias = tuple[str | None, str | None]
"""System and code."""


@dataclass(frozen=True, slots=True)
class OpenBinding:
    """A required binding that only loaded terminology can judge: where, the value set, what is coded there."""

    where: str
    value_set: str
    codings: tuple[Coding, ...]


@dataclass(slots=True)
class Verdict:
    """What a profile finds: issues as (location, issue code, what is wrong), and what it cannot judge."""

    profile: Profile
    issues: list[tuple[str, str, str]] = field(default_factory=list)
    open: list[OpenBinding] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Item:
    """One occurrence of an element: its JSON value, the ``_field`` beside a primitive, its member, its location."""

    value: Any
    beside: Any
    member: Member
    where: str


def check(resource: dict[str, Any], profile: Profile) -> Verdict:
    """Return what a resource or extension of the profile's type lacks of it, and of the profiles it builds on."""
    verdict = Verdict(profile)
    one: Profile | None = profile
    while one is not None:
        walk = _Walk(verdict, one.type)
        walk.object(resource, one.rule, node(one.type), "")
        one = None if one.base is None else profile_of(one.base)
    verdict.issues = list(dict.fromkeys(verdict.issues))
    return verdict


class _Walk:
    def __init__(self, verdict: Verdict, type_: str) -> None:
        self._verdict = verdict
        self._type = type_

    def _say(self, where: str, code: str, what: str) -> None:
        self._verdict.issues.append((where, code, what))

    def object(self, value: Any, rule: Rule, at: Node, where: str) -> None:
        """Check an object against its rule and its elements' rules."""
        if not isinstance(value, dict):
            return
        self._invariants(value, rule, where)
        for name, child in rule.get("children", {}).items():
            members = at.members_named(name)
            if members:
                self._element(list(_items(value, members, f"{where}.{name}")), child, f"{where}.{name}")

    def _element(self, items: list[_Item], rule: Rule, where: str) -> None:
        self._count(items, rule, where, "")
        for item in items:
            self._item(item, rule)
        if "slices" not in rule:
            return
        left = list(items)
        for name, slice_ in rule["slices"].items():
            found = [item for item in items if _is_of(item, slice_, rule["by"])]
            left = [item for item in left if item not in found]
            self._count(found, slice_, where, f" ({name}: {_shown(slice_)})")
            for item in found:
                self._item(item, slice_)
        if rule.get("closed"):
            for item in left:
                self._say(item.where, "structure", f"is none of {', '.join(rule['slices'])}, and nothing else may be")

    def _count(self, items: list[_Item], rule: Rule, where: str, which: str) -> None:
        least, most = rule.get("min", 0), rule.get("max")
        if len(items) < least:
            what = "is missing" if least == 1 and not items else f"is there {len(items)} times, at least {least} needed"
            self._say(where, "required", what + which)
        if most is not None and len(items) > most:
            what = "may not be there" if most == 0 else f"is there {len(items)} times, at most {most} allowed"
            self._say(items[most].where if most else where, "structure", what + which)

    def _item(self, item: _Item, rule: Rule) -> None:
        value, where = item.value, item.where
        types = rule.get("types")
        if types is not None and item.member.type not in types:
            self._say(where, "structure", f"is of type {item.member.type}; allowed: {', '.join(types)}")
        if value is not None:
            if "fixed" in rule and value != rule["fixed"]:
                self._say(where, "value", f"must be {_shown(rule)}")
            if "pattern" in rule and not _contains(value, rule["pattern"]):
                self._say(where, "value", f"must contain {_shown(rule)}")
            if "targets" in rule and isinstance(value, dict):
                self._target(value, rule["targets"], where)
            if "binding" in rule:
                self._binding(value, rule["binding"], where)
        if item.member.choice:
            self._invariants({item.member.key: value}, rule, where)
        elif isinstance(value, dict):
            self._invariants(value, rule, where)
        if "children" in rule:
            inner = {**rule, "rules": ()}
            if item.member.is_primitive:
                self.object(item.beside or {}, inner, node("Element"), where)
            elif item.member.type != "Resource":
                self.object(value, inner, node(item.member.type, item.member.path), where)

    def _invariants(self, value: dict[str, Any], rule: Rule, where: str) -> None:
        for key in rule.get("rules", ()):
            says, holds = RULES[key, self._type]
            try:
                kept = holds(value)
            except (TypeError, AttributeError, ValueError, ArithmeticError, LookupError):
                continue  # its operands are not what they should be, which is an issue of its own
            if not kept:
                self._say(where, "invariant", f"{says} (rule {key})")

    def _target(self, reference: dict[str, Any], allowed: list[str], where: str) -> None:
        literal, given = reference.get("reference"), reference.get("type")
        target = parse_literal(literal).type if isinstance(literal, str) else ""
        target = target or (given.rsplit("/", 1)[-1] if isinstance(given, str) else "")
        if target and target not in allowed:
            self._say(where, "value", f"points to {target}; allowed: {', '.join(allowed)}")

    def _binding(self, value: Any, canonical: str, where: str) -> None:
        codings = _codings(value)
        if codings is None:
            return
        held = shipped.value_sets().get(canonical)
        if held is not None and held.members is not None:
            if not any(_is_member(coding, held.members) for coding in codings):
                self._say(where, "code-invalid", f"has no code of the value set {canonical}")
            return
        systems = () if held is None else held.open
        if systems and not any(system is None or system in systems for system, _ in codings):
            self._say(where, "code-invalid", f"has no code of {' or '.join(systems)}, as {canonical} asks")
            return
        self._verdict.open.append(OpenBinding(where, canonical, codings))


def _items(value: dict[str, Any], members: tuple[Member, ...], where: str) -> Iterator[_Item]:
    for member in members:
        plain, beside = value.get(member.key), value.get(f"_{member.key}") if member.is_primitive else None
        if plain is None and beside is None:
            continue
        if not member.many:
            yield _Item(plain, beside, member, where)
            continue
        plains = plain if isinstance(plain, list) else []
        besides = beside if isinstance(beside, list) else []
        for position in range(max(len(plains), len(besides))):
            one = plains[position] if position < len(plains) else None
            other = besides[position] if position < len(besides) else None
            yield _Item(one, other, member, f"{where}[{position}]")


def _is_of(item: _Item, slice_: Rule, by: list[str]) -> bool:
    if "extension" in slice_:
        return isinstance(item.value, dict) and item.value.get("url") == slice_["extension"]
    return all(_discriminates(item, slice_, *one.split(":", 1)) for one in by)


def _discriminates(item: _Item, slice_: Rule, kind: str, path: str) -> bool:
    if kind == "type":
        return item.member.type in slice_.get("types", (item.member.type,))
    asked, values = slice_, [item.value]
    for step in path.split(".") if path != "$this" else ():
        asked = asked.get("children", {}).get(step, {})
        values = [one for value in values for one in _step(value, step)]
    return any(_satisfies(value, asked) for value in values)


def _step(value: Any, name: str) -> list[Any]:
    inner = value.get(name) if isinstance(value, dict) else None
    return inner if isinstance(inner, list) else [] if inner is None else [inner]


def _satisfies(value: Any, asked: Rule) -> bool:
    if "fixed" in asked:
        return bool(value == asked["fixed"])
    if "pattern" in asked:
        return _contains(value, asked["pattern"])
    if "binding" in asked:
        return _may_be_of(value, asked["binding"])
    children = asked.get("children")
    if not children:
        return False
    return all(any(_satisfies(one, child) for one in _step(value, name)) for name, child in children.items())


def _may_be_of(value: Any, canonical: str) -> bool:
    """Tell whether a code is of a value set, or may be: where only its systems are known, by them."""
    codings = _codings(value) or ()
    held = shipped.value_sets().get(canonical)
    if held is None:
        return True
    if held.members is not None:
        return any(_is_member(coding, held.members) for coding in codings)
    return not held.open or any(system in held.open for system, _ in codings)


def _contains(value: Any, pattern: Any) -> bool:
    if isinstance(pattern, dict):
        return isinstance(value, dict) and all(_contains(value.get(name), inner) for name, inner in pattern.items())
    if isinstance(pattern, list):
        held = value if isinstance(value, list) else []
        return all(any(_contains(one, inner) for one in held) for inner in pattern)
    return bool(value == pattern)


def _codings(value: Any) -> tuple[Coding, ...] | None:
    """Return what is coded by a code, Coding, CodeableConcept or Quantity; None where it is none of these."""
    if isinstance(value, str):
        return ((None, value),)
    if not isinstance(value, dict):
        return None
    listed = value.get("coding", [] if "text" in value or "extension" in value else [value])
    held = listed if isinstance(listed, list) else []
    return tuple(
        (_text(one.get("system")), _text(one.get("code"))) for one in held if isinstance(one, dict) and "code" in one
    )


def _text(value: object) -> str | None:
    return value if isinstance(value, str) else None


def _is_member(coding: Coding, members: Members) -> bool:
    system, code = coding
    if system is None:
        return any(code in codes for codes in members.values())
    return code in members.get(system, ())


def _shown(rule: Rule) -> str:
    """Return what a rule asks for as a few words."""
    if "fixed" in rule:
        return f"'{rule['fixed']}'"
    if "pattern" in rule:
        return _pattern(rule["pattern"])
    if "extension" in rule:
        return str(rule["extension"])
    if "binding" in rule:
        return f"of {rule['binding']}"
    if "types" in rule:
        return " or ".join(rule["types"])
    return ", ".join(_shown(child) for child in rule.get("children", {}).values() if _shown(child))


def _pattern(pattern: Any) -> str:
    if isinstance(pattern, dict) and "coding" in pattern:
        return ", ".join(_pattern(one) for one in pattern["coding"])
    if isinstance(pattern, dict) and "code" in pattern:
        return f"{pattern.get('system', '')}|{pattern['code']}"
    if isinstance(pattern, dict):
        return ", ".join(f"{name} {_pattern(value)}" for name, value in pattern.items())
    return str(pattern)
