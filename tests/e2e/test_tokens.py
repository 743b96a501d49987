"""A stack with tokens, end to end: nobody without one, the demo with one, every hop the same."""

from __future__ import annotations

import json
from collections.abc import Callable

import httpx
import pytest

from tests.e2e.kap import Kap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_stack_with_tokens_answers_nobody_without_one_and_the_demo_runs_with_one(
    make_stack: Callable[..., Kap], tmp_path
) -> None:
    kap = make_stack("--kafka", "memory", "--single")
    gateway = kap.ports.fhir("gateway")

    def asked(path: str, token: str | None = None) -> int:
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        return httpx.get(f"{gateway}/{path}", headers=headers, trust_env=False, timeout=30).status_code

    assert [asked("metadata"), asked(".well-known/smart-configuration"), asked("Patient")] == [200, 200, 401]
    assert "Nothing is missing, nothing is doubled, nothing differs." in _demo(kap)

    nurse = kap.must("token", "monitor-nurse").strip()
    assert [asked("Observation?_count=1", nurse), asked("Patient?_count=1", nurse)] == [200, 200]
    desk = kap.must("token", "front-desk").strip()
    assert [asked("Patient?_count=1", desk), asked("Observation?_count=1", desk)] == [200, 403]

    key = tmp_path / "jwks.json"
    operator = json.loads((kap.data / "identity" / "operator.json").read_text(encoding="utf-8"))
    key.write_text(json.dumps({"keys": [{name: operator[name] for name in ("kty", "crv", "x", "y", "kid")}]}))
    client = kap.must("clients", "add", "St. Anna", "--jwks", str(key), "--scope", "system/ServiceRequest.c").strip()
    assert client in kap.must("clients", "list")
    kap.must("clients", "remove", client)
    kap.must("down")


def _demo(kap: Kap) -> str:
    kap.must("demo", "--patients", "1")
    return kap.must("verify")
