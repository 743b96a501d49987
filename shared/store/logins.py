"""What the issuer of tokens keeps of people: who they are, where they are logged in, and what they let which app do.

Secrets of others (cookies, codes, refresh tokens, launches) are given and looked for in the clear, and kept as SHA-256.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from shared.store.clinics import Clinics
from shared.store.connection import translated
from shared.store.identity import account_of

if TYPE_CHECKING:
    from asyncpg import Record


@dataclass(frozen=True, slots=True)
class Person:
    """Somebody who logs in.

    Attributes:
        id, tenant, name: who it is; `name` is what he logs in by.
        user: ``Patient/<id>`` or ``Practitioner/<id>``.
        role: of the policy's section access.
        password: argon2id, with its parameters.
        totp: the sealed secret of his one-time codes; None: he has none.
        disabled_at: from when on he does not get in.

    """

    id: str
    tenant: str
    name: str
    user: str
    role: str
    password: str
    totp: bytes | None
    created_at: datetime
    disabled_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Session:
    """A login of a person in a browser: since when, and until when it is good."""

    digest: bytes
    person: str
    began_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class Pending:
    """An authorization request that waits for its person's answer; `person` once he has logged in for it."""

    client: str
    asked: Mapping[str, Any]
    person: str | None
    session: bytes | None
    auth_at: datetime | None


@dataclass(frozen=True, slots=True)
class Grant:
    """What a person let an app do.

    Attributes:
        session: the login that it ends with; None: it outlives that.
        ends_at: the latest time at which it still gives tokens.

    """

    id: str
    client: str
    person: str
    scope: str
    patient: str | None
    context: Mapping[str, Any]
    auth_at: datetime
    session: bytes | None
    began_at: datetime
    ends_at: datetime


@dataclass(frozen=True, slots=True)
class LetIn:
    """What a person let an app do and has not ended: by its name, and when it last got a token (None: not lately)."""

    grant: Grant
    app: str
    used_at: datetime | None


@dataclass(frozen=True, slots=True)
class Code:
    """An authorization code as it was given, whether used or not."""

    grant: Grant
    redirect_uri: str
    challenge: str
    nonce: str | None
    expires_at: datetime


def digest_of(secret: str) -> bytes:
    """Return what is kept of a secret of 256 random bits."""
    return hashlib.sha256(secret.encode()).digest()


