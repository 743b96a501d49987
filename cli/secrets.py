"""`./kap secrets`: what the containers have to know and nobody else: passwords, keys, made once, a file each."""

from __future__ import annotations

import base64
import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import typer

from cli.stack.databases import NOTES
from cli.stack.operator import OperatorKey
from cli.stack.ports import HOSPITAL, IDENTITY, SERVICES
from cli.stack.problem import StackProblem
from shared.security.envelope import new_key

CONTAINED: Final = (IDENTITY, *(name for name in SERVICES if name != HOSPITAL))
"""The services that run in containers: all but the stand-in hospital."""

OPERATOR: Final = "operator"
"""The folder with the private key that asks for tokens: of the person's who runs the installation, in no container."""


def make_secrets(
    folder: Annotated[Path, typer.Argument(help="Where to: deploy/compose/secrets for docker-compose.yml.")],
    *,
    database_host: Annotated[
        str, typer.Option(metavar="HOST[:PORT]", help="Where the services find PostgreSQL.")
    ] = "postgres",
) -> None:
    """Make passwords and keys for the containers: a folder a service, a file a setting (KAP_SECRETS_DIR reads them).

    What is there stays as it is. Only you may enter the folder; the files in it can be read by the users that the
    containers run as. Back it up apart from the databases: without it tokens and process notes cannot be opened.
    """
    for path, value in _missing(folder, database_host).items():
        _write(path, value)
    operator = OperatorKey(folder / OPERATOR)
    operator.make()
    _write(folder / IDENTITY / "KAP_OPERATOR_JWKS", operator.jwks())
    typer.echo(f"The secrets are in {folder}; keep it, and keep it to yourself.")


def _missing(folder: Path, host: str) -> Mapping[Path, str]:
    """Return the value of each file that is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    wanted = {folder / "postgres" / "password": _password()}
    wanted[folder / "keycloak" / "password"] = _password()
    for name in CONTAINED:
        wanted[folder / name / "KAP_DATABASE_URL"] = _address(f"kap_{name}", host)
        wanted[folder / name / "KAP_LINK_SECRET"] = _password()
    wanted[folder / "sessions" / "KAP_NOTES_DATABASE_URL"] = _address(NOTES, host)
    wanted[folder / "sessions" / "notes_keys"] = base64.b64encode(new_key()).decode()
    return {path: value for path, value in wanted.items() if not path.exists()}


def _address(name: str, host: str) -> str:
    """Return the address of a database whose role has its name."""
    return f"postgresql://{name}:{_password()}@{host}/{name}"


def _password() -> str:
    return secrets.token_urlsafe(32)


def _write(path: Path, value: str) -> None:
    """Write a file whole or not at all.

    Raises:
        StackProblem: the folder is not ours to write.

    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f"{path.name}.new")
        beside.unlink(missing_ok=True)
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o444), "w", encoding="utf-8") as file:
            os.fchmod(file.fileno(), 0o444)
            file.write(f"{value}\n")
        beside.replace(path)
    except OSError as error:
        raise StackProblem(f"{path} cannot be written: {error.strerror}.") from error
