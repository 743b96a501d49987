"""JSON merge patch (RFC 7396): members that are given replace, null removes, an array replaces the whole array."""

from __future__ import annotations

from shared.fhir.json import Json, Resource
from shared.fhir.outcome import BadRequest


def apply_merge_patch(resource: Resource, patch: Json) -> Resource:
    """Return `resource`, which is changed, with `patch` merged into it.

    Raises:
        BadRequest: the patch is not an object.

    """
    if not isinstance(patch, dict):
        raise BadRequest("A JSON merge patch of a resource is an object (RFC 7396).", expression=["http.body"])
    return _merged(resource, patch)


def _merged(target: Json, patch: dict[str, Json]) -> dict[str, Json]:
    into = target if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            into.pop(name, None)
        elif isinstance(value, dict):
            into[name] = _merged(into.get(name), value)
        else:
            into[name] = value
    return into
