"""What operators and the `kap` command ask of a service's audit. JSON.

GET  /ops/audit[?after=]                rows as they are held, from a sequence on, to check their chain
GET  /ops/audit/disclosures?patient=[&clinic=]
                                        what of a patient of a clinic (of 'default', where none is named) was told to
                                        somebody outside, as AuditEvents, newest first
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import msgspec
from starlette.responses import Response
from starlette.routing import Route

from shared.fhir.outcome import BadRequest
from shared.http.audit_events import as_audit_event, patient_in
from shared.http.ops import clinic_in
from shared.store.audit import Wanted
from shared.store.audit_chain import Line

if TYPE_CHECKING:
    from starlette.requests import Request

    from shared.store.audit import Audit

ROWS: Final = 1000
"""Rows that are told at once."""

MOST: Final = 10_000
"""Disclosures of one patient that are told at once."""


def audit_routes(kept: Audit, base_url: str) -> list[Route]:
    """Return the routes; `base_url` is the FHIR base, as AuditEvents name it."""

    async def rows(request: Request) -> Response:
        request.scope["state"]["route"] = "/ops/audit"
        after = request.query_params.get("after", "0")
        if not after.isdecimal():
            raise BadRequest("after is the sequence of a row.", expression=["http.after"])
        if after == "0":
            await kept.seal()
        given_up = await kept.given_up()
        found = await kept.rows(max(int(after[:18]), given_up.sequence), limit=ROWS)
        lines = [Line(one.sequence, one.hash, one.body, dict(one.columns)) for one in found]
        told = {"given_up": given_up.sequence, "given_up_hash": given_up.hash, "rows": lines}
        more = len(found) == ROWS  # this request, too, is a row: who asks until there is none asks for ever
        return Response(
            msgspec.json.encode({"service": kept.service, "more": more, **told}), media_type="application/json"
        )

    async def disclosures(request: Request) -> Response:
        request.scope["state"]["route"] = "/ops/audit/disclosures"
        id_ = patient_in(request.query_params.get("patient", ""))
        await kept.seal()
        found = await kept.find(Wanted(clinic_in(request), (id_,), disclosed=True), limit=MOST)
        events = [as_audit_event(one.sequence, one.row, base_url, only=(id_,)) for one in found]
        told = {"service": kept.service, "whole": len(found) < MOST, "disclosures": events}
        return Response(msgspec.json.encode(told), media_type="application/json")

    return [
        Route("/ops/audit", rows, methods=["GET"]),
        Route("/ops/audit/disclosures", disclosures, methods=["GET"]),
    ]
