"""Text made comparable: a search by string ignores case, accents and white space.

Source: https://hl7.org/fhir/R4/search.html#string
"""

from __future__ import annotations

import re
import unicodedata

_MARKS = re.compile(r"[\u0300-\u036f\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f]+")


def fold(text: str) -> str:
    """Return `text` without case, accents and doubled white space; folding twice changes nothing."""
    if text.isascii():
        return " ".join(text.lower().split())
    bare = _MARKS.sub("", unicodedata.normalize("NFKD", text).casefold())
    # Case folding can bring marks and compositions back (U+0130, U+1E9E ...), so once more until it is stable.
    again = _MARKS.sub("", unicodedata.normalize("NFKD", bare).casefold())
    return " ".join(again.split())
