"""`Patient/$everything`: the patient's whole compartment, from the gateway's own store, page by page.

Who and what a page's resources refer to outside the compartment (`services.gateway.beside`) comes with the page, marked
as included, of whatever age: without it the page cannot be understood. Two pages may bring the same.

Source: https://hl7.org/fhir/R4/patient-operation-everything.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Final
from urllib.parse import urlencode

from services.gateway.beside import TYPES_BESIDE, beside
from services.gateway.catalog import TYPES
from shared.fhir.dates import MAX_INSTANT, MIN_INSTANT, interval
from shared.fhir.json import Resource, parse
from shared.fhir.outcome import BadRequest
from shared.http import bundle
from shared.http.backend import OperationResult, RequestContext
from shared.http.paging import PAGE_PARAMETER, PageToken
from shared.store.compartment import Care, compartment
from shared.store.store import Store

DEFAULT_COUNT: Final = 50
MOST: Final = 1000

_UNDERSTOOD: Final = ("_type", "_since", "_count", "start", "end", PAGE_PARAMETER)

CARE_DATES: Final = {
    "AdverseEvent": ("date",),
    "AllergyIntolerance": ("onset", "last-date"),
    "Appointment": ("date",),
    "CarePlan": ("date",),
    "ClinicalImpression": ("date",),
    "Communication": ("sent", "received"),
    "Composition": ("period", "date"),
    "Condition": ("onset-date", "abatement-date", "recorded-date"),
    "DetectedIssue": ("identified",),
    "DiagnosticReport": ("date",),
    "DocumentReference": ("period", "date"),
    "Encounter": ("date",),
    "EpisodeOfCare": ("date",),
    "Flag": ("date",),
    "Immunization": ("date",),
    "MedicationAdministration": ("effective-time",),
    "MedicationDispense": ("whenhandedover", "whenprepared"),
    "MedicationRequest": ("authoredon",),
    "MedicationStatement": ("effective",),
    "Observation": ("date",),
    "Procedure": ("date",),
    "QuestionnaireResponse": ("authored",),
    "RiskAssessment": ("date",),
    "ServiceRequest": ("occurrence", "authored"),
    "Specimen": ("collected",),
}
"""By type, the search parameters that tell when the care was that a resource is about.

Types that are not here, and resources that do not say, are of every time: the patient, consents, coverage, goals.
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for: types (None: all), changed since when, care of when, entries of a page; and as given."""

    types: frozenset[str] | None
    since: datetime | None
    care: Care | None
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
                f"$everything does not understand '{name}'. It has _type, _since, _count, start and end.",
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
    times = {name: _time(name, value) for name, value in pairs if name in {"_since", "start", "end"}}
    count = DEFAULT_COUNT
    for name, value in pairs:
        if name == "_count":
            if not value.isdecimal() or len(value) > 9 or not 1 <= int(value) <= MOST:
                raise BadRequest(f"_count is a number from 1 to {MOST}.", code="value", expression=["http._count"])
            count = int(value)
    given = tuple(pair for pair in pairs if pair[0] != PAGE_PARAMETER)
    since = times["_since"][0] if "_since" in times else None
    care = None
    if "start" in times or "end" in times:
        low = times["start"][0] if "start" in times else MIN_INSTANT
        high = times["end"][1] if "end" in times else MAX_INSTANT
        care = Care(low, high, CARE_DATES)
    return Asked(types or None, since, care, count, given)


def _time(name: str, value: str) -> tuple[datetime, datetime]:
    try:
        return interval(value)
    except ValueError:
        raise BadRequest(f"{name} is not a time.", code="value", expression=[f"http.{name}"]) from None


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
    brought = TYPES_BESIDE if asked.types is None else TYPES_BESIDE & asked.types
    async with store.transaction(keys=(), tenant=context.access.tenant) as transaction:
        page = await compartment(
            transaction,
            context.access,
            patient,
            types=None if brought else asked.types,  # who refers to a practitioner may be of any type
            since=asked.since,
            count=asked.count,
            cursor=cursor,
            care=asked.care,
        )
        included = await beside(
            partial(transaction.search, context.access),
            [parse(stored.body) for stored in page.entries] if brought else (),
            [(stored.type, stored.id) for stored in page.entries],
            context.base_url,
            brought,
        )
    entries = [stored for stored in page.entries if asked.types is None or stored.type in asked.types]

    def url(query: Sequence[tuple[str, str]]) -> str:
        return f"{context.base_url}/{path}" + (f"?{urlencode(query)}" if query else "")

    links = [("self", url(asked.given if token is None else [(PAGE_PARAMETER, token)]))]
    if page.next is not None:
        sealed = context.links.seal(PageToken(asked.given, page.next), tenant=context.access.tenant, path=path)
        links.append(("next", url([(PAGE_PARAMETER, sealed)])))
    return OperationResult(bundle.searchset(context.base_url, entries, links=links, included=included))
