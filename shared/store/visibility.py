"""What a caller may know of, as SQL: the one place where an `Access` becomes conditions on rows.

Every statement that reads resources, wherever in it (matches, chains, `_has`, includes, totals, histories), has these
conditions on each row of `resource`, so that what may not be seen is not there for any part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from shared.fhir.ids import subject_uuid
from shared.store.access import EVERYTHING, NO_ONES, Access
from shared.store.comparisons import Binder
from shared.store.predicates import Row, of_types, patient_uuids, scope_of

if TYPE_CHECKING:
    from shared.store.access import Disclosure, Grant

PART_2: Final = "42CFRPart2"
"""Label of what comes of a programme under 42 CFR Part 2: told by a consent under it alone."""

LEGAL: Final = "HLEGAL"
"""Purpose of use: legal proceedings. What comes of a programme under 42 CFR Part 2 is never told for them: 2.12(d)."""

PROCESS_NOTE: Final = "PSYTHPN"
"""Label of what is told to nobody outside, whatever a consent says."""

_NAMED: Final = '\'"reference":"Patient/([A-Za-z0-9.-]{1,64})\''
"""Each patient whom a body names by a reference; bodies are stored without white space between their tokens."""


def visible(
    access: Access, bind: Binder, clinic: str, types: Sequence[str] | None, row: str = "r", version: str | None = None
) -> list[str]:
    """Return the conditions on a `resource` row under which the caller may know of it; not the tenant, which is bound.

    Args:
        access: what the caller may see.
        bind: takes the values.
        clinic: the tenant's number in SQL.
        types: what the row may be; None: anything.
        row: the alias of the row.
        version: the alias of a `history` row of that resource, where it is a version that is to be seen.

    """
    conditions = []
    if access.origin is not None:
        conditions.append(f"{row}.origin = {bind(access.origin, 'text')}")
    if access.patients is not None:
        conditions.append(f"{row}.patient = ANY ({bind(patient_uuids(access), 'uuid[]')})")
    if access.hidden_labels:
        conditions.append(f"NOT {row}.labels && {bind(sorted(access.hidden_labels), 'text[]')}")
    conditions += granted(access, bind, clinic, types, row, version)
    return [*conditions, *consented(access, bind, clinic, types, row, version)]


def consented(
    access: Access, bind: Binder, clinic: str, types: Sequence[str] | None, row: str = "r", version: str | None = None
) -> list[str]:
    """Return the conditions of `access.disclosure` alone; none where it takes nothing away. Arguments as of `visible`.

    What bears no patient cannot be consented to: of it the directory can be seen, and nothing else. What names another
    patient beside the one it bears cannot be told by the one's consent alone. A deletion is judged as what it deleted.
    Of the Consents of another record of the same person (`linked`) those that deny count.
    """
    told = access.disclosure
    if told is None:
        return []
    nobodys = [type_ for type_ in types or sorted(NO_ONES) if type_ in NO_ONES]
    if types is not None and len(nobodys) == len(types):
        return [f"{row}.patient IS NULL"]
    rules = Rules(told, bind, clinic, row)
    glass = "" if told.opened is None else f" OR {row}.patient = {bind(subject_uuid(told.opened), 'uuid')}"
    decided = []
    for each in (row, *(() if version is None else (version,))):
        labels = f"{each}.labels"
        unsaid = f"NOT {labels} && '{{{PART_2}}}'" if told.permitted else "false"
        never = (PROCESS_NOTE, PART_2) if LEGAL in told.purposes else (PROCESS_NOTE,)
        decided.append(
            f"NOT {labels} && '{{{','.join(never)}}}' AND "
            "(coalesce((SELECT bool_and(s.said = 2) FILTER (WHERE s.said <> 2 OR NOT s.linked) "
            "FROM (SELECT max(c.weight) AS said, c.linked "
            f"{rules.about(each)} GROUP BY c.consent, c.linked) s), {unsaid}){glass})"
        )
    others = [type_ for type_ in types or ("*",) if type_ != "Patient"]
    if others:
        own = f"n[1] = {row}.patient::text OR EXISTS (SELECT FROM resource q WHERE q.tenant = {clinic} "
        own += f"AND {of_types('q.type', ['Patient'])} AND q.id = n[1] AND q.patient = {row}.patient)"
        decided.append(_names_none_but(own, row, version, whole=types is None or len(others) < len(types)))
    if told.doubted:
        decided.append(f"(NOT {row}.patient = ANY ({bind(sorted(told.doubted), 'uuid[]')}){glass})")
    decision = f"{row}.patient IS NOT NULL AND {' AND '.join(decided)}"
    if not nobodys:
        return [f"({decision})"]
    return [f"({row}.patient IS NULL AND {of_types(f'{row}.type', nobodys)} OR {decision})"]


class Rules:
    """The rows of `consent_rule` that have something to say of a resource of a row, to somebody for a purpose."""

    def __init__(self, told: Disclosure, bind: Binder, clinic: str, row: str) -> None:
        self._recipients = bind(sorted(told.recipients), "text[]")
        self._nobody = not told.recipients
        self._through = bind(sorted(told.through), "text[]") if told.through else None
        self._all = bind(sorted(told.recipients | told.through), "text[]") if told.through else self._recipients
        self._purposes = bind(sorted(told.purposes), "text[]")
        self._of = f"c.tenant = {clinic} AND c.patient = {row}.patient"
        self._row = row

    def about(self, version: str) -> str:
        """Return FROM and WHERE of these rows, as `c`; `version` is the alias of whose labels and body they judge."""
        labels = f"{version}.labels"
        return (
            f"FROM consent_rule c WHERE {self._of} "
            f"{self._whom(labels)}"
            f"{_among('purposes', self._purposes)}{_among('labels', labels)}"
            "AND (c.low IS NULL OR c.low <= now()) AND (c.high IS NULL OR c.high > now()) "
            f"AND (c.weight <> 2 OR c.part_2 OR NOT {labels} && '{{{PART_2}}}') "
            f"AND (c.about IS NULL OR kap_is_about(c.about, {self._row}.rid, {_judged(self._row, version)}))"
        )

    def _whom(self, labels: str) -> str:
        """Return that a rule is about who asks.

        Who does not say who he is may be whom it denies. Who asks through an intermediary is denied by what denies
        either of the two, and permitted by what names that intermediary: with him, or with nobody else (a general
        designation). A permission to everybody is one for him, too, but not of what comes of a programme under Part 2.
        """
        if self._through is None:
            permitted = [f"c.{one}through && {self._recipients}" for one in ("", "x_")]
            asked = self._recipients
        else:
            permitted = [f"c.{one}recipients IS NULL AND c.{one}through && {self._through}" for one in ("", "x_")]
            asked = f"CASE WHEN c.weight = 2 THEN {self._recipients} ELSE {self._all} END"
        of = []
        for column, also, denies in (("", permitted[0], 1), ("x_", permitted[1], 3)):
            unnamed = f" OR c.weight = {denies}" if self._nobody else ""
            of.append(
                f"AND (c.{column}recipients IS NULL AND c.{column}through IS NULL "
                f"OR c.{column}recipients && {asked} OR {also}{unnamed}) "
            )
        if self._through is not None:
            to_everybody = "coalesce(c.recipients, c.x_recipients, c.through, c.x_through) IS NULL"
            of.append(
                f"AND (c.weight <> 2 OR coalesce(c.x_through, c.through) && {self._through} "
                f"OR {to_everybody} AND NOT {labels} && '{{{PART_2}}}') "
            )
        return "".join(of)


def _among(column: str, values: str) -> str:
    """Return that a rule is about one of the values."""
    return f"AND (c.{column} IS NULL OR c.{column} && {values}) AND (c.x_{column} IS NULL OR c.x_{column} && {values}) "


def granted(
    access: Access, bind: Binder, clinic: str, types: Sequence[str] | None, row: str = "r", version: str | None = None
) -> list[str]:
    """Return the conditions of `access.grants` alone; none where they take nothing away. Arguments as of `visible`."""
    if access.grants is None or (types is not None and access.granted_in_full(types)):
        return []
    alike: dict[tuple[Grant, ...], list[str]] = {}
    for type_ in sorted(access.grants) if types is None else types:
        grants = access.granted(type_)
        if grants:
            alike.setdefault(EVERYTHING if any(one.full for one in grants) else grants, []).append(type_)
    alternatives = []
    for grants, of in alike.items():
        which = [] if types is not None and len(types) == 1 else [of_types(f"{row}.type", of)]
        if grants != EVERYTHING:
            some = [_one(grant, bind, clinic, of, row, version) for grant in grants]
            which.append(f"({' OR '.join(some)})")
        alternatives.append(f"({' AND '.join(which)})")
    return [f"({' OR '.join(alternatives)})" if alternatives else "false"]


def _one(grant: Grant, bind: Binder, clinic: str, types: Sequence[str], row: str, version: str | None) -> str:
    conditions = []
    if grant.patients is not None:
        ids = sorted(grant.patients)
        uuids = bind([subject_uuid(patient) for patient in ids], "uuid[]")
        conditions.append(f"{row}.patient = ANY ({uuids})")
        others = [type_ for type_ in types if type_ != "Patient"]
        if others:
            named = f"n[1] = ANY ({bind(ids, 'text[]')})"
            conditions.append(_names_none_but(named, row, version, whole=len(others) < len(types)))
    if grant.conditions:
        from shared.store.conditions import Conditions  # which asks here, in turn, what of another resource is visible

        # What the grant itself asks for is asked of all that is held: it is the clinic's rule, not the caller's search.
        everything = Conditions(Access.unrestricted(), clinic, bind, prefix=f"{row}g")
        of = Row(f"{row}.rid", row, tuple(types), scope_of(types, clinic, None))
        conditions += everything.all_of(grant.conditions, of)
        conditions.append(f"NOT {row}.deleted")
        if version is not None:  # index rows tell of the current version only
            conditions.append(f"{version}.version = {row}.version")
    return f"({' AND '.join(conditions)})"


def _names_none_but(own: str, row: str, version: str | None, *, whole: bool) -> str:
    """Return the condition that a body names no patient but those `own` tells of `n[1]`: a group's visit names others.

    A Patient is exempt (`whole`: some of the rows are): it names the other records of the same person.
    """
    kept = f"b.rid = {row}.rid AND b.version = {_judged(row, row if version is None else version)}"
    other = f"EXISTS (SELECT FROM history b, {_named('b')} WHERE {kept} AND NOT ({own}))"
    if version is not None:
        living = f"EXISTS (SELECT FROM {_named(version)} WHERE NOT ({own}))"
        other = f"CASE WHEN {version}.interaction = 'delete' THEN {other} ELSE {living} END"
    return f"({of_types(f'{row}.type', ['Patient'])} OR NOT {other})" if whole else f"NOT {other}"


def _named(version: str) -> str:
    return f"regexp_matches(convert_from({version}.body, 'UTF8'), {_NAMED}, 'g') AS n"


def _judged(row: str, version: str) -> str:
    """Return which version's body tells of a version (or of the `row` itself): its own; of a deletion the one before.

    A deletion says nothing of itself, and who could not know of a resource does not know that it is gone.
    """
    deleted = f"{row}.deleted" if version == row else f"{version}.interaction = 'delete'"
    return f"CASE WHEN {deleted} THEN kap_living({row}.rid, {version}.version) ELSE {version}.version END"
