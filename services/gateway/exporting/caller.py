"""Who exports: who may ask at all, what he is shown, and that nobody else gets what he asked for.

An export is for programs (scopes ``system/``) and for who of the clinic has the operation's scope (``user/*.$export``).
A type is in it where the scopes let it be read and searched. It is never by scopes ``patient/``, nor a patient's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Final

import msgspec

from services.gateway.exporting.asked import EXPORTED
from shared.fhir.ids import subject_uuid
from shared.fhir.json import parse
from shared.fhir.outcome import Forbidden, NotFound, Unprocessable
from shared.security.caller import Caller
from shared.security.gate import ScopeMissing, require_conditions
from shared.security.scopes import parse_scopes, wider_than
from shared.store.access import NO_ONES, Access, Disclosure
from shared.store.exports import Wanted

if TYPE_CHECKING:
    from uuid import UUID

    from services.gateway.exporting.asked import Asked, Level
    from shared.store.exports import Job
    from shared.store.store import Store, Transaction

EXPORT: Final = "export"
ANYBODY: Final = "anybody"
"""The client of whoever asks where no token is asked for."""

_TYPE_OF: Final[Mapping[Level, str]] = {"system": "*", "patient": "Patient", "group": "Group"}
_PRIVATE: Final = frozenset(("Group",))
"""Types that bear no patient and tell of patients all the same: by their reading, not of what a member consents to."""


class Who(msgspec.Struct, frozen=True, omit_defaults=True):
    """Who asked for an export, as its row keeps him: not the token, but all that it is decided by."""

    client: str
    user: str | None = None
    role: str | None = None
    scopes: tuple[str, ...] = ()
    recipients: tuple[str, ...] | None = None
    purposes: tuple[str, ...] = ()
    permitted: bool = False
    everything: bool = False

    @property
    def told(self) -> Disclosure | None:
        """To whom it is disclosed, and what for; None: he is of the clinic."""
        if self.recipients is None:
            return None
        return Disclosure(frozenset(self.recipients), frozenset(self.purposes), self.permitted)

    def caller(self, tenant: str) -> Caller:
        """Return him as he was when he asked."""
        return Caller(
            tenant,
            client=self.client,
            user=self.user,
            role=self.role,
            scopes=parse_scopes(" ".join(self.scopes)),
            disclosure=self.told,
            everything=self.everything,
        )


def who_asks(caller: Caller, level: Level) -> Who:
    """Return who asks for an export of this level.

    Raises:
        ScopeMissing: he may not.

    """
    if caller.everything:
        return Who(ANYBODY, everything=True)
    type_ = _TYPE_OF[level]
    wide = {"system"} | ({"user"} if caller.operates(type_, EXPORT) else set())
    scopes = [one for one in caller.scopes if one.context in wide]
    if not any(one.operation is None for one in scopes):
        why = "$export is for programs, by scopes system/, and for who has the scope of the operation."
        raise ScopeMissing(why, f"user/{type_}.${EXPORT}")
    told = caller.disclosure
    return Who(
        client=str(caller.client),
        user=caller.user,
        role=caller.role,
        scopes=tuple(str(one) for one in scopes),
        recipients=None if told is None else tuple(sorted(told.recipients)),
        purposes=() if told is None else tuple(sorted(told.purposes)),
        permitted=told is not None and told.permitted,
    )


def require_same(job: Job | None, who: Who | None, caller: Caller) -> None:
    """Pass who asked for an export, by the same client, user and role; for anybody else there is none.

    Raises:
        NotFound: it is another's, or there is none.

    """
    client = ANYBODY if caller.everything else caller.client
    mine = who is not None and job is not None and (job.tenant, job.client) == (caller.tenant, client)
    if not (mine and (who.user, who.role, who.everything) == (caller.user, caller.role, caller.everything)):  # type: ignore[union-attr] # mine: it is somebody
        raise NotFound("There is no such export: it was another's, was deleted, or its time is over.")


def require_as_wide(who: Who, caller: Caller) -> None:
    """Pass a token that allows all that the export was made by.

    Raises:
        Forbidden: it allows less.

    """
    lacking = wider_than(" ".join(who.scopes), [str(one) for one in caller.scopes])
    if lacking and not caller.everything:
        raise Forbidden(f"The export was asked for by more than this token allows: {' '.join(lacking)}.")


def accesses(caller: Caller, type_: str) -> tuple[Access, ...]:
    """Return what the caller may see of a type both by searching and by reading: once, where it is the same."""
    searched, read = caller.access("s"), caller.access("r")
    return (searched,) if searched.granted(type_) == read.granted(type_) else (searched, read)


def types_of(caller: Caller, asked: Asked) -> list[str]:
    """Return the types that are exported: those asked for, or all that the caller may read and search.

    Raises:
        ScopeMissing: one that was asked for he may not, or none at all.

    """
    of_level = EXPORTED if asked.level == "system" else EXPORTED - NO_ONES - _PRIVATE
    for type_ in asked.types or (one for one, _ in asked.filters):
        if not _may(caller, type_):
            raise ScopeMissing(f"This token does not let its bearer read and search {type_}.", f"system/{type_}.rs")
    for searches in asked.searches().values():
        for one in searches:
            require_conditions(caller, one.criteria)
    found = [one for one in sorted(asked.types or of_level) if one in of_level and _may(caller, one)]
    if not found:
        raise ScopeMissing("There is no type that this token lets its bearer read and search.", "system/*.rs")
    return found


def _may(caller: Caller, type_: str) -> bool:
    return caller.may(type_, "r") and caller.may(type_, "s")


async def members(reads: Store | Transaction, caller: Caller, group: str) -> tuple[UUID, ...]:
    """Return the patients of a group, as rows know them.

    Who is of the clinic has to be able to read the Group. Who is outside never reads one, for it names patients of whom
    nothing may be told; he may export the one whose `managingEntity` he is, of which he is told what he may be told.

    Raises:
        NotFound: there is no such group for the caller.
        Unprocessable: it lists no patients.

    """
    told = caller.disclosure
    whole = Access.unrestricted(caller.tenant)
    if told is None:
        if not caller.everything and not caller.may("Group", "r"):
            raise ScopeMissing("This token does not let its bearer read Group.", "system/Group.r")
        whole = caller.access("r")
    held = await reads.find(whole, "Group", group)
    body = None if held is None or held.deleted else parse(held.body)
    managed = (body or {}).get("managingEntity", {}).get("reference")
    if body is None or (told is not None and managed not in told.recipients):
        raise NotFound(f"There is no Group/{group} here.")
    if body.get("actual") is not True:
        raise Unprocessable(f"Group/{group} describes whom it is about, and lists nobody. Export one that is actual.")
    listed: Sequence[dict[str, object]] = body.get("member", ())
    named = [str(one.get("entity", {}).get("reference", "")) for one in listed if one.get("inactive") is not True]  # type: ignore[attr-defined] # validated as a Group
    return tuple(dict.fromkeys(subject_uuid(one[8:]) for one in named if one.startswith("Patient/")))


def wanted_by(caller: Caller, asked: Asked, of_group: tuple[UUID, ...] | None) -> list[Wanted]:
    """Return what is to be listed, type by type."""
    searches = asked.searches()
    return [
        Wanted(
            type_,
            accesses(caller, type_),
            patients=of_group,
            borne=asked.level != "system",
            since=asked.since,
            any_of=tuple(one.criteria for one in searches.get(type_, ())),
        )
        for type_ in types_of(caller, asked)
    ]
