"""The numbers under which PostgreSQL's advisory locks know things.

Keys, conditions, timers and exports share the space of 64-bit locks; shards, and the migrator, are in the space of
two 32-bit numbers.
"""

from __future__ import annotations

import hashlib
from typing import Final

LOCK_CLASS: Final = 0x4B4150
"""First number of every two-number lock."""

MIGRATION_LOCK: Final = 1000
"""Second number of the migrator's lock; the shards' are their own numbers, 0 to 15."""

AUDIT_LOCK: Final = 1001
"""Second number of the lock under which rows get into the audit's chain (`kap_audit_append`)."""


def key_lock(tenant: str, key: str) -> int:
    """Return the lock under which everything of one key of one tenant is written, one transaction at a time."""
    return _number(f"key\x00{tenant}\x00{key}")


def condition_lock(tenant: str, condition: str) -> int:
    """Return the lock that one conditional create at a time may hold for a condition."""
    return _number(f"condition\x00{tenant}\x00{condition}")


def timer_lock(name: str) -> int:
    """Return the lock that the process holds which runs a timer."""
    return _number(f"timer\x00{name}")


def export_lock(job: str) -> int:
    """Return the lock that the process holds which makes the list of an export."""
    return _number(f"export\x00{job}")


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big", signed=True)
