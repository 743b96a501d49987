"""Mail by SMTP: https://www.rfc-editor.org/rfc/rfc5321."""

from __future__ import annotations

import hashlib
import ssl
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import MessageError
from email.message import EmailMessage
from email.utils import format_datetime, getaddresses, parseaddr
from typing import Final
from urllib.parse import unquote, urlsplit

from aiosmtplib import SMTP, SMTPException, SMTPRecipientsRefused, SMTPResponseException

from shared.notify.port import NotDelivered, Outgoing
from shared.store.notices import Channel

SECONDS: Final = 20.0
"""How long a mail server may take."""

_PERMANENT: Final = range(500, 600)
_PORTS: Final = {"smtp": 587, "smtps": 465, "smtp+plain": 25}


@dataclass(frozen=True, slots=True)
class Mail:
    """Sends mail through one server.

    Attributes:
        url: ``smtp://user:password@host:587`` (STARTTLS is required), ``smtps://...:465`` (TLS from the start), or
            ``smtp+plain://host:25`` (no TLS: a relay on the same machine).
        sender: the From address.

    """

    url: str
    sender: str
    tls: ssl.SSLContext | None = None

    @property
    def channels(self) -> frozenset[Channel]:
        """Mail."""
        return frozenset(("email",))

    async def send(self, message: Outgoing) -> str:
        """Hand a mail to the server; its answer is the receipt.

        Raises:
            NotDelivered: for good where the server answered 5xx.

        """
        parts = urlsplit(self.url)
        client = SMTP(
            hostname=parts.hostname or "",
            port=parts.port or _PORTS[parts.scheme],
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
            use_tls=parts.scheme == "smtps",
            start_tls=parts.scheme == "smtp",
            tls_context=self.tls,
            timeout=SECONDS,
        )
        try:
            mail = self._mail(message)
        except (ValueError, MessageError) as error:
            why = "No mail can be made of this address or subject"
            raise NotDelivered(f"{why}: {error}.", for_good=True, brief=f"{why}.") from error
        try:
            async with client:
                _, said = await client.send_message(mail)
        except SMTPRecipientsRefused as error:
            codes = [one.code for one in error.recipients]
            raise NotDelivered(
                f"The mail server refused the recipient ({codes}).", for_good=all(code in _PERMANENT for code in codes)
            ) from error
        except SMTPResponseException as error:
            why = f"The mail server answered {error.code}"
            permanent = error.code in _PERMANENT
            raise NotDelivered(f"{why} {error.message}.", for_good=permanent, brief=f"{why}.") from error
        except (SMTPException, OSError) as error:
            raise NotDelivered(f"The mail server could not be used: {type(error).__name__}.") from error
        return said

    def _mail(self, message: Outgoing) -> EmailMessage:
        mail = EmailMessage()
        mail["From"] = self.sender
        if len(getaddresses([message.address])) != 1:
            several = "an address is one, and this names several"
            raise ValueError(several)
        mail["To"] = message.address
        mail["Subject"] = " ".join(message.subject.split())
        mail["Date"] = format_datetime(datetime.now(UTC))
        # The same at every attempt, so that a mail that was sent twice is recognised as one.
        domain = parseaddr(self.sender)[1].rpartition("@")[2] or "kap-exchange.org"
        mail["Message-ID"] = f"<{hashlib.sha256(message.key.encode()).hexdigest()[:32]}@{domain}>"
        mail["Auto-Submitted"] = "auto-generated"
        if message.urgent:
            mail["X-Priority"] = "1"
            mail["Importance"] = "high"
        mail.set_content(message.text)
        return mail
