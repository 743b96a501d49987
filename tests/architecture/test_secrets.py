"""The scan for secrets (`.ci/run`) finds one where there is one, and its baseline holds what was looked at."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASELINE = ROOT / ".secrets.baseline"
_AT_MOST = 40


def scan(*files: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "detect_secrets.pre_commit_hook", "--baseline", str(BASELINE), *map(str, files)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("kind", "line"),
    [
        ("AWS Access Key", "key = 'AKIA" + "Q3EGSZ5L7XMPLE5K'"),
        ("Private Key", "-----BEGIN RSA " + "PRIVATE KEY-----"),
        ("Basic Auth Credentials", "url = 'postgresql://kap:" + "unique7sesame@db.example/kap'"),
        ("Secret Keyword", "password = " + "'unique7sesame-open'"),
    ],
)
def test_a_planted_secret_is_found(tmp_path: Path, kind: str, line: str) -> None:
    planted = tmp_path / "planted.py"
    planted.write_text(line + "\n")
    done = scan(planted)
    assert (done.returncode, kind in done.stdout) == (1, True), done.stdout
    planted.write_text("nothing = 'here'\n")
    assert scan(planted).returncode == 0


def test_the_baseline_is_short_enough_to_have_been_read() -> None:
    found = json.loads(BASELINE.read_text())["results"]
    assert 0 < sum(len(each) for each in found.values()) < _AT_MOST
    assert all((ROOT / name).exists() for name in found)
