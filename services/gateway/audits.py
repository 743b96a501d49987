"""Audits of the services behind the gateway and of the issuer of tokens: asked in the caller's name, all at once."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final
from urllib.parse import urlencode

from shared.fhir.json import Resource, dump, parse
from shared.http.audit_events import TYPE
from shared.http.audits_beside import BEFORE, Part
from shared.store.types import Stored

if TYPE_CHECKING:
    from services.gateway.owners import Owners
    from shared.http.backend import RequestContext
    from shared.security.bearer import Issuer

ISSUER: Final = "identity"


@dataclass(frozen=True, slots=True)
class OwnersAudits:
    """AuditEvents of the owners, and of the issuer; each judges by the caller's token what he is told.

    `issuer`: of tokens; one that is not our own tells no AuditEvents, and has an audit of its own.
    """

    owners: Owners
    issuer: Issuer | None = None

    async def search(
        self, context: RequestContext, given: Sequence[tuple[str, str]], before: Mapping[str, int]
    ) -> Mapping[str, Part]:
        """Return what each audit says.

        Raises:
            FhirError: one refused, or is not there.

        """
        owners = await self._all()
        path = f"{TYPE}?{urlencode(given)}"

        async def asked(owner: str) -> Part:
            headers = {"Prefer": "handling=lenient"}  # what is not known was refused here
            if owner in before:
                headers[BEFORE] = str(before[owner])
            found = parse((await owners.send(owner, "GET", path, context, headers=headers)).body)
            events = [entry["resource"] for entry in found.get("entry", ())]
            return Part(
                [_stored(owner, event) for event in events],
                any(link["relation"] == "next" for link in found.get("link", ())),
                int(found.get("total", len(events))),
            )

        names = owners.names
        return dict(zip(names, await asyncio.gather(*map(asked, names)), strict=True))

    async def read(self, context: RequestContext, service: str, id_: str) -> Stored | None:
        """Return one of an owner.

        Raises:
            FhirError: there is none of this id, not for who asks, or the owner is not there.

        """
        owners = await self._all()
        if service not in owners.names:
            return None
        answer = await owners.send(service, "GET", f"{TYPE}/{id_}", context)
        return _stored(service, parse(answer.body))

    async def _all(self) -> Owners:
        """Return the owners, and the issuer where that has an audit for us.

        Raises:
            Unavailable: it does not say.

        """
        base = None if self.issuer is None else await self.issuer.audit()
        return self.owners if base is None else self.owners.and_also(ISSUER, base)


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
