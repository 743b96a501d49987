"""`./kap policy`: say what a clinic's policy file changes, and whether it can be used."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from cli.terminal import problem
from shared.runtime.policy import Policy, PolicyError, load_policy, weakened

SHIPPED = "shipped"
FREE = ("source", "verified")

policy = typer.Typer(no_args_is_help=True, help="Check and compare policy files: what a clinic decides differently.")


@policy.command()
def check(file: Annotated[Path, typer.Argument(help="The clinic's policy file.")]) -> None:
    """Say whether a clinic's file can be used, what it changes, and what of it nobody has verified.

    Ends with 1 where the services would not start with it.
    """
    shipped, own = load_policy(), _usable(file)
    lines = list(differences(shipped.sections, own.sections))
    typer.echo(f"{file} can be used. Decisions will be recorded under {own.version}.")
    typer.echo(f"It changes {_count(len(lines), 'entry', 'entries')} of the shipped policy {shipped.version}:")
    for line in lines:
        typer.echo(f"  {line}")
    for name, why in own.acknowledged.items():
        typer.echo(f"It weakens what blocks absolutely, which every decision will say: {name}. {why}")
    open_ = sorted(set(_unverified(own.sections)) - set(_unverified(shipped.sections)))
    if open_:
        typer.echo(f"Not verified in its source, so to be signed off by a prescriber: {', '.join(open_)}.")


@policy.command()
def diff(
    first: Annotated[str, typer.Argument(help="A policy file, or 'shipped'.")],
    second: Annotated[str, typer.Argument(help="A policy file, or 'shipped'.")],
) -> None:
    """Say in sentences what the second policy decides differently from the first."""
    before, after = _named(first), _named(second)
    lines = list(differences(before.sections, after.sections))
    if not lines:
        typer.echo(f"{before.version} and {after.version} decide alike.")
        return
    typer.echo(f"From {before.version} to {after.version}:")
    for line in lines:
        typer.echo(f"  {line}")
    for name in weakened(before.sections, after.sections):
        typer.echo(f"  {name} blocks absolutely in the first, and less in the second.")


def differences(before: Any, after: Any, path: str = "") -> Iterator[str]:
    """Yield a sentence for each entry of a policy that differs."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key in [*before, *(key for key in after if key not in before)]:
            if key in FREE and before.get(key) == after.get(key):
                continue
            name = f"{path}.{key}" if path else str(key)
            if key not in after:
                yield f"{name} is gone; it was {_shown(before[key])}."
            elif key not in before:
                yield f"{name} is new: {_shown(after[key])}."
            else:
                yield from differences(before[key], after[key], name)
    elif before != after:
        gone = [one for one in before if one not in after] if _both_lists(before, after) else []
        new = [one for one in after if one not in before] if _both_lists(before, after) else []
        if gone or new:
            taken = f" loses {', '.join(map(_shown, gone))}" if gone else ""
            given = f" gains {', '.join(map(_shown, new))}" if new else ""
            yield f"{path}{taken}{' and' if gone and new else ''}{given}."
        else:
            yield f"{path} is {_shown(after)} instead of {_shown(before)}."


def _both_lists(before: object, after: object) -> bool:
    return isinstance(before, list) and isinstance(after, list)


def _shown(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_shown(one)}" for key, one in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_shown, value)) + "]"
    return "nothing" if value is None else str(value)


def _unverified(content: object, path: str = "") -> Iterator[str]:
    if isinstance(content, Mapping):
        if content.get("verified") is False:
            yield path
        for key, value in content.items():
            yield from _unverified(value, f"{path}.{key}" if path else str(key))


def _named(name: str) -> Policy:
    return load_policy() if name == SHIPPED else _usable(Path(name))


def _usable(file: Path) -> Policy:
    """Return a policy that every service starts with; else say why not, and end with 1."""
    from services.intake.service import intake
    from services.outcomes.service import outcomes
    from services.scheduling.service import scheduling
    from services.sessions.service import sessions

    try:
        own = load_policy(file)
        for factory in (intake, scheduling, sessions, outcomes):
            factory(own)
    except PolicyError as error:
        problem(str(error))
        raise typer.Exit(1) from None
    return own


def _count(number: int, one: str, more: str) -> str:
    return f"{number} {one if number == 1 else more}"
