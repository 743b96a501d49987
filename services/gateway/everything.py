"""`Patient/$everything`: the patient's whole compartment, from the gateway's own store, page by page.

Source: https://hl7.org/fhir/R4/patient-operation-everything.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final
from urllib.parse import urlencode

from services.gateway.catalog import TYPES
from shared.fhir.dates import interval
from shared.fhir.json import Resource
from shared.fhir.outcome import BadRequest
from shared.http import bundle
from shared.http.backend import OperationResult, RequestContext
from shared.http.paging import PAGE_PARAMETER, PageToken
from shared.store.compartment import compartment
from shared.store.store import Store

DEFAULT_COUNT: Final = 50
MOST: Final = 1000

_UNDERSTOOD: Final = ("_type", "_since", "_count", PAGE_PARAMETER)


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: types (None: all), changed since when, entries of a page; and the parameters as given."""

    types: frozenset[str] | None
    since: datetime | None
    count: int
    given: tuple[tuple[str, str], ...]


def given_in(parameters: Resource) -> list[tuple[str, str]]:
    """Return names and values of a Parameters resource, as text.

    Raises:
        BadRequest: a parameter that is not understood.

    """
    pairs = []
    for parameter in parameters.get("parameter", ()):
        name = str(parameter.get("name"))
        value = next((parameter[member] for member in parameter if member.startswith("value")), None)
        if name not in _UNDERSTOOD or isinstance(value, dict | list | None):
            raise BadRequest(
                f"$everything does not understand '{name}'. It has _type, _since and _count.",
                code="not-supported",
                expression=[f"http.{name}"],
            )
        pairs.append((name, str(value)))
    return pairs


def asked_by(pairs: Sequence[tuple[str, str]]) -> Asked:
    """Return what the parameters ask for.

    Raises:
        BadRequest: a type that is not held, a time that is none, a count out of range.

    """
    types = frozenset(part for name, value in pairs if name == "_type" for part in value.split(",") if part)
    unknown = sorted(types - TYPES)
    if unknown:
        raise BadRequest(f"_type names what is not held here: {', '.join(unknown)}.", expression=["http._type"])
    since = None
    count = DEFAULT_COUNT
    for name, value in pairs:
        if name == "_since":
            try:
                since = interval(value)[0]
            except ValueError:
                raise BadRequest("_since is not an instant.", code="value", expression=["http._since"]) from None
        elif name == "_count":
            if not value.isdecimal() or not 1 <= int(value[:9]) <= MOST:
                raise BadRequest(f"_count is a number from 1 to {MOST}.", code="value", expression=["http._count"])
            count = int(value)
    given = tuple(pair for pair in pairs if pair[0] != PAGE_PARAMETER)
    return Asked(types or None, since, count, given)


async def everything(store: Store, context: RequestContext, patient: str, parameters: Resource) -> OperationResult:
    """Return a page of a patient's compartment as a searchset.

    Raises:
        NotFound: there is no such patient for this caller.
        Gone: the patient was deleted.
        BadRequest: the parameters cannot be understood.

    """
    await store.read(context.access, "Patient", patient)
    path = f"Patient/{patient}/$everything"
    pairs = given_in(parameters)
    cursor = None
    token = next((value for name, value in pairs if name == PAGE_PARAMETER), None)
    if token is not None:
        opened = context.links.open(token, tenant=context.access.tenant, path=path)
        pairs, cursor = list(opened.given), opened.cursor
    asked = asked_by(pairs)
    async with store.transaction(keys=(), tenant=context.access.tenant) as transaction:
        page = await compartment(
            transaction,
            context.access,
            patient,
            types=asked.types,
            since=asked.since,
            count=asked.count,
            cursor=cursor,
        )

    def url(query: Sequence[tuple[str, str]]) -> str:
        return f"{context.base_url}/{path}" + (f"?{urlencode(query)}" if query else "")

    links = [("self", url(asked.given if token is None else [(PAGE_PARAMETER, token)]))]
    if page.next is not None:
        sealed = context.links.seal(PageToken(asked.given, page.next), tenant=context.access.tenant, path=path)
        links.append(("next", url([(PAGE_PARAMETER, sealed)])))
    return OperationResult(bundle.searchset(context.base_url, page.entries, links=links))
