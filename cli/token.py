"""`./kap token`: a bearer token for the local stack."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from cli.options import DATA, DataOption
from cli.stack.operator import Wanted
from cli.stack.stack import Stack
from cli.terminal import problem
from shared.runtime.policy import load_policy
from shared.security.roles import AccessPolicy


def token(
    role: Annotated[
        str | None,
        typer.Argument(help="Of the policy's section access: clinic-admin, prescriber, ... None with --scope."),
    ] = None,
    *,
    user: Annotated[str | None, typer.Option(metavar="TYPE/ID", help="Whose it is: Practitioner/[id].")] = None,
    patient: Annotated[str | None, typer.Option(metavar="ID", help="The patient of scopes patient/...")] = None,
    scope: Annotated[
        str | None, typer.Option(help="SMART scopes, separated by spaces; with a role, some of the role's.")
    ] = None,
    json_: Annotated[bool, typer.Option("--json", help="The issuer's whole answer.")] = False,
    data: DataOption = DATA,
) -> None:
    """Print a bearer token for the local stack, good for an hour.

    curl -H "Authorization: Bearer $(./kap token prescriber)" http://127.0.0.1:8000/fhir/Patient
    """
    if role is None and scope is None:
        known = load_policy().section("access", AccessPolicy)
        problem(f"Name a role ({', '.join(known)}), or --scope.")
        raise typer.Exit(1)
    auth = Stack(data).auth(Wanted(role=role, user=user, patient=patient, scope=scope))
    if auth is None:
        problem("This stack runs with --no-auth, and a request needs no token. ./kap up --auth starts one that does.")
        raise typer.Exit(1)
    told = auth.token()
    typer.echo(json.dumps(told, indent=2) if json_ else told["access_token"])
