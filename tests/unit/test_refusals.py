"""Every refusal of intake and scheduling names its rule and source, says where, and what to do.

Goes over the source: every `Unprocessable` and `Issue` that the two services make (422), and every refusal of what an
operation was asked (400, 404), which `shared/runtime/asking.py` makes for them; they make no other. What their tests
meet at run time is looked at, too (`tests/integration/services/course.py`).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from services.scheduling.rules.ground import RULES
from services.scheduling.setting import Setting
from shared.fhir.codes import RULE
from shared.fhir.outcome import FhirError
from shared.runtime.policy import load_policy
from shared.terminology import shipped
from shared.testing.refusals import tells_what_to_do

ROOT = Path(__file__).resolve().parents[2]
SERVICES = ("intake", "scheduling")
NAMED = {"rule", "source", "expression"}
SAID_BY_CALLER = "said", "text", "issue.diagnostics"
"""Where a function of its own makes the issue, and its callers say the sentence."""


class Made(NamedTuple):
    """A refusal in the source: where, the names of its arguments, its sentence, whether that is a literal."""

    where: str
    given: set[str]
    said: str
    literal: bool


def sentence(node: ast.expr) -> str:
    """Return the words of a literal or formatted string; what is put into it is a dot."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(one.value) if isinstance(one, ast.Constant) else "·" for one in node.values)
    return ""


ASKING = ("wrongly_asked", "not_held")
"""What makes the refusals of what an operation was asked; they add rule, source and place."""
POPULATES = ROOT / "shared" / "runtime" / "populate.py"
"""An operation of intake, which other services have, too."""


def sources(service: str) -> list[Path]:
    own = sorted((ROOT / "services" / service).rglob("*.py"))
    return [*own, POPULATES] if service == "intake" else own


def asked(node: ast.Call, path: Path) -> Made:
    said = [sentence(one) or "·" for one in node.args]
    if isinstance(node.func, ast.Name) and node.func.id == "not_held":
        said = [" is not held here. ".join((*said, "·")[:2])]
    return Made(f"{path.relative_to(ROOT)}:{node.lineno}", NAMED, said[0], literal=True)


def refusals(service: str) -> Iterator[Made]:
    for path in sources(service):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or not node.args:
                continue
            if node.func.id in ASKING:
                yield asked(node, path)
                continue
            first, given = node.args[0], {one.arg for one in node.keywords if one.arg}
            severity = [sentence(one.value) for one in node.keywords if one.arg == "severity"]
            is_words = isinstance(first, ast.Constant | ast.JoinedStr)
            if node.func.id not in ("Issue", "Unprocessable") or severity or len(node.args) > 1:
                continue
            if node.func.id == "Unprocessable" and not is_words:
                continue  # of issues that are made elsewhere
            where = f"{path.relative_to(ROOT)}:{node.lineno}"
            yield Made(where, given, sentence(first) if is_words else ast.unparse(first), is_words)


ALL = [one for service in SERVICES for one in refusals(service)]


CODE = re.compile(r"[A-Z]{1,3}(-[A-Z0-9]+)+")
FOUND = {"ANSWERS-AGE", "MEDICATION-LIST"}
"""What screening finds of itself; `tests/unit/intake/test_every_rule.py` has what it refuses by, with the policy's."""


BY_SHARED = {"Q-PARAMETER", "Q-HELD", "N-NEWS"}
"""By which they refuse in the words of what all services share."""


def rules_in_source() -> set[str]:
    """Return the rules by which intake and scheduling can refuse: those that their source names.

    Not what a visit needs only when it comes: that is shown and flagged, and refuses nothing.
    """
    named = {
        node.value
        for service in SERVICES
        for path in (ROOT / "services" / service).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and CODE.fullmatch(node.value)
    } & set(shipped.systems()[RULE].concepts)
    policy = Setting.of(load_policy()).policy
    refusing = {name for kind in policy.prerequisites.values() for name, one in kind.items() if one.by == "booking"}
    return (named | BY_SHARED) - FOUND - {rule for name, rule in RULES.items() if name not in refusing}


def errors() -> set[str]:
    """Return the names of all refusals of the tree but the one by rule."""
    found, new = set(), {FhirError}
    while new:
        found |= new
        new = {each for one in new for each in one.__subclasses__()} - found
    return {one.__name__ for one in found} - {"Unprocessable"}


def test_there_are_refusals_to_look_at():
    assert len(ALL) > 60
    assert {one.where.split("/")[1] for one in ALL} == {*SERVICES, "runtime"}


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_refused_otherwise_than_by_rule_is_refused_by_those_who_name_one(service):
    made = {
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in sources(service)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in errors()
    }
    assert made == set()


@pytest.mark.parametrize("made", ALL, ids=lambda made: made.where)
def test_each_refusal_names_its_rule_its_source_and_its_place(made):
    assert made.given >= NAMED


@pytest.mark.parametrize("made", [one for one in ALL if one.literal], ids=lambda made: made.where)
def test_each_refusal_says_what_to_do(made):
    assert tells_what_to_do(made.said), made.said


WRAPPERS = {"_issue", "_series", "_not_kept", "wrong", "refused"}
"""Functions that make the issue of a sentence that is given to them."""
ADD_TO_IT = {"privacy.py", "replay.py"}
"""Where they add to it what to do."""
LONG = 40
"""Letters from which on a text is a sentence, and no code."""


def given_sentences() -> Iterator[tuple[str, str]]:
    for path in (one for service in SERVICES for one in sorted((ROOT / "services" / service).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            is_call = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in WRAPPERS
            if not is_call or path.name in ADD_TO_IT:
                continue
            for said in (sentence(one) for one in node.args):
                if len(said) > LONG and " " in said.strip():
                    yield f"{path.relative_to(ROOT)}:{node.lineno}", said


@pytest.mark.parametrize(("where", "said"), list(given_sentences()), ids=lambda one: one[:60])
def test_each_sentence_that_is_given_to_one_that_makes_a_refusal_says_what_to_do(where, said):
    assert tells_what_to_do(said), where


@pytest.mark.parametrize("made", [one for one in ALL if not one.literal], ids=lambda made: made.where)
def test_where_the_sentence_is_the_callers_that_is_known_here(made):
    assert made.said in SAID_BY_CALLER
