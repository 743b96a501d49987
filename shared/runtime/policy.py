"""The clinic's policy: every clinical number, code list, schedule and limit, from versioned YAML, each with its source.

The files of `policies/` are what the project ships. A clinic overrides them by one file of its own (setting
`KAP_POLICY`)::

    version: "3"
    clinic: example
    sections:
      gate:
        blood_pressure_age: {minutes: 20, source: "Medical director, 2026-10-01", verified: true}
    acknowledged:
      eligibility.rules.E12: "Medical director, 2026-10-01: why this absolute rule is changed"

Mappings are merged entry by entry, everything else is replaced. A section is read into the form that the service's
`rules` declare; an entry it does not know, or one without `source` and `verified`, is refused at start. What makes an
absolute rule weaker or takes it away must be acknowledged by its name, with a reason; else the file is refused.
`./kap policy check FILE` and `./kap policy diff A B` say what a file changes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from pathlib import Path
from typing import Any, Final, TypeVar

import msgspec
import yaml

FOLDER: Final = Path(__file__).resolve().parents[2] / "policies"
DIGITS: Final = 12
"""How much of the digest of a clinic's own file stands in the version."""

WIDTH: Final = 120
KEPT: Final = 8
"""How many policies of earlier decisions are kept after they were read: to read one takes longer than to decide."""

_Dumper: Any = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

T = TypeVar("T")


class PolicyError(Exception):
    """The policy cannot be read or understood; the message is for the person who edits it."""


