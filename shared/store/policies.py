"""The policies that decided something, kept whole by their digest: a decision can be made again under its own."""

from __future__ import annotations

from shared.store.connection import translated
from shared.store.store import Transaction


async def keep(transaction: Transaction, digest: str, version: str, content: str) -> None:
    """Keep a policy's content, where it is not kept yet; it is committed with what it decided."""
    with translated():
        known = await transaction.connection.fetchval("SELECT true FROM policy WHERE digest = $1", digest)
        if not known:
            await transaction.connection.execute(
                "INSERT INTO policy (digest, version, content) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING",
                digest,
                version,
                content,
            )


async def content_of(transaction: Transaction, digest: str) -> str | None:
    """Return the content of the policy with a digest; None where it never decided anything here."""
    with translated():
        found: str | None = await transaction.connection.fetchval(
            "SELECT content FROM policy WHERE digest = $1", digest
        )
    return found
