"""`./kap rebuild`: build the gateway's record anew from the owners' histories, while it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Annotated

import typer

from cli.ops import SOURCES, Ops
from cli.options import DATA, DataOption
from cli.running import running
from cli.stack.ports import GATEWAY
from cli.stack.problem import StackProblem
from cli.stack.stack import Stack
from cli.terminal import err, out, telling
from cli.verify import service_of
from shared.events.kafka import KafkaConnection
from shared.fhir.outcome import FhirError
from shared.runtime.rebuilding import CannotRebuild
from shared.runtime.rebuilding import rebuild as build_anew
from shared.runtime.settings import Settings


def rebuild(
    service: Annotated[str, typer.Argument(help="The service whose copy is built anew: gateway.")] = GATEWAY,
    *,
    data: DataOption = DATA,
) -> None:
    """Build the gateway's record anew from what the owners hold, beside the one that serves, and then switch.

    Reads and writes go on all the while. Where it does not succeed the first record serves on, unchanged.
    """
    if service != GATEWAY:
        raise StackProblem(f"{service} is not a copy of others. What can be rebuilt: {GATEWAY}.")
    stack = running(data)
    bootstrap = stack.state().kafka_bootstrap
    if bootstrap is None:
        raise StackProblem(f"Kafka does not run from {stack.data}. ./kap up starts it.")
    with telling(err) as tell:
        try:
            held = asyncio.run(_rebuild(stack, bootstrap, tell))
        except (CannotRebuild, FhirError) as error:
            raise StackProblem(str(error)) from None
    out.print(f"{service} was built anew and holds {held} versions. ./kap verify compares it with the owners.")


async def _rebuild(stack: Stack, bootstrap: str, tell: Callable[[str], None]) -> int:
    async with Ops(stack.ports(), auth=stack.auth()) as ops:

        async def replay(source: str, consumer: str) -> None:
            await ops.replay(source, to=consumer)

        async def committed() -> Mapping[str, int]:
            return {source: (await ops.flow(source)).outbox.written for source in SOURCES}

        return await build_anew(
            service_of(GATEWAY),
            stack.address(GATEWAY),
            KafkaConnection(bootstrap=bootstrap, client_id="kap-rebuild"),
            partitions=Settings.model_fields["topic_partitions"].default,
            replay=replay,
            committed=committed,
            report=tell,
        )
