"""The entries of a batch or transaction, read: what each asks for, or why it cannot be understood.

Source: https://hl7.org/fhir/R4/bundle.html, https://hl7.org/fhir/R4/http.html#transaction
"""

from __future__ import annotations

import re
from base64 import b64decode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast

from shared.fhir.json import Json, Resource, parse
from shared.fhir.kap import comes_from_elsewhere
from shared.fhir.outcome import BadRequest, FhirError, Issue, MethodNotAllowed, TooLarge, Unavailable
from shared.fhir.patch.apply import FHIRPATH_PATCH, JSON_PATCH, MERGE_PATCH, Patch
from shared.fhir.references import relative
from shared.fhir.search import SearchQuery
from shared.fhir.validation import validate
from shared.http.conditions import parse_condition
from shared.http.negotiation import version_of_etag
from shared.store.types import Stored

if TYPE_CHECKING:
    from shared.http.backend import TypeInteraction

Method: TypeAlias = Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"]
METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"))
READS: Final = frozenset(("GET", "HEAD"))

_INTERACTIONS: Final[Mapping[str, TypeInteraction]] = {
    "POST": "create",
    "PUT": "update",
    "PATCH": "patch",
    "DELETE": "delete",
}
_SUITS: Final[Mapping[str, frozenset[str]]] = {
    "ifNoneMatch": READS,
    "ifModifiedSince": READS,
    "ifMatch": frozenset(("PUT", "PATCH", "DELETE")),
    "ifNoneExist": frozenset(("POST",)),
}
"""The conditions of a request, and the methods they mean anything to."""

_ID: Final = re.compile(r"[A-Za-z0-9\-.]{1,64}")

Offers: TypeAlias = "Callable[[str, TypeInteraction], None]"
"""Called with a type and an interaction (``create``); raises where it is not offered."""


@dataclass(frozen=True, slots=True)
class Request:
    """An entry as it stands in the Bundle, its form checked: `url` is relative to the base, without a slash before it.

    `said` is `entry.request`; `full_url` is relative where it is under the base, as references to what is there are.
    """

    index: int
    method: Method
    url: str
    said: Mapping[str, str]
    resource: Resource | None
    full_url: str | None


@dataclass(frozen=True, slots=True)
class Change:
    """A change that an entry or a request asks for.

    Attributes:
        index: its place in the Bundle; 0 where it stands alone.
        method: POST, PUT, PATCH or DELETE.
        type, id: what is changed; without `id` a create, or what `condition` finds.
        condition: of a POST `If-None-Exist`; else the search of the URL.
        expected: `If-Match`.
        resource: the new content.
        patch: of a PATCH, what is to be done.
        full_url: by which other entries refer to it.

    """

    index: int
    method: Method
    type: str
    id: str | None = None
    condition: SearchQuery | None = None
    expected: int | None = None
    resource: Resource | None = None
    patch: Patch | None = None
    full_url: str | None = None


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a change: the version now current (None: nothing was there to delete), whether its id is new."""

    stored: Stored | None
    created: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of one entry: status, what it carries in headers, and the body."""

    status: int
    body: bytes = b""
    location: str | None = None
    etag: str | None = None
    last_modified: datetime | None = None


def requests_of(bundle: Resource, *, base_url: str, most: int) -> list[Request | FhirError]:
    """Return the entries of a batch or transaction, in order; for one that cannot be understood, why.

    Raises:
        BadRequest: the Bundle itself is not of FHIR's form.
        TooLarge: it has more than `most` entries.

    """
    entries = bundle.get("entry", [])
    envelope = {name: value for name, value in bundle.items() if name != "entry"}
    issues = [issue for issue in validate(envelope) if issue.severity in {"error", "fatal"}]
    if not isinstance(entries, list) or ("entry" in bundle and not entries):
        issues.append(Issue("Bundle.entry is a list with at least one entry.", expression=("Bundle.entry",)))
    if issues:
        raise BadRequest(issues)
    if len(entries) > most:
        raise TooLarge(
            f"The Bundle has {len(entries)} entries; this server takes {most} at once. Send it in several.",
            code="too-costly",
            expression=["Bundle.entry"],
        )
    source = bundle["meta"]["source"] if comes_from_elsewhere(bundle) else None
    kind = str(bundle["type"])
    return [_read(position, entry, kind, base_url, source) for position, entry in enumerate(entries)]


