"""What a token costs a read, without a database: `python -m tests.bench.tokens [REQUESTS]`.

Prints microseconds a request for a stack without tokens, with one that is remembered, and with a new one each time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from datetime import UTC, datetime

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey, KeySet
from pydantic import SecretStr

from shared.fhir.json import dump
from shared.http.app import create_fhir_app
from shared.runtime.logging import set_up_logging
from shared.runtime.policy import load_policy
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.security.bearer import Bearer, Issuer
from shared.security.caller import everybody
from shared.security.roles import AccessPolicy
from shared.store.types import Stored

ISSUER, BASE = "https://issuer.example", "http://kap.example/fhir"
KEY = ECKey.generate_key("P-256", parameters={"kid": "k", "use": "sig", "alg": "ES256"})
STORED = Stored(
    "Patient", "1", 1, datetime.now(UTC), False, dump({"resourceType": "Patient", "id": "1"}), "x", "create"
)


class Backend:
    async def read(self, context, type_, id_):
        return STORED


def token(number: int) -> str:
    now = int(time.time())
    claims = {"iss": ISSUER, "aud": BASE, "exp": now + 300, "jti": str(number), "client_id": "x"}
    return jwt.encode({"alg": "ES256", "kid": "k"}, {**claims, "scope": "patient/*.rs", "patient": "1"}, KEY)


def published(request: httpx.Request) -> httpx.Response:
    told = {"issuer": ISSUER, "jwks_uri": f"{ISSUER}/jwks"}
    return httpx.Response(200, json=KeySet([KEY]).as_dict(private=False) if request.url.path == "/jwks" else told)


async def measure(authenticate, tokens: list[str | None]) -> float:
    settings = Settings(service="x", database_url=SecretStr("postgresql://x"), public_base=BASE, issuer=ISSUER)
    service = Service("x", "X", frozenset(("Patient",)))
    app = create_fhir_app(service, Backend(), settings, authenticate=authenticate)
    route = next(one for one in app.router.routes if getattr(one, "path", "") == "/fhir/{type}/{id}")

    async def receive():
        return {"type": "http.request", "body": b""}

    async def send(message):
        pass

    began = time.perf_counter()
    for one in tokens:
        headers = [] if one is None else [(b"authorization", f"Bearer {one}".encode())]
        scope = {"type": "http", "method": "GET", "path": "/fhir/Patient/1", "query_string": b"", "headers": headers,
                 "path_params": {"type": "Patient", "id": "1"}, "state": {"request_id": "r"}}  # fmt: skip
        await route.app(scope, receive, send)
    return (time.perf_counter() - began) / len(tokens) * 1e6


async def main(count: int) -> None:
    set_up_logging("ERROR")
    client = httpx.AsyncClient(transport=httpx.MockTransport(published))
    bearer = Bearer(Issuer(ISSUER, client), [BASE], origin=None, roles=load_policy().section("access", AccessPolicy))
    same, new = token(0), [token(number) for number in range(1, count // 10 + 1)]
    await measure(everybody(origin=None), [None] * 500)  # warm
    none = await measure(everybody(origin=None), [None] * count)
    remembered = await measure(bearer, [same] * count)
    fresh = await measure(bearer, new)
    print(f"read, no database: without tokens {none:.0f} us, remembered token {remembered:.0f} us "
          f"({remembered / none:.2f}x), new token each time {fresh:.0f} us ({fresh / none:.1f}x)")  # fmt: skip


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]) if len(sys.argv) > 1 else 5000))
