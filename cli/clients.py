"""`./kap clients`: the programs that may ask the local stack's issuer for tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.table import Table

from cli.options import DATA, DataOption
from cli.running import running
from cli.stack.operator import Wanted
from cli.stack.problem import StackProblem
from cli.terminal import out
from shared.security.scopes import MANAGE_CLIENTS

clients = typer.Typer(name="clients", no_args_is_help=True, help="Programs that may ask for tokens; the issuer's keys.")


@clients.command("add")
def add(
    name: Annotated[str, typer.Argument(help="What it is called.")],
    *,
    jwks: Annotated[Path | None, typer.Option(metavar="FILE", help="Its public keys, a JWKS file.")] = None,
    jwks_uri: Annotated[str | None, typer.Option(metavar="URL", help="Where its public keys are.")] = None,
    scope: Annotated[str | None, typer.Option(help="SMART scopes that it may ask for, separated by spaces.")] = None,
    role: Annotated[str | None, typer.Option(help="A role of the policy's section access.")] = None,
    user: Annotated[str | None, typer.Option(metavar="TYPE/ID", help="Whose it is, such as Practitioner/ID.")] = None,
    data: DataOption = DATA,
) -> None:
    """Register a Backend Services client (private_key_jwt); prints its client id."""
    said: dict[str, Any] = {"client_name": name, "jwks_uri": jwks_uri, "scope": scope, "kap_role": role}
    said["kap_user"] = user
    if jwks is not None:
        try:
            said["jwks"] = json.loads(jwks.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise StackProblem(f"{jwks} is not a JWKS: {error}") from None
    given = {key: value for key, value in said.items() if value is not None}
    typer.echo(_asked(data, "POST", "register", json=given).json()["client_id"])


@clients.command("list")
def list_clients(*, data: DataOption = DATA) -> None:
    """List them."""
    table = Table(box=None)
    for column in ("client id", "name", "role", "scope", ""):
        table.add_column(column)
    for one in _asked(data, "GET", "clients").json()["clients"]:
        off = "disabled" if one.get("kap_disabled") else ""
        table.add_row(one["client_id"], one["client_name"], one.get("kap_role", ""), one.get("scope", ""), off)
    out.print(table)


@clients.command("remove")
def remove(client: Annotated[str, typer.Argument(help="Its client id.")], *, data: DataOption = DATA) -> None:
    """Give a client no more tokens, and take back those it has."""
    _asked(data, "DELETE", f"clients/{client}")
    out.print("It gets no more tokens; those it had are refused within 5 s.")


@clients.command("turn-keys")
def turn_keys(
    *,
    compromised: Annotated[
        bool, typer.Option(help="Publish the old ones no more: what they signed ends soon.")
    ] = False,
    data: DataOption = DATA,
) -> None:
    """Have the issuer sign with a new key."""
    told = _asked(data, "POST", f"keys?compromised={'true' if compromised else 'false'}").json()
    out.print(f"The new key is {told['kid']}.", markup=False)


def _asked(data: Path, method: str, what: str, **more: Any) -> httpx.Response:
    stack = running(data)
    auth = stack.auth(Wanted(scope=MANAGE_CLIENTS))
    if auth is None:
        raise StackProblem("This stack runs with --no-auth, and has no issuer of tokens. ./kap up --auth starts one.")
    url = f"{stack.ports().url('identity')}/auth/{what}"
    try:
        with httpx.Client(timeout=10.0, trust_env=False, auth=auth) as client:
            answer = client.request(method, url, **more)
    except httpx.TransportError:
        raise StackProblem(f"The issuer of tokens does not answer at {url}. ./kap status") from None
    if not answer.is_success:
        said = answer.json().get("error_description", answer.text[:200])
        raise StackProblem(f"The issuer refuses ({answer.status_code}): {said}")
    return answer
