"""Who asks, as a value that every read and write of the store requires and compiles into each SQL predicate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Self
from uuid import UUID

from shared.fhir.search import Condition

DEFAULT_TENANT = "default"


@dataclass(frozen=True, slots=True)
class Grant:
    """Some resources of a type.

    Attributes:
        patients: those of these patients' compartments (logical ids) that name no other patient; None: of anybody.
        conditions: those that satisfy all of these as they are now; earlier versions and deletions are not of them.

    """

    patients: frozenset[str] | None = None
    conditions: tuple[Condition, ...] = ()

    @property
    def full(self) -> bool:
        """Whether it is every resource of the type."""
        return self.patients is None and not self.conditions


@dataclass(frozen=True, slots=True)
class Disclosure:
    """To whom outside of the clinic something is told, and what for: the patients' consents decide.

    Attributes:
        recipients: ``Organization/1``, as a Consent names who receives; none: somebody whom no Consent can name.
        purposes: codes of v3-ActReason: TREAT.
        permitted: what stands where no Consent says anything. What comes of a programme under 42 CFR Part 2 is told by
            a consent under it alone, and process notes never.
        opened: the patient (logical id) for whom the glass is broken: of him all is told but process notes, whatever
            his Consents say; None: nobody.
        doubted: the patients, as rows know them, of whom nothing is told: what they consent to is not known here now.
        through: the intermediary by which the recipients are told (42 CFR 2.11); none: they ask themselves.

    """

    recipients: frozenset[str]
    purposes: frozenset[str]
    permitted: bool = False
    opened: str | None = None
    doubted: frozenset[UUID] = frozenset()
    through: frozenset[str] = frozenset()


NO_ONES: Final = frozenset(
    (
        "Practitioner", "PractitionerRole", "Organization", "Location", "Medication", "Questionnaire", "Measure",
        "Subscription",
    )
)  # fmt: skip
"""Types that no patient's consent is about: a resource of them that bears no patient may be told to anybody."""

EVERYTHING = (Grant(),)
"""The grants of a type of which every resource may be seen."""


@dataclass(frozen=True, slots=True)
class Access:
    """What a caller may see, or change, by the interaction that he asks for.

    Attributes:
        tenant: the clinic; nothing of another is ever visible.
        origin: only rows that this service owns; None: also the copies that events brought. A service's FHIR endpoint
            shows its own rows, its guards and reactions see all that it holds.
        patients: only these patients' compartments (logical ids); None: not restricted.
        hidden_labels: resources that carry one of these `meta.security` codes do not exist for the caller.
        grants: by type, what of it exists for the caller: the union of these. A type that is not named does not exist
            at all. None: every type, in full.
        disclosure: what exists for the caller is what patients' consents let be told to him; None: he is of the clinic.

    There is no default of what may be seen: a caller's token makes an Access (`shared.security`), and who needs none
    says so by `Access.unrestricted`.
    """

    tenant: str
    origin: str | None
    patients: frozenset[str] | None
    hidden_labels: frozenset[str]
    grants: Mapping[str, tuple[Grant, ...]] | None
    disclosure: Disclosure | None = None

    @classmethod
    def unrestricted(cls, tenant: str = DEFAULT_TENANT, *, origin: str | None = None) -> Self:
        """Everything of one tenant: for the services' own work, for tests, and for a stack started with `--no-auth`."""
        return cls(tenant=tenant, origin=origin, patients=None, hidden_labels=frozenset(), grants=None)

    @classmethod
    def outside(cls, tenant: str, told: Disclosure) -> Self:
        """What the patients' consents let somebody outside of the clinic be told, of every type."""
        return cls(tenant=tenant, origin=None, patients=None, hidden_labels=frozenset(), grants=None, disclosure=told)

    @classmethod
    def nothing(cls, tenant: str) -> Self:
        """Nothing at all: what stands until it is known what a caller asks for."""
        return cls(tenant=tenant, origin=None, patients=None, hidden_labels=frozenset(), grants={})

    def granted(self, type_: str) -> tuple[Grant, ...]:
        """Return the grants of a type; none: nothing of it exists for the caller."""
        return EVERYTHING if self.grants is None else self.grants.get(type_, ())

    def in_full(self, types: Sequence[str]) -> bool:
        """Tell whether no grant and no consent takes anything away from these types."""
        return (self.disclosure is None or NO_ONES.issuperset(types)) and self.granted_in_full(types)

    def granted_in_full(self, types: Sequence[str]) -> bool:
        """Tell whether no grant takes anything away from these types."""
        return self.grants is None or all(any(one.full for one in self.granted(type_)) for type_ in types)
