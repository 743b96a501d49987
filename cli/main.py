"""The command line: one module per command."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer.core import TyperGroup

from cli.audit import audit
from cli.clients import clients
from cli.demo.command import demo
from cli.down import down
from cli.lag import lag
from cli.parked import parked
from cli.policy import policy
from cli.rebuild import rebuild
from cli.replay import replay
from cli.secrets import make_secrets
from cli.stack.problem import StackProblem
from cli.status import status
from cli.terminal import problem
from cli.terminology import terminology
from cli.test import run_tests
from cli.timeline.command import timeline
from cli.token import token
from cli.up import up
from cli.users import users
from cli.verify import verify
from shared.version import VERSION


class InOrder(TyperGroup):
    """Lists the commands in the order they are registered in: as a newcomer needs them."""


app = typer.Typer(
    name="kap",
    cls=InOrder,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="KAP Exchange: FHIR R4 services for ketamine-assisted psychotherapy, joined by Kafka events.",
    epilog="Begin with: ./kap demo",
)

for command in (up, down, status, demo, timeline, verify, lag, replay, rebuild, token):
    app.command()(command)
app.add_typer(audit)
app.command("secrets")(make_secrets)
app.add_typer(clients)
app.add_typer(clients, name="client", hidden=True)
app.add_typer(users)
app.add_typer(users, name="user", hidden=True)
app.add_typer(parked)
app.add_typer(policy, name="policy")
app.add_typer(terminology)
# pytest's own options, and its -h, pass through.
app.command("test", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(run_tests)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def _common(
    *,
    _: Annotated[bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_version)] = False,
) -> None:
    pass


def main() -> None:
    """Run the command; tell problems as sentences."""
    try:
        app(prog_name="./kap")
    except StackProblem as error:
        problem(str(error))
        sys.exit(1)


if __name__ == "__main__":
    main()
