"""Who runs the stack, towards its issuer of tokens: a key of one's own, and tokens asked for by it.

The private key lies in the data folder, readable by its owner only; the issuer is told the public one at its start. So
whoever may read the data folder may ask for a token of any role of this stack.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
from joserfc import jwt
from joserfc.jwk import ECKey

from cli.stack.problem import StackProblem

BY_ASSERTION = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
OPERATOR = "operator"
ALGORITHM = "ES384"
ASSERTION_SECONDS = 60
EARLY = 30.0
"""Seconds before its end at which a token is asked for anew."""


class OperatorKey:
    """The key in a data folder."""

    def __init__(self, data: Path) -> None:
        self.path = data / "identity" / "operator.json"

    def make(self) -> None:
        """Make the key where there is none."""
        if self.path.exists():
            return
        self.path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = ECKey.generate_key("P-384", parameters={"kid": str(uuid4()), "use": "sig", "alg": ALGORITHM})
        beside = self.path.with_suffix(".new")
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
            json.dump(key.as_dict(private=True), file)
        beside.replace(self.path)

    def jwks(self) -> str:
        """Return the public half, as a JWKS."""
        return json.dumps({"keys": [self._key().as_dict(private=False)]}, sort_keys=True)

    def assertion(self, audience: str) -> str:
        """Return what says to an issuer that it is the operator who asks; good once."""
        key, now = self._key(), int(time.time())
        claims = {
            "iss": OPERATOR,
            "sub": OPERATOR,
            "aud": audience,
            "iat": now,
            "exp": now + ASSERTION_SECONDS,
            "jti": str(uuid4()),
        }
        return jwt.encode({"alg": ALGORITHM, "kid": key.kid}, claims, key, algorithms=[ALGORITHM])

    def _key(self) -> ECKey:
        try:
            return ECKey.import_key(json.loads(self.path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise StackProblem(
                f"There is no key in {self.path.parent} that asks for tokens: no stack ran there. ./kap up starts one."
            ) from None


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a token is to be for."""

    role: str | None = None
    user: str | None = None
    patient: str | None = None
    scope: str | None = None
    clinic: str | None = None
    """Another than the stack's own."""

    def form(self, assertion: str) -> dict[str, str]:
        """Return the request's form (SMART Backend Services, and the role and user that the operator names)."""
        given = {"kap_role": self.role, "kap_user": self.user, "kap_patient": self.patient, "scope": self.scope}
        given["kap_tenant"] = self.clinic
        return {
            "grant_type": "client_credentials",
            "client_assertion_type": BY_ASSERTION,
            "client_assertion": assertion,
            **{name: value for name, value in given.items() if value is not None},
        }


class OperatorAuth(httpx.Auth):
    """Sends a token with every request to the stack, asked for when it is first needed and again before it ends."""

    requires_response_body = True

    def __init__(self, issuer: str, key: OperatorKey, wanted: Wanted) -> None:
        self._issuer = issuer
        self._key = key
        self._wanted = wanted
        self._token = ""
        self._until = 0.0

    def of(self, wanted: Wanted) -> OperatorAuth:
        """Return what sends a token for somebody else, of the same issuer."""
        return OperatorAuth(self._issuer, self._key, wanted)

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        """Send a request with a token; once more with a new one where it was refused."""
        fresh = time.time() > self._until - EARLY
        if fresh:
            self._keep((yield self._ask()))
        request.headers["Authorization"] = f"Bearer {self._token}"
        answer = yield request
        if answer.status_code == httpx.codes.UNAUTHORIZED and not fresh:
            self._keep((yield self._ask()))
            request.headers["Authorization"] = f"Bearer {self._token}"
            yield request

    def token(self) -> dict[str, Any]:
        """Return what the issuer answers: `access_token`, `expires_in`, `scope`.

        Raises:
            StackProblem: it does not answer, or gives none.

        """
        try:
            with httpx.Client(timeout=10.0, trust_env=False) as client:
                answer = client.send(self._ask())
        except httpx.TransportError:
            raise StackProblem(
                f"The issuer of tokens does not answer at {self._issuer}. Is the stack up? ./kap status"
            ) from None
        return self._keep(answer)

    def _ask(self) -> httpx.Request:
        url = f"{self._issuer}/auth/token"
        return httpx.Request("POST", url, data=self._wanted.form(self._key.assertion(url)))

    def _keep(self, answer: httpx.Response) -> dict[str, Any]:
        try:
            told = answer.json()
        except ValueError:
            told = {}
        if answer.status_code != httpx.codes.OK:
            said = told.get("error_description") or answer.text[:200]
            raise StackProblem(f"The issuer gives no token ({answer.status_code}): {said}")
        self._token, self._until = str(told["access_token"]), time.time() + float(told["expires_in"])
        given: dict[str, Any] = told
        return given
