"""Operations that only read, answered from a `Backend`: by an owner of what it owns, by the gateway of its copy."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from shared.fhir.json import Resource
from shared.fhir.outcome import BadRequest, MethodNotAllowed
from shared.runtime.service import Operation, OperationCall

if TYPE_CHECKING:
    from shared.http.backend import Backend, OperationResult, RequestContext
    from shared.runtime.record import Record

Reader: TypeAlias = Callable[[OperationCall, "Backend", "RequestContext"], Awaitable["OperationResult"]]
"""Answers a call from a backend, with what the caller may see."""


async def _read_over_http(call: OperationCall, _record: Record) -> Resource:
    raise MethodNotAllowed(f"{call.type}/${call.name} is asked over FHIR only.")


async def _unanswered(call: OperationCall, _backend: Backend, _context: RequestContext) -> OperationResult:
    raise MethodNotAllowed(f"{call.type}/${call.name} has no answer.")


@dataclass(frozen=True, slots=True)
class ReadOperation(Operation):
    """An operation that changes nothing, and needs no transaction: `answer` reads for it."""

    affects_state: bool = False
    answer: Reader = field(default=_unanswered)


def reading(
    name: str,
    type_: str,
    level: Literal["instance", "type"],
    answer: Reader,
    *,
    documentation: str,
    definition: str,
) -> ReadOperation:
    """Return an operation that reads."""
    return ReadOperation(
        name, type_, level, _read_over_http, documentation=documentation, definition=definition, answer=answer
    )


def texts(call: OperationCall, allowed: Sequence[str] | None = None) -> list[tuple[str, str]]:
    """Return the parameters of a call as names and texts, as a search has them; a Coding is ``system|code``.

    Raises:
        BadRequest: one that has no such value, or is not among `allowed`.

    """
    pairs: list[tuple[str, str]] = []
    for parameter in call.parameters.get("parameter", ()):
        name = str(parameter.get("name"))
        value = next((parameter[key] for key in parameter if key.startswith("value")), None)
        said = _text(value)
        if said is None or (allowed is not None and name not in allowed):
            known = "" if allowed is None else f" It has {', '.join(allowed)}."
            raise BadRequest(
                f"${call.name} does not understand '{name[:64]}'.{known}",
                code="not-supported",
                expression=[f"http.{name}"],
            )
        pairs.append((name, said))
    return pairs


def _text(value: Any) -> str | None:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, dict):
        coding = value.get("coding", [value])
        first = coding[0] if isinstance(coding, list) and coding else None
        if isinstance(first, dict) and isinstance(first.get("code"), str):
            return f"{first['system']}|{first['code']}" if isinstance(first.get("system"), str) else str(first["code"])
        return None
    return None if value is None or isinstance(value, list) else str(value)
