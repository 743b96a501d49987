"""The shell script `kap` in a folder of its own, with locks that name nothing, so that nothing is fetched."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
MAIN = """
import os, sys
print("arguments:", sys.argv[1:])
print("prefix:", sys.prefix)
print("here:", os.getcwd())
"""
SYSTEM = "/usr/bin:/bin"


@pytest.fixture
def project(tmp_path: Path) -> Path:
    folder = tmp_path / "a project"  # a blank in the path, as on many desktops
    (folder / "tools").mkdir(parents=True)
    (folder / "cli").mkdir()
    shutil.copy(ROOT / "kap", folder / "kap")
    shutil.copy(ROOT / "tools" / "environment.py", folder / "tools" / "environment.py")
    (folder / "cli" / "__init__.py").touch()
    (folder / "cli" / "main.py").write_text(MAIN)
    for extra in ("local", "test"):
        (folder / f"requirements-{extra}.lock").write_text(f"# {extra}\n")
    return folder


@pytest.fixture
def uv(tmp_path: Path) -> Path:
    """A stand-in for uv that makes environments with the standard library and writes down its calls."""
    folder = tmp_path / "bin"
    folder.mkdir()
    program = folder / "uv"
    program.write_text(
        f"""#!/bin/sh
echo "$@" >> "{tmp_path}/calls"
if [ -n "${{UV_SLEEPS:-}}" ]; then sleep "$UV_SLEEPS"; fi
if [ "$1" = venv ]; then
    for folder; do :; done
    exec "{sys.executable}" -m venv --without-pip "$folder"
