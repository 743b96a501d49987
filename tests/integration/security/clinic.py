"""An issuer, an owner and the gateway, each with its database, joined by HTTP in this process."""

from __future__ import annotations

from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import httpx
import pytest_asyncio
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet, RSAKey
from pydantic import SecretStr
from starlette.applications import Starlette

from services.gateway.audits import OwnersAudits
from services.gateway.exporting.answering import export_route
from services.gateway.forward import GatewayBackend
from services.gateway.owners import Owners
from services.gateway.service import SERVICE as GATEWAY
from services.gateway.subscribing import Subscribing
from services.identity.auditing import audited
from services.identity.endpoints import Endpoints, operator
from services.identity.signing import Signing
from services.intake.rules.privacy import check_notes
from shared.fhir.json import parse
from shared.fhir.outcome import Unprocessable
from shared.http.app import create_fhir_app
from shared.http.local import LocalBackend
from shared.http.ops import ops_routes
from shared.runtime.app import Parts
from shared.runtime.labelling import labels_of_policy
from shared.runtime.ownership import types_of
from shared.runtime.policy import load_policy
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.security.audit import Auditing
from shared.security.bearer import Issuer, bearer
from shared.security.discovery import oauth_uris, smart_configuration
from shared.security.roles import AccessPolicy
from shared.store.access import DEFAULT_TENANT
from shared.store.store import Store

ISSUER, BASE = "http://identity", "http://gateway/fhir"
ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ROLES = load_policy().section("access", AccessPolicy)
ALARM = {"coding": [{"system": "https://kap.example/CodeSystem/test", "code": "alarm"}]}


def key_of(alg, kid=None):
    parameters = {"kid": kid or str(uuid4()), "use": "sig", "alg": alg}
    return (
        RSAKey.generate_key(2048, parameters=parameters)
        if alg[0] == "R"
        else ECKey.generate_key({"ES256": "P-256", "ES384": "P-384"}[alg], parameters=parameters)
    )


async def raise_an_alarm(change, record):
    """What a guard of sessions does: a reading that is too high raises a Flag in the same transaction."""
    value = (change.after or {}).get("valueQuantity", {}).get("value", 0)
    if change.interaction == "create" and value > 100:
        await record.create(
            {"resourceType": "Flag", "status": "active", "code": ALARM, "subject": change.after["subject"]}
        )


async def nobody_for_himself(change, record):
    """What intake's guard of consents asks for process notes, of who the token says is writing."""
    if change.after is not None and (issues := check_notes(change.after, record.user)):
        raise Unprocessable(issues)


INTAKE = Service(
    "intake",
    "Intake",
    types_of("intake"),
    guards={"Observation": (raise_an_alarm,), "Consent": (nobody_for_himself,)},
    labels=labels_of_policy(None),
)


@dataclass
class Wire(httpx.AsyncBaseTransport):
    """The network: hosts by name."""

    apps: dict = field(default_factory=dict)
    files: dict = field(default_factory=dict)
    requests: list = field(default_factory=list)

    async def handle_async_request(self, request):
        self.requests.append(request)
        if str(request.url) in self.files:
            return httpx.Response(200, json=self.files[str(request.url)])
        if request.url.host not in self.apps:
            raise httpx.ConnectError("refused", request=request)
        return await httpx.ASGITransport(self.apps[request.url.host]).handle_async_request(request)


