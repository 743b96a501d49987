"""docs/asyncapi.yaml says what the code does."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from shared.events import admin, claims, codec, relay, topics, watermark
from shared.events.envelope import Event, Interaction
from shared.events.kafka import MAX_REQUEST_BYTES
from shared.events.shards import SHARDS, shard_of
from shared.local.kafka import MAX_MESSAGE_BYTES

ROOT = Path(__file__).parents[2]
DOCUMENT: dict[str, Any] = yaml.safe_load((ROOT / "docs" / "asyncapi.yaml").read_text("utf-8"))
MESSAGE = DOCUMENT["components"]["messages"]["change"]
HEADERS = DOCUMENT["components"]["schemas"]["headers"]
PIECE = DOCUMENT["components"]["messages"]["piece"]
CLAIM = DOCUMENT["components"]["messages"]["claim"]
OF_PIECES = DOCUMENT["components"]["schemas"]["pieceHeaders"]
OF_CLAIMS = DOCUMENT["components"]["schemas"]["claimHeaders"]
WATERMARK = DOCUMENT["components"]["messages"]["watermark"]
OF_WATERMARKS = DOCUMENT["components"]["schemas"]["watermarkHeaders"]
RESOURCE = DOCUMENT["components"]["schemas"]["resource"]

EVENT = Event(
    id="Observation/0198/3",
    source="sessions",
    interaction="update",
    type="Observation",
    resource_id="0198",
    version=3,
    time=datetime(2026, 11, 22, 9, 30, 0, 5000, UTC),
    tenant="default",
    key="Patient/0197",
    shard=shard_of("default", "Patient/0197"),
    sequence=12,
    body=b'{"resourceType":"Observation","id":"0198","meta":{"versionId":"3","lastUpdated":"2026-11-22T09:30:00.005Z"}}',
    labels=("R", "a b,c"),
    request_id="5f0c1a7e",
    traceparent="00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
)


def resolve(reference: dict[str, str]) -> Any:
    found: Any = DOCUMENT
    for part in reference["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    return found


def assert_headers_fit(headers: dict[str, str], document: dict[str, Any] = HEADERS) -> None:
    assert set(document["required"]) <= set(headers) <= set(document["properties"])
    for name, value in headers.items():
        schema = document["properties"][name]
        assert schema["type"] == "string"
        assert value == schema.get("const", value)
        assert value in schema.get("enum", [value])
        assert re.search(schema.get("pattern", ""), value), name


def test_each_topic_is_a_channel_with_changes_and_watermarks_and_what_large_changes_travel_in():
    assert {name: channel["address"] for name, channel in DOCUMENT["channels"].items()} == {
        source: topics.topic_of(source) for source in topics.SOURCES
    }
    for channel in DOCUMENT["channels"].values():
        assert [resolve(message) for message in channel["messages"].values()] == [MESSAGE, PIECE, CLAIM, WATERMARK]


def test_each_channel_is_published_by_one_operation():
    published = [resolve(operation["channel"])["address"] for operation in DOCUMENT["operations"].values()]
    assert sorted(published) == sorted(topics.TOPICS)
    assert {operation["action"] for operation in DOCUMENT["operations"].values()} == {"send"}


def test_the_topics_are_made_as_documented():
    settings = admin._topic_settings()
    for channel in DOCUMENT["channels"].values():
        documented = channel["bindings"]["kafka"]
        assert documented["partitions"] == topics.PARTITIONS
        values = {
            name: ",".join(value) if isinstance(value, list) else str(value)
            for name, value in documented["topicConfiguration"].items()
        }
        assert values == settings
    assert MAX_MESSAGE_BYTES == MAX_REQUEST_BYTES


def test_the_headers_are_those_of_the_codec():
    assert tuple(HEADERS["required"]) == codec.REQUIRED_HEADERS
    assert tuple(HEADERS["properties"]) == codec.REQUIRED_HEADERS + codec.OPTIONAL_HEADERS
    assert MESSAGE["contentType"] == DOCUMENT["defaultContentType"] == codec.CONTENT_TYPE


def test_sources_types_and_shards_are_those_of_the_code():
    properties = HEADERS["properties"]
    assert properties["ce_source"]["enum"] == [f"/kap/{source}" for source in topics.SOURCES]
    assert properties["ce_type"]["enum"] == [f"org.kap-exchange.fhir.{one}.v1" for one in get_args(Interaction)]
    fits = [number for number in range(100) if re.search(properties["ce_shard"]["pattern"], str(number))]
    assert fits == list(range(SHARDS))


@pytest.mark.parametrize(
    "event",
    [EVENT, replace(EVENT, interaction="delete", labels=(), request_id=None, traceparent=None)],
    ids=["full", "bare"],
)
def test_what_is_sent_fits_the_document(event):
    record = codec.encode(event)
    assert_headers_fit({name: value.decode() for name, value in record.headers})
    assert re.search(MESSAGE["bindings"]["kafka"]["key"]["pattern"], record.key.decode())
    assert set(RESOURCE["required"]) <= set(json.loads(record.value))


def test_a_watermark_fits_the_document_and_never_says_too_much():
    until = datetime(2026, 11, 22, 9, 30, 0, 5999, UTC)
    record = watermark.encode(watermark.Watermark("sessions", 15, until))
    assert_headers_fit({name: value.decode() for name, value in record.headers}, OF_WATERMARKS)
    assert tuple(OF_WATERMARKS["properties"]) == watermark.HEADERS == tuple(name for name, _ in record.headers)
    assert re.search(WATERMARK["bindings"]["kafka"]["key"]["pattern"], record.key.decode())
    assert json.loads(record.value) == {"shard": 15, "until": "2026-11-22T09:30:00.005Z"}
    assert watermark.decode(record.headers) == watermark.Watermark("sessions", 15, until.replace(microsecond=5000))
    assert OF_WATERMARKS["properties"]["ce_source"]["enum"] == HEADERS["properties"]["ce_source"]["enum"]
    assert f"{relay.WATERMARK_SECONDS:.0f} seconds each shard" in DOCUMENT["info"]["description"]


@pytest.mark.parametrize("replay", [None, "gateway"])
def test_pieces_and_the_claim_on_them_fit_the_document(replay):
    large = replace(EVENT, body=b"x" * (topics.MAX_EVENT_BODY_BYTES + 1), replay=replay)
    *pieces, claim = claims.records_of(large)
    assert len(pieces) == 8
    for piece in pieces:
        assert_headers_fit({name: value.decode() for name, value in piece.headers}, OF_PIECES)
        assert re.search(PIECE["bindings"]["kafka"]["key"]["pattern"], piece.key.decode())
    assert_headers_fit({name: value.decode() for name, value in claim.headers}, OF_CLAIMS)
    schema = DOCUMENT["components"]["schemas"]["claim"]
    value = json.loads(claim.value)
    assert set(value) == set(schema["required"]) == set(schema["properties"])
    assert re.search(schema["properties"]["sha256"]["pattern"], value["sha256"])
    assert tuple(OF_PIECES["required"]) == claims.REQUIRED_HEADERS
    assert tuple(OF_PIECES["properties"]) == claims.REQUIRED_HEADERS + claims.OPTIONAL_HEADERS
    assert tuple(OF_CLAIMS["required"]) == (*codec.REQUIRED_HEADERS, codec.DATAREF)
    assert f"({topics.MAX_EVENT_BODY_BYTES / 2**20} MiB)" in DOCUMENT["info"]["description"]


def test_the_examples_of_a_piece_and_a_claim_can_be_read():
    for message, headers in ((PIECE, OF_PIECES), (CLAIM, OF_CLAIMS)):
        assert_headers_fit(message["examples"][0]["headers"], headers)
    piece = claims.piece_of(b"x", [(name, value.encode()) for name, value in PIECE["examples"][0]["headers"].items()])
    assert (piece.number, piece.event_id.count("/")) == (3, 2)
    example = CLAIM["examples"][0]
    headers = [(name, value.encode()) for name, value in example["headers"].items()]
    event = codec.decode(b"Patient/1", json.dumps(example["payload"]).encode(), headers)
    assert codec.encode(event).headers == headers


def test_a_change_is_no_watermark():
    assert watermark.decode(codec.encode(EVENT).headers) is None


def test_the_example_of_a_watermark_can_be_read():
    example = WATERMARK["examples"][0]
    assert_headers_fit(example["headers"], OF_WATERMARKS)
    read = watermark.decode([(name, value.encode()) for name, value in example["headers"].items()])
    assert read is not None
    record = watermark.encode(read)
    assert (dict(record.headers), json.loads(record.value)) == (
        {name: value.encode() for name, value in example["headers"].items()},
        example["payload"],
    )


def test_the_example_can_be_read():
    example = MESSAGE["examples"][0]
    assert_headers_fit(example["headers"])
    body = json.dumps(example["payload"]).encode()
    headers = [(name, value.encode()) for name, value in example["headers"].items()]
    event = codec.decode(b"Patient/1", body, headers)
    assert [(name, value) for name, value in codec.encode(event).headers] == headers


def test_every_reference_in_the_document_leads_somewhere():
    def walk(node: Any) -> None:
        if isinstance(node, dict):
            if set(node) == {"$ref"}:
                assert resolve(node)
            for child in node.values():
                walk(child)
        elif isinstance(node, list):
            for child in node:
                walk(child)

    walk(DOCUMENT)


def test_the_page_for_people_is_rendered_from_the_document():
    spec = importlib.util.spec_from_file_location("render_asyncapi", ROOT / "tools" / "render_asyncapi.py")
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    said = "docs/events.md is not what tools/render_asyncapi.py makes of docs/asyncapi.yaml. Run it."
    assert (ROOT / "docs" / "events.md").read_text("utf-8") == tool.rendered(DOCUMENT), said
