"""The operator of a stack asks its issuer for tokens by a key in the data folder."""

from __future__ import annotations

import json
import stat
import time

import httpx
import pytest
from joserfc import jwt
from joserfc.jwk import KeySet

from cli.stack.operator import OperatorAuth, OperatorKey, Wanted
from cli.stack.ports import IDENTITY, SERVICES, Ports
from cli.stack.problem import StackProblem
from cli.stack.stack import Stack, environment
from cli.stack.state import Options, State, StateFile
from shared.runtime.settings import Settings, SettingsError

ISSUER = "http://127.0.0.1:9008"
ADDRESSES = {f"kap_{name}": f"postgresql://kap@/kap_{name}?host=/run" for name in (IDENTITY, *SERVICES)}


@pytest.fixture
def key(tmp_path):
    made = OperatorKey(tmp_path)
    made.make()
    return made


def test_the_key_is_its_owners_alone_stays_and_its_private_half_is_told_to_nobody(key):
    assert stat.S_IMODE(key.path.stat().st_mode) == 0o600
    before = key.path.read_text()
    key.make()
    assert key.path.read_text() == before
    [public] = json.loads(key.jwks())["keys"]
    assert "d" not in public


def test_a_stack_that_never_ran_has_no_key_and_says_so(tmp_path):
    with pytest.raises(StackProblem, match="no stack ran there"):
        OperatorKey(tmp_path).assertion("x")


class Issuer:
    """Gives tokens that are good for `seconds`, and a service that believes the newest only."""

    def __init__(self, key, seconds=3600):
        self.key, self.seconds, self.given, self.forms = key, seconds, 0, []

    def __call__(self, request):
        if request.url.path == "/auth/token":
            form = dict(httpx.QueryParams(request.content.decode()))
            claims = jwt.decode(form["client_assertion"], KeySet.import_key_set(json.loads(self.key.jwks())),
                                algorithms=["ES384"]).claims  # fmt: skip
            assert claims["aud"] == f"{ISSUER}/auth/token"
            self.forms.append(form)
            self.given += 1
            return httpx.Response(200, json={"access_token": f"t{self.given}", "expires_in": self.seconds})
        good = request.headers["authorization"] == f"Bearer t{self.given}"
        return httpx.Response(200 if good else 401)


def client(issuer, wanted=None):
    auth = OperatorAuth(ISSUER, issuer.key, wanted or Wanted(role="prescriber", user="Practitioner/1"))
    return httpx.Client(transport=httpx.MockTransport(issuer), auth=auth)


def test_a_token_is_asked_for_once_and_sent_with_every_request(key):
    issuer = Issuer(key)
    with client(issuer) as http:
        assert [http.get("http://kap/fhir/Patient").status_code for _ in range(3)] == [200, 200, 200]
    assert issuer.given == 1
    assert (issuer.forms[0]["kap_role"], issuer.forms[0]["kap_user"]) == ("prescriber", "Practitioner/1")
    assert "scope" not in issuer.forms[0]


def test_a_token_is_asked_for_again_before_it_ends_and_when_it_is_refused(key, monkeypatch):
    issuer = Issuer(key, seconds=300)
    with client(issuer) as http:
        http.get("http://kap/fhir/Patient")
        issuer.given += 1  # what it has is not believed any more
        assert http.get("http://kap/fhir/Patient").status_code == 200
        given, now = issuer.given, time.time()
        monkeypatch.setattr("cli.stack.operator.time.time", lambda: now + 280)
        http.get("http://kap/fhir/Patient")
        assert issuer.given == given + 1


def test_what_the_issuer_says_against_it_is_told(key):
    def refuse(_request):
        return httpx.Response(400, json={"error": "invalid_scope", "error_description": "There is no role 'king'."})

    auth = OperatorAuth(ISSUER, key, Wanted(role="king"))
    with (
        httpx.Client(transport=httpx.MockTransport(refuse), auth=auth) as http,
        pytest.raises(StackProblem, match="king"),
    ):
        http.get("http://kap/fhir/Patient")


def test_with_tokens_every_service_asks_the_same_issuer_and_the_hospital_asks_for_none(key, monkeypatch):
    names = (IDENTITY, *SERVICES)
    told = environment(names, Ports(9000), ADDRESSES, "127.0.0.1:9011", key.jwks())
    for variable, value in told.items():
        monkeypatch.setenv(variable, value)
    for name in names:
        settings = Settings.load(name)
        assert settings.no_auth == (name == "hospital")
        assert settings.issuer == ISSUER
        assert settings.audiences == ("http://127.0.0.1:9000/fhir",)
        assert (settings.operator_jwks is not None) == (name == IDENTITY)
    assert Settings.load(IDENTITY).roles == {"migrate", "api"}


def test_no_service_starts_both_with_tokens_and_open_to_everybody(monkeypatch):
    monkeypatch.setenv("KAP_DATABASE_URL", "postgresql://one")
    monkeypatch.setenv("KAP_ISSUER", ISSUER)
    monkeypatch.setenv("KAP_NO_AUTH", "true")
    with pytest.raises(SettingsError, match="Unset one of them"):
        Settings.load("intake")


def test_a_stack_without_tokens_sends_none(tmp_path):
    StateFile(tmp_path).write(State(options=Options(port_base=9000, auth=False)))
    assert Stack(tmp_path).auth() is None
    StateFile(tmp_path).write(State(options=Options(port_base=9000, auth=True)))
    assert Stack(tmp_path).auth() is not None
