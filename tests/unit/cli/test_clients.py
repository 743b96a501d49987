"""`./kap clients`: what it asks the issuer, and what it tells."""

from __future__ import annotations

import json
from functools import partial

import httpx
import pytest
from typer.testing import CliRunner

from cli.main import app
from cli.stack.operator import OperatorKey
from cli.stack.stack import Stack
from cli.stack.state import Options, State, StateFile

runner = CliRunner()


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """A stack with tokens, and an issuer that remembers what it was asked."""
    OperatorKey(tmp_path).make()
    StateFile(tmp_path).write(State(options=Options(port_base=9000, auth=True)))
    monkeypatch.setattr(Stack, "any_lives", lambda self: True)
    requests = []

    def issuer(request):
        requests.append(request)
        path = request.url.path
        if path == "/auth/token":
            return httpx.Response(200, json={"access_token": "t", "expires_in": 300})
        assert request.headers["authorization"] == "Bearer t"
        if path == "/auth/register":
            said = json.loads(request.content)
            if "scope" not in said and "kap_role" not in said:
                return httpx.Response(400, json={"error": "x", "error_description": "Name a scope or a role."})
            return httpx.Response(201, json={"client_id": "c1"})
        if path == "/auth/clients":
            one = {"client_id": "c1", "client_name": "St. Anna", "scope": "system/Patient.r", "kap_disabled": True}
            return httpx.Response(200, json={"clients": [one]})
        return httpx.Response(201, json={"kid": "k2"}) if path == "/auth/keys" else httpx.Response(204)

    monkeypatch.setattr("cli.clients.httpx.Client", partial(httpx.Client, transport=httpx.MockTransport(issuer)))
    return requests


def run(tmp_path, *arguments):
    return runner.invoke(app, ["clients", *arguments, "--data", str(tmp_path)])


def test_a_client_is_registered_with_its_public_keys_and_its_id_is_printed(tmp_path, asked):
    keys = tmp_path / "jwks.json"
    keys.write_text('{"keys": []}')
    result = run(tmp_path, "add", "St. Anna", "--jwks", str(keys), "--scope", "system/Patient.r")
    assert (result.exit_code, result.stdout.strip()) == (0, "c1")
    assert json.loads(asked[-1].content) == {
        "client_name": "St. Anna",
        "scope": "system/Patient.r",
        "jwks": {"keys": []},
    }


def test_clients_are_listed_and_removed_and_keys_are_turned(tmp_path, asked):
    assert "St. Anna" in (said := run(tmp_path, "list").stdout)
    assert "disabled" in said
    assert run(tmp_path, "remove", "c1").exit_code == 0
    assert (asked[-1].method, asked[-1].url.path) == ("DELETE", "/auth/clients/c1")
    assert "k2" in run(tmp_path, "turn-keys", "--compromised").stdout
    assert asked[-1].url.query == b"compromised=true"


def test_what_the_issuer_refuses_and_what_cannot_be_read_is_told(tmp_path, asked):
    refused = run(tmp_path, "add", "x", "--jwks-uri", "https://x.example/jwks")
    assert refused.exit_code == 1
    assert "Name a scope or a role" in str(refused.exception)
    missing = run(tmp_path, "add", "x", "--jwks", str(tmp_path / "none.json"), "--scope", "system/Patient.r")
    assert "is not a JWKS" in str(missing.exception)


def test_a_stack_without_tokens_has_no_clients(tmp_path, monkeypatch):
    monkeypatch.setattr(Stack, "any_lives", lambda self: True)
    StateFile(tmp_path).write(State(options=Options(port_base=9000)))
    result = run(tmp_path, "list")
    assert result.exit_code == 1
    assert "--auth" in str(result.exception)
