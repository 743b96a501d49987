"""Every expected refusal, as one tree of exceptions, each of which becomes an OperationOutcome.

    FhirError                      status
    ├── BadRequest                 400   not FHIR, or a search that cannot be understood
    ├── Unauthorized               401
    ├── Forbidden                  403
    ├── NotFound                   404
    ├── MethodNotAllowed           405
    ├── NotAcceptable              406
    ├── Conflict                   409
    ├── Gone                       410
    ├── PreconditionFailed         412   a wrong If-Match, an ambiguous If-None-Exist
    ├── TooLarge                   413
    ├── UnsupportedMediaType       415
    ├── Unprocessable              422   FHIR, but against a rule of this server or clinic
    └── Unavailable                503   try again, after `retry_after` seconds

What is not in this tree is a fault of the program: it is logged, counted and answered 500.

Source: https://hl7.org/fhir/R4/http.html, https://hl7.org/fhir/R4/operationoutcome.html
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Literal

EXT_EVIDENCE: Final = "https://kap-exchange.org/fhir/StructureDefinition/refusal-evidence"

Severity = Literal["fatal", "error", "warning", "information"]


@dataclass(frozen=True, slots=True)
class Issue:
    """One `OperationOutcome.issue`.

    `code` is from the required value set issue-type; `diagnostics` says what, where and what to do, in a plain
    sentence; `expression` holds FHIRPath locations such as ``Observation.component[1].code``; `rule` names the rule
    of the house that refused (``E12``) and `source` the guideline, label or page it comes from. `evidence` are
    references of what is on record that it refused by (``Condition/7``); none where it refused by what was sent alone,
    which `expression` points to.
    """

    diagnostics: str
    code: str = "invalid"
    severity: Severity = "error"
    expression: tuple[str, ...] = ()
    rule: str | None = None
    source: str | None = None
    evidence: tuple[str, ...] = ()

    def as_fhir(self) -> dict[str, Any]:
        """Return the `OperationOutcome.issue` element."""
        issue: dict[str, Any] = {}
        if self.evidence:
            issue["extension"] = [{"url": EXT_EVIDENCE, "valueReference": {"reference": one}} for one in self.evidence]
        issue.update(severity=self.severity, code=self.code)
        if self.rule is not None:
            details: dict[str, Any] = {
                "coding": [{"system": "https://kap-exchange.org/fhir/CodeSystem/rule", "code": self.rule}]
            }
            if self.source is not None:
                details["text"] = f"Source: {self.source}"
            issue["details"] = details
        issue["diagnostics"] = self.diagnostics
        if self.expression:
            issue["expression"] = list(self.expression)
        return issue


def operation_outcome(issues: Iterable[Issue]) -> dict[str, Any]:
    """Return an OperationOutcome resource holding `issues`; "all OK" where there are none."""
    listed = [issue.as_fhir() for issue in issues]
    if not listed:
        listed = [{"severity": "information", "code": "informational", "diagnostics": "All OK"}]
    return {"resourceType": "OperationOutcome", "issue": listed}


class FhirError(Exception):
    """A refusal that the caller can understand and act on.

    Give one sentence, or every issue at once.
    """

    status: ClassVar[int] = 400
    default_code: ClassVar[str] = "invalid"

    def __init__(
        self,
        what: str | Sequence[Issue],
        *,
        code: str | None = None,
        expression: Sequence[str] = (),
        rule: str | None = None,
        source: str | None = None,
        evidence: Sequence[str] = (),
    ) -> None:
        if isinstance(what, str):
            code = code or self.default_code
            what = (Issue(what, code, "error", tuple(expression), rule, source, tuple(evidence)),)
        self.issues: tuple[Issue, ...] = tuple(what)
        super().__init__("; ".join(issue.diagnostics for issue in self.issues))

    @property
    def headers(self) -> dict[str, str]:
        """HTTP headers that belong to this answer."""
        return {}

    def as_fhir(self) -> dict[str, Any]:
        """Return the OperationOutcome."""
        return operation_outcome(self.issues)


class BadRequest(FhirError):
    """400: what was sent is not FHIR, or cannot be understood."""

    status = 400
    default_code = "structure"


class Unauthorized(FhirError):
    """401: who is calling is not known."""

    status = 401
    default_code = "login"


class Forbidden(FhirError):
    """403: the caller may not do this."""

    status = 403
    default_code = "forbidden"


class NotFound(FhirError):
    """404: no such resource, type or operation here."""

    status = 404
    default_code = "not-found"


class MethodNotAllowed(FhirError):
    """405: the interaction is not offered for this type; `metadata` lists those that are."""

    status = 405
    default_code = "not-supported"


class NotAcceptable(FhirError):
    """406: the caller accepts no format this server speaks."""

    status = 406
    default_code = "not-supported"


class Conflict(FhirError):
    """409: what is held does not allow it, and a later try may succeed."""

    status = 409
    default_code = "conflict"


class Gone(FhirError):
    """410: the resource was deleted."""

    status = 410
    default_code = "deleted"


class PreconditionFailed(FhirError):
    """412: `If-Match` names another version, or a condition matches more than one resource."""

    status = 412
    default_code = "conflict"


class TooLarge(FhirError):
    """413: the body is above the limit."""

    status = 413
    default_code = "too-long"


class UnsupportedMediaType(FhirError):
    """415: the body is in a format this server does not read."""

    status = 415
    default_code = "not-supported"


class Unprocessable(FhirError):
    """422: valid FHIR, but against a rule; the issue names the rule and its source."""

    status = 422
    default_code = "business-rule"


class TooCostly(FhirError):
    """422: it would take more work than one request may; the issue says what to narrow."""

    status = 422
    default_code = "too-costly"


class Unavailable(FhirError):
    """503: not now; `Retry-After` says when to try again."""

    status = 503
    default_code = "transient"

    def __init__(self, what: str | Sequence[Issue], *, retry_after: int = 1) -> None:
        super().__init__(what)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """The `Retry-After` header, in seconds."""
        return {"Retry-After": str(self.retry_after)}
