"""Make `.venv` from a lock file: what `./kap` does first. Standard library only: nothing is installed yet.

    python tools/environment.py local|test

It may be interrupted at any moment and started several times at once. One process works, the others wait for it. A
`.venv` that was left half made carries a mark and is made anew; one that is whole carries a copy of the lock it was
made from. A `.venv` that somebody else made is added to.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
EXTRAS = ("local", "test")
MARK = "kap-unfinished"
MAKING = "making"  # cut short: made anew
ADDING = "adding"  # cut short: what the lock names is installed over what is there


class EnvironmentProblem(Exception):
    """The environment could not be made; the message is for the person who asked for it."""


def lock_file(root: Path, extra: str) -> Path:
    """Return the lock file of an extra."""
    return root / f"requirements-{extra}.lock"


def stamp(venv: Path, extra: str) -> Path:
    """Return the copy of the lock that says: this extra is installed, whole."""
    return venv / f"kap-{extra}.lock"


def is_current(root: Path, extra: str) -> bool:
    """Return whether `.venv` holds what the lock of `extra` asks for."""
    venv = root / ".venv"
    try:
        return runs(venv / "bin" / "python") and stamp(venv, extra).read_bytes() == lock_file(root, extra).read_bytes()
    except FileNotFoundError:
        return False


def runs(python: Path) -> bool:
    """Return whether this interpreter is there, starts, and is new enough."""
    try:
        done = subprocess.run(
            [python, "-I", "-c", "import sys; sys.exit(sys.version_info < (3, 11))"], capture_output=True, check=False
        )
    except OSError:
        return False
    return done.returncode == 0


def make(root: Path, extra: str) -> None:
    """Bring `root/.venv` up to date for `extra`.

    Raises:
        EnvironmentProblem: it cannot be; the message says why.

    """
    with (root / ".venv.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another ./kap is making .venv; waiting for it.")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if is_current(root, extra):
            return
        _make(root, extra)


def _make(root: Path, extra: str) -> None:
    venv = root / ".venv"
    begun = time.monotonic()
    uv = shutil.which("uv") or _own_uv(venv)
    mark = venv / MARK
    cut_short = mark.read_text() if mark.exists() else None
    if cut_short == MAKING or not runs(venv / "bin" / "python"):
        say(f"Making .venv with Python {sys.version_info.major}.{sys.version_info.minor} (once; a minute or so).")
        remove(venv)
        venv.mkdir()
        mark.write_text(MAKING)
        _create(venv, uv)
    else:
        say(f"Bringing .venv up to date with {lock_file(root, extra).name}.")
        mark.write_text(ADDING)
    for other in EXTRAS:
        stamp(venv, other).unlink(missing_ok=True)
    lock = lock_file(root, extra)
    wanted = lock.read_bytes()
    uv = uv or _bring_uv(venv, lock)
    _install(venv, lock, uv, again=cut_short == ADDING)
    for installed in EXTRAS[: EXTRAS.index(extra) + 1]:  # `test` contains `local`, in the same versions
        source = wanted if installed == extra else lock_file(root, installed).read_bytes()
        stamp(venv, installed).write_bytes(source)
    mark.unlink()
    say(f".venv is ready ({time.monotonic() - begun:.0f} s, by {'uv' if uv else 'pip'}).")


def _create(venv: Path, uv: str | None) -> None:
    if uv:
        # --allow-existing: the folder is ours, and holds the mark.
        _run([uv, "venv", "--quiet", "--allow-existing", "--python", sys.executable, str(venv)])
    else:
        _run([sys.executable, "-m", "venv", "--without-pip", str(venv)])


def _own_uv(venv: Path) -> str | None:
    own = venv / "bin" / "uv"
    whole = not (venv / MARK).exists()
    return str(own) if whole and _works(own) else None


def _bring_uv(venv: Path, lock: Path) -> str | None:
    """Install uv by pip, as the lock pins it; None where this machine cannot have it, and pip does everything."""
    pin = re.search(r"^uv==.*(?:\n[ \t].*)*", lock.read_text(encoding="utf-8"), re.MULTILINE)
    if pin is None:
        return None
    with tempfile.NamedTemporaryFile("w", suffix=".lock", encoding="utf-8") as only_uv:
        only_uv.write(pin.group(0) + "\n")
        only_uv.flush()
        command = [*_pip(venv), "--only-binary", ":all:", "--require-hashes", "-r", only_uv.name]
        done = subprocess.run(command, env=_environment(), stdin=subprocess.DEVNULL, capture_output=True, check=False)
    own = venv / "bin" / "uv"
    return str(own) if done.returncode == 0 and _works(own) else None


def _works(program: Path) -> bool:
    try:
        return subprocess.run([program, "--version"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def _pip(venv: Path) -> list[str]:
    """Return the beginning of a pip command that installs into `venv`: by this Python's pip, else by one of its own."""
    python = str(venv / "bin" / "python")
    options = ["install", "--quiet", "--disable-pip-version-check", "--no-input"]
    if _has_pip(sys.executable, "--python", python):
        return [sys.executable, "-m", "pip", "--python", python, *options]
    if not _has_pip(python):
        try:
            _run([python, "-m", "ensurepip", "--default-pip"])
        except EnvironmentProblem as problem:
            raise EnvironmentProblem(
                f"{problem}\nThis Python has no pip. On Debian and Ubuntu: install python3-venv or python3-pip. Or "
                "install uv, which needs nothing of it."
            ) from None
    return [python, "-m", "pip", *options]