def _read(index: int, entry: Json, kind: str, base_url: str, source: str | None) -> Request | FhirError:
    if not isinstance(entry, dict):
        return BadRequest("An entry is an object.", expression=[f"Bundle.entry[{index}]"])
    resource = entry.get("resource")
    # The resource is validated when its turn comes: here is only the form of what stands around it.
    around = {name: value for name, value in entry.items() if name != "resource"}
    issues = [
        issue
        for issue in validate({"resourceType": "Bundle", "type": kind, "entry": [around]})
        if issue.severity in {"error", "fatal"}
    ]
    if resource is not None and not isinstance(resource, dict):
        issues.append(Issue("The resource is not an object.", expression=("Bundle.entry[0].resource",)))
    request = entry.get("request")
    if request is None and not issues:
        issues.append(
            Issue(
                f"An entry of a {kind} says by request what is to be done.",
                code="required",
                expression=("Bundle.entry[0]",),
            )
        )
    if issues or not isinstance(request, dict):
        return BadRequest(
            [
                replace(
                    one, expression=tuple(place.replace("entry[0]", f"entry[{index}]", 1) for place in one.expression)
                )
                for one in issues
            ]
        )
    for name, methods in _SUITS.items():
        if name in request and request["method"] not in methods:
            return BadRequest(
                f"{name} means nothing to {request['method']}; it is for {', '.join(sorted(methods))}.",
                expression=[f"Bundle.entry[{index}].request.{name}"],
            )
    url = str(request["url"])
    if url.startswith(base_url + "/"):
        url = url.removeprefix(base_url)
    if resource is not None and source is not None:
        resource = _from(source, resource)
    return Request(
        index,
        cast("Method", request["method"]),
        url.lstrip("/"),
        {name: value for name, value in request.items() if isinstance(value, str)},
        resource,
        _relative(entry.get("fullUrl"), base_url),
    )


def _relative(full_url: object, base_url: str) -> str | None:
    return relative(full_url, base_url) if isinstance(full_url, str) else None


def _from(source: str, resource: Resource) -> Resource:
    """Return the resource with the Bundle's `meta.source`, where it has none: history from elsewhere stays marked."""
    meta = resource.get("meta", {})
    if not isinstance(meta, dict) or "source" in meta:
        return resource
    return {**resource, "meta": {**meta, "source": source}}


def change_of(request: Request, offers: Offers) -> Change:
    """Return the change that an entry of a transaction asks for.

    Raises:
        BadRequest: it cannot be understood, or is nothing that can be done in a transaction.
        MethodNotAllowed, NotFound: it is not offered for this type.

    """
    path, asks, query = request.url.partition("?")
    parts = path.rstrip("/").split("/")
    type_, id_ = parts[0], parts[1] if len(parts) == 2 else None
    if len(parts) > 2 or any(part.startswith(("$", "_")) for part in parts):
        raise MethodNotAllowed(
            f"{request.method} of this url cannot be part of a transaction, which has creates, updates, patches, "
            "deletes and GETs. Call an operation alone, or in a batch.",
            expression=["http.url"],
        )
    offers(type_, _INTERACTIONS[request.method])
    if id_ is not None and (_ID.fullmatch(id_) is None or asks):
        raise BadRequest("The url is neither Type/id nor Type?search.", code="value", expression=["http.url"])
    condition = None
    if request.method == "POST":
        if id_ is not None or asks:
            raise BadRequest("A create is POST of the type alone: Patient.", code="value", expression=["http.url"])
        if "ifNoneExist" in request.said:
            condition = parse_condition(type_, request.said["ifNoneExist"], where="http.if-none-exist")
    elif id_ is None:
        condition = parse_condition(type_, query, where="http.url")
    resource = request.resource
    if (resource is None) is not (request.method == "DELETE"):
        what = "needs the resource" if resource is None else "has no resource"
        raise BadRequest(f"{request.method} {what}.", code="required", expression=[f"Bundle.entry[{request.index}]"])
    if resource is not None and request.method != "PATCH":
        _require_fits(resource, type_, id_, request)
    if_match = request.said.get("ifMatch", "*").strip()
    expected = None if if_match == "*" else version_of_etag(if_match)
    patch = None
    if resource is not None and request.method == "PATCH":
        patch = patch_of(resource)
        resource = None
    return Change(request.index, request.method, type_, id_, condition, expected, resource, patch, request.full_url)