class Logins:
    """The tables of people; each call is one transaction, committed."""

    def __init__(self, pool: Clinics) -> None:
        self._pool = pool

    # People

    async def person(self, id_: str) -> Person | None:
        """Return a person by his id, disabled or not."""
        with translated():
            row = await self._pool.fetchrow("SELECT * FROM oauth_person WHERE id = $1", id_)
        return None if row is None else _person(row)

    async def named(self, name: str) -> Person | None:
        """Return a person by the name he logs in by, disabled or not."""
        with translated():
            row = await self._pool.fetchrow("SELECT * FROM oauth_person WHERE name = $1", name)
        return None if row is None else _person(row)

    async def people(self, tenant: str) -> list[Person]:
        """Return the people of a tenant, by name."""
        with translated():
            rows = await self._pool.fetch("SELECT * FROM oauth_person WHERE tenant = $1 ORDER BY name", tenant)
        return [_person(row) for row in rows]

    async def add_person(self, person: Person) -> Literal["added", "name is taken", "user is taken"]:
        """Keep a new person, unless the name, or in this clinic the user, is that of another (disabled or not)."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                if await account_of(connection, person.tenant, person.user) is not None:
                    return "user is taken"
                done = await connection.execute(
                    "INSERT INTO oauth_person (id, tenant, name, fhir_user, role, password, totp, created_at) "
                    "VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (name) DO NOTHING",
                    person.id,
                    person.tenant,
                    person.name,
                    person.user,
                    person.role,
                    person.password,
                    person.totp,
                    person.created_at,
                )
        return "added" if done.endswith(" 1") else "name is taken"

    async def set_password(self, id_: str, password: str, *, totp: bytes | None = None) -> None:
        """Give a person another password, and other one-time codes where `totp` is given."""
        with translated():
            await self._pool.execute(
                "UPDATE oauth_person SET password = $2, totp = coalesce($3, totp) WHERE id = $1", id_, password, totp
            )

    async def enable_person(self, id_: str) -> None:
        """Let a person in again."""
        with translated():
            await self._pool.execute("UPDATE oauth_person SET disabled_at = NULL WHERE id = $1", id_)

    async def sign_out_everywhere(self, id_: str, now: datetime, *, disable: bool) -> None:
        """End a person's logins and all that he let apps do; `disable`: and let him in no more."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                if disable:
                    await connection.execute("UPDATE oauth_person SET disabled_at = $2 WHERE id = $1", id_, now)
                await connection.execute("DELETE FROM oauth_session WHERE person = $1", id_)
                await connection.execute("DELETE FROM oauth_request WHERE person = $1", id_)
                await connection.execute(
                    "UPDATE oauth_grant SET ended_at = $2 WHERE person = $1 AND ended_at IS NULL", id_, now
                )
                await connection.execute(
                    "UPDATE oauth_token t SET revoked_at = $2 FROM oauth_grant g WHERE g.person = $1 "
                    "AND t.grant_id = g.id AND t.revoked_at IS NULL AND t.expires_at > $2",
                    id_,
                    now,
                )

    async def first_use_of_step(self, id_: str, step: int) -> bool:
        """Note the time step of a one-time code as used; False where it, or a later one, was used before."""
        with translated():
            done = await self._pool.execute(
                "UPDATE oauth_person SET totp_step = $2 WHERE id = $1 AND totp_step < $2", id_, step
            )
        return bool(done.endswith(" 1"))

    # Tries to log in

    async def try_login(self, limits: Mapping[str, int], now: datetime, within: timedelta) -> datetime | None:
        """Note a try of each of `limits` before it is judged, so that tries at once count, too.

        Args:
            limits: by account and by address, how many tries may fail.
            now: the time.
            within: for how long a try counts.

        Returns:
            None: it may be judged. Else when the next may be: nothing was noted.

        """
        known = sorted((digest_of(about), most) for about, most in limits.items())
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                for about, _ in known:
                    await connection.execute(
                        "SELECT pg_advisory_xact_lock($1)", int.from_bytes(about[:8], "big", signed=True)
                    )
                await connection.execute("DELETE FROM oauth_try WHERE at < $1", now - within)
                for about, most in known:
                    oldest = await connection.fetchval(
                        "SELECT at FROM oauth_try WHERE about = $1 AND at >= $2 ORDER BY at DESC OFFSET $3 LIMIT 1",
                        about,
                        now - within,
                        most - 1,
                    )
                    if oldest is not None:
                        until: datetime = oldest + within
                        return until
                for about, _ in known:
                    await connection.execute("INSERT INTO oauth_try (about, at) VALUES ($1, $2)", about, now)
        return None

    async def succeeded(self, abouts: Sequence[str], now: datetime) -> None:
        """Forget the tries of an account that was logged in to, and this one try of the others."""
        account, *others = (digest_of(about) for about in abouts)
        with translated():
            await self._pool.execute("DELETE FROM oauth_try WHERE about = $1", account)
            for other in others:
                await self._pool.execute("DELETE FROM oauth_try WHERE about = $1 AND at = $2", other, now)

    # Logins

    async def begin_session(self, secret: str, person: str, now: datetime, expires_at: datetime) -> Session:
        """Keep a login; those that ended are forgotten."""
        digest = digest_of(secret)
        with translated():
            await self._pool.execute("DELETE FROM oauth_session WHERE expires_at < $1", now)
            await self._pool.execute(
                "INSERT INTO oauth_session (digest, person, began_at, expires_at) VALUES ($1, $2, $3, $4)",
                digest,
                person,
                now,
                expires_at,
            )
        return Session(digest, person, now, expires_at)

    async def session(self, secret: str, now: datetime) -> Session | None:
        """Return a login that is good, of a person who may still get in."""
        with translated():
            row = await self._pool.fetchrow(
                "SELECT s.* FROM oauth_session s JOIN oauth_person p ON p.id = s.person WHERE s.digest = $1 "
                "AND s.expires_at > $2 AND p.disabled_at IS NULL",
                digest_of(secret),
                now,
            )
        return None if row is None else Session(row["digest"], row["person"], row["began_at"], row["expires_at"])

    async def end_session(self, secret: str, now: datetime) -> None:
        """End a login, and what apps were let do for as long as it lasts."""
        digest = digest_of(secret)
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute("DELETE FROM oauth_session WHERE digest = $1", digest)
                await connection.execute("DELETE FROM oauth_request WHERE session = $1", digest)
                await connection.execute(
                    "UPDATE oauth_grant SET ended_at = $2 WHERE session = $1 AND ended_at IS NULL", digest, now
                )
                await connection.execute(
                    "UPDATE oauth_token t SET revoked_at = $2 FROM oauth_grant g WHERE g.session = $1 "
                    "AND t.grant_id = g.id AND t.revoked_at IS NULL AND t.expires_at > $2",
                    digest,
                    now,
                )

    # Requests under way

    async def begin_request(
        self, secret: str, browser: str, client: str, asked: Mapping[str, Any], now: datetime, expires_at: datetime
    ) -> None:
        """Keep an authorization request that came by `browser`; those nobody answered are forgotten."""
        with translated():
            await self._pool.execute("DELETE FROM oauth_request WHERE expires_at < $1", now)
            await self._pool.execute(
                "INSERT INTO oauth_request (digest, browser, client, asked, expires_at) "
                "VALUES ($1, $2, $3, $4::text::jsonb, $5)",
                digest_of(secret),
                digest_of(browser),
                client,
                json.dumps(asked),
                expires_at,
            )

    async def pending(self, secret: str, browser: str, now: datetime) -> Pending | None:
        """Return a request that this browser brought and that waits."""
        with translated():
            row = await self._pool.fetchrow(
                "SELECT * FROM oauth_request WHERE digest = $1 AND browser = $2 AND expires_at > $3",
                digest_of(secret),
                digest_of(browser),
                now,
            )
        return None if row is None else _pending(row)

    async def answered_by(self, secret: str, session: Session | None) -> None:
        """Note whose answer a request waits for; None: somebody who has to log in first."""
        with translated():
            await self._pool.execute(
                "UPDATE oauth_request SET person = $2, session = $3, auth_at = $4 WHERE digest = $1",
                digest_of(secret),
                None if session is None else session.person,
                None if session is None else session.digest,
                None if session is None else session.began_at,
            )

    async def end_request(self, secret: str) -> bool:
        """Forget a request that is answered; False where it was answered before."""
        with translated():
            done = await self._pool.execute("DELETE FROM oauth_request WHERE digest = $1", digest_of(secret))
        return bool(done.endswith(" 1"))

    # What was granted

    async def add_grant(self, grant: Grant, code: str, given: Code) -> None:
        """Keep what a person let an app do, and the code by which the app learns of it."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    "INSERT INTO oauth_grant (id, client, person, scope, patient, context, auth_at, session, began_at, "
                    "ends_at) VALUES ($1, $2, $3, $4, $5, $6::text::jsonb, $7, $8, $9, $10)",
                    grant.id,
                    grant.client,
                    grant.person,
                    grant.scope,
                    grant.patient,
                    json.dumps(grant.context),
                    grant.auth_at,
                    grant.session,
                    grant.began_at,
                    grant.ends_at,
                )
                await connection.execute(
                    "INSERT INTO oauth_code (digest, grant_id, redirect_uri, challenge, nonce, expires_at) "
                    "VALUES ($1, $2, $3, $4, $5, $6)",
                    digest_of(code),
                    grant.id,
                    given.redirect_uri,
                    given.challenge,
                    given.nonce,
                    given.expires_at,
                )

    async def code(self, code: str) -> Code | None:
        """Return a code that was given, used or not."""
        with translated():
            row = await self._pool.fetchrow(
                "SELECT g.*, c.redirect_uri, c.challenge, c.nonce, c.expires_at FROM oauth_code c "
                "JOIN oauth_grant g ON g.id = c.grant_id WHERE c.digest = $1",
                digest_of(code),
            )
        if row is None:
            return None
        return Code(_grant(row), row["redirect_uri"], row["challenge"], row["nonce"], row["expires_at"])

    async def use_code(self, code: str, now: datetime) -> bool:
        """Use a code up; False where it was used or has ended."""
        return await self._use("oauth_code", code, now)

    async def grant(self, id_: str) -> Grant | None:
        """Return what a person let an app do, ended or not; None: nobody ever did."""
        with translated():
            row = await self._pool.fetchrow("SELECT * FROM oauth_grant WHERE id = $1", id_)
        return None if row is None else _grant(row)

    async def add_refresh(self, token: str, grant: str, expires_at: datetime) -> None:
        """Keep a refresh token that is given."""
        with translated():
            await self._pool.execute(
                "INSERT INTO oauth_refresh (digest, grant_id, expires_at) VALUES ($1, $2, $3)",
                digest_of(token),
                grant,
                expires_at,
            )

    async def refresh(self, token: str) -> tuple[Grant, datetime] | None:
        """Return what a refresh token was given for, and when it ends, used or not; None: it was never given."""
        with translated():
            row = await self._pool.fetchrow(
                "SELECT g.*, r.expires_at FROM oauth_refresh r JOIN oauth_grant g ON g.id = r.grant_id "
                "WHERE r.digest = $1",
                digest_of(token),
            )
        return None if row is None else (_grant(row), row["expires_at"])

    async def is_refreshable(self, token: str, now: datetime) -> bool:
        """Tell whether a refresh token would give another token now."""
        with translated():
            return bool(
                await self._pool.fetchval(
                    "SELECT EXISTS (SELECT FROM oauth_refresh r JOIN oauth_grant g ON g.id = r.grant_id "
                    "JOIN oauth_client c ON c.id = g.client JOIN oauth_person p ON p.id = g.person "
                    "WHERE r.digest = $1 AND r.used_at IS NULL AND r.expires_at > $2 AND g.ended_at IS NULL "
                    "AND c.disabled_at IS NULL AND p.disabled_at IS NULL AND (g.session IS NULL "
                    "OR EXISTS (SELECT FROM oauth_session s WHERE s.digest = g.session AND s.expires_at > $2)))",
                    digest_of(token),
                    now,
                )
            )

    async def use_refresh(self, token: str, now: datetime) -> bool:
        """Use a refresh token up; False where it was used or has ended."""
        return await self._use("oauth_refresh", token, now)

    async def let_in(self, person: str, now: datetime) -> list[LetIn]:
        """Return what a person let apps do that still gives tokens, the latest first."""
        with translated():
            rows = await self._pool.fetch(
                "SELECT g.*, c.name AS app, "
                "(SELECT max(t.issued_at) FROM oauth_token t WHERE t.grant_id = g.id) AS used_at "
                "FROM oauth_grant g JOIN oauth_client c ON c.id = g.client WHERE g.person = $1 AND g.ended_at IS NULL "
                "AND g.ends_at > $2 AND c.disabled_at IS NULL AND (g.session IS NULL "
                "OR EXISTS (SELECT FROM oauth_session s WHERE s.digest = g.session AND s.expires_at > $2)) "
                "ORDER BY g.began_at DESC",
                person,
                now,
            )
        return [LetIn(_grant(row), row["app"], row["used_at"]) for row in rows]

    async def end_grant(self, id_: str, now: datetime) -> None:
        """Take back what a person let an app do, with every token that came of it."""
        with translated():
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(
                    "UPDATE oauth_grant SET ended_at = coalesce(ended_at, $2) WHERE id = $1", id_, now
                )
                # a statement of its own: it sees the tokens that were noted while the one before waited
                await connection.execute(
                    "UPDATE oauth_token SET revoked_at = $2 WHERE grant_id = $1 AND revoked_at IS NULL "
                    "AND expires_at > $2",
                    id_,
                    now,
                )

    async def _use(self, table: str, secret: str, now: datetime) -> bool:
        with translated():
            done = await self._pool.execute(
                f"UPDATE {table} SET used_at = $2 WHERE digest = $1 AND used_at IS NULL AND expires_at > $2",
                digest_of(secret),
                now,
            )
        return bool(done.endswith(" 1"))

    # Launches by an EHR

    async def add_launch(
        self, secret: str, tenant: str, made_by: str, context: Mapping[str, Any], now: datetime, expires_at: datetime
    ) -> None:
        """Keep the context of a launch; those that ended are forgotten."""
        with translated():
            await self._pool.execute("DELETE FROM oauth_launch WHERE expires_at < $1", now)
            await self._pool.execute(
                "INSERT INTO oauth_launch (digest, tenant, made_by, context, expires_at) "
                "VALUES ($1, $2, $3, $4::text::jsonb, $5)",
                digest_of(secret),
                tenant,
                made_by,
                json.dumps(context),
                expires_at,
            )

    async def use_launch(self, secret: str, tenant: str, now: datetime) -> Mapping[str, Any] | None:
        """Use a launch up and return its context; None: there is none, it was used, or has ended."""
        with translated():
            row = await self._pool.fetchrow(
                "UPDATE oauth_launch SET used_at = $3 WHERE digest = $1 AND tenant = $2 AND used_at IS NULL "
                "AND expires_at > $3 RETURNING context",
                digest_of(secret),
                tenant,
                now,
            )
        if row is None:
            return None
        context: Mapping[str, Any] = json.loads(row["context"])
        return context


def _person(row: Record) -> Person:
    return Person(
        id=row["id"],
        tenant=row["tenant"],
        name=row["name"],
        user=row["fhir_user"],
        role=row["role"],
        password=row["password"],
        totp=row["totp"],
        created_at=row["created_at"],
        disabled_at=row["disabled_at"],
    )


def _pending(row: Record) -> Pending:
    return Pending(row["client"], json.loads(row["asked"]), row["person"], row["session"], row["auth_at"])


def _grant(row: Record) -> Grant:
    return Grant(
        id=row["id"],
        client=row["client"],
        person=row["person"],
        scope=row["scope"],
        patient=row["patient"],
        context=json.loads(row["context"]),
        auth_at=row["auth_at"],
        session=row["session"],
        began_at=row["began_at"],
        ends_at=row["ends_at"],
    )
