"""Requests to addresses that somebody else named: a hospital's Endpoint, a subscriber's. They may lead outside only.

Who may name an address could otherwise have this server ask for him what only it can reach: the database, a service
around the gateway, the metadata of a cloud machine (server-side request forgery). So each request is guarded where it
connects: the name is resolved, every address it has must be a public one, and the connection goes to an address that
was looked at, not to what the name means a moment later (DNS rebinding). TLS is still checked against the name. No
redirect is followed, no proxy of the environment used, no cookie kept.

`Outside.listed`, from `KAP_OUTBOUND_HOSTS`, names the hosts that may be inside of the network and asked without TLS:
``10.1.2.3``, ``ehr.internal``, ``ehr.internal:8443`` (that port alone).

Source: https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Final, Self, TypeAlias
from urllib.parse import SplitResult, urlsplit

import httpx

Address: TypeAlias = IPv4Address | IPv6Address
Resolve: TypeAlias = Callable[[str, int], Awaitable[Sequence[str]]]

MOST_BYTES: Final = 16 * 1024 * 1024
"""Of an answer: one that does not end would fill the memory."""

MOST_SERVERS: Final = 1000
"""Servers to which connections are kept; of more, those that were asked longest ago are closed."""

OUTSIDE: Final = "outside"
"""Extension of a request: the `Outside` that it is for."""

_PORTS: Final = {"http": 80, "https": 443}
_NAT64: Final = ip_network("64:ff9b::/96")
_NETWORKS_INSIDE: Final = (ip_network("fec0::/10"), ip_network("64:ff9b:1::/48"))
"""Site-local (RFC 3879) and a network's own NAT64 (RFC 8215): not each Python counts them as inside."""


class NotOutside(httpx.ConnectError):
    """Nothing was sent: the address leads inside of the network, or to what is no plain address."""


class AnswerRefused(httpx.ReadError):
    """The answer is longer than it may be, or packed although it was asked for as it is."""


def is_public(address: Address) -> bool:
    """Tell whether an address is one of the public Internet, whatever it is wrapped in."""
    if isinstance(address, IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour
        if inner is None and address in _NAT64:
            inner = IPv4Address(int(address) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(inner)
        if address.teredo is not None or any(address in one for one in _NETWORKS_INSIDE):
            return False
    return address.is_global and not address.is_multicast


@dataclass(frozen=True, slots=True)
class Outside:
    """Where requests may go: anywhere outside by https, and to the hosts that are listed.

    `listed`: ``host`` or ``host:port``, in small letters. `setting`: in which whoever runs the installation lists them.
    """

    listed: frozenset[str] = frozenset()
    setting: str = "KAP_OUTBOUND_HOSTS"

    @classmethod
    def of(cls, *settings: str | None) -> Self:
        """Return it by settings: hosts separated by commas, or a URL whose host and port are meant; None: nothing."""
        found = set()
        for said in settings:
            for one in (said or "").split(","):
                text = one.strip().lower()
                if "://" in text:
                    parts = urlsplit(text)
                    text = f"{_bare(parts.hostname)}:{parts.port or _PORTS.get(parts.scheme, 0)}"
                if text:
                    found.add(text)
        return cls(frozenset(found))

    def names(self, url: str) -> bool:
        """Tell whether the host of a URL is one that is listed."""
        try:
            parts = urlsplit(url)
            return self.lists(parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0))
        except ValueError:
            return False

    def lists(self, host: str, port: int) -> bool:
        """Tell whether a host may be inside, at this port."""
        name = _bare(host)
        return name in self.listed or f"{name}:{port}" in self.listed

    def problem(self, url: str) -> str | None:
        """Return why nothing is sent to an address, as far as it tells by itself; None: its name will be looked at.

        The sentence says what to do, and names nothing but what was given.
        """
        try:
            parts = urlsplit(url)
            host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 0)
        except ValueError:
            return "It is no address of a server."
        if any(ord(one) <= 32 or ord(one) == 127 for one in url) or "\\" in url:
            return "It has white space, control characters or a backslash in it."
        if parts.scheme not in _PORTS or not host or port == 0:
            return "It must be https://host/path."
        if "@" in parts.netloc:
            return "It has credentials in it. Send them as a header."
        if parts.fragment:
            return "It has a fragment (#), which no server is sent."
        if self.lists(host, port):
            return None
        return self._unlisted(parts, host)

    async def addresses(self, url: httpx.URL, resolve: Resolve) -> list[str]:
        """Return the addresses at which a host may be asked now.

        Raises:
            NotOutside: it may not be asked.
            httpx.ConnectError: it has no address.

        """
        said = self.problem(str(url))
        if said is not None:
            raise NotOutside(said)
        port = url.port or _PORTS[url.scheme]
        try:
            found = list(await resolve(url.host, port))
        except (OSError, UnicodeError) as error:
            raise httpx.ConnectError("The host's name is not known.") from error
        if not found:
            raise httpx.ConnectError("The host's name is not known.")
        if not self.lists(url.host, port) and not all(is_public(ip_address(one.partition("%")[0])) for one in found):
            raise NotOutside(self._inside)
        return found

    @property
    def _inside(self) -> str:
        return (
            "It leads inside of the network. If it is meant, whoever runs the installation lists the host in "
            f"{self.setting}."
        )

    def _unlisted(self, parts: SplitResult, host: str) -> str | None:
        if parts.scheme != "https":
            return f"It must be https, unless whoever runs the installation lists the host in {self.setting}."
        name = _bare(host).rstrip(".")
        if name == "localhost" or name.endswith(".localhost"):
            return self._inside
        try:
            address: Address = ip_address(name.partition("%")[0])
        except ValueError:
            # 127.1, 0x7f.1 and 2130706433 are addresses to resolvers; what a name ends in is never a number (RFC 3696).
            last = name.rsplit(".", 1)[-1]
            return self._inside if last.isdecimal() or last.startswith("0x") else None
        return None if is_public(address) else self._inside


