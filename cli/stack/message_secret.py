"""What the services of a stack share with the gateway for text messages that stands in for a real one."""

from __future__ import annotations

from pathlib import Path
from secrets import token_urlsafe

from cli.stack.notes_keys import keep


class MessageSecret:
    """The secret in a data folder."""

    def __init__(self, data: Path) -> None:
        self._path = data / "messages" / "secret"

    def make(self) -> None:
        """Make one where there is none."""
        keep(self._path, token_urlsafe().encode())

    def read(self) -> str | None:
        """Return it; None where none was made."""
        return self._path.read_text(encoding="ascii") if self._path.exists() else None
