"""The gateway: the whole record as one FHIR server."""

from __future__ import annotations

from dataclasses import replace

from starlette.routing import BaseRoute

from services.gateway.audits import OwnersAudits
from services.gateway.calendars import calendar_route
from services.gateway.catalog import TYPES
from services.gateway.exporting.answering import export_route
from services.gateway.exporting.working import EXPORT_TASK
from services.gateway.forward import GatewayBackend
from services.gateway.notifying import Notifying
from services.gateway.operations import OPERATIONS
from services.gateway.owners import Owners, addresses, open_client
from services.gateway.reactions import CONSUMES, HOLDS, REACTIONS
from services.gateway.subscribing import TYPE, Subscribing, alone
from services.gateway.topics import SubscriptionPolicy
from shared.fhir.freshness import KnowledgePolicy
from shared.runtime.app import App, Background, Parts
from shared.runtime.policy import load_policy
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.runtime.tls import client_context

SERVICE = Service(
    name="gateway",
    title="KAP Exchange",
    types=TYPES,
    operations=OPERATIONS,
    consumes=CONSUMES,
    holds=HOLDS,
    reactions=REACTIONS,
    guards={TYPE: (alone,)},
    topics=load_policy().section("subscriptions", SubscriptionPolicy).canonicals,
)


def create(settings: Settings) -> App:
    """Return the service.

    Raises:
        SettingsError: the address of an owner is not set.

    """
    urls = addresses(settings) if "api" in settings.roles else {}
    subscribing = Subscribing.of(settings)
    notifying = Notifying(subscribing, load_policy(settings.policy).section("knowledge", KnowledgePolicy).disclosure)

    def owners(parts: Parts) -> Owners:
        client = open_client(client_context(settings))
        parts.closing.push_async_callback(client.aclose)
        return Owners(client, urls)

    def backend(parts: Parts) -> GatewayBackend:
        return GatewayBackend(parts.service, parts.store, owners(parts), subscribing=subscribing)

    def audits(parts: Parts) -> OwnersAudits:
        return OwnersAudits(owners(parts), parts.issuer)

    def routes(parts: Parts) -> list[BaseRoute]:
        exports: list[BaseRoute] = [export_route(parts)] if "api" in settings.roles else []
        if "scheduling" not in urls:
            return exports
        client = open_client(client_context(settings))
        parts.closing.push_async_callback(client.aclose)
        return [calendar_route(client, urls["scheduling"]), *exports]

    return App(
        replace(SERVICE, topics=subscribing.policy.canonicals),
        settings,
        backend=backend,
        routes=routes,
        audits=audits,
        shows_copies=True,
        background=(EXPORT_TASK, Background("subscriptions", notifying.run)),
    )
