"""What codes mean in one service's database: the terminology that was loaded, before what is shipped.

`StoredTerminology` is `shared.terminology.port.Terminology` on a connection; ``record.terminology`` is one. A code
system or value set that was loaded counts instead of the shipped one of the same canonical.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from shared.store.connection import Connection, open_connection, translated
from shared.terminology import shipped
from shared.terminology.port import Members
from shared.terminology.release import CodeSystemRelease, ValueSetRelease

_ANCESTORS = """
WITH RECURSIVE s AS (SELECT id FROM code_system WHERE url = $1), up (code, above) AS (
    SELECT given COLLATE "C", given COLLATE "C" FROM unnest($2::text[]) AS given
    UNION
    SELECT up.code, p.parent FROM up JOIN concept_parent p ON p.system = (SELECT id FROM s) AND p.code = up.above
)
SELECT code, array_agg(above) AS above FROM up WHERE EXISTS (SELECT FROM s) GROUP BY code
"""
_DESCENDANTS = """
WITH RECURSIVE s AS (SELECT id FROM code_system WHERE url = $1), down (code) AS (
    SELECT $2::text COLLATE "C"
    UNION
    SELECT p.code FROM down JOIN concept_parent p ON p.system = (SELECT id FROM s) AND p.parent = down.code
)
SELECT code FROM down WHERE EXISTS (SELECT FROM s)
"""
_KNOWN = """
SELECT c.code FROM concept c JOIN code_system s ON s.id = c.system WHERE s.url = $1 AND c.code = ANY ($2)
"""
_SYSTEM = "SELECT id, url, version, title, concepts, loaded_at FROM code_system"
_CONCEPT = """
SELECT c.code, c.display, c.active,
    ARRAY (SELECT p.parent FROM concept_parent p WHERE p.system = c.system AND p.code = c.code ORDER BY p.parent)
        AS parents,
    ARRAY (
        SELECT p.code FROM concept_parent p WHERE p.system = c.system AND p.parent = c.code ORDER BY p.code LIMIT 200
    ) AS children
FROM concept c JOIN code_system s ON s.id = c.system WHERE s.url = $1 AND c.code = $2
"""
_SET = "SELECT id, url, version, title, loaded_at FROM value_set"
_MEMBERS = """
SELECT m.system, array_agg(m.code) AS codes FROM value_set v JOIN value_set_member m ON m.value_set = v.id
WHERE v.url = $1 AND ($2 = '' OR v.version = $2) GROUP BY m.system
"""
_OF_SET = """
FROM value_set v JOIN value_set_member m ON m.value_set = v.id
WHERE v.url = $1 AND ($2 = '' OR m.display ILIKE $2 OR m.code = $3)
"""
_PAGE_OF_SET = f"SELECT m.system, m.code, m.display {_OF_SET} ORDER BY m.system, m.code OFFSET $4 LIMIT $5"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A code system or value set that was loaded."""

    url: str
    version: str
    title: str
    loaded_at: datetime
    concepts: int = 0


@dataclass(frozen=True, slots=True)
class LoadedConcept:
    """A code of a loaded code system, with the codes directly above and below it (200 at most)."""

    code: str
    display: str
    active: bool
    parents: tuple[str, ...]
    children: tuple[str, ...]


