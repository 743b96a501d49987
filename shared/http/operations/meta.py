"""`$meta`, `$meta-add`, `$meta-delete`: tags, labels and profiles of one resource.

A change of them makes a version, as every change does: it is guarded, and told to others by its event.

Source: https://hl7.org/fhir/R4/resource-operation-meta.html, -meta-add.html, -meta-delete.html
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from shared.fhir.json import Json, Resource, dump, parse
from shared.fhir.outcome import BadRequest
from shared.fhir.validation import require_valid
from shared.http.backend import OperationResult
from shared.http.operations.kinds import reading
from shared.runtime.service import Operation, OperationCall

if TYPE_CHECKING:
    from shared.http.backend import Backend, RequestContext
    from shared.runtime.record import Record

_HL7: Final = "http://hl7.org/fhir/OperationDefinition/Resource-"
_SETS: Final = ("profile", "security", "tag")
"""What a meta has many of: each is a set."""

_Change: TypeAlias = Callable[[list[Json], list[Json]], list[Json]]


def operations_on(type_: str) -> tuple[Operation, ...]:
    """Return the three operations on resources of a type."""
    return (
        reading(
            "meta",
            type_,
            "instance",
            _meta,
            documentation="The profiles, tags and security labels of a resource.",
            definition=f"{_HL7}meta",
        ),
        Operation(
            "meta-add",
            type_,
            "instance",
            _added,
            documentation="Adds profiles, tags and security labels, as a new version.",
            definition=f"{_HL7}meta-add",
        ),
        Operation(
            "meta-delete",
            type_,
            "instance",
            _deleted,
            documentation="Takes profiles, tags and security labels away, as a new version; not what a rule labels.",
            definition=f"{_HL7}meta-delete",
        ),
    )


async def _meta(call: OperationCall, backend: Backend, context: RequestContext) -> OperationResult:
    stored = await backend.read(context, call.type, str(call.id))
    return OperationResult(dump(_answer(parse(stored.body)["meta"])))


async def _added(call: OperationCall, record: Record) -> Resource:
    def union(held: list[Json], given: list[Json]) -> list[Json]:
        known = {_identity(one) for one in held}
        return [*held, *{_identity(one): one for one in given if _identity(one) not in known}.values()]

    return await _changed(call, record, union, unlabels=False)


async def _deleted(call: OperationCall, record: Record) -> Resource:
    def difference(held: list[Json], given: list[Json]) -> list[Json]:
        unwanted = {_identity(one) for one in given}
        return [one for one in held if _identity(one) not in unwanted]

    return await _changed(call, record, difference, unlabels=True)


async def _changed(call: OperationCall, record: Record, change: _Change, *, unlabels: bool) -> Resource:
    given = _given(call)
    held = await record.transaction.read(record.access, call.type, str(call.id))
    resource = parse(held.body)
    before = resource["meta"]
    sets = {name: change(before.get(name, []), given.get(name, [])) for name in _SETS}
    after = {**before, **sets}
    after = {name: value for name, value in after.items() if value != []}
    if after == before:
        return _answer(before)
    written = await record.update({**resource, "meta": after}, unlabels=unlabels)
    return _answer(parse(written.stored.body)["meta"])


def _given(call: OperationCall) -> Resource:
    require_valid(call.parameters)
    metas = [one["valueMeta"] for one in call.parameters["parameter"] if one["name"] == "meta" and "valueMeta" in one]
    if len(metas) != 1 or len(call.parameters["parameter"]) != 1:
        raise BadRequest(
            f"${call.name} has one parameter, meta, with a valueMeta.",
            code="required",
            expression=["Parameters.parameter"],
        )
    meta: Resource = metas[0]
    return meta


def _identity(one: Json) -> Json:
    """Return what two of a set are the same by: of a coding system and code, a profile as a whole."""
    return (one.get("system"), one.get("code")) if isinstance(one, dict) else one


def _answer(meta: Resource) -> Resource:
    return {"resourceType": "Parameters", "parameter": [{"name": "return", "valueMeta": meta}]}
