"""The issuer takes no events in: who may have a token is said to it, never concluded from the record."""

from __future__ import annotations