def _bare(host: str | None) -> str:
    return (host or "").lower().strip("[]")


async def resolved(host: str, port: int) -> list[str]:
    """Return the addresses of a host, as the system's resolver has them."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


@dataclass(slots=True)
class Outbound(httpx.AsyncBaseTransport):
    """The transport of an `httpx.AsyncClient` for addresses that somebody else named.

    Each server has connections of its own: two names of one address must not share what was checked for the other.
    A request may bring an `Outside` of its own (``extensions={OUTSIDE: ...}``), where not everybody may ask the same.
    """

    outside: Outside
    resolve: Resolve = resolved
    verify: ssl.SSLContext | bool = True
    limits: httpx.Limits = field(default_factory=lambda: httpx.Limits(max_connections=20, max_keepalive_connections=4))
    most_bytes: int = MOST_BYTES
    _servers: dict[tuple[str, str, int], httpx.AsyncHTTPTransport] = field(default_factory=dict)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request to an address that may be asked.

        Raises:
            NotOutside: there is none; nothing was sent.
            AnswerRefused: by reading the answer.
            httpx.HTTPError: as of any transport.

        """
        outside: Outside = request.extensions.pop(OUTSIDE, self.outside)
        addresses = await outside.addresses(request.url, self.resolve)
        request.headers["Accept-Encoding"] = "identity"
        lost: httpx.ConnectError | httpx.ConnectTimeout | None = None
        for address in addresses:
            try:
                answer = await self._at(address, request)
            except (httpx.ConnectError, httpx.ConnectTimeout) as error:
                lost = error
                continue
            return self._bounded(answer)
        raise lost or httpx.ConnectError("The host has no address.")

    async def _at(self, address: str, request: httpx.Request) -> httpx.Response:
        url, host = request.url, request.url.host
        pinned = httpx.Request(
            request.method,
            url.copy_with(host=address),
            headers=request.headers,
            stream=request.stream,
            extensions={**request.extensions, "sni_hostname": host},
        )
        key = (url.scheme, host, url.port or _PORTS[url.scheme])
        server = self._servers.pop(key, None) or httpx.AsyncHTTPTransport(
            verify=self.verify, trust_env=False, limits=self.limits, retries=0
        )
        self._servers[key] = server  # the one asked last is last
        while len(self._servers) > MOST_SERVERS:
            await self._servers.pop(next(iter(self._servers))).aclose()
        return await server.handle_async_request(pinned)

    def _bounded(self, answer: httpx.Response) -> httpx.Response:
        if answer.headers.get("content-encoding", "identity").lower() != "identity":
            answer.headers["content-encoding"] = "identity"
            return self._of(answer, refuse=True)
        return self._of(answer, refuse=False)

    def _of(self, answer: httpx.Response, *, refuse: bool) -> httpx.Response:
        stream = answer.stream
        assert isinstance(stream, httpx.AsyncByteStream)  # noqa: S101 - an asynchronous transport's
        bounded = _Bounded(stream, 0 if refuse else self.most_bytes)
        return httpx.Response(answer.status_code, headers=answer.headers, stream=bounded, extensions=answer.extensions)

    async def aclose(self) -> None:
        """Close the connections."""
        for server in self._servers.values():
            await server.aclose()
        self._servers.clear()


class _Bounded(httpx.AsyncByteStream):
    """So much of a stream; more is refused."""

    def __init__(self, inner: httpx.AsyncByteStream, most: int) -> None:
        self._inner = inner
        self._most = most

    async def __aiter__(self) -> AsyncIterator[bytes]:
        left = self._most
        async for part in self._inner:
            left -= len(part)
            if left < 0:
                raise AnswerRefused("The answer is longer than it may be, or packed.")
            yield part

    async def aclose(self) -> None:
        await self._inner.aclose()
