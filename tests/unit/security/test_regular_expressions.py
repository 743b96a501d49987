"""No text that a client sends makes a regular expression try without end (ReDoS, CWE-1333).

Every regular expression of the services is found in their source, so that none is forgotten.
"""

from __future__ import annotations

import ast
import importlib
import re
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.security.backtracking import ANYWHERE, FIRST, MOST_GROWTH, WHOLE, Machine, worst_growth

ROOT = Path(__file__).resolve().parents[3]
APART = ("shared/local/", "shared/testing/", "shared/terminology/files/")
"""No client's text comes there: the local stack, the tests' stand-ins, releases that an operator names."""

METHODS = {"fullmatch": WHOLE, "match": FIRST} | dict.fromkeys(
    ("search", "sub", "subn", "split", "findall", "finditer"), ANYWHERE
)
BY_WRAPPER = {
    "shared/fhir/primitives.py": {"_matching": 1, "_calendar": 1},
    "shared/fhir/profiles/rules.py": {"_matches": 0},
}
"""Functions that compile what they are given; by file and name, at which place."""

MADE_OF_A_NAME = {
    ("shared/http/entries.py", "match"): r"Patient(?![A-Za-z])",
    ("shared/fhir/references.py", "search"): rb'"fullUrl"\s*:\s*"http://x/fhir',
    ("shared/fhir/references.py", "sub"): rb'("reference"\s*:\s*")http://x/fhir/([^"\\]+)(?=")',
}
"""Put together of a type or a base URL where it is used: as it is then."""


def files():
    for folder in ("shared", "services"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            if not name.startswith(APART):
                yield name, path.read_text(encoding="utf-8")


@cache
def sources():
    return "\n".join(text for _, text in files())


def calls_of(name, text):
    return {call for call in re.findall(rf"\b{name}\.(\w+)", text) if call in METHODS}


def found():
    """Yield each regular expression: where it is, the pattern, its flags, and how it is used."""
    for name, text in files():
        if "re." not in text:
            continue
        tree = ast.parse(text)
        parents = {child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)}
        for node in ast.walk(tree):
            if not isinstance(node, ast.Call):
                continue
            wrapped = BY_WRAPPER.get(name, {})
            if isinstance(node.func, ast.Name) and node.func.id in wrapped:
                argument = node.args[wrapped[node.func.id]]
                if not (isinstance(argument, ast.Name) and argument.id == "pattern"):
                    yield f"{name}:{node.lineno}", evaluated(name, argument), re.ASCII, (WHOLE,)
            if not (isinstance(node.func, ast.Attribute) and isinstance(node.func.value, ast.Name)):
                continue
            if node.func.value.id != "re" or node.func.attr not in {"compile", *METHODS}:
                continue
            argument = node.args[0]
            if name in BY_WRAPPER and isinstance(argument, ast.Name) and argument.id == "pattern":
                continue
            made = MADE_OF_A_NAME.get((name, node.func.attr))
            place = f"{name}:{node.lineno}"
            if made is not None:
                yield place, made, 0, (METHODS[node.func.attr],)
            elif node.func.attr != "compile":
                yield place, evaluated(name, argument), 0, (METHODS[node.func.attr],)
            else:
                flags = evaluated(name, node.args[1]) if len(node.args) > 1 else 0
                yield place, evaluated(name, argument), flags, used(node, parents, text)


def evaluated(name, node):
    """Return what an expression of a module is; one that is known only when it runs is not, and fails here."""
    module = importlib.import_module(name.removesuffix(".py").replace("/", "."))
    return eval(compile(ast.Expression(node), name, "eval"), vars(module))


def used(node, parents, text):
    """Return how a compiled pattern is used: by its name's calls, there or elsewhere; if none is found, every way."""
    parent = parents[node]
    if isinstance(parent, ast.Attribute):
        return (METHODS[parent.attr],)
    target = parent.targets[0] if isinstance(parent, ast.Assign) else getattr(parent, "target", None)
    name = target.id if isinstance(target, ast.Name) else "-"
    calls = calls_of(name, text) or calls_of(name, sources())
    return tuple(sorted({METHODS[call] for call in calls})) or (WHOLE, ANYWHERE)


EVERY = list(found())


def test_the_expressions_of_the_services_are_found():
    places = {place.partition(":")[0] for place, *_ in EVERY}
    assert {"shared/fhir/dates.py", "shared/fhir/primitives.py", "shared/security/scopes.py"} <= places
    assert len(EVERY) > 50


@pytest.mark.parametrize(("place", "pattern", "flags", "methods"), EVERY, ids=[place for place, *_ in EVERY])
def test_no_text_makes_an_expression_try_more_than_in_proportion_to_its_length(place, pattern, flags, methods):
    for method in methods:
        growth, text = worst_growth(pattern, flags, method)
        assert growth < MOST_GROWTH, f"{place}, {method} of {pattern!r} with {text}: {growth:.1f} times for twice"


@pytest.mark.parametrize(
    ("pattern", "method"),
    [
        (r"(a+)+", WHOLE),
        (r"(a|a)*b", FIRST),
        (r"(\w+\s?)*!", WHOLE),
        (r"a*a*b", FIRST),
        (r"\s+$", ANYWHERE),
        (r"([A-Za-z0-9+/]{4}\s*|\s*[A-Za-z0-9+/]{4})*=", WHOLE),
        (r".*,.*,x", WHOLE),
        (r"(\s*([0-9a-zA-Z+/=]){4}\s*)+", WHOLE),  # base64Binary, as FHIR's own definition has it
    ],
)
def test_an_expression_that_backtracks_is_found(pattern, method):
    assert worst_growth(pattern, 0, method)[0] >= MOST_GROWTH


COUNTED = re.compile(r"\{\d*,?\d*\}")
UNCOUNTED = [
    one for one in EVERY if not COUNTED.search(one[1] if isinstance(one[1], str) else one[1].decode("latin-1"))
]


@given(st.sampled_from(UNCOUNTED), st.data())
def test_what_is_counted_matches_as_the_real_one_does(one, data):
    _, pattern, flags, methods = one
    machine = Machine.of(pattern, flags)
    letters = [code for code in sorted(machine.samples | {33, 97}) if not 0xD800 <= code <= 0xDFFF]
    text = data.draw(st.lists(st.sampled_from(letters), max_size=12))
    sent = bytes(text) if isinstance(pattern, bytes) else "".join(map(chr, text))
    for method in methods:
        matches, _ = machine.tried(text, method)
        real = getattr(re.compile(pattern, flags), method)(sent)
        assert matches[:1] == ([] if real is None else [real.span()])
