"""JSON whose text is kept: Dify's outputs are stored as they came, digit by digit.

orjson reads integers beyond 64 bits as floats and refuses lone surrogates; re-serialising changes `1.50` and key order
of duplicates. So the text of a member is cut out of the message instead of being made again.
"""

from __future__ import annotations

import json
import re
from json.decoder import JSONDecoder
from json.decoder import scanstring as _scan  # type: ignore[attr-defined]
from typing import Any

import orjson

_SPACE = re.compile(r"[ \t\n\r]*")
_DECODER = JSONDecoder()


def read_json(data: bytes | str) -> Any:
    """Any JSON that Python can read; ValueError where it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        return json.loads(data)


def member_text(text: str, *path: str) -> str | None:
    """The JSON text of a member of nested objects, or None where there is none. `text` must be valid JSON."""
    start = 0
    for key in path:
        found = _find(text, _skip(text, start), key)
        if found is None:
            return None
        start, end = found
    return text[start:end] if path else text


def _skip(text: str, index: int) -> int:
    match = _SPACE.match(text, index)
    return match.end() if match else index


def _find(text: str, index: int, wanted: str) -> tuple[int, int] | None:
    """Start and end of the last member `wanted` of the object at `index` (the last one counts, as for any parser)."""
    if text[index] != "{":
        return None
    found = None
    index = _skip(text, index + 1)
    while text[index] == '"':
        key, index = _scan(text, index + 1, True)
        start = _skip(text, _skip(text, index) + 1)
        _, end = _DECODER.raw_decode(text, start)
        if key == wanted:
            found = (start, end)
        index = _skip(text, end)
        if text[index] != ",":
            break
        index = _skip(text, index + 1)
    return found
