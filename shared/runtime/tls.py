"""TLS: a service's own certificate, whose certificates it asks for, and whom it believes.

`KAP_TLS_CERTIFICATE` and `KAP_TLS_KEY`: what the service shows, as a server and, where it is asked, as a client.
`KAP_TLS_CLIENT_CA`: who connects has to show a certificate of this authority (mTLS). `KAP_TLS_CA`: an authority that
is believed about the other services and the issuer, beside the public ones. TLS 1.2 at least (RFC 9325).
"""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from shared.runtime.settings import SettingsError

if TYPE_CHECKING:
    from shared.runtime.settings import Settings

_OLDEST = ssl.TLSVersion.TLSv1_2


def server_context(settings: Settings) -> ssl.SSLContext | None:
    """Return how a service's port speaks TLS; None: it does not, for it has no certificate.

    Raises:
        SettingsError: the certificate, its key or the clients' authority cannot be used; names the variable.

    """
    if settings.tls_certificate is None or settings.tls_key is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = _OLDEST
    context.set_alpn_protocols(["http/1.1"])
    _show(context, settings.tls_certificate, settings.tls_key)
    if settings.tls_client_ca is not None:
        context.verify_mode = ssl.CERT_REQUIRED
        _believe(context, "KAP_TLS_CLIENT_CA", settings.tls_client_ca)
    return context


def client_context(settings: Settings) -> ssl.SSLContext:
    """Return how a service asks other services and the issuer: their names and certificates are always checked.

    Raises:
        SettingsError: what is to be shown or believed cannot be used; names the variable.

    """
    context = httpx.create_ssl_context()
    context.minimum_version = _OLDEST
    if settings.tls_certificate is not None and settings.tls_key is not None:
        _show(context, settings.tls_certificate, settings.tls_key)
    if settings.tls_ca is not None:
        _believe(context, "KAP_TLS_CA", settings.tls_ca)
    return context


def _show(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"KAP_TLS_CERTIFICATE {certificate} with KAP_TLS_KEY {key} cannot be used: {_said(error)}."
        ) from None


def _believe(context: ssl.SSLContext, name: str, authority: Path) -> None:
    try:
        context.load_verify_locations(authority)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(f"{name} {authority} cannot be used: {_said(error)}.") from None


def _said(error: OSError) -> str:
    return error.strerror or str(error)
