"""The issuer has no FHIR operations: what it is asked is OAuth's (`services.identity.endpoints`)."""

from __future__ import annotations
