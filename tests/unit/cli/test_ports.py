from __future__ import annotations

import pytest

from cli.stack.ports import OFFSETS, OWNERS, SERVICES, Ports
from cli.stack.problem import StackProblem


def test_the_ports_are_those_that_the_documentation_names() -> None:
    ports = Ports(8000)
    assert {name: ports.of(name) for name in SERVICES} == {
        "gateway": 8000,
        "intake": 8001,
        "scheduling": 8002,
        "sessions": 8003,
        "outcomes": 8004,
        "delivery": 8005,
        "hospital": 8007,
    }
    assert (ports.of("postgres"), ports.of("kafka"), ports.of("kafka-controller")) == (8010, 8011, 8012)


def test_no_two_things_share_a_port() -> None:
    assert len(set(OFFSETS.values())) == len(OFFSETS)
    assert set(OWNERS) < set(SERVICES) < set(OFFSETS)


def test_the_gateway_is_one_fhir_server() -> None:
    assert Ports(9000).fhir("gateway") == "http://127.0.0.1:9000/fhir"


@pytest.mark.parametrize("base", [-1, 0, 80, 1023, 65524, 70000])
def test_a_base_without_room_above_it_is_refused_with_the_range(base: int) -> None:
    with pytest.raises(StackProblem, match="from 1024 to 65523"):
        Ports(base)


@pytest.mark.parametrize("base", [1024, 65523])
def test_the_ends_of_the_range_are_good(base: int) -> None:
    assert Ports(base).of("kafka-controller") == base + 12
