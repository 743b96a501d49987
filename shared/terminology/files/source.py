"""The user's files: plain, gzip or within a zip archive, found by a part of their names."""

from __future__ import annotations

import csv
import gzip
import hashlib
import io
import re
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, cast

from shared.terminology.release import CannotRead

csv.field_size_limit(min(sys.maxsize, 2**31 - 1))


class Source:
    """A file, a folder or a zip archive that a release was published as."""

    def __init__(self, path: Path) -> None:
        if not path.exists():
            raise CannotRead(f"There is no file {path}.")
        self.path = path
        self._zip = zipfile.ZipFile(path) if path.is_file() and zipfile.is_zipfile(path) else None

    def names(self) -> list[str]:
        """Return the names of the files in it, the shortest path first."""
        if self._zip is not None:
            found = [one.filename for one in self._zip.infolist() if not one.is_dir()]
        elif self.path.is_dir():
            found = [str(file.relative_to(self.path)) for file in self.path.rglob("*") if file.is_file()]
        else:
            found = [self.path.name]
        return sorted(found, key=lambda name: (name.count("/"), name))

    def find(self, pattern: str) -> str | None:
        """Return the name of the first file whose base name matches a regular expression whole, in any case."""
        form = re.compile(pattern, re.IGNORECASE)
        return next((name for name in self.names() if form.fullmatch(name.rsplit("/", 1)[-1])), None)

    def need(self, pattern: str, what: str) -> str:
        """As `find`.

        Raises:
            CannotRead: there is none; `what` says what it would hold.

        """
        found = self.find(pattern)
        if found is None:
            raise CannotRead(f"{self.path} has no file of {what}.")
        return found

    @contextmanager
    def binary(self, name: str) -> Iterator[IO[bytes]]:
        """Open one of its files; one that is compressed by gzip is read through."""
        if self._zip is not None:
            with self._zip.open(name) as file:
                yield file
            return
        place = self.path / name if self.path.is_dir() else self.path
        if place.suffix == ".gz":
            with gzip.open(place) as packed:
                yield cast("IO[bytes]", packed)
        else:
            with place.open("rb") as file:
                yield file

    @contextmanager
    def text(self, name: str) -> Iterator[IO[str]]:
        """Open one of its files as UTF-8, with a byte order mark or without."""
        with self.binary(name) as file:
            yield io.TextIOWrapper(file, encoding="utf-8-sig", newline="")

    def rows(self, name: str, delimiter: str, quoting: Literal[0, 3]) -> Iterator[dict[str, str]]:
        """Yield the rows of a table with a header, by its column names.

        Raises:
            CannotRead: not a table, or not UTF-8.

        """
        with self.text(name) as file:
            try:
                yield from csv.DictReader(file, delimiter=delimiter, quoting=quoting)
            except (csv.Error, UnicodeDecodeError) as error:
                raise CannotRead(f"{name} cannot be read as a table: {error}.") from error

    def digest(self, *names: str) -> str:
        """Return the SHA-256 of the files that were read, one after the other."""
        hashed = hashlib.sha256()
        for name in names:
            with self.binary(name) as file:
                while block := file.read(1 << 20):
                    hashed.update(block)
        return hashed.hexdigest()
