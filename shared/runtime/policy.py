"""The clinic's policy: every clinical number, code list, schedule and limit, from versioned YAML, each with its source.

The files of `policies/` are what the project ships. A clinic overrides them by one file of its own (setting
`KAP_POLICY`)::

    version: "3"
    clinic: example
    sections:
      gate:
        blood_pressure_age: {minutes: 20, source: "Medical director, 2026-10-01", verified: true}

Mappings are merged entry by entry, everything else is replaced. A section is read into the form that the service's
`rules.py` declares; an entry it does not know, or one without `source` and `verified`, is refused at start.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

FOLDER: Final = Path(__file__).resolve().parents[2] / "policies"

T = TypeVar("T")


class PolicyError(Exception):
    """The policy cannot be read or understood; the message is for the person who edits it."""


@dataclass(frozen=True, slots=True)
class Policy:
    """A policy as loaded.

    Attributes:
        version: the shipped version, and the clinic's behind a plus sign: ``2026.11.1+example.3``. Recorded on every
            decision.
        sections: by name (the file's name without its ending) what the files say, merged.

    """

    version: str
    sections: Mapping[str, Any]

    def section(self, name: str, form: type[T]) -> T:
        """Return a section in the form a service's rules declare.

        Raises:
            PolicyError: there is none, or something in it is missing, unknown or of the wrong kind; names the entry.

        """
        if name not in self.sections:
            raise PolicyError(f"The policy has no section '{name}'.")
        try:
            return msgspec.convert(self.sections[name], form)
        except msgspec.ValidationError as error:
            raise PolicyError(f"The policy's section '{name}' cannot be used: {error}.") from None


def load_policy(override: Path | None = None, *, folder: Path = FOLDER) -> Policy:
    """Return the shipped policy, with a clinic's file over it where one is given.

    Raises:
        PolicyError: a file is missing, is not YAML, names no version, or overrides a section that does not exist.

    """
    manifest = _read(folder / "policy.yaml")
    version = _text(manifest, "version", folder / "policy.yaml")
    sections: dict[str, Any] = {
        path.relative_to(folder).with_suffix("").as_posix(): _read(path)
        for path in sorted(folder.rglob("*.yaml"))
        if path.name != "policy.yaml"
    }
    if override is None:
        return Policy(version, sections)
    clinic = _read(override)
    own = f"{_text(clinic, 'clinic', override)}.{_text(clinic, 'version', override)}"
    changes = clinic.get("sections", {})
    if not isinstance(changes, dict):
        raise PolicyError(f"{override}: 'sections' must be a mapping of section names.")
    for name, change in changes.items():
        if name not in sections:
            raise PolicyError(f"{override}: there is no section '{name}'. There are: {', '.join(sorted(sections))}.")
        sections[name] = _merged(sections[name], change)
    return Policy(f"{version}+{own}", sections)


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise PolicyError(f"The policy file {path} cannot be read: {error.strerror}.") from None
    except yaml.YAMLError as error:
        raise PolicyError(f"The policy file {path} is not YAML: {error}.") from None
    if not isinstance(content, dict):
        raise PolicyError(f"The policy file {path} must be a mapping.")
    return content


def _text(content: Mapping[str, Any], name: str, path: Path) -> str:
    value = content.get(name)
    if not isinstance(value, str | int) or value == "":
        raise PolicyError(f"The policy file {path} names no '{name}'.")
    return str(value)


def _merged(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return {**below, **{key: _merged(below.get(key), value) for key, value in above.items()}}
    return above