def _install(venv: Path, lock: Path, uv: str | None, *, again: bool) -> None:
    """Install what the lock names; `again`: also what seems to be there, for it may be half there."""
    python = str(venv / "bin" / "python")
    command = [uv, "pip", "install", "--quiet", "--compile-bytecode", "--python", python] if uv else _pip(venv)
    if again:
        command.append("--reinstall" if uv else "--force-reinstall")
    _run([*command, "--require-hashes", "-r", str(lock)])


def _has_pip(python: str, *options: str) -> bool:
    command = [python, "-m", "pip", *options, "--version"]
    return subprocess.run(command, env=_environment(), capture_output=True, check=False).returncode == 0


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, env=_environment(), stdin=subprocess.DEVNULL)
    except OSError as error:
        raise EnvironmentProblem(f"{command[0]} does not start: {error.strerror}.") from error
    except subprocess.CalledProcessError as error:
        raise EnvironmentProblem(
            f"'{' '.join(command[:4])} ...' ended with code {error.returncode}; its own words are above. "
            "Run ./kap again when the cause is gone: it starts from where it can."
        ) from None


def _environment() -> dict[str, str]:
    environment = {name: value for name, value in os.environ.items() if name not in {"PYTHONPATH", "PYTHONHOME"}}
    environment["PYTHONSAFEPATH"] = "1"  # a token.py in the caller's folder is not Python's
    return environment


def remove(venv: Path) -> None:
    """Remove an unfinished environment; its mark goes last, so that a second interruption is seen too."""
    if venv.is_symlink() or not venv.is_dir():
        venv.unlink(missing_ok=True)
        return
    for entry in venv.iterdir():
        if entry.name == MARK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    shutil.rmtree(venv)


def say(sentence: str) -> None:
    """Tell the person; the command's own output stays clean."""
    print(f"kap: {sentence}", file=sys.stderr, flush=True)


def main(arguments: Sequence[str]) -> int:
    """Make the environment of the extra that is named."""
    if len(arguments) != 1 or arguments[0] not in EXTRAS:
        say(f"usage: environment.py {'|'.join(EXTRAS)}")
        return 2
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        make(ROOT, arguments[0])
    except KeyboardInterrupt:
        say("Interrupted. The next ./kap finishes .venv.")
        return 130
    except EnvironmentProblem as problem:
        say(str(problem))
        return 1
    except OSError as error:
        say(f"{error.filename or ROOT}: {error.strerror}. ./kap keeps its Python environment in {ROOT / '.venv'}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
