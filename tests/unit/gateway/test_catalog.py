"""The gateway's configuration says what the services really register."""

from __future__ import annotations

import importlib

import pytest
from pydantic import SecretStr

from services.gateway.catalog import FORWARDED, OWN_TYPES, OWNERS, TYPES
from shared.runtime.settings import Settings


def service(name):
    settings = Settings(service=name, database_url=SecretStr("postgresql://none"), no_auth=True)
    return importlib.import_module(f"services.{name}.service").create(settings).service


@pytest.mark.parametrize("owner", OWNERS)
def test_every_operation_of_an_owner_is_offered_and_no_other(owner):
    offered = {(one.type, one.level, one.name, one.affects_state) for one in FORWARDED.get(owner, ())}
    assert offered == {(one.type, one.level, one.name, one.affects_state) for one in service(owner).operations}


def test_the_gateway_offers_exactly_the_types_that_somebody_owns():
    owned = frozenset().union(*(service(owner).types for owner in OWNERS)) | OWN_TYPES
    assert owned == TYPES


def test_every_event_of_every_owner_is_taken_in():
    gateway = importlib.import_module("services.gateway.service").SERVICE
    assert set(gateway.consumes) == set(OWNERS)
    assert gateway.holds >= frozenset().union(*(service(owner).types for owner in OWNERS))
