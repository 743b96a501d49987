"""Times as a person writes them on the command line."""

from __future__ import annotations

from datetime import UTC, datetime

from cli.stack.problem import StackProblem


def time_of(text: str, option: str) -> datetime:
    """Return the time that an option names, in UTC where no zone is said; a day is its midnight.

    Raises:
        StackProblem: it is no ISO 8601 time.

    """
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        raise StackProblem(
            f"{option} takes a time, and '{text}' is none. Write 2026-11-22, 2026-11-22T10:30 (UTC) or "
            "2026-11-22T10:30+01:00."
        ) from None
    return found if found.tzinfo is not None else found.replace(tzinfo=UTC)
