"""Text messages and pagers by a gateway that takes signed JSON: https://www.standardwebhooks.com.

    POST <url>
    webhook-id: <idempotency key>
    webhook-timestamp: <seconds since 1970>
    webhook-signature: v1,<base64 of HMAC-SHA256(secret, id "." timestamp "." body)>

    {"id": ..., "channel": "sms" | "pager", "to": ..., "subject": ..., "text": ..., "urgent": true | false}

The receiver refuses a signature that is wrong and a timestamp that is minutes old, and takes an id once. Its answer
(2xx) is the receipt.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import httpx
import msgspec

from shared.notify.port import NotDelivered, Outgoing
from shared.store.notices import Channel

SECONDS: Final = 10.0
"""How long the gateway may take."""

_RECEIPT_LENGTH: Final = 1000
_TRY_AGAIN: Final = frozenset((408, 409, 425, 429))


def signature(secret: bytes, key: str, timestamp: str, body: bytes) -> str:
    """Return the `webhook-signature` of a call."""
    signed = b".".join((key.encode(), timestamp.encode(), body))
    return "v1," + base64.b64encode(hmac.new(secret, signed, hashlib.sha256).digest()).decode()


@dataclass(frozen=True, slots=True)
class Webhook:
    """Hands messages to a gateway for text messages and pagers.

    Attributes:
        client: for its connections.
        url: of the gateway.
        secret: shared with it.
        clock: the present, in the signature.

    """

    client: httpx.AsyncClient
    url: str
    secret: bytes
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)

    @property
    def channels(self) -> frozenset[Channel]:
        """Text messages and pagers."""
        return frozenset(("sms", "pager"))

    async def send(self, message: Outgoing) -> str:
        """Hand a message to the gateway; its answer is the receipt.

        Raises:
            NotDelivered: for good where it answered 4xx, but for those that say: again.

        """
        body = msgspec.json.encode(
            {
                "id": message.key,
                "channel": message.channel,
                "to": message.address,
                "subject": message.subject,
                "text": message.text,
                "urgent": message.urgent,
            }
        )
        timestamp = str(int(self.clock().timestamp()))
        headers = {
            "Content-Type": "application/json",
            "webhook-id": message.key,
            "webhook-timestamp": timestamp,
            "webhook-signature": signature(self.secret, message.key, timestamp, body),
        }
        try:
            answer = await self.client.post(self.url, content=body, headers=headers, timeout=SECONDS)
        except httpx.HTTPError as error:
            raise NotDelivered(f"The message gateway could not be used: {type(error).__name__}.") from error
        if not answer.is_success:
            again = answer.status_code in _TRY_AGAIN or answer.is_server_error
            raise NotDelivered(f"The message gateway answered {answer.status_code}.", for_good=not again)
        return f"{answer.status_code} {answer.text[:_RECEIPT_LENGTH]}".strip()
