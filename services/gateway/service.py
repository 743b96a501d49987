"""The gateway: the whole record as one FHIR server."""

from __future__ import annotations

from services.gateway.catalog import TYPES
from services.gateway.forward import GatewayBackend
from services.gateway.operations import OPERATIONS
from services.gateway.owners import Owners, addresses, open_client
from services.gateway.reactions import CONSUMES, HOLDS, REACTIONS
from shared.runtime.app import App, Parts
from shared.runtime.service import Service
from shared.runtime.settings import Settings

SERVICE = Service(
    name="gateway",
    title="KAP Exchange",
    types=TYPES,
    operations=OPERATIONS,
    consumes=CONSUMES,
    holds=HOLDS,
    reactions=REACTIONS,
)


def create(settings: Settings) -> App:
    """Return the service.

    Raises:
        SettingsError: the address of an owner is not set.

    """
    urls = addresses(settings) if "api" in settings.roles else {}

    def backend(parts: Parts) -> GatewayBackend:
        client = open_client()
        parts.closing.push_async_callback(client.aclose)
        return GatewayBackend(parts.service, parts.store, Owners(client, urls))

    return App(SERVICE, settings, backend=backend, shows_copies=True)
