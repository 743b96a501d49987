"""A code system or value set as it was read from a user's file, before it is stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


class CannotRead(Exception):
    """A file is not what it was taken for, or holds what cannot be used; the message is for the person who loads it."""


@dataclass(frozen=True, slots=True)
class LoadedCode:
    """What is known of one code."""

    display: str
    active: bool = True


@dataclass(frozen=True, slots=True)
class CodeSystemRelease:
    """A whole code system: its codes, and for each the codes directly above it, as (code, parent)."""

    url: str
    version: str
    title: str
    sha256: str
    concepts: Mapping[str, LoadedCode]
    parents: frozenset[tuple[str, str]]


@dataclass(frozen=True, slots=True)
class ValueSetRelease:
    """A ValueSet resource; its codes are its expansion, or computed from its `compose` when it is stored."""

    url: str
    version: str
    title: str
    sha256: str
    compose: Mapping[str, Any] = field(default_factory=dict)
    expansion: Mapping[str, Any] | None = None
