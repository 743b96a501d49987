"""Where a FHIRPath points in a resource: places that can be read and changed, not values.

Understood are steps to children, ``[n]``, ``first()``, ``last()``, ``single()``, ``extension('url')``, ``ofType(T)``,
``as(T)`` and ``where(...)``; in a condition also ``=``, ``!=``, ``and``, ``or``, ``exists(...)``, ``empty()``,
``not()``, ``$this``, parentheses and literals. A choice of types is one step (``value``), as FHIRPath has it.

Source: https://hl7.org/fhir/R4/fhirpath.html, https://hl7.org/fhir/R4/fhirpatch.html
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, TypeAlias

from shared.fhir.json import Json, Resource
from shared.fhir.tree import Member, node

_TOKEN: Final = re.compile(
    r"\s*(?:(?P<name>\$?[A-Za-z_]\w*)|`(?P<quoted>[^`]+)`|(?P<text>'(?:[^'\\]|\\.)*')|(?P<time>@[\dT:.Z+-]+)"
    r"|(?P<number>-?\d+(?:\.\d+)?)|(?P<sign>!=|[.()\[\]=]))"
)
_MOST_CHARACTERS: Final = 2000
_MOST_NESTED: Final = 20
_ESCAPES: Final = {"n": "\n", "t": "\t", "r": "\r", "f": "\f"}


@dataclass(frozen=True, slots=True)
class Place:
    """An element of a resource: the member `member` of the JSON object `holder`, or one of it where there are many.

    The resource itself has no holder's member: `member` is None, and `holder` is the resource. `choices` are the
    members that the element may be: itself, and where it is a choice of types the others.
    """

    holder: Resource
    member: Member | None
    index: int | None = None
    choices: tuple[Member, ...] = ()

    def _of(self, key: str) -> Json:
        if self.index is None:
            return self.holder.get(key)
        values = self.holder.get(key)
        return values[self.index] if isinstance(values, list) and self.index < len(values) else None

    @property
    def value(self) -> Json:
        """Its JSON value; None for a primitive that has extensions only."""
        return self.holder if self.member is None else self._of(self.member.key)

    @property
    def inside(self) -> Resource | None:
        """The JSON object its children are members of: of a primitive, that of `id` and `extension`."""
        if self.member is None:
            return self.holder
        found = self._of(f"_{self.member.key}") if self.member.is_primitive else self._of(self.member.key)
        return found if isinstance(found, dict) else None

    @property
    def type(self) -> tuple[str, str]:
        """Its type and path within that, as `shared.fhir.tree.node` takes them."""
        if self.member is None or self.member.type == "Resource":
            inside = self.inside or {}
            return str(inside.get("resourceType")), ""
        return self.member.type, self.member.path

    def members(self, name: str) -> tuple[Member, ...]:
        """Return the JSON members that the child element `name` may be; () where its type has no such child."""
        type_, path = self.type
        if self.member is not None and self.member.is_primitive:
            type_, path = "Element", ""
        try:
            return node(type_, path).members_named(name)
        except KeyError:
            return ()


Places: TypeAlias = list[Place]
_Items: TypeAlias = list[Any]
"""Places, and values that were computed."""
_Step: TypeAlias = Callable[[_Items], _Items]


class NotUnderstood(Exception):
    """The path is not of the FHIRPath that is understood here; the message says where."""


def places_of(resource: Resource, path: str) -> Places:
    """Return the places in `resource` that `path` points to, in document order.

    Raises:
        NotUnderstood: not a path, or one with what is not understood.

    """
    found = _Compiler(path).whole()([Place(resource, None)])
    if not all(isinstance(one, Place) for one in found):
        raise NotUnderstood("it is a value, not a place")
    return found


def children(place: Place, name: str) -> Places:
    """Return the places of the child element `name`."""
    inside = place.inside
    if inside is None:
        return []
    found: Places = []
    choices = place.members(name)
    for member in choices:
        value, beside = inside.get(member.key), inside.get(f"_{member.key}") if member.is_primitive else None
        if not member.many:
            if value is not None or beside is not None:
                found.append(Place(inside, member, None, choices))
            continue
        length = max(len(values) if isinstance(values, list) else 0 for values in (value, beside))
        found.extend(Place(inside, member, index, choices) for index in range(length))
    return found


class _Compiler:
    """Recursive descent over one path; each method returns what leads from a collection to the next."""

    def __init__(self, text: str) -> None:
        if len(text) > _MOST_CHARACTERS:
            raise NotUnderstood(f"it is longer than {_MOST_CHARACTERS} characters")
        self._tokens: list[tuple[str, str]] = []
        self._next = 0
        self._nested = 0
        position = 0
        stripped = text.rstrip()
        while position < len(stripped):
            match = _TOKEN.match(stripped, position)
            if match is None or match.lastgroup is None:
                raise NotUnderstood(f"'{stripped[position : position + 20]}' is not understood")
            self._tokens.append((match.lastgroup, match[match.lastgroup]))
            position = match.end()

    def _peek(self, *words: str) -> bool:
        return self._next < len(self._tokens) and self._tokens[self._next][1] in words

    def _take(self, *kinds: str) -> tuple[str, str]:
        if self._next == len(self._tokens):
            raise NotUnderstood("it ends too early")
        kind, word = self._tokens[self._next]
        if kinds and kind not in kinds:
            raise NotUnderstood(f"'{word}' is not understood there")
        self._next += 1
        return kind, word

    def _skip(self, word: str) -> bool:
        if not self._peek(word):
            return False
        self._next += 1
        return True

    def _expect(self, word: str) -> None:
        if not self._skip(word):
            raise NotUnderstood(f"'{word}' is missing")

    def whole(self) -> _Step:
        """Return the path, which ends where the text ends."""
        step = self._steps()
        if self._next < len(self._tokens):
            raise NotUnderstood(f"'{self._tokens[self._next][1]}' is not understood there")
        return step

    def _any(self) -> _Step:
        self._nested += 1
        if self._nested > _MOST_NESTED:
            raise NotUnderstood("its conditions are nested too deeply")
        any_of = [self._all()]
        while self._skip("or"):
            any_of.append(self._all())
        self._nested -= 1
        if len(any_of) == 1:
            return any_of[0]
        return lambda items: [any(one(items) == [True] for one in any_of)]

    def _all(self) -> _Step:
        all_of = [self._equality()]
        while self._skip("and"):
            all_of.append(self._equality())
        if len(all_of) == 1:
            return all_of[0]
        return lambda items: [all(one(items) == [True] for one in all_of)]

    def _equality(self) -> _Step:
        left = self._steps()
        if not self._peek("=", "!="):
            return left
        wanted = self._take()[1] == "="
        return _compared(left, self._steps(), wanted=wanted)

    def _steps(self) -> _Step:
        steps = [self._first()]
        while self._peek(".", "["):
            if self._skip("."):
                steps.append(self._invocation())
            else:
                self._next += 1
                _, number = self._take("number")
                self._expect("]")
                if not number.isdecimal():
                    raise NotUnderstood(f"'{number}' is not an index")
                steps.append(_at(int(number[:9])))
        return _chain(steps)

    def _first(self) -> _Step:
        if self._skip("("):
            inner = self._any()
            self._expect(")")
            return inner
        kind, word = self._take("name", "quoted", "text", "number", "time")
        if kind in {"text", "number", "time"} or word in {"true", "false"}:
            literal = [_literal(kind, word)]
            return lambda _: literal
        if word == "$this":
            return lambda items: items
        self._next -= 1
        return self._invocation(start=True)

    def _invocation(self, *, start: bool = False) -> _Step:
        _, name = self._take("name", "quoted")
        if self._skip("("):
            step = self._function(name)
            self._expect(")")
            return step
        return _child(name, start=start)

    def _function(self, name: str) -> _Step:
        match name:
            case "where":
                condition = self._any()
                return lambda items: [one for one in items if condition([one]) == [True]]
            case "exists":
                if self._peek(")"):
                    return lambda items: [bool(items)]
                criteria = self._any()
                return lambda items: [any(criteria([one]) == [True] for one in items)]
            case "empty":
                return lambda items: [not items]
            case "not":
                return lambda items: [not items[0]] if len(items) == 1 and isinstance(items[0], bool) else []
            case "first":
                return _at(0)
            case "last":
                return lambda items: items[-1:]
            case "single":
                return _single
            case "extension":
                url = _literal(*self._take("text"))
                return _chain([_child("extension"), lambda items: [one for one in items if _url_of(one) == url]])
            case "ofType" | "as":
                return self._of_type()
            case _:
                raise NotUnderstood(f"the function {name}() is not understood")

    def _of_type(self) -> _Step:
        _, wanted = self._take("name")
        if wanted == "FHIR" and self._skip("."):
            _, wanted = self._take("name")
        return lambda items: [one for one in items if isinstance(one, Place) and one.type == (wanted, "")]


def _url_of(extension: Place) -> Json:
    return extension.value.get("url") if isinstance(extension.value, dict) else None


def _chain(steps: list[_Step]) -> _Step:
    def follow(items: _Items) -> _Items:
        for step in steps:
            items = step(items)
        return items

    return follow


def _at(position: int) -> _Step:
    return lambda items: items[position : position + 1]


def _single(items: _Items) -> _Items:
    if len(items) > 1:
        raise NotUnderstood("single() finds several elements")
    return items


def _child(name: str, *, start: bool = False) -> _Step:
    def step(items: _Items) -> _Items:
        roots = [one for one in items if isinstance(one, Place) and one.member is None] if start else []
        if roots and name in {"Resource", "DomainResource", *(one.type[0] for one in roots)}:
            return items
        return [child for one in items if isinstance(one, Place) for child in children(one, name)]

    return step


def _compared(left: _Step, right: _Step, *, wanted: bool) -> _Step:
    def step(items: _Items) -> _Items:
        one, other = _values(left(items)), _values(right(items))
        return [] if not one or not other else [_same(one, other) is wanted]

    return step


def _values(items: _Items) -> list[Json]:
    return [one.value if isinstance(one, Place) else one for one in items]


def _same(one: Json, other: Json) -> bool:
    """Tell whether two JSON values are equal: true is not 1, and 1.0 is 1.00."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(_same(a, b) for a, b in zip(one, other, strict=True))
    return bool(one == other)


def _literal(kind: str, word: str) -> Json:
    if kind == "text":
        return re.sub(r"\\(.)", lambda escaped: _ESCAPES.get(escaped[1], escaped[1]), word[1:-1])
    if kind == "time":
        return word[1:].removeprefix("T")
    if kind == "number":
        return Decimal(word) if "." in word else int(word[:40])
    return word == "true"
