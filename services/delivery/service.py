"""Delivery: pushes the record into the hospitals that cannot pull it."""

from __future__ import annotations

from dataclasses import replace

import structlog

from services.delivery.capability import PUSHED_TYPES
from services.delivery.endpoints import ID_DESTINATION, endpoint
from services.delivery.guards import keep_destination, leads_outside, only_by_delivery
from services.delivery.lanes import Lanes
from services.delivery.operations import OPERATIONS
from services.delivery.ops import deliveries_route, disclosures_route
from services.delivery.reactions import ask_anew, queue
from shared.fhir.freshness import KnowledgePolicy
from shared.http.outbound import Outbound, Outside
from shared.runtime.app import App, Background, Beat, Parts
from shared.runtime.ownership import DELIVERY, INTAKE, OUTCOMES, SESSIONS, types_of
from shared.runtime.policy import load_policy
from shared.runtime.raising import own_work
from shared.runtime.record import open_record
from shared.runtime.service import Service
from shared.runtime.settings import Settings
from shared.store.access import Access
from shared.store.disclosures import Disclosures

_log: structlog.stdlib.BoundLogger = structlog.get_logger(__name__)

HOSPITAL = "hospital"
"""Name of the destination that the settings describe."""

SERVICE = Service(
    name="delivery",
    title="KAP Exchange delivery",
    types=types_of(DELIVERY),
    guards={"Endpoint": (keep_destination,), "Task": (only_by_delivery,)},
    operations=OPERATIONS,
    consumes=(INTAKE, SESSIONS, OUTCOMES),
    holds=frozenset((*PUSHED_TYPES, "Consent")),
    searches_copies=False,
    reactions={**dict.fromkeys(PUSHED_TYPES, (queue,)), "Patient": (queue, ask_anew), "Consent": (ask_anew,)},
)


async def keep_default_destination(parts: Parts) -> None:
    """Make the hospital that the settings name a destination; one that was changed by hand keeps all but its address.

    Raises:
        Unprocessable: the setting is not a FHIR base URL.

    """
    address = parts.settings.hospital_url
    if address is None:
        return
    access = Access.unrestricted()
    async with open_record(SERVICE, parts.store, access, keys=()) as record:
        await record.transaction.claim(access.tenant, f"default destination {HOSPITAL}")
        held = await record.search("Endpoint", {"identifier": f"{ID_DESTINATION}|{HOSPITAL}"})
        with own_work():
            if not held:
                await record.create(endpoint(HOSPITAL, address, creates_patients=True))
            elif held[0]["address"] != address:
                await record.update({**held[0], "address": address})


REPLAY = "./kap replay intake --to delivery"


async def say_what_lacks(parts: Parts) -> list[str]:
    """Tell the operator of the clinics of which patients are known here and not one Consent; return them.

    Either nobody has signed one, or this database is from before delivery kept them: then all is held until intake has
    told them again, and nobody would say so.
    """
    lacking = []
    for tenant in await parts.store.tenants():
        async with parts.store.transaction(keys=(), tenant=tenant) as transaction:
            if await Disclosures(transaction).has_heard_no_consent():
                lacking.append(tenant)
    if lacking:
        said = "No Consent has come here, so nothing is delivered. If patients have signed some, run what is named."
        _log.warning("no_consents_known", clinics=lacking, said=said, run=REPLAY)
    return lacking


def create(settings: Settings) -> App:
    """Return the service with its lanes: one to each destination."""
    outside = Outside.of(settings.outbound_hosts, settings.hospital_url)
    news = load_policy(settings.policy).section("knowledge", KnowledgePolicy).disclosure
    lanes = Lanes(news, transport=lambda: Outbound(outside))
    guards = {**SERVICE.guards, "Endpoint": (leads_outside(outside), keep_destination)}

    async def deliver(parts: Parts, beat: Beat) -> None:
        await keep_default_destination(parts)
        await say_what_lacks(parts)
        await lanes.run(parts, beat)

    return App(
        replace(SERVICE, guards=guards),
        settings,
        background=(Background("lanes", deliver),),
        routes=lambda parts: [deliveries_route(parts, lanes), disclosures_route(parts)],
    )
