"""JSON whose text is kept: Dify's outputs are stored as they came, digit by digit.

orjson reads integers beyond 64 bits as floats and refuses lone surrogates; re-serialising changes `1.50` and key order
of duplicates. So the text of a member is cut out of the message instead of being made again.
"""

from __future__ import annotations

import json
import re
from json.decoder import JSONDecoder
from typing import Any

import orjson

_SPACE = re.compile(r"[ \t\n\r]*")
# The comma before it, a key, the colon: everything up to a member's value.
_MEMBER = re.compile(r'[ \t\n\r]*,?[ \t\n\r]*"((?:[^"\\]|\\.)*)"[ \t\n\r]*:[ \t\n\r]*', re.DOTALL)
_MARK = re.compile(r'"(?:[^"\\]|\\.)*"|[{}\[\]]', re.DOTALL)
# Only where a value ends is asked of it: numbers of any length stay texts.
_DECODER = JSONDecoder(parse_int=str, parse_float=str)
# Python refuses to read integers of more than 4300 digits.
_LONGEST_INT = 4000


def read_json(data: bytes | str) -> Any:
    """Any JSON that Python can read; ValueError where it is none."""
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        return json.loads(data, parse_int=_read_int)
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _read_int(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INT else float(digits)


def clean_text(value: Any) -> str | None:
    """A text that can be stored: halves of a surrogate pair are joined, lone ones become U+FFFD. None for no text."""
    if value in (None, "", False):
        return None
    return str(value).encode("utf-16", "surrogatepass").decode("utf-16", "replace")


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
    found, index = None, index + 1
    while (member := _MEMBER.match(text, index)) is not None:
        start = member.end()
        index = _end(text, start)
        name = member.group(1)
        if (json.loads(f'"{name}"', strict=False) if "\\" in name else name) == wanted:
            found = (start, index)
    return found


def _end(text: str, start: int) -> int:
    """Where the value at `start` ends."""
    try:
        return _DECODER.raw_decode(text, start)[1]
    except RecursionError:
        return _end_of_deep(text, start)


def _end_of_deep(text: str, start: int) -> int:
    """The same for an array or object that is nested deeper than Python's own parser goes, but not orjson's."""
    depth, end = 0, start
    for mark in _MARK.finditer(text, start):
        end = mark.end()
        depth += {"[": 1, "{": 1, "]": -1, "}": -1}.get(mark[0], 0)
        if depth == 0:
            break
    return end
