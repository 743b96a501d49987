"""Whether any pinned package has a known vulnerability: `python tools/advisories.py LOCK...`.

By pip-audit, which asks the vulnerability service of the package index. Where that service is not to be had (a mirror
without it, no network) pip-audit finds nothing and is content; so a release that is known to be vulnerable is asked
for first. Exit code 0: every package was looked up, and none has an advisory. 1: some have. 3: not all was checked, and
that is said; KAP_REQUIRE_ADVISORIES=1 makes it 1.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

KNOWN = "jinja2==2.4.1"
"""Has had advisories since 2014 (CVE-2014-1402 among them)."""

_SECONDS = 240


def audit(requirements: Path) -> list[dict[str, Any]] | None:
    """Return what pip-audit says of each package; None where it cannot ask."""
    command = [sys.executable, "-m", "pip_audit", "-r", str(requirements), "--no-deps", "--disable-pip", "-f", "json"]
    try:
        done = subprocess.run(
            [*command, "--progress-spinner", "off", "--timeout", "10"],
            capture_output=True,
            text=True,
            check=False,
            timeout=_SECONDS,
        )
        return list(json.loads(done.stdout)["dependencies"])
    except (subprocess.TimeoutExpired, ValueError, KeyError):
        return None


def main(locks: list[str]) -> int:
    """Look all packages of the locks up."""
    not_checked = 1 if os.environ.get("KAP_REQUIRE_ADVISORIES") == "1" else 3
    with tempfile.TemporaryDirectory() as folder:
        probe = Path(folder) / "known.txt"
        probe.write_text(f"{KNOWN}\n", encoding="utf-8")
        found = audit(probe)
    if not found or not found[0].get("vulns"):
        print(
            f"NOT CHECKED: the package index tells nothing of {KNOWN}, which is known to be vulnerable: it would "
            "tell nothing of the locks' packages. Run this where the index's vulnerability service can be reached."
        )
        return not_checked
    worst = 0
    for lock in locks:
        told = audit(Path(lock))
        if told is None:
            print(f"NOT CHECKED: {lock} could not be looked up.")
            return not_checked
        for one in told:
            if "skip_reason" in one:
                print(f"NOT CHECKED: {one['name']} of {lock}: {one['skip_reason']}")
                worst = max(worst, not_checked)
            for flaw in one.get("vulns", ()):
                print(f"{one['name']} {one['version']} of {lock}: {flaw['id']}, mended in {flaw['fix_versions']}")
                worst = 1
        if worst == 0:
            print(f"{lock}: {len(told)} packages, no known vulnerability.")
    return worst


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
