"""The floor of the FHIR API, cell by cell, and what proves each: rows of the contract, or tests elsewhere.

The areas are those of the table "The floor: what the best servers have, all of it" in the design of the API. A row is
named as `tests.contract.server.row` registers it and runs at the gateway and at a service of the running stack; a test
as pytest names it. `tests/contract/test_floor.py` holds that each exists, and that no row is without a cell.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

HTTP: Final = "tests/integration/http"
GATEWAY: Final = "tests/integration/gateway"
STORE: Final = "tests/integration/store"

FLOOR: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    "instance": {
        "read": ("instance: read, with ETag, Last-Modified and the media type",),
        "vread": ("instance: vread",),
        "update": ("instance: update, guarded by If-Match",),
        "update-as-create by choice of setting": (
            "instance: update of an id that nobody gave out is refused where clients do not choose ids",
            f"{HTTP}/test_rest.py::test_a_client_chooses_an_id_where_the_setting_lets_it",
        ),
        "JSON Patch": ("instance: JSON Patch",),
        "FHIRPath Patch": ("instance: FHIRPath Patch",),
        "JSON merge patch": ("instance: JSON merge patch",),
        "delete": ("instance: delete, and what stays",),
        "history": ("instance: history, newest first, deletions in it",),
    },
    "type": {
        "create": ("type: create, with Location and a new id",),
        "search by GET and POST _search": ("type: search by GET and by POST _search find the same",),
        "history": ("type: history",),
        "conditional create": ("type: conditional create", f"{STORE}/test_concurrency.py"),
        "conditional update": ("type: conditional update",),
        "conditional patch": ("type: conditional patch",),
        "conditional delete": ("type: conditional delete",),
        "conditional read": ("instance: read unless it is known (If-None-Match, If-Modified-Since)",),
    },
    "system": {
        "capabilities": ("system: capabilities",),
        "search (_type)": ("system: search over several types",),
        "history": ("system: history",),
        "batch": ("system: batch, each entry for itself", f"{HTTP}/test_batches.py"),
        "transaction": (
            "system: transaction, references between its entries, conditional references, order",
            "system: transaction, all or nothing",
            f"{GATEWAY}/test_transactions.py",
            f"{HTTP}/test_transactions.py",
        ),
    },
    "headers": {
        "ETag, Location": (
            "instance: read, with ETag, Last-Modified and the media type",
            "type: create, with Location and a new id",
        ),
        "If-Match (412)": ("instance: update, guarded by If-Match",),
        "If-None-Exist": ("type: conditional create",),
        "Prefer: return": ("headers: Prefer return=minimal, representation, OperationOutcome",),
        "Prefer: handling": (
            "headers: an unknown search parameter is refused, or with handling=lenient ignored and named",
        ),
        "X-Request-Id": ("headers: X-Request-Id comes back",),
        "Accept, _format": ("formats: application/fhir+json, application/json, _format; everything else 406 and 415",),
        "_pretty": ("formats: _pretty",),
        "gzip": ("formats: gzip, both ways",),
    },
    "formats": {
        "JSON; anything else 406 or 415": (
            "formats: application/fhir+json, application/json, _format; everything else 406 and 415",
        ),
    },
    "exactness": {
        "what was sent comes back": (
            "exactness: decimals, times, extensions of primitives, contained and unknown extensions come back",
            "tests/contract/test_round_trip.py",
        ),
    },
    "validation": {
        "every issue at once, each with its place": ("validation: every issue at once, each with its place",),
        "structure to invariants": (
            "validation: a doubled key, a wrong reference target, two values of a choice, an invariant",
            "tests/unit/fhir/test_mutated_examples.py",
            "tests/unit/fhir/test_validation_oracle.py",
            "tests/unit/fhir/test_invariants.py",
        ),
        "$validate with mode and profile": ("operations: $validate with mode and profile", f"{HTTP}/test_validate.py"),
        "profiles": ("tests/unit/fhir/test_profiles.py",),
    },
    "search parameters": {
        "token": ("parameters: token by system|code, |code, system|, code; of type",),
        "string": ("parameters: string from its start, folded; :exact, :contains",),
        "reference": ("parameters: reference by id, type/id, :[type], :identifier, absolute under the own base",),
        "date": ("parameters: date as the period it means, with every prefix",),
        "number, quantity": ("parameters: number and quantity, compared in any unit of UCUM",),
        "uri": ("parameters: uri, and its :below",),
        "composite": ("parameters: composite, both parts of one element",),
        "_id _lastUpdated _tag _profile _security _list": (
            "parameters: _id, _lastUpdated, _tag, _profile, _security, _list",
        ),
        "_source": ("tests/contract/test_search_by_content.py",),
        "_text? _content?": ("parameters: _text, _content, _filter, _query are not offered, and refused by name",),
        "_has": ("across types: chains and _has, several deep",),
        "_type": ("system: search over several types",),
        "every R4 parameter of every type": (
            "tests/contract/test_conformance.py",
            "tests/contract/test_search_by_content.py",
            "tests/contract/test_us_core_search.py",
        ),
    },
    "modifiers, prefixes": {
        ":exact :contains": ("parameters: string from its start, folded; :exact, :contains",),
        ":missing :not :text": (
            "modifiers: :missing, :not, :text, :in; commas are or, repeats are and, escapes are text",
        ),
        ":in :not-in :above :below": (
            "terminology: :in, :not-in, :below and :above in a search, by what is shipped",
            f"{HTTP}/test_validate.py::test_a_search_finds_by_value_sets_and_from_above_what_was_loaded",
        ),
        ":of-type": ("parameters: token by system|code, |code, system|, code; of type",),
        ":identifier :[type]": (
            "parameters: reference by id, type/id, :[type], :identifier, absolute under the own base",
        ),
        "eq ne gt lt ge le sa eb ap": ("parameters: date as the period it means, with every prefix",),
        "UCUM": ("parameters: number and quantity, compared in any unit of UCUM",),
        "comma OR, repeated AND": (
            "modifiers: :missing, :not, :text, :in; commas are or, repeats are and, escapes are text",
        ),
    },
    "across types": {
        "chaining, _has": ("across types: chains and _has, several deep",),
        "_include, _revinclude, :iterate, *": ("across types: _include, _revinclude, :iterate, *",),
    },
    "result": {
        "_sort, _count, _total": ("result: _sort both ways by several keys, _count, _total",),
        "_summary, _elements": ("result: _elements, _summary", f"{HTTP}/test_presentation.py"),
        "_contained": ("result: _contained can only be false, and the CapabilityStatement says so",),
    },
    "paging": {
        "links": ("paging: every link keeps all parameters, tells nothing, cannot be made up, and goes back too",),
        "under writes": ("paging: stays true while others write", f"{STORE}/test_paging_runs.py"),
    },
    "unknown parameter": {
        "400, or ignored and said so": (
            "headers: an unknown search parameter is refused, or with handling=lenient ignored and named",
        ),
    },
    "operations": {
        "Patient/$everything": ("operations: Patient/$everything",),
        "Patient/$summary": ("tests/contract/test_patient_summary.py",),
        "Observation/$lastn": ("operations: Observation/$lastn",),
        "$docref": ("operations: DocumentReference/$docref",),
        "Patient/$match": ("operations: Patient/$match grades who may be meant, and creates nothing",),
        "$validate": ("operations: $validate with mode and profile",),
        "$meta, $meta-add, $meta-delete": ("operations: $meta, $meta-add, $meta-delete",),
        "$expand, $validate-code, $lookup": ("operations: $expand, $validate-code, $lookup of what is held",),
        "Appointment/$find, $hold, $book, $cancel": (f"{GATEWAY}/test_scheduling_through_the_gateway.py",),
    },
    "conformance": {
        "CapabilityStatement": ("tests/contract/test_conformance.py", "tests/contract/test_what_the_server_says.py"),
        "SearchParameter, OperationDefinition, StructureDefinition": (
            "conformance: SearchParameter, StructureDefinition and OperationDefinition can be read",
        ),
        "an implementation guide page": (
            "tests/contract/test_generated_tables.py::test_the_implementation_guide_is_what_is_published",
        ),
        "OpenAPI": ("conformance: OpenAPI lists the same",),
        "valid by HL7's own engine": (
            "tests/contract/test_hl7_validator.py",
            "tests/contract/test_what_the_server_answers.py",
        ),
    },
    "provenance": {
        "author and way": (
            "provenance: X-Provenance is kept with the write, and found by _revinclude",
            "provenance: of what delivery and the gateway keep, too",
            f"{HTTP}/test_provenance.py",
            f"{GATEWAY}/test_provenance.py",
        ),
        "_revinclude=Provenance:target": (
            "provenance: _revinclude=Provenance:target is offered on every type, and answers",
            "tests/contract/test_us_core_search.py",
        ),
    },
}
"""By area and cell, what proves it."""

BESIDE: Final = (
    "result: _explain tells which index answered, and how long it took",
    "limits: methods that are not offered, types that are not held, bodies that are too large or too deep",
)
"""Rows that hold more than a cell asks for."""

ELSEWHERE: Final = frozenset(("bulk", "subscriptions", "audit"))
"""Areas that are no part of the REST floor that is held here."""