def patch_of(said: Resource) -> Patch:
    """Return the patch of an entry: a Parameters is a FHIRPath Patch, a Binary holds one of another media type.

    Source: https://hl7.org/fhir/R4/http.html#patch

    Raises:
        BadRequest: it is neither.

    """
    if said.get("resourceType") == "Parameters":
        return Patch(said, FHIRPATH_PATCH)
    media_type = str(said.get("contentType", "")).partition(";")[0].strip().lower()
    if said.get("resourceType") != "Binary" or media_type not in (JSON_PATCH, MERGE_PATCH):
        raise BadRequest(
            f"The resource of a PATCH is a Parameters, or a Binary with contentType {JSON_PATCH} or {MERGE_PATCH} and "
            "the patch as data.",
            code="value",
            expression=["http.body"],
        )
    try:
        raw = b64decode(str(said.get("data", "")), validate=True)
    except ValueError:
        raise BadRequest("The patch is not base64.", code="value", expression=["Binary.data"]) from None
    return Patch(parse(raw), media_type)


def _require_fits(resource: Resource, type_: str, id_: str | None, request: Request) -> None:
    said = resource.get("resourceType")
    if said != type_:
        what = "has no resourceType" if said is None else f"is of type {str(said)[:64]!r}"
        place = f"Bundle.entry[{request.index}].resource"
        raise BadRequest(f"The resource {what}, the url says {type_}.", expression=[place])
    if request.method == "PUT" and id_ is not None and resource.get("id") != id_:
        raise BadRequest("The id in the resource is not the id in the url.", expression=[f"{type_}.id"])


_PLACES: Final = {
    "http.if-none-exist": ".request.ifNoneExist",
    "http.if-match": ".request.ifMatch",
    "http.url": ".request.url",
}


def placed(issue: Issue, index: int, type_: str | None) -> Issue:
    """Return an issue with its place in the Bundle: ``Bundle.entry[3].resource.code``."""
    entry = f"Bundle.entry[{index}]"

    def place(said: str) -> str:
        if said.startswith("Bundle.entry["):
            return said
        if said in _PLACES:
            return entry + _PLACES[said]
        if type_ is not None and re.match(rf"{re.escape(type_)}(?![A-Za-z])", said):
            return f"{entry}.resource{said.removeprefix(type_)}"
        return entry

    return replace(issue, expression=tuple(dict.fromkeys(place(said) for said in issue.expression)) or (entry,))


_BY_STATUS: Final = (400, 413, 412, 409, 422)


def refused(errors: Mapping[int, FhirError], types: Mapping[int, str | None]) -> FhirError:
    """Return the one refusal of a whole transaction: the issues of every entry that failed, each with its place.

    What is missing or not offered for an entry is not so for the Bundle, and becomes 400.
    """
    for error in errors.values():
        if isinstance(error, Unavailable):
            return error
    issues = [
        placed(issue, index, types.get(index)) for index, error in sorted(errors.items()) for issue in error.issues
    ]
    for status in _BY_STATUS:
        for error in errors.values():
            if error.status == status:
                kind: Any = type(error)
                refusal: FhirError = kind(issues)
                return refusal
    return BadRequest(issues)
