"""A stack with tokens, end to end: nobody without one, the demo with one, every hop the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from tests.e2e.canaries import Planted
from tests.e2e.kap import Kap

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def kap(make_stack: Callable[..., Kap]) -> Kap:
    return make_stack("--kafka", "memory", "--single")


def test_a_stack_with_tokens_answers_nobody_without_one_and_the_demo_runs_with_one(kap: Kap, tmp_path: Path) -> None:
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


def test_nothing_of_a_patient_and_no_secret_is_in_logs_metrics_or_what_commands_tell(kap: Kap) -> None:
    """What was planted in everything that is sent, refused and stored is looked for wherever operators look.

    And what the demo said of its patients: their names, dates, numbers, telephones, and the texts about them.
    """
    planted = Planted(kap)
    planted.sow()
    kap.must("demo", "--patients", "1")
    told = planted.told_by_the_demo()
    assert len(told) > 20, "the demo says something of its patients"
    places = planted.places()
    assert {"postgres/log", "logs/services.log", "metrics of gateway", "./kap status"} <= places.keys()
    assert all(id_ in places["logs/services.log"] for id_ in planted.requests)  # these are their logs
    found = {
        (name, kind)
        for name, text in places.items()
        for kind, canary in planted.canaries.items()
        if canary.casefold() in text.casefold()
    }
    assert not found
    by_demo = {
        (name, said)
        for name, text in places.items()
        for said in told
        if said in text and re.search(rf"(?<![\w-]){re.escape(said)}(?![\w-])", text)
    }
    assert not by_demo


def _demo(kap: Kap) -> str:
    kap.must("demo", "--patients", "1")
    return kap.must("verify")
