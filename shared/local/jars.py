"""Sets of jars: fetched once by their Maven coordinates, each with the hash that is pinned in the set's lock.

They come from the machine's own Maven repository where it holds them, else by `jgo` (a Maven resolver in Python), else
by `mvn`. Nothing is believed that does not have the pinned SHA-256, whoever fetched it, however long it has lain there.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias
from xml.sax.saxutils import escape

COPY_GOAL = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
MVN_SECONDS = 600
FETCH_SECONDS = 60


class JarsUnavailable(RuntimeError):
    """A set of jars could not be fetched; the message says what to do, for people."""


@dataclass(frozen=True, slots=True)
class Jar:
    """One line of the lock: Maven coordinates and the SHA-256 of the file, in hexadecimal."""

    group: str
    artifact: str
    version: str
    sha256: str

    @property
    def file_name(self) -> str:
        """``kafka_2.13-4.3.1.jar``."""
        return f"{self.artifact}-{self.version}.jar"

    @property
    def path_in_repository(self) -> Path:
        """Where a Maven repository keeps it."""
        return Path(*self.group.split("."), self.artifact, self.version, self.file_name)


Fetcher: TypeAlias = Callable[[Sequence[Jar], Path], None]
"""Puts the jars it can get into a folder, under their `file_name`; raises or leaves out what it cannot get."""


def read_lock(path: Path) -> list[Jar]:
    """Return the pinned jars: lines of ``group:artifact:version sha256:hex``; ``#`` begins a comment."""
    jars = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        coordinates, digest = line.split()
        group, artifact, version = coordinates.split(":")
        jars.append(Jar(group, artifact, version, digest.removeprefix("sha256:")))
    return jars


@dataclass(frozen=True, slots=True)
class JarSet:
    """What is fetched together: its name and release for people, its lock, and what to do where it cannot be had."""

    name: str
    version: str
    lock: Path
    otherwise: str

    @property
    def cache(self) -> Path:
        """Return ``~/.cache/kap-exchange/<name>-<version>`` (under `XDG_CACHE_HOME` where that is set)."""
        root = os.environ.get("XDG_CACHE_HOME")
        base = Path(root) if root else Path.home() / ".cache"
        return base / "kap-exchange" / f"{self.lock.stem.removesuffix('-jars')}-{self.version}"


def resolve(
    wanted: JarSet,
    cache: Path | None = None,
    *,
    fetchers: Sequence[tuple[str, Fetcher]] | None = None,
    report: Callable[[str], None] = lambda _: None,
) -> list[Path]:
    """Return the paths of all pinned jars, fetching what the cache lacks or holds damaged.

    Every file is hashed at every call (about 0.1 s for 44 MB), so a half-filled or altered cache heals. Several
    processes may call at once: one fetches, the others wait and find the files. `report` is given a sentence before a
    download.

    Raises:
        JarsUnavailable: a jar is missing and no fetcher could get it.

    """
    jars = read_lock(wanted.lock)
    cache = cache if cache is not None else wanted.cache
    cache.mkdir(parents=True, exist_ok=True)
    if _missing(jars, cache):
        with _only_one(cache / ".lock"):
            _fill(wanted, jars, cache, FETCHERS if fetchers is None else fetchers, report)
    return [cache / jar.file_name for jar in jars]


def _fill(
    wanted: JarSet,
    jars: Sequence[Jar],
    cache: Path,
    fetchers: Sequence[tuple[str, Fetcher]],
    report: Callable[[str], None],
) -> None:
    failures = []
    missing = _missing(jars, cache)
    for name, fetch in fetchers:
        if not missing:
            return
        if fetch is not fetch_from_own_repository:
            report(f"Fetching {wanted.name} {wanted.version} ({len(missing)} jars, once) with {name}.")
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache) as staging:
            folder = Path(staging)
            try:
                fetch(missing, folder)
            except Exception as error:  # noqa: BLE001 - whatever a resolver raises, the next one is tried; all are reported
                failures.append(f"{name}: {_first_line(error)}")
            for jar in missing:
                found = folder / jar.file_name
                if not found.exists():
                    continue
                if _sha256(found) == jar.sha256:
                    found.replace(cache / jar.file_name)
                else:
                    failures.append(f"{name}: {jar.file_name} does not have the pinned SHA-256")
        missing = _missing(missing, cache)
    if missing:
        reasons = "; ".join(dict.fromkeys(failures)) or "no way to fetch them was found"
        message = (
            f"{wanted.name} {wanted.version} could not be fetched: {len(missing)} of {len(jars)} jars are missing "
            f"({reasons}). Connect this machine to a Maven repository once and try again{wanted.otherwise}"
        )
        raise JarsUnavailable(message)


