"""`./kap token`: a bearer token for the local stack."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any

import httpx
import typer

from cli.options import DATA, ClinicOption, DataOption, IssuerOption
from cli.running import running
from cli.stack.operator import OperatorAuth, OperatorKey, Wanted
from cli.stack.ports import GATEWAY
from cli.stack.problem import StackProblem
from cli.stack.stack import Stack
from cli.terminal import problem
from shared.runtime.policy import load_policy
from shared.security.roles import AccessPolicy, Role


def token(
    role: Annotated[
        str | None,
        typer.Argument(help="Of the policy's section access: clinic-admin, prescriber, ... None with --scope."),
    ] = None,
    *,
    user: Annotated[str | None, typer.Option(metavar="TYPE/ID", help="Whose it is, such as Practitioner/ID.")] = None,
    patient: Annotated[str | None, typer.Option(metavar="ID", help="The patient of scopes patient/...")] = None,
    scope: Annotated[
        str | None, typer.Option(help="SMART scopes, separated by spaces; with a role, some of the role's.")
    ] = None,
    issuer: IssuerOption = None,
    json_: Annotated[bool, typer.Option("--json", help="The issuer's whole answer.")] = False,
    clinic: ClinicOption = None,
    data: DataOption = DATA,
) -> None:
    """Print a bearer token for the local stack, good for an hour.

    curl -H "Authorization: Bearer $(./kap token prescriber)" http://127.0.0.1:8000/fhir/Patient
    """
    known = load_policy().section("access", AccessPolicy)
    if role is None and scope is None:
        raise StackProblem(f"Name a role ({', '.join(known)}), or --scope.")
    lacking = None if role not in known else lacks(known[role], role, user, patient)
    if lacking is not None:
        raise StackProblem(lacking)
    patient = None if patient is None else patient.removeprefix("Patient/")
    wanted = Wanted(role=role, user=user, patient=patient, scope=scope, clinic=clinic)
    if issuer is not None:
        _tell(OperatorAuth(issuer.rstrip("/"), OperatorKey(data), wanted).token(), whole=json_)
        return
    stack = running(data)
    auth = stack.auth(wanted)
    if auth is None:
        problem("This stack runs with --no-auth, and a request needs no token. ./kap up --auth starts one that does.")
        raise typer.Exit(1)
    told = auth.token()
    if patient is not None and clinic is None and is_missing(stack, patient):
        problem(f"There is no Patient/{patient} in the record (now): this token shows nothing.")
    _tell(told, whole=json_)


def _tell(told: Mapping[str, Any], *, whole: bool) -> None:
    typer.echo(json.dumps(told, indent=2) if whole else told["access_token"])


def lacks(role: Role, name: str, user: str | None, patient: str | None) -> str | None:
    """Say which option a token of a role needs beside those that were given; None: it has all."""
    if not role.needs_user or user is not None:
        return None
    if any(scope.startswith("patient/") for scope in role.scopes):
        return (
            None if patient is not None else f"A token of the role {name} is for one patient: name him, --patient ID."
        )
    return f"A token of the role {name} has to say whose it is: --user TYPE/ID, such as --user Practitioner/ID."


def is_missing(stack: Stack, patient: str) -> bool:
    """Tell whether the gateway knows of no such patient; where it does not answer nobody knows."""
    url = f"{stack.ports().fhir(GATEWAY)}/Patient/{patient}"
    try:
        answer = httpx.get(url, auth=stack.auth(), trust_env=False, timeout=10.0)
    except httpx.TransportError:
        return False
    return answer.status_code in {httpx.codes.NOT_FOUND, httpx.codes.GONE}
