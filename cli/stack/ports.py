"""Which port is whose: everything lies at a fixed distance from one base."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass

from cli.stack.problem import StackProblem

HOST = "127.0.0.1"
DEFAULT_BASE = 8000

GATEWAY = "gateway"
PARTNER = "partner"
"""A partner physician's system, where `./kap demo` listens for notifications while it plays."""
HOSPITAL = "hospital"
IDENTITY = "identity"
OFFSETS = {
    GATEWAY: 0,
    "intake": 1,
    "scheduling": 2,
    "sessions": 3,
    "outcomes": 4,
    "delivery": 5,
    PARTNER: 6,
    HOSPITAL: 7,
    IDENTITY: 8,
    "postgres": 10,
    "kafka": 11,
    "kafka-controller": 12,
}

OWNERS = ("intake", "scheduling", "sessions", "outcomes")
"""The services that own clinical resources; the gateway routes writes to them."""

SERVICES = (*OWNERS, GATEWAY, "delivery", HOSPITAL)
"""What runs by `python -m services.run`: the services, and the hospital that stands in for a real one.

With tokens, their issuer (`IDENTITY`) runs, too.
"""
OUTWARD = frozenset(("delivery", HOSPITAL))
"""What pushes records out, and takes them: it gives way to the others where processors are short."""


@dataclass(frozen=True, slots=True)
class Ports:
    """The ports of one stack; `base` is the gateway's."""

    base: int = DEFAULT_BASE

    def __post_init__(self) -> None:
        """Refuse a base that leaves no room above it.

        Raises:
            StackProblem: the base is below 1024 or too high.

        """
        highest = 65535 - max(OFFSETS.values())
        if not 1024 <= self.base <= highest:
            raise StackProblem(f"--port-base {self.base} cannot be: choose one from 1024 to {highest}.")

    def of(self, name: str) -> int:
        """Return the port of a service, of `postgres`, `kafka` or `kafka-controller`."""
        return self.base + OFFSETS[name]

    def url(self, name: str) -> str:
        """Return ``http://127.0.0.1:<port>`` of a service, without a slash at its end."""
        return f"http://{HOST}:{self.of(name)}"

    def fhir(self, name: str) -> str:
        """Return the FHIR base URL of a service."""
        return f"{self.url(name)}/fhir"


def is_free(port: int) -> bool:
    """Return whether nobody listens on this port of 127.0.0.1."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def require_free(ports: Ports, *names: str) -> None:
    """Say plainly which ports are taken, all of them at once, and where all would be free.

    Raises:
        StackProblem: other programs listen there.

    """
    deadline = time.monotonic() + 2.0  # a process that was just killed gives its port back within moments
    while taken := [name for name in names if not is_free(ports.of(name))]:
        if time.monotonic() < deadline:
            time.sleep(0.05)
            continue
        several = ", ".join(f"{ports.of(name)} ({name})" for name in taken)
        raise StackProblem(
            f"{'Port' if len(taken) == 1 else 'Ports'} {several}: taken by another program. End that one, or start "
            f"this stack elsewhere: --port-base {_free_base(ports.base)}"
        )


def _free_base(base: int) -> int:
    """Return a base, as far from `base` as need be, at which everything is free."""
    bases = range(base + 100, 65536 - max(OFFSETS.values()), 100)
    return next((one for one in bases if all(is_free(one + offset) for offset in OFFSETS.values())), base + 100)
