"""Is it FHIR R4? Every issue at once, each with its FHIRPath location.

Checked are: unknown elements, cardinality, JSON forms (arrays, objects, nothing empty, no stray null), formats of
primitives, extensions of primitives in ``_field``, choices of types (only one), codes of required bindings, target
types of references, contained and nested resources, the invariants of `shared.fhir.invariants`, the profiles that a
resource claims in `meta.profile` as far as they are known (`shared.fhir.profiles`), and known extensions.

The element trees are compiled into closures, a type when it is first met. On the good path nothing is built: a checker
appends to `out` what is wrong, and who called it puts the path before it on the way up.

Source: https://hl7.org/fhir/R4/validation.html, https://hl7.org/fhir/R4/json.html
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any, Final

from shared.fhir.bindings import bound_code, bound_concept
from shared.fhir.checking import (
    CLAIM,
    ENOUGH,
    MENTION,
    NULL,
    REFERENCE,
    SIBLING,
    Checker,
    Found,
    complex_many,
    complex_one,
    json_kind,
    noting,
    place,
    primitive,
    primitives,
    shown,
)
from shared.fhir.definitions import RESOURCE_TYPES
from shared.fhir.holding import Invariant
from shared.fhir.invariants import invariants_of
from shared.fhir.json import Resource
from shared.fhir.outcome import BadRequest, Issue, Unprocessable
from shared.fhir.primitives import CHECKS
from shared.fhir.profiles import engine, table
from shared.fhir.references import parse_literal
from shared.fhir.tree import Element, Member, node

MAX_ISSUES: Final = 100
"""An outcome holds so many at most; the last one then says that there are more."""


class _Object:
    """The checker of one complex type or backbone element."""

    __slots__ = (
        "choices",
        "invariants",
        "is_reference",
        "members",
        "required",
        "resource",
        "targets",
        "type",
    )

    def __init__(
        self, type_: str, path: str = "", *, targets: frozenset[str] = frozenset(), simple: bool = False
    ) -> None:
        at = node(type_, path)
        self.type = type_
        self.targets = targets
        self.resource = not path and type_ in RESOURCE_TYPES
        self.is_reference = type_ == "Reference" and not path
        self.members: dict[str, Checker] = {}
        self.required: list[tuple[str, frozenset[str]]] = []
        self.choices: list[tuple[str, frozenset[str]]] = []
        self.invariants: tuple[Invariant, ...] = invariants_of(type_, path)
        for element in at.elements:
            if simple and element.name == "comparator":
                continue
            self._add(element)

    def _add(self, element: Element) -> None:
        keys = set()
        for member in element.members:
            keys.add(member.key)
            self.members[member.key] = _lazy(self.members, member)
            if member.is_primitive:
                keys.add(f"_{member.key}")
                self.members[f"_{member.key}"] = _sibling(member)
        if element.minimum:
            self.required.append((element.name, frozenset(keys)))
        if len(element.members) > 1:
            self.choices.append((element.name, frozenset(keys)))

    def __call__(self, value: Any, out: Found) -> None:
        if type(value) is not dict:
            out.append(("", "structure", f"is {json_kind(value)}, and must be an object"))
            return
        since = len(out)
        members = self.members
        for key, item in value.items():
            checker = members.get(key)
            if checker is not None:
                checker(item, out)
            elif key != "resourceType" or not self.resource:
                out.append((f".{shown(key)}", "structure", f"is not an element of {self.type} in FHIR R4"))
                if len(out) > ENOUGH:
                    break
        if len(out) > since:
            _settle_siblings(value, out, since)
        for name, keys in self.required:
            if name not in value and keys.isdisjoint(value):
                out.append((f".{name}", "required", "is missing, and must be there"))
        for name, keys in self.choices:
            present = keys.intersection(value)
            if len(present) > 1 and len({key.removeprefix("_") for key in present}) > 1:
                listed = ", ".join(sorted(present))
                out.append((f".{name}", "structure", f"has more than one value ({listed}), and may have only one"))
        if len(value) < 2 and not self.resource and (not value or ("id" in value and self.type != "Element")):
            out.append(("", "invariant", "is empty: an element must have a value or children (rule ele-1)"))
        if self.is_reference:
            self._check_reference(value, out)
        for invariant in self.invariants:
            _apply(invariant, value, out)

    def _check_reference(self, value: dict[str, Any], out: Found) -> None:
        literal, given = value.get("reference"), value.get("type")
        named = ""
        if isinstance(literal, str):
            parsed = parse_literal(literal)
            named = parsed.type
            if parsed.fragment is not None:
                out.append((".reference", REFERENCE, parsed.fragment))
        by_type = given.rsplit("/", 1)[-1] if isinstance(given, str) else ""
        if by_type and by_type not in RESOURCE_TYPES:
            out.append((".type", "code-invalid", "is not a resource type of FHIR R4"))
            by_type = ""
        if named and by_type and named != by_type:
            out.append(("", "value", f"points to {named} and says that it is {by_type}"))
        target = named or by_type
        if target and self.targets and target not in self.targets:
            listed = ", ".join(sorted(self.targets))
            out.append(("", "value", f"points to {target}; allowed here: {listed}"))


class _Extension(_Object):
    """The checker of an extension: of its content, too, where its definition is known."""

    __slots__ = ()

    def __call__(self, value: Any, out: Found) -> None:
        super().__call__(value, out)
        url = value.get("url") if type(value) is dict else None
        definition = table.extension_of(url) if type(url) is str else None
        if definition is not None:
            for location, code, what in engine.check(value, definition).issues:
                out.append((location, code, f"{what} (extension {url})"))


def _apply(invariant: Invariant, value: dict[str, Any], out: Found) -> None:
    try:
        holds = invariant.holds(value)
    except (TypeError, AttributeError, ValueError, ArithmeticError, LookupError):
        return  # its operands are not what they should be, which is an issue of its own and already listed
    if not holds:
        out.append(("", "invariant", f"{invariant.says} (rule {invariant.key})"))


def _settle_siblings(value: dict[str, Any], out: Found, since: int) -> None:
    """Take out the notes on nulls and ``_field`` members, and say where value and extension do not fit together."""
    notes = [found for found in out[since:] if found[1] in {NULL, SIBLING}]
    if not notes:
        return
    out[since:] = [found for found in out[since:] if found[1] not in {NULL, SIBLING}]
    for location, note, key in notes:
        extensions, plain = value.get(f"_{key}"), value.get(key)
        if note == NULL:
            position = int(location[location.rindex("[") + 1 : -1])
            other = extensions[position : position + 1] if isinstance(extensions, list) else []
            if not (other and isinstance(other[0], dict) and "extension" in other[0]):
                out.append((location, "invariant", "has neither a value nor an extension (rule ele-1)"))
        elif plain is None:
            for one in extensions if isinstance(extensions, list) else [extensions]:
                if one is None or (isinstance(one, dict) and one and "extension" not in one):
                    out.append((location, "invariant", "has neither a value nor an extension (rule ele-1)"))
        elif isinstance(plain, list) and isinstance(extensions, list) and len(plain) != len(extensions):
            out.append((location, "structure", f"and _{key} must be arrays of the same length"))


def _lazy(members: dict[str, Checker], member: Member) -> Checker:
    """Return a checker that makes the real one when it is first called, and takes its place in `members`."""

    def first(value: Any, out: Found) -> None:
        checker = members[member.key] = _member(member)
        checker(value, out)

    return first


def _member(member: Member) -> Checker:
    where = f".{member.name}"
    if not member.is_primitive:
        inner = _complex(member)
        if member.binding:
            inner = bound_concept(member, inner)
        return complex_many(where, inner) if member.many else complex_one(where, inner)
    check = bound_code(member) if member.binding else CHECKS[member.type]
    code = "code-invalid" if member.binding else "value"
    checker = primitives(where, check, code, member.key) if member.many else primitive(where, check, code)
    return noting(where, checker) if member.type in {"canonical", "uri", "url"} else checker


def _sibling(member: Member) -> Checker:
    """Return the checker of ``_field``: the id and the extensions of a primitive, or of each of an array of them."""
    where = f".{member.name}"

    def checker(value: Any, out: Found) -> None:
        if (type(value) is list) is not member.many:
            must = "must be an array" if member.many else "may not be an array"
            out.append((where, "structure", f"{must} in _{member.key}, as {member.key} is"))
            return
        if value == []:
            out.append((where, "structure", f"is an empty array in _{member.key}; leave it out"))
        inner = _complex_of("Element", "")
        for position, item in enumerate(value if member.many else [value]):
            if item is not None or not member.many:
                since = len(out)
                inner(item, out)
                place(out, since, f"{where}[{position}]" if member.many else where)
        out.append((where, SIBLING, member.key))

    return checker


@cache
def _complex_of(type_: str, path: str, targets: frozenset[str] = frozenset(), *, simple: bool = False) -> Checker:
    if type_ == "Extension" and not path:
        return _Extension(type_)
    return _Object(type_, path, targets=targets, simple=simple)


def _complex(member: Member) -> Checker:
    if member.type == "Resource":
        return _contained if member.name == "contained" else _nested
    return _complex_of(member.type, member.path, member.targets, simple=member.simple)


def _nested(value: Any, out: Found) -> None:
    """Check a whole resource: of a Bundle's entry, a parameter, or the one that was sent."""
    checker = _resource_checker(value, out)
    if checker is not None:
        since = len(out)
        checker(value, out)
        if len(out) > since or "contained" in value:
            _settle_contained(value, out, since)
        if "meta" in value:
            _check_claims(value, out)


