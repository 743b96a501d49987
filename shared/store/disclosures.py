"""What delivery may tell a destination of a resource, by the consents it knows, and the record of what it told.

A decision is asked for directly before a request leaves, in the transaction that writes it down: `Disclosures.note`
writes all such rows, and the audit's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from shared.fhir.definitions import type_id
from shared.store.access import NO_ONES, Access, Disclosure
from shared.store.audit import Row, note, now
from shared.store.behind import Behind, behind, through
from shared.store.comparisons import Binder
from shared.store.connection import translated
from shared.store.visibility import PART_2, consented

if TYPE_CHECKING:
    from shared.store.ledger_types import Entry
    from shared.store.store import Transaction

Request: TypeAlias = Literal["find", "compare", "match", "create", "update"]

YEARS_KEPT = 3
"""For so many years back what was disclosed is told (42 CFR 2.24, list of disclosures by an intermediary)."""

_COLUMNS = (
    "asked_at, recipient, through, purpose, type, resource, version, labels, request, part_2, redacted, consents, ended"
)


@dataclass(frozen=True, slots=True)
class Decision:
    """What the consents say of one version of a resource, to one destination, as they are known now.

    Attributes:
        permitted: whether it may be told.
        told: to whom, and what for.
        behind: the Consents that permit it.
        labels: of the resource.
        hidden: of the resources it refers to, those that may not be told: (type, id).

    """

    permitted: bool
    told: Disclosure
    behind: tuple[Behind, ...] = ()
    labels: frozenset[str] = frozenset()
    hidden: frozenset[tuple[str, str]] = frozenset()

    @property
    def part_2(self) -> bool:
        """Whether it is of a programme under 42 CFR Part 2."""
        return PART_2 in self.labels

    @property
    def through(self) -> tuple[str, ...]:
        """The intermediary by which it is told, or that is told itself as one, by some Consent."""
        return tuple(self.told.through) or through(self.behind)

    @property
    def consents(self) -> tuple[str, ...]:
        """The versions of the Consents that permit it, ``Consent/1/_history/2``."""
        return tuple(one.consent for one in self.behind)


@dataclass(frozen=True, slots=True)
class Disclosed:
    """One disclosure that was made, or may have been: `ended` is None where nobody knows its end."""

    asked_at: datetime
    recipient: str | None
    through: str | None
    purpose: str
    type: str
    resource: str
    version: int
    labels: tuple[str, ...]
    request: str
    part_2: bool
    redacted: bool
    consents: tuple[str, ...]
    ended: str | None


class Disclosures:
    """Decisions on telling, and the record of them, as one transaction sees it."""

    def __init__(self, transaction: Transaction) -> None:
        self._connection = transaction.connection
        self._tenant = transaction.tenant

    async def decide(self, entry: Entry, targets: Iterable[tuple[str, str]] = ()) -> Decision:
        """Ask the consents of an entry's wanted version, and of what it refers to, for whom its destination is now.

        What a reference points to and is not held here is not judged: nothing of it is known but that it is named.
        """
        told = await self._told(entry.destination)
        bind = Binder()
        tenant, type_, id_ = bind(entry.tenant, "text"), bind(type_id(entry.type), "smallint"), bind(entry.id, "text")
        version = bind(entry.wanted_version, "integer")
        may = " AND ".join(consented(Access.outside(entry.tenant, told), bind, "tn.id", [entry.type], "r", "v"))
        with translated():
            row = await self._connection.fetchrow(
                f"""
                SELECT r.labels, coalesce({may}, false) AS permitted
                FROM tenant tn JOIN resource r ON r.tenant = tn.id AND r.type = {type_} AND r.id = {id_}
                JOIN history v ON v.rid = r.rid AND v.version = {version}
                WHERE tn.name = {tenant}
                """,
                *bind.arguments,
            )
        if row is None or not row["permitted"]:
            return Decision(permitted=False, told=told, labels=frozenset(() if row is None else row["labels"]))
        place = (entry.type, entry.id)
        permitting = await behind(self._connection, told, entry.tenant, [place])
        return Decision(
            permitted=True,
            told=told,
            behind=permitting.get(place, ()),
            labels=frozenset(row["labels"]),
            hidden=await self._hidden(told, entry.tenant, list(targets)),
        )

    async def has_heard_no_consent(self) -> bool:
        """Tell whether something of intake's is held for the clinic, and not one Consent, in force or not."""
        with translated():
            found = await self._connection.fetchval(
                """
                SELECT EXISTS (SELECT FROM resource r WHERE r.tenant = n.id AND r.origin = 'intake')
                    AND NOT EXISTS (SELECT FROM resource r WHERE r.tenant = n.id AND r.type = $2)
                FROM tenant n WHERE n.name = $1
                """,
                self._tenant,
                type_id("Consent"),
            )
        return bool(found)

    async def sends_to(self, destination: str) -> str | None:
        """Return where a destination is sent things now; None where nothing is sent there."""
        with translated():
            found = await self._connection.fetchval(
                "SELECT address FROM delivery_destination WHERE tenant = $1 AND id = $2 AND active",
                self._tenant,
                destination,
            )
        return None if found is None else str(found)

    async def _told(self, destination: str) -> Disclosure:
        with translated():
            row = await self._connection.fetchrow(
                "SELECT recipient, purpose, through FROM delivery_destination WHERE tenant = $1 AND id = $2",
                self._tenant,
                destination,
            )
        if row is None:
            raise LookupError("The ledger has no such destination.")
        return Disclosure(
            frozenset(filter(None, (row["recipient"],))),
            frozenset((row["purpose"],)),
            through=frozenset(filter(None, (row["through"],))),
        )

    async def _hidden(
        self, told: Disclosure, tenant: str, targets: Sequence[tuple[str, str]]
    ) -> frozenset[tuple[str, str]]:
        """Return those of the targets that are held here and may not be told."""
        of_patients = [target for target in targets if target[0] not in NO_ONES]
        if not of_patients:
            return frozenset()
        bind = Binder()
        types = sorted({type_ for type_, _ in of_patients})
        name = bind(tenant, "text")
        numbers = bind([type_id(type_) for type_, _ in of_patients], "smallint[]")
        ids = bind([id_ for _, id_ in of_patients], "text[]")
        names = bind([type_ for type_, _ in of_patients], "text[]")
        may = " AND ".join(consented(Access.outside(tenant, told), bind, "r.tenant", types, "r"))
        with translated():
            # The targets first, and then what consents say of them: not of all that the clinic has.
            rows = await self._connection.fetch(
                f"""
                WITH r AS MATERIALIZED (
                    SELECT g.name, r.* FROM unnest({numbers}, {ids}, {names}) AS g(type, id, name)
                    JOIN tenant tn ON tn.name = {name}
                    JOIN resource r ON r.tenant = tn.id AND r.type = g.type AND r.id = g.id)
                SELECT r.name, r.id FROM r WHERE NOT coalesce({may}, false)
                """,
                *bind.arguments,
            )
        return frozenset((row["name"], row["id"]) for row in rows)

    async def note(
        self,
        entry: Entry,
        decision: Decision,
        request: Request,
        *,
        redacted: bool = False,
        known_seconds: float | None = None,
    ) -> int:
        """Write down a decision, before the request leaves, here and in the audit; return its number."""
        await note(self._connection, _audited(entry, decision, request))
        with translated():
            number: int = await self._connection.fetchval(
                """
                INSERT INTO disclosure (destination, recipient, purpose, tenant, key, type, resource, version, labels,
                    request, permitted, part_2, redacted, consents, known_seconds, through)
                VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) RETURNING id
                """,
                entry.destination,
                next(iter(decision.told.recipients), None),
                next(iter(decision.told.purposes)),
                entry.tenant,
                entry.key,
                entry.type,
                entry.id,
                entry.wanted_version,
                sorted(decision.labels),
                request,
                decision.permitted,
                decision.part_2,
                redacted,
                list(decision.consents),
                known_seconds,
                next(iter(decision.through), None),
            )
        return number

    async def refused(self, numbers: Iterable[int]) -> None:
        """Write down that requests were refused, or never came there: what they told was told all the same."""
        with translated():
            await self._connection.execute(
                "UPDATE disclosure SET ended = 'refused', ended_at = clock_timestamp() "
                "WHERE id = ANY ($1) AND ended IS NULL",
                list(numbers),
            )

    async def arrived(self, entry: Entry) -> None:
        """Write down that the version that was wanted is there: also of requests whose answers were lost."""
        with translated():
            await self._connection.execute(
                "UPDATE disclosure SET ended = 'accepted', ended_at = clock_timestamp() WHERE tenant = $1 AND key = $2 "
                "AND destination = $3 AND type = $4 AND resource = $5 AND version = $6 AND permitted AND ended IS NULL",
                entry.tenant,
                entry.key,
                entry.destination,
                entry.type,
                entry.id,
                entry.wanted_version,
            )

    async def of_patient(self, tenant: str, key: str) -> list[Disclosed]:
        """Return what was told of a patient to anybody in the last three years, or may have been; the latest first."""
        with translated():
            rows = await self._connection.fetch(
                f"""
                SELECT {_COLUMNS} FROM disclosure WHERE tenant = $1 AND key = $2 AND permitted
                AND request IN ('match', 'create', 'update')
                AND asked_at > now() - $3 * interval '1 year' ORDER BY id DESC
                """,
                tenant,
                key,
                YEARS_KEPT,
            )
        return [_disclosed(dict(row)) for row in rows]


def _audited(entry: Entry, decision: Decision, request: Request) -> Row:
    """Return a decision as a row of the audit: a disclosure, or that there was none."""
    tells = decision.permitted and request in {"match", "create", "update"}
    return Row(
        at=now(),
        tenant=entry.tenant,
        service="delivery",
        kind="disclose" if tells else "decide",
        does="push" if tells else "hold" if not decision.permitted else request,
        action="E",
        outcome=0 if decision.permitted else 4,
        recipient=next(iter(decision.told.recipients), f"Endpoint/{entry.destination}") if tells else None,
        through=decision.through if tells else (),
        authorisation=", ".join(decision.consents) or None,
        patients=(entry.key.removeprefix("Patient/"),) if entry.key.startswith("Patient/") else (),
        what=(f"{entry.type}/{entry.id}/_history/{entry.wanted_version}",),
        purpose=tuple(sorted(decision.told.purposes)),
        reason=None if decision.permitted else "No consent of the patient's permits it.",
    )


def _disclosed(values: dict[str, Any]) -> Disclosed:
    return Disclosed(**{**values, "labels": tuple(values["labels"]), "consents": tuple(values["consents"])})