@dataclass(frozen=True)
class Policy:
    """A policy as loaded.

    Attributes:
        version: the shipped version, and the clinic's behind a plus sign, with the first digits of its content's
            digest: ``2026.11.1+example.3.1f0c...``. Recorded on every decision.
        sections: by name (the file's name without its ending) what the files say, merged.
        acknowledged: the absolute rules that the clinic weakened, each with its reason.

    """

    version: str
    sections: Mapping[str, Any]
    acknowledged: Mapping[str, str] = field(default_factory=dict)

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

    @cached_property
    def content(self) -> str:
        """The whole policy as one YAML text, from which `Policy.of_content` makes it again, in its order."""
        whole = {"version": self.version, "sections": dict(self.sections), "acknowledged": dict(self.acknowledged)}
        return str(yaml.dump(whole, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=WIDTH))

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the content, in hex: names exactly this policy."""
        return hashlib.sha256(self.content.encode()).hexdigest()

    @classmethod
    def of_content(cls, content: str) -> Policy:
        """Return the policy that has this content; the last few are kept, and shared by all who ask."""
        return _read_again(content)


@lru_cache(maxsize=KEPT)
def _read_again(content: str) -> Policy:
    whole = yaml.load(content, Loader=_Loader)  # noqa: S506 - a safe one, in C where there is libyaml
    return Policy(whole["version"], whole["sections"], whole["acknowledged"])


def load_policy(override: Path | None = None, *, folder: Path = FOLDER) -> Policy:
    """Return the shipped policy, with a clinic's file over it where one is given.

    What is shipped is read once in a process, and shared by all who ask.

    Raises:
        PolicyError: a file is missing, is not YAML, names no version, overrides a section that does not exist, or
            weakens an absolute rule without acknowledging it.

    """
    shipped = _shipped(folder)
    return shipped if override is None else _overridden(shipped, override)


@cache
def _shipped(folder: Path) -> Policy:
    manifest = _read(folder / "policy.yaml")
    version = _text(manifest, "version", folder / "policy.yaml")
    sections: dict[str, Any] = {
        path.relative_to(folder).with_suffix("").as_posix(): _read(path)
        for path in sorted(folder.rglob("*.yaml"))
        if path.name != "policy.yaml"
    }
    return Policy(version, sections)


def _overridden(shipped: Policy, override: Path) -> Policy:
    clinic = _read(override)
    unknown = sorted(set(clinic) - {"version", "clinic", "sections", "acknowledged"})
    if unknown:
        raise PolicyError(
            f"{override}: '{unknown[0]}' is not known. There are: version, clinic, sections, acknowledged."
        )
    own = f"{_text(clinic, 'clinic', override)}.{_text(clinic, 'version', override)}"
    sections = dict(shipped.sections)
    for name, change in _mapping(clinic, "sections", override).items():
        if name not in sections:
            raise PolicyError(f"{override}: there is no section '{name}'. There are: {', '.join(sorted(sections))}.")
        sections[name] = _merged(sections[name], change)
    acknowledged = {str(name): str(why) for name, why in _mapping(clinic, "acknowledged", override).items()}
    weaker = list(weakened(shipped.sections, sections))
    silent = [name for name in weaker if not acknowledged.get(name, "").strip()]
    if silent:
        raise PolicyError(
            f"{override} weakens or takes away what blocks absolutely: {', '.join(silent)}. If that is meant, name "
            "each under 'acknowledged' with who decided it and why; it is then recorded with every decision."
        )
    idle = sorted(set(acknowledged) - set(weaker))
    if idle:
        raise PolicyError(f"{override} acknowledges {', '.join(idle)}, which it does not weaken. Take that out.")
    made = Policy(f"{shipped.version}+{own}", sections, acknowledged)
    return Policy(f"{made.version}.{made.digest[:DIGITS]}", sections, acknowledged)


# -- what blocks absolutely -------------------------------------------------------------------------------------------

GRAVEST: Final = ("A", "R", "I")
_FREE: Final = frozenset(("title", "advice", "effect", "source", "verified"))
"""What may be said differently without deciding differently."""
_SETS: Final = ("conditions", "history", "allergies", "medications")


def weakened(shipped: Mapping[str, Any], merged: Mapping[str, Any]) -> Iterator[str]:
    """Yield the names of the absolute rules and interactions that `merged` weakens, and of the value sets they use.

    Weaker is whatever differs and does not plainly add: a graver severity and more codes, sets and words add.
    """
    rules = {
        f"eligibility.rules.{name}": (rule, merged["eligibility"].get("rules", {}).get(name))
        for name, rule in shipped.get("eligibility", {}).get("rules", {}).items()
    } | {
        f"interactions.{name}": (rule, merged["interactions"].get(name))
        for name, rule in shipped.get("interactions", {}).items()
    }
    used: set[str] = set()
    for name, (before, after) in rules.items():
        if "A" not in _severities(before):
            continue
        used |= {set_ for element in _SETS for set_ in before.get(element, [])} | set(before.get("graver", {}))
        used |= {sign["set"] for sign in before.get("observations", [])} | set(before.get("recent", {}).get("sets", []))
        if not isinstance(after, dict) or any(
            _is_weaker(key, before.get(key), after.get(key)) for key in (before.keys() | after.keys()) - _FREE
        ):
            yield name
    for name in sorted(used):
        before, after = shipped["value-sets"].get(name, {}), merged["value-sets"].get(name)
        if not isinstance(after, dict) or any(_lost(before.get(key), after.get(key)) for key in ("codes", "words")):
            yield f"value-sets.{name}"


def _severities(rule: Mapping[str, Any]) -> set[str]:
    said = rule.get("severity")
    return {*(said.values() if isinstance(said, dict) else [str(said)]), *rule.get("graver", {}).values()}


def _is_weaker(key: str, before: Any, after: Any) -> bool:
    if before == after:
        return False
    if key in ("severity", "graver"):
        return _is_milder(before, after)
    if isinstance(before, list):
        return _lost(before, after)
    return not (before is None and isinstance(after, list))


def _is_milder(before: Any, after: Any) -> bool:
    if isinstance(after, str):
        gravest = before.values() if isinstance(before, dict) else [before]
        return any(GRAVEST.index(after) > GRAVEST.index(one) for one in gravest)
    if isinstance(before, dict) and isinstance(after, dict):
        return any(
            key not in after or GRAVEST.index(after[key]) > GRAVEST.index(one) for key, one in before.items()
        ) or (any(one != "A" for key, one in after.items() if key not in before))
    return True


def _lost(before: Any, after: Any) -> bool:
    kept: Iterable[Any] = after or []
    return any(one not in kept for one in before or [])


# -- reading ----------------------------------------------------------------------------------------------------------


def _mapping(content: Mapping[str, Any], name: str, path: Path) -> Mapping[Any, Any]:
    value = content.get(name, {})
    if not isinstance(value, dict):
        raise PolicyError(f"{path}: '{name}' must be a mapping.")
    return value


def _read(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # noqa: S506 - a safe one
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
