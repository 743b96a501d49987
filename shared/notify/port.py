"""The port through which people outside of the record are told something, and what its adapters may answer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from shared.store.notices import Channel


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A text for one address.

    Attributes:
        key: the idempotency key; the same at every attempt, and given to the receiver.
        channel, address: where to: a mail address, a telephone number, a pager's number.
        subject, text: what is said; plain text.
        urgent: whether the receiver is to be woken.

    """

    key: str
    channel: Channel
    address: str
    subject: str
    text: str
    urgent: bool = False


class NotDelivered(Exception):
    """The attempt failed.

    Attributes:
        for_good: whether another attempt would fail, too (the address does not exist, the message was refused).
        brief: the same without a word of the server's, which may name the address: for logs.

    """

    def __init__(self, what: str, *, for_good: bool = False, brief: str | None = None) -> None:
        super().__init__(what)
        self.for_good = for_good
        self.brief = what if brief is None else brief


class Notifier(Protocol):
    """Hands a text to a server that brings it to an address."""

    @property
    def channels(self) -> frozenset[Channel]:
        """The channels that it serves."""

    async def send(self, message: Outgoing) -> str:
        """Hand the message over; return the receipt: what the server said when it took it.

        Raises:
            NotDelivered: it did not take it.

        """
