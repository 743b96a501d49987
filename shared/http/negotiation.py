"""What the caller sends and accepts: media types, `_format`, `_pretty`, `_summary`, `_elements`, `Prefer`, ETags.

Source: https://hl7.org/fhir/R4/http.html#mime-type, https://www.rfc-editor.org/rfc/rfc9110, RFC 7240 (Prefer).
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime
from functools import lru_cache
from typing import cast

from shared.fhir.outcome import BadRequest, NotAcceptable, UnsupportedMediaType
from shared.fhir.patch.apply import FHIRPATH_PATCH, JSON_PATCH, MERGE_PATCH, PATCH_FORMATS
from shared.fhir.subset import Summary, View
from shared.http.backend import Returns

FHIR_JSON = "application/fhir+json; fhirVersion=4.0"
PLAIN_JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

_FHIR_NAMES = frozenset(("application/fhir+json", "fhir+json", "text/json", "json"))
_RANGES = frozenset(("*/*", "application/*"))
_VERSIONS = frozenset(("4.0", "4.0.1"))
_CHARSETS = frozenset(("utf-8", "utf8", "us-ascii"))
_ETAG = re.compile(r'(?:W/)?"([1-9][0-9]{0,17})"|([1-9][0-9]{0,17})')
_RETURNS = frozenset(("representation", "minimal", "OperationOutcome"))

GENERAL = frozenset(("_format", "_pretty", "_summary", "_elements"))
"""Parameters of any request: how the answer is to be written."""

_SUMMARIES = frozenset(("true", "text", "data", "count", "false"))
_BOOLEANS = frozenset(("true", "false"))


@dataclass(frozen=True, slots=True)
class Presentation:
    """How the answer is to be written.

    Attributes:
        media_type: of the answer.
        pretty: indented.
        view: what of each resource is shown; None: all of it.
        counting: of a search, only the number.

    """

    media_type: str = FHIR_JSON
    pretty: bool = False
    view: View | None = None
    counting: bool = False


def _media_type(text: str) -> tuple[str, dict[str, str]]:
    name, *parameters = text.split(";")
    values = {}
    for parameter in parameters:
        key, _, value = parameter.partition("=")
        values[key.strip().lower()] = value.strip().strip('"')
    return name.strip().lower(), values


def _answer_for(text: str) -> tuple[float, str] | None:
    """Return (quality, media type to answer with) for one member of `Accept`, None for one that is not spoken here."""
    name, parameters = _media_type(text)
    try:
        quality = float(parameters.get("q", "1"))
    except ValueError:
        return None
    if quality <= 0 or parameters.get("fhirversion", "4.0") not in _VERSIONS:
        return None
    if name in _FHIR_NAMES or name in _RANGES:
        return quality, FHIR_JSON
    if name == PLAIN_JSON:
        return quality, PLAIN_JSON
    return None


@lru_cache(maxsize=256)
def accepted(accept: str | None, format_: str | None) -> str:
    """Return the media type to answer with, by `_format`, else by `Accept`.

    Raises:
        NotAcceptable: the caller wants something else than JSON of FHIR R4.

    """
    asked = format_.replace(" ", "+") if format_ else accept
    if not asked:
        return FHIR_JSON
    answers = [answer for part in asked.split(",") if (answer := _answer_for(part)) is not None]
    if not answers:
        raise NotAcceptable(
            "This server answers in application/fhir+json (FHIR 4.0) or application/json only; ask for one of them "
            "by Accept or _format."
        )
    best = max(quality for quality, _ in answers)
    return next(answer for quality, answer in answers if quality == best)


@lru_cache(maxsize=256)
def require_json(content_type: str | None) -> None:
    """Accept a request body in FHIR's JSON.

    Raises:
        UnsupportedMediaType: none was named, or another, or another version of FHIR, or not UTF-8.

    """
    name, parameters = _media_type(content_type or "")
    if name != PLAIN_JSON and name not in _FHIR_NAMES:
        said = f"'{name}'" if name else "no Content-Type"
        raise UnsupportedMediaType(
            f"The request has {said}; this server reads application/fhir+json and application/json.",
            expression=["http.content-type"],
        )
    if parameters.get("fhirversion", "4.0") not in _VERSIONS:
        raise UnsupportedMediaType("This server reads FHIR 4.0 (R4) only.", expression=["http.content-type"])
    if parameters.get("charset", "utf-8").lower() not in _CHARSETS:
        raise UnsupportedMediaType("FHIR's JSON is UTF-8.", expression=["http.content-type"])


def require_form(content_type: str | None) -> None:
    """Accept the form of a POST `_search`."""
    if _media_type(content_type or "")[0] != FORM:
        raise UnsupportedMediaType(
            f"A search by POST carries its parameters as {FORM}.", expression=["http.content-type"]
        )


def patch_format(content_type: str | None) -> str:
    """Return which form of patch a request body is: one of `PATCH_FORMATS`. FHIR's own JSON is a FHIRPath Patch.

    Raises:
        PatchNotRead: none of them.

    """
    name, _ = _media_type(content_type or "")
    if name in {JSON_PATCH, MERGE_PATCH}:
        return name
    try:
        require_json(content_type)
    except UnsupportedMediaType as error:
        raise PatchNotRead(
            f"A patch is one of {', '.join(PATCH_FORMATS)}, by its Content-Type.", expression=["http.content-type"]
        ) from error
    return FHIRPATH_PATCH


def is_plain_json(content_type: str | None) -> bool:
    """Tell whether a body is said to be JSON, and not to be FHIR."""
    return _media_type(content_type or "")[0] == PLAIN_JSON


class PatchNotRead(UnsupportedMediaType):
    """415 with the forms of patch that are read (RFC 5789, section 2.2)."""

    @property
    def headers(self) -> dict[str, str]:
        """`Accept-Patch`."""
        return {"Accept-Patch": ", ".join(PATCH_FORMATS)}


def take_presentation(
    pairs: Sequence[tuple[str, str]], accept: str | None
) -> tuple[Presentation, list[tuple[str, str]]]:
    """Split the general parameters from a request's pairs; return how to answer, and the other pairs.

    Raises:
        BadRequest: a `_summary`, `_elements` or `_pretty` that cannot be understood.
        NotAcceptable: a `_format` that is not spoken here.

    """
    given: dict[str, str] = {}
    rest = []
    for name, value in pairs:
        if name not in GENERAL:
            rest.append((name, value))
        elif name == "_elements" and name in given:
            given[name] += f",{value}"
        else:
            given[name] = value
    if not given:
        return Presentation(accepted(accept, None)), rest
    for name, allowed in (("_summary", _SUMMARIES), ("_pretty", _BOOLEANS)):
        if given.get(name, "false") not in allowed:
            raise BadRequest(
                f"{name} is one of {', '.join(sorted(allowed))}.", code="value", expression=[f"http.{name}"]
            )
    summary = given.get("_summary", "false")
    elements = frozenset(_element(part) for part in given.get("_elements", "").split(",") if part.strip())
    view = None
    if summary in {"true", "text", "data"}:
        if elements:
            raise BadRequest(
                "Ask for _summary or for _elements, not for both.", code="value", expression=["http._elements"]
            )
        view = View(cast("Summary", summary))
    elif elements:
        view = View(elements=elements)
    pretty = given.get("_pretty") == "true"
    return Presentation(accepted(accept, given.get("_format")), pretty, view, counting=summary == "count"), rest


def _element(text: str) -> str:
    """Return an element's name: ``Patient.name`` and ``value[x]`` are ``name`` and ``value``."""
    return text.strip().rpartition(".")[2].removesuffix("[x]")


