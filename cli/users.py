"""`./kap users`: the people who log in at the local stack's issuer, and let apps in."""

from __future__ import annotations

import secrets
import sys
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Table

from cli.clients import asked
from cli.options import DATA, ClinicOption, DataOption, IssuerOption
from cli.terminal import out
from shared.security.scopes import MANAGE_USERS

users = typer.Typer(name="users", no_args_is_help=True, help="People who log in, and let apps in (SMART App Launch).")

PASSWORD_BYTES = 15

CodeOption = Annotated[
    bool, typer.Option("--totp/--no-totp", help="Ask for a one-time code of an authenticator app, too (default).")
]
PasswordOption = Annotated[
    bool, typer.Option("--password-stdin", help="Read the password from the standard input, instead of making one.")
]


@users.command("add")
def add(
    name: Annotated[str, typer.Argument(help="By which the person logs in.")],
    role: Annotated[str, typer.Argument(help="Of the policy's section access: patient, prescriber, ...")],
    user: Annotated[str, typer.Argument(metavar="TYPE/ID", help="Patient/ID of a patient, else Practitioner/ID.")],
    *,
    totp: CodeOption = True,
    password_stdin: PasswordOption = False,
    clinic: ClinicOption = None,
    issuer: IssuerOption = None,
    data: DataOption = DATA,
) -> None:
    """Add a person; prints the password, unless it was given, and what to put into an authenticator app."""
    password = _password(given=password_stdin)
    said = {"name": name, "role": role, "fhir_user": user, "password": password, "totp": totp}
    _tell(
        asked(data, MANAGE_USERS, "POST", "users", clinic=clinic, issuer=issuer, json=said).json(),
        None if password_stdin else password,
    )


@users.command("list")
def list_users(*, clinic: ClinicOption = None, issuer: IssuerOption = None, data: DataOption = DATA) -> None:
    """List them."""
    table = Table(box=None)
    for column in ("name", "role", "who", "one-time codes", ""):
        table.add_column(column)
    for one in asked(data, MANAGE_USERS, "GET", "users", clinic=clinic, issuer=issuer).json()["users"]:
        off = "disabled" if one.get("disabled") else ""
        codes = "yes" if one["one_time_codes"] else "no"
        table.add_row(escape(one["name"]), one["role"], one["fhir_user"], codes, off)
    out.print(table)


@users.command("reset")
def reset(
    name: Annotated[str, typer.Argument(help="By which the person logs in.")],
    *,
    totp: Annotated[bool, typer.Option("--totp", help="Make other one-time codes, too.")] = False,
    password_stdin: PasswordOption = False,
    clinic: ClinicOption = None,
    issuer: IssuerOption = None,
    data: DataOption = DATA,
) -> None:
    """Give a person another password, and let him in again; what he let apps do ends."""
    password = _password(given=password_stdin)
    told = asked(
        data,
        MANAGE_USERS,
        "POST",
        f"users/{name}",
        clinic=clinic,
        issuer=issuer,
        json={"password": password, "totp": totp},
    ).json()
    _tell(told, None if password_stdin else password)


@users.command("revoke")
def revoke(
    name: Annotated[str, typer.Argument(help="By which the person logs in.")],
    *,
    clinic: ClinicOption = None,
    issuer: IssuerOption = None,
    data: DataOption = DATA,
) -> None:
    """Let a person in no more, and end what he let apps do."""
    asked(data, MANAGE_USERS, "DELETE", f"users/{name}", clinic=clinic, issuer=issuer)
    out.print("He does not get in any more; what he let apps do is refused within 5 s.")


def _password(*, given: bool) -> str:
    return sys.stdin.readline().rstrip("\n") if given else secrets.token_urlsafe(PASSWORD_BYTES)


def _tell(told: dict[str, Any], password: str | None) -> None:
    if password is not None:
        typer.echo(password)
    if "totp" in told:
        typer.echo(told["totp"])
