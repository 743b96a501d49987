"""Somebody with given grants who asks over HTTP: a service of its own, or the gateway, which holds all as copies."""

from __future__ import annotations

from dataclasses import dataclass, replace

import httpx
from pydantic import SecretStr

from services.gateway.forward import GatewayBackend
from services.gateway.owners import Owners
from services.gateway.service import SERVICE as GATEWAY
from shared.http.app import create_fhir_app
from shared.http.backend import Backend
from shared.http.local import LocalBackend
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.security import caller as security
from shared.store.access import Access
from shared.store.store import Store
from tests.integration.security.worlds import TYPES

BASE = "http://paired/fhir"
SETTINGS = Settings(
    service="paired",
    database_url=SecretStr("postgresql://the-fixture-connects"),
    public_base=BASE,
    no_auth=True,
    link_secret=SecretStr("the same in both worlds"),
    requests_per_second=100_000,
)
SERVICE = Service("paired", "Paired", frozenset(TYPES), publishes=False)


@dataclass(frozen=True, slots=True)
class Asking(security.Caller):
    """A caller who may what `allowed` says, by every letter."""

    allowed: Access | None = None

    def __post_init__(self) -> None:
        """Work nothing out: the grants are given."""

    def access(self, letter: security.Letter) -> Access:
        assert self.allowed is not None
        return replace(self.allowed, disclosure=None) if letter == "c" else self.allowed


def asking(store: Store, given: Access, *, gateway: bool = False) -> httpx.AsyncClient:
    """Return the client of who has this access, before a service of its own or before the gateway."""

    async def authenticate(_headers: object) -> security.Caller:
        return Asking(given.tenant, client="somebody", disclosure=given.disclosure, allowed=given)

    if gateway:
        backend: Backend = GatewayBackend(GATEWAY, store, Owners(httpx.AsyncClient(), {}))
        app = create_fhir_app(GATEWAY, backend, SETTINGS, authenticate=authenticate)
    else:
        app = create_fhir_app(SERVICE, LocalBackend(SERVICE, store), SETTINGS, authenticate=authenticate)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=BASE)
