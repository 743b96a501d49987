"""JSON Patch (RFC 6902) of a resource: one operation after the other, each told by its number when it fails."""

from __future__ import annotations

from typing import Final

from jsonpatch import InvalidJsonPatch, JsonPatch, JsonPatchException, JsonPatchTestFailed
from jsonpointer import JsonPointer, JsonPointerException

from shared.fhir.json import Json, Resource
from shared.fhir.outcome import BadRequest, Unprocessable

MOST_OPERATIONS: Final = 1000
MOST_COPIED: Final = 100_000
"""Values that the `copy` operations of a patch may copy together: else a few dozen of them could fill the memory."""


def apply_json_patch(resource: Resource, patch: Json) -> Json:
    """Return `resource`, which is changed, after the operations of `patch`.

    Raises:
        BadRequest: not a JSON Patch, or too long a one.
        Unprocessable: a test fails, or a place is not there.

    """
    if not isinstance(patch, list) or not patch:
        raise BadRequest("A JSON Patch is an array of operations (RFC 6902).", expression=["http.body"])
    if len(patch) > MOST_OPERATIONS:
        raise BadRequest(
            f"The patch has more than {MOST_OPERATIONS} operations. Send the whole resource as an update.",
            code="too-costly",
            expression=["http.body"],
        )
    document: Json = resource
    copied = 0
    for number, operation in enumerate(patch):
        place = f"http.body[{number}]"
        one = _understood(operation, number, place)
        try:
            if operation["op"] == "copy":
                copied += _size(JsonPointer(operation["from"]).resolve(document))
                if copied > MOST_COPIED:
                    raise BadRequest("The patch copies too much.", code="too-costly", expression=[place])
            document = one.apply(document, in_place=True)
        except JsonPatchTestFailed:
            raise Unprocessable(
                f"Operation {number} of the patch is a test of '{operation['path']}', and it fails: the resource is "
                "not what you took it for. Nothing was changed; read it again.",
                code="conflict",
                expression=[place],
            ) from None
        except (JsonPatchException, JsonPointerException):  # their words hold the resource
            raise Unprocessable(
                f"Operation {number} of the patch, {operation['op']} at '{operation['path']}', does not fit the "
                "resource as it is: there is no such place. Nothing was changed.",
                code="processing",
                expression=[place],
            ) from None
    return document


def _understood(operation: Json, number: int, place: str) -> JsonPatch:
    """Return the operation as a patch of its own.

    Raises:
        BadRequest: none of the six operations, without what it needs, or with what is not a JSON Pointer.

    """
    try:
        one = JsonPatch([operation])
        JsonPointer(operation["path"])
        if operation["op"] in {"copy", "move"}:
            JsonPointer(operation["from"])
        elif operation["op"] in {"add", "replace", "test"}:
            operation["value"]
    except KeyError as error:
        missing = error.args[0]
    except TypeError:
        missing = "from"
    except (InvalidJsonPatch, JsonPointerException) as error:
        raise BadRequest(f"Operation {number} of the patch: {error}.", expression=[place]) from None
    else:
        return one
    raise BadRequest(f"Operation {number} of the patch has no '{missing}' as RFC 6902 wants it.", expression=[place])


def _size(value: Json) -> int:
    """Return how many values there are in `value`, itself included."""
    count = 0
    rest = [value]
    while rest:
        inner = rest.pop()
        count += 1
        if isinstance(inner, dict):
            rest.extend(inner.values())
        elif isinstance(inner, list):
            rest.extend(inner)
    return count
