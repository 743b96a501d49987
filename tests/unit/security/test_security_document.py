"""docs/security.md says what is so: its table of roles is the policy's, and every attack has a test that exists."""

from __future__ import annotations

import ast
import re

import pytest

from services.identity.rules.clients import Asked, Registered, grant
from services.identity.rules.refusal import OAuthRefusal
from shared.runtime.policy import load_policy
from shared.security.caller import Caller
from shared.security.roles import AccessPolicy, as_table, require_understood
from shared.security.scopes import parse_scopes
from tests.feature_map import ROOT, functions

TEXT = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
ROLES = load_policy().section("access", AccessPolicy)
ATTACKS = re.findall(r"^\| (\d+) \| (.+?) \| `([^`]+)::([^`]+)` \|$", TEXT, re.MULTILINE)


def test_the_table_of_roles_is_the_policys():
    assert TEXT.split("<!-- roles -->\n", 1)[1].split("\n<!-- /roles -->", 1)[0] == as_table(ROLES)


def test_every_scope_of_a_role_means_something_here():
    require_understood(ROLES)


def test_the_attacks_are_numbered_and_many():
    assert [int(number) for number, *_ in ATTACKS] == list(range(1, len(ATTACKS) + 1))
    assert len(ATTACKS) >= 60


@pytest.mark.parametrize(("path", "name"), sorted({(path, name) for _, _, path, name in ATTACKS}))
def test_every_attack_has_a_test_that_exists(path, name):
    assert name in functions(ROOT / path)


LEFT_OUT = re.compile(r"mark\.(slow|skip|skipif|xfail|chaos)\b")
"""Marks of what does not run at each merge."""


@pytest.mark.parametrize("path", sorted({path for _, _, path, _ in ATTACKS}))
def test_every_attack_is_tested_at_each_merge(path):
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    names = {name for _, _, of, name in ATTACKS if of == path}
    tested = [one for one in tree.body if isinstance(one, ast.FunctionDef | ast.AsyncFunctionDef) and one.name in names]
    marks = [ast.unparse(each) for one in tested for each in one.decorator_list]
    marks += [ast.unparse(one) for one in tree.body if isinstance(one, ast.Assign) and "pytestmark" in ast.unparse(one)]
    assert [one for one in marks if LEFT_OUT.search(one)] == []


OPERATOR = Registered(
    "system/*.cruds system/*.$* kap/clients kap/operate", None, None, None, acts_for_others=True, operates=True
)


@pytest.mark.parametrize("role", ROLES)
def test_the_operator_gets_a_token_of_each_role_with_what_the_role_has(role):
    user = "Patient/1" if role == "patient" else "Practitioner/1" if ROLES[role].needs_user else None
    granted = grant(OPERATOR, Asked(role=role, user=user), ROLES)
    assert granted.scope.split() == [one.replace("{user}", str(user)) for one in ROLES[role].scopes]
    assert granted.patient == ("1" if role == "patient" else None)


def test_a_role_gives_nothing_beyond_itself_even_to_the_operator():
    with pytest.raises(OAuthRefusal, match="Wider"):
        grant(OPERATOR, Asked(role="front-desk", scope="user/Observation.rs"), ROLES)


@pytest.mark.parametrize("role", [name for name, role in ROLES.items() if role.needs_user])
def test_a_role_that_is_about_its_user_is_not_given_without_one(role):
    with pytest.raises(OAuthRefusal):
        grant(OPERATOR, Asked(role=role), ROLES)


def test_a_client_with_a_role_and_scopes_gets_what_is_in_both():
    client = Registered("user/Patient.rs", "front-desk", None, None, acts_for_others=False)
    assert grant(client, Asked(scope="user/Patient.r"), ROLES).scope == "user/Patient.r"
    with pytest.raises(OAuthRefusal):
        grant(client, Asked(scope="user/Appointment.r"), ROLES)


def test_no_role_but_the_administrators_may_do_everything():
    for name, role in ROLES.items():
        who = Caller(
            "default", client="x", user="Practitioner/1", patient="1", scopes=parse_scopes(" ".join(role.scopes))
        )
        assert who.in_full("Patient", "d") == (name == "clinic-admin")


PLAIN = Registered("kap/operate kap/clients kap/users", None, None, None, acts_for_others=False, operates=True)


@pytest.mark.parametrize("asked", [{"role": "therapist"}, {"user": "Practitioner/1"}, {"patient": "1"}])
def test_the_operator_of_an_installation_is_nobody_else(asked):
    with pytest.raises(OAuthRefusal, match="nobody else here"):
        grant(PLAIN, Asked(**asked), ROLES)


@pytest.mark.parametrize("scope", ["system/*.rs", "user/Patient.r", "kap/process-notes", "kap/launch"])
def test_the_operator_of_an_installation_reads_nobodys_record(scope):
    with pytest.raises(OAuthRefusal, match="Wider"):
        grant(PLAIN, Asked(scope=scope), ROLES)
    assert grant(PLAIN, Asked(scope="kap/operate"), ROLES).scope == "kap/operate"
