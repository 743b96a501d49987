"""A patch of a resource, in any of the three forms that FHIR R4 names, as a pure function.

Source: https://hl7.org/fhir/R4/http.html#patch. Which form it is, its media type says. What comes out is a resource as
an update would bring it: it still has to be validated and guarded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Final, TypeAlias

from shared.fhir.json import Json, Resource, require_shallow
from shared.fhir.outcome import BadRequest
from shared.fhir.patch.fhirpath import apply_fhirpath_patch
from shared.fhir.patch.jsonpatch import apply_json_patch
from shared.fhir.patch.merge import apply_merge_patch

JSON_PATCH: Final = "application/json-patch+json"
FHIRPATH_PATCH: Final = "application/fhir+json"
MERGE_PATCH: Final = "application/merge-patch+json"

PATCH_FORMATS: Final = (JSON_PATCH, FHIRPATH_PATCH, MERGE_PATCH)
"""The media types of patches, as `CapabilityStatement.patchFormat` and `Accept-Patch` list them."""

_Form: TypeAlias = Callable[[Resource, Json], Json]

_FORMS: Final[Mapping[str, _Form]] = {
    JSON_PATCH: apply_json_patch,
    FHIRPATH_PATCH: apply_fhirpath_patch,
    MERGE_PATCH: apply_merge_patch,
}


@dataclass(frozen=True, slots=True)
class Patch:
    """A patch as it came: its parsed body, and its media type, one of `PATCH_FORMATS`."""

    body: Json
    media_type: str

    def apply(self, resource: Resource) -> Resource:
        """As `apply_patch`."""
        return apply_patch(resource, self.body, self.media_type)


def apply_patch(resource: Resource, patch: Json, media_type: str) -> Resource:
    """Return `resource` as `patch` changes it; `resource` itself stays as it is.

    Args:
        resource: the current version, as it was parsed: with `id` and `meta.versionId`.
        patch: the parsed body of the request.
        media_type: one of `PATCH_FORMATS`.

    Raises:
        BadRequest: not a patch of that form, or one that changes what tells the resource: `resourceType`, `id`,
            `meta.versionId`.
        Unprocessable: a patch that does not fit this version: a test that fails, a place that is not there.

    """
    patched = _FORMS[media_type](deepcopy(resource), patch)
    if not isinstance(patched, dict):
        raise BadRequest("The patch leaves no resource.", code="value", expression=[str(resource["resourceType"])])
    _require_same(resource, patched)
    require_shallow(patched)
    return patched


def _require_same(before: Resource, after: Resource) -> None:
    type_ = str(before["resourceType"])
    for name in ("resourceType", "id"):
        if after.get(name) != before.get(name):
            raise BadRequest(
                f"A patch cannot change {name}: it says which resource this is.",
                code="value",
                expression=[f"{type_}.{name}"],
            )
    was, is_ = before.get("meta", {}), after.get("meta", {})
    if isinstance(is_, dict) and is_.get("versionId", was.get("versionId")) != was.get("versionId"):
        raise BadRequest(
            "A patch cannot change meta.versionId: the server counts the versions. To patch one version only, name it "
            "in If-Match.",
            code="value",
            expression=[f"{type_}.meta.versionId"],
        )