fi
"""
    )
    program.chmod(0o755)
    return program


def environment(uv: Path | None, **more: str) -> dict[str, str]:
    path = SYSTEM if uv is None else f"{uv.parent}:{SYSTEM}"
    return {"PATH": path, "HOME": os.environ.get("HOME", "/"), "KAP_PYTHON": sys.executable} | more


def run(project: Path, *arguments: str, uv: Path | None = None, **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [project / "kap", *arguments],
        env=environment(uv, **more),
        cwd=project.parent,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def calls(uv: Path) -> list[str]:
    file = uv.parent.parent / "calls"
    return [call for call in file.read_text().splitlines() if call != "--version"] if file.exists() else []


def test_the_first_use_makes_the_environment_and_the_second_does_not(project: Path, uv: Path) -> None:
    first = run(project, "up", "--port-base", "9000", uv=uv)
    assert first.returncode == 0, first.stderr
    assert "Making .venv" in first.stderr
    assert "arguments: ['up', '--port-base', '9000']" in first.stdout
    assert f"prefix: {project}/.venv" in first.stdout
    assert [call.split()[0] for call in calls(uv)] == ["venv", "pip"]
    assert "--require-hashes" in calls(uv)[1]
    second = run(project, "status", uv=uv)
    assert second.stderr == ""
    assert len(calls(uv)) == 2


def test_without_uv_the_standard_library_and_pip_do_it(project: Path) -> None:
    made = run(project, "status")
    assert made.returncode == 0, made.stderr
    assert "by pip" in made.stderr
    assert "arguments: ['status']" in made.stdout


def wheel_of_uv(folder: Path, program: str) -> str:
    """Write a wheel that holds a stand-in for uv, and return its pin."""
    files = {
        "uv-9.9.data/scripts/uv": program,
        "uv-9.9.dist-info/METADATA": "Metadata-Version: 2.1\nName: uv\nVersion: 9.9\n",
        "uv-9.9.dist-info/WHEEL": "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{name},,\n" for name in [*files, "uv-9.9.dist-info/RECORD"])
    wheel = folder / "uv-9.9-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, content in (files | {"uv-9.9.dist-info/RECORD": record}).items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o100755 << 16
            archive.writestr(entry, content)
    return f"uv==9.9 \\\n    --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n    # via nothing\n"


def test_without_uv_pip_brings_the_one_that_the_lock_pins(project: Path, uv: Path, tmp_path: Path) -> None:
    pin = wheel_of_uv(tmp_path, uv.read_text())
    uv.unlink()
    (project / "requirements-local.lock").write_text(pin)
    made = run(project, "status", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert made.returncode == 0, made.stderr
    assert "by uv" in made.stderr
    assert [call.split()[0] for call in calls(uv)] == ["pip"]
    (project / "requirements-local.lock").write_text(pin + "# another\n")
    assert run(project, "status").returncode == 0
    assert [call.split()[0] for call in calls(uv)] == ["pip", "pip"], "the one it has is used again"


def test_a_uv_that_is_not_the_pinned_one_is_not_used(project: Path, uv: Path, tmp_path: Path) -> None:
    wheel_of_uv(tmp_path, uv.read_text())
    uv.unlink()
    (project / "requirements-local.lock").write_text(f"uv==9.9 --hash=sha256:{'0' * 64}\n")
    made = run(project, "status", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    assert made.returncode == 1
    assert "DO NOT MATCH THE HASHES" in made.stderr
    assert calls(uv) == []


def test_another_lock_is_installed_at_the_next_use(project: Path, uv: Path) -> None:
    run(project, "status", uv=uv)
    (project / "requirements-local.lock").write_text("# other\n")
    again = run(project, "status", uv=uv)
    assert "up to date" in again.stderr
    assert [call.split()[0] for call in calls(uv)] == ["venv", "pip", "pip"]
    assert run(project, "status", uv=uv).stderr == ""


def test_the_tests_need_more_and_what_they_have_is_enough_for_all(project: Path, uv: Path) -> None:
    run(project, "test", "--fast", uv=uv)
    assert calls(uv)[-1].endswith("requirements-test.lock")
    assert run(project, "up", uv=uv).stderr == ""
    assert run(project, "up", "test", uv=uv).stderr == ""


def test_a_half_made_environment_is_made_anew(project: Path, uv: Path) -> None:
    with subprocess.Popen(
        [project / "kap", "status"], env=environment(uv, UV_SLEEPS="30"), start_new_session=True, stderr=subprocess.PIPE
    ) as cut_short:
        deadline = time.monotonic() + 20
        while not (project / ".venv" / "kap-unfinished").exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        os.killpg(cut_short.pid, signal.SIGKILL)
    (project / ".venv" / "half").touch()
    healed = run(project, "status", uv=uv)
    assert healed.returncode == 0, healed.stderr
    assert not (project / ".venv" / "half").exists()
    assert not (project / ".venv" / "kap-unfinished").exists()
    assert run(project, "status", uv=uv).stderr == ""


def test_an_addition_that_was_cut_short_is_installed_over_what_is_there(project: Path, uv: Path) -> None:
    run(project, "status", uv=uv)
    (project / ".venv" / "kap-unfinished").write_text("adding")
    (project / ".venv" / "somebody's").touch()
    assert run(project, "test", uv=uv).returncode == 0
    assert "--reinstall" in calls(uv)[-1]
    assert (project / ".venv" / "somebody's").exists()


def test_an_environment_whose_python_has_gone_is_made_anew(project: Path, uv: Path) -> None:
    run(project, "status", uv=uv)
    python = project / ".venv" / "bin" / "python"
    python.unlink()
    python.symlink_to("/no/such/python")
    assert "Making .venv" in run(project, "status", uv=uv).stderr


def test_of_two_at_once_one_makes_it_and_the_other_waits(project: Path, uv: Path) -> None:
    both = [
        subprocess.Popen(
            [project / "kap", "status"],
            env=environment(uv, UV_SLEEPS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert [call.split()[0] for call in calls(uv)] == ["venv", "pip"]
    assert sum("waiting for it" in errors for _, errors in said) == 1


def test_an_installation_that_fails_is_told_and_tried_again(project: Path, uv: Path) -> None:
    good = uv.read_text()
    uv.write_text('#!/bin/sh\necho "no route to the registry" >&2\nexit 3\n')
    failed = run(project, "status", uv=uv)
    assert failed.returncode == 1
    assert "no route to the registry" in failed.stderr
    assert "Run ./kap again" in failed.stderr
    uv.write_text(good)
    assert run(project, "status", uv=uv).returncode == 0


def test_no_python_is_told_in_a_sentence(project: Path, tmp_path: Path) -> None:
    tools = tmp_path / "only tools"
    tools.mkdir()
    for name in ("sh", "dirname", "cmp", "readlink"):
        (tools / name).symlink_to(shutil.which(name, path=SYSTEM))
    done = run(project, "status", PATH=str(tools), KAP_PYTHON="")
    assert done.returncode == 1
    assert "needs Python 3.11 or later" in done.stderr
    assert "Traceback" not in done.stderr


def test_it_works_from_another_folder_by_a_link(project: Path, uv: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "token.py").write_text("raise SystemExit('a file of the caller was imported')")
    (elsewhere / "kap").symlink_to(project / "kap")
    done = subprocess.run(
        [elsewhere / "kap", "up"], env=environment(uv), cwd=elsewhere, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert f"here: {elsewhere}" in done.stdout
