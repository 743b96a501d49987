"""Scheduling's operations: none yet; find, hold and book come with the full content of scheduling."""

from __future__ import annotations

from shared.runtime.service import Operation


def operations() -> tuple[Operation, ...]:
    """Return scheduling's operations."""
    return ()
