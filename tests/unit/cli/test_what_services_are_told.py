from __future__ import annotations

import pytest

from cli.stack.brokers import broker
from cli.stack.databases import databases
from cli.stack.ports import SERVICES, Ports
from cli.stack.problem import StackProblem
from cli.stack.processes import Plan
from cli.stack.stack import environment, run_service
from shared.runtime.settings import Settings

ADDRESSES = {f"kap_{name}": f"postgresql://kap@/kap_{name}?host=/run" for name in SERVICES}


@pytest.mark.parametrize("together", [True, False], ids=["one process", "separate"])
@pytest.mark.parametrize("name", SERVICES)
def test_each_service_reads_its_own_settings(monkeypatch: pytest.MonkeyPatch, name: str, *, together: bool) -> None:
    told = environment(SERVICES if together else [name], Ports(9000), ADDRESSES, "127.0.0.1:9011")
    for variable, value in told.items():
        monkeypatch.setenv(variable, value)
    settings = Settings.load(name)
    assert settings.dsn == f"postgresql://kap@/kap_{name}?host=/run"
    assert settings.port == Ports(9000).of(name)
    assert settings.base_url == Ports(9000).fhir(name)
    assert settings.kafka_bootstrap == "127.0.0.1:9011"
    assert settings.host == "127.0.0.1"
    assert settings.roles == {"migrate", "api", "worker"}
    assert settings.intake_url == "http://127.0.0.1:9001/fhir"
    assert settings.delivery_url == "http://127.0.0.1:9005/fhir"
    assert settings.hospital_url == "http://127.0.0.1:9007/fhir"


def test_the_same_plan_is_told_the_same_and_another_address_is_another_plan() -> None:
    def plan(bootstrap: str) -> Plan:
        told = environment(["intake"], Ports(9000), ADDRESSES, bootstrap)
        return Plan("intake", run_service(["intake"]), told, {"intake": 9001})

    assert plan("127.0.0.1:1").told == plan("127.0.0.1:1").told
    assert plan("127.0.0.1:1").told != plan("127.0.0.1:2").told


def test_messages_go_to_the_stand_in_where_there_is_a_secret_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    told = environment(["scheduling"], Ports(9000), ADDRESSES, "127.0.0.1:9011", messages="shared")
    for variable, value in told.items():
        monkeypatch.setenv(variable, value)
    settings = Settings.load("scheduling")
    assert settings.message_url == "http://127.0.0.1:9007/messages"
    assert settings.message_secret is not None
    assert settings.message_secret.get_secret_value() == "shared"
    assert "KAP_MESSAGE_URL" not in environment(["scheduling"], Ports(9000), ADDRESSES, "127.0.0.1:9011")


@pytest.mark.parametrize("kafka", ["", "redpanda", "host", ":9092", "host:", "host:port"])
def test_a_kafka_that_is_none_is_refused_with_what_can_be_said(kafka: str, tmp_path) -> None:
    with pytest.raises(StackProblem, match="'apache', 'memory' or HOST:PORT"):
        broker(kafka, tmp_path, Ports(), report=lambda _: None)


@pytest.mark.parametrize("address", ["", "mysql://u@h/d", "postgresql:///d", "localhost:5432"])
def test_a_postgres_that_is_none_is_refused_with_what_can_be_said(address: str, tmp_path) -> None:
    with pytest.raises(StackProblem, match="'embedded' or an address"):
        databases(address, tmp_path, 9010)
