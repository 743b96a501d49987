"""Identity: the built-in issuer of tokens."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from urllib.parse import urlsplit

import httpx
from starlette.routing import Route

from services.identity.asking import is_here
from services.identity.auditing import audited
from services.identity.endpoints import Endpoints, operator
from services.identity.signing import Signing
from shared.http.outbound import Outbound, Outside
from shared.runtime.app import App, Parts
from shared.runtime.policy import load_policy
from shared.runtime.service import Service
from shared.runtime.settings import Settings, SettingsError
from shared.security.audit import Auditing
from shared.security.bearer import CONNECT_SECONDS
from shared.security.keys import KeysRefused, key_set
from shared.security.roles import AccessPolicy, require_understood
from shared.security.scopes import ScopeRefused
from shared.store.access import DEFAULT_TENANT

SERVICE = Service(name="identity", title="KAP Exchange identity", types=frozenset(), publishes=False)


def create(settings: Settings) -> App:
    """Return the issuer.

    Raises:
        SettingsError: its URL is not set, or the operator's keys or the policy's roles cannot be understood.

    """
    if settings.issuer is None:
        raise SettingsError("identity does not start: KAP_ISSUER, its own URL as clients see it, is not set.")
    roles = load_policy(settings.policy).section("access", AccessPolicy)
    try:
        require_understood(roles)
    except ScopeRefused as error:
        raise SettingsError(f"identity does not start: the policy's section access has a scope {error}.") from None
    issuer, now = settings.issuer.rstrip("/"), datetime.now(UTC)
    if settings.operator_acts_for_others and not is_here(urlsplit(issuer).hostname):
        raise SettingsError(
            "identity does not start: KAP_OPERATOR_ACTS_FOR_OTHERS lets the operator's key be anybody, and is for a "
            f"stack on one's own machine. Unset it where people reach the issuer at {issuer}."
        )
    own = None
    if settings.operator_jwks is not None:
        try:
            jwks = json.loads(settings.operator_jwks)
            key_set(jwks)
        except (KeysRefused, ValueError) as error:
            raise SettingsError(f"identity does not start: KAP_OPERATOR_JWKS cannot be used. {error}") from None
        own = operator(jwks, DEFAULT_TENANT, now, acts_for_others=settings.operator_acts_for_others)

    def endpoints(parts: Parts) -> Endpoints:
        outside = Outside.of(settings.outbound_hosts)
        client = httpx.AsyncClient(
            timeout=CONNECT_SECONDS, follow_redirects=False, trust_env=False, transport=Outbound(outside)
        )
        parts.closing.push_async_callback(client.aclose)
        signing = Signing(parts.store.identities, settings.sealing_key)
        store = parts.store
        return Endpoints(
            issuer,
            settings.audiences,
            store.identities,
            store.logins,
            signing,
            roles,
            client,
            operator=own,
            outside=outside,
        )

    def routes(parts: Parts) -> list[Route]:
        made = endpoints(parts)
        return audited(made.routes(), Auditing(parts.store.audit, SERVICE.name), made.context)

    return App(SERVICE, settings, fhir=False, routes=routes)
