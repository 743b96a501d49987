"""Exact JSON: what was sent comes back.

FHIR forbids changing the precision of a decimal (https://hl7.org/fhir/R4/datatypes.html#decimal), so `1.00` is parsed
to `Decimal("1.00")` and written as `1.00` again. Member order is kept. Times are strings and are never touched.
A doubled key is refused: two readers of one document could each believe another value of it. So is half of a surrogate
pair: no UTF-8 can be written of it again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from decimal import Decimal
from typing import Any, Final, NoReturn, TypeAlias

import msgspec

from shared.fhir.outcome import BadRequest

Json: TypeAlias = Any
Resource: TypeAlias = dict[str, Any]

MAX_DEPTH: Final = 100
"""Objects and arrays within each other."""

_MAYBE_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")
_encoder = msgspec.json.Encoder(decimal_format="number")


def _object(pairs: list[tuple[str, Json]]) -> dict[str, Json]:
    members = dict(pairs)
    if len(members) != len(pairs):
        seen: set[str] = set()
        doubled = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise BadRequest(f"The JSON object has the member '{doubled}' more than once. Send each member once.")
    return members


def _constant(name: str) -> NoReturn:
    raise BadRequest(f"{name} is not a JSON number.")


_decoder = json.JSONDecoder(object_pairs_hook=_object, parse_float=Decimal, parse_constant=_constant)


def parse(raw: bytes | str) -> Json:
    """Return the JSON value in `raw`, with numbers that have a fraction or exponent as `Decimal`.

    Raises:
        BadRequest: not UTF-8, not JSON, a doubled key, half of a surrogate pair, or nested too deeply.

    """
    try:
        text = raw.decode("utf-8-sig") if isinstance(raw, bytes) else raw
        value = _decoder.decode(text)
        if _MAYBE_HALF.search(text):
            _require_characters(value)
        return value
    except UnicodeDecodeError as error:
        raise BadRequest(f"The body is not UTF-8: byte {error.start} cannot be read.") from None
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise BadRequest(f"The body is not JSON: {error.msg} at {where}.") from None
    except RecursionError:
        raise BadRequest("The JSON is nested too deeply.", code="too-costly") from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise BadRequest(f"The body holds a number that cannot be read: {error}.") from None


def _require_characters(value: Json) -> None:
    place = next(_halves(value, value.get("resourceType") if isinstance(value, dict) else None), None)
    if place is not None:
        raise BadRequest(
            "A text holds half of a surrogate pair, which is no character. Send the pair, or neither.",
            expression=[place],
        )


def _halves(value: Json, place: object) -> Iterator[str]:
    """Yield where a text holds half of a surrogate pair, from `place` on."""
    here = place if isinstance(place, str) and not _HALF.search(place) else "http.body"
    if isinstance(value, str):
        if _HALF.search(value):
            yield here
    elif isinstance(value, dict):
        for name, member in value.items():
            if _HALF.search(name):
                yield here
            yield from _halves(member, f"{here}.{name}")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            yield from _halves(item, f"{here}[{number}]")


def dump(value: Json) -> bytes:
    """Return `value` as UTF-8 JSON, without white space, decimals digit by digit as they were parsed."""
    return _encoder.encode(value)


def require_shallow(value: Json) -> None:
    """Refuse what is nested so deeply that walking through it could end the stack.

    Raises:
        BadRequest: objects and arrays within each other deeper than `MAX_DEPTH`.

    """
    level = [value]
    for _ in range(MAX_DEPTH):
        inner: list[Json] = []
        for outer in level:
            members = outer.values() if isinstance(outer, dict) else outer
            inner.extend(member for member in members if isinstance(member, dict | list))
        if not inner:
            return
        level = inner
    raise BadRequest(f"The JSON is nested deeper than {MAX_DEPTH} levels.", code="too-costly", expression=["http.body"])
