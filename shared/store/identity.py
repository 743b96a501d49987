"""What the issuer of tokens keeps in PostgreSQL: clients, sealed signing keys, used assertions, tokens it gave."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from shared.store.clinics import Clinics
from shared.store.connection import translated

if TYPE_CHECKING:
    from asyncpg import Record

    from shared.store.connection import Connection


SHARED: Final = "Organization/"
"""A user that several programs may have: those of one hospital."""


@dataclass(frozen=True, slots=True)
class Client:
    """A program that may ask for tokens.

    Attributes:
        id, tenant, name: whose it is.
        jwks, jwks_uri: its public keys by value, or where they are; one of the two, where its method asks for them.
        scope: what it may ask for, separated by spaces; "": what its role has.
        role, user, patient: of all its tokens, where it has them.
        acts_for_others: whether it may ask for a token of any role and user.
        token_seconds: how long its tokens are good.
        disabled_at: from when on it gets none.
        method: how it shows who it is: ``private_key_jwt``, ``client_secret_basic``, ``none`` (a public client).
        secret: SHA-256 of its secret, where it has one.
        redirect_uris: where its users may be sent back to, letter for letter.
        grants: of ``client_credentials``, ``authorization_code``, ``refresh_token``.

    """

    id: str
    tenant: str
    name: str
    jwks: Mapping[str, Any] | None
    jwks_uri: str | None
    scope: str
    role: str | None
    user: str | None
    patient: str | None
    acts_for_others: bool
    token_seconds: int
    created_at: datetime
    disabled_at: datetime | None = None
    method: str = "private_key_jwt"
    secret: bytes | None = None
    redirect_uris: Sequence[str] = ()
    grants: Sequence[str] = ("client_credentials",)


@dataclass(frozen=True, slots=True)
class SigningKey:
    """A key of the issuer: `public` as a JWK, `sealed` the private one."""

    kid: str
    public: Mapping[str, Any]
    sealed: bytes
    created_at: datetime
    retired_at: datetime | None


class Identities:
    """The tables of the issuer; each call is one statement, committed."""

    def __init__(self, pool: Clinics) -> None:
        self._pool = pool

    # Clients

    async def client(self, id_: str) -> Client | None:
        """Return a client, disabled or not."""
        with translated():
            row = await self._pool.fetchrow("SELECT * FROM oauth_client WHERE id = $1", id_)
        return None if row is None else _client(row)

    async def clients(self, tenant: str) -> list[Client]:
        """Return the clients of a tenant, by name."""
        with translated():
            rows = await self._pool.fetch("SELECT * FROM oauth_client WHERE tenant = $1 ORDER BY name, id", tenant)
        return [_client(row) for row in rows]

    async def add_client(self, client: Client) -> bool:
        """Keep a new client; False where its user is somebody else's: see `account_of`."""
        if client.user is None or client.user.startswith(SHARED):
            await self.put_client(client)
            return True
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                if await account_of(connection, client.tenant, client.user) is not None:
                    return False
                await _put_client(connection, client)
        return True

    async def put_client(self, client: Client) -> None:
        """Keep a client; one of the same id is replaced, and lives again."""
        with translated():
            await _put_client(self._pool, client)

    async def disable_client(self, tenant: str, id_: str, now: datetime) -> bool:
        """Give a client no more tokens and take back what it has; False where there is no such client."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                done = await connection.execute(
                    "UPDATE oauth_client SET disabled_at = $3 WHERE tenant = $1 AND id = $2", tenant, id_, now
                )
                if done.endswith(" 0"):
                    return False
                await connection.execute(
                    "UPDATE oauth_grant SET ended_at = $2 WHERE client = $1 AND ended_at IS NULL", id_, now
                )
                await connection.execute(
                    "UPDATE oauth_token SET revoked_at = $2 WHERE client = $1 AND revoked_at IS NULL "
                    "AND expires_at > $2",
                    id_,
                    now,
                )
        return True

    async def take_back(self, id_: str, now: datetime) -> None:
        """Take back the tokens that a client has, and those it had: what was asked for by one of them ends, too."""
        with translated():
            await self._pool.execute(
                "UPDATE oauth_token SET revoked_at = $2 WHERE client = $1 AND revoked_at IS NULL",
                id_,
                now,
            )

    async def first_use(self, client: str, jti: str, expires_at: datetime) -> bool:
        """Note an assertion of a client as used; False where it was used before. Those that ended are forgotten."""
        digest = hashlib.sha256(f"{client}\0{jti}".encode()).digest()
        with translated():
            await self._pool.execute("DELETE FROM oauth_assertion WHERE expires_at < now() - interval '1 hour'")
            done = await self._pool.execute(
                "INSERT INTO oauth_assertion (digest, expires_at) VALUES ($1, $2) ON CONFLICT DO NOTHING",
                digest,
                expires_at,
            )
        return bool(done.endswith(" 1"))

    # Keys

    async def keys(self, now: datetime) -> list[SigningKey]:
        """Return the keys that are published, newest first."""
        with translated():
            rows = await self._pool.fetch(
                "SELECT * FROM oauth_key WHERE gone_at IS NULL OR gone_at > $1 ORDER BY created_at DESC", now
            )
        return [
            SigningKey(row["kid"], json.loads(row["public"]), row["sealed"], row["created_at"], row["retired_at"])
            for row in rows
        ]

    async def add_key(self, key: SigningKey, *, only_if_none: bool = False) -> bool:
        """Keep a signing key; `only_if_none`: where none of its algorithm signs yet, whoever else starts now."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute("LOCK TABLE oauth_key IN SHARE ROW EXCLUSIVE MODE")
                done = await connection.execute(
                    "INSERT INTO oauth_key (kid, public, sealed, created_at) SELECT $1, $2::text::jsonb, $3, $4 "
                    "WHERE NOT $5 OR NOT EXISTS (SELECT FROM oauth_key WHERE retired_at IS NULL "
                    "AND public->>'alg' = $2::text::jsonb->>'alg')",
                    key.kid,
                    json.dumps(key.public),
                    key.sealed,
                    key.created_at,
                    only_if_none,
                )
        return bool(done.endswith(" 1"))

    async def retire_keys(self, but: Sequence[str], now: datetime, gone_at: datetime) -> int:
        """Have all keys but these sign nothing from now on, published until `gone_at`; return how many there were."""
        with translated():
            done = await self._pool.execute(
                "UPDATE oauth_key SET retired_at = coalesce(retired_at, $2), gone_at = least(gone_at, $3) "
                "WHERE kid <> ALL($1::text[]) AND (gone_at IS NULL OR gone_at > $2)",
                list(but),
                now,
                gone_at,
            )
        return int(done.rsplit(" ", 1)[-1])

    # Tokens

    async def note_token(
        self, jti: str, client: str, issued_at: datetime, expires_at: datetime, *, grant: str | None = None
    ) -> bool:
        """Remember a token that is given, before it is; False where what it would be given by has ended.

        Those are forgotten that ended a day ago, or were taken back and ended 90 days ago; but not of which `ended` was
        asked within 30 days.
        """
        with translated():
            await self._pool.execute(
                "DELETE FROM oauth_token WHERE expires_at < $1::timestamptz - CASE WHEN revoked_at IS NULL "
                "THEN interval '1 day' ELSE interval '90 days' END "
                "AND (asked_at IS NULL OR asked_at < $1::timestamptz - interval '30 days')",
                issued_at,
            )
            done = await self._pool.execute(
                "WITH lives AS (SELECT id FROM oauth_grant WHERE id = $5 AND ended_at IS NULL FOR SHARE) "
                "INSERT INTO oauth_token (jti, client, issued_at, expires_at, grant_id) SELECT $1, $2, $3, $4, $5 "
                "WHERE $5::text IS NULL OR EXISTS (SELECT FROM lives)",
                jti,
                client,
                issued_at,
                expires_at,
                grant,
            )
        return bool(done.endswith(" 1"))

    async def is_good(self, jti: str, now: datetime) -> bool:
        """Tell whether a token was given here, has not ended, was not taken back, and its client may have it."""
        with translated():
            return bool(
                await self._pool.fetchval(
                    "SELECT EXISTS (SELECT FROM oauth_token t JOIN oauth_client c ON c.id = t.client WHERE t.jti = $1 "
                    "AND t.expires_at > $2 AND t.revoked_at IS NULL AND c.disabled_at IS NULL)",
                    jti,
                    now,
                )
            )

    async def revoke(self, jti: str, now: datetime, *, client: str | None) -> bool:
        """Take a token back: any, or one of `client`. False where there is nothing to take back."""
        with translated():
            done = await self._pool.execute(
                "UPDATE oauth_token SET revoked_at = $2 WHERE jti = $1 AND revoked_at IS NULL AND expires_at > $2 "
                "AND ($3::text IS NULL OR client = $3)",
                jti,
                now,
                client,
            )
        return bool(done.endswith(" 1"))

    async def revoked(self, now: datetime) -> Sequence[str]:
        """Return the ids of the tokens that were taken back and would be good without that."""
        with translated():
            rows = await self._pool.fetch(
                "SELECT jti FROM oauth_token WHERE revoked_at IS NOT NULL "
                "AND expires_at > $1::timestamptz - interval '1 minute'",
                now,
            )
        return [row["jti"] for row in rows]

    async def ended(
        self, clients: Sequence[str], grants: Sequence[str], tokens: Sequence[str], now: datetime
    ) -> Mapping[str, Sequence[str]]:
        """Return which of these give nothing any more: clients and permissions (unknown ones too), tokens taken back.

        And as `known` the clients of whom one of these permissions or tokens is: who names it has had it.
        """
        with translated():
            await self._pool.execute(
                "UPDATE oauth_token SET asked_at = $2 WHERE jti = ANY ($1::text[]) "
                "AND (asked_at IS NULL OR asked_at < $2::timestamptz - interval '1 day')",
                list(tokens),
                now,
            )
            row = await self._pool.fetchrow(
                "SELECT ARRAY(SELECT x FROM unnest($1::text[]) x WHERE NOT EXISTS (SELECT FROM oauth_client c "
                "WHERE c.id = x AND c.disabled_at IS NULL)) AS clients, "
                "ARRAY(SELECT x FROM unnest($2::text[]) x WHERE NOT EXISTS (SELECT FROM oauth_grant g "
                "JOIN oauth_client c ON c.id = g.client JOIN oauth_person p ON p.id = g.person "
                "WHERE g.id = x AND g.ended_at IS NULL AND g.ends_at > $4 AND c.disabled_at IS NULL "
                "AND p.disabled_at IS NULL AND (g.session IS NULL OR EXISTS (SELECT FROM oauth_session s "
                "WHERE s.digest = g.session AND s.expires_at > $4)))) AS grants, "
                "ARRAY(SELECT jti FROM oauth_token WHERE jti = ANY ($3::text[]) AND revoked_at IS NOT NULL) AS tokens, "
                "ARRAY(SELECT client FROM oauth_token WHERE jti = ANY ($3::text[]) "
                "UNION SELECT client FROM oauth_grant WHERE id = ANY ($2::text[])) AS known",
                list(clients),
                list(grants),
                list(tokens),
                now,
            )
        return {name: list(row[name]) for name in ("clients", "grants", "tokens", "known")}


