"""Writes docs/events.md from docs/asyncapi.yaml, for people: ``.venv/bin/python tools/render_asyncapi.py``.

A test renders it again and compares.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

DOCS = Path(__file__).resolve().parents[1] / "docs"
SOURCE = DOCS / "asyncapi.yaml"
TARGET = DOCS / "events.md"


def rendered(document: dict[str, Any]) -> str:
    """Return the document as Markdown."""
    return "\n".join(_lines(document)).rstrip() + "\n"


def _lines(document: dict[str, Any]) -> Iterator[str]:
    yield f"# {document['info']['title']}"
    yield ""
    yield "Rendered from [asyncapi.yaml](asyncapi.yaml) by `tools/render_asyncapi.py`; change that one."
    yield ""
    yield document["info"]["description"].rstrip()
    yield ""
    yield "## Topics"
    yield ""
    yield "| topic | holds | partitions | kept |"
    yield "|---|---|---|---|"
    for channel in document["channels"].values():
        kafka = channel["bindings"]["kafka"]
        days = kafka["topicConfiguration"]["retention.ms"] // 86_400_000
        yield f"| `{channel['address']}` | {channel['description']} | {kafka['partitions']} | {days} days |"
    schemas = document["components"]["schemas"]
    for message in document["components"]["messages"].values():
        yield ""
        yield f"## {message['title']}"
        yield ""
        yield message["summary"]
        yield ""
        yield f"Key: {message['bindings']['kafka']['key']['description']}"
        yield ""
        yield "| header | | what | form |"
        yield "|---|---|---|---|"
        headers = schemas[message["headers"]["$ref"].rpartition("/")[2]]
        for name, schema in headers["properties"].items():
            must = "required" if name in headers["required"] else "optional"
            yield f"| `{name}` | {must} | {schema.get('description', '')} | {_form(schema)} |"
        for example in message["examples"]:
            yield ""
            yield f"{example['name']}:"
            yield ""
            yield "```"
            yield from (f"{name}: {value}" for name, value in example["headers"].items())
            yield "```"


def _form(schema: dict[str, Any]) -> str:
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    pattern = schema.get("pattern", "").replace("|", "\\|")
    return f"`{pattern}`" if pattern else ""


if __name__ == "__main__":
    TARGET.write_text(rendered(yaml.safe_load(SOURCE.read_text(encoding="utf-8"))), encoding="utf-8")
