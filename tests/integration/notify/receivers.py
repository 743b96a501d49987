"""A service that tells people, and what a mail server and a message gateway of the tests keep."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime

from shared.notify.telling import withdraw_when_stopped
from shared.runtime.ownership import SCHEDULING, types_of
from shared.runtime.service import Service

SERVICE = Service(SCHEDULING, "Scheduling", types_of(SCHEDULING), guards={"Communication": (withdraw_when_stopped,)})
NOW = datetime(2026, 11, 22, 9, tzinfo=UTC)


@dataclass
class MailServer:
    """A mail server that keeps what it was sent; `answers` are given to the next messages instead of taking them."""

    port: int = 0
    mails: list = field(default_factory=list)
    answers: list[str] = field(default_factory=list)

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - aiosmtpd calls it so
        if self.answers:
            return self.answers.pop(0)
        self.mails.append(envelope)
        return "250 2.0.0 Ok: queued as 4ABC"


@dataclass
class Gateway:
    """A receiver of webhooks that keeps what it was sent."""

    url: str = ""
    calls: list = field(default_factory=list)
    statuses: list[int] = field(default_factory=list)