async def account_of(connection: Connection, tenant: str, user: str) -> str | None:
    """Return what in a clinic has a resource (``Practitioner/<id>``) as its user: a person's name, a client's id.

    A person counts disabled or not, so that nobody else becomes him; a client until it is disabled. Until the
    transaction ends nobody else gets that user.
    """
    await connection.execute("SELECT pg_advisory_xact_lock(hashtextextended($1, 0))", f"{tenant} {user}")
    found = await connection.fetchval(
        "SELECT name FROM oauth_person WHERE tenant = $1 AND fhir_user = $2 UNION ALL "
        "SELECT id FROM oauth_client WHERE tenant = $1 AND fhir_user = $2 AND disabled_at IS NULL LIMIT 1",
        tenant,
        user,
    )
    return None if found is None else str(found)


async def _put_client(connection: Clinics | Connection, client: Client) -> None:
    await connection.execute(
        "INSERT INTO oauth_client (id, tenant, name, jwks, jwks_uri, scope, role, fhir_user, patient, "
        "acts_for_others, token_seconds, created_at, method, secret, redirect_uris, grants) "
        "VALUES ($1, $2, $3, $4::text::jsonb, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) "
        "ON CONFLICT (id) DO UPDATE SET name = excluded.name, jwks = excluded.jwks, "
        "jwks_uri = excluded.jwks_uri, scope = excluded.scope, role = excluded.role, "
        "fhir_user = excluded.fhir_user, patient = excluded.patient, "
        "acts_for_others = excluded.acts_for_others, token_seconds = excluded.token_seconds, "
        "method = excluded.method, secret = excluded.secret, redirect_uris = excluded.redirect_uris, "
        "grants = excluded.grants, "
        "disabled_at = NULL WHERE oauth_client.tenant = excluded.tenant",
        client.id,
        client.tenant,
        client.name,
        None if client.jwks is None else json.dumps(client.jwks),
        client.jwks_uri,
        client.scope,
        client.role,
        client.user,
        client.patient,
        client.acts_for_others,
        client.token_seconds,
        client.created_at,
        client.method,
        client.secret,
        list(client.redirect_uris),
        list(client.grants),
    )


def _client(row: Record) -> Client:
    return Client(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        jwks=None if row["jwks"] is None else json.loads(row["jwks"]),
        jwks_uri=row["jwks_uri"],
        scope=row["scope"],
        role=row["role"],
        user=row["fhir_user"],
        patient=row["patient"],
        acts_for_others=row["acts_for_others"],
        token_seconds=row["token_seconds"],
        created_at=row["created_at"],
        disabled_at=row["disabled_at"],
        method=row["method"],
        secret=row["secret"],
        redirect_uris=tuple(row["redirect_uris"]),
        grants=tuple(row["grants"]),
    )
