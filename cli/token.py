"""`./kap token`: a bearer token for the local stack."""

from __future__ import annotations

from typing import Annotated

import typer

from cli.terminal import problem


def token(
    scope: Annotated[str, typer.Option(help="SMART scopes, separated by spaces.")] = "system/*.cruds",
) -> None:
    """Print a bearer token for the local stack: not yet; exit code 1.

    This version has no tokens: the stack runs open to everybody on this machine (--no-auth), and a request needs none.
    """
    problem(
        f"There are no tokens yet, for '{scope}' or any other scope. The local stack runs with --no-auth, which is the "
        "only mode of this version: send requests without an Authorization header."
    )
    raise typer.Exit(1)