@lru_cache(maxsize=256)
def preferences(prefer: str | None) -> tuple[Returns, bool]:
    """Return (`return`, whether `handling=lenient`) of a `Prefer` header; what is not known is ignored (RFC 7240)."""
    returns = "representation"
    lenient = False
    for part in re.split(r"[,;]", prefer or ""):
        name, _, value = part.strip().partition("=")
        value = value.strip('"')
        if name == "return" and value in _RETURNS:
            returns = value
        elif name == "handling":
            lenient = value == "lenient"
    return cast("Returns", returns), lenient


def etag(version: int) -> str:
    """Return the weak ETag of a version."""
    return f'W/"{version}"'


def version_of_etag(header: str, name: str = "If-Match") -> int:
    """Return the version an ETag names.

    Raises:
        BadRequest: not one ETag of this server's form, ``W/"3"``.

    """
    match = _ETAG.fullmatch(header.strip())
    if match is None:
        raise BadRequest(f'{name} must be one ETag as this server gives it, such as W/"3".', code="value")
    return int(match[1] or match[2])


def http_date(moment: datetime) -> str:
    """Return `moment` as an HTTP date."""
    return format_datetime(moment.astimezone(UTC), usegmt=True)


def not_modified(headers: Mapping[str, str], version: int, last_updated: datetime) -> bool:
    """Tell whether a conditional read finds nothing new (RFC 9110, section 13.2.2: If-None-Match goes first)."""
    if_none_match = headers.get("if-none-match")
    if if_none_match is not None:
        return any(_names(one.strip(), version) for one in if_none_match.split(","))
    since = headers.get("if-modified-since")
    if since is None:
        return False
    try:
        moment = parsedate_to_datetime(since)
    except ValueError:
        return False
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return last_updated.replace(microsecond=0) <= moment


def _names(one: str, version: int) -> bool:
    match = _ETAG.fullmatch(one)
    return one == "*" or (match is not None and int(match[1] or match[2]) == version)
