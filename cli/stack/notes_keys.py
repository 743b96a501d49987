"""The key of process notes in a data folder: made with the stack, readable by its owner only, and in no database.

Without it the notes cannot be read any more: it belongs into the backup, apart from the database's.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from shared.security.envelope import new_key


class NotesKeys:
    """The file of keys: a line each, the current one first (`shared.security.envelope.Keyring`)."""

    def __init__(self, data: Path) -> None:
        self.path = data / "notes" / "keys"

    def make(self) -> None:
        """Make a key where there is none."""
        keep(self.path, base64.b64encode(new_key()) + b"\n")


def keep(path: Path, content: bytes) -> None:
    """Write a secret that only its owner reads, where there is none yet."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    beside = path.with_suffix(".new")
    beside.unlink(missing_ok=True)
    with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
    beside.replace(path)
