"""How the issuer refuses."""

from __future__ import annotations


class OAuthRefusal(Exception):
    """A refusal as RFC 6749 has it: `error` for programs, the message for people."""

    def __init__(self, error: str, why: str, *, status: int = 400) -> None:
        super().__init__(why)
        self.error = error
        self.why = why
        self.status = status
