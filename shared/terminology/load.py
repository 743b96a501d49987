"""From the user's files into one service's database: `kap terminology load`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Protocol

from shared.terminology.compose import CodeSource, composed, expanded
from shared.terminology.files import fhir, loinc, rxnorm, snomed
from shared.terminology.files.source import Source
from shared.terminology.release import CannotRead, CodeSystemRelease, ValueSetRelease

Release = CodeSystemRelease | ValueSetRelease


class Target(CodeSource, Protocol):
    """Where terminology is stored; `shared.store.terminology.Loading` is one."""

    async def load_system(self, release: CodeSystemRelease) -> None:
        """Store a code system in the place of the one before."""
        ...

    async def load_value_set(self, release: ValueSetRelease, members: Sequence[tuple[str, str, str]]) -> None:
        """Store a value set in the place of the one before."""
        ...

    async def displays(self, system: str, codes: Collection[str]) -> dict[str, str]:
        """Return the displays of codes, as far as they are known."""
        ...


def releases(path: Path) -> list[Release]:
    """Return what a file, folder or archive holds, told by the names of the files in it.

    Raises:
        CannotRead: it is no terminology that can be loaded here.

    """
    source = Source(path)
    for reader in (snomed, loinc, rxnorm):
        if reader.is_release(source):
            return [reader.read(source)]
    return fhir.read(source)


async def load(found: Sequence[Release], target: Target, said: Callable[[str], None]) -> None:
    """Store releases in one database; `said` is told of each, in a sentence.

    Raises:
        CannotRead: a value set draws on what is not there.

    """
    for release in found:
        if isinstance(release, CodeSystemRelease):
            await target.load_system(release)
            said(f"{release.title} {release.version}: {len(release.concepts):,} codes, {len(release.parents):,} links")
            continue
        members = await _members(release, target)
        await target.load_value_set(release, members)
        said(f"{release.title} {release.version}: {len(members):,} codes")


async def _members(release: ValueSetRelease, target: Target) -> list[tuple[str, str, str]]:
    if release.expansion is not None:
        return sorted((system, code, text) for (system, code), text in expanded(release.expansion).items())
    try:
        codes = await composed(release.compose, target)
    except CannotRead as error:
        raise CannotRead(f"The value set {release.url} cannot be computed: {error}.") from error
    given = {
        (one["system"], str(listed["code"])): str(listed["display"])
        for one in release.compose.get("include", ())
        for listed in one.get("concept", ())
        if "display" in listed
    }
    found: list[tuple[str, str, str]] = []
    for system, listed in codes.items():
        known = await target.displays(system, listed)
        found.extend((system, code, given.get((system, code)) or known.get(code, code)) for code in listed)
    return sorted(found)
