"""`./kap clients`: the programs and apps that may ask the local stack's issuer for tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import httpx
import typer
from rich.markup import escape
from rich.table import Table

from cli.options import DATA, ClinicOption, DataOption, IssuerOption
from cli.running import running
from cli.stack.operator import OperatorAuth, OperatorKey, Wanted
from cli.stack.problem import StackProblem
from cli.terminal import out
from shared.security.scopes import MANAGE_CLIENTS

ID_LENGTH = 36

clients = typer.Typer(name="clients", no_args_is_help=True, help="Programs that may ask for tokens; the issuer's keys.")


@clients.command("add")
def add(  # noqa: PLR0913 - the command's options, all by name
    name: Annotated[str, typer.Argument(help="What it is called.")],
    *,
    jwks: Annotated[Path | None, typer.Option(metavar="FILE", help="Its public keys, a JWKS file.")] = None,
    jwks_uri: Annotated[str | None, typer.Option(metavar="URL", help="Where its public keys are.")] = None,
    scope: Annotated[str | None, typer.Option(help="SMART scopes that it may ask for, separated by spaces.")] = None,
    role: Annotated[str | None, typer.Option(help="A role of the policy's section access.")] = None,
    user: Annotated[str | None, typer.Option(metavar="TYPE/ID", help="Whose it is, such as Practitioner/ID.")] = None,
    redirect: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="An app that people log in to: where they come back to, letter for letter."),
    ] = None,
    secret: Annotated[
        bool, typer.Option("--secret", help="An app that can keep a secret; it is printed once, after the id.")
    ] = False,
    clinic: ClinicOption = None,
    issuer: IssuerOption = None,
    data: DataOption = DATA,
) -> None:
    """Register a client; prints its client id.

    With --redirect an app that people log in to (App Launch with PKCE): public, or with --secret, --jwks or --jwks-uri.
    Without, a Backend Services client (private_key_jwt).
    """
    said: dict[str, Any] = {"client_name": name, "jwks_uri": jwks_uri, "scope": scope, "kap_role": role}
    said["kap_user"] = user
    said["jwks"] = None if jwks is None else _read(jwks)
    if redirect:
        own = "client_secret_basic" if secret else "none" if jwks is None and jwks_uri is None else "private_key_jwt"
        said |= {"redirect_uris": redirect, "token_endpoint_auth_method": own}
        said["grant_types"] = ["authorization_code", "refresh_token"]
    elif secret:
        raise StackProblem("--secret is of an app that people log in to: give --redirect, too.")
    given = {key: value for key, value in said.items() if value is not None}
    told = asked(data, MANAGE_CLIENTS, "POST", "register", clinic=clinic, issuer=issuer, json=given).json()
    typer.echo(told["client_id"])
    if secret:
        typer.echo(told["client_secret"])


@clients.command("list")
def list_clients(*, clinic: ClinicOption = None, issuer: IssuerOption = None, data: DataOption = DATA) -> None:
    """List them."""
    table = Table(box=None)
    table.add_column("client id", no_wrap=True, min_width=ID_LENGTH)  # is copied into commands
    for column in ("name", "role", "scope", "comes back to", ""):
        table.add_column(column, overflow="fold")
    for one in asked(data, MANAGE_CLIENTS, "GET", "clients", clinic=clinic, issuer=issuer).json()["clients"]:
        off, back = "disabled" if one.get("kap_disabled") else "", " ".join(one.get("redirect_uris", ()))
        said = (one["client_name"], one.get("kap_role", ""), one.get("scope", ""), back, off)
        table.add_row(one["client_id"], *(escape(text) for text in said))
    out.print(table)


@clients.command("revoke")
@clients.command("remove", hidden=True)
def revoke(
    client: Annotated[str, typer.Argument(help="Its client id.")],
    *,
    clinic: ClinicOption = None,
    issuer: IssuerOption = None,
    data: DataOption = DATA,
) -> None:
    """Give a client no more tokens, and take back those it has."""
    asked(data, MANAGE_CLIENTS, "DELETE", f"clients/{client}", clinic=clinic, issuer=issuer)
    out.print("It gets no more tokens; those it had are refused within 5 s.")


@clients.command("rotate")
def rotate(
    client: Annotated[str, typer.Argument(help="Its client id.")],
    *,
    jwks: Annotated[Path | None, typer.Option(metavar="FILE", help="Its new public keys, a JWKS file.")] = None,
    jwks_uri: Annotated[str | None, typer.Option(metavar="URL", help="Where its new public keys are.")] = None,
    clinic: ClinicOption = None,
    issuer: IssuerOption = None,
    data: DataOption = DATA,
) -> None:
    """Give a client another secret (printed once) or other keys; the old ones count no more."""
    said = {"jwks": None if jwks is None else _read(jwks), "jwks_uri": jwks_uri}
    given = {key: value for key, value in said.items() if value is not None}
    told = asked(
        data, MANAGE_CLIENTS, "POST", f"clients/{client}/rotate", clinic=clinic, issuer=issuer, json=given
    ).json()
    typer.echo(told.get("client_secret", "Its new keys count from now on."))


@clients.command("turn-keys")
def turn_keys(
    *,
    compromised: Annotated[
        bool, typer.Option(help="Publish the old ones no more: what they signed ends soon.")
    ] = False,
    issuer: IssuerOption = None,
    data: DataOption = DATA,
) -> None:
    """Have the issuer sign with a new key."""
    told = asked(
        data, MANAGE_CLIENTS, "POST", f"keys?compromised={'true' if compromised else 'false'}", issuer=issuer
    ).json()
    out.print(f"The new key is {told['kid']}.", markup=False)


def _read(jwks: Path) -> Any:
    try:
        return json.loads(jwks.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StackProblem(f"{jwks} is not a JWKS: {error}") from None


def asked(
    data: Path,
    scope: str,
    method: str,
    what: str,
    *,
    clinic: str | None = None,
    issuer: str | None = None,
    **more: Any,
) -> httpx.Response:
    """Return what the running stack's issuer (or `issuer`) answers to who may ask it by `scope`.

    Raises:
        StackProblem: it does not answer, or refuses.

    """
    wanted = Wanted(scope=scope, clinic=clinic)
    if issuer is None:
        stack = running(data)
        auth, base = stack.auth(wanted), stack.ports().url("identity")
    else:
        base = issuer.rstrip("/")
        auth = OperatorAuth(base, OperatorKey(data), wanted)
    if auth is None:
        raise StackProblem("This stack runs with --no-auth, and has no issuer of tokens. ./kap up --auth starts one.")
    url = f"{base}/auth/{what}"
    try:
        with httpx.Client(timeout=10.0, trust_env=False, auth=auth) as client:
            answer = client.request(method, url, **more)
    except httpx.TransportError:
        raise StackProblem(f"The issuer of tokens does not answer at {url}. ./kap status") from None
    if not answer.is_success:
        said = answer.json().get("error_description", answer.text[:200])
        raise StackProblem(f"The issuer refuses ({answer.status_code}): {said}")
    return answer
