"""Who is calling, as an `Access` value.

There are no tokens yet: a process starts only with `KAP_NO_AUTH=true`, and then every caller may do everything.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from shared.store.access import Access

Authenticate: TypeAlias = Callable[[Mapping[str, str]], Access]
"""Makes the Access of a request from its headers; raises Unauthorized or Forbidden."""


def everybody(*, origin: str | None) -> Authenticate:
    """Return what gives every caller the default tenant without restriction: only rows that `origin` owns, or all."""
    access = Access.unrestricted(origin=origin)

    def authenticate(_headers: Mapping[str, str]) -> Access:
        return access

    return authenticate
