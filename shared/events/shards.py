"""Which shard an event belongs to. Pure: the store asks it with no broker at hand."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

SHARDS: Final = 16
"""Relays share the work by shard, and a topic's partition is the shard modulo its partitions."""


def shard_of(tenant: str, key: str) -> int:
    """Return the shard of a key, 0 to 15: the same everywhere and for ever, as order along a key rests on it."""
    return int.from_bytes(sha256(f"{tenant}/{key}".encode()).digest()[:4], "big") % SHARDS
