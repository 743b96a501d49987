"""The narrative of a resource: an XHTML fragment without anything that acts (rules txt-1 and txt-2).

Only the elements and attributes that FHIR lists may occur, so what is shown of a narrative cannot run a script, load a
frame or post a form.

Source: https://hl7.org/fhir/R4/narrative.html#security
"""

from __future__ import annotations

import re
from html.entities import html5
from typing import Final
from xml.parsers import expat

XHTML: Final = "http://www.w3.org/1999/xhtml"

_ELEMENTS: Final = frozenset(
    [
        "h1",
        "h2",
        "h3",
        "h4",
        "h5",
        "h6",
        "div",
        "p",
        "ul",
        "ol",
        "li",
        "dl",
        "dt",
        "dd",
        "table",
        "caption",
        "thead",
        "tbody",
        "tfoot",
        "tr",
        "th",
        "td",
        "col",
        "colgroup",
        "b",
        "i",
        "u",
        "s",
        "strong",
        "em",
        "small",
        "big",
        "tt",
        "dfn",
        "code",
        "samp",
        "kbd",
        "var",
        "cite",
        "abbr",
        "acronym",
        "q",
        "blockquote",
        "sub",
        "sup",
        "ins",
        "del",
        "address",
        "a",
        "img",
        "br",
        "hr",
        "span",
        "pre",
        "map",
        "area",
        "bdo",
    ]
)
_ATTRIBUTES: Final = frozenset(
    [
        "title",
        "style",
        "class",
        "id",
        "lang",
        "xml:lang",
        "dir",
        "accesskey",
        "tabindex",
        "span",
        "width",
        "align",
        "valign",
        "char",
        "charoff",
        "abbr",
        "axis",
        "headers",
        "scope",
        "rowspan",
        "colspan",
        "border",
        "frame",
        "rules",
        "cellpadding",
        "cellspacing",
        "summary",
        "name",
        "href",
        "src",
        "alt",
        "longdesc",
        "height",
        "usemap",
        "ismap",
        "shape",
        "coords",
        "cite",
        "datetime",
        "type",
        "start",
        "value",
        "compact",
        "rel",
        "rev",
        "charset",
        "hreflang",
        "nohref",
        "bgcolor",
        "nowrap",
        "size",
        "noshade",
        "clear",
        "xmlns",
    ]
)
_ENTITY: Final = re.compile(r"&([A-Za-z][A-Za-z0-9]*);")
_XML_ENTITIES: Final = frozenset({"amp", "lt", "gt", "quot", "apos"})
_UNSAFE_LINK: Final = re.compile(r"[\s\x00-\x1f]*(?:javascript|vbscript|data(?!:image/))[\s\x00-\x1f]*:", re.IGNORECASE)


class _RefusedError(Exception):
    """The fragment breaks a rule; the message says which."""


def _numeric(match: re.Match[str]) -> str:
    """Return a named entity of HTML as characters XML knows; JSON carries them, and XML has only five by name."""
    name = match[1]
    if name in _XML_ENTITIES or f"{name};" not in html5:
        return match[0]
    return "".join(f"&#{ord(character)};" for character in html5[f"{name};"])


def check_narrative(text: str) -> str | None:
    """Return None where `text` is a narrative FHIR allows, else what is wrong with it."""
    if "<!" in text.replace("<!--", "") or "<?" in text:
        return "holds a declaration or processing instruction"
    depth = 0
    content = False

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, content
        if depth == 0 and (name != "div" or attributes.get("xmlns", XHTML) != XHTML):
            what = "must be one <div> of XHTML"
            raise _RefusedError(what)
        if name not in _ELEMENTS:
            what = f"holds the element <{name}>, which a narrative may not (rule txt-1)"
            raise _RefusedError(what)
        for attribute, value in attributes.items():
            if attribute not in _ATTRIBUTES and not attribute.startswith("xmlns:"):
                what = f"holds the attribute {attribute}, which a narrative may not (rule txt-1)"
                raise _RefusedError(what)
            if attribute in {"href", "src"} and _UNSAFE_LINK.match(value) is not None:
                what = "holds a link that acts (rule txt-1)"
                raise _RefusedError(what)
        content = content or name == "img"
        depth += 1

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    def characters(data: str) -> None:
        nonlocal content
        content = content or bool(data.strip())

    parser = expat.ParserCreate()
    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = characters
    try:
        parser.Parse(_ENTITY.sub(_numeric, text).encode("utf-8"), True)  # noqa: FBT003 - expat takes it by position
    except expat.ExpatError as error:
        return f"is not well-formed XHTML: {expat.ErrorString(error.code)} at line {error.lineno}"
    except _RefusedError as refusal:
        return str(refusal)
    return None if content else "has no content (rule txt-2)"