def _missing(jars: Sequence[Jar], cache: Path) -> list[Jar]:
    """Return the jars that the cache does not hold with their pinned content."""
    with ThreadPoolExecutor(4) as pool:
        good = list(pool.map(lambda jar: _sha256(cache / jar.file_name) == jar.sha256, jars))
    return [jar for jar, is_good in zip(jars, good, strict=True) if not is_good]


def _sha256(path: Path) -> str | None:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


@contextmanager
def _only_one(path: Path) -> Iterator[None]:
    """Hold a lock among all processes of this machine; the system frees it when its holder dies."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def fetch_from_own_repository(jars: Sequence[Jar], folder: Path) -> None:
    """Copy what the machine's own Maven repository (``~/.m2/repository``, or `M2_REPO`) holds already."""
    repository = Path(os.environ.get("M2_REPO") or Path.home() / ".m2" / "repository")
    for jar in jars:
        held = repository / jar.path_in_repository
        if held.is_file():
            shutil.copyfile(held, folder / jar.file_name)


def fetch_with_jgo(jars: Sequence[Jar], folder: Path) -> None:
    """Fetch with jgo, eight at a time."""
    from jgo.maven import MavenContext

    context = MavenContext(repo_cache=folder / "repository", local_repos=[], timeout=FETCH_SECONDS)

    def fetch(jar: Jar) -> Exception | None:
        try:
            path = context.project(jar.group, jar.artifact).at_version(jar.version).artifact().resolve()
            Path(path).replace(folder / jar.file_name)
        except Exception as error:  # noqa: BLE001 - jgo's errors have no common class; reported below
            return error
        return None

    with ThreadPoolExecutor(8) as pool:
        errors = [error for error in pool.map(fetch, jars) if error is not None]
    if errors:
        raise errors[0]


def fetch_with_mvn(jars: Sequence[Jar], folder: Path) -> None:
    """Fetch with `mvn`, which knows the mirrors and proxies of the user's own settings."""
    mvn = shutil.which("mvn")
    if mvn is None:
        message = "there is no mvn on this machine"
        raise FileNotFoundError(message)
    pom = folder / "pom.xml"
    pom.write_text(_pom(jars), encoding="utf-8")
    command = [mvn, "-B", "-q", "-f", str(pom), COPY_GOAL, "-DexcludeTransitive=true", f"-DoutputDirectory={folder}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=MVN_SECONDS, check=False)  # noqa: S603 - a fixed command
    if done.returncode != 0:
        errors = [line for line in done.stdout.splitlines() if line.startswith("[ERROR]")]
        raise RuntimeError(errors[0].removeprefix("[ERROR] ") if errors else f"mvn ended with {done.returncode}")


def _pom(jars: Sequence[Jar]) -> str:
    dependencies = "".join(
        f"<dependency><groupId>{escape(jar.group)}</groupId><artifactId>{escape(jar.artifact)}</artifactId>"
        f"<version>{escape(jar.version)}</version><exclusions><exclusion><groupId>*</groupId>"
        "<artifactId>*</artifactId></exclusion></exclusions></dependency>"
        for jar in jars
    )
    return (
        "<project><modelVersion>4.0.0</modelVersion><groupId>kap</groupId><artifactId>jars</artifactId>"
        f"<version>1</version><packaging>pom</packaging><dependencies>{dependencies}</dependencies></project>"
    )


FETCHERS: tuple[tuple[str, Fetcher], ...] = (
    ("the own Maven repository", fetch_from_own_repository),
    ("jgo", fetch_with_jgo),
    ("mvn", fetch_with_mvn),
)
