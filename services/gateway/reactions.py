"""What the gateway takes in: every event of every owner, as a copy with its history.

There is nothing to do beside the copy: no reaction of its own follows from an event here. What a forwarded write has
put into the copy already is a repeat when its event comes, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from services.gateway.catalog import OWNERS, TYPES
from shared.runtime.service import Reaction

CONSUMES: Final = OWNERS
HOLDS: Final = TYPES
REACTIONS: Final[Mapping[str, Sequence[Reaction]]] = {}
