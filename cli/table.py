"""The table of what runs where."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table

from cli.stack.stack import Row
from cli.terminal import megabytes

_COLOURS = {"ready": "green", "run by others": "cyan", "down": "red"}


def table(rows: Sequence[Row]) -> Table:
    """Return the rows as a table for people."""
    made = Table(box=None, pad_edge=False, header_style="bold")
    for heading, side in (
        ("", "left"),
        ("port", "right"),
        ("pid", "right"),
        ("health", "left"),
        ("lag", "right"),
        ("memory", "right"),
        ("", "left"),
    ):
        made.add_column(heading, justify="right" if side == "right" else "left", no_wrap=True)
    for row in rows:
        made.add_row(
            row.name,
            _text(row.port),
            _text(row.pid),
            f"[{_COLOURS.get(row.health, 'yellow')}]{row.health}[/]",
            _text(row.lag),
            megabytes(row.memory),
            row.url or "",
        )
    return made


def problems(rows: Sequence[Row]) -> list[str]:
    """Return what is in the way of those that are not ready, a sentence each."""
    return [f"{row.name}: {row.problem}" for row in rows if row.problem is not None]


def as_json(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """Return the rows for programs: `memory` in bytes, `uptime` in seconds."""
    return [asdict(row) for row in rows]


def _text(value: int | None) -> str:
    return "-" if value is None else str(value)
