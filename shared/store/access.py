"""Who asks, as a value that every read and write of the store requires and compiles into each SQL predicate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller may see.

    Attributes:
        tenant: the clinic; nothing of another is ever visible.
        origin: only rows that this service owns; None: also the copies that events brought. A service's FHIR endpoint
            shows its own rows, its guards and reactions see all that it holds.
        patients: only these patients' compartments (logical ids); None: not restricted.
        hidden_labels: resources that carry one of these `meta.security` codes do not exist for the caller.

    There is no default: a caller's token makes an Access, and who needs none says so by `Access.unrestricted`.
    """

    tenant: str
    origin: str | None
    patients: frozenset[str] | None
    hidden_labels: frozenset[str]

    @classmethod
    def unrestricted(cls, tenant: str = DEFAULT_TENANT, *, origin: str | None = None) -> Self:
        """Everything of one tenant: for the services' own work, for tests, and for a stack started with `--no-auth`."""
        return cls(tenant=tenant, origin=origin, patients=None, hidden_labels=frozenset())
