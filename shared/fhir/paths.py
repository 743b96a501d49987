"""FHIRPath as the search parameters of R4 use it, compiled against the element trees.

A path is resolved once, when it is compiled: each choice of types becomes a branch of its own, so that what is left at
run time is looking up JSON members. Understood are: member steps, ``[n]``, ``|``, ``as`` and ``.as()``, ``.ofType()``,
``.where()`` with ``=``, ``and``, ``resolve() is T`` and ``hasExtension()``, ``.extension('url')``, ``.first()``,
``.exists()``, and ``=``, ``!=``, ``and`` over these. Anything else is refused when it is compiled.

Source: https://hl7.org/fhir/R4/fhirpath.html
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Final, TypeAlias

from shared.fhir.references import target_type
from shared.fhir.tree import PRIMITIVES, node

Values: TypeAlias = list[Any]
Step: TypeAlias = Callable[[Values], Values]
Predicate: TypeAlias = Callable[[Any], bool]

_TOKEN: Final = re.compile(r"\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<text>'[^']*')|(?P<number>\d+)|(?P<sign>!=|[.()\[\]|=]))")


@dataclass(frozen=True, slots=True)
class Branch:
    """One way from a resource to values of one type.

    Attributes:
        steps: applied in order to ``[resource]``.
        type, path: static type of the values, as in `shared.fhir.tree.Member`.
        first: JSON key that must be present in the resource for there to be any value; None: not known.

    """

    steps: tuple[Step, ...]
    type: str
    path: str = ""
    first: str | None = None

    def values(self, resource: object) -> Values:
        """Return the values found, in document order."""
        found = [resource]
        for step in self.steps:
            found = step(found)
            if not found:
                break
        return found

    def then(self, step: Step, type_: str, path: str, key: str | None = None) -> Branch:
        """Return this branch with one more step."""
        return Branch((*self.steps, step), type_, path, self.first if self.steps else key)


def _one(key: str) -> Step:
    return lambda found: [v for item in found if isinstance(item, dict) and (v := item.get(key)) is not None]


def _many(key: str) -> Step:
    def step(found: Values) -> Values:
        return [
            v
            for item in found
            if isinstance(item, dict) and isinstance(array := item.get(key), list)
            for v in array
            if v is not None
        ]

    return step


def _where(predicate: Predicate) -> Step:
    return lambda found: [item for item in found if predicate(item)]


def _at(position: int) -> Step:
    return lambda found: found[position : position + 1]


class _Compiler:
    """Recursive descent over one expression; what it returns is compiled at once."""

    def __init__(self, expression: str) -> None:
        self.expression = expression
        self.tokens: list[str] = []
        position = 0
        text = expression.strip()
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                self._refuse(text[position:])
            else:
                self.tokens.append(match[0].strip())
                position = match.end()
        self.next = 0

    def _refuse(self, what: str) -> None:
        message = f"'{what}' is not understood in the FHIRPath '{self.expression}'"
        raise ValueError(message)

    def peek(self, *texts: str) -> bool:
        return self.next < len(self.tokens) and self.tokens[self.next] in texts

    def take(self) -> str:
        if self.next == len(self.tokens):
            self._refuse("its end")
        self.next += 1
        return self.tokens[self.next - 1]

    def expect(self, text: str) -> None:
        if not self.peek(text):
            self._refuse(self.tokens[self.next] if self.next < len(self.tokens) else "its end")
        self.next += 1

    def conjunction(self, context: Sequence[Branch]) -> list[Branch]:
        left = self.equality(context)
        while self.peek("and"):
            self.next += 1
            left = [self._computed(context, _both(_truth(left), _truth(self.equality(context))))]
        return left

    def equality(self, context: Sequence[Branch]) -> list[Branch]:
        left = self.union(context)
        if not self.peek("=", "!="):
            return left
        negated = self.take() == "!="
        word = self.take()
        literal: object = word[1:-1] if word.startswith("'") else {"true": True, "false": False}.get(word, word)

        def compare(item: Any) -> bool:
            values = [value for branch in left for value in branch.values(item)]
            return bool(values) and ((values == [literal]) is not negated)

        return [self._computed(context, compare)]

    def union(self, context: Sequence[Branch]) -> list[Branch]:
        branches = self.typed(context)
        while self.peek("|"):
            self.next += 1
            branches = [*branches, *self.typed(context)]
        return branches

    def typed(self, context: Sequence[Branch]) -> list[Branch]:
        branches = self.postfix(context)
        while self.peek("as", "is"):
            if self.take() == "is":
                self._refuse("is")
            branches = _of_type(branches, self.take())
        return branches

    def postfix(self, context: Sequence[Branch]) -> list[Branch]:
        if self.peek("("):
            self.next += 1
            branches = self.conjunction(context)
            self.expect(")")
        else:
            branches = self.invocation(context, start=True)
        while self.peek(".", "["):
            if self.take() == "[":
                position = int(self.take())
                self.expect("]")
                branches = [branch.then(_at(position), branch.type, branch.path) for branch in branches]
            else:
                branches = self.invocation(branches, start=False)
        return branches

    def invocation(self, context: Sequence[Branch], *, start: bool) -> list[Branch]:
        name = self.take()
        if not name.isidentifier():
            self._refuse(name)
        if self.peek("("):
            self.next += 1
            branches = self.function(context, name)
            self.expect(")")
            return branches
        if start and all(not branch.steps and (name in {branch.type, "Resource"}) for branch in context):
            return list(context)
        return [step for branch in context for step in _into(branch, name)]

    def function(self, context: Sequence[Branch], name: str) -> list[Branch]:
        if name in {"as", "ofType"}:
            return _of_type(context, self.take())
        if name == "where":
            return self.where(context)
        if name == "extension":
            url = self.take()[1:-1]
            return [
                branch.then(_many("extension"), "Extension", "", "extension").then(
                    _where(lambda item: isinstance(item, dict) and item.get("url") == url), "Extension", ""
                )
                for branch in context
            ]
        if name == "first":
            return [branch.then(_at(0), branch.type, branch.path) for branch in context]
        if name == "exists":
            branches = list(context)
            return [self._computed((), lambda item: any(branch.values(item) for branch in branches))]
        if name == "hasExtension":
            url = self.take()[1:-1]
            return [self._computed(context, lambda item: _has_extension(item, url))]
        self._refuse(name)
        return []

    def where(self, context: Sequence[Branch]) -> list[Branch]:
        if self.peek("resolve"):
            for text in ("resolve", "(", ")", "is"):
                self.expect(text)
            wanted = self.take()
            is_wanted = _where(lambda item: isinstance(item, dict) and target_type(item) == wanted)
            return [branch.then(is_wanted, branch.type, branch.path) for branch in context]
        start = self.next
        filtered: list[Branch] = []
        for branch in context:
            self.next = start
            criteria = _truth(self.conjunction([Branch((), branch.type, branch.path)]))
            filtered.append(branch.then(_where(criteria), branch.type, branch.path))
        return filtered

    @staticmethod
    def _computed(_: Sequence[Branch], test: Predicate) -> Branch:
        return Branch((lambda found: [test(item) for item in found],), "boolean")


def _both(one: Predicate, other: Predicate) -> Predicate:
    return lambda item: one(item) and other(item)


def _truth(branches: Sequence[Branch]) -> Predicate:
    return lambda item: any(value is True for branch in branches for value in branch.values(item))


def _has_extension(item: object, url: str) -> bool:
    extensions = item.get("extension", ()) if isinstance(item, dict) else ()
    return any(isinstance(extension, dict) and extension.get("url") == url for extension in extensions)


def _into(branch: Branch, name: str) -> list[Branch]:
    if branch.type in PRIMITIVES or branch.type == "Resource":
        return []
    return [
        branch.then((_many if member.many else _one)(member.key), member.type, member.path, member.key)
        for member in node(branch.type, branch.path).members_named(name)
    ]


def _of_type(branches: Sequence[Branch], type_: str) -> list[Branch]:
    return [branch for branch in branches if branch.type == type_ and not branch.path]


@cache
def compile_path(expression: str, type_: str, path: str = "") -> tuple[Branch, ...]:
    """Return the branches of `expression` on resources of `type_`, or on their backbone elements `path`.

    Raises:
        ValueError: the expression uses what this subset does not have.

    """
    compiler = _Compiler(expression)
    branches = compiler.conjunction([Branch((), type_, path)])
    if compiler.next != len(compiler.tokens):
        compiler.expect("the end")
    return tuple(branches)
