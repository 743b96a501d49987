"""Outcomes' operations: none yet; populating questionnaires and evaluating measures come with its full content."""

from __future__ import annotations

from shared.runtime.service import Operation


def operations() -> tuple[Operation, ...]:
    """Return outcomes' operations."""
    return ()
