"""The audits of the services behind the gateway: asked in the caller's name, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING
from urllib.parse import urlencode

from shared.fhir.json import Resource, dump, parse
from shared.http.audit_events import TYPE
from shared.http.audits_beside import BEFORE, Part
from shared.store.types import Stored

if TYPE_CHECKING:
    from services.gateway.owners import Owners
    from shared.http.backend import RequestContext


@dataclass(frozen=True, slots=True)
class OwnersAudits:
    """AuditEvents of the owners; each judges by the caller's token what he is told."""

    owners: Owners

    async def search(
        self, context: RequestContext, given: Sequence[tuple[str, str]], before: Mapping[str, int]
    ) -> Mapping[str, Part]:
        """Return what each owner's audit says.

        Raises:
            FhirError: one refused, or is not there.

        """
        path = f"{TYPE}?{urlencode(given)}"

        async def asked(owner: str) -> Part:
            headers = {"Prefer": "handling=lenient"}  # what is not known was refused here
            if owner in before:
                headers[BEFORE] = str(before[owner])
            found = parse((await self.owners.send(owner, "GET", path, context, headers=headers)).body)
            events = [entry["resource"] for entry in found.get("entry", ())]
            return Part(
                [_stored(owner, event) for event in events],
                any(link["relation"] == "next" for link in found.get("link", ())),
                int(found.get("total", len(events))),
            )

        names = self.owners.names
        return dict(zip(names, await asyncio.gather(*map(asked, names)), strict=True))

    async def read(self, context: RequestContext, service: str, id_: str) -> Stored | None:
        """Return one of an owner.

        Raises:
            FhirError: there is none of this id, not for who asks, or the owner is not there.

        """
        if service not in self.owners.names:
            return None
        answer = await self.owners.send(service, "GET", f"{TYPE}/{id_}", context)
        return _stored(service, parse(answer.body))


def _stored(owner: str, event: Resource) -> Stored:
    return Stored(
        type=TYPE,
        id=event["id"],
        version=1,
        last_updated=datetime.fromisoformat(event["recorded"]),
        deleted=False,
        body=dump(event),
        origin=owner,
        interaction="create",
    )