class StoredTerminology:
    """Terminology on one connection; see `shared.terminology.port.Terminology`."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    async def subsumes(self, system: str, ancestor: str, code: str) -> bool:
        """Tell whether `code` is `ancestor` or below it."""
        return ancestor in (await self.ancestors(system, (code,)))[code]

    async def ancestors(self, system: str, codes: Collection[str]) -> Mapping[str, frozenset[str]]:
        """Return, for each of `codes`, itself and every code above it."""
        with translated():
            rows = await self._connection.fetch(_ANCESTORS, system, list(set(codes)))
        if not rows:
            return shipped.ancestors(system, codes)
        return {row["code"]: frozenset(row["above"]) for row in rows}

    async def known(self, system: str, codes: Collection[str]) -> frozenset[str]:
        """Return those of `codes` that a code system has that was loaded; of one that was not, none."""
        with translated():
            rows = await self._connection.fetch(_KNOWN, system, list(set(codes)))
        return frozenset(row["code"] for row in rows)

    async def descendants(self, system: str, code: str) -> frozenset[str]:
        """Return the code and every code below it."""
        with translated():
            rows = await self._connection.fetch(_DESCENDANTS, system, code)
        return frozenset(row["code"] for row in rows) or shipped.descendants(system, code)

    async def members(self, value_set: str) -> Members | None:
        """Return the codes of a value set; None where it is not known."""
        url, _, version = value_set.partition("|")
        with translated():
            rows = await self._connection.fetch(_MEMBERS, url, version)
        if rows:
            return {row["system"]: frozenset(row["codes"]) for row in rows}
        held = await self.value_set(url)
        return shipped.members(value_set) if held is None else {} if version in {"", held.version} else None

    async def system(self, url: str) -> Loaded | None:
        """Return what is known of a code system that was loaded."""
        with translated():
            row = await self._connection.fetchrow(f"{_SYSTEM} WHERE url = $1", url)
        return None if row is None else _loaded(row)

    async def value_set(self, url: str) -> Loaded | None:
        """Return what is known of a value set that was loaded."""
        with translated():
            row = await self._connection.fetchrow(f"{_SET} WHERE url = $1", url)
        return None if row is None else _loaded(row)

    async def systems(self) -> list[Loaded]:
        """Return the code systems that were loaded."""
        with translated():
            return [_loaded(row) for row in await self._connection.fetch(f"{_SYSTEM} ORDER BY url")]

    async def value_sets(self) -> list[Loaded]:
        """Return the value sets that were loaded."""
        with translated():
            return [_loaded(row) for row in await self._connection.fetch(f"{_SET} ORDER BY url")]

    async def concept(self, system: str, code: str) -> LoadedConcept | None:
        """Return a code of a loaded code system; None where it has no such code, or was not loaded."""
        with translated():
            row = await self._connection.fetchrow(_CONCEPT, system, code)
        if row is None:
            return None
        return LoadedConcept(row["code"], row["display"], row["active"], tuple(row["parents"]), tuple(row["children"]))

    async def page(
        self, value_set: str, *, text: str, offset: int, count: int
    ) -> tuple[int, list[tuple[str, str, str]]]:
        """Return the number of a loaded value set's codes and a page of them: system, code, display.

        `text`: only those whose display contains it, in any case, or whose code it is.
        """
        like = "".join(f"\\{one}" if one in "\\%_" else one for one in text)
        given = f"%{like}%" if text else ""
        with translated():
            total = await self._connection.fetchval(f"SELECT count(*) {_OF_SET}", value_set, given, text)
            rows = await self._connection.fetch(_PAGE_OF_SET, value_set, given, text, offset, count)
        return int(total), [(row["system"], row["code"], row["display"]) for row in rows]


def _loaded(row: Mapping[str, object]) -> Loaded:
    concepts = row.get("concepts", 0)
    when = row["loaded_at"]
    assert isinstance(when, datetime)  # noqa: S101 - a timestamptz
    return Loaded(
        str(row["url"]), str(row["version"]), str(row["title"]), when, concepts if isinstance(concepts, int) else 0
    )


class Loading:
    """A connection of one's own to load terminology by, with no limit on the time of a statement."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    async def open(cls, dsn: str) -> Loading:
        """Connect.

        Raises:
            Unavailable: PostgreSQL cannot be reached.

        """
        return cls(await open_connection(dsn, application="kap-terminology", statement_timeout=0))

    async def close(self) -> None:
        """Close the connection."""
        await self._connection.close()

    @property
    def terminology(self) -> StoredTerminology:
        """What is loaded by now."""
        return StoredTerminology(self._connection)

    async def descendants(self, system: str, code: str) -> frozenset[str]:
        """As `StoredTerminology.descendants`."""
        return await self.terminology.descendants(system, code)

    async def members(self, value_set: str) -> Members | None:
        """As `StoredTerminology.members`."""
        return await self.terminology.members(value_set)

    async def load_system(self, release: CodeSystemRelease) -> None:
        """Put a code system in the place of the one of the same canonical; until then readers see the old one."""
        connection = self._connection
        with translated():
            async with connection.transaction():
                await connection.execute("DELETE FROM code_system WHERE url = $1", release.url)
                number = await connection.fetchval(
                    "INSERT INTO code_system (url, version, title, concepts, sha256) VALUES ($1, $2, $3, $4, $5) "
                    "RETURNING id",
                    release.url,
                    release.version,
                    release.title,
                    len(release.concepts),
                    release.sha256,
                )
                await self._copy(
                    "concept",
                    ("system", "code", "display", "active"),
                    ((number, code, one.display, one.active) for code, one in release.concepts.items()),
                )
                await self._copy(
                    "concept_parent",
                    ("system", "code", "parent"),
                    ((number, code, parent) for code, parent in sorted(release.parents)),
                )
            await connection.execute("ANALYZE code_system, concept, concept_parent")

    async def load_value_set(self, release: ValueSetRelease, members: Sequence[tuple[str, str, str]]) -> None:
        """Put a value set with its codes (system, code, display) in the place of the one of the same canonical."""
        connection = self._connection
        with translated():
            async with connection.transaction():
                await connection.execute("DELETE FROM value_set WHERE url = $1", release.url)
                number = await connection.fetchval(
                    "INSERT INTO value_set (url, version, title, sha256) VALUES ($1, $2, $3, $4) RETURNING id",
                    release.url,
                    release.version,
                    release.title,
                    release.sha256,
                )
                await self._copy(
                    "value_set_member",
                    ("value_set", "system", "code", "display"),
                    ((number, *member) for member in members),
                )
            await connection.execute("ANALYZE value_set, value_set_member")

    async def displays(self, system: str, codes: Collection[str]) -> dict[str, str]:
        """Return the displays of codes of a loaded or shipped code system, as far as they are known."""
        with translated():
            rows = await self._connection.fetch(
                "SELECT c.code, c.display FROM concept c JOIN code_system s ON s.id = c.system "
                "WHERE s.url = $1 AND c.code = ANY ($2)",
                system,
                list(codes),
            )
        known = shipped.systems().get(system)
        ours = {} if known is None else {code: one.display for code, one in known.concepts.items() if code in codes}
        return {**ours, **{row["code"]: row["display"] for row in rows}}

    async def codes(self, system: str) -> frozenset[str] | None:
        """Return every active code of a loaded or shipped code system; None where neither is there whole."""
        if await self.terminology.system(system) is not None:
            with translated():
                rows = await self._connection.fetch(
                    "SELECT c.code FROM concept c JOIN code_system s ON s.id = c.system WHERE s.url = $1 AND c.active",
                    system,
                )
            return frozenset(row["code"] for row in rows)
        known = shipped.systems().get(system)
        return frozenset(known.concepts) if known is not None and known.complete else None

    async def _copy(self, table: str, columns: Sequence[str], rows: Iterable[tuple[object, ...]]) -> None:
        await self._connection.copy_records_to_table(table, records=rows, columns=list(columns))
