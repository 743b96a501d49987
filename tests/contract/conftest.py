"""One running stack with a played demo for all contract tests."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import httpx
import pytest

from cli.stack.ports import Ports
from shared.http.conformance import TYPES_OF
from shared.testing.hl7_validator import Hl7Validator
from tests.contract.ips_guide import GuideUnavailable, ips_package
from tests.contract.server import Server
from tests.e2e.kap import Kap, free_base


def held_types(gateway: httpx.Client) -> list[str]:
    """Return the types of the record; HL7's own code systems and value sets, which are served too, are HL7's."""
    rows = gateway.get("metadata").raise_for_status().json()["rest"][0]["resource"]
    return [
        row["type"]
        for row in rows
        if row["type"] not in TYPES_OF
        and any(interaction["code"] == "search-type" for interaction in row["interaction"])
    ]


def pages(gateway: httpx.Client, type_: str) -> Iterator[str]:
    """Yield every page of a search for all of a type, as it was answered."""
    url: str | None = f"{type_}?_count=100"
    while url is not None:
        page = gateway.get(url).raise_for_status()
        yield page.text
        url = next((link["url"] for link in page.json()["link"] if link["relation"] == "next"), None)


@dataclass(frozen=True)
class Played:
    """A running stack, and the pages in which it served what `./kap demo` had left, by type."""

    kap: Kap
    pages: Mapping[str, Sequence[str]]


@pytest.fixture(scope="session")
def demo_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """A stack in which `./kap demo` has played, read before any test adds to it."""
    kap = Kap(tmp_path_factory.mktemp("kap"), Ports(free_base()))
    try:
        kap.must("up", "--detach", "--port-base", str(kap.ports.base), "--kafka", "memory", "--single", "--no-auth")
        kap.must("demo", "--patients", "3")
        with httpx.Client(base_url=f"{kap.ports.url('gateway')}/fhir", trust_env=False, timeout=30) as client:
            served = {type_: list(pages(client, type_)) for type_ in held_types(client)}
        yield Played(kap, served)
    finally:
        kap.run("down")


@pytest.fixture(scope="session")
def played(demo_run: Played) -> Kap:
    """The same stack; what a test adds to it stays for the next."""
    return demo_run.kap


@pytest.fixture(scope="module")
def server(played: Kap) -> Iterator[Server]:
    """The gateway, as the contract's rows ask it."""
    server = Server(f"{played.ports.url('gateway')}/fhir")
    yield server
    server.http.close()


@pytest.fixture(scope="session")
def gateway(played: Kap) -> Iterator[httpx.Client]:
    """A client of the gateway's FHIR base."""
    with httpx.Client(base_url=f"{played.ports.url('gateway')}/fhir", trust_env=False, timeout=30) as client:
        yield client


@pytest.fixture(scope="session")
def ips_validator(hl7_validator: Hl7Validator) -> Hl7Validator:
    """The same engine, which knows the International Patient Summary. Without its package: skipped; in CI it fails."""
    try:
        ips_package()
    except GuideUnavailable as error:
        if os.environ.get("CI") == "true":
            raise
        pytest.skip(str(error))
    return hl7_validator
