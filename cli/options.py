"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cli.stack.stack import DEFAULT_DATA

DataOption = Annotated[
    Path,
    typer.Option(
        "--data",
        envvar="KAP_DATA",
        help="Folder with everything the stack keeps: databases, events, logs.",
        show_default=".kap beside the kap script",
        file_okay=False,
    ),
]
DATA = DEFAULT_DATA

ClinicOption = Annotated[
    str | None, typer.Option("--clinic", metavar="NAME", help="Of another clinic than the stack's own, 'default'.")
]

IssuerOption = Annotated[
    str | None,
    typer.Option(
        "--issuer", metavar="URL", help="Of containers: where their issuer is; --data is then the operator's folder."
    ),
]
