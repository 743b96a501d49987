"""A guard that keeps every resource with its owner: what belongs to another service is not kept here by mistake."""

from __future__ import annotations

from shared.fhir.json import Resource
from shared.fhir.kap import comes_from_elsewhere
from shared.fhir.outcome import Unprocessable
from shared.runtime.ownership import BY_ENCOUNTER, WATCHED, deciding_references, owner_of
from shared.runtime.raising import is_own_work
from shared.runtime.record import Record
from shared.runtime.service import Change


async def belongs_here(change: Change, record: Record) -> None:
    """Refuse a new resource, or a change of one, by which it would be another service's.

    Only intake keeps what comes from elsewhere, and what came from elsewhere stays intake's: it is not moved into a
    visit of sessions', past its gate and its alarms.

    Raises:
        Unprocessable: it belongs to another service, or does not say where it belongs.

    """
    after, here = change.after, record.service.name
    if after is None or is_own_work():
        return
    outside = comes_from_elsewhere(after) and here == "intake"
    if outside and change.before is not None and comes_from_elsewhere(change.before):
        await _keep_out_of_visits(change.before, after, record)
        return
    origins: dict[tuple[str, str], str] = {}
    for type_, id_ in deciding_references(after):
        stored = await record.stored(type_, id_)
        if stored is not None and not stored.deleted:
            origins[type_, id_] = stored.origin
    owner = owner_of(after, origin_of=lambda type_, id_: origins.get((type_, id_)), from_outside=outside)
    if owner == here:
        return
    if change.before is not None:
        raise Unprocessable(
            f"This {change.type} belongs to {here}; as changed it would belong to {owner}, and an owner is never "
            "changed. Mark it entered-in-error and create a new one.",
            expression=[change.type],
        )
    raise Unprocessable(
        f"This {change.type} belongs to {owner} and is not kept by {here}. Name the visit it belongs to, or send it "
        "through the gateway, which finds the owner.",
        expression=[change.type],
    )


async def _keep_out_of_visits(before: Resource, after: Resource, record: Record) -> None:
    """Refuse to move a dose or a reading from elsewhere into an Encounter that is not known to be from elsewhere."""
    if after["resourceType"] not in WATCHED:
        return
    for type_, id_ in deciding_references(after):
        if type_ != "Encounter" or (type_, id_) in deciding_references(before):
            continue
        stored = await record.stored(type_, id_)
        if stored is None or stored.origin != record.service.name:
            raise Unprocessable(
                f"This {after['resourceType']} came from elsewhere, and Encounter/{id_} is not known to be from there: "
                "a visit here has its gate and alarms. Mark this one entered-in-error, and record it in the visit.",
                expression=[f"{after['resourceType']}.{BY_ENCOUNTER[after['resourceType']][0]}"],
            )
