"""The examples of docs/fhir-api.md, in their order: each request is sent, and its answer holds what stands under it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

PAGE = Path(__file__).resolve().parents[3] / "docs" / "fhir-api.md"
BLOCK = re.compile(r"```http\n(.*?)\n?```", re.DOTALL)
NAMED = re.compile(r"\{([a-z]+)\}")


def parts(block: str) -> tuple[str, dict[str, str], str]:
    """Return the first line, the headers and the body of a block."""
    head, _, body = block.partition("\n\n")
    first, *lines = head.split("\n")
    return first, dict(line.split(": ", 1) for line in lines), body


def holds(said: Any, told: Any, known: dict[str, str], where: str = "") -> None:
    """Hold an answer to what the page says of it: members and entries in their order, and what has a name is learnt."""
    if isinstance(said, dict):
        assert isinstance(told, dict), where
        for name, value in said.items():
            assert name in told, f"{where}.{name}"
            holds(value, told[name], known, f"{where}.{name}")
    elif isinstance(said, list):
        assert isinstance(told, list), where
        assert len(told) >= len(said), (where, told)
        for position, value in enumerate(said):
            holds(value, told[position], known, f"{where}[{position}]")
    elif isinstance(said, str) and (named := NAMED.search(said)) is not None and named[1] not in known:
        found = re.fullmatch(re.escape(said).replace(re.escape(named[0]), "(.+)"), str(told))
        assert found is not None, (where, said, told)
        known[named[1]] = found[1]
    else:
        assert (NAMED.sub(lambda one: known[one[1]], said) if isinstance(said, str) else said) == told, where


async def test_every_example_of_the_page_answers_as_it_says(stack):
    blocks = [parts(block) for block in BLOCK.findall(PAGE.read_text("utf-8"))]
    known: dict[str, str] = {}

    def filled(text: str) -> str:
        return NAMED.sub(lambda one: known.get(one[1], one[0]), text)

    pairs = list(zip(blocks[::2], blocks[1::2], strict=True))
    assert len(pairs) > 10
    for (line, headers, body), (status, answered, expected) in pairs:
        method, path = filled(line).split(" ", 1)
        answer = await stack.http.request(method, path, headers=headers, content=filled(body).encode() or None)
        assert str(answer.status_code) == status, (line, answer.text)
        holds(answered, {name: answer.headers.get(name, "") for name in answered}, known, line)
        if expected:
            holds(json.loads(expected), answer.json(), known, line)
