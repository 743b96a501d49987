"""A service that writes down every event it applies: ``python -m tests.chaos.witness``.

It takes in the events of all others by the same consumer, inbox and parking as every service, and its one reaction is
not idempotent on purpose: an event that is applied twice leaves two lines, one that is not applied leaves none, and the
lines of one patient stand in the order in which they were applied.
"""

from __future__ import annotations

import hashlib
import sys

import uvloop

from services.run import run
from shared.events.envelope import Event
from shared.events.topics import SOURCES
from shared.fhir.definitions import TYPES
from shared.fhir.json import Resource
from shared.runtime.app import App
from shared.runtime.logging import set_up_logging
from shared.runtime.ownership import UNSTORED
from shared.runtime.record import Record
from shared.runtime.service import Service
from shared.runtime.settings import Settings

HELD = TYPES - UNSTORED
CONSUMES = tuple(source for source in SOURCES if source != "gateway")


async def write_down(event: Event, _resource: Resource, record: Record) -> None:
    await record.create(
        {
            "resourceType": "Basic",
            "identifier": [{"system": f"urn:kap:{event.source}", "value": event.id}],
            "code": {"text": hashlib.sha256(event.body).hexdigest()},
        }
    )


SERVICE = Service(
    name="witness",
    title="Witness",
    types=frozenset(("Basic",)),
    consumes=CONSUMES,
    holds=HELD,
    reactions=dict.fromkeys(HELD, (write_down,)),
    publishes=False,
)

if __name__ == "__main__":
    set_up_logging("WARNING")
    uvloop.run(run([App(SERVICE, Settings.load("witness"))]))
    sys.exit(0)