def _check_claims(value: dict[str, Any], out: Found) -> None:
    """Check the profiles that a resource claims; one that is not known here is taken as it is."""
    meta = value["meta"]
    claims = meta.get("profile") if type(meta) is dict else None
    if type(claims) is list:
        for location, code, what in lacking(value, claims):
            out.append((location, f"{CLAIM}{code}", what))


def lacking(value: dict[str, Any], canonicals: Iterable[object]) -> Found:
    """Return what a resource lacks of the profiles among `canonicals` that are known here."""
    out: Found = []
    for canonical in canonicals:
        profile = table.profile_of(canonical) if type(canonical) is str else None
        if profile is None:
            continue
        named = f"{profile.url}|{profile.version}"
        if profile.type != value.get("resourceType"):
            out.append((".meta.profile", "value", f"claims {named}, which is for {profile.type}"))
            continue
        for location, code, what in engine.check(value, profile).issues:
            out.append((location, code, f"{what} (profile {named})"))
    return out


def _settle_contained(value: dict[str, Any], out: Found, since: int) -> None:
    """Take out the notes on ``#id``, and check that each is contained and that what is contained is named (dom-3)."""
    notes = [found for found in out[since:] if found[1] in {REFERENCE, MENTION}]
    out[since:] = [found for found in out[since:] if found[1] not in {REFERENCE, MENTION}]
    contained = value.get("contained")
    held = contained if isinstance(contained, list) else []
    ids = [_id(one) for one in held]
    for location, note, name in notes:
        if note == REFERENCE and name and name not in ids:
            out.append((location, "invariant", f"names #{shown(name)}, which is not contained here (rule ref-1)"))
    named = {name for _, _, name in notes}
    back = {location.split("]", 1)[0] for location, _, name in notes if not name and location.startswith(".contained[")}
    for position, id_ in enumerate(ids):
        where = f".contained[{position}]"
        if id_ is not None and id_ not in named and where.removesuffix("]") not in back:
            out.append((where, "invariant", "is not referred to from the resource that contains it (rule dom-3)"))
        if id_ is not None and id_ in ids[:position]:
            out.append((f"{where}.id", "invariant", "is the id of another contained resource, too"))