@dataclass
class Clinic:
    """What the tests ask.

    Attributes:
        http: anybody's client; without a token.
        wire: the network.
        stores: by service.
        operator: the operator's key.
        subscribing: what the gateway knows of subscriptions.
        issuer: as the gateway knows it.
        late: how far the issuer's clock is ahead.

    """

    http: httpx.AsyncClient
    wire: Wire
    stores: dict[str, Store]
    operator: ECKey
    late: timedelta = timedelta()
    subscribing: Subscribing | None = None
    issuer: Issuer | None = None

    def assertion(self, client, key, **claims):
        now = int((datetime.now(UTC) + self.late).timestamp())
        said = {"iss": client, "sub": client, "aud": f"{ISSUER}/auth/token", "exp": now + 60, "jti": str(uuid4())}
        alg = key.get("alg")
        return jwt.encode({"alg": alg, "kid": key.kid}, {**said, **claims}, key, algorithms=[alg])

    async def asked(self, path, client, key, *, assertion=None, **form):
        return await self.http.post(
            f"{ISSUER}/auth/{path}",
            data={
                "client_assertion_type": ASSERTION,
                "client_assertion": assertion or self.assertion(client, key),
                **({"grant_type": "client_credentials"} if path == "token" else {}),
                **form,
            },
        )

    async def token(self, role=None, **form):
        """Return a token of a role, asked for by the operator."""
        given = {**form, **({} if role is None else {"kap_role": role})}
        answer = await self.asked("token", "operator", self.operator, **given)
        assert answer.status_code == 200, answer.text
        return answer.json()["access_token"]

    async def register(self, *, key=None, **said):
        manager = await self.token(scope="kap/clients")
        jwks = {} if "jwks_uri" in said else {"jwks": {"keys": [key.as_dict(private=False)]}}
        return await self.http.post(
            f"{ISSUER}/auth/register",
            json={"client_name": "test", **jwks, **said},
            headers={"Authorization": f"Bearer {manager}"},
        )

    async def send(self, token, method, path, body=None, *, host="gateway", **headers):
        sent = {"Content-Type": "application/fhir+json", **headers}
        if token is not None:
            sent["Authorization"] = f"Bearer {token}"
        return await self.http.request(method, f"http://{host}/fhir/{path}", json=body, headers=sent)

    async def made(self, resource, token=None):
        """Create a resource as the administrator, and return it."""
        token = token or await self.token("clinic-admin")
        answer = await self.send(token, "POST", resource["resourceType"], resource)
        assert answer.status_code == 201, answer.text
        return parse(answer.content)


def settings(service):
    return Settings(
        service=service, database_url=SecretStr("postgresql://the-fixture-connects"), public_base=BASE, issuer=ISSUER
    )


@pytest_asyncio.fixture
async def clinic(make_database):
    async with AsyncExitStack() as opened:
        stores = {}
        for name in ("identity", "intake", "gateway"):
            stores[name] = await Store.connect(make_database(name), service=name, max_size=4)
            opened.push_async_callback(stores[name].close)
        wire = Wire()
        client = await opened.enter_async_context(httpx.AsyncClient(transport=wire))
        operators = key_of("ES384")
        found = Clinic(client, wire, stores, operators)
        held = stores["identity"].identities
        endpoints = Endpoints(
            ISSUER,
            (BASE,),
            held,
            stores["identity"].logins,
            Signing(held, b"s" * 32),
            ROLES,
            client,
            operator=operator(
                KeySet([operators]).as_dict(private=False), DEFAULT_TENANT, datetime.now(UTC), acts_for_others=True
            ),
            clock=lambda: datetime.now(UTC) + found.late,
        )
        wire.apps["identity"] = Starlette(
            routes=audited(endpoints.routes(), Auditing(stores["identity"].audit, "identity"), endpoints.context)
        )
        who, _ = bearer(ISSUER, [BASE], client, origin="intake", roles=ROLES)
        wire.apps["intake"] = create_fhir_app(
            INTAKE,
            LocalBackend(INTAKE, stores["intake"]),
            settings("intake"),
            authenticate=who,
            routes=ops_routes(INTAKE, stores["intake"], partitions=4),
            auditing=Auditing(stores["intake"].audit, "intake", "1"),
        )
        who, issuer = bearer(ISSUER, [BASE], client, origin=None, roles=ROLES)
        owners = Owners(client, {"intake": "http://intake/fhir"})
        backend = GatewayBackend(GATEWAY, stores["gateway"], owners)
        wire.apps["gateway"] = create_fhir_app(
            GATEWAY,
            backend,
            settings("gateway"),
            authenticate=who,
            before=[
                smart_configuration(issuer),
                export_route(Parts(GATEWAY, settings("gateway"), stores["gateway"], who, opened)),
            ],
            security=lambda: oauth_uris(issuer),
            auditing=Auditing(stores["gateway"].audit, "gateway", "1", OwnersAudits(owners, issuer)),
        )
        found.subscribing, found.issuer = backend.subscribing, issuer
        yield found