def _id(value: object) -> str | None:
    id_ = value.get("id") if isinstance(value, dict) else None
    return id_ if isinstance(id_, str) else None


def _contained(value: Any, out: Found) -> None:
    checker = _resource_checker(value, out)
    if checker is None:
        return
    checker(value, out)
    if "meta" in value:
        _check_claims(value, out)
    if "id" not in value:
        out.append((".id", "required", "is missing: a contained resource is referred to by its id"))
    if "contained" in value:
        out.append((".contained", "invariant", "may not contain resources itself (rule dom-2)"))
    meta = value.get("meta")
    if isinstance(meta, dict):
        for name, rule in (("versionId", "dom-4"), ("lastUpdated", "dom-4"), ("security", "dom-5")):
            if name in meta:
                out.append((f".meta.{name}", "invariant", f"may not be in a contained resource (rule {rule})"))


def _resource_checker(value: Any, out: Found) -> Checker | None:
    if type(value) is not dict:
        out.append(("", "structure", f"is {json_kind(value)}, and must be a resource, an object with a resourceType"))
        return None
    type_ = value.get("resourceType")
    if type_ is None:
        out.append((".resourceType", "required", "is missing, and must name the resource's type"))
        return None
    if type(type_) is not str or type_ not in RESOURCE_TYPES:
        said = f"'{shown(type_)}'" if type(type_) is str else json_kind(type_)
        out.append((".resourceType", "structure", f"is {said}, which is not a resource type of FHIR R4"))
        return None
    return _complex_of(type_, "")


def validate(resource: object) -> list[Issue]:
    """Return every issue of a resource parsed by `shared.fhir.json`; none where it is valid FHIR R4.

    A location starts with the resource's type: ``Observation.component[1].code``.
    """
    return as_issues(resource, _found(resource))


def _found(resource: object) -> Found:
    out: Found = []
    try:
        _nested(resource, out)
    except RecursionError:
        out = [("", "too-costly", "is nested too deeply")]
    return out


def as_issues(resource: object, found: Found) -> list[Issue]:
    """Return issues of a resource, at most `MAX_ISSUES`, each once."""
    if not found:
        return []
    type_ = resource.get("resourceType") if isinstance(resource, dict) else None
    root = type_ if type(type_) is str and type_ in RESOURCE_TYPES else "Resource"
    listed = dict.fromkeys((location, code.removeprefix(CLAIM), what) for location, code, what in found)
    issues = [
        Issue(f"{root}{location} {what}.", code=code, expression=(f"{root}{location}",))
        for location, code, what in list(listed)[:MAX_ISSUES]
    ]
    if len(listed) > MAX_ISSUES:
        issues.append(
            Issue(f"There are {len(listed) - MAX_ISSUES} more issues.", code="informational", severity="warning")
        )
    return issues


def require_valid(resource: Resource) -> None:
    """Pass a valid resource.

    Raises:
        BadRequest: with every issue, where it is not valid FHIR R4.
        Unprocessable: with every issue, where it is, and does not hold a profile that it claims
            (https://hl7.org/fhir/R4/http.html#create, status 422).

    """
    found = _found(resource)
    if found:
        only_claims = all(code.startswith(CLAIM) for _, code, _ in found)
        raise (Unprocessable if only_claims else BadRequest)(as_issues(resource, found))
